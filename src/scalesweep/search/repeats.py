"""Repeats: the leaders of a sweep trained again with other seeds, so that the pick is not merely the luckiest seed.

The choice is a function of the record. The conductor decides when the budget allows it.
"""

from __future__ import annotations

import math
from collections import Counter

from scalesweep.record import Record, State, rank
from scalesweep.record.seeds import Seeds, seeds
from scalesweep.record.uncertainty import quantile
from scalesweep.spec import SweepSpec

LEADERS = 3  # configurations that are trained again, at most
EACH = 2  # repeats of each with `repeats: auto`
SHARE = 0.1  # of the GPU hours spent that repeats take with `repeats: auto`
EARLY = 1.5  # times what the repeats take: they begin when no more is left, as other trials are still running then
FEWEST = 2  # repeats that `auto` must be able to afford to begin: one alone compares nothing


def each(spec: SweepSpec) -> int:
    """The repeats of each leader."""
    asked = spec.search.repeats
    return asked if isinstance(asked, int) else {"auto": EACH, "off": 0}[asked]


def planned(record: Record, spec: SweepSpec) -> list[str]:
    """The trials to repeat, in order, one entry for each repeat: those with the fewest seeds first, then by the ranking.

    They are the best that ran to the end. One that differs from the first by more than the seeds explain is left out.
    """
    ended = [row for row in rank(record) if row.rank is not None and row.trial.state is State.COMPLETE][:LEADERS]
    if not ended:
        return []
    known, first = seeds(record), ended[0]
    assert first.metric is not None
    begun = Counter(trial.repeat_of for trial in record.trials.values() if trial.repeat_of is not None)
    names = []
    for row in ended:
        assert row.metric is not None  # ranked rows have one
        if row is first or not told_apart(known, (first.trial.name, first.metric), (row.trial.name, row.metric)):
            names.append(row.trial.name)
    # A leader that falls behind by its other seeds makes room for another one, but not for more repeats in all.
    left = LEADERS * each(spec) - begun.total()
    return [name for turn in range(each(spec)) for name in names if begun[name] <= turn][:left]


def told_apart(known: Seeds, one: tuple[str, float], other: tuple[str, float]) -> bool:
    """Whether the means of two configurations (name, mean) differ by more than the seeds explain, at 95 %."""
    if known.sd is None:
        return False
    error = known.sd * math.sqrt(1 / known.count(one[0]) + 1 / known.count(other[0]))
    return abs(one[1] - other[1]) > quantile(known.freedom + 1) * error


def spent(record: Record) -> float:
    """The GPU seconds of all repeats. One that has not ended counts as its first trial, if that took longer."""
    return math.fsum(
        trial.gpu_seconds if trial.state.ended else max(trial.gpu_seconds, record.trials[trial.repeat_of].gpu_seconds)
        for trial in record.trials.values()
        if trial.repeat_of is not None
    )
