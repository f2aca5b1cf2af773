"""The noise of training: the values of configurations that were trained again with other seeds (`search.repeats`).

It is apart from the noise of the validation rows (`uncertainty.py`): there the model is fixed and other rows are drawn, here the
rows are fixed and the model is trained anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scalesweep.record.schema import Record, State


@dataclass(frozen=True)
class Seeds:
    """The values at `max_t` of each configuration that was trained with several seeds, by the name of its first trial.

    Attributes:
        values: of each seed, that of the first trial first. NaN where training diverged.
        sd: the standard deviation between seeds, pooled over these configurations: the root of the sum of squared distances from
            each one's mean, divided by `freedom`. None before any repeat has ended.
        freedom: the degrees of freedom of `sd`: values minus configurations.
    """

    values: Mapping[str, tuple[float, ...]]
    sd: float | None = None
    freedom: int = 0

    def count(self, name: str) -> int:
        """The number of seeds with which a configuration was trained to the end."""
        return len(self.values.get(name, (0.0,)))

    def mean(self, name: str, value: float) -> float:
        """The mean over seeds; `value` without repeats. NaN if a seed has diverged."""
        values = self.values.get(name, (value,))
        return math.fsum(values) / len(values)

    def error(self, name: str) -> float | None:
        """The standard error of the mean over seeds; None before any repeat has ended."""
        return None if self.sd is None else self.sd / math.sqrt(self.count(name))


def seeds(record: Record) -> Seeds:
    """The seeds of a record. Repeats that a budget or an error ended early don't count."""
    found: dict[str, list[float]] = {}
    for trial in record.by_number():
        first = record.trials.get(trial.repeat_of or "")
        diverged = trial.stop_reason == "diverged"
        if first is None or not (diverged or trial.state is State.COMPLETE) or first.state is not State.COMPLETE:
            continue
        own, again = first.standing(record.metric), trial.standing(record.metric)
        if own is not None and again is not None:
            found.setdefault(first.name, [own[0]]).append(math.nan if diverged else again[0])
    finite = {name: values for name, values in found.items() if all(map(math.isfinite, values))}
    freedom = sum(len(values) - 1 for values in finite.values())
    squares = [(value - math.fsum(values) / len(values)) ** 2 for values in finite.values() for value in values]
    sd = math.sqrt(math.fsum(squares) / freedom) if freedom else None
    return Seeds({name: tuple(values) for name, values in found.items()}, sd, freedom)
