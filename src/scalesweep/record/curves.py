"""A trial's curve between its reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scalesweep.record.manifest import Manifest
from scalesweep.record.schema import Report


def between(before: float, value_before: float, after: float, value_after: float, level: float) -> float:
    """The value at a fidelity between two reports, linear in log fidelity; the later value if there is no earlier
    report."""
    if not math.isfinite(value_before) or before <= 0 or level >= after:
        return value_after
    share = math.log(level / before) / math.log(after / before)
    return value_before + share * (value_after - value_before)


def cost_between(before: float, cost_before: float, after: float, cost_after: float, level: float) -> float:
    """The cost at a fidelity between two reports, linear in the fidelity."""
    if level >= after:
        return cost_after
    return cost_before + (level - before) / (after - before) * (cost_after - cost_before)


def value_at(reports: Sequence[Report], metric: str, level: float) -> float | None:
    """A trial's metric at fidelity `level`, interpolated between reports; None if the trial did not reach it."""
    before, value_before = 0.0, math.nan
    for report in reports:
        value = report.metrics[metric]
        if report.fidelity >= level:
            return between(before, value_before, report.fidelity, value, level)
        before, value_before = report.fidelity, value
    return None


def levels(manifest: Manifest) -> list[float]:
    """The fidelities at which trials are compared: the rungs below the end, and the end."""
    end = float(manifest.max_t)
    return [*(float(level) for level in manifest.rungs if level < end), end]


def values_at(reports: Sequence[Report], metric: str, at: Sequence[float]) -> list[float]:
    """A trial's metric at those of the ascending fidelities `at` that it reached."""
    known = [value_at(reports, metric, level) for level in at]
    return [value for value in known if value is not None]
