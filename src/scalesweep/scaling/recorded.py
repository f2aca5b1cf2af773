"""Points of a scaling law from the records of sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalesweep.errors import UserError, counted
from scalesweep.record import Record
from scalesweep.record.final_length import still_improving
from scalesweep.record.table import entries
from scalesweep.record.uncertainty import quantile
from scalesweep.scaling.points import VARIES, Points
from scalesweep.scaling.tables import points_of_table
from scalesweep.spec.space import THAWING_MODES

MANY = 10**9  # draws, with which Student's t is the normal distribution


def points_of_records(records: Sequence[Record]) -> Points:
    """The points of finished sweeps: the trials that reached `max_t`, by size and by run.

    `tokens` are those trained on, in the median of a run's trials of one size; `examples` are the rows of the train split. A
    metric's noise is that of the validation rows in which two trials differ.

    Raises:
        UserError: the sweeps have different metrics, no trial reached `max_t`, or a size has no known number of parameters.
    """
    first = records[0]
    for record in records[1:]:
        if (record.metric, record.minimize) != (first.metric, first.minimize):
            raise UserError(
                f"the sweeps have different metrics: {first.metric} in {source_of(first)}, {record.metric} in {source_of(record)}",
                "give sweeps with one metric and one goal",
            )
    rows: list[dict[str, Any]] = []
    for record in records:
        rows += _rows(record)
    if not rows:
        raise UserError(
            f"no trial of {', '.join(map(source_of, records))} reached the end (max_t)",
            "wait until some do, or lower early_terminate.max_t",
        )
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    points = points_of_table(
        columns, ", ".join(map(source_of, records)), first.metric, "minimize" if first.minimize else "maximize"
    )
    rising = {row["trial"] for row in rows if row["still_improving"]}
    unfinished = sum(str(cell.trials[0].settings["trial"]) in rising for cell in points.cells)
    return replace(points, unfinished=unfinished)


def source_of(record: Record) -> str:
    """The run folder, or the sweep's name where the record has none."""
    return str(record.folder) if record.folder is not None else record.manifest.name


def _rows(record: Record) -> list[dict[str, Any]]:
    max_t = record.manifest.max_t
    found = [
        entry
        for entry in entries(record, "rung")
        if entry["rank"] is not None and entry["fidelity"] is not None and entry["fidelity"] >= max_t * (1 - 1e-9)
    ]
    unknown = sorted({str(record.trials[entry["trial"]].config.get("model_size")) for entry in found if not entry["n_params"]})
    if unknown:
        raise UserError(
            f"{source_of(record)}: {counted(len(unknown), 'size')} without a known number of parameters: {', '.join(unknown)}",
            "give a table with the column n_params",
        )
    gaps = [entry["difference_to_first"] for entry in found if entry["difference_to_first"] is not None]
    noise = float(np.median([high - low for low, high in gaps])) / 2 / quantile(MANY) / math.sqrt(2) if gaps else math.nan
    splits = record.manifest.get("data", {}).get("splits", {})
    examples = splits.get("train", {}).get("rows") if isinstance(splits.get("train"), dict) else None
    tokens: dict[float, list[float]] = {}
    for entry in found:
        tokens.setdefault(entry["n_params"], []).append(float(entry["tokens"] or math.nan))
    middles = {size: float(np.median(counts)) for size, counts in tokens.items()}
    if middles and max(middles.values()) < VARIES * min(middles.values()):  # as many steps for every size
        middles = dict.fromkeys(middles, float(np.median(list(middles.values()))))
    rows = []
    for entry in found:
        trial = record.trials[entry["trial"]]
        row = {
            **{name: trial.config.get(name) for name in trial.params},
            "trial": f"{source_of(record)}/{trial.name}",
            "n_params": entry["n_params"],
            record.metric: entry["metric"],
            "gpu_seconds": trial.gpu_seconds,
            "still_improving": bool(still_improving(trial, None)),
        }
        if math.isfinite(noise):
            row["standard_error"] = noise
        middle = middles[entry["n_params"]]
        if (
            trial.config.get("unfreezing") in THAWING_MODES
            and trial.config.get("unfreeze_cadence", "steps") == "steps"
            and trial.last
        ):
            row["unfreeze_fraction"] = trial.config["unfreeze_interval"] / max(trial.last.step, 1)
        row |= {"tokens": middle} if middle > 0 else {}
        row |= {"examples": examples} if examples else {}
        rows.append(row)
    return rows
