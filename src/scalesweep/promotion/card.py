"""The model card of a promoted model: numbers, config and where they come from, as Markdown with hub metadata."""

from __future__ import annotations

from typing import Any

import yaml


def model_card(provenance: dict[str, Any]) -> str:
    """Markdown for `README.md`; `provenance` is what `provenance.json` holds."""
    final, trial, data = provenance["final_run"], provenance["trial"], provenance["data"]
    task = "text-classification" if provenance["task"] == "sequence-classification" else "text-generation"
    base = provenance["base_model"]
    header = {"library_name": "transformers", "pipeline_tag": task, "tags": ["scalesweep"]}
    layers = f", lowest {base['layers']} blocks" if base["layers"] else ""
    reads = "Read once" if provenance["test_reads"] == 1 else f"Read {provenance['test_reads']} times, each time"
    learnt = " + ".join(final["train_on"])
    test = "\n".join(f"| {name.removeprefix('eval_')} | {value:.4f} |" for name, value in provenance["test"].items())
    validation = "\n".join(f"| {name.removeprefix('eval_')} | {value:.4f} |" for name, value in trial["validation"].items())
    config = "\n".join(f"| `{name}` | {value} |" for name, value in final["config"].items() if value is not None)
    classes = f"\nClasses, in the order of the logits: {', '.join(map(str, data['classes']))}.\n" if data["classes"] else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {provenance["sweep"]["name"]}: {final["config"]["model_size"]}

{base["model"]}{layers} ({provenance["n_params"]:,} parameters), fine-tuned for {provenance["task"]} on `{data["source"]["path"]}`.
Chosen by a joint sweep over model size, GPU count, unfreezing, schedule and regularization; promoted from trial
{trial["name"]}, which was judged at rung {trial["rung"]} of {trial["rungs"]}.
{classes}
## Test split

{reads}, after training had ended.

| metric | value |
|---|---|
{test}

## Validation split, during the sweep

The trial's values when it was chosen (trained on the train split alone, to {trial["fidelity"]:,}).

| metric | value |
|---|---|
{validation}

## Training

Learnt from {learnt}: {final["steps"]:,} steps, {final["tokens"]:,} tokens, {final["flops"]:.3g} FLOPs,
{final["wall_seconds"]:.0f} s on {final["workers"]} worker(s).

| setting | value |
|---|---|
{config}

`provenance.json` holds the data fingerprint, package versions and seeds that reproduce this run.
"""
