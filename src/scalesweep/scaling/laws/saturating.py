"""A power law in one axis with a floor, L = E + A/X^α, and without one, L = A/X^α (Hestness et al., 2017, arXiv 1712.00409)."""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.laws.law import DECADES, EXPONENTS, Parameter, log_sum


class Saturating:
    """Coefficients: ln E, ln of the other term at the centre, α."""

    name = "saturating"
    formula = "E + A/X^alpha"
    source = "Hestness et al., 2017, arXiv 1712.00409"
    axes = 1
    parameters: tuple[Parameter, ...] = (Parameter("E", True), Parameter("A", True), Parameter("alpha", False))

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e, a, alpha = (theta[:, i, None] for i in range(3))
        x = u[..., 0]
        value, (floor, rest) = log_sum([e + 0 * x, a - alpha * x])
        return value, np.stack([floor, rest, -rest * x], axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = theta.copy()
        values[:, 1] += theta[:, 2] * centre[0]
        slopes = np.repeat(np.eye(3)[None], len(theta), axis=0)
        slopes[:, 1, 2] = centre[0]
        return values, slopes

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        low, high = log_y.min(axis=1), log_y.max(axis=1)
        ones = np.ones_like(low)
        least = np.stack([low - DECADES, low - DECADES, EXPONENTS[0] * ones], axis=-1)
        return least, np.stack([low, high, EXPONENTS[1] * ones], axis=-1)

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:  # noqa: ARG002
        low, middle = log_y.min(axis=1), np.median(log_y, axis=1)
        found, one = [], np.ones_like(low)
        for floor in (0.05, 0.5, 0.8, 0.95):
            rest = np.log(np.maximum(np.exp(middle) - floor * np.exp(low), 1e-6 * np.exp(low)))
            for alpha in (0.1, 0.25, 0.5, 0.9, 1.5):
                found.append(np.stack([low + np.log(floor), rest, alpha * one], axis=-1))
        return np.stack(found, axis=1)


class Power:
    """Coefficients: ln of the value at the centre, α."""

    name = "power"
    formula = "A/X^alpha"
    source = "Hestness et al., 2017, arXiv 1712.00409"
    axes = 1
    parameters: tuple[Parameter, ...] = (Parameter("A", True), Parameter("alpha", False))

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = u[..., 0] + 0 * theta[:, :1]
        return theta[:, :1] - theta[:, 1:] * x, np.stack([np.ones_like(x), -x], axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = theta.copy()
        values[:, 0] += theta[:, 1] * centre[0]
        slopes = np.repeat(np.eye(2)[None], len(theta), axis=0)
        slopes[:, 0, 1] = centre[0]
        return values, slopes

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        low, high = log_y.min(axis=1), log_y.max(axis=1)
        least = np.stack([low - DECADES, -EXPONENTS[1] + 0 * low], axis=-1)
        return least, np.stack([high + DECADES, EXPONENTS[1] + 0 * low], axis=-1)

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:  # noqa: ARG002
        middle = np.median(log_y, axis=1)
        return np.stack([np.stack([middle, alpha + 0 * middle], axis=-1) for alpha in (0.05, 0.3)], axis=1)


SATURATING, POWER = Saturating(), Power()
