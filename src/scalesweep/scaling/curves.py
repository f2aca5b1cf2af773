"""A law's curves through the points with their bands, for plots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalesweep.scaling.analysis import Analysis, ends

PLACES = 16  # of a curve
FURTHER = 4.0  # times the largest place
CURVES = 6  # at most; of more, those evenly spaced are taken


@dataclass(frozen=True)
class Curve:
    """The law along its first axis, at one value of the second.

    Attributes:
        second: value on the second axis; None for a law in one axis.
        x, value, low, high: (places,), in the metric's own direction.
    """

    second: float | None
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(analysis: Analysis) -> list[Curve]:
    """The heaviest law's curves with the 90 % bands of its value, to four times the largest place, or to the furthest prediction."""
    points, chosen = analysis.points, analysis.chosen
    x = np.stack([points.axis(axis) for axis in chosen.axes], axis=-1)
    seconds: list[float | None] = [None]
    if len(chosen.axes) == 2:
        known, wanted = np.unique(x[:, 1]), {one.at[chosen.axes[1]] for one in analysis.predictions}
        seconds = [*sorted({*map(float, known[np.unique(np.linspace(0, len(known) - 1, CURVES).astype(int))]), *wanted})]
    last = max([FURTHER * x[:, 0].max(), *(one.at[chosen.axes[0]] for one in analysis.predictions)])
    steps = np.geomspace(x[:, 0].min(), last, PLACES)
    found = []
    for second in seconds:
        place = steps[:, None] if second is None else np.column_stack([steps, np.full(PLACES, second)])
        u = chosen.fit.centred(place)
        low, high = ends(chosen.fit, chosen.spread, chosen.freedom, np.full(PLACES, -1), u)
        value = np.log(chosen.fit.predict(place))
        band = sorted((points.shown(low), points.shown(high)), key=lambda line: float(line[0]))
        found.append(Curve(second, steps, points.shown(value), band[0], band[1]))
    return found
