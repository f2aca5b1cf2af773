"""The multiplicative law of fine-tuning (Zhang et al., ICLR 2024, arXiv 2402.17193): L = A/(N^α · D^β) + E."""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.laws.law import DECADES, EXPONENTS, Parameter, log_sum


class Multiplicative:
    """Coefficients: ln E, ln of the other term at the centre, α, β."""

    name = "multiplicative"
    formula = "E + A/(N^alpha * D^beta)"
    source = "Zhang et al., ICLR 2024, arXiv 2402.17193"
    axes = 2
    parameters: tuple[Parameter, ...] = (
        Parameter("E", True),
        Parameter("A", True),
        Parameter("alpha", False),
        Parameter("beta", False),
    )

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e, a, alpha, beta = (theta[:, i, None] for i in range(4))
        value, (floor, rest) = log_sum([e + 0 * u[..., 0], a - alpha * u[..., 0] - beta * u[..., 1]])
        return value, np.stack([floor, rest, -rest * u[..., 0], -rest * u[..., 1]], axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = theta.copy()
        values[:, 1] += theta[:, 2:] @ centre
        slopes = np.repeat(np.eye(4)[None], len(theta), axis=0)
        slopes[:, 1, 2:] = centre
        return values, slopes

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        low, high = log_y.min(axis=1), log_y.max(axis=1)
        ones = np.ones_like(low)
        least = np.stack([low - DECADES, low - DECADES, EXPONENTS[0] * ones, EXPONENTS[0] * ones], axis=-1)
        return least, np.stack([low, high, EXPONENTS[1] * ones, EXPONENTS[1] * ones], axis=-1)

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:  # noqa: ARG002
        low, middle = log_y.min(axis=1), np.median(log_y, axis=1)
        found, one = [], np.ones_like(low)
        for floor in (0.1, 0.6, 0.9):
            rest = np.log(np.maximum(np.exp(middle) - floor * np.exp(low), 1e-6 * np.exp(low)))
            for alpha in (0.1, 0.3, 0.8):
                for beta in (0.1, 0.3, 0.8):
                    found.append(np.stack([low + np.log(floor), rest, alpha * one, beta * one], axis=-1))
        return np.stack(found, axis=1)


MULTIPLICATIVE = Multiplicative()
