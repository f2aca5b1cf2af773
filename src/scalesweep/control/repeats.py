"""The time of repeats: the ended trial to train again now, as far as the budget pays for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from scalesweep.control.budgets import Budgets, limits_spending
from scalesweep.record import Record
from scalesweep.search import repeats
from scalesweep.spec import SweepSpec


def affordable(
    spec: SweepSpec,
    record: Record,
    budgets: Budgets,
    left_gpu_seconds: float,
    slots: int,
    counts: Sequence[float],
    closing: bool,
) -> str | None:
    """The ended trial to repeat, if the budget is for that now.

    That is when little more is left than the repeats take. They then come first, because other trials would not come far.

    Args:
        left_gpu_seconds: those that a new trial may take.
        slots: workers at once.
        counts: GPU counts that a trial may have now.
        closing: nothing else runs or will start. Then it is as soon as possible, because the leaders are known.
    """
    auto, often = spec.search.repeats == "auto", repeats.each(spec)
    if not often or (auto and not limits_spending(spec)):
        return None
    left = min(left_gpu_seconds, budgets.left_seconds() * slots)
    dearest = max((trial.gpu_seconds for trial in record.trials.values()), default=0.0)
    most = repeats.SHARE * budgets.gpu_seconds if auto else repeats.LEADERS * often * dearest
    if left > repeats.EARLY * most and not closing:
        return None
    trials = [record.trials[name] for name in repeats.planned(record, spec)]
    costs = [trial.gpu_seconds for trial in trials]
    if auto:
        begun = repeats.spent(record)
        costs = [cost for cost, total in zip(costs, accumulate(costs), strict=True) if begun + total <= most]
        if len(costs) < (1 if begun else repeats.FEWEST):
            return None
    if not costs or trials[0].num_gpus not in counts or costs[0] > left or trials[0].wall_seconds > budgets.left_seconds():
        return None
    return trials[0].name if closing or left <= repeats.EARLY * math.fsum(costs) else None
