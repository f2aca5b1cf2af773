"""The model card of a promoted model, as Markdown with hub metadata: results, configuration and provenance."""

from __future__ import annotations

import re
from typing import Any

import yaml

from scalesweep.errors import counted
from scalesweep.promotion.limits import limits
from scalesweep.promotion.summary import cost_parts, energy, prediction, signed
from scalesweep.record import State
from scalesweep.report import words
from scalesweep.report.words import STATES
from scalesweep.spec.effects import in_effect
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


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # of a checkpoint; a local one is an absolute path


def model_card(provenance: dict[str, Any]) -> str:
    """Return the text of the model's `README.md`. `provenance` is the content of `provenance.json`."""
    final, trial, data = provenance["final_run"], provenance["trial"], provenance["data"]
    task = TASKS[provenance["task"]].pipeline
    base = provenance["base_model"]
    tags = ["scalesweep", *({final["config"].get("adapter", "none")} - {"none"})]
    header = {"library_name": "transformers", "pipeline_tag": task, "tags": tags}
    if HUB_ID.fullmatch(base["model"]):
        header["base_model"] = base["model"]
    bar = "\\|"  # in a table's cell, also within code
    layers = f", lowest {base['layers']} block{'s' * (base['layers'] != 1)}" if base["layers"] else ""
    reads = (
        "Evaluated once"
        if provenance["test_reads"] == 1
        else f"Evaluated {provenance['test_reads']} times, each time after another run"
    )
    written = data["source"]["path"]
    files = [written] if isinstance(written, str) else [*written.values()]
    source = ", ".join(map(_published, files))
    unit = final["config"]["time_attr"].replace("_", " ").replace("gpu", "GPU")
    workers = f"{final['workers']} worker" + "s" * (final["workers"] != 1)
    workers += {"": "", "cpu": " on a CPU"}.get(device := final.get("device", ""), f" on {device}")
    learnt = " + ".join(final["train_on"])
    rows = sum(int(split.get("rows") or 0) for name, split in (data.get("splits") or {}).items() if name in final["train_on"])
    learnt += f" ({counted(rows, 'row')})" if rows else ""
    errors = {name: f" ± {words.score(error)}" for name, error in provenance.get("test_standard_errors", {}).items()}
    test = "\n".join(
        f"| {name.removeprefix('eval_')} | {words.score(value)}{errors.get(name, '')} |"
        for name, value in provenance["test"].items()
    )
    guess = (provenance.get("baseline") or {}).get("metrics", {})
    validation = "\n".join(
        f"| {name.removeprefix('eval_')} | {words.score(value)} | {words.score(guess.get(name))} |"
        for name, value in trial["validation"].items()
    )
    effective = in_effect(final["config"], rehearses=bool(data["source"].get("earlier")))
    config = "\n".join(f"| `{name}` | {code(str(value)).replace('|', bar)} |" for name, value in effective.items())
    classes = (
        f"\nClasses, in the order of the logits: {', '.join(code(str(name)) for name in data['classes'])}.\n"
        if data["classes"]
        else ""
    )
    adapter = _adapter(provenance)
    limited = "\n".join(f"- {sentence}" for sentence in limits(provenance))
    sessions = f", in {final['sessions']} sessions" if final["sessions"] > 1 else ""
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {provenance["sweep"]["name"]}: {code(final["config"]["model_size"])}

{code(_published(base["model"]))}{layers} ({provenance["n_params"]:,} parameters), fine-tuned for {provenance["task"]} on {code(source)}.
{classes}{adapter}
## Test split

{reads}, after the end of training.{" ± is the standard error." * bool(errors)}

| metric | value |
|---|---|
{test}

{_prediction(provenance)}

## Validation split, during the sweep

Values of the trial in the sweep, which trained on the train split alone, up to {trial["fidelity"]:,} {unit}, and of guessing.

| metric | value | guessing |
|---|---|---|
{validation}

## Limits

{limited}

## How it was chosen

{_choice(provenance)}
{_confirmation(provenance)}{_ancestry(provenance)}
## Cost

{costs(provenance)}

## Training

Trained on {learnt}: {_lasted(final)},
{final["wall_seconds"]:.0f} s on {workers}{sessions}. Length: {final["length"]}.{_kept(final)}

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


def _ancestry(provenance: dict[str, Any]) -> str:
    """Return the section about the model that was adapted, and its ancestors; empty without one."""
    adapted = provenance.get("adapted")
    if adapted is None:
        return ""
    rows, metrics = [], adapted["new"]["before"]
    for metric in metrics:
        cells = [words.score(adapted[part][when].get(metric)) for part in ("new", "old") for when in ("before", "after")]
        rows.append(f"| {metric.removeprefix('eval_')} | " + " | ".join(cells) + " |")
    table, name = "\n".join(rows), adapted["metric"].removeprefix("eval_")
    gaps = []
    for part in ("new", "old"):
        gap, low, high = map(signed, adapted[part]["better_by"])
        gaps.append(f"{part} test split ({counted(adapted[part]['rows'], 'row')}): {gap}, 95 % interval {low} … {high}")
    chain, ancestor = [], adapted["from"]
    while ancestor is not None:
        source = ancestor["data"]["source"]["path"]
        files = ", ".join(map(_published, [source] if isinstance(source, str) else [*source.values()]))
        scored = ", ".join(f"{key.removeprefix('eval_')} {words.score(value)}" for key, value in ancestor["test"].items())
        trial, sweep = ancestor["trial"]["name"], ancestor["sweep"]["name"]
        chain.append(
            f"- trial {trial} of {sweep}, from {code(files)} (data {ancestor['data']['fingerprint'][:12]}): test {scored}"
        )
        ancestor = (ancestor.get("adapted") or {}).get("from")
    listed, margins = "\n".join(chain), adapted["margins"]
    return f"""
## Adapted from

This model continues the training of another one on new data. Its ancestors, the last one first, with their scores then:

{listed}

Both models on the same rows, before and after. The old test split is without the rows that chose among trials.

| metric | new: before | new: after | old: before | old: after |
|---|---|---|---|---|
{table}

Better in {name}: {"; ".join(gaps)}. It had to be better on new rows by more than {margins["better_by"]:g}, and could be worse on old
ones by at most {margins["worse_by"]:g}. Of each epoch's training examples, {provenance["final_run"]["config"]["rehearsal_share"]:.0%} were
old ones.
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


def _choice(provenance: dict[str, Any]) -> str:
    """The paragraph about the choice of the trial. An older provenance lacks most of it."""
    trial, told = provenance["trial"], provenance.get("chosen")
    searched = ", ".join(f"`{name}`" for name in trial["params"])
    where = f"Trial {trial['name']} reached rung {trial['rung']} of {trial['rungs']} in a sweep over {searched}."
    if not told:
        return where
    states = ", ".join(f"{count} {STATES[State(state)]}" for state, count in told["states"].items())
    text = f"{where} The sweep tried {counted(told['trials'], 'configuration')} ({states}) and ranked them {told['rule']}."
    place = f"which is number {told['rank']} of the ranking" if told["rank"] else "which the ranking leaves out"
    by = {
        "search": f"{trial['name']} was promoted as the first of the ranking.",
        "user": f"The user chose {trial['name']}, {place}.",
        "plan": f"A plan for a larger run chose the settings of {trial['name']}, {place}, with the changes of its target file.",
    }
    text = f"{text} {by[told['by']]}"
    ties = told["ties"]
    if ties is None:
        return f"{text} The record lacks the numbers that tell trials apart."
    if not ties:
        return f"{text} Every other trial can be told apart from the first on the same validation rows (95 %)."
    return (
        f"{text} {counted(len(ties), 'other trial')} can't be told apart from {told['first']}, the first, on the same validation rows "
        f"(95 %): {words.several(ties)}. The choice among them is luck as far as these rows show."
    )


def costs(provenance: dict[str, Any]) -> str:
    """The table of costs, and the sentence about energy."""
    told = provenance.get("spent")
    if not told:
        return "The costs were not recorded."
    rows = cost_parts(told)
    titles = [
        "GPU hours",
        *(["dollars"] if any(row[2] for row in rows) else []),
        *(["kWh"] if any(row[3] for row in rows) else []),
    ]
    used = [place for place in (1, 2, 3) if place == 1 or any(row[place] for row in rows)]
    table = "\n".join(f"| {row[0]} | " + " | ".join(row[place] or words.MISSING for place in used) + " |" for row in rows)
    return f"| part | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}\n{table}\n\nThe energy is {energy(told)}."


def _prediction(provenance: dict[str, Any]) -> str:
    text, reached = prediction(provenance)
    return f"Predicted: {text}. Reached: {reached}."


def _passed(final: dict[str, Any]) -> str:
    """The tokens and FLOPs that the model has passed; a checkpoint that was kept lacks those after it."""
    return f"{counted(final['tokens'], 'token')}, {final['flops']:.3g} FLOPs"


def _lasted(final: dict[str, Any]) -> str:
    kept = final.get("kept")
    return counted(kept["of"], "step") if kept else f"{counted(final['steps'], 'step')}, {_passed(final)}"


def _kept(final: dict[str, Any]) -> str:
    kept = final.get("kept")
    if not kept:
        return ""
    return (
        f"\nThe model is the checkpoint of step {kept['step']:,}, after {_passed(final)}: its {kept['metric']} on the validation "
        f"split, {words.score(kept['value'])}, was the best of all evaluations."
    )
