"""The survival rules: asynchronous successive halving (ASHA; Li et al., 2018) as a pure function of the reports.

Values are "higher is better"; the caller negates a metric that is minimized. Costs are GPU seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalesweep.record import Mark
from scalesweep.record.curves import between, cost_between

Action = Literal["continue", "stop", "pause", "complete"]
Rule = Literal["metric", "by_size", "pareto"]


@dataclass(frozen=True)
class Point:
    """A trial at a rung: its value there, and its cost up to there."""

    value: float
    cost: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The decision after a report. `marks` are the rungs at which the trial was judged, the highest last (1 is the grace
    period). `cutoff` is the value required at that rung."""

    action: Action
    marks: tuple[Mark, ...] = ()
    cutoff: float | None = None

    @property
    def rung(self) -> int | None:
        return self.marks[-1].rung if self.marks else None


def rung_count(levels: Sequence[float], max_t: float) -> int:
    """The number of rungs including the end: `max_t` is the last rung even if it is not in the halving sequence."""
    return len(levels) if levels and levels[-1] >= max_t else len(levels) + 1


def draw_bracket(brackets: int, seed: int, number: int) -> int:
    """The bracket of a trial (from 0), a function of the seed and the trial's number.

    Bracket b starts at rung b + 1 (Hyperband: Li et al., 2018, arXiv 1603.06560). As in Ray's `ASHAScheduler`, the weight of
    a bracket is the exponential of its number of rungs; each bracket has one rung fewer than the one before.
    """
    weights = np.exp(-np.arange(brackets))
    return int(np.random.default_rng([seed, number, 3]).choice(brackets, p=weights / weights.sum()))


class Rungs:
    """The points recorded at each rung, which can be rebuilt from the reports of a record, and the resulting verdicts.

    Each bracket has its own rungs. A report that passes several rungs is judged at each of them in order, with the value
    interpolated at the rung. The trial stops at the first rung that it does not pass.

    - `metric` decides as Ray's `ASHAScheduler` for reports at the rungs: a trial stops if its value is below the
      (1 − 1/reduction_factor) quantile of the values recorded at the rung so far. The first trial at a rung always passes.
    - `by_size` compares only trials of the same model size at every rung except the last, where all are compared. Early
      values of different sizes differ by their speed of starting, so the order within a size is more predictive.
    - `pareto` uses the rank in `pareto_order` instead (MO-ASHA: Schmucker et al., 2021, arXiv 2106.12639).
    """

    def __init__(
        self,
        levels: Sequence[float],
        reduction_factor: float,
        max_t: float,
        rule: Rule = "metric",
        pauses: bool = False,
        size_of: Callable[[str], str] = lambda trial: "",  # noqa: ARG005
    ) -> None:
        """
        Args:
            pauses: a trial waits at each rung until it is promoted, and is never stopped there.
            size_of: returns a trial's model size, for `by_size`.
        """
        self.levels = [level for level in levels if level < max_t]
        self.end = rung_count(levels, max_t)
        self.reduction_factor = reduction_factor
        self.max_t = max_t
        self.rule = rule
        self.pauses = pauses
        self.size_of = size_of
        self.recorded: dict[int, list[dict[str, Point]]] = {}  # by bracket
        self._last: dict[str, tuple[float, Point]] = {}
        self._orders: dict[tuple[str, int, int], list[tuple[float, str]]] = {}  # best first, by size (or all), bracket and rung

    def of(self, bracket: int) -> list[dict[str, Point]]:
        """The points recorded at each rung of a bracket."""
        return self.recorded.setdefault(bracket, [{} for _ in self.levels])

    def passed(self, trial: str, fidelity: float, bracket: int = 0) -> list[int]:
        """The indices of the rungs that a trial has reached without being judged there before."""
        recorded = self.of(bracket)
        reached = range(min(bracket, len(self.levels)), len(self.levels))
        return [index for index in reached if self.levels[index] <= fidelity and trial not in recorded[index]]

    def report(self, trial: str, fidelity: float, value: float, cost: float = 0.0, bracket: int = 0) -> Verdict:
        """Judge a report and record its points at the rungs that it passed."""
        before, last = self._last.get(trial, (0.0, Point(math.nan)))
        self._last[trial] = fidelity, Point(value, cost)
        ends = fidelity >= self.max_t
        marks: list[Mark] = []
        cutoff = None
        for index in self.passed(trial, fidelity, bracket):
            level = self.levels[index]
            here = Point(
                between(before, last.value, fidelity, value, level),
                cost_between(before, last.cost, fidelity, cost, level),
            )
            passes, cutoff = self._passes(trial, here, bracket, index)
            self._keep(trial, bracket, index, here)
            marks.append(Mark(index + 1, level, here.value, here.cost))
            if not (passes or ends or self.pauses):
                return Verdict("stop", tuple(marks), cutoff)
        if ends:
            return Verdict("complete", (*marks, Mark(self.end, fidelity, value, cost)))
        if marks and self.pauses:
            return Verdict("pause", tuple(marks))
        return Verdict("continue", tuple(marks), cutoff)

    def diverged(self, trial: str, bracket: int = 0) -> None:
        """Record a diverged trial. In the promotion variant it counts as the worst at its next rung."""
        missing = [index for index in range(bracket, len(self.levels)) if trial not in self.of(bracket)[index]]
        if self.pauses and missing:
            self._keep(trial, bracket, missing[0], Point(-math.inf, math.inf))

    def restore(self, trial: str, fidelity: float, value: float, cost: float, bracket: int, marks: Sequence[Mark]) -> None:
        """Add a report that was judged before. The values of `marks` are higher-is-better, as everywhere here."""
        self._last[trial] = fidelity, Point(value, cost)
        self.of(bracket)
        for mark in marks:
            if mark.rung <= len(self.levels):
                self._keep(trial, bracket, mark.rung - 1, Point(mark.value, mark.gpu_seconds))

    def promotable(self, paused: Collection[str], closing: bool = False) -> str | None:
        """The paused trial to continue next, if any: the promotion variant of ASHA (Li et al., 2018, Alg. 2).

        From the highest rung down, this is a paused trial among the best 1/reduction_factor of all trials of its bracket that
        have reached the rung (with `by_size`, of its size).

        Args:
            closing: no new trial will start. Then all sizes are compared, because a size with few trials would wait forever.
        """
        for index in reversed(range(len(self.levels))):
            for bracket in sorted(self.recorded):
                there = self.recorded[bracket][index]
                above = self.recorded[bracket][index + 1] if index + 1 < len(self.levels) else {}
                waiting: dict[str, list[str]] = {}
                for name in paused:
                    if name in there and name not in above:
                        waiting.setdefault("" if closing else self._group(name, index), []).append(name)
                for group, names in sorted(waiting.items()):
                    order = self._orders[group, bracket, index]
                    first, place = self._first(names, there, order)
                    if place < int(len(order) / self.reduction_factor):
                        return first
        return None

    def leader(self, paused: Collection[str]) -> str | None:
        """The best of the paused trials at the highest rung."""
        for index in reversed(range(len(self.levels))):
            there = {name: rungs[index][name] for rungs in self.recorded.values() for name in paused if name in rungs[index]}
            if there:
                return self._first(list(there), there, [])[0]
        return None

    def _group(self, trial: str, index: int) -> str:
        """The size within which a trial is judged at a rung; empty for all sizes."""
        return self.size_of(trial) if self.rule == "by_size" and index < len(self.levels) - 1 else ""

    def _keep(self, trial: str, bracket: int, index: int, here: Point) -> None:
        """Record a trial's point at a rung."""
        self.of(bracket)[index][trial] = here
        for group in {"", self._group(trial, index)}:
            insort(self._orders.setdefault((group, bracket, index), []), (-here.value, trial))

    def _first(
        self, names: Collection[str], points: Mapping[str, Point], order: Sequence[tuple[float, str]]
    ) -> tuple[str, int]:
        """The best of `names`, and the number of better trials in `order`. `points` contains all of them."""
        if self.rule == "pareto":
            ranked = pareto_order(points)
            first = min(names, key=ranked.index)
            return first, ranked.index(first)
        best = min((-points[name].value, name) for name in names)
        return best[1], bisect_left(order, best)

    def _passes(self, trial: str, here: Point, bracket: int, index: int) -> tuple[bool, float | None]:
        peers = self._orders.get((self._group(trial, index), bracket, index))
        if self.pauses or not peers:
            return True, None
        if self.rule == "pareto":
            there = {**self.of(bracket)[index], trial: here}
            return pareto_order(there).index(trial) <= len(there) / self.reduction_factor, None
        cutoff = float(np.nanpercentile([-loss for loss, _ in peers], (1 - 1 / self.reduction_factor) * 100))
        return here.value >= cutoff, cutoff


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
