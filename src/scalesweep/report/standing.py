"""Keeps track of the best trial as events arrive."""

from __future__ import annotations

from scalesweep.record import Record, Row, Trial, rank


class Standing:
    """The leading trial by the ranking's rule: higher rung first, then the metric there.

    The cost of `update` does not depend on the number of trials. Only if the leader itself falls back (a later report before
    any rung is worse, or the trial failed) are all trials searched.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._rows: dict[str, Row] = {}
        self._leader: str | None = None
        for trial in record.trials.values():
            self.update(trial)

    def update(self, trial: Trial) -> bool:
        """Take in the newest state of `trial`. Return whether it has just become the leader."""
        # Ranking the trial alone keeps the rule (which report counts, which trials are ranked) in one place.
        row = rank(Record(self._record.manifest, {trial.name: trial}))[0]
        before = self._rows.pop(trial.name, None)
        if row.rank is not None:
            self._rows[trial.name] = row
        was_leader = self._leader == trial.name
        if was_leader and (row.rank is None or (before is not None and self._key(row) > self._key(before))):
            self._leader = min(self._rows, key=lambda name: self._key(self._rows[name]), default=None)
        elif row.rank is not None and (self._leader is None or self._key(row) < self._key(self._rows[self._leader])):
            self._leader = trial.name
        return self._leader == trial.name and not was_leader

    @property
    def best(self) -> Row | None:
        return self._rows[self._leader] if self._leader is not None else None

    def _key(self, row: Row) -> tuple[int, float, int]:
        assert row.metric is not None  # ranked rows have one
        return -row.rung, row.metric if self._record.minimize else -row.metric, row.trial.number
