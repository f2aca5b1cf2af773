"""The outlook: what each trial of a record is expected to reach at `max_t`, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scalesweep.record import Past, State, Trial
from scalesweep.record.ranking import CAUTION
from scalesweep.search.encoding import Encoder
from scalesweep.search.forecast import Forecast, as_rows
from scalesweep.search.history import STEPS, History, Snapshot, between_rungs
from scalesweep.spec import SweepSpec, rung_levels
from scalesweep.spec.configurations import without_influence


class Expected(NamedTuple):
    """The loss at `max_t`. That of a trial that has diverged is infinite."""

    mean: float
    sd: float


UNKNOWN = Expected(math.inf, 0.0)
EVEN = 1 / 12  # mean square of a number spread evenly over -0.5 … 0.5
AGREEMENT, AGREEMENT_WEIGHT = 0.75, 4.0  # prior of a rung's rank correlation with the end; its weight, in trials


class Outlook:
    """The forecasts of all trials. They depend on the record alone, so a resumed sweep has the same."""

    def __init__(self, spec: SweepSpec, n_params: Mapping[str, float]) -> None:
        """
        Args:
            n_params: known parameter counts of sizes.
        """
        self.spec = spec
        self.encoder = Encoder(spec, n_params)
        self.without = without_influence(spec)
        self._numbers = self.encoder.numbers(self.without)
        max_t = spec.early_terminate.max_t
        self.history = History(self.encoder, between_rungs(rung_levels(spec), max_t), max_t)
        self._forecast: tuple[Snapshot, Forecast] | None = None  # and what it was fitted to
        self._expected: dict[str, Expected] = {}
        self._stale: set[str] = set()
        self._agreement: tuple[int, dict[int, float]] = -1, {}  # of each rung, at this version of the history

    # ---- the record -----------------------------------------------------------------------------------------------------

    def take(self, trials: Sequence[Trial], past: Sequence[Past] = ()) -> None:
        """Add trials of earlier sweeps, then those of a record."""
        self.history.take(trials, self.spec.metric.name, self.spec.loss_sign, past)
        self._stale |= self.history.seen.keys()

    def add(self, name: str, params: Mapping[str, object]) -> None:
        """Add a proposed trial."""
        self.history.add(name, params)

    def report(self, name: str, fidelity: float, loss: float, gpu_seconds: float) -> None:
        """Add a report of a trial. A loss is lower for better trials."""
        if self.history.report(name, fidelity, loss, gpu_seconds):
            self._stale.add(name)

    def ended(self, name: str, state: State) -> None:
        """Close a trial."""
        self.history.ended(name, state)

    # ---- forecasts ------------------------------------------------------------------------------------------------------

    def features(self, units: np.ndarray) -> np.ndarray:
        """The features [n, features] of places in the space, without parameters that change no result."""
        return self.encoder.features(units, self.without)

    def settings(self, units: np.ndarray) -> np.ndarray:
        """The settings [n, settings] of places in the space for the forecast: the features and the squares of numbers, around 0.

        With squares, what a trial still gains may be largest inside a range, as at the best learning rate.
        """
        features = self.features(units) - 0.5
        return np.column_stack([features, 2 * (features[:, self._numbers] ** 2 - EVEN)])

    def expected(self) -> Mapping[str, Expected]:
        """The forecast of each trial that has reached a rung."""
        snapshot = self.history.snapshot
        if snapshot and (self._forecast is None or self._forecast[0] is not snapshot):
            losses = as_rows([values for _, values in snapshot], len(self.history.levels))
            settings = self.settings(np.array([units for units, _ in snapshot]))
            self._forecast = snapshot, Forecast(losses, settings)
            self._stale |= self.history.seen.keys()
        stale = [trial for name in sorted(self._stale) if (trial := self.history.seen[name]).values]
        self._stale.clear()
        live = [trial for trial in stale if math.isfinite(trial.score)]
        self._expected |= dict.fromkeys((trial.name for trial in stale), UNKNOWN)
        if live and self._forecast is not None:
            rungs = np.array([len(trial.values) - 1 for trial in live])
            settings = self.settings(np.array([trial.units for trial in live]))
            mean, sd = self._forecast[1].at_end(rungs, np.array([trial.score for trial in live]), settings)
            for trial, *values in zip(live, mean.tolist(), sd.tolist(), strict=True):
                self._expected[trial.name] = Expected(*values)
        return self._expected

    def agreement(self, rung: int) -> float:
        """The rank correlation of the losses at a rung with those at `max_t`, among the trials that have reached both.

        It counts as if four more trials had shown `AGREEMENT`.

        Args:
            rung: its index, from 0.
        """
        if self._agreement[0] != self.history.version:
            self._agreement = self.history.version, {}
        known = self._agreement[1]
        if rung not in known:
            whole = [trial.values for trial in self.history.seen.values() if len(trial.values) == len(self.history.levels)]
            level = STEPS * rung
            pairs = [(values[level], values[-1]) for values in whole if values[level] is not None]
            known[rung] = _shrunk(np.array(pairs, dtype=float).reshape(-1, 2))
        return known[rung]

    def pick(self) -> str | None:
        """The trial with the least expected loss plus `CAUTION` standard deviations; None before the first rung."""
        expected = self.expected()
        usable = (State.RUNNING, State.PRUNED, State.COMPLETE)
        own = [trial for trial in self.history.seen.values() if trial.values and not trial.past]
        names = [trial.name for trial in own if trial.state in usable and math.isfinite(trial.score)]
        return min(names, key=lambda name: (expected[name].mean + CAUTION * expected[name].sd, name), default=None)


def _shrunk(pairs: np.ndarray) -> float:
    """The rank correlation of two columns of losses, with the prior. NaN, of a diverged trial, ranks last."""
    count, found = len(pairs), 0.0
    if count < 3:
        return AGREEMENT
    here, there = (_ranks(np.where(np.isnan(column), np.inf, column)) for column in pairs.T)
    if here.std() and there.std():
        found = float(np.corrcoef(here, there)[0, 1])
    return (count * found + AGREEMENT_WEIGHT * AGREEMENT) / (count + AGREEMENT_WEIGHT)


def _ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of values; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])
