"""Statistics of simulated searches: the score of a run, and differences between two searches with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CHECKPOINTS = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the budget
OFFSET = 0.01  # regrets far below it count alike
NOTHING = 1.0  # regret without a pick or with a diverged one: that of the median configuration
GOOD = 0.05  # regret that counts as found, for the illustration in GPU hours
RESAMPLES = 1000
LOW, HIGH = 5, 95  # percentiles of intervals
NORMAL_95 = 1.96  # standard deviations to either side that hold 95 % of a normal distribution


def filled(regrets: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Regret curves [seeds, points], with `NOTHING` for missing values."""
    curves = np.array(regrets, float)
    return np.where(np.isfinite(curves), curves, NOTHING)


def score(curves: np.ndarray) -> np.ndarray:
    """The score of each regret curve [..., points], whose last point is at the end of the budget: the mean over the checkpoints
    of log10(regret + 0.01). Lower is better; −0.30 is half the regret."""
    points = curves.shape[-1]
    at = [round(share * points) - 1 for share in CHECKPOINTS]
    return np.log10(np.maximum(curves[..., at], 0.0) + OFFSET).mean(axis=-1)


def resampled(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], resamples: int = RESAMPLES) -> np.ndarray:
    """Differences of mean scores, ours − theirs, over families and seeds drawn with replacement, float [resamples].

    Args:
        ours: the scores of each family's seeds. The seeds of two searches are not pairs, because each has its own stream.
    """
    rng, count = np.random.default_rng(3), len(ours)
    chosen = rng.integers(count, size=(resamples, count))
    drawn = np.empty(chosen.shape)
    for family, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        there = chosen == family
        shape = int(there.sum())
        means = [scores[rng.integers(len(scores), size=(shape, len(scores)))].mean(axis=1) for scores in (one, other)]
        drawn[there] = means[0] - means[1]
    return drawn.mean(axis=1)


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[float]:
    """[mean, low, high] of the difference ours − theirs; each family counts alike."""
    mean = float(np.mean([one.mean() - other.mean() for one, other in zip(ours, theirs, strict=True)]))
    return [round(value, 4) for value in (mean, *map(float, np.percentile(resampled(ours, theirs), [LOW, HIGH])))]


def share_to(curve: np.ndarray, target: float = GOOD) -> float:
    """The first share of the budget at which a regret curve is at or below `target`; infinite if it never is."""
    below = curve <= target
    return float((np.argmax(below) + 1) / len(curve)) if below.any() else math.inf
