"""The forecast: the loss of a trial at `max_t`, from its loss at a level, which is a rung or half way to the next one.

For each transition from a level to the next one, a Bayesian ridge regression predicts the drop of the loss from the loss at the
level and from the trial's settings. The drops of all transitions ahead of a trial add up. So do their standard deviations, because
what one transition misses of a trial, the next ones mostly miss too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLIP = 3.0  # spreads from the centre, beyond which a loss at a rung counts as this far
LARGEST = 100.0  # spreads of the rung, beyond which a drop counts as this large: a trial that nearly diverges may lose 1e12
OUTLIER = 6.0  # median absolute deviations from the median, beyond which a drop counts as this large
# Prior standard deviations, in spreads of the level or of the drops, whichever is larger: of the mean drop, of the slope on the
# loss at the level, of all settings together. Two levels make the way from one rung to the next. Were their errors independent,
# these would be 1, 0.5, 0.5 and, of the noise, 0.5 for that way.
MEAN_SD, SLOPE_SD, SETTINGS_SD = 0.5**0.5, 0.5**1.5, 0.5**1.5
NOISE_SD, NOISE_WEIGHT = 0.5**1.5, 4.0  # prior noise of a drop, in spreads; its weight, in observations
CARRIED = 0.5**0.5  # share of the drop of one transition that the next one is expected to have
NARROW = 1e-6  # share of the centre, below which a spread is no spread
UNKNOWN = 1e-2  # share of the centre that stands for an unknown spread


@dataclass(frozen=True)
class Transition:
    """The regression of one transition. Losses at the rung are scaled by `centre` and `spread`; drops are in spreads.

    weights: of 1, the scaled loss, and each setting. covariance: of the weights. noise: variance of a drop.
    """

    centre: float
    spread: float
    weights: np.ndarray
    covariance: np.ndarray
    noise: float

    def rows(self, loss: np.ndarray, settings: np.ndarray) -> np.ndarray:
        scaled = np.clip((loss - self.centre) / self.spread, -CLIP, CLIP)
        return np.column_stack([np.ones(len(loss)), scaled, settings])


class Forecast:
    """The regressions of all transitions, fitted to the trials of a record."""

    def __init__(self, losses: np.ndarray, settings: np.ndarray) -> None:
        """
        Args:
            losses: [trials, rungs]; the last rung is `max_t`. NaN where a trial was not or has diverged.
            settings: [trials, settings], each around 0.
        """
        self.transitions: list[Transition] = []
        centre, spread, drop = 0.0, 1.0, 0.0  # of the rung before; the drop from there in its own unit
        for rung in range(losses.shape[1] - 1):
            here, there = losses[:, rung], losses[:, rung + 1]
            centre, spread = _better_half(here[np.isfinite(here)], centre - drop, spread if rung else 0.0)
            both = np.isfinite(here) & np.isfinite(there)
            found = _regression(here[both], there[both], settings[both], centre, spread, CARRIED * drop / spread)
            self.transitions.append(found)
            drop = float(found.weights[0]) * spread

    def at_end(self, rung: np.ndarray, loss: np.ndarray, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of the loss at `max_t`, float [n] each.

        Args:
            rung: the highest rung of each trial, int [n].
            loss: the loss there, float [n].
            settings: float [n, settings].
        """
        mean, sd = loss.astype(float), np.zeros(len(loss))
        for number, transition in enumerate(self.transitions):
            on = rung <= number
            if on.any():
                rows = transition.rows(mean[on], settings[on])
                mean[on] -= transition.spread * (rows @ transition.weights)
                spread = np.einsum("ij,jk,ik->i", rows, transition.covariance, rows)
                sd[on] += transition.spread * np.sqrt(transition.noise + spread)
        return mean, sd


def _better_half(losses: np.ndarray, centre: float, spread: float) -> tuple[float, float]:
    """The median and standard deviation of the better half of the losses at a rung. What too few losses leave open is as given;
    a `spread` of 0 is unknown too."""
    better = np.sort(losses)[: max(2, math.ceil(len(losses) / 2))]
    if len(better):
        centre = float(np.median(better))
    found = float(np.std(better)) if len(better) > 1 else 0.0
    if found > NARROW * abs(centre):
        return centre, found
    return centre, spread or UNKNOWN * max(abs(centre), 1e-9)


def _regression(
    here: np.ndarray, there: np.ndarray, settings: np.ndarray, centre: float, spread: float, drop: float
) -> Transition:
    """The regression of drops on losses and settings. `drop`: the mean of the prior of the mean drop, in spreads."""
    width = settings.shape[1]
    prior, sd = np.zeros(2 + width), np.full(2 + width, SETTINGS_SD / math.sqrt(max(width, 1)))
    prior[0], sd[:2] = drop, (MEAN_SD, SLOPE_SD)
    if not len(here):
        return Transition(centre, spread, prior, np.diag(sd**2), NOISE_SD**2)
    scaled = np.clip((here - centre) / spread, -CLIP, CLIP)
    rows, drops = np.column_stack([np.ones(len(here)), scaled, settings]), np.clip((here - there) / spread, -LARGEST, LARGEST)
    middle = np.median(drops)
    if deviation := float(np.median(np.abs(drops - middle))):
        drops = np.clip(drops, middle - OUTLIER * deviation, middle + OUTLIER * deviation)
    precision = np.diag((sd * max(1.0, float(np.std(drops)))) ** -2.0)  # what explains large differences may be large
    noise = NOISE_SD**2
    for _ in range(3):  # alternate between weights given the noise and noise given the weights
        weights = np.linalg.solve(rows.T @ rows / noise + precision, rows.T @ drops / noise + precision @ prior)
        rest = drops - rows @ weights
        noise = (NOISE_WEIGHT * NOISE_SD**2 + float(rest @ rest)) / (NOISE_WEIGHT + len(drops))
    return Transition(centre, spread, weights, np.linalg.inv(rows.T @ rows / noise + precision), noise)


def as_rows(values: Sequence[Sequence[float | None]], rungs: int) -> np.ndarray:
    """Losses by trial and rung as an array [trials, rungs], with NaN for what is missing."""
    found = np.full((len(values), rungs), np.nan)
    for row, losses in zip(found, values, strict=True):
        row[: len(losses)] = [math.nan if loss is None else loss for loss in losses]
    return found
