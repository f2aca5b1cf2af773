"""Results of the runs of `search.py`: scores of scalesweep minus those of each other method, tables, the JSON line, the plot."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import figures
import numpy as np
from families import GPUS, Family, Setting
from methods import OURS, Method

NAMED = {"random+asha": "random_asha", "tune": "tune", "optuna-hyperband": "hyperband"}  # the method → its key in the JSON line
WORST_AGAINST = "random+asha"
BLOCK = 1000  # seeds from each multiple of it are a block
Row = dict[str, Any]
Keep = Callable[[Row], bool]


@dataclass
class Results:
    """All runs that did not fail, by family and method."""

    families: Sequence[Family]
    methods: Sequence[Method]
    settings: Sequence[Setting]
    rows: dict[tuple[str, str], list[Row]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        usual = [setting.label for setting in self.settings if setting.trials is None and setting.workers == GPUS]
        self.usual = set(usual or [setting.label for setting in self.settings])

    def scores(self, family: str, method: str, keep: Keep | None = None) -> np.ndarray:
        """One score per seed: the mean over the settings that are kept, by default the budgets on the usual cluster."""
        keep = keep or (lambda row: row["setting"] in self.usual)
        of_seed: dict[int, list[float]] = defaultdict(list)
        for row in self.rows[family, method]:
            if keep(row):
                of_seed[row["seed"]].append(row["score"])
        most = max(map(len, of_seed.values()), default=0)
        return np.array([np.mean(scores) for _, scores in sorted(of_seed.items()) if len(scores) == most])

    def against(self, method: str, names: Sequence[str], keep: Keep | None = None) -> list[float] | None:
        """Ours minus `method` over the named families in which both ran: mean, low, high. None without such a family."""
        pairs = [(self.scores(name, OURS, keep), self.scores(name, method, keep)) for name in names]
        both = [pair for pair in pairs if all(map(len, pair))]
        return figures.difference([ours for ours, _ in both], [theirs for _, theirs in both]) if both else None

    @property
    def others(self) -> list[str]:
        return [method.name for method in self.methods if method.name != OURS]

    @property
    def names(self) -> list[str]:
        return [family.name for family in self.families if self.usual_rows(family.name, OURS)]

    def usual_rows(self, family: str, method: str) -> list[Row]:
        return [row for row in self.rows[family, method] if row["setting"] in self.usual]

    def curve(self, family: str, method: str) -> np.ndarray:
        """The median regret over all usual runs of a cell, at even shares of the budget."""
        return np.median(figures.filled([row["regret"] for row in self.usual_rows(family, method)]), axis=0)

    def middle(self, family: str, method: str, key: str) -> float:
        return float(np.median([row[key] for row in self.usual_rows(family, method)]))


def collect(families: Sequence[Family], methods: Sequence[Method], settings: Sequence[Setting], rows: Sequence[Row]) -> Results:
    found = Results(families, methods, settings)
    for row in rows:
        if "error" not in row:
            score = float(figures.score(figures.filled([row["regret"]]))[0])
            found.rows[row["family"], row["method"]].append({**row, "score": score})
    return found


def _in_block(found: Results, block: int) -> Keep:
    return lambda row: row["seed"] // BLOCK == block and row["setting"] in found.usual


def _under(setting: Setting) -> Keep:
    return lambda row: row["setting"] == setting.label


def summary(found: Results, failed: int) -> dict[str, Any]:
    """The JSON line. A difference is [mean, low, high]; null if nothing was compared."""
    names, others = found.names, found.others
    told: dict[str, Any] = {f"score_minus_{key}": found.against(method, names) for method, key in NAMED.items()}
    by_family = {name: {other: found.against(other, [name]) for other in others} for name in names}
    against = [(name, *row[WORST_AGAINST]) for name, row in by_family.items() if row.get(WORST_AGAINST)]
    told["worst_family"] = list(max(against, key=lambda row: row[1])) if against else None
    told["families"] = names
    told["seeds"] = max((len(found.scores(name, OURS)) for name in names), default=0)
    told["failed_runs"] = failed
    told["score_minus"] = {other: found.against(other, names) for other in others}
    blocks = sorted({row["seed"] // BLOCK for rows in found.rows.values() for row in rows})
    told["by_block"] = {
        str(block): {other: found.against(other, names, _in_block(found, block)) for other in others} for block in blocks
    }
    told["by_setting"] = {
        setting.label: {other: found.against(other, names, _under(setting)) for other in others} for setting in found.settings
    }
    told["by_family"] = by_family
    held = {name: of for name in names if (of := _forecasts_held(found, name))}
    told["forecasts_held"] = [round(float(value), 3) for value in np.mean(list(held.values()), axis=0)] if held else None
    told["forecasts_held_by_family"] = held
    told["methods"] = {method.name: _method_figures(found, method.name) for method in found.methods}
    return told


def _forecasts_held(found: Results, family: str) -> list[float] | None:
    """The shares of final values that the forecasts' intervals hold, of all trials and of the best ten: means over our runs."""
    runs = [row["forecasts_held"] for row in found.usual_rows(family, OURS) if row["forecasts_held"]]
    return [round(float(value), 3) for value in np.mean(runs, axis=0)] if runs else None


def _method_figures(found: Results, method: str) -> dict[str, Any]:
    names = [name for name in found.names if found.usual_rows(name, method)]
    rows = [row for name in names for row in found.usual_rows(name, method)]
    return {
        "score": {name: round(float(found.scores(name, method).mean()), 4) for name in names},
        "median_regret": {name: round(float(found.curve(name, method)[-1]), 5) for name in names},
        "share_of_budget_to_5_percent": {
            name: share if math.isfinite(share := figures.share_to(found.curve(name, method))) else None for name in names
        },
        "trials": {name: found.middle(name, method, "trials") for name in names},
        "occupancy": {name: found.middle(name, method, "occupancy") for name in names},
        "controller_ms_per_trial": round(
            1000 * sum(row["controller_seconds"] for row in rows) / max(sum(row["trials"] for row in rows), 1), 2
        ),
        "cut": sum(row["cut"] for row in rows),
    }


# ---- output ---------------------------------------------------------------------------------------------------------------


def _shown(difference: Sequence[float] | None) -> str:
    return "–" if difference is None else "{:+.2f} ({:+.2f} … {:+.2f})".format(*difference)


def print_tables(found: Results, told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    others = found.others
    table = Table(title="Score of scalesweep − score of … (5–95 %); below 0 ours is better", title_justify="left")
    for heading in ("", "kind", "trend", "seeds", "score", *others):
        table.add_column(heading, justify="left" if heading in ("", "kind", "trend") else "right")
    for family in found.families:
        if family.name not in told["by_family"]:
            continue
        scores = found.scores(family.name, OURS)
        about = ["recorded" if family.real else "modelled", "yes" if family.trend else "no", str(len(scores))]
        cells = [_shown(told["by_family"][family.name][other]) for other in others]
        table.add_row(family.name, *about, f"{scores.mean():.2f}", *cells)
    table.add_section()
    table.add_row("all", "", "", "", "", *(_shown(told["score_minus"][other]) for other in others), style="bold")
    for kind in ("block", "setting"):
        for label, row in told[f"by_{kind}"].items() if len(told[f"by_{kind}"]) > 1 else ():
            table.add_row(
                f"block {label}" if kind == "block" else label, "", "", "", "", *(_shown(row[other]) for other in others)
            )
    console.print(table)
    table = Table(
        title="Share of the budget to a median regret of 5 %, and that at its end (an illustration)", title_justify="left"
    )
    for heading in ("", OURS, *others):
        table.add_column(heading, justify="right" if heading else "left")
    for name in told["by_family"]:
        cells = []
        for method in (OURS, *others):
            figures_of = told["methods"][method]
            share, end = (figures_of[key].get(name) for key in ("share_of_budget_to_5_percent", "median_regret"))
            cells.append("–" if end is None else f"{'never' if share is None else f'{share:.0%}'}, {end:.1%}")
        table.add_row(name, *cells)
    console.print(table)
    if told["worst_family"]:
        console.print(f"worst family against {WORST_AGAINST}: {told['worst_family'][0]} {_shown(told['worst_family'][1:])}")


def plot(found: Results, path: Path) -> None:
    """A panel per family: median regret over the budget of each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(found.names), 4)
    rows = math.ceil(len(found.names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.8 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(found.names) :]:
        axis.set_visible(False)
    floor = 2e-3
    for name, axis in zip(found.names, axes.flat, strict=False):
        for number, method in enumerate(method.name for method in found.methods if found.usual_rows(name, method.name)):
            curve = np.maximum(found.curve(name, method), floor)
            shares = np.arange(1, len(curve) + 1) / len(curve)
            axis.step(shares, curve, where="post", color=f"C{number}", linewidth=1.2 + 0.8 * (method == OURS), label=method)
        axis.set(
            yscale="log", ylim=(floor, 2), xlim=(0, 1), title=name, xlabel="share of the budget", ylabel="regret of the pick"
        )
    axes.flat[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
