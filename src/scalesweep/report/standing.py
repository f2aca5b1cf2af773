"""Keeps track of the best trial as events arrive."""

from __future__ import annotations

from scalesweep.record import Record, Row, Trial, rank
from scalesweep.record.ranking import order_of, sort_key
from scalesweep.record.seeds import seeds


class Standing:
    """The leading trial by the ranking's rule.

    The cost of `update` does not depend on the number of trials, except where new forecasts came, a repeat has ended, or the leader
    itself falls back (a later report before any rung is worse, or the trial failed): then all trials are searched.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._rows: dict[str, Row] = {}
        self._keys: dict[str, tuple[float, ...]] = {}
        self._leader: str | None = None
        self._expected, self._seeds = record.expected, seeds(record)  # by which the keys were made
        for trial in record.trials.values():
            self.update(trial)

    def update(self, trial: Trial) -> bool:
        """Take in the newest state of `trial`. Return whether it has just become the leader."""
        # Ranking the trial alone keeps the rule (which report counts, which trials are ranked) in one place.
        row = rank(Record(self._record.manifest, {trial.name: trial}))[0]
        before, leader = self._keys.pop(trial.name, None), self._leader
        self._rows.pop(trial.name, None)
        if row.rank is not None:
            self._rows[trial.name], self._keys[trial.name] = row, self._key(row)
        again = trial.repeat_of is not None and trial.state.ended
        if again or self._record.expected is not self._expected:  # each report at a rung makes new forecasts of all trials
            self._expected, self._seeds = self._record.expected, seeds(self._record)
            self._keys = {name: self._key(one) for name, one in self._rows.items()}
            self._leader = min(self._keys, key=self._keys.__getitem__, default=None)
        elif leader == trial.name and (row.rank is None or (before is not None and self._keys[trial.name] > before)):
            self._leader = min(self._keys, key=self._keys.__getitem__, default=None)
        elif row.rank is not None and (leader is None or self._keys[trial.name] < self._keys[leader]):
            self._leader = trial.name
        return self._leader == trial.name and leader != trial.name

    @property
    def best(self) -> Row | None:
        return self._rows[self._leader] if self._leader is not None else None

    def _key(self, row: Row) -> tuple[float, ...]:
        assert row.metric is not None  # ranked rows have one
        return sort_key(row.trial, row.metric, self._record, order_of(self._record), self._seeds)
