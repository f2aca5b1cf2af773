"""The rectified law of fine-tuning (Lin et al., ICML 2024, arXiv 2402.02314): L(D) = B/(D_l + D^β) + E.

D_l, the data that pre-training is worth, makes a flat first phase: the loss falls as a power only once D^β exceeds it.
"""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.laws.law import DECADES, EXPONENTS, Parameter, log_sum


class Rectified:
    """Coefficients: ln E, ln B and ln D_l, both divided by D^β at the centre, and β."""

    name = "rectified"
    formula = "E + B/(D_l + D^beta)"
    source = "Lin et al., ICML 2024, arXiv 2402.02314"
    axes = 1
    parameters: tuple[Parameter, ...] = (
        Parameter("E", True),
        Parameter("B", True),
        Parameter("D_l", True),
        Parameter("beta", False),
    )

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e, b, flat, beta = (theta[:, i, None] for i in range(4))
        x = u[..., 0]
        denominator, (before, grown) = log_sum([flat + 0 * x, beta * x])
        value, (floor, rest) = log_sum([e + 0 * x, b - denominator])
        return value, np.stack([floor, rest, -rest * before, -rest * grown * x], axis=-1)

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = theta.copy()
        values[:, 1:3] += theta[:, 3:] * centre[0]
        slopes = np.repeat(np.eye(4)[None], len(theta), axis=0)
        slopes[:, 1:3, 3] = centre[0]
        return values, slopes

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = log_y.min(axis=1), log_y.max(axis=1)
        ones = np.ones_like(low)
        span = EXPONENTS[1] * float(np.abs(u).max())
        least = np.stack([low - DECADES, low - DECADES, -span * ones, EXPONENTS[0] * ones], axis=-1)
        return least, np.stack([low, high + span, span * ones, EXPONENTS[1] * ones], axis=-1)

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:
        low, high, one = log_y.min(axis=1), log_y.max(axis=1), np.ones(len(log_y))
        first, last = float(u.min()), float(u.max())
        found = []
        for floor in (0.05, 0.5, 0.9):
            gap = np.log(np.maximum(np.exp(high) - floor * np.exp(low), 1e-6 * np.exp(low)))
            for beta in (0.2, 0.5, 0.9):
                for place in (0.0, 0.4, 0.7):  # of the end of the flat phase, between the first point and the last
                    flat = beta * (first + place * (last - first))
                    found.append(
                        np.stack([low + np.log(floor), gap + np.logaddexp(flat, beta * first), flat * one, beta * one], axis=-1)
                    )
        return np.stack(found, axis=1)


RECTIFIED = Rectified()
