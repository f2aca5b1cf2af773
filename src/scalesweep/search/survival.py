"""Who may pass a rung: asynchronous successive halving (Li et al., 2018) as a pure function of what was reported.

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
    """What a trial showed at a rung: its value there, and what it had cost up to there."""

    value: float
    cost: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial after a report. `marks` say where it was judged, the highest rung (1 is the grace period)
    last; `cutoff` is the value that had to be reached there."""

    action: Action
    marks: tuple[Mark, ...] = ()
    cutoff: float | None = None

    @property
    def rung(self) -> int | None:
        return self.marks[-1].rung if self.marks else None


def rung_count(levels: Sequence[float], max_t: float) -> int:
    """Rungs of a sweep, the end included: `max_t` is the last rung whether or not the halving sequence meets it."""
    return len(levels) if levels and levels[-1] >= max_t else len(levels) + 1


def draw_bracket(brackets: int, seed: int, number: int) -> int:
    """The bracket of a trial, 0 the first: a function of the seed and the trial's number.

    Bracket b starts at rung b + 1 (Hyperband: Li et al., 2018, arXiv 1603.06560). Ray's `ASHAScheduler` draws a bracket
    with the exponential of its number of rungs as weight; each has one rung fewer than the one before.
    """
    weights = np.exp(-np.arange(brackets))
    return int(np.random.default_rng([seed, number, 3]).choice(brackets, p=weights / weights.sum()))


class Rungs:
    """The points recorded at each rung, rebuilt from the record by replaying its reports, and the verdicts that follow.

    Each bracket has its own rungs. A report that passes several rungs is judged at each in their order, at the value in
    between where it lies beyond; it stops at the first that it does not pass.

    - `metric` decides as Ray's `ASHAScheduler` does on reports that fall on rungs: a trial stops if its value is below the
      (1 − 1/reduction_factor) quantile of those recorded at the rung so far; the first to arrive always passes.
    - `by_size` does the same among the trials of one's own model size at every rung but the last, where all are compared.
      Early on, what sizes show differs by how fast they start; within a size, the order tells more.
    - `pareto` takes the place in the order of `pareto_order` instead (MO-ASHA: Schmucker et al., 2021, arXiv 2106.12639).
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
            size_of: a trial's model size, which `by_size` goes by.
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
        self._orders: dict[tuple[str, int, int], list[tuple[float, str]]] = {}  # best first: of a size (or all), bracket, rung

    def of(self, bracket: int) -> list[dict[str, Point]]:
        """What was recorded at each rung of a bracket."""
        return self.recorded.setdefault(bracket, [{} for _ in self.levels])

    def passed(self, trial: str, fidelity: float, bracket: int = 0) -> list[int]:
        """Indices of the rungs that a trial has reached and was not judged at before."""
        recorded = self.of(bracket)
        reached = range(min(bracket, len(self.levels)), len(self.levels))
        return [index for index in reached if self.levels[index] <= fidelity and trial not in recorded[index]]

    def report(self, trial: str, fidelity: float, value: float, cost: float = 0.0, bracket: int = 0) -> Verdict:
        """Judge a report and remember its points at the rungs that it passed."""
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
        """Where trials are promoted by a quota, one that never came to its next rung counts there as the worst."""
        missing = [index for index in range(bracket, len(self.levels)) if trial not in self.of(bracket)[index]]
        if self.pauses and missing:
            self._keep(trial, bracket, missing[0], Point(-math.inf, math.inf))

    def restore(self, trial: str, fidelity: float, value: float, cost: float, bracket: int, marks: Sequence[Mark]) -> None:
        """Take in a report that was judged before, as it was recorded; `marks` with values as ours, higher is better."""
        self._last[trial] = fidelity, Point(value, cost)
        self.of(bracket)
        for mark in marks:
            if mark.rung <= len(self.levels):
                self._keep(trial, bracket, mark.rung - 1, Point(mark.value, mark.gpu_seconds))

    def promotable(self, paused: Collection[str], closing: bool = False) -> str | None:
        """The paused trial that goes on next, if any: the promotion variant of ASHA (Li et al., 2018, Alg. 2).

        From the highest rung down, a trial is promoted that is paused there and among the best 1/reduction_factor of all
        that have reached the rung, in its bracket (and of its size: see the class).

        Args:
            closing: nothing new will come. Then all sizes are compared: one with few trials would wait for others for ever.
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
        """Of the paused trials, the best of those at the highest rung."""
        for index in reversed(range(len(self.levels))):
            there = {name: rungs[index][name] for rungs in self.recorded.values() for name in paused if name in rungs[index]}
            if there:
                return self._first(list(there), there, [])[0]
        return None

    def _group(self, trial: str, index: int) -> str:
        """The size that a trial is judged within at a rung; empty for all."""
        return self.size_of(trial) if self.rule == "by_size" and index < len(self.levels) - 1 else ""

    def _keep(self, trial: str, bracket: int, index: int, here: Point) -> None:
        """Record where a trial stood at a rung."""
        self.of(bracket)[index][trial] = here
        for group in {"", self._group(trial, index)}:
            insort(self._orders.setdefault((group, bracket, index), []), (-here.value, trial))

    def _first(
        self, names: Collection[str], points: Mapping[str, Point], order: Sequence[tuple[float, str]]
    ) -> tuple[str, int]:
        """The best of `names`, and how many of those in `order` are better; `points` hold all of them."""
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
    """All trials, best first, by value and cost at once, as MO-ASHA ranks them at a rung (Schmucker et al., 2021).

    Front by front of the non-dominated sorting. Within a front by an ε-net: first the one of the best value, then always the
    one that is farthest from those taken, both axes scaled to the range at the rung; so the first few cover the front.
    """
    finite = {name: point for name, point in points.items() if math.isfinite(point.value) and math.isfinite(point.cost)}
    order: list[str] = []
    for front in _fronts(finite):
        order += _spread(front, finite)
    return order + sorted(points.keys() - finite.keys())


def _fronts(points: Mapping[str, Point]) -> list[list[str]]:
    fronts: list[list[str]] = []
    cheapest: list[float] = []  # of each front so far; ascending
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
    """Farthest-first: each next one is the farthest from those before it. `front` begins with the best value."""
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
