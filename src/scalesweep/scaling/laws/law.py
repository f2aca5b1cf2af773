"""The protocol of a scaling law.

A law predicts the logarithm of a loss (or of an error rate) from the logarithms of size and data. It works on arrays of many
fits at once: `theta` has the shape (fits, coefficients), `u` has the shape (fits or 1, points, axes). `u` is centred, so that 0 is
the geometric mean of the points' size or data; the coefficients of a fit are then nearly independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

EXPONENTS = (0.02, 3.0)  # least and largest; every published exponent lies between
DECADES = 14.0  # natural logarithms between the least value of a point and what counts as 0


@dataclass(frozen=True)
class Parameter:
    """A published parameter of a law. `logged`: fits and intervals work with its logarithm, because it is above 0."""

    name: str
    logged: bool


class Law(Protocol):
    """A scaling law; see the module for shapes."""

    name: str
    formula: str
    source: str  # paper
    axes: int  # 1: size, data or compute; 2: size and data
    parameters: tuple[Parameter, ...]

    def log_value(self, theta: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The logarithm of the value, (fits, points), and its derivatives, (fits, points, coefficients)."""
        ...

    def described(self, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The published parameters, logarithms where `logged`: (fits, parameters), and their derivatives by coefficient.

        Args:
            centre: natural logarithms of the axes' units that `u` was centred on, (axes,).
        """
        ...

    def bounds(self, log_y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest coefficients, (fits, coefficients) each, for points with the values `log_y`, (fits, points)."""
        ...

    def starts(self, log_y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """A grid of first coefficients, (fits, starts, coefficients)."""
        ...


def log_sum(terms: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logarithm of a sum of exponentials, and each one's share of the sum."""
    highest = terms[0]
    for term in terms[1:]:
        highest = np.maximum(highest, term)
    parts = [np.exp(term - highest) for term in terms]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return highest + np.log(total), [part / total for part in parts]
