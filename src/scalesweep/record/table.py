"""A record as a table: one row for each trial, or for each report. JSON, CSV, W&B and pandas have the same columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scalesweep.costs import dollars
from scalesweep.errors import first_line
from scalesweep.record.curves import between
from scalesweep.record.ranking import By, Row, rank
from scalesweep.record.schema import Record, Report
from scalesweep.record.uncertainty import Certainty, certainty, errors_at, judged

if TYPE_CHECKING:
    from pandas import DataFrame

CERTAINTY = ("standard_error", "difference_to_first", "tied_with_first")
ERROR_OF = "standard_error/{}"  # the column of a metric's error, in a flat table
DIFFERENCE = ("difference_low", "difference_high")  # the columns of `difference_to_first` in a flat table
FIELDS = (
    *(
        "rank",
        "trial",
        "state",
        "metric",
        "repeats",
        "seed_sd",
        "repeat_of",
        *CERTAINTY,
        "expected",
        "expected_sd",
        "metrics",
        "standard_errors",
    ),
    *("fidelity", "rung", "params", "n_params", "gpu_seconds", "wall_seconds", "tokens", "flops", "dollars"),
    *("pareto", "stop_reason", "error", "traceback"),
)
PROGRESS = (
    "learning_rate",
    "epoch",
    "trainable_groups",
    "unfreezing_stage",
)  # in reports, among the metrics; they measure no model
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


Entry = dict[str, Any]


@dataclass(frozen=True)
class Ranking:
    """The ranked trials of a record, best first, and how certain each value is, by name."""

    rows: list[Row]
    sure: Mapping[str, Certainty]

    @classmethod
    def of(cls, record: Record, by: By | None = None) -> Ranking:
        rows = rank(record, by)
        return cls(rows, certainty(record, rows))


def entries(
    record: Record,
    by: By | None,
    limit: int | None = None,
    select: Callable[[list[Entry]], list[Entry]] | None = None,
    ranking: Ranking | None = None,
    errors: bool = True,
) -> list[Entry]:
    """The fields of each trial, best first: every number that the terminal, JSON, CSV, W&B and the page show of a trial.

    Args:
        by: the order, as in `rank`.
        limit: keeps the first ones.
        select: filters or orders the entries before that. They have no `standard_errors` yet, which take time to compute.
        ranking: that of the record in this order, where it is known already.
        errors: fills `standard_errors`.
    """
    ranking = ranking or Ranking.of(record, by)
    rows, sizes = ranking.rows, {size.name: size.n_params for size in record.manifest.ladder}
    prices = {name: record.manifest.price(name) for name in sizes}
    found = [_entry(record, row, ranking.sure[row.trial.name], sizes, prices) for row in rows]
    found = (found if select is None else select(found))[:limit]
    if not errors:
        return found
    reports = {row.trial.name: report for row in rows if (report := judged(row)) is not None}
    known = errors_at(record, {entry["trial"]: reports[entry["trial"]] for entry in found if entry["trial"] in reports})
    for entry in found:
        of_others = known.get(entry["trial"], {})
        entry["standard_errors"] = {name: of_others[name] for name in entry["metrics"] if name in of_others}
    return found


def flat(entry: Mapping[str, Any]) -> Entry:
    """The same fields with a column for each parameter, each metric and its error, and each end of an interval."""
    ends = entry["difference_to_first"] or (None, None)
    errors = {ERROR_OF.format(name): error for name, error in entry["standard_errors"].items()}
    return {**entry["metrics"], **errors, **entry["params"], **entry, **dict(zip(DIFFERENCE, ends, strict=True))}


def _entry(
    record: Record, row: Row, sure: Certainty, sizes: Mapping[str, float | None], prices: Mapping[str, float | None]
) -> Entry:
    trial, last, size = row.trial, row.trial.last, str(row.trial.config.get("model_size"))
    counters = {key: getattr(last, key) if last else None for key in ("tokens", "flops")}
    return {
        "rank": row.rank,
        "trial": trial.name,
        "state": str(trial.state),
        "metric": row.metric,
        "repeats": row.repeats,
        "seed_sd": row.seed_sd,
        "repeat_of": trial.repeat_of,
        "standard_error": sure.standard_error,
        "difference_to_first": None if sure.difference is None else list(sure.difference),
        "tied_with_first": sure.tied,
        "expected": row.expected[0] if row.expected else None,
        "expected_sd": row.expected[1] if row.expected else None,
        "metrics": metrics_at(row, record.metric),
        "standard_errors": {},
        "fidelity": row.fidelity,
        "rung": row.rung,
        "params": dict(trial.params),
        "n_params": sizes.get(size),
        "gpu_seconds": trial.gpu_seconds if trial.attempts else None,
        "wall_seconds": trial.wall_seconds if trial.attempts else None,
        **counters,
        "dollars": dollars(trial.gpu_seconds, prices.get(size)) if trial.attempts else None,
        "pareto": row.pareto,
        "stop_reason": trial.stop_reason,
        "error": first_line(trial.error) if trial.error else None,
        "traceback": trial.traceback,
    }


def metrics_at(row: Row, metric: str) -> dict[str, float]:
    """Every metric of a trial at the fidelity at which it is ranked. The sweep's own is `row.metric`; where a rung lies between
    two reports, the others are interpolated in the same way."""
    report = judged(row)
    if report is None or row.fidelity is None or row.metric is None:
        return {}
    values = {name: value for name, value in report.metrics.items() if name not in PROGRESS}
    if report.fidelity != row.fidelity:
        place = row.trial.reports.index(report)
        before, at = (row.trial.reports[place - 1].metrics, row.trial.reports[place - 1].fidelity) if place else ({}, 0.0)
        values = {
            name: between(at, before.get(name, math.nan), report.fidelity, value, row.fidelity)
            for name, value in values.items()
        }
    return values | {metric: row.metric}


def columns(record: Record) -> list[str]:
    """`FIELDS` as columns of a flat table, in which each drawn parameter, each metric, its error and each end of the interval has
    one. A metric with the name of a parameter or of another field has none."""
    params = list(dict.fromkeys(name for trial in record.by_number() for name in trial.params))
    metrics = [name for name in metric_names(record) if name not in FIELDS and name not in params]
    measured = [name for name in metrics if name.startswith("eval_")] if record.examples else []
    parts = {
        "params": params,
        "metrics": metrics,
        "standard_errors": [ERROR_OF.format(name) for name in measured],
        "difference_to_first": list(DIFFERENCE),
    }
    return [name for field in FIELDS for name in parts.get(field, [field])]


def metric_names(record: Record) -> list[str]:
    """The metrics of the trials, in the order in which the reports have them; the sweep's own first."""
    reports = (report for trial in record.by_number() for report in trial.reports)
    found = dict.fromkeys(name for report in reports for name in report.metrics)
    return sorted((name for name in found if name not in PROGRESS), key=lambda name: name != record.metric)


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
