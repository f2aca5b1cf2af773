"""Reasons not to fit: points that can't carry a law, and the trials that would mend it for the least GPU hours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalesweep.costs import FLOPS_PER_GPU_SECOND
from scalesweep.scaling.laws import Law
from scalesweep.scaling.points import Cell, Points

SIZES = 3  # distinct values of each axis that a law uses
VISIBLE = 3.0  # standard deviations of a cell, by which the metric must change over all cells
LONGER = 3.0  # times the tokens, of runs that were still improving
APART = 2  # cells that make size and data vary apart
RANGE = 3.0  # the largest ÷ the smallest


@dataclass(frozen=True)
class Refusal:
    """Why no law is fitted.

    Attributes:
        reasons: sentences.
        mend: cells to add, by axis. `trials`: of each. `length`: of a run, over that of the runs there are. `gpu_hours`: of all; None where
            nothing tells them.
    """

    reasons: tuple[str, ...]
    mend: tuple[Mapping[str, float], ...] = ()
    trials: int = 1
    length: float = 1.0
    gpu_hours: float | None = None


def refusal(points: Points, laws: Sequence[tuple[str, Law, tuple[str, ...]]]) -> Refusal | None:
    """Why the points can't carry any of the laws, each with its axes; None if they can."""
    name, law, axes = min(laws, key=lambda one: len(one[1].parameters))
    reasons = []
    for axis in axes:
        known = _known(points, axis)
        if not len(known):
            reasons.append(f"the law {name} needs {axis}, which the points do not have")
        elif len(known) < SIZES:
            reasons.append(f"{axis} has {len(known)} of the {SIZES} values that a law needs at least")
        elif known[-1] / known[0] < RANGE:
            reasons.append(f"{axis} spans a factor of {known[-1] / known[0]:.2g}; a law needs {RANGE:g} at least")
    if not reasons:
        reasons += _tangled(points, name, law, axes)
    if points.unfinished > len(points.cells) / 2 and not any(axis in ("tokens", "flops") for axis in axes):
        reasons.append(
            f"the best trials of {points.unfinished} of {len(points.cells)} cells were still improving at their end, so their values are those "
            "of short runs"
        )
    needed = len(law.parameters) + (0 if points.scatter is not None else 1)
    if not reasons and len(points.cells) < needed:
        reasons.append(
            f"the law {name} has {len(law.parameters)} parameters and needs {needed} points; there are {len(points.cells)}"
        )
    change, scatter = float(np.ptp(points.log_y)), points.scatter or 0.0
    if not reasons and change <= VISIBLE * scatter:
        reasons.append(
            f"{points.metric} differs by {100 * change:.2g} % between the cells, and one cell by {100 * scatter:.2g} % from search to "
            "search: there is no trend to see"
        )
    if not reasons:
        return None
    return with_mend(points, axes, reasons, needed)


def _tangled(points: Points, name: str, law: Law, axes: Sequence[str]) -> list[str]:
    """Why the axes that vary are not those of the law; empty if they are."""
    if law.axes == 2 and not points.crossed:
        return [
            f"{axes[0]} and {axes[1]} vary together, so their effects can't be told apart; --law saturating fits one of them"
        ]
    values = points.axis(axes[0])
    if law.axes == 1 and len(np.unique(values)) < len(values):
        other = [axis for axis in points.varied() if axis not in axes]
        return [f"the law {name} has one axis, {axes[0]}, but {' and '.join(other)} varies too; --law hoffmann has both"]
    return []


def with_mend(points: Points, axes: Sequence[str], reasons: Sequence[str], needed: int) -> Refusal:
    """The refusal with the cheapest cells that would mend it.

    Each missing value of an axis, below those there are, is tried once, at the smallest values of the others. Further cells of the
    grid are added, the cheapest first, until there are enough points and size and data vary apart.

    Args:
        needed: points that the smallest law needs.
    """
    trials = int(np.median([len(cell.trials) for cell in points.cells]))
    wanted: dict[str, list[float]] = {}
    for axis in axes:
        known = _known(points, axis)
        if not len(known):
            return Refusal(tuple(reasons))
        missing = max(SIZES - len(known), 1 if known[-1] / known[0] < RANGE else 0)
        least = min(known[-1] / RANGE, known[0] / 1.5**missing)
        wanted[axis] = [float(value) for value in np.geomspace(least, known[0], missing + 1)[:-1]] if missing else []
    grid = [[*wanted[axis], *map(float, _known(points, axis))] for axis in axes]
    there = [tuple(cell.axes[axis] for axis in axes) for cell in points.cells]
    absent = sorted((place for place in itertools.product(*grid) if place not in there), key=math.prod)
    chosen: list[tuple[float, ...]] = []
    for number, axis in enumerate(axes):
        for value in wanted[axis]:
            if not any(place[number] == value for place in chosen):
                chosen.append(next(place for place in absent if place[number] == value))
    rest = [place for place in absent if place not in chosen]
    apart = APART if len(axes) > 1 and not points.crossed and not chosen else 0
    chosen += rest[: max(needed - len(there) - len(chosen), apart, 0)]
    cells = [dict(zip(axes, place, strict=True)) for place in chosen]
    length = 1.0
    if points.unfinished > len(points.cells) / 2:
        cells += [{axis: cell.axes[axis] for axis in axes} for cell in points.cells]
        trials, length = 1, LONGER
    hours = _sum(gpu_hours(points, cell) for cell in cells for _ in range(trials))
    return Refusal(tuple(reasons), tuple(cells), trials, length, None if hours is None else length * hours)


def _sum(hours: Iterable[float | None]) -> float | None:
    """The sum; None if one is unknown, or there are none."""
    found = list(hours)
    known = [hour for hour in found if hour is not None]
    return sum(known) if known and len(known) == len(found) else None


def gpu_hours(points: Points, place: Mapping[str, float]) -> float | None:
    """GPU hours of one trial at a place; None where nothing tells them.

    They grow with size times data from those of the points: their GPU seconds, or their FLOPs at 1e14 per second. Without either, a
    run takes 6 · size · tokens FLOPs (Kaplan et al., 2020, arXiv 2001.08361).
    """
    if "flops" in place:
        return place["flops"] / FLOPS_PER_GPU_SECOND / 3600
    here = {**points.cells[0].axes, **place}
    known = [cost / _work(cell.axes) for cell in points.cells if (cost := _gpu_seconds(cell)) is not None]
    if known:
        return float(np.median(known)) * _work(here) / 3600
    if "n_params" in here and "tokens" in here:
        return 6 * here["n_params"] * here["tokens"] / FLOPS_PER_GPU_SECOND / 3600
    return None


def _work(at: Mapping[str, float]) -> float:
    """Size times data, as far as they are known."""
    return at.get("n_params", 1.0) * at.get("tokens", at.get("examples", 1.0))


def _gpu_seconds(cell: Cell) -> float | None:
    seconds = [trial.gpu_seconds for trial in cell.trials if trial.gpu_seconds]
    if seconds:
        return float(np.median(seconds))
    return cell.axes["flops"] / FLOPS_PER_GPU_SECOND if "flops" in cell.axes else None


def _known(points: Points, axis: str) -> np.ndarray:
    """The distinct values on an axis, ascending."""
    values = points.axis(axis)
    return np.unique(values[np.isfinite(values)])
