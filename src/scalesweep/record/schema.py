"""What a record says of a sweep. `docs/reference/record.md` documents the file for readers.

A record is a list of events in the order in which they happened; a trial is the sum of its events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 2


class State(StrEnum):
    """States of a trial, with Optuna's names where it has one."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"
    INFEASIBLE = "INFEASIBLE"

    @property
    def ended(self) -> bool:
        return self is not State.RUNNING


@dataclass(frozen=True)
class Mark:
    """Where a trial stood at a rung: between two reports, where none fell on it. `value` is the metric as it is."""

    rung: int
    fidelity: float
    value: float
    gpu_seconds: float


@dataclass(frozen=True)
class Report:
    """One evaluation of a trial. `rungs` are the rung numbers (1 is the grace period) that this report was judged at.

    `fidelity` counts the sweep's `time_attr`; `tokens` are those trained on so far; `flops` were computed for the trial so
    far, evaluation included and what a cache saved left out, while `model_flops` are what its training takes without a
    cache; `train_seconds` were spent in training steps alone. `wall_seconds` and `gpu_seconds` run while the trial holds
    its workers and count every attempt, loading and evaluation included; `dollars` follow from them.
    """

    fidelity: float
    step: int
    tokens: int
    flops: float
    wall_seconds: float
    gpu_seconds: float
    metrics: dict[str, float]
    model_flops: float = 0.0
    train_seconds: float = 0.0
    dollars: float | None = None
    rungs: tuple[int, ...] = ()
    marks: tuple[Mark, ...] = ()  # one for each of `rungs`; records of earlier days have none
    action: str = "continue"  # continue | stop | pause | complete
    reason: str | None = None  # why it did not continue: rung | max_t | diverged | budget: …
    cutoff: float | None = None  # the metric that had to be reached at the rung
    order: int = 0  # place among all reports of the sweep


@dataclass
class Trial:
    """One trial, as its events tell it."""

    number: int
    name: str
    params: dict[str, Any]
    config: dict[str, Any]
    created: float
    bracket: int = 0  # it is judged from rung `bracket` + 1 on
    state: State = State.RUNNING
    paused: bool = False  # waits at a rung, without workers
    placed: bool = False  # has its workers
    stop_reason: str | None = None
    attempts: int = 0
    error: str | None = None
    reports: list[Report] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    wall_seconds: float = 0.0  # since it was first placed, over all attempts, as far as the record knows
    gpu_seconds: float = 0.0  # the same times its workers

    @property
    def last(self) -> Report | None:
        return self.reports[-1] if self.reports else None

    @property
    def judged(self) -> Report | None:
        """The report at which the trial was judged at its highest rung, or its last report before any rung."""
        reached = [report for report in self.reports if report.rungs]
        return max(reached, key=lambda report: max(report.rungs)) if reached else self.last

    def standing(self, metric: str) -> tuple[float, float] | None:
        """The metric, and the fidelity it was reached at: at the highest rung that the trial was judged at, or at its last
        report before any rung."""
        judged = self.judged
        if judged is None:
            return None
        if judged.marks:
            return judged.marks[-1].value, judged.marks[-1].fidelity
        return judged.metrics[metric], judged.fidelity

    @property
    def rung(self) -> int:
        """The highest rung the trial was judged at; 0 before the first."""
        return max((max(report.rungs) for report in self.reports if report.rungs), default=0)


@dataclass(frozen=True)
class Past:
    """A trial of an earlier sweep that the search learns from. It is none of this sweep's trials."""

    name: str  # run folder and trial
    params: dict[str, Any]
    reports: tuple[tuple[float, float, float], ...]  # fidelity, metric, GPU seconds
    state: State

    @classmethod
    def of(cls, name: str, trial: Trial, metric: str) -> Past:
        """A trial as it stands. One that has not ended is as good as stopped: here it never goes on."""
        told = [(r.fidelity, r.metrics[metric], r.gpu_seconds) for r in trial.reports if metric in r.metrics]
        reports = tuple((float(at), value, cost) for at, value, cost in told)
        return cls(name, trial.params, reports, trial.state if trial.state.ended else State.PRUNED)


@dataclass
class Record:
    """A whole sweep as its record tells it: the manifest (`sweep.json`) and every trial."""

    manifest: dict[str, Any]
    trials: dict[str, Trial] = field(default_factory=dict)
    status: str = "new"  # new | running | ended
    ended_reason: str | None = None
    elapsed_seconds: float = 0.0  # up to the last event; a session that was killed counts up to there
    notes: list[str] = field(default_factory=list)
    boot_gpu_seconds: float = 0.0  # that workers took to start; they belong to no trial
    trial_gpu_seconds: dict[str, float] = field(default_factory=dict)  # of all trials, by model size
    _last_event: float | None = None  # of the running session
    _reports: int = 0

    @property
    def metric(self) -> str:
        return str(self.manifest["metric"]["name"])

    @property
    def minimize(self) -> bool:
        return bool(self.manifest["metric"]["goal"] == "minimize")

    @property
    def n_params(self) -> dict[str, float]:
        """Parameters of each model size, as far as they are known."""
        return {size["name"]: size["n_params"] for size in self.manifest["ladder"] if size.get("n_params")}

    @property
    def past(self) -> list[Past]:
        """Trials of earlier sweeps that this one started from."""
        return [
            Past(
                told["name"],
                told["params"],
                tuple((float(t), float(v), float(c)) for t, v, c in told["reports"]),
                State(told["state"]),
            )
            for told in self.manifest.get("past", ())  # "NaN" is text there
        ]

    @property
    def gpu_seconds(self) -> float:
        return self.boot_gpu_seconds + sum(self.trial_gpu_seconds.values())

    def elapsed(self, now: float) -> float:
        """Wall-clock seconds that the sweep has run, over all its sessions, up to `now` (unix seconds)."""
        return self.elapsed_seconds + (max(0.0, now - self._last_event) if self._last_event is not None else 0.0)

    def by_number(self) -> list[Trial]:
        return sorted(self.trials.values(), key=lambda trial: trial.number)

    def apply(self, event: dict[str, Any]) -> None:
        """Take one event in. Unknown kinds are ignored, so that a newer writer's additions don't stop a reader."""
        kind, when = event["event"], float(event["time"])
        if kind == "session":
            self.status = "running"
            self._last_event = when
            for trial in self.trials.values():
                trial.placed = False
            return
        if self._last_event is not None:
            self.elapsed_seconds += max(0.0, when - self._last_event)
            self._last_event = when
        if kind == "sweep_ended":
            self.status, self.ended_reason = "ended", event["reason"]
            self._last_event = None
        elif kind == "trial":
            self.trials[event["trial"]] = Trial(
                number=event["number"],
                name=event["trial"],
                params=event["params"],
                config=event["config"],
                created=when,
                bracket=event.get("bracket", 0),
            )
        elif kind == "start":
            trial = self.trials[event["trial"]]
            trial.attempts += 1
            trial.paused, trial.placed = False, True
            trial.started = when if trial.started is None else trial.started
        elif kind == "report":
            keys = ("fidelity", "step", "tokens", "flops", "wall_seconds", "gpu_seconds", "metrics", "action", "cutoff")
            fields = {key: event[key] for key in keys}
            fields |= {key: event[key] for key in ("model_flops", "train_seconds", "dollars") if key in event}
            self._reports += 1
            marks = tuple(Mark(**mark) for mark in event.get("marks", ()))
            fields |= {"rungs": tuple(event["rungs"]), "marks": marks, "reason": event.get("reason")}
            trial = self.trials[event["trial"]]
            trial.reports.append(Report(**fields, order=self._reports))
            trial.paused = event["action"] == "pause"
        elif kind == "end":
            trial = self.trials[event["trial"]]
            trial.state, trial.stop_reason, trial.ended = State(event["state"]), event["reason"], when
            trial.error, trial.paused = event.get("error"), False
        elif kind == "note":
            self.notes.append(event["text"])
        elif kind == "worker":
            self.boot_gpu_seconds += event["gpu_seconds"]
        if kind in ("start", "report", "died", "yielded", "end"):
            trial = self.trials[event["trial"]]
            trial.placed = trial.placed and not trial.paused and kind in ("start", "report")
            trial.wall_seconds = max(trial.wall_seconds, event.get("wall_seconds", 0.0))
            size, gpu_seconds = str(trial.config.get("model_size")), max(trial.gpu_seconds, event.get("gpu_seconds", 0.0))
            self.trial_gpu_seconds[size] = self.trial_gpu_seconds.get(size, 0.0) + gpu_seconds - trial.gpu_seconds
            trial.gpu_seconds = gpu_seconds


def replay(manifest: dict[str, Any], events: Iterable[dict[str, Any]]) -> Record:
    """The record that these events make."""
    record = Record(manifest)
    for event in events:
        record.apply(event)
    return record
