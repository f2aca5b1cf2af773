"""Reports of a simulation: tables and a plot for people, one JSON document for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.errors import OutsideError, UserError, counted
from scalesweep.report import terminal, words
from scalesweep.report.terminal import headed
from scalesweep.simulation.run import GOAL_REGRET, SHARES, Band, Outcome, SeedRun, Simulation

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from scalesweep.simulation.replay import ReplayResult

PLOTS = (".png", ".pdf", ".svg")
SHOWN = 20  # differences of a replay
AS_IT_IS = "as it is"  # label of the unchanged sweep beside its variants
REGRET = (
    "Regret of the configuration that would be promoted, by its value at full length: 0 is the best known value, "
    "1 is the median of random configurations."
)


# ---- for programs ----------------------------------------------------------------------------------------------------------


def simulation_json(simulation: Simulation) -> dict[str, Any]:
    """Return the whole simulation as JSON data. A value is None if nothing can be picked yet or the sweep had already ended."""
    options = simulation.options
    return {
        "sweep": simulation.sweep,
        "curves": simulation.curves,
        "metric": {"name": simulation.metric, "goal": simulation.goal},
        "cluster": {
            "gpus": options.workers,
            "startup_seconds": options.startup_seconds,
            "failures_per_gpu_hour": options.failures_per_gpu_hour,
        },
        "budget": {"gpu_hours": simulation.budget_gpu_hours, "from": simulation.budget_from},
        "reference": {"best": _number(simulation.best), "median": _number(simulation.median)},  # regret 0 and 1
        "notes": simulation.notes,
        "variants": [_variant_json(outcome, simulation.wall_grid) for outcome in simulation.outcomes],
    }


def _variant_json(outcome: Outcome, wall_grid: np.ndarray) -> dict[str, Any]:
    median_seed = outcome.median_seed
    by_wall = outcome.regret_by_wall(wall_grid)
    return {
        "label": outcome.label,
        "settings": list(outcome.settings),
        "at": [
            {
                "share": share,
                "gpu_hours": _number(outcome.gpu_hours[place]),
                "wall_hours": _number(outcome.wall_hours[place]),
                "value": _at(outcome.value, place),
                "regret": _at(outcome.regret, place),
            }
            for share, place in _places(outcome)
        ],
        "to_goal": {
            "regret": GOAL_REGRET,
            "gpu_hours": _number(outcome.hours_to_goal),
            "seeds": outcome.seeds_at_goal,
            "of": len(outcome.seeds),
        },
        "controller_ms_per_decision": outcome.controller_ms,
        "median_seed": median_seed.seed,
        "pick": {"params": median_seed.run.pick, "rank": median_seed.run.pick_rank, "of": outcome.known},
        "seeds": [_seed_json(seed) for seed in outcome.seeds],
        "curves": {
            "gpu_hours": _numbers(outcome.gpu_hours),
            "wall_hours": _numbers(outcome.wall_hours),
            "value": _band_json(outcome.value),
            "regret": _band_json(outcome.regret),
            "by_wall": {"wall_hours": _numbers(wall_grid), "regret": _band_json(by_wall)},
        },
    }


def _seed_json(seed: SeedRun) -> dict[str, Any]:
    run = seed.run
    return {
        "seed": seed.seed,
        "value": _number(run.best[-1]),
        "regret": _number(run.regret[-1]),
        "gpu_hours_to_goal": _number(seed.hours_to(GOAL_REGRET)),
        "pick": run.pick,
        "rank": run.pick_rank,
        "trials": run.trials,
        "reports": run.reports,
        **{name: getattr(seed, name) for name in ("complete", "stopped", "promoted", "diverged", "failed", "unfinished")},
        "gpu_hours": run.spent_gpu_hours,
        "wall_hours": run.makespan_hours,
        "occupancy": run.occupancy,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]


def _band_json(band: Band) -> dict[str, list[float | None]]:
    return {"median": _numbers(band.median), "low": _numbers(band.low), "high": _numbers(band.high)}


def _at(band: Band, place: int) -> dict[str, float | None]:
    return {"median": _number(band.median[place]), "low": _number(band.low[place]), "high": _number(band.high[place])}


def _places(outcome: Outcome) -> list[tuple[float, int]]:
    """Return each share of the budget with its index on the grid."""
    points = len(outcome.gpu_hours)
    return [(share, max(0, round(share * points) - 1)) for share in SHARES]


# ---- for people -----------------------------------------------------------------------------------------------------------


def print_simulation(simulation: Simulation) -> None:
    """Print tables to stdout, as wide as the terminal."""
    console = terminal.console(width=terminal.page_width(), highlight=False)
    options = simulation.options
    seeds = counted(options.seeds, "seed")
    about = f"  {simulation.goal} {simulation.metric} on {simulation.curves} (simulated)"
    console.print(headed(simulation.sweep, about))
    failures = f", {options.failures_per_gpu_hour:g} failures per GPU hour" if options.failures_per_gpu_hour else ""
    console.print(f"{counted(options.workers, 'GPU')}, {options.startup_seconds:g} s to start a trial{failures}; {seeds}")
    console.print(f"budget {_hours(simulation.budget_gpu_hours)} GPU hours ({simulation.budget_from})\n")
    if len(simulation.outcomes) > 1:
        console.print(f"{AS_IT_IS}: {simulation.outcomes[0].label}\n")
    console.print(_progress_table(simulation))
    console.print(f"Medians over seeds; brackets hold the 10th to 90th percentile. {REGRET}", style="dim")
    console.print()
    console.print(_facts_table(simulation))
    for outcome in simulation.outcomes:
        console.print()
        console.print(_pick(outcome, simulation), soft_wrap=False)
    if simulation.notes:
        console.print()
    for note in simulation.notes:
        console.print(note, style="dim")


def _name(outcome: Outcome) -> str:
    return outcome.label if outcome.settings else AS_IT_IS


def _table(columns: Sequence[str], left: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table


def _progress_table(simulation: Simulation) -> Table:
    several = len(simulation.outcomes) > 1
    columns = ["budget", *(["sweep"] if several else []), "GPU hours", "wall hours", simulation.metric, "regret"]
    table = _table(columns, left=1 + several)
    for share, place in _places(simulation.outcomes[0]):
        for number, outcome in enumerate(simulation.outcomes):
            first = number == 0
            table.add_row(
                f"{share:.0%}" if first else "",
                *([_name(outcome)] if several else []),
                _hours(outcome.gpu_hours[place]) if first else "",
                _hours(outcome.wall_hours[place]),
                _shown(outcome.value, place, words.score),
                _shown(outcome.regret, place, _percent),
                end_section=several and outcome is simulation.outcomes[-1],
            )
    return table


def _shown(band: Band, place: int, spell: Callable[[float], str]) -> str:
    median, low, high = (float(row[place]) for row in (band.median, band.low, band.high))
    if not math.isfinite(median):
        return words.MISSING
    return f"{spell(median)} ({spell(low)} … {spell(high)})"


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return words.MISSING
    return f"{100 * value:.0f} %" if abs(value) >= 0.1 else f"{100 * value:.1f} %"


def _hours(value: float) -> str:
    return (
        f"{value:,.3g}" if math.isfinite(value) and value < 1000 else f"{value:,.0f}" if math.isfinite(value) else words.MISSING
    )


def _facts_table(simulation: Simulation) -> Table:
    several = len(simulation.outcomes) > 1
    table = _table(["means over seeds", *(_name(outcome) if several else "" for outcome in simulation.outcomes)], left=1)
    for fact, spell in _FACTS.items():
        table.add_row(fact, *(spell(outcome) for outcome in simulation.outcomes))
    return table


def _goal(outcome: Outcome) -> str:
    return f"{_hours(outcome.hours_to_goal)} ({outcome.seeds_at_goal} of {len(outcome.seeds)} seeds)"


def _fate(outcome: Outcome) -> str:
    kinds = {
        "complete": "complete",
        "stopped": "stopped",
        "diverged": "diverged",
        "failed": "failed",
        "unfinished": "unfinished",
    }
    means = {word: outcome.mean(lambda seed, name=name: getattr(seed, name)) for name, word in kinds.items()}  # type: ignore[misc]
    return ", ".join(f"{mean:.3g} {word}" for word, mean in means.items() if mean)


_FACTS: Mapping[str, Callable[[Outcome], str]] = {
    f"GPU hours until regret ≤ {GOAL_REGRET:.0%}, median": _goal,
    "trials": lambda o: f"{o.mean(lambda seed: seed.run.trials):,.0f}",
    "… of them": _fate,
    "… continued past a rung": lambda o: f"{o.mean(lambda seed: seed.promoted):.3g}",
    "GPU hours spent": lambda o: _hours(o.mean(lambda seed: seed.run.spent_gpu_hours)),
    "wall hours": lambda o: _hours(o.mean(lambda seed: seed.run.makespan_hours)),
    "GPUs busy": lambda o: f"{o.mean(lambda seed: seed.run.occupancy):.0%}",
    "controller, ms per decision": lambda o: f"{o.controller_ms:.2g}",
}


def _pick(outcome: Outcome, simulation: Simulation) -> Text:
    seed = outcome.median_seed
    head = f"{_name(outcome)}: pick" if len(simulation.outcomes) > 1 else "pick"
    if not seed.run.pick:
        return headed(head, f"  none: {seed.silent or f'no trial had a usable {simulation.metric}'}")
    rank = "" if seed.run.pick_rank is None else f", rank {seed.run.pick_rank:,} of {outcome.known:,} configurations known"
    params = ", ".join(f"{name} {_parameter(value)}" for name, value in seed.run.pick.items())
    value = f"{simulation.metric} {words.score(seed.run.best[-1])}, regret {_percent(seed.run.regret[-1])}{rank}"
    middle = "the median seed" if len(outcome.seeds) % 2 else "the better of the two middle seeds"
    return headed(f"{head} of {middle} ({seed.seed})", f"  {value}\n{params}")


def _parameter(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_replay(result: ReplayResult) -> None:
    """Print the result of a replay to stdout."""
    if not result.differences:
        print(f"{result.decisions:,} decisions, all as recorded")
        return
    print(f"{result.decisions:,} decisions, {len(result.differences):,} differ from the record")
    for difference in result.differences[:SHOWN]:
        print(f"  event {difference.event}, {difference.trial}, {difference.what}")
        print(f"      recorded  {difference.recorded}")
        print(f"      replayed  {difference.replayed}")
    if len(result.differences) > SHOWN:
        print(f"  … and {len(result.differences) - SHOWN:,} more")


# ---- the plot ---------------------------------------------------------------------------------------------------------------

COLORS = ("#0b6e99", "#d1495b", "#5b8c2a", "#8d5a97", "#c77d0a", "#555555")
FLOOR, CEILING = 1e-3, 3.0  # lowest and highest regret of the plot
LINE = 0.052  # height of a line of text, as a share of a panel's


def check_plot_path(path: Path) -> None:
    """Raise UserError if the plot can't be written, before the simulation starts."""
    if path.suffix.lower() not in PLOTS:
        raise UserError(f"--plot {path}: this kind of image is not supported", f"write a name that ends in {', '.join(PLOTS)}")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: {path.parent} is not a folder", "create it first")


def plot_simulation(simulation: Simulation, path: Path) -> None:
    """Plot regret against GPU hours and wall-clock time per variant: the median over seeds, and a 10–90 % band.

    Raises OutsideError if the file can't be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    options = simulation.options
    style = {"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(1, 2, figsize=(14, 5.6), sharey=True, layout="constrained")
        for axis, by_wall in zip(axes, (False, True), strict=True):
            _panel(axis, simulation, by_wall)
        axes[0].set_ylabel("regret of the pick")
        _label_ends(axes[1], simulation)
        cluster = f"{counted(options.workers, 'GPU')}, {counted(options.seeds, 'seed')}"
        key = "lines: median over seeds; bands: 10–90 %; 0 is the best known value, 100 % the median of random configurations"
        figure.suptitle(
            f"{simulation.sweep}: {simulation.metric} on {simulation.curves}, {cluster}\n", fontsize=15, parse_math=False
        )
        figure.text(0.5, 0.925, key, ha="center", fontsize=12, color="#555555")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise OutsideError(f"{path} can't be written: {error.strerror}", "choose another --plot") from None
        finally:
            plt.close(figure)


def _panel(axis: Any, simulation: Simulation, by_wall: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lowest, highest = GOAL_REGRET, 1.0
    for place, outcome in enumerate(simulation.outcomes):
        color = COLORS[place % len(COLORS)]
        x = simulation.wall_grid if by_wall else outcome.gpu_hours
        band = outcome.regret_by_wall(x) if by_wall else outcome.regret
        low, median, high = (np.clip(row, FLOOR, CEILING) for row in (band.low, band.median, band.high))
        median = np.where(np.isfinite(band.median), median, np.nan)
        axis.fill_between(x, low, high, where=np.isfinite(band.low), step="post", color=color, alpha=0.14, linewidth=0)
        axis.step(x, median, where="post", color=color, linewidth=2.4, zorder=3)
        if len(finite := median[np.isfinite(median)]):
            lowest, highest = min(lowest, low.min()), max(highest, finite.max())
    axis.set_yscale("log")
    axis.set_ylim(0.8 * lowest, 1.3 * highest)
    axis.set_xlim(0, (simulation.wall_grid if by_wall else simulation.outcomes[0].gpu_hours)[-1])
    axis.axhline(GOAL_REGRET, color="#777777", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel("hours of wall-clock" if by_wall else "GPU hours")


def _label_ends(axis: Any, simulation: Simulation) -> None:
    """Write each line's label beside its end, and move labels apart where ends are close."""
    low, high = map(math.log, axis.get_ylim())
    ends = []
    for place, outcome in enumerate(simulation.outcomes):
        last = outcome.regret_by_wall(simulation.wall_grid).median[-1]
        if math.isfinite(last):
            at = (math.log(min(max(last, FLOOR), CEILING)) - low) / (high - low)
            ends.append((at, outcome.label.replace(", ", "\n"), COLORS[place % len(COLORS)]))
    bottom = 0.0  # of the free part of the panel
    for at, label, color in sorted(ends):
        half = LINE * (label.count("\n") + 1) / 2
        center = max(at, bottom + half)
        bottom = center + half + LINE / 3
        axis.annotate(
            label, (1.0, center), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            color=color, va="center", fontweight="bold", annotation_clip=False, parse_math=False,
        )  # fmt: skip
