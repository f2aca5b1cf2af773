"""The model card of a promoted model, as Markdown with hub metadata: results, configuration and provenance."""

from __future__ import annotations

import re
from typing import Any

import yaml

from scalesweep.errors import counted
from scalesweep.promotion.summary import signed
from scalesweep.report import words
from scalesweep.spec.space import ADAPTERS
from scalesweep.spec.tasks import TASKS


def code(text: str) -> str:
    """Return a text as inline code, so that no character of a user's name is Markdown."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    gap = " " if "`" in text else ""
    return f"{fence}{gap}{' '.join(text.split())}{gap}{fence}"


def _published(place: str) -> str:
    """The last part of an absolute path: a card is published, and folders of a machine mean nothing elsewhere."""
    return place.rpartition("/")[2] if place.startswith("/") else place


def model_card(provenance: dict[str, Any]) -> str:
    """Return the text of the model's `README.md`. `provenance` is the content of `provenance.json`."""
    final, trial, data = provenance["final_run"], provenance["trial"], provenance["data"]
    task = TASKS[provenance["task"]].pipeline
    base = provenance["base_model"]
    tags = ["scalesweep", *({final["config"].get("adapter", "none")} - {"none"})]
    header = {"library_name": "transformers", "pipeline_tag": task, "tags": tags}
    bar = "\\|"  # in a table's cell, also within code
    layers = f", lowest {base['layers']} block{'s' * (base['layers'] != 1)}" if base["layers"] else ""
    reads = (
        "Evaluated once"
        if provenance["test_reads"] == 1
        else f"Evaluated {provenance['test_reads']} times, each time after another run"
    )
    searched = ", ".join(f"`{name}`" for name in trial["params"])
    chooser = "The user chose" if trial.get("named") else "The search chose"
    written = data["source"]["path"]
    files = [written] if isinstance(written, str) else [*written.values()]
    source = ", ".join(map(_published, files))
    unit = final["config"]["time_attr"].replace("_", " ").replace("gpu", "GPU")
    workers = f"{final['workers']} worker" + "s" * (final["workers"] != 1)
    learnt = " + ".join(final["train_on"])
    errors = {name: f" ± {words.score(error)}" for name, error in provenance.get("test_standard_errors", {}).items()}
    test = "\n".join(
        f"| {name.removeprefix('eval_')} | {words.score(value)}{errors.get(name, '')} |"
        for name, value in provenance["test"].items()
    )
    validation = "\n".join(
        f"| {name.removeprefix('eval_')} | {words.score(value)} |" for name, value in trial["validation"].items()
    )
    config = "\n".join(
        f"| `{name}` | {code(str(value)).replace('|', bar)} |" for name, value in final["config"].items() if value is not None
    )
    classes = (
        f"\nClasses, in the order of the logits: {', '.join(code(str(name)) for name in data['classes'])}.\n"
        if data["classes"]
        else ""
    )
    adapter = _adapter(provenance)
    sessions = f", in {final['sessions']} sessions" if final["sessions"] > 1 else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {provenance["sweep"]["name"]}: {code(final["config"]["model_size"])}

{code(_published(base["model"]))}{layers} ({provenance["n_params"]:,} parameters), fine-tuned for {provenance["task"]} on {code(source)}.
{chooser} this configuration from a sweep over {searched}: it is trial {trial["name"]}, which reached rung
{trial["rung"]} of {trial["rungs"]}.
{classes}{adapter}
## Test split

{reads}, after the end of training.{" ± is the standard error." * bool(errors)}

| metric | value |
|---|---|
{test}

## Validation split, during the sweep

Values of the trial in the sweep, which trained on the train split alone, up to {trial["fidelity"]:,} {unit}.

| metric | value |
|---|---|
{validation}
{_confirmation(provenance)}
## Training

Trained on {learnt}: {counted(final["steps"], "step")}, {counted(final["tokens"], "token")}, {final["flops"]:.3g} FLOPs,
{final["wall_seconds"]:.0f} s on {workers}{sessions}. Length: {final["length"]}.

| setting | value |
|---|---|
{config}

`provenance.json` holds the data fingerprint, package versions and seeds that reproduce this run.
"""


def _adapter(provenance: dict[str, Any]) -> str:
    """Return the paragraph about the adapter; empty without one."""
    config = provenance["final_run"]["config"]
    if config.get("adapter", "none") == "none":
        return ""
    layers = provenance["base_model"]["layers"]
    cut = f", loaded with `num_hidden_layers={layers}`" if layers else ""
    if ADAPTERS[config["adapter"]].four_bits:
        cut += ", in 4 bits as it was trained (NF4 with double quantization)"
    return f"""
An adapter of rank {config["lora_rank"]} was trained ({config["adapter"]}). It is merged into the weights of this folder, which
load with plain transformers. The adapter alone is in `adapter/`. peft loads it over the base model{cut}:
`PeftModel.from_pretrained(base, "adapter")`.
"""


def _confirmation(provenance: dict[str, Any]) -> str:
    """Return the section about the confirmation; empty without one."""
    found = provenance.get("confirmation", [])
    if not found:
        return ""
    rows = []
    for one in found:
        half = "" if one["half_width"] is None else f" ± {words.score(one['half_width'])}"
        cells = (
            words.score(one["sweep"]),
            str(len(one["new_seeds"])),
            f"{words.score(one['confirmed'])}{half}",
            signed(one["gap"]),
        )
        rows.append(f"| {one['trial']} | " + " | ".join(cells) + " |")
    table = "\n".join(rows)
    return f"""
## Confirmed on new seeds

Before the choice, the leading configurations were trained again with new seeds. The value in the sweep is that of a lucky seed
among many. The confirmed one is the mean of the new seeds with its 95 % interval, and the gap is their difference.

| trial | {provenance["metric"]["name"].removeprefix("eval_")} in the sweep | new seeds | confirmed | gap |
|---|---|---|---|---|
{table}
"""
