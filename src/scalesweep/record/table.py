"""A record as a table: one row for each trial, or for each report. JSON, CSV, W&B and pandas have the same columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scalesweep.errors import first_line
from scalesweep.record.ranking import By, Row, rank
from scalesweep.record.schema import Record, Report

if TYPE_CHECKING:
    from pandas import DataFrame

FIELDS = (
    *("rank", "trial", "state", "metric", "fidelity", "rung", "params"),
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


def entry(row: Row) -> dict[str, Any]:
    """The fields of one ranked trial."""
    trial, last = row.trial, row.trial.last
    counted = {key: getattr(last, key) if last else None for key in ("tokens", "flops")}
    return {
        "rank": row.rank,
        "trial": trial.name,
        "state": str(trial.state),
        "metric": row.metric,
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
    """`FIELDS` with a column for each parameter that was drawn in place of `params`."""
    params = list(dict.fromkeys(name for trial in record.by_number() for name in trial.params))
    return [name for field in FIELDS for name in (params if field == "params" else [field])]


def frame(record: Record, of: Literal["trials", "reports"], by: By) -> DataFrame:
    """See `Record.to_frame`."""
    import pandas as pd

    if of not in ("trials", "reports"):
        raise ValueError(f"of={of!r}: the rows are 'trials' or 'reports'")
    if of == "trials":
        rows = [entry(row) for row in rank(record, by)]
        return pd.DataFrame([{**row, **row["params"]} for row in rows], columns=columns(record))
    return pd.DataFrame([_reported(trial.name, report) for trial in record.by_number() for report in trial.reports])


def _reported(name: str, report: Report) -> dict[str, Any]:
    rung = max(report.rungs, default=None)
    return {"trial": name, "rung": rung, **{key: getattr(report, key) for key in REPORTED}, **report.metrics}
