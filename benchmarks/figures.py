"""Statistics of simulated searches: GPU hours to the same regret, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

GOOD = 0.05  # regret that counts as found: 5 % of the way from the best known to the median configuration
NOTHING = 1.0  # regret without a pick or with a diverged one: that of the median configuration
RESAMPLES = 1000
LOW, HIGH = 10, 90  # percentiles of intervals


def filled(regrets: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Regret curves [seeds, points], with `NOTHING` for missing values."""
    curves = np.array(regrets, float)
    return np.where(np.isfinite(curves), curves, NOTHING)


def hours_to(grid: np.ndarray, curve: np.ndarray, target: float, for_good: bool = False) -> float:
    """The first GPU hour at which a curve is at or below `target`; infinite if it never is. A pick can become worse again:
    with `for_good`, it is the hour after which the curve stays at or below `target`."""
    below = curve <= target
    if for_good:
        below = np.logical_and.accumulate(below[::-1])[::-1]
    return float(grid[np.argmax(below)]) if below.any() else math.inf


@dataclass(frozen=True)
class Ratio:
    """One search compared with the best of others. If it never reaches the target, `ratio` is a lower bound."""

    target: float
    best: str
    best_hours: float
    hours: float  # infinite: not reached
    ratio: float

    @property
    def reached(self) -> bool:
        return math.isfinite(self.hours)


def against(grid: np.ndarray, ours: np.ndarray, others: Mapping[str, np.ndarray], for_good: bool = False) -> Ratio:
    """GPU hours of scalesweep ÷ those of the first other search at 5 % regret; curves are medians over seeds.

    If no other search reaches 5 %, the target is the lowest regret that any of them reaches, rounded up to three digits. With
    `for_good`, the hour is the one after which the curve stays at or below the target, and the lowest regret is the final one.
    """
    target = GOOD
    lowest = min(float(curve[-1] if for_good else curve.min()) for curve in others.values())
    if lowest > GOOD:
        target = rounded_up(lowest)
    hours = {name: hours_to(grid, curve, target, for_good) for name, curve in others.items()}
    best = min(hours, key=lambda name: hours[name])
    reached = hours_to(grid, ours, target, for_good)
    return Ratio(target, best, hours[best], reached, min(reached, float(grid[-1])) / hours[best])


def rounded_up(value: float, digits: int = 3) -> float:
    """`value` rounded up to a number of significant digits."""
    if value <= 0:
        return value
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale


def resampled(curves: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Medians of curves over seeds drawn with replacement, [resamples, points]."""
    count = len(curves)
    return np.array([np.median(curves[rng.integers(count, size=count)], axis=0) for _ in range(resamples)])


def ratios(grid: np.ndarray, ours: np.ndarray, others: Mapping[str, np.ndarray]) -> np.ndarray:
    """The result of `against` for each resample (first axis of every array), each with its own target and best other."""
    return np.array(
        [against(grid, ours[k], {name: curves[k] for name, curves in others.items()}).ratio for k in range(len(ours))]
    )


def interval(values: np.ndarray) -> list[float]:
    """The percentiles 10 and 90. Infinite values are ranked like others, and a percentile may be infinite."""
    low, high = np.percentile(values, [LOW, HIGH], method="nearest")
    return [float(low), float(high)]
