"""The output of `scalesweep plan`: the checked sweep and its maximum cost."""

from __future__ import annotations

from functools import partial
from typing import Any

from scalesweep.errors import counted
from scalesweep.report import terminal, words
from scalesweep.report.terminal import headed, print_labelled
from scalesweep.spec import SweepSpec
from scalesweep.spec.configurations import listed_again
from scalesweep.spec.tasks import TASKS

CLASSES = 12  # named at most
EXAMPLE = 800  # characters shown at most


def print_plan(spec: SweepSpec, plan: dict[str, Any]) -> None:
    """Print a plan (`Plan.as_json()`) to stdout."""
    from rich.table import Table

    console, early = terminal.console(width=terminal.page_width()), spec.early_terminate
    console.print(headed(spec.name, f"  {spec.task}, {plan['metric']['goal']} {spec.metric.name}\n"))

    ladder = Table(title="ladder", title_justify="left", box=None, pad_edge=False)
    for column in ("size", "model"):
        ladder.add_column(column, overflow="fold")
    for column in ("blocks", "hidden", "parameters", "embeddings", "least\nGPUs"):
        ladder.add_column(column, justify="right", no_wrap=True)  # half a number would read as another one
    for size, entry in zip(plan["ladder"], spec.sizes(), strict=True):
        counts = (f"{size['n_params']:,}", f"{size['n_params_embedding']:,}")
        ladder.add_row(
            size["name"], entry.model, str(size["n_layers"]), str(size["hidden_size"]), *counts, str(size["min_gpus"])
        )
    console.print(ladder)
    for note in plan["ladder_notes"]:
        console.print(note, style="dim")
    if plan["hopeless"]:
        modes: dict[str, list[str]] = {}
        for size, mode, *rest in plan["hopeless"]:
            rank, share = rest + [0, 1][len(rest) :]
            ranked = f"{mode} from lora_rank {rank} on" if rank else mode
            modes.setdefault(size, []).append(f"{ranked} with num_gpus of {share} or less" if share < 1 else ranked)
        listed = "; ".join(f"{size} {', '.join(names)}" for size, names in modes.items())
        memory = f"{spec.resources.gpu_memory_gib:g} GiB"
        console.print(f"never tried, they need more than the {memory} of a GPU: {listed}", style="dim")

    space = Table(title="\nsearch space", title_justify="left", box=None, pad_edge=False)
    space.add_column("parameter", no_wrap=True)
    for column in ("values", "when"):
        space.add_column(column, overflow="fold")
    for name, parameter in spec.search_space.ordered():
        wanted = {other: v if isinstance(v, list) else [v] for other, v in parameter.when.items()}
        when = ", ".join(f"{other} is {' or '.join(map(str, values))}" for other, values in wanted.items())
        space.add_row(name, parameter.describe(), when)
    console.print(space)
    if (held := plan["configurations"]) is not None:
        again = listed_again(spec)
        but = f", but for {again:,} of search.points_to_evaluate" if again else ""
        most = held + again
        beyond = f", so the sweep ends after {most:,}, below its run_cap" if most < (spec.budget.run_cap or 0) else ""
        console.print(f"the space holds {counted(held, 'configuration')}; none is trained twice{but}{beyond}", style="dim")
    if points := spec.search.points_to_evaluate:
        again = listed_again(spec, whole=True) if held is None else 0  # else they are counted above
        same = f"; {again:,} of them train{'s' * (again == 1)} the same as an earlier one" if again else ""
        console.print(f"tried first: {counted(len(points), 'point')} of search.points_to_evaluate{same}", style="dim")
    fixed = ", ".join(f"{name} {value}" for name, value in plan["defaults"].items() if value is not None)
    console.print(f"not searched, at their defaults: {fixed}", style="dim")

    levels = " → ".join(map(words.level, plan["rungs"]["levels"])) or "none"
    ends = words.level(early.max_t)
    labelled = partial(print_labelled, console)
    console.print()
    labelled("rungs", f"{levels} {words.unit(early.time_attr)}; a trial ends at {ends}")
    if plan["rungs"]["levels"]:
        more = ", and more where its order differs from that at the end"
        grows = (early.survival, early.variant) == ("forecast", "promotion")
        labelled("", f"about one of {early.reduction_factor:g} trials passes each rung{more if grows else ''}")
    labelled("data", "\n".join(_data_lines(plan["data"], TASKS[spec.task].rows)))
    for note in plan["data"]["notes"]:
        labelled("", note, "dim")
    if counts := plan["data"]["splits"]["train"].get("classes"):
        labelled("classes", _class_shares(counts))
    if plan["data"]["example"]:
        labelled("example", _example(plan["data"]["example"]))
        labelled("", "an example of train; its learnt parts are in ⟦ ⟧", "dim")
    labelled("epoch", "\n".join(_epoch_line(epoch, plan["data"]["splits"]["train"]["examples"]) for epoch in plan["epochs"]))
    if plan["packing"] is not None:
        labelled("packed", _packing_line(plan["packing"]))
    guessed = plan["baseline"]["metrics"]
    shown = ", ".join(f"{name} {words.score(guessed[name])}" for name in words.guessed_metrics(guessed, spec.metric.name))
    if shown:  # a function of the user's may have no value for guesses
        labelled("guess", f"{shown}: the score of guessing from {plan['baseline']['guess']}, which a trial must beat")
    labelled("cost", f"at most {_cost_line(plan['cost_at_most'])}")
    if (hours := plan["hours_at_most"]) and plan["cost_at_most"]["gpu_hours"] is None:
        speed = f"{hours['flops_per_second']:.2g} FLOPs per second of a worker ({hours['source']})"
        labelled("hours", f"at most {hours['gpu_hours']:.2g} GPU hours of training at {speed}")


def _data_lines(data: dict[str, Any], rows: str) -> list[str]:
    splits = data["splits"].items()
    if data["classes"]:
        listed = ", ".join(f"{name} {split['rows']:,}" for name, split in splits)
        return [f"{listed} examples; {data['tokens_per_example']:.1f} tokens each"]
    return [
        f"{name} {counted(split['rows'], rows.removesuffix('s'))}, {counted(split['examples'], 'example')}, "
        f"{counted(split['tokens'], 'token')}"
        for name, split in splits
    ]


def _example(parts: list[dict[str, Any]]) -> str:
    """An example with its learnt parts in brackets, cut to a few lines."""
    shown = [(f"⟦{part['text']}⟧" if part["learnt"] else part["text"]) for part in parts]
    text = "".join(shown)
    return text if len(text) <= EXAMPLE else f"{text[:EXAMPLE]} …"


def _class_shares(counts: dict[str, int]) -> str:
    """The classes of the train split by their number of rows; of many classes the largest and the smallest."""
    total = sum(counts.values())
    ordered = sorted(counts, key=lambda name: -counts[name])
    plain = {name: name if name == name.strip() and name.isprintable() else repr(name) for name in ordered}
    shown = [f"{plain[name]} {counts[name]:,} ({counts[name] / total:.0%})" for name in ordered]
    if len(shown) > CLASSES:
        shown = [*shown[: CLASSES - 1], f"… {len(shown) - CLASSES:,} more …", shown[-1]]
    return f"{', '.join(shown)} of train"


def _packing_line(packing: dict[str, float]) -> str:
    first = f"the first {packing['batches']:,} batches"
    if not packing["packed"]:
        return f"none of {first}: too little padding to save"
    saved = f"{packing['packed']:,} of {first}, which saves {packing['saved']:.0%} of their tokens and padding"
    return f"{saved}; a probe of the trial's model decides at the first of them"


def _epoch_line(epoch: dict[str, Any], examples: int) -> str:
    batch = epoch["global_batch_size"]
    most = f"all {counted(examples, 'example')}, fewer than global_batch_size ({batch:,})"
    line = f"{counted(epoch['steps'], 'step')} of {counted(batch, 'example') if batch <= examples else most}"
    return line if epoch["max_t"] is None else f"{line}; a trial ends after {epoch['max_t']:.3g} epochs"


def _cost_line(cost: dict[str, Any]) -> str:
    shown = {
        "trials": "{:,} trials",
        "tokens": "{:.3g} tokens",
        "flops": "{:.3g} FLOPs",
        "gpu_hours": "{:.3g} GPU hours",
        "dollars": "{:,.2f} dollars",
        "seconds": "{:,.0f} s of wall-clock",
    }
    return ", ".join(word.format(cost[key]) for key, word in shown.items() if cost[key] is not None)
