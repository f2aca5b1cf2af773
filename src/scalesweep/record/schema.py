"""The state of a sweep, built from the events of its record. `docs/reference/record.md` describes the files.

A record is a list of events in order of time. The state of a trial is the sum of its events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from scalesweep.record.manifest import Manifest
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from pandas import DataFrame

    from scalesweep.record.ranking import By


class State(StrEnum):
    """States of a trial, with Optuna's names if Optuna has the state."""

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
    """A trial at a rung, interpolated between two reports if none is at the rung. `value` is the metric in its own direction."""

    rung: int
    fidelity: float
    value: float
    gpu_seconds: float


@dataclass(frozen=True)
class Report:
    """One evaluation of a trial. `rungs` are the numbers of the rungs (1 is the grace period) at which it was judged.

    `fidelity` counts the sweep's `time_attr`; `tokens` counts the tokens trained on so far. `flops` counts the FLOPs computed
    so far, with evaluation and without cached work; `model_flops` counts those of training without a cache. `train_seconds` is
    the time in training steps alone. `wall_seconds` and `gpu_seconds` count while the trial holds workers, over all attempts,
    with loading and evaluation; `dollars` follows from them.
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
    marks: tuple[Mark, ...] = ()  # one for each of `rungs`; records of older versions have none
    action: str = "continue"  # continue | stop | pause | complete
    reason: str | None = None  # reason for not continuing: rung | max_t | diverged | budget: …
    cutoff: float | None = None  # the metric required at the rung
    order: int = 0  # number among all reports of the sweep
    examples: dict[str, Any] | None = None  # where the numbers of its rows are; older records have none
    device: str | None = None  # the name of the first worker's GPU, or `cpu`; older records have none


@dataclass
class Trial:
    """One trial, built from its events."""

    number: int
    name: str
    params: dict[str, Any]
    config: dict[str, Any]
    created: float
    bracket: int = 0  # its first rung is `bracket` + 1
    repeat_of: str | None = None  # the trial whose configuration it trains again, with another seed
    state: State = State.RUNNING
    paused: bool = False  # waits at a rung, without workers
    placed: bool = False  # has workers
    stop_reason: str | None = None
    attempts: int = 0
    error: str | None = None
    traceback: str | None = None  # file of the last failed attempt's traceback, relative to the run folder
    reports: list[Report] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    wall_seconds: float = 0.0  # seconds with workers, over all recorded attempts
    gpu_seconds: float = 0.0  # `wall_seconds` × `num_gpus`

    def __repr__(self) -> str:
        why = f" ({self.stop_reason})" if self.stop_reason else ""
        return f"<Trial {self.name}: {self.state}{why}, {len(self.reports)} reports>"

    @property
    def num_gpus(self) -> float:
        """GPUs that the trial books, or workers in their place: a whole number, or a share of one GPU."""
        count: float = self.config["num_gpus"]
        return count

    @property
    def last(self) -> Report | None:
        return self.reports[-1] if self.reports else None

    def finite(self, metric: str) -> bool:
        """Whether any report has a finite value."""
        return any(math.isfinite(report.metrics[metric]) for report in self.reports)

    @property
    def judged(self) -> Report | None:
        """The report at which the trial was judged at its highest rung, or its last report before any rung."""
        reached = [report for report in self.reports if report.rungs]
        return max(reached, key=lambda report: max(report.rungs)) if reached else self.last

    def standing(self, metric: str) -> tuple[float, float] | None:
        """The metric and its fidelity at the highest rung at which the trial was judged, or at its last report if it was not
        judged yet. None without a report."""
        judged = self.judged
        if judged is None:
            return None
        if judged.marks:
            return judged.marks[-1].value, judged.marks[-1].fidelity
        return judged.metrics[metric], judged.fidelity

    @property
    def rung(self) -> int:
        """The highest rung at which the trial was judged; 0 before the first."""
        return max((max(report.rungs) for report in self.reports if report.rungs), default=0)


@dataclass(frozen=True)
class Past:
    """A trial of an earlier sweep that informs the search. It does not belong to this sweep."""

    name: str  # run folder and trial
    params: dict[str, Any]
    reports: tuple[tuple[float, float, float], ...]  # fidelity, metric, GPU seconds
    state: State

    @classmethod
    def of(cls, name: str, trial: Trial, metric: str) -> Past:
        """The current state of a trial. An unfinished trial counts as pruned, because it does not continue here."""
        told = [(r.fidelity, r.metrics[metric], r.gpu_seconds) for r in trial.reports if metric in r.metrics]
        reports = tuple((float(at), value, cost) for at, value, cost in told)
        return cls(name, trial.params, reports, trial.state if trial.state.ended else State.PRUNED)


@dataclass(frozen=True)
class Confirmation:
    """A comparison of the leaders of an ended sweep on new seeds, which `promote --confirm` asks for.

    Attributes:
        trials: the compared configurations, the best first.
        seeds: the new seeds of each, at most.
        since: the number of its first repeat. Earlier ones belong to the sweep.
        reason: why the sweep had ended before it.
        ended: whether it is over. Otherwise the sweep trains nothing but its repeats.
    """

    trials: tuple[str, ...]
    seeds: int
    since: int
    reason: str
    ended: bool = False


@dataclass
class Record:
    """A whole sweep: the manifest (`sweep.json`, with budgets and limits as last changed) and every trial, built from the
    events."""

    manifest: Manifest
    trials: dict[str, Trial] = field(default_factory=dict)
    status: str = "new"  # new | running | ended
    ended_reason: str | None = None
    elapsed_seconds: float = 0.0  # seconds of all sessions up to their last events
    notes: list[str] = field(default_factory=list)
    folder: Path | UrlPath | None = None  # the run folder that it was read from
    boot_gpu_seconds: float = 0.0  # of workers' starts, which belong to no trial
    trial_gpu_seconds: dict[str, float] = field(default_factory=dict)  # of all trials, by model size
    untrained: dict[str, dict[str, float]] = field(default_factory=dict)  # metrics before training, by model size
    # The metric that each trial is expected to have at `max_t`, and the standard deviation. None if forecasts don't drive the sweep;
    # `search.pick` computes them, and no file has them.
    expected: dict[str, tuple[float, float]] | None = None
    confirmation: Confirmation | None = None  # the newest, unless the sweep was extended after it
    _last_event: float | None = None  # of the running session
    _reports: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.manifest, Manifest):  # the JSON of a file will do
            self.manifest = Manifest(self.manifest)

    def __repr__(self) -> str:
        where = f", in {self.folder}" if self.folder is not None else ""
        return f"<Record {self.manifest.get('name')}: {self.status}, {len(self.trials)} trials{where}>"

    def to_frame(self, of: Literal["trials", "reports"] = "trials", by: By | None = None) -> DataFrame:
        """A pandas DataFrame: a row for each trial, the best first, or a row for each report, in order of trials.

        The columns of trials are those of `leaderboard --csv`, each drawn parameter among them; the columns of reports are
        their counters and every metric.

        Args:
            of: the rows, `trials` or `reports`.
            by: order of trials, as in `rank`.

        Raises:
            ValueError: `of` is another word.
        """
        from scalesweep.record.table import frame

        return frame(self, of, by)

    @property
    def metric(self) -> str:
        return self.manifest.metric

    @property
    def minimize(self) -> bool:
        return self.manifest.minimize

    @property
    def n_params(self) -> dict[str, float]:
        """The known parameter counts of model sizes."""
        return self.manifest.n_params

    @property
    def past(self) -> list[Past]:
        """Trials of earlier sweeps from which this sweep started."""
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
    def examples(self) -> list[dict[str, Any]]:
        """Where the numbers of the rows of each evaluation are."""
        reports = (report for trial in self.trials.values() for report in trial.reports)
        return [report.examples for report in reports if report.examples is not None]

    @property
    def gpu_seconds(self) -> float:
        return self.boot_gpu_seconds + sum(self.trial_gpu_seconds.values())

    def elapsed(self, now: float) -> float:
        """Wall-clock seconds of the sweep over all sessions, up to `now` (unix seconds)."""
        return self.elapsed_seconds + (max(0.0, now - self._last_event) if self._last_event is not None else 0.0)

    def by_number(self) -> list[Trial]:
        return sorted(self.trials.values(), key=lambda trial: trial.number)

    def configurations(self) -> list[Trial]:
        """The trials by number, without repeats."""
        return [trial for trial in self.by_number() if trial.repeat_of is None]

    @property
    def confirming(self) -> bool:
        """Whether a confirmation has begun and not ended."""
        return self.confirmation is not None and not self.confirmation.ended

    def before_confirmation(self) -> Record:
        """The record without the repeats of its confirmation: the state of the sweep at its end."""
        if self.confirmation is None:
            return self
        since = self.confirmation.since
        earlier = {name: trial for name, trial in self.trials.items() if trial.number < since}
        return replace(self, trials=earlier, confirmation=None)

    def apply(self, event: dict[str, Any]) -> None:
        """Apply one event. Unknown kinds are ignored, so a reader accepts the additions of a newer writer."""
        kind, when = event["event"], float(event["time"])
        if kind == "settings":
            self.manifest = self.manifest.with_limits(event["changed"])
            self.status, self.ended_reason, self.confirmation = "running", None, None
            return
        if kind == "confirm":
            earlier, told = self.confirmation, (tuple(event["trials"]), event["seeds"])
            since = len(self.trials) if earlier is None else earlier.since
            reason = str(self.ended_reason) if earlier is None else earlier.reason
            self.confirmation = Confirmation(*told, since, reason)
            self.status, self.ended_reason = "running", None
            return
        if kind == "session":
            self.status, self.ended_reason = "running", None
            self._last_event = when
            for trial in self.trials.values():
                trial.placed = False
            return
        if self._last_event is not None:
            self.elapsed_seconds += max(0.0, when - self._last_event)
            self._last_event = when
        if kind == "sweep_ended":
            self.status, self.ended_reason = "ended", event["reason"]
            self.confirmation = None if self.confirmation is None else replace(self.confirmation, ended=True)
            self._last_event = None
        elif kind == "trial":
            if event["trial"] in self.trials:
                raise ValueError(f"{event['trial']} is proposed a second time")
            self.trials[event["trial"]] = Trial(
                number=event["number"],
                name=event["trial"],
                params=event["params"],
                config=event["config"],
                created=when,
                bracket=event.get("bracket", 0),
                repeat_of=event.get("repeat_of"),
            )
        elif kind == "start":
            trial = self.trials[event["trial"]]
            trial.attempts += 1
            trial.paused, trial.placed = False, True
            trial.started = when if trial.started is None else trial.started
        elif kind == "report":
            keys = ("fidelity", "step", "tokens", "flops", "wall_seconds", "gpu_seconds", "metrics", "action", "cutoff")
            fields = {key: event[key] for key in keys}
            fields |= {
                key: event[key] for key in ("model_flops", "train_seconds", "dollars", "examples", "device") if key in event
            }
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
        elif kind == "untrained":
            self.untrained[event["model_size"]] = event["metrics"]
        elif kind == "worker":
            self.boot_gpu_seconds += event["gpu_seconds"]
        if kind in ("start", "report", "died", "yielded", "end"):
            trial = self.trials[event["trial"]]
            trial.traceback = event.get("traceback", trial.traceback)
            trial.placed = trial.placed and not trial.paused and kind in ("start", "report")
            trial.wall_seconds = max(trial.wall_seconds, event.get("wall_seconds", 0.0))
            size, gpu_seconds = str(trial.config.get("model_size")), max(trial.gpu_seconds, event.get("gpu_seconds", 0.0))
            self.trial_gpu_seconds[size] = self.trial_gpu_seconds.get(size, 0.0) + gpu_seconds - trial.gpu_seconds
            trial.gpu_seconds = gpu_seconds


class Sink(Protocol):
    """A follower of the record, such as the progress display or a tracker.

    It receives each event right after it was written to the record, in the thread that writes.
    """

    def handle(self, event: dict[str, Any], record: Record) -> None: ...

    def close(self, record: Record) -> None: ...


def replay(manifest: Mapping[str, Any], events: Iterable[dict[str, Any]]) -> Record:
    """The record built from these events."""
    record = Record(Manifest(manifest))
    for event in events:
        record.apply(event)
    return record
