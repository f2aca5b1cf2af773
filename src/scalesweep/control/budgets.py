"""The state of a sweep's budgets: functions of the spec, the record and the running trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from scalesweep.costs import bill
from scalesweep.costs import dollars as price_of
from scalesweep.record import Record, Trial
from scalesweep.spec import SweepSpec


@dataclass
class Running:
    """A trial on its workers: its start, its earlier cost (in earlier attempts and sessions), and the trials that were already
    waiting when it was placed."""

    trial: Trial
    since: float
    wall_before: float = 0.0
    gpu_before: float = 0.0
    overtook: set[str] = field(default_factory=set)

    def cost(self, now: float) -> tuple[float, float]:
        """(wall seconds, GPU seconds) of the trial up to `now`."""
        wall = now - self.since
        return self.wall_before + wall, self.gpu_before + wall * self.trial.num_gpus


@dataclass(frozen=True)
class Budgets:
    """The state of the budgets at a moment, `now` (unix seconds)."""

    spec: SweepSpec
    record: Record
    running: Collection[Running]
    now: float

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds spent so far, including running trials up to now."""
        return self.record.gpu_seconds + sum(seconds for _, seconds in self._since_last_event())

    @property
    def dollars(self) -> float:
        """Dollars spent so far. The start-up of workers is booked at the first size's price."""
        spent = dict(self.record.trial_gpu_seconds)  # by model size
        for trial, seconds in self._since_last_event():
            name = trial.config["model_size"]
            spent[name] = spent.get(name, 0.0) + seconds
        first = self.spec.price(self.spec.sizes()[0].name)
        return bill(self.record.boot_gpu_seconds, first, spent, self.spec.price) or 0.0

    def _since_last_event(self) -> list[tuple[Trial, float]]:
        """GPU seconds of the running trials since their last recorded event."""
        return [(run.trial, run.cost(self.now)[1] - run.trial.gpu_seconds) for run in self.running]

    def exhausted(self) -> str | None:
        """The name of the spent budget, or None."""
        budget = self.spec.budget
        if budget.time is not None and self.record.elapsed(self.now) >= budget.time:
            return "time"
        if budget.gpu_hours is not None and self.gpu_seconds >= budget.gpu_hours * 3600:
            return "gpu_hours"
        if budget.dollars is not None and self.dollars >= budget.dollars:
            return "dollars"
        return None

    def left_seconds(self) -> float:
        """Wall-clock seconds that are left; infinite without such a budget."""
        time = self.spec.budget.time
        return math.inf if time is None else max(time - self.record.elapsed(self.now), 0.0)

    def left_gpu_seconds(self, levels: Sequence[float], max_t: float) -> float:
        """GPU seconds available for a new trial: at most the cap per trial, and at most the remaining budget minus the known
        cost of the running trials up to their next rung. Infinite without such a budget.

        Remaining dollars are converted at the price of the cheapest size.
        """
        budget = self.spec.budget
        left = math.inf if budget.trial_gpu_hours is None else budget.trial_gpu_hours * 3600
        owed = [(run.trial, self._owed(run.trial, levels, max_t)) for run in self.running]
        if budget.gpu_hours is not None:
            seconds = budget.gpu_hours * 3600 - self.gpu_seconds - sum(seconds for _, seconds in owed)
            left = min(left, seconds)
        if budget.dollars is not None:
            paid = self.dollars + sum(in_dollars(self.spec, trial, seconds) or 0.0 for trial, seconds in owed)
            cheapest = min(self.spec.price(size.name) or math.inf for size in self.spec.sizes())
            left = min(left, (budget.dollars - paid) / cheapest * 3600)
        return max(left, 0.0)

    def _owed(self, trial: Trial, levels: Sequence[float], max_t: float) -> float:
        """GPU seconds from a trial's last report to its next rung; 0 before its first report. A repeat runs to the end."""
        if trial.repeat_of is not None:
            return max(self.record.trials[trial.repeat_of].gpu_seconds - trial.gpu_seconds, 0.0)
        if trial.last is None or trial.last.fidelity <= 0:
            return 0.0
        ahead = [level for level in levels[trial.bracket :] if level > trial.last.fidelity]
        return trial.last.gpu_seconds * (min(ahead, default=max_t) / trial.last.fidelity - 1)


def in_dollars(spec: SweepSpec, trial: Trial, gpu_seconds: float) -> float | None:
    """The price of a trial's GPU seconds; None without prices."""
    return price_of(gpu_seconds, spec.price(trial.config["model_size"]))


def limits_spending(spec: SweepSpec) -> bool:
    """Whether the sweep has a budget other than a number of trials."""
    budget = spec.budget
    return not (budget.time is budget.gpu_hours is budget.dollars is None)
