"""The outcome of a confirmation: each compared configuration's value on new seeds beside its value in the sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scalesweep.record.ranking import rank
from scalesweep.record.schema import Record
from scalesweep.record.seeds import seeds
from scalesweep.record.uncertainty import errors_of, quantile

MANY = 1000  # draws of validation rows: their error is taken as known


@dataclass(frozen=True)
class Confirmed:
    """One configuration of a confirmation. The trials of lucky seeds were chosen, so the sweep's value is too good; that of new
    seeds is fair.

    Attributes:
        trial: its first trial.
        sweep: its value in the sweep, by which it became a candidate.
        values: those of its new seeds; NaN where training diverged.
        half: half the width of the 95 % interval around `value`: of seeds (pooled) and validation rows. None without a value.
        mean: over all seeds, by which the configurations are ranked.
    """

    trial: str
    sweep: float
    values: tuple[float, ...]
    half: float | None
    mean: float

    @property
    def value(self) -> float | None:
        """The confirmed value: the mean of the new seeds. None if none has ended, or one has diverged."""
        mean = math.fsum(self.values) / len(self.values) if self.values else math.nan
        return mean if math.isfinite(mean) else None

    @property
    def gap(self) -> float | None:
        """The confirmed value less the sweep's."""
        return None if self.value is None else self.value - self.sweep

    def as_json(self) -> dict[str, Any]:
        """The JSON in `provenance.json`."""
        return {
            **{"trial": self.trial, "sweep": self.sweep, "new_seeds": list(self.values), "confirmed": self.value},
            **{"half_width": self.half, "gap": self.gap, "mean": self.mean},
        }


def confirmed(record: Record) -> list[Confirmed]:
    """The configurations of a record's confirmation, the best first; empty without one."""
    told = record.confirmation
    if told is None:
        return []
    before, now = seeds(record.before_confirmation()), seeds(record)
    found = []
    for trial in (row.trial for row in rank(record) if row.trial.name in told.trials):
        standing = trial.standing(record.metric)
        if standing is None:
            continue
        own = standing[0]
        earlier = len(before.values.get(trial.name, (own,)))
        new = now.values.get(trial.name, (own,))[earlier:]
        again = [other for other in record.trials.values() if other.repeat_of == trial.name and other.number >= told.since]
        of_rows = [errors[record.metric] for other in again if record.metric in (errors := errors_of(record, other))]
        half = None
        if new and now.sd is not None and all(map(math.isfinite, new)):
            # The seeds share their validation rows, so more seeds make the error of the rows no smaller.
            rows = math.fsum(of_rows) / len(of_rows) if of_rows else 0.0
            half = math.hypot(quantile(now.freedom + 1) * now.sd / math.sqrt(len(new)), quantile(MANY) * rows)
        found.append(Confirmed(trial.name, before.mean(trial.name, own), new, half, now.mean(trial.name, own)))
    return found
