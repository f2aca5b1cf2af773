"""A record as a table: one row for each trial, or for each report. JSON, CSV, W&B and pandas have the same columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from scalesweep.errors import first_line
from scalesweep.record.ranking import By, Row, rank
from scalesweep.record.schema import Record, Report
from scalesweep.record.uncertainty import Certainty, certainty

if TYPE_CHECKING:
    from pandas import DataFrame

CERTAINTY = ("standard_error", "difference_to_first", "tied_with_first")
DIFFERENCE = ("difference_low", "difference_high")  # the columns of `difference_to_first` in a flat table
FIELDS = (
    *("rank", "trial", "state", "metric", *CERTAINTY, "expected", "expected_sd", "fidelity", "rung", "params"),
    *("gpu_seconds", "wall_seconds", "tokens", "flops", "pareto", "stop_reason", "error", "traceback"),
)
REPORTED = (
    "fidelity",
    "step",
    "tokens",
    "flops",
    "train_seconds",
    "wall_seconds",
    "gpu_seconds",
    "dollars",
    "action",
    "reason",
)


def entries(record: Record, by: By | None, limit: int | None = None) -> list[dict[str, Any]]:
    """The fields of each ranked trial, best first. `limit` keeps the first ones."""
    rows = rank(record, by)
    sure = certainty(record, rows)
    return [_entry(row, sure[row.trial.name]) for row in rows[:limit]]


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields with a column for each parameter and each end of an interval."""
    ends = entry["difference_to_first"] or (None, None)
    return {**entry, **entry["params"], **dict(zip(DIFFERENCE, ends, strict=True))}


def _entry(row: Row, sure: Certainty) -> dict[str, Any]:
    trial, last = row.trial, row.trial.last
    counted = {key: getattr(last, key) if last else None for key in ("tokens", "flops")}
    return {
        "rank": row.rank,
        "trial": trial.name,
        "state": str(trial.state),
        "metric": row.metric,
        "standard_error": sure.standard_error,
        "difference_to_first": None if sure.difference is None else list(sure.difference),
        "tied_with_first": sure.tied,
        "expected": row.expected[0] if row.expected else None,
        "expected_sd": row.expected[1] if row.expected else None,
        "fidelity": row.fidelity,
        "rung": row.rung,
        "params": dict(trial.params),
        "gpu_seconds": trial.gpu_seconds if trial.attempts else None,
        "wall_seconds": trial.wall_seconds if trial.attempts else None,
        **counted,
        "pareto": row.pareto,
        "stop_reason": trial.stop_reason,
        "error": first_line(trial.error) if trial.error else None,
        "traceback": trial.traceback,
    }


def columns(record: Record) -> list[str]:
    """`FIELDS` with a column for each parameter that was drawn in place of `params`, and the ends of the interval."""
    params = list(dict.fromkeys(name for trial in record.by_number() for name in trial.params))
    parts = {"params": params, "difference_to_first": list(DIFFERENCE)}
    return [name for field in FIELDS for name in parts.get(field, [field])]


def frame(record: Record, of: Literal["trials", "reports"], by: By | None) -> DataFrame:
    """See `Record.to_frame`."""
    import pandas as pd

    if of not in ("trials", "reports"):
        raise ValueError(f"of={of!r}: the rows are 'trials' or 'reports'")
    if of == "trials":
        return pd.DataFrame([flat(row) for row in entries(record, by)], columns=columns(record))
    return pd.DataFrame([_reported(trial.name, report) for trial in record.by_number() for report in trial.reports])


def _reported(name: str, report: Report) -> dict[str, Any]:
    rung = max(report.rungs, default=None)
    return {"trial": name, "rung": rung, **{key: getattr(report, key) for key in REPORTED}, **report.metrics}
