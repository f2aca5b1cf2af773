"""The survival rule `metric`."""

from __future__ import annotations

from scalesweep.search.survival import BaseRule


class Rule(BaseRule):
    """Decides as Ray's `ASHAScheduler` for reports at the rungs: a trial stops if its value is below the
    (1 − 1/reduction_factor) quantile of the values recorded at the rung so far."""
