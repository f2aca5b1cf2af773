"""The one writer of a sweep: takes what happens, decides by `search/`, writes it down, then says what to do.

Knows no Ray. The bridge calls it; every decision is a function of the record, so a resumed sweep goes on deciding as it did.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scalesweep.costs import dollars
from scalesweep.record import Record, RecordWriter, State, Trial
from scalesweep.search.proposals import Proposer
from scalesweep.search.survival import Rungs
from scalesweep.spec import SweepSpec, gpu_choices, rung_levels, trial_config

OVERTAKEN_LIMIT = 4  # trials that may be placed before the longest-waiting one; then it is waited for
WAITING_LIMIT = 2  # trials too large for the free workers that are queued before only small ones are proposed


class Sink(Protocol):
    """Something that follows the record: the progress display, a tracker."""

    def handle(self, event: dict[str, Any], record: Record) -> None: ...

    def close(self, record: Record) -> None: ...


@dataclass
class Waiting:
    """A trial that was proposed and is not placed yet."""

    trial: Trial
    overtaken: int = 0


@dataclass
class Running:
    """A trial on its workers: since when, and what it had cost before (earlier attempts, earlier sessions)."""

    trial: Trial
    since: float
    wall_before: float = 0.0
    gpu_before: float = 0.0


@dataclass
class Conductor:
    spec: SweepSpec
    goal: str
    writer: RecordWriter
    proposer: Proposer
    slots: Callable[[], int]  # workers that the cluster holds at once
    sinks: Sequence[Sink] = ()
    clock: Callable[[], float] = time.time
    interrupted: bool = False
    waiting: dict[str, Waiting] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        early = self.spec.early_terminate
        self.rungs = Rungs(rung_levels(self.spec), early.reduction_factor, early.max_t)
        self.sign = -1.0 if self.goal == "minimize" else 1.0
        self.metric = self.spec.metric.name
        # Trials that an earlier session left unfinished run first, in their order.
        self.unfinished = [trial for trial in self.record.by_number() if not trial.state.ended]
        self._emit("session", resumed=bool(self.record.trials))
        self._replay()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, scheduler and callbacks to disk. Nothing reads that: the record is the one state.
        return {}

    @property
    def record(self) -> Record:
        return self.writer.record

    def _emit(self, event: str, **fields: Any) -> None:
        line = {"event": event, "time": self.clock(), **fields}
        self.writer.append(line)
        for sink in self.sinks:
            sink.handle(line, self.record)

    def _replay(self) -> None:
        """Rebuild the rungs from the record, and end what was decided but not written down before a driver died."""
        reports = [(report, trial) for trial in self.record.by_number() for report in trial.reports]
        for report, trial in sorted(reports, key=lambda item: item[0].order):
            if math.isfinite(value := report.metrics[self.metric]):
                self.rungs.report(trial.name, report.fidelity, self.sign * value)
        for trial in list(self.unfinished):
            if trial.last is not None and trial.last.action != "continue":
                self._end_after_report(trial)
                self.unfinished.remove(trial)

    # ---- proposing ------------------------------------------------------------------------------------------------------

    def exhausted(self) -> str | None:
        """Which budget is spent, if any. Trials on their workers stop at their next report."""
        budget, now = self.spec.budget, self.clock()
        if budget.time is not None and self.record.elapsed(now) >= budget.time:
            return "time"
        gpu_seconds = self.gpu_seconds(now)
        if budget.gpu_hours is not None and gpu_seconds >= budget.gpu_hours * 3600:
            return "gpu_hours"
        spent = dollars(gpu_seconds, self.spec.resources.dollars_per_gpu_hour)
        if budget.dollars is not None and spent is not None and spent >= budget.dollars:
            return "dollars"
        return None

    def gpu_seconds(self, now: float) -> float:
        """GPU seconds spent so far, running trials up to `now`."""
        since_last_event = sum(self._cost(run, now)[1] - run.trial.gpu_seconds for run in self.running.values())
        return self.record.gpu_seconds + since_last_event

    def no_more_trials(self) -> bool:
        """Whether nothing is left to propose."""
        if self.interrupted or self.exhausted():
            return True
        cap = self.spec.budget.run_cap
        return not self.unfinished and cap is not None and len(self.record.trials) >= cap

    def finished(self) -> bool:
        """Whether the sweep is over: nothing runs, and nothing will."""
        if self.interrupted:
            return True
        return self.no_more_trials() and not self.running and (not self.waiting or self.exhausted() is not None)

    def propose(self) -> Trial | None:
        """The next trial to queue, or None while there is no use in one."""
        if self.no_more_trials():
            return None
        counts = self._useful_counts()
        if not counts:
            return None
        if self.unfinished:
            trial = self.unfinished.pop(0)
        else:
            number = len(self.record.trials)
            name = f"t{number:04d}"
            proposal = self.proposer.propose(number, name, counts if counts != gpu_choices(self.spec) else None)
            config = trial_config(self.spec, proposal.params).model_dump()
            self._emit("trial", trial=name, number=number, params=proposal.params, config=config)
            trial = self.record.trials[name]
        self.waiting[trial.name] = Waiting(trial)
        return trial

    def _useful_counts(self) -> list[int]:
        """GPU counts that the next trial may have; none while another one waiting would not help.

        While workers are free and every waiting trial is too large for them, smaller ones are drawn to fill the hole.
        While none is free, one trial is kept ready that fits where the next one ends, so that warm workers go on with it at
        once. When `OVERTAKEN_LIMIT` trials have been placed before one that waits, no more are queued until it is placed:
        it never starves.
        """
        slots, free = self.slots(), self._free()
        limit = self.spec.resources.max_concurrent_trials or slots
        needs = [int(waiting.trial.config["num_gpus"]) for waiting in self.waiting.values()]
        if any(waiting.overtaken >= OVERTAKEN_LIMIT for waiting in self.waiting.values()):
            return []
        if limit < slots and len(self.running) + len(needs) >= limit:
            return []  # several waiting trials could be placed at once: keep within what the user allows
        choices = gpu_choices(self.spec)
        if free > 0 and len(self.running) < limit:
            if any(need <= free for need in needs):
                return []
            return choices if len(needs) < WAITING_LIMIT else [count for count in choices if count <= free]
        if limit == 1:
            return []  # one after the other: each proposal knows all that went before, whatever happens to the trials
        if not needs:
            return choices
        in_use = {int(running.trial.config["num_gpus"]) for running in self.running.values()}
        if not in_use:
            return []  # the cluster lost its workers: what waits is placed when they come back
        return [] if any(need <= free + min(in_use) for need in needs) else sorted(in_use)

    def _free(self) -> int:
        """Workers that no running trial holds."""
        return self.slots() - sum(int(running.trial.config["num_gpus"]) for running in self.running.values())

    # ---- a trial's life ---------------------------------------------------------------------------------------------------

    def started(self, name: str) -> None:
        """The trial has its workers (again)."""
        waiting = self.waiting.pop(name, None)
        trial = self.record.trials[name]
        if waiting is not None:
            for other in self.waiting.values():
                other.overtaken += other.trial.number < trial.number
        before = self.running.get(name)
        now = self.clock()
        if before is not None:
            wall, gpu = self._cost(before, now)
        else:
            wall, gpu = trial.wall_seconds, trial.gpu_seconds
        self.running[name] = Running(trial, now, wall, gpu)
        self._emit("start", trial=name, attempt=trial.attempts + 1, wall_seconds=wall, gpu_seconds=gpu)

    def _cost(self, running: Running, now: float) -> tuple[float, float]:
        """(wall seconds, GPU seconds) of a trial up to `now`."""
        wall = now - running.since
        return running.wall_before + wall, running.gpu_before + wall * int(running.trial.config["num_gpus"])

    def report(self, name: str, step: int, fidelity: int, tokens: int, flops: float, metrics: dict[str, float]) -> bool:
        """Take a report in and decide. Returns whether the trial goes on."""
        trial = self.record.trials[name]
        if trial.state.ended:
            return False
        if trial.last is not None and fidelity <= trial.last.fidelity:
            return True  # repeated after a restart: it was recorded and judged before
        wall, gpu = self._cost(self.running[name], self.clock())
        value = metrics[self.metric]
        if math.isfinite(value):
            verdict = self.rungs.report(name, fidelity, self.sign * value)
            action, rung, cutoff = verdict.action, verdict.rung, verdict.cutoff
            cutoff = None if cutoff is None else self.sign * cutoff
        else:
            action, rung, cutoff = "stop", None, None
        reason = "diverged" if not math.isfinite(value) else "rung" if action == "stop" else "max_t"
        if action == "continue" and (spent := self.exhausted()):
            action, reason = "stop", f"budget: {spent}"
        self.proposer.report(trial.number, fidelity, value)
        self._emit(
            "report",
            trial=name,
            fidelity=fidelity,
            step=step,
            tokens=tokens,
            flops=flops,
            wall_seconds=wall,
            gpu_seconds=gpu,
            metrics=metrics,
            rungs=[rung] if rung is not None else [],
            action=action,
            reason=reason if action != "continue" else None,
            cutoff=cutoff,
        )
        if action == "continue":
            return True
        self._end_after_report(trial)
        return False

    def _end_after_report(self, trial: Trial) -> None:
        assert trial.last is not None
        complete = trial.last.action == "complete"
        self._end(trial, State.COMPLETE if complete else State.PRUNED, trial.last.reason or "rung")

    def failed(self, name: str, error: str, infeasible: bool = False) -> None:
        """The trial can't go on: it raised an error, or died more often than is allowed."""
        trial = self.record.trials[name]
        if not trial.state.ended:
            state = State.INFEASIBLE if infeasible else State.FAIL
            self._end(trial, state, "out of memory" if infeasible else "error", error)

    def _end(self, trial: Trial, state: State, reason: str, error: str | None = None) -> None:
        value = trial.last.metrics[self.metric] if trial.last else None
        running = self.running.pop(trial.name, None)
        self.waiting.pop(trial.name, None)
        wall, gpu = self._cost(running, self.clock()) if running else (trial.wall_seconds, trial.gpu_seconds)
        costs = {"wall_seconds": wall, "gpu_seconds": gpu}
        self._emit("end", trial=trial.name, state=str(state), reason=reason, error=error, **costs)
        self.proposer.tell(trial.number, state, value)

    def end_sweep(self) -> None:
        """Nothing is left to do: end what was never placed, and the sweep."""
        spent = self.exhausted()
        reason = f"budget: {spent}" if spent else "budget: run_cap"
        for trial in self.record.by_number():
            if not trial.state.ended:
                self._end(trial, State.PRUNED, reason)
        self._emit("sweep_ended", reason=reason)

    def note(self, text: str) -> None:
        """Write a remark into the record."""
        self._emit("note", text=text)

    def close(self) -> None:
        """The session is over, whether or not the sweep is."""
        for sink in self.sinks:
            sink.close(self.record)
