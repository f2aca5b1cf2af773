"""Measures of how well a rung predicts the end: order flips, which are pairs of trials that it ordered differently, and the rank
correlation of the two."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, StatisticsError, correlation

from scalesweep.record.curves import levels, values_at
from scalesweep.record.schema import Record, State

TRIALS_NEEDED = 5  # for a rank correlation


@dataclass(frozen=True)
class Flips:
    """Order flips at one rung: pairs of trials with later values, and how many of them changed order."""

    rung: int
    fidelity: float
    pairs_within: int = 0  # of one size
    flipped_within: int = 0
    pairs_between: int = 0  # of two sizes
    flipped_between: int = 0

    @property
    def pairs(self) -> int:
        return self.pairs_within + self.pairs_between


def order_flips(record: Record) -> list[Flips]:
    """The order flips per rung, compared with the end or with the highest rung that both trials reached. Ties do not count.

    Only trials that continued are compared, and these are the better ones. Trials stopped at a rung might flip more often.
    """
    rungs, curves = levels(record.manifest), _curves(record)
    sizes: dict[str | None, list[list[float]]] = {}
    for size, values in curves:
        sizes.setdefault(size, []).append(values)
    found = []
    for at in range(len(rungs) - 1):
        pairs, flipped = _later([values for _, values in curves], at)
        within = [_later(some, at) for some in sizes.values()]
        pairs_within, flipped_within = sum(one[0] for one in within), sum(one[1] for one in within)
        found.append(Flips(at + 1, rungs[at], pairs_within, flipped_within, pairs - pairs_within, flipped - flipped_within))
    return found


def _later(curves: Sequence[Sequence[float]], at: int) -> tuple[int, int]:
    """The pairs whose order at one rung and at the last rung that both reached are known, and how many of these orders differ."""
    pairs = flipped = 0
    # The shorter curve of a pair is `length` long: all pairs of at least that length, less those in which both are longer.
    for length in sorted({len(values) for values in curves if len(values) > at + 1}):
        for shortest, sign in ((length, 1), (length + 1, -1)):
            some = [(values[at], values[length - 1]) for values in curves if len(values) >= shortest]
            counted = _discordant(some)
            pairs, flipped = pairs + sign * counted[0], flipped + sign * counted[1]
    return pairs, flipped


def _discordant(points: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """The pairs of points that differ in both coordinates, and those of them that are ordered differently by the two (Knight, 1966)."""

    def tied(values: Iterable[object]) -> int:
        return sum(count * (count - 1) // 2 for count in Counter(values).values())

    before: list[float] = []
    flipped = 0
    for _, later in sorted(points):  # equal first coordinates in the order of the second, so that they count as no flip
        place = bisect_right(before, later)
        flipped += len(before) - place
        before.insert(place, later)
    n = len(points)
    same = tied(now for now, _ in points) + tied(later for _, later in points) - tied(points)
    return n * (n - 1) // 2 - same, flipped


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of the values at a rung with those at the end, among the trials that reached both, and its 95 %
    interval from `low` to `high`."""

    rung: int
    fidelity: float
    trials: int
    value: float
    low: float
    high: float


def rung_correlations(record: Record) -> list[Correlation]:
    """The rank correlation of each rung with the end, for rungs that at least 5 trials passed on their way to the end.

    The interval is Fisher's, with the variance for ranks (Bonett & Wright, 2000). The trials that reached the end are the better
    and closer ones; among all trials, the rung might do better.
    """
    rungs = levels(record.manifest)
    whole = [values for _, values in _curves(record) if len(values) == len(rungs)]
    n, found = len(whole), []
    if n < TRIALS_NEEDED:
        return []
    ends = _ranks([values[-1] for values in whole])
    nearly = 1 - 6 / (n**3 - n)  # half a swap of neighbours away from the same order, where Fisher's interval has no width
    for at, level in enumerate(rungs[:-1]):
        try:
            value = correlation(_ranks([values[at] for values in whole]), ends)
        except StatisticsError:  # all values are equal
            continue
        middle = math.atanh(max(-nearly, min(nearly, value)))
        half = NormalDist().inv_cdf(0.975) * math.sqrt((1 + value * value / 2) / (n - 3))
        found.append(Correlation(at + 1, level, n, value, math.tanh(middle - half), max(value, math.tanh(middle + half))))
    return found


def _curves(record: Record) -> list[tuple[str | None, list[float]]]:
    """The size of each trial that passed a rung, and its values at the rungs that it reached."""
    rungs, found = levels(record.manifest), []
    for trial in record.configurations():
        if trial.state in (State.FAIL, State.INFEASIBLE) or trial.stop_reason == "diverged":
            continue
        values = values_at(trial.reports, record.metric, rungs)
        if len(values) > 1 and all(map(math.isfinite, values)):
            found.append((trial.config.get("model_size"), values))
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value; equal values share the mean of theirs."""
    order, counts = sorted(values), Counter(values)
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    return [first[value] + (counts[value] - 1) / 2 for value in values]
