"""Scaling fits for people and programs: a table, one JSON document, and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalesweep.errors import OutsideError, UserError, counted
from scalesweep.report import terminal, words
from scalesweep.report.terminal import headed
from scalesweep.scaling.analysis import Analysis, FittedLaw, Range
from scalesweep.scaling.curves import curves
from scalesweep.scaling.refusal import Refusal
from scalesweep.scaling.trends import Trend

PLOTS = (".png", ".svg", ".pdf")
SMALLEST = 0.01  # %, half the height of the plot of residuals
FAR = 10.0  # times the largest size, data or compute


# ---- for programs -----------------------------------------------------------------------------------------------------------


def scaling_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as JSON data. `low` and `high` are the ends of a 90 % interval, null where the points set no limit."""
    points = analysis.points
    head = {"source": points.source, "metric": points.metric, "goal": "maximize" if points.maximize else "minimize"}
    head |= {"n_params": points.counting}
    if analysis.refused is not None:
        return {**head, "law": None, "refused": refusal_json(analysis.refused), "notes": list(analysis.notes)}
    chosen = analysis.chosen
    return {
        **head,
        **_law_json(chosen),
        "combined": analysis.combined,
        "predictions": [
            {**prediction.at, **_range_json(prediction.law), "run": _range_json(prediction.run), "beyond": prediction.beyond}
            for prediction in analysis.predictions
        ],
        "laws": [{**_law_json(one), "weight": one.weight} for one in analysis.laws],
        "trends": [_trend_json(trend, analysis) for trend in analysis.trends],
        "points": [
            {
                **cell.axes,
                "value": float(points.shown(cell.log_value)),
                "observed": float(points.shown(cell.observed)),
                "residual": float(residual),
                "trials": len(cell.trials),
            }
            for cell, residual in zip(points.cells, chosen.fit.residuals, strict=True)
        ],
        "notes": list(analysis.notes),
    }


def _law_json(one: FittedLaw) -> dict[str, Any]:
    return {
        "law": one.name,
        "formula": one.fit.law.formula,
        "axes": list(one.axes),
        "parameters": {name: _range_json(value) for name, value in one.parameters.items()},
        "objective": one.fit.objective,
        "delta": one.fit.delta,
        "held_out_error": one.held_out,
        "spread": one.spread,
    }


def _range_json(value: Range) -> dict[str, float | None]:
    return {"value": value.value, "low": value.low, "high": value.high}


def _trend_json(trend: Trend, analysis: Analysis) -> dict[str, Any]:
    exponents = {axis: _range_json(Range(*trend.law.exponent(place))) for place, axis in enumerate(trend.axes)}
    told = [(prediction.at, trend.at(prediction.at)) for prediction in analysis.predictions]
    return {
        "setting": trend.setting,
        "exponents": exponents,
        "optima": [
            {**dict(zip(trend.axes, map(float, place), strict=True)), "value": float(best)}
            for place, best in zip(trend.places, trend.optima, strict=True)
        ],
        "predictions": [{**at, **_range_json(Range(*found))} for at, found in told if found is not None],
    }


def refusal_json(refused: Refusal) -> dict[str, Any]:
    """A refusal as JSON data."""
    return {
        "reasons": list(refused.reasons),
        "mend": {
            "cells": [dict(cell) for cell in refused.mend],
            "trials_per_cell": refused.trials,
            "length": refused.length,
            "gpu_hours": refused.gpu_hours,
        },
    }


# ---- for people -------------------------------------------------------------------------------------------------------------


def print_scaling(analysis: Analysis) -> None:
    """Print the analysis to stdout, as wide as the terminal."""
    points = analysis.points
    page = terminal.console(width=terminal.page_width(), highlight=False)
    trials = sum(len(cell.trials) for cell in points.cells)
    page.print(
        headed(points.metric, f" · {counted(len(points.cells), 'point')} of {counted(trials, 'trial')} · {points.source}")
    )
    if analysis.refused is not None:
        for line in refusal_lines(analysis.refused):
            page.print(line)
    else:
        _print_laws(page, analysis)
    for note in analysis.notes:
        page.print(note, style="dim")


def refusal_lines(refused: Refusal) -> list[str]:
    """A refusal in sentences: why, and what would mend it."""
    lines = ["no fit: " + "; ".join(refused.reasons)]
    if refused.mend:
        shown = "; ".join(place(cell) for cell in refused.mend[:6]) + (
            f"; {len(refused.mend) - 6} more" if len(refused.mend) > 6 else ""
        )
        cost = "" if refused.gpu_hours is None else f", about {refused.gpu_hours:.3g} GPU hours"
        longer = f", {refused.length:g} times as long as those there are," if refused.length != 1 else ""
        lines.append(f"mended for the least by {counted(refused.trials, 'trial')}{longer} at each of: {shown}{cost}")
    return lines


def place(at: Mapping[str, float]) -> str:
    """A place in words: 'n_params 124M, tokens 2.5B'."""
    return ", ".join(f"{axis} {words.count(value)}" for axis, value in at.items())


def _print_laws(page: Any, analysis: Analysis) -> None:
    chosen, points = analysis.chosen, analysis.points
    page.print(f"law {chosen.name}: {chosen.fit.law.formula}  ({', '.join(symbols(chosen))}; {chosen.fit.law.source})")
    page.print(
        f"objective {chosen.fit.objective:.6g} (sum of Huber losses of the residuals of ln, delta {chosen.fit.delta:.3g}); "
        f"standard deviation of a point {100 * max(chosen.spread, chosen.deviation):.2g} %"
    )
    if points.maximize:
        page.print(f"The law describes 1 − {points.metric}.")
    table = _table(["parameter", "value", "90 % interval"], 1)
    for name, value in chosen.parameters.items():
        table.add_row(name, f"{value.value:.4g}", _interval(value, "{:.4g}"))
    page.print(table)
    if len(analysis.laws) > 1:
        page.print()
        table = _table(["law", "weight", f"error at the held-out largest {chosen.axes[0]}", "objective"], 1)
        for one in analysis.laws:
            held_out = words.MISSING if one.held_out is None else f"{100 * one.held_out:.2g} %"
            table.add_row(one.name, f"{one.weight:.2f}", held_out, f"{one.fit.objective:.4g}")
        page.print(table)
        if analysis.combined:
            page.print("The points can't choose between the laws, so predictions combine them by weight.")
    if analysis.predictions:
        page.print()
        table = _table(["prediction", points.metric, "90 % interval of the law", "of the best of a search"], 1)
        for told in analysis.predictions:
            table.add_row(
                place(told.at), words.score(told.law.value), _interval(told.law, "{:.4f}"), _interval(told.run, "{:.4f}")
            )
        page.print(table)
        for told in analysis.predictions:
            if told.beyond > FAR:
                page.print(
                    f"{place(told.at)} is {told.beyond:.3g} times the largest of the points: no interval covers a law that changes."
                )
    if analysis.trends:
        page.print()
        places = [prediction.at for prediction in analysis.predictions]
        table = _table(["best setting", "exponent, 90 % interval", *(place(at) for at in places)], 1)
        for trend in analysis.trends:
            exponents = "; ".join(
                f"{axis}^{value:.2f} ({low:.2f} … {high:.2f})"
                for axis, (value, low, high) in ((axis, trend.law.exponent(i)) for i, axis in enumerate(trend.axes))
            )
            best = [trend.at(at) for at in places]
            table.add_row(trend.setting, exponents, *(words.MISSING if one is None else _best(one) for one in best))
        page.print(table)


def _best(found: tuple[float, float, float]) -> str:
    value, low, high = found
    return f"{value:.2g} ({low:.2g} … {high:.2g})"


def symbols(one: FittedLaw) -> list[str]:
    """The meaning of the law's letters: 'N = n_params'."""
    letters = ("N", "D") if len(one.axes) == 2 else ("X",) if "X" in one.fit.law.formula else ("D",)
    return [f"{letter} = {axis}" for letter, axis in zip(letters, one.axes, strict=True)]


def _interval(value: Range, shown: str) -> str:
    low, high = ("no limit" if end is None else shown.format(end) for end in (value.low, value.high))
    return f"{low} … {high}"


def _table(columns: list[str], left: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


# ---- plot -------------------------------------------------------------------------------------------------------------------


def check_plot_path(path: Path) -> None:
    """Raise UserError if the plot can't be written, before any fit."""
    if path.suffix.lower() not in PLOTS:
        raise UserError(f"--plot {path}: this kind of image is not supported", f"write a name that ends in {', '.join(PLOTS)}")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: {path.parent} is not a folder", "create it first")


def plot_scaling(analysis: Analysis, path: Path) -> None:
    """Plot points, the heaviest law's curves with their bands, predictions, and the residuals.

    Raises:
        OutsideError: the file can't be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    points, chosen = analysis.points, analysis.chosen
    x = points.axis(chosen.axes[0])
    y = points.shown(points.log_y)
    style = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, (above, below) = plt.subplots(2, 1, figsize=(9, 8), sharex=True, height_ratios=[3, 1], layout="constrained")
        drawn, residuals = curves(analysis), 100 * chosen.fit.residuals
        seconds = points.axis(chosen.axes[1]) if len(chosen.axes) == 2 else np.ones(len(x))
        every = np.log([*seconds, *(curve.second or 1.0 for curve in drawn)])
        shade = plt.get_cmap("viridis")(0.05 + 0.8 * (every - every.min()) / max(float(np.ptp(every)), 1e-9))
        for curve, colour in zip(drawn, shade[len(x) :], strict=True):
            label = None if curve.second is None else f"{chosen.axes[1]} {words.count(curve.second)}"
            above.plot(curve.x, curve.value, color=colour, label=label)
            above.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        above.scatter(x, y, c=shade[: len(x)], s=20, zorder=3)
        below.scatter(x, residuals, c=shade[: len(x)], s=20)
        reach = max(1.1 * float(np.abs(residuals).max()), SMALLEST)
        below.set_ylim(-reach, reach)
        for told in analysis.predictions:
            ends = [[told.law.value - (told.run.low or told.law.value)], [(told.run.high or told.law.value) - told.law.value]]
            if chosen.axes[0] in told.at:
                above.errorbar(
                    [told.at[chosen.axes[0]]], [told.law.value], yerr=np.abs(ends), fmt="s", color="tab:red", capsize=4
                )
        above.set_xscale("log")
        above.set_ylabel(points.metric)
        above.set_title(f"{chosen.name}: {chosen.fit.law.formula}")
        if len(drawn) > 1:
            above.legend(frameon=False, fontsize=10)
        below.axhline(0, color="0.6", linewidth=1)
        below.set_ylabel("residual of ln, %")
        below.set_xlabel(chosen.axes[0])
        try:
            figure.savefig(path, dpi=110)
        except OSError as error:
            raise OutsideError(f"{path}: can't be written: {error.strerror or error}", "choose another file") from None
        finally:
            plt.close(figure)
