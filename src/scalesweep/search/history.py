"""The view of a record for the search models: each trial's place in the space, its values at the rungs, its cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalesweep.record import Past, State, Trial
from scalesweep.record.curves import between
from scalesweep.search.encoding import Encoder

REFIT = 1.03  # the forecast is fitted anew when the number of values has grown by this factor
RARELY = 1.25  # the same for slow model parameters and the number of trials
PARTS = 3  # a sweep without rungs gets levels at 1/27, 1/9 and 1/3 of a trial
STEPS = 2  # levels from one rung to the next; a loss between two reports is interpolated


Snapshot = list[tuple[np.ndarray, list[float | None]]]


@dataclass
class Seen:
    """One trial. `values[k]` is its loss (lower is better) at each level k that it reached; NaN if it has diverged, None if its
    first report came later."""

    name: str
    units: np.ndarray
    values: list[float | None] = field(default_factory=list)
    fidelity: float = 0.0
    gpu_seconds: float = 0.0
    last: float = math.nan  # loss at the last report
    state: State = State.RUNNING
    past: bool = False  # a trial of an earlier sweep, which informs the models but can't be promoted

    @property
    def score(self) -> float:
        """The loss at the highest level reached; infinite if the trial has diverged."""
        last = self.values[-1] if self.values else None
        return last if last is not None and math.isfinite(last) else math.inf


def between_rungs(rungs: Sequence[float], max_t: float) -> list[float]:
    """The levels of a sweep with rungs: the rungs, and `STEPS` - 1 between each and the next one or `max_t`, even on a log scale.

    The level of a rung is `STEPS` × its index.
    """
    ends = [*(rung for rung in rungs if rung < max_t), max_t]
    steps = [low * (high / low) ** (step / STEPS) for low, high in itertools.pairwise(ends) for step in range(STEPS)]
    return steps if len(ends) > 1 else []


class History:
    """All trials of a record. It grows report by report and can always be rebuilt from the record."""

    def __init__(self, encoder: Encoder, rungs: Sequence[float], max_t: float) -> None:
        self.encoder = encoder
        levels = list(rungs) or [max_t / 3**k for k in range(PARTS, 0, -1)]
        self.levels = [*(level for level in levels if level < max_t), max_t]
        self.seen: dict[str, Seen] = {}
        self.tried = np.empty((0, len(encoder.columns)))  # places of this sweep's own trials
        self.judged = 0  # trials that have reached the first level
        # Places and values at the last refits. A resumed sweep, which adds the same reports in the same order, has the same.
        self.snapshot: Snapshot = []
        self.rare: Snapshot = []
        self._due, self._rare_due = 0, 0
        self.version = 0  # grows with every report that adds values

    def add(self, name: str, params: Mapping[str, Any], past: bool = False) -> None:
        units = self.encoder.units(params)
        self.seen[name] = Seen(name, units, past=past)
        if not past:
            self.tried = np.vstack([self.tried, units])

    def take(self, trials: Sequence[Trial], metric: str, sign: float, past: Sequence[Past] = ()) -> None:
        """Add trials of earlier sweeps, then those of a record, report by report in order, without repeats.

        `sign` × metric is the loss."""
        for earlier in past:
            self.add(earlier.name, earlier.params, past=True)
            for fidelity, value, gpu_seconds in earlier.reports:
                self.report(earlier.name, fidelity, sign * value, gpu_seconds)
            self.ended(earlier.name, earlier.state)
        trials = [trial for trial in trials if trial.repeat_of is None]
        for trial in trials:
            self.add(trial.name, trial.params)
        reports = [(report, trial.name) for trial in trials for report in trial.reports]
        for report, name in sorted(reports, key=lambda item: item[0].order):
            self.report(name, report.fidelity, sign * report.metrics[metric], report.gpu_seconds)
        for trial in trials:
            self.ended(trial.name, trial.state)

    def report(self, name: str, fidelity: float, loss: float, gpu_seconds: float) -> bool:
        """Add a report. A level between two reports gets the interpolated value. Returns whether the trial reached a level."""
        trial = self.seen[name]
        known = len(trial.values)
        for level in self.levels[len(trial.values) :]:
            if fidelity < level and math.isfinite(loss):
                break
            trial.values.append(between(trial.fidelity, trial.last, fidelity, loss, level))
        if not trial.fidelity and math.isfinite(loss):
            # A first report informs only the last of the levels that it has passed.
            trial.values[:-1] = [None] * len(trial.values[:-1])
        trial.fidelity, trial.last, trial.gpu_seconds = fidelity, loss, gpu_seconds
        if len(trial.values) == known:
            return False
        self.version += 1
        self.judged += not known
        if self.version >= self._due:
            self.snapshot = [(t.units, list(t.values)) for t in self.seen.values() if t.values]
            self._due = math.ceil(self.version * REFIT)
        if self.judged >= self._rare_due:
            self.rare = self.snapshot
            self._rare_due = math.ceil(self.judged * RARELY)
        return True

    def ended(self, name: str, state: State) -> None:
        self.seen[name].state = state
