"""The answer of `plan --from`: a table of runs, the choice in a sentence and how sure it is, and the same as JSON."""

from __future__ import annotations

from typing import Any

from scalesweep.errors import counted
from scalesweep.report import terminal, words
from scalesweep.report.scaling import refusal_json
from scalesweep.report.terminal import headed
from scalesweep.scaling.budget import REACH, REPEATS, Alternative, Budget, BudgetPlan, SweepFirst, memory_gib
from scalesweep.scaling.speeds import DOUBLING

DISPENSABLE = ("passes", "dollars", "wall-\nclock", "GPUs")  # columns that a narrow terminal goes without, in this order
BASES = {"other GPU count": "the speed of another GPU count", "other size": "the FLOPs per second of the nearest size"}


# ---- for programs -----------------------------------------------------------------------------------------------------------


def budget_json(plan: BudgetPlan) -> dict[str, Any]:
    """The plan as JSON data. `low` and `high` are the ends of a 90 % interval for the run."""
    points, budget = plan.analysis.points, plan.budget
    head = {
        "source": points.source,
        "metric": points.metric,
        "goal": "maximize" if points.maximize else "minimize",
        "n_params": points.counting,
        "budget": {"gpu_hours": budget.gpu_hours, "dollars": budget.dollars, "deadline_seconds": budget.deadline},
        "remarks": list(plan.remarks),
    }
    if plan.first is not None:
        first, further = plan.first, plan.first.further
        refused = plan.analysis.refused
        return {
            **head,
            "choice": None,
            "sweep_first": {
                "reasons": list(first.reasons),
                "gpu_hours": first.gpu_hours,
                "sweep": further.spec if further else None,
                "missing_sizes": list(further.missing) if further else [],
                "further_max_t": list(further.lengths) if further else [],
            },
            "refused": refusal_json(refused) if refused else None,
        }
    assert plan.choice is not None
    assert plan.cheapest is not None
    return {
        **head,
        "choice": {**_row_json(plan.choice), "settings": dict(plan.settings), "base_trial": plan.choice.size.base.trial.name},
        "cheapest_as_good": None if plan.cheapest is plan.choice else _row_json(plan.cheapest),
        "frontier": [_row_json(row) for row in plan.frontier],
        "gpu_counts": [_row_json(row) for row in plan.counts],
        "said": sentences(plan),
    }


def _row_json(row: Alternative) -> dict[str, Any]:
    run = row.predicted.run
    return {
        "model_size": row.size.name,
        "n_params": row.size.n_params,
        "tokens": row.tokens,
        "passes": row.passes,
        "num_gpus": row.num_gpus,
        "gpu_hours": row.gpu_hours,
        "dollars": row.dollars,
        "wall_seconds": row.seconds,
        "speed": row.basis,
        "within_budget": row.affordable,
        "predicted": {"value": run.value, "low": run.low, "high": run.high},
        "beyond": row.predicted.beyond,
    }


# ---- for people -------------------------------------------------------------------------------------------------------------


def print_budget(plan: BudgetPlan) -> None:
    """Print the plan to stdout, as wide as the terminal."""
    points = plan.analysis.points
    page = terminal.console(width=terminal.page_width(), highlight=False)
    trials = sum(len(cell.trials) for cell in points.cells)
    page.print(
        headed(points.metric, f" · {counted(len(points.cells), 'point')} of {counted(trials, 'trial')} · {points.source}")
    )
    page.print(f"budget: {_limits(plan.budget)}\n")
    if plan.first is not None:
        page.print(headed("run another sweep first", ""))
        for line in first_lines(plan.first, plan.budget):
            page.print(line)
    else:
        page.print(_table(plan))
        page.print()
        if len(plan.counts) > 1:
            page.print(_counts(plan))
            page.print()
        for line in sentences(plan):
            page.print(line)
    for remark in plan.remarks:
        page.print(remark, style="dim")


def _limits(budget: Budget) -> str:
    shown = [
        None if budget.gpu_hours is None else f"{budget.gpu_hours:,.4g} GPU hours",
        None if budget.dollars is None else f"{words.money(budget.dollars)} dollars",
        None if budget.deadline is None else f"{words.clock(budget.deadline)} of wall-clock",
    ]
    return ", ".join(limit for limit in shown if limit)


def _table(plan: BudgetPlan) -> Any:
    """The frontier."""
    rows, marks = plan.frontier, []
    for row in rows:
        found = ["best"] if row is plan.choice else []
        found += ["as good"] if row is plan.cheapest and row is not plan.choice else []
        marks.append("; ".join([*found, *_over(plan.budget, row)]))
    runs = [row.predicted.run for row in rows]
    columns = {
        "size": [row.size.name for row in rows],
        "tokens": [words.count(row.tokens) for row in rows],
        "passes": [words.MISSING if row.passes is None else f"{row.passes:.2g}" for row in rows],
        **_costs(rows),
        plan.analysis.points.metric: [words.score(run.value) for run in runs],
        "90 % interval": [f"{_end(run.low)} … {_end(run.high)}" for run in runs],
        "": marks,
    }
    return _fitted("runs that no cheaper one beats", columns)


def _counts(plan: BudgetPlan) -> Any:
    """The choice on every GPU count: the same result in other time for other money."""
    rows = plan.counts
    notes = ["; ".join([*([] if row.basis == "measured" else ["estimated"]), *_over(plan.budget, row)]) for row in rows]
    return _fitted("the best one on every GPU count", {**_costs(rows), "": notes})


def _costs(rows: tuple[Alternative, ...]) -> dict[str, list[str]]:
    dollars = (
        {"dollars": [words.money(row.dollars or 0) for row in rows]} if all(row.dollars is not None for row in rows) else {}
    )
    return {
        "GPUs": [str(row.num_gpus) for row in rows],
        "GPU\nhours": [words.seconds(row.gpu_hours) for row in rows],
        **dollars,
        "wall-\nclock": [words.clock(row.seconds) for row in rows],
    }


def _fitted(title: str, columns: dict[str, list[str]]) -> Any:
    """A table of the columns that fit: half a number would read as another one."""
    from rich import box
    from rich.table import Table

    def width() -> int:
        return sum(2 + max(map(words.width, [*name.split("\n"), *cells])) for name, cells in columns.items())

    for name in DISPENSABLE:
        if width() > terminal.page_width():
            columns = {other: cells for other, cells in columns.items() if other != name}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in ("size", "") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(
            *cells,
            style="bold" if cells[-1].startswith("best") else "dim" if "over" in cells[-1] or "late" in cells[-1] else "",
        )
    return table


def _over(budget: Budget, row: Alternative) -> list[str]:
    """The limit that a run exceeds, in words."""
    if row.affordable:
        return []
    late = budget.deadline is not None and row.seconds > budget.deadline
    dear = (budget.gpu_hours is not None and row.gpu_hours > budget.gpu_hours) or (
        budget.dollars is not None and row.cost > budget.dollars
    )
    return ["over both" if dear and late else "over budget" if dear else "too late"]


def _end(value: float | None) -> str:
    return "no limit" if value is None else words.score(value)


def sentences(plan: BudgetPlan) -> list[str]:
    """The choice in words, how sure it is, and what it rests on."""
    choice, cheapest, metric = plan.choice, plan.cheapest, plan.analysis.points.metric
    assert choice is not None
    assert cheapest is not None
    run, base = choice.predicted.run, choice.size.base
    lines = [
        f"train {_run(choice)} on {counted(choice.num_gpus, 'GPU')}: {metric} {words.score(run.value)} (90 % interval {_end(run.low)} … "
        f"{_end(run.high)}) for {_cost(choice)}, in {words.clock(choice.seconds)} of wall-clock"
    ]
    if cheapest is not choice:
        share = cheapest.cost / choice.cost
        lines.append(
            f"the intervals can't separate it from {_run(cheapest)} on {counted(cheapest.num_gpus, 'GPU')}, for {share:.0%} of the cost: "
            f"{metric} {words.score(cheapest.predicted.run.value)} for {_cost(cheapest)}"
        )
    else:
        lines.append("every cheaper run is worse by more than the 90 % interval of the difference")
    lines += _extrapolated(plan, choice)
    if choice.passes is not None and choice.passes > 1:
        more = ", beyond which repeated data are worth less" if choice.passes > REPEATS * 0.99 else ""
        lines.append(f"it goes over the same training data {choice.passes:.2g} times{more}")
    lines += _speed(plan, choice)
    if choice.size.other is not None:
        memory = memory_gib(choice.size.other.total or choice.size.n_params, base)
        lines.append(
            f"memory: at least {words.seconds(memory)} GiB on every GPU, because each worker of `promote` holds the whole model; where a GPU has "
            "less, train it with a trainer that shards it (`scalesweep recipe`)"
        )
    values = {**base.trial.params, **plan.settings}
    shown = ", ".join(f"{name} {_setting(value)}" for name, value in values.items() if name not in ("model_size", "num_gpus"))
    lines.append(f"settings, those of {base.trial.name} in {base.record.manifest.name}: {shown}")
    lines += [f"changed: {said}" for said in plan.said]
    return lines


def _setting(value: Any) -> str:
    return str(value) if isinstance(value, bool | str) else words.value(value)


def _run(row: Alternative) -> str:
    return f"{row.size.name} for {words.count(row.tokens)} tokens"


def _cost(row: Alternative) -> str:
    price = "" if row.dollars is None else f" ({words.money(row.dollars)} dollars)"
    return f"{words.seconds(row.gpu_hours)} GPU hours{price}"


def _extrapolated(plan: BudgetPlan, choice: Alternative) -> list[str]:
    """The parts of the choice that lie beyond the sweeps."""
    points, axes = plan.analysis.points, plan.analysis.chosen.axes
    ratios = {
        "size": choice.size.n_params / points.axis("n_params").max(),
        "length": choice.tokens / points.axis("tokens").max(),
    }
    most = {"size": "largest", "length": "longest"}
    beyond = [
        f"its {name} is {ratio:.2g} times the {most[name]} of the sweeps" for name, ratio in ratios.items() if ratio > 1.01
    ]
    if not beyond:
        return []
    far = ": no interval covers a law that changes there" if choice.predicted.beyond > REACH / 2 else ""
    fixed = "" if "tokens" in axes else "; the length does not vary in the sweeps, so it stays theirs"
    return [f"an extrapolation: {' and '.join(beyond)}{far}{fixed}"]


def _speed(plan: BudgetPlan, choice: Alternative) -> list[str]:
    doubling = plan.speeds.doubling
    efficiency = f"{DOUBLING:g} of each doubling of GPUs, which is assumed: no trials differ in their GPUs alone"
    if doubling is not None:
        efficiency = f"{doubling:.2g} of each doubling of GPUs, as measured"
    if choice.basis == "measured":
        return [f"cost: from the measured speed of {choice.size.name} on {counted(choice.num_gpus, 'GPU')}, training alone"]
    rate = plan.speeds.flops_per_second(choice.size.n_params, choice.size.base.method)
    flops = f" ({rate:.2g} FLOPs per second and GPU)" if choice.basis == "other size" and rate else ""
    scaled = f"; efficiency {efficiency}" if choice.num_gpus > 1 else ""
    return [f"cost: estimated from {BASES[choice.basis]}{flops}, training alone{scaled}"]


def first_lines(first: SweepFirst, budget: Budget) -> list[str]:
    """Why a sweep comes first, and which."""
    lines = ["no plan: " + "; ".join(first.reasons)]
    further = first.further
    if further is None:
        return [*lines, "these records don't hold a whole sweep file, so none can be written"]
    ladder, early = further.spec["ladder"], further.spec["early_terminate"]
    count = further.spec["budget"]["run_cap"]
    names = [f"L{layers}" for layers in ladder["layers"]] if isinstance(ladder, dict) else [row["name"] for row in ladder]
    unit = words.unit(early.get("time_attr", "steps"))
    hours = "" if first.gpu_hours is None else f", at most about {words.seconds(first.gpu_hours)} GPU hours"
    if first.gpu_hours and budget.gpu_hours and first.gpu_hours > budget.gpu_hours:
        hours += ", more than the budget"
    lines.append(
        f"the sweep to run: {counted(count, 'trial')} of {', '.join(names)}, up to {words.level(early['max_t'])} {unit}{hours}"
    )
    for length in further.lengths:
        lines.append(
            f"and again at another length: --set name={further.spec['name']}-{length:g} --set early_terminate.max_t={length:g}"
        )
    if further.missing:
        sizes = ", ".join(words.count(size) for size in further.missing)
        lines.append(f"it lacks models of about {sizes} parameters, which the law needs: add them to its ladder")
    return lines
