"""The trade-off between metric and cost in a sweep: the Pareto front of the trials and its hypervolume."""

from __future__ import annotations

from dataclasses import dataclass

from scalesweep.record.ranking import rank
from scalesweep.record.schema import Record


@dataclass(frozen=True)
class FrontPoint:
    """A trial's ranked metric and its total cost; `dollars` is None without a price."""

    trial: str
    metric: float
    gpu_seconds: float
    dollars: float | None
    wall_seconds: float


def pareto_front(record: Record) -> list[FrontPoint]:
    """The trials that no other trial beats in both metric and GPU seconds, the cheapest first."""
    rows = [row for row in rank(record) if row.pareto and row.metric is not None]
    front = [
        FrontPoint(
            row.trial.name,
            row.metric,
            row.trial.gpu_seconds,
            row.trial.last.dollars if row.trial.last else None,
            row.trial.wall_seconds,
        )
        for row in rows
        if row.metric is not None
    ]
    return sorted(front, key=lambda point: point.gpu_seconds)


def hypervolume(record: Record) -> float | None:
    """The exact area between the front of metric and GPU seconds and the reference point (Zitzler & Thiele, 1998, for two axes).

    The reference point has the worst metric and the highest cost of all ranked trials. So the area has units of metric × GPU
    seconds, and is comparable between states of one sweep, not between sweeps. None if no trial is ranked.
    """
    sign = 1.0 if record.minimize else -1.0
    points = []
    for row in rank(record):
        if row.rank is None or row.metric is None:
            continue
        points.append((row.trial.gpu_seconds, sign * row.metric))
    if not points:
        return None
    dearest, level = max(cost for cost, _ in points), max(metric for _, metric in points)
    area = 0.0
    for cost, metric in sorted(points):
        if metric < level:
            area += (dearest - cost) * (level - metric)
            level = metric
    return area
