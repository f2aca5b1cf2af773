"""A law for error rates, which stay between 0 and 1: error = E + (1 − E) · s/(1 + s) with s = A/N^α + B/D^β, or s = A/X^α.

Where s is small, this is the additive law (or the saturating one); where s is large, the error saturates at 1. Fits of task
accuracies use a sigmoid likewise (Bhagia et al., 2024, arXiv 2412.04403).
"""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.laws.hoffmann import HOFFMANN
from scalesweep.scaling.laws.law import Law, Parameter, log_sum
from scalesweep.scaling.laws.saturating import SATURATING

SPAN = 8.0  # natural logarithms by which a term may exceed 1 at the centre


class Bounded:
    """Coefficients and parameters are those of the law without the bound. An accuracy is 1 − the error."""

    name = "bounded"
    source = "Bhagia et al., 2024, arXiv 2412.04403"

    def __init__(self, unbounded: Law, formula: str) -> None:
        self._unbounded, self.formula = unbounded, formula
        self.axes: int = unbounded.axes
        self.parameters: tuple[Parameter, ...] = unbounded.parameters

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e = theta[:, 0, None]
        terms = [theta[:, 1, None] - theta[:, 1 + self.axes, None] * u[..., 0]]
        if self.axes == 2:
            terms.append(theta[:, 2, None] - theta[:, 4, None] * u[..., 1])
        log_s, shares = log_sum(terms)
        floor = np.exp(e)
        q = 0.5 * (1 + np.tanh(log_s / 2))  # s/(1 + s)
        value = floor * (1 - q) + q
        slope = (1 - floor) * q * (1 - q) / value  # of the logarithm by ln s
        parts = [slope * share for share in shares]
        slopes = [floor * (1 - q) / value, *parts, *(-part * u[..., axis] for axis, part in enumerate(parts))]
        return np.log(value), np.stack(slopes, axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._unbounded.described(theta, centre)

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._unbounded.bounds(log_y, u)
        low, high = low.copy(), high.copy()
        high[:, 0] = np.minimum(high[:, 0], -1e-6)
        high[:, 1 : 1 + self.axes] = SPAN
        return low, high

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:
        error = np.exp(np.minimum(log_y, -1e-3))
        return self._unbounded.starts(np.log(error / (1 - 0.9 * error)), u)


BOUNDED = Bounded(HOFFMANN, "E + (1 - E)*s/(1 + s), s = A/N^alpha + B/D^beta")
BOUNDED_IN_ONE = Bounded(SATURATING, "E + (1 - E)*s/(1 + s), s = A/X^alpha")
