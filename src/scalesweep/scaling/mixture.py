"""The interval of a mixture: predictions of several laws, each with a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

NORMAL = NormalDist()


def mixture(parts: Sequence[tuple[float, float, float, float]], level: float) -> tuple[float, float, float]:
    """The median and the ends of the interval of a mixture.

    Each part is a weight, an estimate, and the low and high end of its interval. It stands for a normal distribution whose two
    halves differ in width. One part alone keeps its estimate and its ends.
    """
    if len(parts) == 1:
        return parts[0][1:]
    return (_quantile(parts, 0.5, level), _quantile(parts, 0.5 - level / 2, level), _quantile(parts, 0.5 + level / 2, level))


def _quantile(parts: Sequence[tuple[float, float, float, float]], share: float, level: float) -> float:
    """The value below which this share of the mixture lies, by bisection."""
    reach = NORMAL.inv_cdf(0.5 + level / 2)
    widest = 4.0
    low = min(middle - widest * min(middle - left, 1e3) for _, middle, left, _ in parts) - 1e-12
    high = max(middle + widest * min(right - middle, 1e3) for _, middle, _, right in parts) + 1e-12

    def below(at: float) -> float:
        total = 0.0
        for weight, middle, left, right in parts:
            half = (right - middle if at > middle else middle - left) / reach
            total += weight * (
                NORMAL.cdf((at - middle) / half) if 0 < half < math.inf else 0.5 if half else float(at >= middle)
            )
        return total

    for _ in range(80):
        at = 0.5 * (low + high)
        low, high = (at, high) if below(at) < share else (low, at)
    return 0.5 * (low + high)
