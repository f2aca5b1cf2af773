"""Trends of the optimal settings over size and data, as power laws: setting = c · N^a, or c · N^a · D^b.

A cell's optimum is the lowest point of a parabola through its trials in the setting's logarithm, or its best trial where there is no
such point (as approach 2 of Hoffmann et al., 2022, finds the best size). Exponents come from least squares on logarithms, with
intervals of Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalesweep.scaling.intervals import quantile
from scalesweep.scaling.points import Cell, Points

SETTINGS = (
    *("learning_rate", "global_batch_size", "unfreeze_fraction", "lora_rank"),
    *("weight_decay", "dropout", "label_smoothing_factor", "warmup_ratio"),
)  # `unfreeze_fraction`: the cadence as a share of the run, whatever its unit in the sweep
VALUES = 4  # of a setting in a cell, for a parabola
CELLS = 3  # with an optimum, for a trend


@dataclass(frozen=True)
class PowerLaw:
    """ln y = coefficients · (1, ln x), with what its intervals need.

    Attributes:
        coefficients: constant, then one exponent per axis.
        covariance: of the coefficients, (1 + axes, 1 + axes), for the estimated variance. `freedom`: of that.
        centre: means of ln x, on which the constant is centred, (axes,).
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    freedom: float
    centre: np.ndarray

    def exponent(self, axis: int = 0) -> tuple[float, float, float]:
        """An exponent and the ends of its interval."""
        value, error = float(self.coefficients[1 + axis]), math.sqrt(float(self.covariance[1 + axis, 1 + axis]))
        reach = float(quantile(self.freedom)) * error
        return value, value - reach, value + reach

    def at(self, x: Sequence[float]) -> tuple[float, float, float]:
        """The value at a place, (axes,), and the ends of its interval."""
        row = np.concatenate([[1.0], np.log(np.asarray(x, dtype=float)) - self.centre])
        value = float(row @ self.coefficients)
        reach = float(quantile(self.freedom)) * math.sqrt(float(row @ self.covariance @ row))
        return math.exp(value), math.exp(min(value - reach, 700)), math.exp(min(value + reach, 700))


def power_law(x: np.ndarray, y: np.ndarray, errors: np.ndarray | None = None) -> PowerLaw:
    """Fit a power law by least squares on logarithms.

    Args:
        x: (points, axes), above 0.
        y: (points,), above 0.
        errors: standard deviations of ln(y), (points,), by which the points are weighted; default: all alike.
    """
    centre = np.log(x).mean(axis=0)
    design = np.column_stack([np.ones(len(y)), np.log(x) - centre])
    weights = np.ones(len(y)) if errors is None else 1 / errors**2
    information = design.T @ (design * weights[:, None])
    coefficients = np.linalg.solve(information, design.T @ (weights * np.log(y)))
    freedom = len(y) - design.shape[1]
    residuals = np.log(y) - design @ coefficients
    variance = float(weights @ residuals**2) / freedom if freedom > 0 else math.nan
    return PowerLaw(coefficients, np.linalg.inv(information) * variance, float(freedom), centre)


@dataclass(frozen=True)
class Trend:
    """The trend of one setting.

    Attributes:
        axes: those that vary among the cells with an optimum.
        optima: the setting's best value in each of these cells, and the cells' places: (cells,), (cells, axes).
    """

    setting: str
    axes: tuple[str, ...]
    law: PowerLaw
    optima: np.ndarray
    places: np.ndarray

    def at(self, place: Mapping[str, float]) -> tuple[float, float, float] | None:
        """The setting's best value at a place with its interval; None where the place lacks an axis."""
        return self.law.at([place[axis] for axis in self.axes]) if all(axis in place for axis in self.axes) else None


def trends(points: Points) -> list[Trend]:
    """The trends of all settings that vary within at least `CELLS` cells of different size or data."""
    found = []
    for setting in SETTINGS:
        optima = [(cell, best) for cell in points.cells if (best := optimum(cell, setting)) is not None]
        axes = [
            axis
            for axis in ("n_params", points.data)
            if axis is not None
            and len({cell.axes.get(axis) for cell, _ in optima}) >= CELLS
            and all(axis in cell.axes for cell, _ in optima)
        ]
        if not axes or len(optima) < len(axes) + 2:
            continue
        places = np.array([[cell.axes[axis] for axis in axes] for cell, _ in optima])
        values = np.array([best for _, best in optima])
        found.append(Trend(setting, tuple(axes), power_law(places, values), values, places))
    return found


def optimum(cell: Cell, setting: str) -> float | None:
    """The best value of a setting in a cell; None where its trials have fewer than two values above 0."""
    best: dict[float, float] = {}
    for trial in cell.trials:
        value = trial.settings.get(setting)
        if isinstance(value, bool | str) or value is None or not value > 0:
            continue
        best[float(value)] = min(best.get(float(value), math.inf), trial.log_value)
    if len(best) < 2:
        return None
    h, y = np.log(np.array(list(best))), np.array(list(best.values()))
    lowest = float(h[y.argmin()])
    if len(best) < VALUES:
        return math.exp(lowest)
    near = np.argsort(y)[: max(VALUES, len(y) // 2)]
    curve, slope, _ = np.polyfit(h[near] - lowest, y[near], 2)
    vertex = lowest - slope / (2 * curve) if curve > 0 else math.inf
    return math.exp(vertex) if h.min() <= vertex <= h.max() else math.exp(lowest)
