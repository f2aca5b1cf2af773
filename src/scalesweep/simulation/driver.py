"""A sweep's own conductor as the driver of a simulation: the same proposals, survival and placement as live."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.storages import InMemoryStorage

from scalesweep.control.conductor import Conductor
from scalesweep.costs import share_of, workers_of
from scalesweep.record import Manifest, Past, Record, Trial
from scalesweep.record.manifest import new_manifest
from scalesweep.search.pick import pick
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.simulator import Clock, Start
from scalesweep.spec import SweepSpec


@dataclass
class Memory:
    """A record in memory alone."""

    record: Record

    def append(self, event: dict[str, Any]) -> None:
        self.record.apply(event)


@dataclass
class Everywhere:
    """A pool that always has workers. With `gpus`, it keeps shares of a GPU on one GPU; else the conductor alone counts the
    free ones."""

    gpus: int | None = None
    booted: list[float] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    drained: Collection[str] = ()
    held: dict[str, tuple[float, list[int]]] = field(
        default_factory=dict
    )  # trial → the part of each of its GPUs, their numbers

    def nodes(self, holder: str) -> set[str]:  # noqa: ARG002
        return set()

    def drain(self, node: str) -> str | None:  # noqa: ARG002
        return None

    def gone(self, holder: str) -> bool:  # noqa: ARG002
        return False

    def leaving(self, holder: str) -> bool:  # noqa: ARG002
        return False

    def _left(self, given_back: Collection[str] = ()) -> list[float]:
        """The part of each GPU that is free."""
        left = [1.0] * (self.gpus or 0)
        for name, (share, places) in self.held.items():
            for place in places if name not in given_back else ():
                left[place] -= share
        return left

    def _places(self, trial: Trial, given_back: Collection[str] = ()) -> list[int] | None:
        """GPUs for a trial, the fullest that have room; None if too few have."""
        count, share, left = workers_of(trial.num_gpus), share_of(trial.num_gpus), self._left(given_back)
        able = sorted((place for place in range(len(left)) if left[place] >= share), key=lambda place: left[place])
        return able[:count] if len(able) >= count else None

    def take(self, trial: Trial) -> bool:
        if self.gpus is None:
            return True
        places = self._places(trial)
        if places is not None:
            self.held[trial.name] = share_of(trial.num_gpus), places
        return places is not None

    def could_hold(self, trial: Trial, given_back: Collection[str] = ()) -> bool:
        return self.gpus is None or self._places(trial, given_back) is not None

    def room(self) -> float:
        if self.gpus is None:
            return math.inf
        left = self._left()
        return left.count(1) or max(left, default=0)

    def idle(self) -> float:
        return math.inf

    def names(self, holder: str) -> list[str]:  # noqa: ARG002
        return []

    def tend(self) -> None: ...

    def release(self, holder: str) -> None:
        self.held.pop(holder, None)

    def discard(self, holder: str) -> None:
        self.held.pop(holder, None)


def new_study() -> InMemoryStorage:
    """A storage for an Optuna study that is not kept."""
    return InMemoryStorage()


def manifest(spec: SweepSpec, n_params: Mapping[str, float], past: Sequence[Past] = ()) -> Manifest:
    """The manifest of a simulated sweep."""
    ladder = [{"name": size.name, "n_params": n_params.get(size.name)} for size in spec.sizes()]
    return new_manifest(spec, ladder, [asdict(earlier) for earlier in past])


class SweepDriver:
    """Drives a simulation as `scalesweep launch` drives a sweep."""

    def __init__(
        self,
        spec: SweepSpec,
        n_params: Mapping[str, float],
        gpus: int,
        clock: Clock,
        seed: int,
        past: Sequence[Past] = (),
    ) -> None:
        spec = spec.model_copy(update={"search": spec.search.model_copy(update={"seed": seed})})
        self.metric = spec.metric.name
        self.record = Record(manifest(spec, n_params, past))
        proposer = Proposer(spec, new_study(), n_params=n_params, past=self.record.past)
        self.conductor = Conductor(spec, Memory(self.record), proposer, lambda: gpus, Everywhere(gpus), clock)

    def next_trial(self, free: float) -> Start | None:  # noqa: ARG002
        trial = self.conductor.next_trial()
        if trial is None:
            return None
        again = trial.config["seed"] - self.conductor.spec.training.seed
        return Start(trial.name, trial.params, trial.num_gpus, trial.repeat_of, again)

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:  # noqa: ARG002
        counts: dict[str, Any] = {"step": len(self.record.trials[name].reports) + 1, "tokens": 0, "flops": 0.0}
        return self.conductor.report(name, fidelity, {self.metric: value}, **counts)

    def died(self, name: str) -> None:
        self.conductor.died(name)

    def finished(self) -> bool:
        return self.conductor.finished()

    def ending(self) -> str:
        """The reason why the sweep ends now."""
        return self.conductor.ending()

    def pick(self) -> Mapping[str, Any] | None:
        trial = pick(self.record, self.conductor.proposer.outlook)
        return None if trial is None else trial.params
