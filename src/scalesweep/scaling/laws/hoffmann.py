"""The additive law of Hoffmann et al. (2022, arXiv 2203.15556, section 3.3): L = E + A/N^α + B/D^β."""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.laws.law import DECADES, EXPONENTS, Parameter, log_sum


class Hoffmann:
    """Coefficients: ln E, ln of the size term and of the data term at the centre, α, β."""

    name = "hoffmann"
    formula = "E + A/N^alpha + B/D^beta"
    source = "Hoffmann et al., 2022, arXiv 2203.15556"
    axes = 2
    parameters: tuple[Parameter, ...] = (
        Parameter("E", True),
        Parameter("A", True),
        Parameter("B", True),
        Parameter("alpha", False),
        Parameter("beta", False),
    )

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e, a, b, alpha, beta = (theta[:, i, None] for i in range(5))
        value, (floor, size, data) = log_sum([e + 0 * u[..., 0], a - alpha * u[..., 0], b - beta * u[..., 1]])
        return value, np.stack([floor, size, data, -size * u[..., 0], -data * u[..., 1]], axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = theta.copy()
        slopes = np.repeat(np.eye(5)[None], len(theta), axis=0)
        for amplitude, exponent, axis in ((1, 3, 0), (2, 4, 1)):
            values[:, amplitude] += theta[:, exponent] * centre[axis]
            slopes[:, amplitude, exponent] = centre[axis]
        return values, slopes

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        low, high = log_y.min(axis=1), log_y.max(axis=1)
        ones = np.ones_like(low)
        least = np.stack([low - DECADES, low - DECADES, low - DECADES, EXPONENTS[0] * ones, EXPONENTS[0] * ones], axis=-1)
        most = np.stack([low, high, high, EXPONENTS[1] * ones, EXPONENTS[1] * ones], axis=-1)
        return least, most

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:  # noqa: ARG002
        low, middle = log_y.min(axis=1), np.median(log_y, axis=1)
        found = []
        for floor in (0.1, 0.6, 0.9):
            for share in (0.1, 0.5, 0.9):
                for alpha, beta in ((0.15, 0.15), (0.35, 0.35), (0.2, 0.7), (0.7, 0.2), (0.8, 0.8)):
                    rest = np.log(np.maximum(np.exp(middle) - floor * np.exp(low), 1e-6 * np.exp(low)))
                    one = np.ones_like(low)
                    found.append(
                        np.stack(
                            [low + np.log(floor), rest + np.log(share), rest + np.log(1 - share), alpha * one, beta * one],
                            axis=-1,
                        )
                    )
        return np.stack(found, axis=1)


HOFFMANN = Hoffmann()
