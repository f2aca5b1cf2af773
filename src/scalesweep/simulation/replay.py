"""Replay of a sweep's decisions: event by event, whether the code makes the same proposals and rung decisions again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalesweep.control.budgets import Running
from scalesweep.control.conductor import Conductor
from scalesweep.record import Manifest, Record, State, Trial, read_manifest
from scalesweep.record.store import read_events, rebuilt
from scalesweep.search import repeats
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, new_study
from scalesweep.simulation.simulator import Clock
from scalesweep.spec import SweepSpec, gpu_choices, sweep_from_dict
from scalesweep.storage import UrlPath

SAME = 1e-9  # numbers with a smaller relative difference are equal


@dataclass(frozen=True)
class Difference:
    event: int  # its number in the record, from 1
    trial: str
    what: str
    recorded: Any
    replayed: Any


@dataclass
class ReplayResult:
    decisions: int = 0  # compared proposals, rung decisions and promotions
    differences: list[Difference] = field(default_factory=list)


def replay_decisions(
    source: Path | UrlPath | Iterable[dict[str, Any]], manifest: Manifest | None = None, spec: SweepSpec | None = None
) -> ReplayResult:
    """Repeat every proposal and every rung decision of a record, in the order of the live sweep.

    After a difference the replay continues from the recorded state, like a resumed sweep. The time and place of trials are
    not compared, because they depend on the cluster.

    Args:
        source: a run folder, or the events of a record.
        manifest: the manifest of the events.
        spec: the spec of the events, if that of the manifest can't be read back (a sweep over a table).

    Raises:
        UserError: the run folder is missing, unreadable or damaged.
    """
    if isinstance(source, Path | UrlPath):
        manifest, events = read_manifest(source), read_events(source)
        rebuilt(source, manifest, events)  # raises where an event contradicts earlier ones
    else:
        events = list(source)
    assert manifest is not None
    return _Replay(events, manifest, spec or sweep_from_dict(manifest.spec)).run()


class _NotInRecord(Exception):
    """The conductor has proposed a trial where the record has none, so it can't continue with it."""


class _Conductor(Conductor):
    """A conductor with given GPU counts for a trial, instead of those that the running trials leave."""

    counts: Sequence[float] = ()
    left: float = math.inf
    promoting = repeating = False

    def _useful_counts(self) -> list[float]:
        return list(self.counts)

    def left_gpu_seconds(self) -> float:
        return self.left

    def _promotable(self, counts: Sequence[float]) -> str | None:
        return super()._promotable(counts) if self.promoting else None

    def _beyond_quotas(self, counts: Sequence[float]) -> str | None:
        return super()._beyond_quotas(counts) if self.promoting else None

    def _repeatable(self, counts: Sequence[float], closing: bool = False) -> str | None:  # noqa: ARG002
        # When repeats begin depends on the cluster.
        return next(iter(repeats.planned(self.record, self.spec)), None) if self.repeating else None

    def propose_anew(self, counts: Sequence[float], left: float) -> None:
        """Propose a new trial with the remaining budget `left`. Unfinished trials are ignored: they have had their turn."""
        self.counts, self.left, self.unfinished = counts, left, []
        with contextlib.suppress(_NotInRecord):
            self._propose()

    def repeat_anew(self, counts: Sequence[float]) -> None:
        """Choose the ended trial that is repeated."""
        self.counts, self.unfinished, self.repeating = counts, [], True
        with contextlib.suppress(_NotInRecord):
            self._propose()
        self.repeating = False

    def promote_anew(self, counts: Sequence[float]) -> None:
        """Choose the paused trial that continues."""
        self.counts, self.unfinished, self.promoting = counts, [], True
        with contextlib.suppress(_NotInRecord):
            self._propose()
        self.promoting = False


class _Replay:
    """The record up to the replayed event. The conductor writes to it, and each write is compared with the record."""

    def __init__(self, events: Sequence[dict[str, Any]], manifest: Manifest, spec: SweepSpec) -> None:
        self.events, self.spec, self.manifest = events, spec, manifest
        self.at = 0  # the next event
        self.record = Record(manifest)
        self.clock = Clock()
        self.result = ReplayResult()
        self.running: dict[str, Running] = {}
        self.stale = False  # the conductor's decision differed from the record
        self.conductor: _Conductor | None = None

    def run(self) -> ReplayResult:
        handlers = {
            "settings": self._settings, "session": self._session, "trial": self._trial, "promoted": self._promoted, "start": self._start,
            "report": self._report, "died": self._died, "yielded": self._died, "end": self._end,
        }  # fmt: skip
        while self.at < len(self.events):
            event = self.events[self.at]
            self.clock.now = float(event["time"])
            handlers.get(event["event"], self._take)(event)
        return self.result

    # ---- the conductor's side -------------------------------------------------------------------------------------------

    def append(self, event: dict[str, Any]) -> None:
        """Receive an event of the conductor. The recorded event is applied, and differences are noted."""
        kind = event["event"]
        recorded = self.events[self.at] if self.at < len(self.events) else None
        if kind == "session":
            return
        if recorded is not None and (recorded["event"], recorded.get("trial")) == (kind, event.get("trial")):
            self._compare(recorded, event)
            self._take(recorded)
        elif recorded is None or recorded["event"] == "session":
            self.stale = True  # the driver died before writing this
        else:
            self._differs(event["trial"], kind, f"{recorded['event']} of {recorded.get('trial', 'the sweep')}", kind)
            if kind == "trial":
                raise _NotInRecord

    def _compare(self, recorded: dict[str, Any], replayed: dict[str, Any]) -> None:
        compared = {
            "trial": ["number", "params", "repeat_of"],
            "report": ["action", "reason", "rungs", "cutoff"],
            "end": ["state", "reason"],
        }
        self.result.decisions += recorded["event"] != "end"
        for key in compared.get(recorded["event"], []):
            if not _same(recorded.get(key), replayed.get(key)):
                self._differs(recorded["trial"], key, recorded.get(key), replayed.get(key))

    def _differs(self, trial: str, what: str, recorded: Any, replayed: Any) -> None:
        self.stale = True
        self.result.differences.append(Difference(self.at + 1, trial, what, recorded, replayed))

    # ---- the record's side ----------------------------------------------------------------------------------------------

    def _take(self, event: dict[str, Any]) -> None:
        self.record.apply(event)
        self.at += 1

    def _proposer(self) -> Proposer:
        n_params = {name: float(count) for name, count in self.manifest.n_params.items()}
        trials, past = self.record.by_number(), self.record.past
        return Proposer(self.spec, new_study(), trials, self.manifest.hopeless, n_params, past)

    def _begin(self) -> _Conductor:
        """A new conductor with the record, as at the start of a session."""
        self.stale = False
        self.conductor = _Conductor(self.spec, self, self._proposer(), lambda: 0, Everywhere(), self.clock)
        return self.conductor

    def _now(self) -> _Conductor:
        """The conductor in the state of the record."""
        if self.conductor is not None and not self.stale:
            return self.conductor
        conductor = self._begin()
        # Within a session, paused trials are not over.
        conductor.proposer, conductor.running, self.stale = self._proposer(), self.running, False
        return conductor

    def _settings(self, event: dict[str, Any]) -> None:
        self._take(event)
        self.spec = sweep_from_dict(self.record.manifest.spec)

    def _session(self, event: dict[str, Any]) -> None:
        self._take(event)
        self.running = {}
        conductor = self._begin()
        conductor.running = self.running

    def _trial(self, event: dict[str, Any]) -> None:
        place = self.at
        counts = event.get("counts") or gpu_choices(self.spec)
        if event.get("repeat_of"):
            self._now().repeat_anew(counts)
        else:
            self._now().propose_anew(counts, event.get("left_gpu_seconds", math.inf))
        if self.at == place:
            self.result.decisions += 1
            self._differs(event["trial"], "proposal", event["params"], "none")
            self._take(event)

    def _promoted(self, event: dict[str, Any]) -> None:
        place = self.at
        self._now().promote_anew(event.get("counts") or gpu_choices(self.spec))
        if self.at == place:
            self.result.decisions += 1
            self._differs(event["trial"], "promotion", event["trial"], "none")
            self._take(event)

    def _start(self, event: dict[str, Any]) -> None:
        self._take(event)
        trial = self.record.trials[event["trial"]]
        if self.conductor is not None:
            self.conductor.waiting.pop(trial.name, None)
            self.conductor.paused.pop(trial.name, None)
        self.running[trial.name] = Running(trial, self.clock.now, trial.wall_seconds, trial.gpu_seconds)

    def _report(self, event: dict[str, Any]) -> None:
        place, name = self.at, event["trial"]
        conductor, trial = self._now(), self.record.trials[name]
        # The cost is exactly the recorded one, because models learn from it.
        self.running[name] = Running(trial, self.clock.now, event["wall_seconds"], event["gpu_seconds"])
        conductor.report(name, event["fidelity"], event["metrics"])
        if self.at == place:
            self.result.decisions += 1
            self._differs(name, "report", event["action"], "none")
            self._take(event)
        if event["action"] != "continue":
            self.running.pop(name, None)

    def _died(self, event: dict[str, Any]) -> None:
        self._take(event)
        self.running.pop(event["trial"], None)

    def _end(self, event: dict[str, Any]) -> None:
        """Apply an end without a report: training failed, or the sweep was over."""
        self._take(event)
        trial: Trial = self.record.trials[event["trial"]]
        self.running.pop(trial.name, None)
        if self.conductor is not None and not self.stale:
            self.conductor.waiting.pop(trial.name, None)
            self.conductor.paused.pop(trial.name, None)
            value = trial.last.metrics[self.record.metric] if trial.last else None
            self.conductor.proposer.tell(trial.number, State(event["state"]), value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=SAME) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
