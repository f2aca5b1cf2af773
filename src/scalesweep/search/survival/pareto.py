"""The survival rule `pareto`: metric and cost together (MO-ASHA: Schmucker et al., 2021, arXiv 2106.12639)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from scalesweep.search.survival import BaseRule, Point


class Rule(BaseRule):
    """Uses the rank in `pareto_order` instead of the metric."""

    def first(
        self,
        names: Collection[str],
        points: Mapping[str, Point],
        order: Sequence[tuple[float, str]],  # noqa: ARG002
    ) -> tuple[str, int]:
        ranked = pareto_order(points)
        first = min(names, key=ranked.index)
        return first, ranked.index(first)

    def passes(
        self,
        trial: str,
        here: Point,
        there: Mapping[str, Point],
        peers: Sequence[tuple[float, str]],  # noqa: ARG002
        reduction_factor: float,
    ) -> tuple[bool, float | None]:
        together = {**there, trial: here}
        return pareto_order(together).index(trial) <= len(together) / reduction_factor, None


def pareto_order(points: Mapping[str, Point]) -> list[str]:
    """All trials ordered by value and cost together, best first, as in MO-ASHA (Schmucker et al., 2021).

    Fronts of the non-dominated sorting follow one another. Within a front the order is an ε-net: first the trial with the
    best value, then always the trial farthest from those chosen, both axes scaled to the range at the rung. So the first few
    trials cover the front.
    """
    finite = {name: point for name, point in points.items() if math.isfinite(point.value) and math.isfinite(point.cost)}
    order: list[str] = []
    for front in _fronts(finite):
        order += _spread(front, finite)
    return order + sorted(points.keys() - finite.keys())


def _fronts(points: Mapping[str, Point]) -> list[list[str]]:
    fronts: list[list[str]] = []
    cheapest: list[float] = []  # lowest cost of each front so far; ascending
    previous: tuple[Point, int] | None = None
    # From the best value down, a front dominates a point exactly if its cheapest member costs no more.
    for name in sorted(points, key=lambda name: (-points[name].value, points[name].cost, name)):
        point = points[name]
        at = previous[1] if previous is not None and previous[0] == point else bisect_right(cheapest, point.cost)
        if at == len(fronts):
            fronts.append([])
            cheapest.append(point.cost)
        fronts[at].append(name)
        cheapest[at] = point.cost
        previous = point, at
    return fronts


def _spread(front: Sequence[str], points: Mapping[str, Point]) -> list[str]:
    """Order a front farthest-first: each trial is the farthest from those before it. `front` begins with the best value."""
    every = np.array([(point.value, point.cost) for point in points.values()])
    span = np.ptp(every, axis=0)
    places = np.array([(points[name].value, points[name].cost) for name in front]) / np.where(span > 0, span, 1.0)
    distance = np.full(len(front), np.inf)
    order, at = [0], 0
    while len(order) < len(front):
        distance = np.minimum(distance, np.linalg.norm(places - places[at], axis=1))
        distance[at] = -1.0
        at = int(distance.argmax())
        order.append(at)
    return [front[index] for index in order]
