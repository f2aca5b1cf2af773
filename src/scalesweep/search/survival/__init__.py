"""Asynchronous successive halving (ASHA; Li et al., 2018) as a pure function of the reports.

A file per survival rule of `spec.sweep.SURVIVAL_RULES` has its class `Rule`. Values are "higher is better"; the caller negates a
metric that is minimized. Costs are GPU seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

import numpy as np

from scalesweep.record import Mark
from scalesweep.record.curves import between, cost_between
from scalesweep.spec import rung_count

if TYPE_CHECKING:
    from scalesweep.search.outlook import Outlook

FAR = 2  # quotas beyond which a paused trial may end as hopeless

Action = Literal["continue", "stop", "pause", "complete"]


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


class BaseRule:
    """The rule by the metric alone. The others override what they change."""

    strict = False
    """Whether no more trials than the quota ever continue from a rung, even where better ones come later."""

    compares_rungs = False
    """Whether the rule can tell which of two trials at different rungs is better."""

    def __init__(self, outlook: Outlook | None = None) -> None:
        self.outlook = outlook

    def group(self, size: str, last: bool) -> str:  # noqa: ARG002
        """The group within which a trial of a model size is judged at a rung; empty for all trials.

        Args:
            last: the rung is the last one before `max_t`.
        """
        return ""

    def hopeless(self, names: Collection[str], points: Mapping[str, Point], kept: int) -> list[str]:  # noqa: ARG002
        """Those of the paused trials `names` at a rung that need not wait. The `kept` best of all `points` there always may."""
        return []

    def quota(self, index: int, count: int, reduction_factor: float) -> int:  # noqa: ARG002
        """The number of trials that may continue from a rung where `count` have arrived (promotion variant).

        Args:
            index: of the rung, from 0.
        """
        return int(count / reduction_factor)

    def first(self, names: Collection[str], points: Mapping[str, Point], order: Sequence[tuple[float, str]]) -> tuple[str, int]:
        """The best of `names`, and the number of better trials in `order`. `points` contains all of them."""
        best = min((-points[name].value, name) for name in names)
        return best[1], bisect_left(order, best)

    def passes(
        self,
        trial: str,  # noqa: ARG002
        here: Point,
        there: Mapping[str, Point],  # noqa: ARG002
        peers: Sequence[tuple[float, str]],
        reduction_factor: float,
    ) -> tuple[bool, float | None]:
        """Whether a trial passes a rung that others have reached, and the value required there.

        Args:
            here: the trial's point at the rung.
            there: the points of all others of its bracket at the rung.
            peers: loss and name of those of its group, the best first.
        """
        cutoff = float(np.nanpercentile([-loss for loss, _ in peers], (1 - 1 / reduction_factor) * 100))
        return here.value >= cutoff, cutoff


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
    interpolated at the rung. The trial stops at the first rung that it does not pass. The first trial at a rung always passes.
    """

    def __init__(
        self,
        levels: Sequence[float],
        reduction_factor: float,
        max_t: float,
        rule: str = "metric",
        pauses: bool = False,
        size_of: Callable[[str], str] = lambda trial: "",  # noqa: ARG005
        outlook: Outlook | None = None,
    ) -> None:
        """
        Args:
            rule: name of the survival rule.
            outlook: forecasts of all trials, for rules that need them.
            pauses: a trial waits at each rung until it is promoted, and is never stopped there.
            size_of: returns a trial's model size.
        """
        self.levels = [level for level in levels if level < max_t]
        self.end = rung_count(levels, max_t)
        self.reduction_factor = reduction_factor
        self.max_t = max_t
        self.rule: BaseRule = import_module(f"{__name__}.{rule}").Rule(outlook)
        # With any rule, forecasts say what is hopeless once no new trial will start.
        self.at_close: BaseRule = self.rule if outlook is None else import_module(f"{__name__}.forecast").Rule(outlook)
        self.pauses = pauses
        self.size_of = size_of
        self.recorded: dict[int, list[dict[str, Point]]] = {}  # by bracket
        self.given_up: set[str] = set()  # paused trials that ended because they were hopeless; they use up no quota
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

    def at_end(self, fidelity: float, value: float, cost: float = 0.0, max_t: float | None = None) -> Verdict:
        """Judge a report of a trial that is compared at no rung, such as a repeat: it runs to the end, or to its own `max_t`."""
        if fidelity < (self.max_t if max_t is None else max_t):
            return Verdict("continue")
        return Verdict("complete", (Mark(self.end, fidelity, value, cost),))

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

    def promotable(self, paused: Collection[str], closing: bool = False, ready: Collection[str] | None = None) -> str | None:
        """The paused trial to continue next, if any: the promotion variant of ASHA (Li et al., 2018, Alg. 2).

        From the highest rung down, this is a paused trial among the best 1/reduction_factor of all trials of its bracket that
        have reached the rung (with `by_size`, of its size).

        Args:
            paused: all trials that wait at a rung.
            closing: no new trial will start. Then all sizes are compared, because a size with few trials would wait forever.
            ready: the paused trials that may continue now; by default all.
        """
        paused = set(paused)
        for index in reversed(range(len(self.levels))):
            for bracket in sorted(self.recorded):
                there = self.recorded[bracket][index]
                above = self.recorded[bracket][index + 1] if index + 1 < len(self.levels) else {}
                waiting: dict[str, list[str]] = {}
                for name in paused if ready is None else ready:
                    if name in there and name not in above:
                        waiting.setdefault("" if closing else self._group(name, index), []).append(name)
                for group, names in sorted(waiting.items()):
                    order = self._orders[group, bracket, index]
                    quota = self.rule.quota(index, len(order), self.reduction_factor)
                    waits = paused - above.keys()
                    waits |= self.given_up - above.keys()
                    if self.rule.strict and sum(name not in waits and loss < math.inf for loss, name in order) >= quota:
                        continue  # as many continued, or ended here without having diverged
                    first, place = self.rule.first(names, there, order)
                    if place < quota:
                        return first
        return None

    def hopeless(self, paused: Collection[str]) -> list[str]:
        """The paused trials that end now: they are far outside the quota, and the rule says that they need not wait."""
        found = []
        for rungs in self.recorded.values() if self.pauses else ():
            for index, there in enumerate(rungs):
                above = rungs[index + 1].keys() if index + 1 < len(rungs) else set()
                kept = FAR * self.rule.quota(index, len(there), self.reduction_factor)
                found += self.rule.hopeless((there.keys() & paused) - above, there, kept)
        self.given_up.update(found)
        return found

    def useful(self, paused: Collection[str]) -> set[str]:
        """The paused trials that are not hopeless by their forecasts, however many are better."""
        useful = set(paused)
        for rungs in self.recorded.values():
            for there in rungs:
                useful -= set(self.at_close.hopeless(there.keys() & useful, there, 0))
        return useful

    def leader(self, paused: Collection[str]) -> str | None:
        """The best of the paused trials: of all, if the rule compares trials of different rungs, else at the highest rung."""
        if self.rule.compares_rungs and paused:
            there = {name: at[name] for rungs in self.recorded.values() for at in rungs for name in paused if name in at}
            return self.rule.first(list(there), there, [])[0]
        for index in reversed(range(len(self.levels))):
            there = {name: rungs[index][name] for rungs in self.recorded.values() for name in paused if name in rungs[index]}
            if there:
                return self.rule.first(list(there), there, [])[0]
        return None

    def _group(self, trial: str, index: int) -> str:
        """The group within which a trial is judged at a rung; empty for all trials."""
        return self.rule.group(self.size_of(trial), last=index >= len(self.levels) - 1)

    def _keep(self, trial: str, bracket: int, index: int, here: Point) -> None:
        """Record a trial's point at a rung."""
        self.of(bracket)[index][trial] = here
        for group in {"", self._group(trial, index)}:
            insort(self._orders.setdefault((group, bracket, index), []), (-here.value, trial))

    def _passes(self, trial: str, here: Point, bracket: int, index: int) -> tuple[bool, float | None]:
        peers = self._orders.get((self._group(trial, index), bracket, index))
        if self.pauses or not peers:
            return True, None
        return self.rule.passes(trial, here, self.of(bracket)[index], peers, self.reduction_factor)
