"""The single writer of a sweep: it receives events, decides with `search/`, records the decision and returns it.

It does not use Ray; the bridge calls it. Every decision is a function of the record, so a resumed sweep decides as before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from scalesweep.control.budgets import Budgets, Running, in_dollars, limits_spending
from scalesweep.control.nodes import NodeWatch
from scalesweep.control.pool import Pool
from scalesweep.control.repeats import affordable
from scalesweep.costs import workers_of
from scalesweep.errors import ScalesweepError
from scalesweep.record import Mark, Record, Sink, State, Trial
from scalesweep.record.fronts import hypervolume, pareto_front
from scalesweep.search import confirm
from scalesweep.search.pick import expected
from scalesweep.search.proposals import Proposer
from scalesweep.search.survival import Rungs, draw_bracket
from scalesweep.spec import SweepSpec, gpu_choices, rung_levels, trial_config

WAITING_LIMIT = 2  # queued trials too large for the free workers, before only small ones are proposed
QUEUE_LIMIT = 8  # most trials that wait at once
STUCK_SECONDS = 300.0  # time without running trials, while one waits, before the record notes it
STARTING_SECONDS = 60.0  # wait for a trial whose workers are starting, before smaller trials take its place


class Writer(Protocol):
    """A writer of events. `record` is the state after all events so far."""

    record: Record

    def append(self, event: dict[str, Any]) -> None: ...


@dataclass
class Waiting:
    """A proposed trial without workers, and the start of its wait."""

    trial: Trial
    since: float


@dataclass
class Conductor:
    spec: SweepSpec
    writer: Writer
    proposer: Proposer
    slots: Callable[[], int]  # workers on whole GPUs that the cluster can hold at once
    pool: Pool
    clock: Callable[[], float]  # unix seconds; virtual in a simulation
    sinks: Sequence[Sink] = ()
    interrupted: bool = False
    out_of_choices: bool = False
    waiting: dict[str, Waiting] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    paused: dict[str, Trial] = field(default_factory=dict)  # waiting at a rung that they have not passed yet
    stuck: set[str] = field(default_factory=set)  # trials with a note that they wait while nothing runs
    deaths: Counter[str] = field(default_factory=Counter)  # deaths of a trial's processes in this session
    nodes: NodeWatch = field(default_factory=NodeWatch)
    outage: Exception | None = None  # a permanent failure: the session ends, and the sweep can be resumed

    def __post_init__(self) -> None:
        early = self.spec.early_terminate
        pauses = early.variant == "promotion"
        self.rungs = Rungs(
            rung_levels(self.spec),
            early.reduction_factor,
            early.max_t,
            early.survival,
            pauses,
            lambda name: str(self.record.trials[name].config["model_size"]),
            self.proposer.outlook,
        )
        self.sign = -self.spec.loss_sign  # rungs compare values that are higher for better trials
        self.metric = self.spec.metric.name
        # Unfinished trials of earlier sessions run first, in order.
        self.unfinished = [trial for trial in self.record.by_number() if not trial.state.ended]
        self._emit("session", resumed=bool(self.record.trials))
        self._replay()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, scheduler and callbacks to disk. Nothing reads them: the record is the only state.
        return {}

    @property
    def record(self) -> Record:
        return self.writer.record

    def _emit(self, event: str, **fields: Any) -> None:
        line = {"event": event, "time": self.clock(), **fields}
        try:
            self.writer.append(line)
            line.pop("examples", None)  # they are the record's alone
            for sink in self.sinks:
                sink.handle(line, self.record)
        except Exception as error:
            self.outage = error  # nothing may happen without a record; and a user's callback may end the session
            raise

    def _replay(self) -> None:
        """Rebuild the rungs from the record, and end trials whose end was decided but not recorded before a driver died."""
        reports = [(report, trial) for trial in self.record.configurations() for report in trial.reports]
        for report, trial in sorted(reports, key=lambda item: item[0].order):
            value = report.metrics[self.metric]
            if not math.isfinite(value):
                self.rungs.diverged(trial.name, trial.bracket)
                continue
            marks = report.marks or [Mark(rung, report.fidelity, value, report.gpu_seconds) for rung in report.rungs]
            seen = [replace(mark, value=self.sign * mark.value) for mark in marks]
            place = report.fidelity, self.sign * value, report.gpu_seconds
            self.rungs.restore(trial.name, *place, trial.bracket, seen)
        if self.rungs.pauses:
            ended = (trial for trial in self.record.by_number() if trial.state is State.PRUNED)
            self.rungs.given_up |= {trial.name for trial in ended if trial.last is not None and trial.last.action == "pause"}
        self.record.expected = expected(self.proposer.outlook)
        for trial in list(self.unfinished):
            if trial.paused:
                self.paused[trial.name] = trial
                self.unfinished.remove(trial)
            elif trial.last is not None and trial.last.action not in ("continue", "pause"):
                self._end_after_report(trial)
                self.unfinished.remove(trial)

    # ---- proposing ------------------------------------------------------------------------------------------------------

    def budgets(self) -> Budgets:
        """The state of the budgets now."""
        return Budgets(self.spec, self.record, self.running.values(), self.clock())

    def exhausted(self) -> str | None:
        """The name of the spent budget, or None. Running trials then stop at their next report. None limits a confirmation."""
        return None if self.record.confirming else self.budgets().exhausted()

    def left_gpu_seconds(self) -> float:
        """GPU seconds available for a new trial. Infinite without such a budget."""
        return self.budgets().left_gpu_seconds(self.rungs.levels, self.rungs.max_t)

    def no_more_trials(self) -> bool:
        """Whether nothing is left to propose. Trials paused at a rung may still continue."""
        if self.interrupted or self.outage or self.out_of_choices or self.exhausted():
            return True
        cap = 0 if self.record.confirming else self.spec.budget.run_cap
        return not self.unfinished and cap is not None and len(self.record.configurations()) >= cap

    def finished(self) -> bool:
        """Whether the sweep is over: nothing runs, and nothing more will start."""
        if self.interrupted or self.outage:
            return True
        if self.running or not self.no_more_trials():
            return False
        if self.exhausted() is not None:
            return True
        return not self.waiting and self._next_known(gpu_choices(self.spec)) is None

    def next_trial(self) -> Trial | None:
        """A trial with leased workers to start now; None if there is none yet."""
        while not (self.interrupted or self.outage or self.exhausted()):
            trial = self._place()
            if trial is not None:
                return trial
            if not self._propose():
                break
        if not self.waiting:
            self.pool.tend()
            self._book_starts()
        elif not self.running and not self.outage:
            self._say_if_stuck(*next(iter(self.waiting.items())))
        return None

    def _say_if_stuck(self, name: str, waiting: Waiting) -> None:
        """Note a long wait once. The sweep keeps waiting, because a cluster may get lost nodes back."""
        if name not in self.stuck and self.clock() - waiting.since > STUCK_SECONDS:
            self.stuck.add(name)
            needs, there = waiting.trial.num_gpus, self.slots()
            share = f" on {needs} of a GPU" if needs < 1 else ""
            self.note(
                f"nothing runs: {name} has waited {STUCK_SECONDS / 60:.0f} minutes for {workers_of(needs)} worker(s){share}, and the "
                f"cluster has room for {there} (`ray status` shows the nodes and the requested resources)"
            )

    def _book_starts(self) -> None:
        """Record the start-up time of workers, which costs money and belongs to no trial, and the pool's remarks."""
        while self.pool.booted:
            self._emit("worker", gpu_seconds=self.pool.booted.pop())
        while self.pool.remarks:
            self.note(self.pool.remarks.pop(0))

    def _place(self) -> Trial | None:
        """Start the longest-waiting trial that fits the free workers, and return it; None if none fits."""
        limit = self.spec.resources.max_concurrent_trials
        if limit is not None and len(self.running) >= limit:
            return None
        only = self._gathered_for()
        for name, waiting in list(self.waiting.items()):
            if only not in (None, name):
                continue
            trial = waiting.trial
            try:
                ready = trial.num_gpus <= self._free() and self.pool.take(trial)
            except ScalesweepError as error:
                self.outage = error
                return None
            self._book_starts()
            if ready:
                self._start(trial)
                return trial
        return None

    def _gathered_for(self) -> str | None:
        """The longest-waiting trial with a reservation, if there is one.

        Smaller trials may overtake a waiting trial. It gets a reservation when it would have started without them. From then
        on no other trial is placed, and each overtaker yields its workers at its next report, with a checkpoint. So small
        trials fill every gap, and a large trial waits at most one report longer than without them.
        """
        head = next(iter(self.waiting), None)
        if head is None:
            return None
        overtakers = [name for name, run in self.running.items() if head in run.overtook]
        trial = self.waiting[head].trial
        return head if overtakers and not self._fits(trial) and self._fits(trial, overtakers) else None

    def _fits(self, trial: Trial, given_back: Collection[str] = ()) -> bool:
        """Whether there are workers for a trial, or will be when they have started, if the trials in `given_back` return theirs."""
        held = sum(run.trial.num_gpus for name, run in self.running.items() if name not in given_back)
        return trial.num_gpus <= self.slots() - held and self.pool.could_hold(trial, given_back)

    def may_give_way(self, name: str) -> bool:
        """Whether a newly placed trial may have to yield its workers at a report."""
        return bool(self.running[name].overtook) or self.spec.resources.spot_notice is not None

    def _propose(self) -> bool:
        """Queue one more trial if it is useful. Returns whether one was queued."""
        if self.interrupted or self.outage or self.exhausted():
            return False
        counts = self._useful_counts()
        if not counts:
            return False
        told: dict[str, Any] = {"counts": list(counts)} if counts != gpu_choices(self.spec) else {}
        if self.unfinished:
            trial = self.unfinished.pop(0)
        elif (known := self._next_known(counts)) is not None:
            trial = self._promote(known, told) if known in self.paused else self._repeat(known, told)
        elif self.no_more_trials():
            return False
        else:
            number = len(self.record.trials)
            name = f"t{number:04d}"
            left = self.left_gpu_seconds()
            # A continuing trial without workers counts as paused, as in the record.
            paused = {*self.paused, *(other for other, waiting in self.waiting.items() if waiting.trial.paused)}
            proposal = self.proposer.propose(number, name, told.get("counts"), left=left, paused=paused)
            if proposal is None:  # nothing in the space fits into the memory and the budget
                # Running trials may cost less than expected and leave more. After them, paused trials may still continue.
                self.out_of_choices = not (self.running or self.waiting)
                return self.out_of_choices and self._propose()
            config = trial_config(self.spec, proposal.params).model_dump()
            early = self.spec.early_terminate
            told |= {"left_gpu_seconds": left} if math.isfinite(left) else {}
            told["bracket"] = draw_bracket(early.brackets, self.spec.search.seed, number)
            self._emit("trial", trial=name, number=number, params=proposal.params, config=config, **told)
            trial = self.record.trials[name]
        self.waiting[trial.name] = Waiting(trial, self.clock())
        return True

    def _next_known(self, counts: Sequence[float]) -> str | None:
        """The paused trial to continue, or the ended one to repeat; None if there is neither, and a new trial may start."""
        if self.record.confirming:
            return next((name for name in confirm.planned(self.record) if self.record.trials[name].num_gpus in counts), None)
        return (
            self._repeatable(counts)
            or self._promotable(counts)
            or self._beyond_quotas(counts)
            or self._repeatable(counts, closing=self.no_more_trials())
        )

    def _promote(self, name: str, told: Mapping[str, Any]) -> Trial:
        """Record that a paused trial continues."""
        trial = self.paused.pop(name)
        self._emit("promoted", trial=name, rung=trial.rung, **told)
        return trial

    def _repeat(self, name: str, told: Mapping[str, Any]) -> Trial:
        """Record a new trial that trains the configuration of an ended one again, with the next seed."""
        first, number = self.record.trials[name], len(self.record.trials)
        seed = first.config["seed"] + 1 + sum(trial.repeat_of == name for trial in self.record.trials.values())
        again: dict[str, Any] = {
            "trial": f"t{number:04d}",
            "number": number,
            "params": first.params,
            "config": {**first.config, "seed": seed},
        }
        self._emit("trial", **again, repeat_of=name, bracket=first.bracket, **told)
        trial = self.record.trials[again["trial"]]
        self.proposer.repeat(trial)
        return trial

    def _promotable(self, counts: Sequence[float]) -> str | None:
        """The paused trial that the quotas let continue, if there is one."""
        ready = self._ready(counts)
        return self.rungs.promotable(self.paused, self.no_more_trials(), ready) if ready else None

    def _ready(self, counts: Sequence[float]) -> set[str]:
        return {name for name, trial in self.paused.items() if trial.num_gpus in counts}

    def _repeatable(self, counts: Sequence[float], closing: bool = False) -> str | None:
        """The ended trial to repeat, if the budget is for that now. With `closing`, nothing else will start."""
        busy = [self.record.trials[name] for name in (*self.running, *self.waiting)]
        closing = closing and all(trial.repeat_of for trial in busy)
        return affordable(
            self.spec, self.record, self.budgets(), self.left_gpu_seconds(), max(self.slots(), 1), counts, closing
        )

    def _beyond_quotas(self, counts: Sequence[float]) -> str | None:
        """The paused trial that continues without a quota, when no new trial will start.

        While a budget is left, it is the best one that may still become the pick. Half of the workers stay idle, because what the
        running trials show decides better, unless time is limited. Without a budget, one continues only if no trial has run to the
        end.
        """
        ready, busy = self._ready(counts) if self.no_more_trials() else set(), bool(self.running or self.waiting)
        if not ready:
            return None
        taken = self.slots() - self._free() + sum(needs.trial.num_gpus for needs in self.waiting.values())
        if limits_spending(self.spec) and (not busy or 2 * taken < self.slots() or self.spec.budget.time is not None):
            best = self.rungs.leader(self.rungs.useful(ready))
            if best is not None:
                return best
        ended = any(trial.state is State.COMPLETE for trial in self.record.trials.values())
        return None if busy or ended else self.rungs.leader(ready)

    def _useful_counts(self) -> list[float]:
        """GPU counts for the next trial; empty if another waiting trial would not help.

        If workers are free but every waiting trial is too large for them, smaller trials fill the gap. Free halves of two GPUs
        make no whole one: a new trial fits into the largest of what is free on one GPU. If no worker is free,
        one trial is kept ready for the next free workers, so that these continue at once. While the longest-waiting trial
        has a reservation, no trial is queued.
        """
        choices, free = gpu_choices(self.spec), min(self._free(), self.pool.room())
        limit = self.spec.resources.max_concurrent_trials or self.slots() / min(1, choices[0])
        needs = [waiting.trial.num_gpus for waiting in self.waiting.values()]
        if len(needs) >= QUEUE_LIMIT or self._gathered_for() is not None:
            return []
        if free > 0 and len(self.running) < limit:
            coming = [waiting for waiting in self.waiting.values() if self._fits(waiting.trial)]
            if coming and self.clock() - coming[0].since < STARTING_SECONDS:
                return []
            if coming:  # its workers start slowly or the cluster does not grow: the running workers take smaller trials
                free = min(free, self.pool.idle())
            return choices if len(needs) < WAITING_LIMIT and not coming else [count for count in choices if count <= free]
        if limit == 1:
            return []  # one trial at a time: each proposal knows all trials before it
        if not needs:
            return choices
        in_use = {running.trial.num_gpus for running in self.running.values()}
        if not in_use:
            return []  # workers are starting, or the cluster lost them: waiting trials are placed when they come
        if any(need <= free + min(in_use) for need in needs):
            return []
        return sorted(in_use) if len(needs) < WAITING_LIMIT else [count for count in choices if count <= free + min(in_use)]

    def _free(self) -> float:
        """GPUs, or workers in their place, without a running trial."""
        return self.slots() - sum(running.trial.num_gpus for running in self.running.values())

    # ---- a trial's life ---------------------------------------------------------------------------------------------------

    def _start(self, trial: Trial) -> None:
        """Record that a trial has workers and starts or continues."""
        queue = list(self.waiting)
        overtook = set(queue[: queue.index(trial.name)])
        del self.waiting[trial.name]
        for run in self.running.values():
            run.overtook.discard(trial.name)
        self.running[trial.name] = Running(trial, self.clock(), trial.wall_seconds, trial.gpu_seconds, overtook)
        costs = {"wall_seconds": trial.wall_seconds, "gpu_seconds": trial.gpu_seconds}
        self._emit("start", trial=trial.name, attempt=trial.attempts + 1, workers=self.pool.names(trial.name), **costs)

    def report(
        self,
        name: str,
        fidelity: float,
        metrics: dict[str, float],
        notes: Sequence[str] = (),
        examples: Any = None,
        **counts: Any,
    ) -> bool:
        """Record a report and decide. Returns whether the trial continues.

        `examples` are the evaluation's numbers of each row, which the writer keeps. `counts` are recorded unchanged: step,
        tokens, flops and the trial's other counters. A report of fidelity 0 is the value of the untrained model, and no decision
        follows from it.
        """
        for note in notes:
            if note not in self.record.notes:
                self.note(note)
        trial = self.record.trials[name]
        if trial.state.ended:
            return False
        kept = {} if examples is None else {"examples": examples}
        if not fidelity:
            self._emit("untrained", trial=name, model_size=trial.config["model_size"], metrics=metrics, **kept)
            return True
        if trial.last is not None and fidelity <= trial.last.fidelity:
            # After a restart, a report may repeat an earlier one. Without a step since then, it is the report of the checkpoint.
            self._emit("repeated", trial=name, fidelity=fidelity, first_step_at=counts.get("first_step_at", 0.0))
            return True
        self.nodes.reported(name, self.pool.nodes(name), self.clock())
        wall, gpu = self.running[name].cost(self.clock())
        value = metrics[self.metric]
        self.proposer.report(trial.number, fidelity, value, gpu)
        action, reason, marks, cutoff = self._verdict(trial, fidelity, value, gpu)
        if marks:
            self.record.expected = expected(self.proposer.outlook)
        self._emit(
            "report",
            trial=name,
            fidelity=fidelity,
            **counts,
            wall_seconds=wall,
            gpu_seconds=gpu,
            dollars=in_dollars(self.spec, trial, gpu),
            metrics=metrics,
            rungs=[mark.rung for mark in marks],
            marks=[asdict(mark) for mark in marks],
            action=action,
            reason=reason,
            cutoff=cutoff,
            **kept,
        )
        if action == "continue":
            if self.pool.leaving(name):
                self._give_way(trial, None)
                return False
            waits = self._gathered_for()
            if waits is None or waits not in self.running[name].overtook:
                return True
            self._give_way(trial, waits)
            return False
        if action == "pause":
            self.pool.release(name)
            del self.running[name]
            self.paused[name] = trial
            self._end_hopeless()
            return False
        self._end_after_report(trial)
        return False

    def _end_hopeless(self) -> None:
        """End the paused trials that need not wait, so that their checkpoints don't pile up."""
        for name in self.rungs.hopeless(self.paused):
            self._end(self.paused[name], State.PRUNED, "rung")

    def _give_way(self, trial: Trial, head: str | None) -> None:
        """Yield the trial's workers to the longest-waiting trial, and queue the trial directly after it.

        With `head` None, the workers leave with their node, and the trial is first in the queue.
        """
        wall, gpu = self.running.pop(trial.name).cost(self.clock())
        self.pool.release(trial.name)
        self._emit("yielded", trial=trial.name, to=head, wall_seconds=wall, gpu_seconds=gpu)
        first = {} if head is None else {head: self.waiting[head]}
        self.waiting = {**first, trial.name: Waiting(trial, self.clock()), **self.waiting}

    def _verdict(
        self, trial: Trial, fidelity: float, value: float, gpu_seconds: float
    ) -> tuple[str, str | None, list[Mark], float | None]:
        """The decision on a trial and its reason, its marks at the rungs, and the cutoff there."""
        name = trial.name
        if not math.isfinite(value):
            if trial.repeat_of is None:
                self.rungs.diverged(name, trial.bracket)
            return "stop", "diverged", [], None
        ends = float(trial.config["max_t"])  # earlier than the sweep's on a share of the training data
        if trial.repeat_of is None and ends >= self.rungs.max_t:
            verdict = self.rungs.report(name, fidelity, self.sign * value, gpu_seconds, trial.bracket)
        else:
            verdict = self.rungs.at_end(fidelity, self.sign * value, gpu_seconds, ends)
        marks = [replace(mark, value=self.sign * mark.value) for mark in verdict.marks]
        cutoff = None if verdict.cutoff is None else self.sign * verdict.cutoff
        action, reason = verdict.action, {"stop": "rung", "complete": "max_t"}.get(verdict.action)
        cap = None if self.record.confirming else self.spec.budget.trial_gpu_hours
        last = trial.last.gpu_seconds if trial.last else 0.0
        if action in ("continue", "pause") and cap is not None and 2 * gpu_seconds - last > cap * 3600:
            action, reason = "stop", "budget: trial_gpu_hours"  # a next interval as long as this one would exceed the cap
        if action == "continue" and (spent := self.exhausted()):
            action, reason = "stop", f"budget: {spent}"
        return action, reason, marks, cutoff

    def _end_after_report(self, trial: Trial) -> None:
        assert trial.last is not None
        complete = trial.last.action == "complete"
        self._end(trial, State.COMPLETE if complete else State.PRUNED, trial.last.reason or "rung")

    def failed(self, name: str, error: str, infeasible: bool = False, traceback: str = "", intact: bool = False) -> None:
        """End a trial that can't continue: training raised an error, or its processes died too often.

        Its workers are ended too, unless they are `intact`.
        """
        trial = self.record.trials[name]
        if not trial.state.ended:
            if not infeasible and name in self.running:
                self._blame(name, error)
            if not intact:
                self.pool.discard(name)
            state = State.INFEASIBLE if infeasible else State.FAIL
            self._end(trial, state, "out of memory" if infeasible else "error", error, traceback)

    def died(self, name: str, traceback: str = "") -> None:
        """Handle a process that is gone or hangs: the trial continues from its checkpoint on other workers."""
        trial, running = self.record.trials[name], self.running.get(name)
        if running is None:
            return  # the trial had ended, and its process waited for another one
        if not self.pool.leaving(name):  # an announced end is the fault of neither node nor trial
            self._blame(name, "its process died")
            self.deaths[name] += 1
        if self.deaths[name] > self.spec.resources.max_failures:
            self.failed(name, "its process died more often than resources.max_failures allows", traceback=traceback)
            return
        self.pool.discard(name)
        del self.running[name]
        wall, gpu = running.cost(self.clock())
        kept = {"traceback": traceback} if traceback else {}
        self._emit("died", trial=name, **kept, wall_seconds=wall, gpu_seconds=gpu)
        self.waiting = {name: Waiting(trial, self.clock()), **self.waiting}

    def _blame(self, name: str, error: str) -> None:
        """Count a failure against the trial's nodes, and drain a node that fails more trials than others do."""
        if self.pool.gone(name):
            return  # the loss of the node caused the failure
        for node, trials in self.nodes.failed(name, self.pool.nodes(name), self.pool.drained, self.clock()).items():
            address = self.pool.drain(node)
            if address is not None:
                last = error.strip().splitlines()[-1] if error.strip() else "unknown"
                self.note(
                    f"node {address} is drained: {', '.join(trials)} failed there, far more often than elsewhere; the last error: {last}"
                )

    def _end(self, trial: Trial, state: State, reason: str, error: str | None = None, traceback: str = "") -> None:
        value = trial.last.metrics[self.metric] if trial.last else None
        running = self.running.pop(trial.name, None)
        self.waiting.pop(trial.name, None)
        self.paused.pop(trial.name, None)
        self.pool.release(trial.name)
        wall, gpu = running.cost(self.clock()) if running else (trial.wall_seconds, trial.gpu_seconds)
        costs = {"wall_seconds": wall, "gpu_seconds": gpu}
        kept = {"traceback": traceback} if traceback else {}
        self._emit("end", trial=trial.name, state=str(state), reason=reason, error=error, **kept, **costs)
        self.proposer.tell(trial.number, state, value, trial)

    def ending(self) -> str:
        """The reason why the sweep ends now."""
        spent = self.exhausted()
        if self.record.confirmation is not None:
            return self.record.confirmation.reason
        if spent or not self.out_of_choices:
            return f"budget: {spent or 'run_cap'}"
        if self.proposer.exhausted():
            return "every configuration of the search space was tried"
        by_budget = math.isfinite(self.left_gpu_seconds()) and self.proposer.can_run()
        return f"nothing that fits{' the budget' if by_budget else ''} is left to try"

    def end_sweep(self) -> None:
        """End the sweep, with all trials that are paused at a rung or were never placed."""
        reason = self.ending()
        for trial in self.record.by_number():
            if not trial.state.ended:
                self._end(trial, State.PRUNED, "rung" if trial.name in self.paused else reason)
        front = [asdict(point) for point in pareto_front(self.record)]
        self._emit("sweep_ended", reason=reason, hypervolume=hypervolume(self.record), pareto=front)

    def note(self, text: str) -> None:
        """Write a note into the record."""
        self._emit("note", text=text)

    def close(self) -> None:
        """End the session, which may be before the end of the sweep."""
        for sink in self.sinks:
            sink.close(self.record)
