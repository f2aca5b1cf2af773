"""Results of the runs of `search.py`: medians over seeds, ratios with intervals, tables, the JSON line, the plot."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import numpy as np
from families import Family
from methods import ABLATIONS, OURS, Group, Method

# ---- figures --------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One method on one family."""

    method: Method
    rows: list[dict[str, Any]]
    failed: int
    curves: np.ndarray  # seeds × points
    resampled: np.ndarray  # medians, resamples × points

    @property
    def median(self) -> np.ndarray:
        return np.median(self.curves, axis=0)

    def middle(self, key: str) -> float | None:
        values = [row[key] for row in self.rows if row[key] is not None]
        return float(np.median(values)) if values else None

    @property
    def controller_ms(self) -> float:
        return 1000 * sum(row["controller_seconds"] for row in self.rows) / max(sum(row["trials"] for row in self.rows), 1)


@dataclass
class Comparison:
    """A family with all methods."""

    family: Family
    grid: np.ndarray
    results: dict[str, Result]
    stock: figures.Ratio | None
    research: figures.Ratio | None  # against all rivals; None if no research method ran
    stock_resampled: np.ndarray
    research_resampled: np.ndarray

    def of(self, *groups: Group) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if result.method.group in groups}

    @property
    def target(self) -> float:
        return self.stock.target if self.stock else figures.GOOD

    def hours(self, name: str) -> float:
        return figures.hours_to(self.grid, self.results[name].median, self.target)

    def hours_interval(self, name: str) -> list[float]:
        curves = self.results[name].resampled
        return figures.interval(np.array([figures.hours_to(self.grid, curve, self.target) for curve in curves]))


def compare(family: Family, chosen: Sequence[Method], rows: Sequence[dict[str, Any]]) -> Comparison | None:
    """The comparison for one family; None without a run of scalesweep."""
    results: dict[str, Result] = {}
    grid = np.array([])
    for number, method in enumerate(chosen):
        mine = [row for row in rows if row["family"] == family.name and row["method"] == method.name]
        good = sorted((row for row in mine if "error" not in row), key=lambda row: row["seed"])
        if not good:
            continue
        curves = figures.filled([row["regret"] for row in good])
        grid = np.linspace(0, good[0]["budget_gpu_hours"], curves.shape[1] + 1)[1:]
        resampled = figures.resampled(curves, np.random.default_rng([3, number]))
        results[method.name] = Result(method, good, len(mine) - len(good), curves, resampled)
    if OURS not in results:
        return None
    found = Comparison(family, grid, results, None, None, np.array([]), np.array([]))
    ours, stock, rivals = results[OURS], found.of("stock"), found.of("stock", "research")
    if stock:
        found.stock, found.stock_resampled = _against(grid, ours, stock)
    if len(rivals) > len(stock):
        found.research, found.research_resampled = _against(grid, ours, rivals)
    return found


def _against(grid: np.ndarray, ours: Result, others: Mapping[str, Result]) -> tuple[figures.Ratio, np.ndarray]:
    ratio = figures.against(grid, ours.median, {name: other.median for name, other in others.items()})
    resampled = {name: other.resampled for name, other in others.items()}
    return ratio, figures.ratios(grid, ours.resampled, resampled)


def finite(value: float | None) -> float | None:
    """A number for JSON, which has no infinity: None in its place."""
    return value if value is not None and math.isfinite(value) else None


def _ratio_figures(ratio: figures.Ratio | None, resampled: np.ndarray) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {
        "ratio": ratio.ratio,
        "interval": figures.interval(resampled),
        "reached": ratio.reached,
        "target": ratio.target,
        "best": ratio.best,
        "best_gpu_hours": ratio.best_hours,
        "gpu_hours": finite(ratio.hours),
    }


def at_share(grid: np.ndarray, curve: np.ndarray, share: float) -> float:
    return float(curve[max(round(share * len(grid)), 1) - 1])


def family_figures(found: Comparison) -> dict[str, Any]:
    """The entry of a family in the JSON line."""
    told: dict[str, Any] = {"trend": found.family.trend, "real": found.family.real, "budget_gpu_hours": float(found.grid[-1])}
    told["stock"] = _ratio_figures(found.stock, found.stock_resampled)
    told["all_rivals"] = _ratio_figures(found.research, found.research_resampled)
    told["methods"] = {
        name: {
            "group": result.method.group,
            "seeds": len(result.rows),
            "failed": result.failed,
            "cut": sum(row["cut"] for row in result.rows),
            "gpu_hours_to_5_percent": finite(figures.hours_to(found.grid, result.median, figures.GOOD)),
            "gpu_hours_to_target": finite(found.hours(name)),
            "gpu_hours_to_target_for_good": finite(figures.hours_to(found.grid, result.median, found.target, for_good=True)),
            "gpu_hours_to_target_interval": [finite(end) for end in found.hours_interval(name)],
            "regret_at_25_50_100": [round(at_share(found.grid, result.median, share), 6) for share in (0.25, 0.5, 1)],
            "pick_rank": result.middle("pick_rank"),
            "trials": result.middle("trials"),
            "occupancy": result.middle("occupancy"),
            "controller_ms_per_trial": round(result.controller_ms, 2),
        }
        for name, result in found.results.items()
    }
    return told


def ablation_figures(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """GPU hours of scalesweep with one ingredient changed ÷ those without the change, to the same regret. Above 1 it helps."""
    told: dict[str, Any] = {}
    for name in ABLATIONS:
        of: dict[str, float] = {}
        for found in comparisons:
            if name in found.results and math.isfinite(found.hours(OURS)):
                of[found.family.name] = min(found.hours(name), float(found.grid[-1])) / found.hours(OURS)
        if of:
            told[name] = {"gpu_hours_ratio_median": float(np.median(list(of.values()))), "by_family": of}
    return told


def ratio_figures(comparisons: Sequence[Comparison], tools: Sequence[str], for_good: bool = False) -> dict[str, Any]:
    """GPU hours of scalesweep ÷ those of the best of `tools`, over the families in which any of them ran."""
    ratios, trend = {}, []
    for found in comparisons:
        medians = {name: found.results[name].median for name in tools if name in found.results}
        if medians:
            ratio = figures.against(found.grid, found.results[OURS].median, medians, for_good).ratio
            ratios[found.family.name] = ratio
            trend += [ratio] if found.family.trend else []
    told: dict[str, Any] = {
        "median": float(np.median(list(ratios.values()))),
        "trend": float(np.median(trend)) if trend else None,
    }
    return told | {"worst": max(ratios.values()), "by_family": ratios}


def summary(comparisons: Sequence[Comparison], seeds: int, factor: float) -> dict[str, Any]:
    """The JSON line."""
    told: dict[str, Any] = {}
    stock = [found for found in comparisons if found.stock]
    trend = [found for found in stock if found.family.trend]
    ratios = {found.family.name: found.stock.ratio for found in stock if found.stock}
    for key, part in (("median", stock), ("trend", trend)):
        values = [ratios[found.family.name] for found in part]
        told[f"gpu_hours_ratio_{key}"] = float(np.median(values)) if values else None
        medians = np.median([found.stock_resampled for found in part], axis=0) if part else None
        told[f"gpu_hours_ratio_{key}_interval"] = None if medians is None else figures.interval(medians)
    told["gpu_hours_ratio_worst"] = max(ratios.values(), default=None)
    told["gpu_hours_ratio_worst_family"] = max(ratios, key=lambda name: ratios[name], default=None)
    told["target_not_reached"] = [found.family.name for found in stock if found.stock and not found.stock.reached]
    tools = list(dict.fromkeys(name for found in stock for name in found.of("stock")))
    if stock:
        told["gpu_hours_ratio_for_good"] = ratio_figures(stock, tools, for_good=True)
        told["gpu_hours_ratio_one_tool"] = {name: ratio_figures(stock, [name]) for name in tools}
    all_rivals = [found.research.ratio for found in comparisons if found.research]
    told["gpu_hours_ratio_all_rivals_median"] = float(np.median(all_rivals)) if all_rivals else None
    told["gpu_hours_ratio_all_rivals_worst"] = max(all_rivals, default=None)
    told["seeds"], told["budget_factor"] = seeds, factor
    told["families"] = [found.family.name for found in comparisons]
    told["ablation"] = ablation_figures(comparisons)
    told["by_family"] = {found.family.name: family_figures(found) for found in comparisons}
    return told


# ---- output ---------------------------------------------------------------------------------------------------------------


def _hours(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio_text(ratio: figures.Ratio, resampled: np.ndarray) -> str:
    low, high = figures.interval(resampled)
    return f"{'' if ratio.reached else '> '}{ratio.ratio:.2f} ({low:.2f}–{high:.2f})"


def print_tables(comparisons: Sequence[Comparison], told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 150)
    for found in comparisons:
        family = found.family
        kind = f"{'recorded' if family.real else 'modelled'}, {'a trend' if family.trend else 'no trend'}"
        table = Table(title=f"{family.name} ({kind}, {_hours(found.grid[-1])} GPU h)", title_justify="left")
        mark = f"to {100 * found.target:.3g} %"
        for heading in ("method", "GPU h to 5 %", mark, "10–90 %", "regret at 25 %", "50 %", "100 %", "rank", "trials"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for heading in ("busy", "ms/trial", "seeds"):
            table.add_column(heading, justify="right")
        for name, result in found.results.items():
            low, high = found.hours_interval(name)
            rank, trials, busy = (result.middle(key) for key in ("pick_rank", "trials", "occupancy"))
            cut = sum(row["cut"] for row in result.rows)
            notes = [f"{cut} cut"] * bool(cut) + [f"{result.failed} failed"] * bool(result.failed)
            table.add_row(
                name,
                _hours(figures.hours_to(found.grid, result.median, figures.GOOD)),
                _hours(found.hours(name)),
                f"{_hours(low)}–{_hours(high)}",
                *(f"{at_share(found.grid, result.median, share):.3f}" for share in (0.25, 0.5, 1)),
                "–" if rank is None else f"{rank:g}",
                f"{trials:g}",
                f"{busy:.2f}",
                f"{result.controller_ms:.1f}",
                " ".join([str(len(result.rows)), *notes]),
                style="bold" if name == OURS else None,
                end_section=name == OURS,
            )
        console.print(table)
    table = Table(title="GPU hours: ours ÷ the best other", title_justify="left")
    for heading in ("family", "trend", "÷ best stock (10–90 %)", "which", "÷ best of all (10–90 %)", "which", "target"):
        table.add_column(heading)
    for found in comparisons:
        cells = [found.family.name, "yes" if found.family.trend else "no"]
        for ratio, resampled in ((found.stock, found.stock_resampled), (found.research, found.research_resampled)):
            cells += [_ratio_text(ratio, resampled), ratio.best] if ratio else ["–", "–"]
        table.add_row(*cells, f"{100 * found.target:.3g} %")
    console.print(table)
    for name, figure in told["ablation"].items():
        console.print(f"{name}: takes {figure['gpu_hours_ratio_median']:.2f} × the GPU hours (median over families)")
    for key in ("median", "trend", "worst"):
        value, ends = told[f"gpu_hours_ratio_{key}"], told.get(f"gpu_hours_ratio_{key}_interval")
        if value is not None:
            console.print(f"gpu_hours_ratio_{key} {value:.3f}" + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if ends else ""))


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """A panel per family: medians over seeds, with a band of percentiles 10 to 90 for scalesweep."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(comparisons), 3)
    rows = math.ceil(len(comparisons) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(comparisons) :]:
        axis.set_visible(False)
    floor = 2e-3
    for found, axis in zip(comparisons, axes.flat, strict=False):
        ours = found.results[OURS].curves
        low, high = np.percentile(ours, [figures.LOW, figures.HIGH], axis=0)
        axis.fill_between(found.grid, np.maximum(low, floor), np.maximum(high, floor), alpha=0.2, color="C0", linewidth=0)
        lines = {OURS: ("C0", 2.0)}
        if "random+asha" in found.results:
            lines["random+asha"] = ("0.6", 1.2)
        if found.stock:
            lines[found.stock.best] = ("C1", 1.5)
        if research := found.of("research"):
            best = min(research, key=lambda name: (found.hours(name), float(found.results[name].median[-1])))
            lines[best] = ("C2", 1.5)
        for name, (colour, width) in lines.items():
            curve = np.maximum(found.results[name].median, floor)
            axis.step(found.grid, curve, where="post", color=colour, linewidth=width, label=name)
        axis.axhline(found.target, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_yscale("log")
        axis.set_ylim(floor, 2)
        axis.set_xlim(0, found.grid[-1])
        ratio = f": {'' if found.stock.reached else '> '}{found.stock.ratio:.2f} ×" if found.stock else ""
        axis.set_title(f"{found.family.name}{ratio}", fontsize=10)
        axis.set_xlabel("GPU hours")
        axis.set_ylabel("regret of the pick")
        axis.legend(fontsize=7, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
