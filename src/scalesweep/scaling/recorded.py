"""Points of a scaling law from the records of sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalesweep.errors import UserError, counted
from scalesweep.record import Record, Row, rank
from scalesweep.record.final_length import SMALL_GAIN, still_improving
from scalesweep.record.uncertainty import certainty, quantile
from scalesweep.scaling.comparable import check_comparable, remarks, source_of
from scalesweep.scaling.points import VARIES, Cell, Points
from scalesweep.scaling.sizes import Counting, counting_of, sizes_of
from scalesweep.scaling.tables import points_of_table
from scalesweep.spec.config import rows_of_share
from scalesweep.spec.space import THAWING_MODES

MANY = 10**9  # draws, with which Student's t is the normal distribution
COMPARED = 300  # trials of a sweep, at most, whose differences tell the noise
WITHOUT = (
    "n_params counts parameters without embeddings, as laws of size do (Kaplan et al., 2020); --n-params total counts all."
)
UNLEARNT = "longer runs, or more data, would show more of a law."
REPEATED = "The sweeps differ in passes over the data: the law counts tokens, and repeated ones as new."


def points_of_records(records: Sequence[Record], counting: Counting | None = None) -> Points:
    """The points of finished sweeps: the trials that reached their `max_t`, by size, by run and by `train_share`.

    `tokens` are those trained on, in the median of a run's trials of one size and share; `examples` are the rows of the train
    split, or of its share. A metric's noise is that of the validation rows in which two trials differ.

    Args:
        counting: the parameters that `n_params` counts; default: without embeddings, where the records know these.

    Raises:
        UserError: the sweeps can't be compared, no trial reached `max_t`, or a size has no known number of parameters.
    """
    first = records[0]
    check_comparable(records)
    known = counting_of(records)
    if counting == "non-embedding" and known != counting:
        raise UserError(
            "the records don't tell how many of the parameters are embeddings", "leave out --n-params, which then counts all"
        )
    counting = counting or known
    rows: list[dict[str, Any]] = []
    for record in records:
        rows += _rows(record, counting)
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
    guessing = sum(_guesses(records, cell) for cell in points.cells)
    notes = [*points.notes, *remarks(records)]
    if guessing:
        notes.append(
            f"The best trials of {guessing} of {counted(len(points.cells), 'cell')} are no better than guessing: {UNLEARNT}"
        )
    if {"tokens", "examples"} <= set(points.varied()) and not points.in_proportion:
        notes.append(REPEATED)
    notes += [WITHOUT] if counting == "non-embedding" else []
    return replace(points, unfinished=unfinished, counting=counting, notes=tuple(notes))


def _rows(record: Record, counting: Counting) -> list[dict[str, Any]]:
    max_t, sizes = record.manifest.max_t, sizes_of(record, counting)
    found = [
        row
        for row in rank(record, "rung")
        if row.rank is not None
        and row.fidelity is not None
        and row.fidelity >= row.trial.config.get("max_t", max_t) * (1 - 1e-9)
    ]
    names = {row.trial.name: str(row.trial.config.get("model_size")) for row in found}
    unknown = sorted({size for size in names.values() if size not in sizes})
    if unknown:
        raise UserError(
            f"{source_of(record)}: {counted(len(unknown), 'size')} without a known number of parameters: {', '.join(unknown)}",
            "give a table with the column n_params",
        )
    noise = _noise(record, found)
    splits = record.manifest.get("data", {}).get("splits", {})
    train = splits.get("train", {}).get("rows") if isinstance(splits.get("train"), dict) else None
    tokens: dict[float, dict[float, list[float]]] = {}  # of each trial, by share of the train split and by size
    for one in found:
        counts = tokens.setdefault(_share(one), {}).setdefault(sizes[names[one.trial.name]], [])
        counts.append(float(one.trial.last.tokens if one.trial.last else math.nan))
    middles = {share: _middles(by_size) for share, by_size in tokens.items()}
    rows = []
    for one in found:
        trial, size = one.trial, sizes[names[one.trial.name]]
        row = {
            **{name: trial.config.get(name) for name in trial.params if name != "train_share"},  # it is the axis of data
            "trial": f"{source_of(record)}/{trial.name}",
            "n_params": size,
            record.metric: one.metric,
            "gpu_seconds": trial.gpu_seconds,
            "still_improving": bool(still_improving(trial, None)),
        }
        if math.isfinite(noise):
            row["standard_error"] = noise
        share = _share(one)
        middle = middles[share][size]
        if (
            trial.config.get("unfreezing") in THAWING_MODES
            and trial.config.get("unfreeze_cadence", "steps") == "steps"
            and trial.last
        ):
            row["unfreeze_fraction"] = trial.config["unfreeze_interval"] / max(trial.last.step, 1)
        row |= {"tokens": middle} if middle > 0 else {}
        row |= {"examples": rows_of_share(train, share)} if train else {}
        rows.append(row)
    return rows


def _share(row: Row) -> float:
    """The share of the train split that a trial trained on."""
    return float(row.trial.config.get("train_share", 1.0))


def _middles(tokens: Mapping[float, Sequence[float]]) -> dict[float, float]:
    """The median of the trained tokens of each size."""
    middles = {size: float(np.median(counts)) for size, counts in tokens.items()}
    if max(middles.values()) < VARIES * min(middles.values()):  # as many steps for every size
        return dict.fromkeys(middles, float(np.median(list(middles.values()))))
    return middles


def _guesses(records: Sequence[Record], cell: Cell) -> bool:
    """Whether the best trial of a cell is no better than guessing, as `record.final_length` judges it."""
    source, _, _ = str(cell.trials[0].settings["trial"]).rpartition("/")
    record = next(record for record in records if source_of(record) == source)
    guess = (record.manifest.baseline or {}).get("metrics", {}).get(record.metric)
    wrong = None if guess is None else guess if record.minimize else 1 - guess
    return wrong is not None and wrong > 0 and cell.observed > math.log((1 - SMALL_GAIN) * wrong)


def _noise(record: Record, found: Sequence[Row]) -> float:
    """The standard deviation of the metric by the validation rows in which two trials differ; NaN where nothing tells it."""
    sure = certainty(record, found[:COMPARED])
    gaps = [one.difference for one in sure.values() if one.difference is not None]
    return float(np.median([high - low for low, high in gaps])) / 2 / quantile(MANY) / math.sqrt(2) if gaps else math.nan
