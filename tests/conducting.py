"""A conductor on a clock and a pool of workers that the test makes up."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from scalesweep.control.conductor import Conductor
from scalesweep.record import RecordWriter, Trial
from scalesweep.record.fields import EVENTS
from scalesweep.record.manifest import SCHEMA_VERSION
from scalesweep.search.proposals import Proposer
from scalesweep.spec import SweepSpec
from sweeps import sweep

RATE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
ONE_SIZE = {"parameters": {"model_size": {"value": "L1"}, "learning_rate": RATE}}
PROMOTION = {"type": "asha", "grace_period": 4, "max_t": 36, "reduction_factor": 3, "variant": "promotion"}

MANIFEST = {"schema_version": SCHEMA_VERSION, "name": "tiny", "metric": {"name": "eval_loss", "goal": "minimize"}}


class Workers:
    """A pool that always has what is asked for, unless told otherwise."""

    def __init__(self) -> None:
        self.booted: list[float] = []
        self.remarks: list[str] = []
        self.places: dict[str, set[str]] = {}
        self.drained: list[str] = []
        self.leaves: set[str] = set()
        self.lost: set[str] = set()
        self.holders: set[str] = set()
        self.discarded: list[str] = []
        self.there = True
        self.up = math.inf  # workers that are up and idle
        self.lacking: set[str] = set()  # sizes of which all workers are taken, whatever else is free

    def take(self, trial: Trial) -> bool:
        there = self.there and trial.config["num_gpus"] <= self.up and self.could_hold(trial)
        if there:
            self.holders.add(trial.name)
        return there

    def could_hold(self, trial: Trial, given_back: Collection[str] = ()) -> bool:  # noqa: ARG002
        return trial.config["model_size"] not in self.lacking

    def room(self) -> float:
        return math.inf

    def idle(self) -> float:
        return self.up

    def names(self, holder: str) -> list[str]:
        return [f"{holder}-worker"]

    def nodes(self, holder: str) -> set[str]:
        return self.places.get(holder, set())

    def drain(self, node: str) -> str | None:
        self.drained.append(node)
        return f"address of {node}"

    def gone(self, holder: str) -> bool:
        return bool(self.lost & self.nodes(holder))

    def leaving(self, holder: str) -> bool:
        return bool(self.leaves & self.nodes(holder))

    def tend(self) -> None: ...

    def release(self, holder: str) -> None:
        self.holders.discard(holder)

    def discard(self, holder: str) -> None:
        self.holders.discard(holder)
        self.discarded.append(holder)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Documented(RecordWriter):
    """A writer that takes no field that the reference does not describe."""

    def append(self, event: dict[str, Any]) -> None:
        assert set(event) - {"event", "time"} <= set(EVENTS[event["event"]].fields)
        super().append(event)


def conductor(folder: Path, spec: SweepSpec, slots: int, clock: Clock | None = None, resume: bool = False) -> Conductor:
    writer = Documented(folder / "run", None if resume else MANIFEST)
    proposer = Proposer(spec, InMemoryStorage(), writer.record.by_number())
    return Conductor(spec, writer, proposer, lambda: slots, Workers(), clock=clock or Clock())


def report(made: Conductor, name: str, step: int, loss: float) -> bool:
    return made.report(name, step, {"eval_loss": loss}, step=step, tokens=100 * step, flops=1e9 * step)


def start(made: Conductor) -> str:
    trial = made.next_trial()
    assert trial is not None
    return trial.name


def waiting_sweep(**changes: Any) -> SweepSpec:
    early = {**PROMOTION, **changes.pop("early", {})}
    return sweep(**{"search_space": ONE_SIZE, "early_terminate": early, "budget": {"run_cap": 3}, **changes})


def pause_three(made: Conductor, clock: Clock) -> list[str]:
    """Three trials, one after the other, ten seconds each; the second is the best."""
    names = []
    for loss in (0.5, 0.4, 0.6):
        names.append(start(made))
        clock.now += 10
        assert not report(made, names[-1], 4, loss)
    return names
