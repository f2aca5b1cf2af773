"""Reasons not to fit: points that can't carry a law, and the trials that would mend it for the least GPU hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalesweep.costs import FLOPS_PER_GPU_SECOND
from scalesweep.scaling.laws import Law
from scalesweep.scaling.points import Points

SIZES = 3  # distinct values of each axis that a law uses
RANGE = 3.0  # the largest ÷ the smallest


@dataclass(frozen=True)
class Refusal:
    """Why no law is fitted.

    Attributes:
        reasons: sentences.
        mend: cells to add, by axis. `trials`: of each. `gpu_hours`: of all; None where size or data is unknown.
    """

    reasons: tuple[str, ...]
    mend: tuple[Mapping[str, float], ...] = ()
    trials: int = 1
    gpu_hours: float | None = None


def refusal(points: Points, laws: Sequence[tuple[str, Law, tuple[str, ...]]]) -> Refusal | None:
    """Why the points can't carry any of the laws, each with its axes; None if they can."""
    name, law, axes = min(laws, key=lambda one: len(one[1].parameters))
    reasons = []
    for axis in axes:
        values = points.axis(axis)
        known = np.unique(values[np.isfinite(values)])
        if not len(known):
            reasons.append(f"the law {name} needs {axis}, which the points do not have")
        elif len(known) < SIZES:
            reasons.append(f"{axis} has {len(known)} of the {SIZES} values that a law needs at least")
        elif known[-1] / known[0] < RANGE:
            reasons.append(f"{axis} spans a factor of {known[-1] / known[0]:.2g}; a law needs {RANGE:g} at least")
    needed = len(law.parameters) + (0 if points.scatter is not None else 1)
    if not reasons and len(points.cells) < needed:
        reasons.append(
            f"the law {name} has {len(law.parameters)} parameters and needs {needed} points; there are {len(points.cells)}"
        )
    if not reasons:
        return None
    return with_mend(points, axes, reasons)


def with_mend(points: Points, axes: Sequence[str], reasons: Sequence[str]) -> Refusal:
    """The refusal with the cheapest cells that would give each axis enough values over enough range: smaller ones than there are."""
    trials = int(np.median([len(cell.trials) for cell in points.cells]))
    wanted: dict[str, list[float]] = {}
    for axis in axes:
        values = points.axis(axis)
        known = np.unique(values[np.isfinite(values)])
        if not len(known):
            return Refusal(tuple(reasons))
        missing = max(SIZES - len(known), 1 if known[-1] / known[0] < RANGE else 0)
        if missing:
            least = min(known[-1] / RANGE, known[0] / 1.5**missing)
            wanted[axis] = [float(value) for value in np.geomspace(least, known[0], missing + 1)[:-1]]
    cells: list[dict[str, float]] = []
    if wanted:
        base = {axis: [*wanted.get(axis, []), *map(float, np.unique(points.axis(axis)))] for axis in axes}
        mesh = np.array(np.meshgrid(*base.values(), indexing="ij")).reshape(len(axes), -1).T
        new = [dict(zip(axes, map(float, row), strict=True)) for row in mesh]
        cells = [cell for cell in new if any(cell[axis] in wanted.get(axis, []) for axis in axes)]
    hours = [gpu_hours(points, cell) for cell in cells]
    known_hours = [hour for hour in hours if hour is not None]
    total = trials * sum(known_hours) if cells and len(known_hours) == len(cells) else None
    return Refusal(tuple(reasons), tuple(cells), trials, total)


def gpu_hours(points: Points, cell: Mapping[str, float]) -> float | None:
    """GPU hours of one trial in a cell: as the points' own for as many FLOPs, else 6 · size · tokens FLOPs at 1e14 per second."""
    first = points.cells[0]
    size = cell.get("n_params", first.axes.get("n_params"))
    data = next(
        (cell.get(axis, first.axes.get(axis)) for axis in ("tokens", "examples") if axis in cell or axis in first.axes), None
    )
    if "flops" in cell:
        return cell["flops"] / FLOPS_PER_GPU_SECOND / 3600
    if size is None or data is None:
        return None
    known = []
    for one in points.cells:
        seconds = [trial.gpu_seconds for trial in one.trials if trial.gpu_seconds]
        amount = next((one.axes[axis] for axis in ("tokens", "examples") if axis in one.axes), None)
        if seconds and amount and "n_params" in one.axes:
            known.append(float(np.median(seconds)) / (one.axes["n_params"] * amount))
    if known:
        return float(np.median(known)) * size * data / 3600
    return 6 * size * data / FLOPS_PER_GPU_SECOND / 3600 if "tokens" in first.axes else None
