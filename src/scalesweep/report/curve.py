"""Learning curves drawn with letters, for a terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from scalesweep.record import Record
from scalesweep.report import words

HEIGHT, WIDEST, NARROWEST = 10, 72, 24  # rows; columns of the plane
MARKS = "●○◆◇▲△■□"
LIMIT = 3.0  # spreads above the median: a curve that nearly diverges would flatten all others


def drawn_curves(curves: Mapping[str, Sequence[tuple[float, float]]], record: Record, width: int) -> list[str]:
    """Lines that show the metric over the fidelity, from 0 to the end of the sweep, with the rungs; empty without two values."""
    points = [(at, value) for curve in curves.values() for at, value in curve if math.isfinite(value)]
    if len(points) < 2:
        return []
    values = sorted(value for _, value in points)
    low, high = _range(values, record.minimize)
    labels = [words.score(high), words.score(low)]
    left = max(map(len, labels)) + 1
    across = max(min(width - left - 2, WIDEST), NARROWEST)
    end = max(record.manifest.max_t, max(at for at, _ in points))

    def column(at: float) -> int:
        return min(round(at / end * (across - 1)), across - 1)

    def row(value: float) -> int:
        return round((high - min(max(value, low), high)) / ((high - low) or 1) * (HEIGHT - 1))

    plane = [[" "] * across for _ in range(HEIGHT)]
    for level in record.manifest.rungs:
        for line in plane:
            line[column(level)] = "┊"
    for number, curve in enumerate(curves.values()):
        known = [(at, value) for at, value in curve if math.isfinite(value)]
        for (at, value), (after, later) in itertools.pairwise(known):
            for x in range(column(at) + 1, column(after)):
                share = (x - column(at)) / (column(after) - column(at))
                y = row(value + share * (later - value))
                if plane[y][x] in " ┊":
                    plane[y][x] = "·"
        for at, value in known:
            plane[row(value)][column(at)] = MARKS[number % len(MARKS)]
    shown = []
    for y, cells in enumerate(plane):
        label = labels[0] if y == 0 else labels[1] if y == HEIGHT - 1 else ""
        shown.append(f"{label:>{left}} ┤{''.join(cells)}".rstrip())
    shown.append(" " * left + " └" + "─" * across)
    last = words.amount(end, record.manifest.time_attr)
    shown.append(f"{'':{left}}  0{last:>{across - 1}}")
    key = [f"{MARKS[number % len(MARKS)]} {name}" for number, name in enumerate(curves)] if len(curves) > 1 else []
    shown.append(f"{'':{left}}  {record.metric}; ┊ rungs" + (f"; {', '.join(key)}" if key else ""))
    return shown


def _range(values: Sequence[float], minimize: bool) -> tuple[float, float]:
    """The lowest and the highest value to show, of sorted ones. What is far on the poor side is cut."""
    middle = values[len(values) // 2]
    spread = abs(middle - values[0 if minimize else -1]) * LIMIT
    low, high = values[0], values[-1]
    if spread:
        low, high = (low, min(high, middle + spread)) if minimize else (max(low, middle - spread), high)
    return low, high
