"""The output of `choose`: the plan before any compute, the ranking of checkpoints, and both as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from scalesweep.errors import counted
from scalesweep.report import terminal, words
from scalesweep.report.terminal import headed, print_labelled
from scalesweep.scaling.choice import Choice, Ranked

MOST = 0.5  # of the cost is worth a word


# ---- for programs -----------------------------------------------------------------------------------------------------------


def choice_json(choice: Choice, plan: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The choice as JSON data. `low` and `high` are the ends of a 90 % interval, null where nothing tells them."""
    head = {
        "source": choice.source,
        "metric": choice.metric,
        "goal": "maximize" if choice.maximize else "minimize",
        "examples": choice.whole,
        "trainings": choice.trainings,
        "missing": choice.missing,
        "gpu_seconds": choice.gpu_seconds,
        "notes": list(choice.notes),
        **({} if plan is None else {"plan": dict(plan)}),
    }
    if choice.refused:
        return {**head, "choice": None, "refused": {"reasons": list(choice.refused), "mend": choice.mend}}
    return {
        **head,
        "choice": choice.best.name,
        "tied": [one.name for one in choice.tied],
        "by_power_law": by_power_law(choice).name,
        "ranking": [
            {
                "checkpoint": one.name,
                "n_params": one.n_params,
                "value": one.predicted.value,
                "low": one.predicted.low,
                "high": one.predicted.high,
                "power_law": one.power,
                "tied": one.tied,
                "settings": dict(one.settings),
                "gpu_seconds": one.gpu_seconds,
                "subsets": [{"examples": size, "value": value} for size, value in one.subsets],
            }
            for one in choice.ranking
        ],
    }


def by_power_law(choice: Choice) -> Ranked:
    """The checkpoint that a plain power law would choose."""
    return (max if choice.maximize else min)(choice.ranking, key=lambda one: one.power)


# ---- the plan ---------------------------------------------------------------------------------------------------------------


def plan_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plan of a choice in labelled lines. `plan`: as `sweep.choosing.as_json` returns it."""
    names = ", ".join(f"{one['name']} ({words.count(one['n_params'])})" for one in plan["candidates"])
    sizes = ", ".join(f"{size:,}" for size in plan["subsets"])
    rates = ", ".join(f"{rate:.3g}" for rate in plan["learning_rates"])
    fixed = ", ".join(f"{name} {value}" for name, value in plan["fixed"].items())
    counts = (
        counted(len(plan["candidates"]), "checkpoint"),
        f"{len(plan['subsets'])} subsets",
        counted(len(plan["learning_rates"]), "learning rate"),
    )
    cost = f"about {plan['gpu_hours']:.2g} GPU hours, {plan['flops']:.2g} FLOPs"
    cost += f", {plan['dollars']:,.2f} dollars" if plan["dollars"] is not None else ""
    share = plan["gpu_hours"] / plan["gpu_hours_on_all_data"] if plan["gpu_hours_on_all_data"] else 0.0
    evaluates = plan["evaluation_share"] > MOST
    speed = f"{plan['speed']['flops_per_second']:.2g} FLOPs per second of a worker ({plan['speed']['source']})"
    return [
        ("compare", names),
        ("subsets", f"{sizes} of {plan['rows']:,} training rows, each part of the next; {_passes(plan)}"),
        ("rates", f"{rates}; the best of each subset counts"),
        *([("fixed", fixed)] if fixed else []),
        ("train", f"{plan['trainings']:,} times: {' × '.join(counts)}"),
        ("cost", f"{cost}: {share:.0%} of {plan['gpu_hours_on_all_data']:.2g} GPU hours for the same on all data"),
        *(
            [("", f"{plan['evaluation_share']:.0%} of it evaluates: a smaller validation split saves most")]
            if evaluates
            else []
        ),
        ("speed", speed),
    ]


def _passes(plan: Mapping[str, Any]) -> str:
    """'1 pass over each, 1 to 32 steps'."""
    passes, (first, *_, last) = f"{plan['passes']:.3g}", plan["steps"]
    return f"{passes} pass{'' if passes == '1' else 'es'} over each, {first:,} to {last:,} steps"


def print_choice_plan(plan: Mapping[str, Any], stderr: bool) -> None:
    """Print the plan of a choice."""
    page = terminal.console(width=terminal.page_width(), highlight=False, stderr=stderr)
    page.print(headed(plan["sweep"], f"  {plan['metric']} on all data, predicted from subsets\n"))
    labelled = partial(print_labelled, page)
    for label, text in plan_lines(plan):
        labelled(label, text)


# ---- the ranking ------------------------------------------------------------------------------------------------------------


def print_choice(choice: Choice) -> None:
    """Print the ranking to stdout, as wide as the terminal."""
    page = terminal.console(width=terminal.page_width(), highlight=False)
    trained = counted(choice.trainings, "training")
    page.print(headed(choice.metric, f" with all {choice.whole:,.0f} examples · {trained} · {choice.source}"))
    if choice.refused:
        page.print(f"no choice: {'; '.join(choice.refused)}")
        page.print(choice.mend)
    else:
        page.print(_table(choice))
        page.print()
        for line in sentences(choice):
            page.print(line)
    for note in choice.notes:
        page.print(note, style="dim")


def _table(choice: Choice) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    rated = any("learning_rate" in one.settings for one in choice.ranking)
    costs = any(one.gpu_seconds is not None for one in choice.ranking)
    sized = any(one.n_params is not None for one in choice.ranking)
    part = f"at 1/{choice.whole / choice.largest:.3g}\nof the data"
    table.add_column("\ncheckpoint")
    for head, shown in (
        ("\nparameters", sized),
        ("predicted\nwith all data", True),
        ("\n90 % interval", True),
        ("plain\npower law", True),
        (part, True),
        ("best\nrate", rated),
        ("GPU\nhours", costs),
    ):
        if shown:
            table.add_column(head, justify="right")
    table.add_column("")
    for place, one in enumerate(choice.ranking):
        cells = [
            *([words.MISSING if one.n_params is None else words.count(one.n_params)] if sized else []),
            words.score(one.predicted.value),
            _interval(one),
            words.score(one.power),
            words.score(one.subsets[-1][1]),
            *([f"{one.settings['learning_rate']:.2g}" if "learning_rate" in one.settings else words.MISSING] if rated else []),
            *([words.MISSING if one.gpu_seconds is None else f"{one.gpu_seconds / 3600:.2g}"] if costs else []),
        ]
        table.add_row(one.name, *cells, "best" if not place else "as good" if one.tied else "")
    return table


def _interval(one: Ranked) -> str:
    ends = (one.predicted.low, one.predicted.high)
    return " … ".join("no limit" if end is None else words.score(end) for end in ends)


def sentences(choice: Choice) -> list[str]:
    """The choice in sentences: the first, those as good, the plain power law's choice, and the cost."""
    best, tied = choice.best, choice.tied
    lines = [
        f"start from {best.name}: {choice.metric} {words.score(best.predicted.value)} (90 % interval {_interval(best)}) is predicted "
        f"with all {choice.whole:,.0f} examples"
    ]
    if tied:
        text = f"can't be told apart from it: {', '.join(one.name for one in tied)}"
        known = [one for one in (best, *tied) if one.n_params is not None]
        smallest = min(known, key=lambda one: one.n_params or 0.0, default=None)
        lines.append(text + (f"; the smallest of these is {smallest.name}" if smallest and smallest is not best else ""))
    else:
        lines.append("every other checkpoint can be told apart from it")
    plain = by_power_law(choice)
    lines.append(
        f"a plain power law would choose {plain.name}, too"
        if plain is best
        else f"a plain power law would choose {plain.name} ({words.score(plain.power)})"
    )
    if choice.gpu_seconds is not None:
        lines.append(f"cost: {choice.gpu_seconds / 3600:.2g} GPU hours, the starts of workers included")
    return lines
