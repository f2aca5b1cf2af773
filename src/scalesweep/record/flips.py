"""Order flips: pairs of trials that a rung ordered differently from the end, as a measure of how well it predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalesweep.record.curves import value_at
from scalesweep.record.schema import Record, State


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
    max_t = float(record.manifest.max_t)
    levels = [*(float(level) for level in record.manifest.rungs if level < max_t), max_t]
    curves = []
    for trial in record.by_number():
        if trial.state in (State.FAIL, State.INFEASIBLE) or trial.stop_reason == "diverged":
            continue
        known = [value_at(trial.reports, record.metric, level) for level in levels]
        values = [value for value in known if value is not None]
        if len(values) > 1 and all(map(math.isfinite, values)):
            curves.append((trial.config.get("model_size"), values))
    found = []
    for at in range(len(levels) - 1):
        pairs, flipped = {True: 0, False: 0}, {True: 0, False: 0}
        there = [(size, values) for size, values in curves if len(values) > at + 1]
        for place, (size, values) in enumerate(there):
            for other_size, other in there[:place]:
                top = min(len(values), len(other)) - 1
                now, later = values[at] - other[at], values[top] - other[top]
                if now and later:
                    pairs[size == other_size] += 1
                    flipped[size == other_size] += (now > 0) != (later > 0)
        found.append(Flips(at + 1, levels[at], pairs[True], flipped[True], pairs[False], flipped[False]))
    return found
