"""Which of several models to fine-tune, told from subsets of the data.

The rectified law expects a floor, and a power law through the largest subsets expects none; their errors mostly have opposite signs.
The prediction is the geometric mean of both. The power law alone is the fast form of Lin et al. (ICML 2024, arXiv 2402.02314), with a
fixed number of points in place of their test for the end of the flat phase.

The error of a prediction has two parts. One is measured: each model's largest subset is predicted from its smaller ones. The root mean
square of these errors, over all models, grows with the logarithm of the distance. The other is half of the gap between the two laws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from scalesweep.scaling.fit import Batch, best_fits
from scalesweep.scaling.intervals import LEVEL
from scalesweep.scaling.laws import LAWS

LAST = 3  # subsets of the power phase
LEAST = 5  # subsets, which the rectified law needs
REACH = NormalDist().inv_cdf(0.5 + LEVEL / 2)  # standard deviations of an interval's half


@dataclass(frozen=True)
class Predicted:
    """The loss of a model after fine-tuning on all data, in ln(loss).

    Attributes:
        value: the prediction. `deviation`: its standard deviation; None where nothing tells it.
        power: what a plain power law through all subsets predicts.
    """

    value: float
    deviation: float | None
    power: float

    def less(self, other: Predicted) -> tuple[float, float]:
        """The 90 % interval of this value less another's; infinite where nothing tells it."""
        gap = self.value - other.value
        if self.deviation is None or other.deviation is None:
            return -math.inf, math.inf
        half = REACH * math.hypot(self.deviation, other.deviation)
        return gap - half, gap + half


def both_laws(data: np.ndarray, losses: np.ndarray, at: float) -> tuple[np.ndarray, np.ndarray]:
    """ln(loss) after fine-tuning on `at` examples by the rectified law, and by a power law through the largest subsets.

    Args:
        data: sizes of the subsets, ascending, above 0, (subsets,).
        losses: (models, subsets), above 0.

    Raises:
        ValueError: there are fewer than five subsets.
    """
    if len(data) < LEAST:
        raise ValueError(f"{len(data)} subsets: the rectified law needs five")
    (law,) = LAWS["rectified"]
    x, log_y = np.log(data), np.log(losses)
    place = np.log(at) - x.mean()
    theta, _ = best_fits(Batch.of(law, log_y, (x - x.mean())[None, :, None]), steps=200)
    rectified = law.log_value(theta, np.full((1, 1, 1), place))[0][:, 0]
    return rectified, _power_law(x[-LAST:], log_y[:, -LAST:], at)


def _power_law(x: np.ndarray, log_y: np.ndarray, at: float) -> np.ndarray:
    """ln(loss) at `at` examples by a power law through all points, by least squares. `x`: ln of the sizes."""
    centred = x - x.mean()
    slopes = log_y @ centred / (centred @ centred)
    return log_y.mean(axis=1) + slopes * (np.log(at) - x.mean())


def full_data_losses(data: np.ndarray, losses: np.ndarray, at: float) -> np.ndarray:
    """The loss of each model after fine-tuning on all data, (models,).

    Args, Raises: as `both_laws`.
    """
    rectified, power = both_laws(data, losses, at)
    return np.exp((rectified + power) / 2)


def predict_models(curves: Sequence[tuple[np.ndarray, np.ndarray]], at: float) -> list[Predicted]:
    """The loss of each model after fine-tuning on `at` examples, with its deviation.

    Args:
        curves: of each model the sizes of its subsets, ascending, and the losses there: at least five.

    Raises:
        ValueError: a model has fewer than five subsets.
    """
    alike: dict[tuple[float, ...], list[int]] = {}  # models with subsets of the same sizes are fitted together
    for place, (data, _) in enumerate(curves):
        alike.setdefault(tuple(map(float, data)), []).append(place)
    told: dict[int, tuple[float, float, float, float]] = {}
    held_out: list[float] = []  # errors at the largest subset, each divided by its distance from the next
    for sizes, places in alike.items():
        data, losses = np.array(sizes), np.stack([curves[place][1] for place in places])
        if len(data) > LEAST:
            errors = np.log(full_data_losses(data[:-1], losses[:, :-1], data[-1]) / losses[:, -1])
            held_out += list(errors / math.log(data[-1] / data[-2]))
        rectified, power = both_laws(data, losses, at)
        plain, far = _power_law(np.log(data), np.log(losses), at), math.log(at / data[-1])
        for row, place in enumerate(places):
            told[place] = float(rectified[row]), float(power[row]), float(plain[row]), far
    grows = math.sqrt(float(np.mean(np.square(held_out)))) if held_out else None
    found = []
    for place in range(len(curves)):
        one, other, beside, far = told[place]
        deviation = None if grows is None else math.hypot(grows * far, (one - other) / 2)
        found.append(Predicted((one + other) / 2, deviation, beside))
    return found
