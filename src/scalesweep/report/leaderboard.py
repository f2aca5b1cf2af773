"""The leaderboard as JSON and as CSV, and the trials that its table shows. All come from `record.table.entries`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalesweep.errors import UserError
from scalesweep.record import Record, Trial
from scalesweep.record.lease import driven
from scalesweep.record.ranking import By, order_of, sort_key
from scalesweep.record.seeds import Seeds, seeds
from scalesweep.record.table import Entry, Ranking, columns, entries, flat
from scalesweep.report import words
from scalesweep.report.select import COMPOSED, Keys, Selection, downwards, ordered

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads a cell that begins so as a formula
EVERY = Selection()


def leaderboard_json(
    record: Record, by: By | None = None, limit: int | None = None, selection: Selection = EVERY
) -> dict[str, Any]:
    """The trials, best first, as JSON can say it: what is not finite or not known is None. `limit` keeps the first ones.

    `error` is the first line of a failed trial's error, and `traceback` the file of the whole, relative to the run folder.
    `floor` holds what a trial must beat: the metrics of guessing (None in an old record) and of each size's untrained model.
    `metric` was reached at `fidelity`, and `standard_error` is its own. `difference_to_first` is the 95 % interval of the
    trial's metric less the first one's, paired over the validation rows; `tied_with_first` says whether the two can't be told
    apart, corrected for the number of trials. The three are None where the record lacks the rows' numbers. With `repeats`
    (trainings of the trial's configuration to the end with other seeds), `metric` is the mean over all seeds, and `seed_sd` the
    standard deviation between seeds, pooled over the repeated configurations. `repeat_of` names the trial that a repeat trains
    again; a repeat has no rank. `metrics` has every metric at `fidelity`, and `standard_errors` those of them whose error is
    known. `gpu_seconds`, `wall_seconds`, `tokens`, `flops` and `dollars` are the trial's totals.
    """
    rows: list[dict[str, Any]] = [finite(line.entry) for line in board([record], by, limit, selection).lines]
    floor = finite({"guessing": record.manifest.baseline, "untrained": record.untrained})
    return {"sweep": record.manifest.name, "metric": record.metric, "floor": floor, "trials": rows}


def leaderboard_csv(
    records: Record | Sequence[Record],
    by: By | None = None,
    limit: int | None = None,
    selection: Selection = EVERY,
    shown: Sequence[str] = (),
) -> str:
    """The same rows with each sampled parameter and each metric as a column of its own; what is not known is empty.

    Of several records, a column `run` says to which a row belongs. `shown` names the columns to write. A text that a spreadsheet
    would take for a formula has a `'` before it.
    """
    several = [records] if isinstance(records, Record) else list(records)
    names = list(shown) or list(dict.fromkeys(name for record in several for name in columns(record)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["run"] if len(several) > 1 else []
    writer.writerow([_cell(name) for name in (*head, *names)])
    keys = Keys(*several)
    for name in shown:
        if name in COMPOSED:
            hint = "--csv has rung and fidelity in place of reached; run is its first column where there are several sweeps"
            raise UserError(f"--columns: {name!r} is a column of the table alone", hint)
        keys.check(name, "--columns")
    others = {name: keys.getter(name) for name in shown}
    for line in board(several, by, limit, selection).lines:
        row = flat(finite(line.entry))
        values = [
            others[name](line.entry, line.trial) if name in others and name not in row else row.get(name) for name in names
        ]
        writer.writerow([_cell(value) for value in (*([line.run] if head else []), *values)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = "\n".join(map(words.plain, value.splitlines()))
    return f"'{text}" if value.startswith(FORMULA) else text


@dataclass(frozen=True)
class Line:
    """A trial in a leaderboard. `run` is the name of its run folder, and `over` whether nothing runs there any more."""

    record: Record
    trial: Trial
    entry: Entry
    run: str
    over: bool


@dataclass(frozen=True)
class Board:
    """The trials that a leaderboard shows, in order, the number of all that were selected, and the ranking of each record."""

    lines: list[Line]
    selected: int
    rankings: list[Ranking]


def board(
    records: Sequence[Record], by: By | None, limit: int | None, selection: Selection = EVERY, errors: bool = True
) -> Board:
    """The leaderboard of one or several records. `limit` keeps the first trials; without `errors`, entries have no `standard_errors`.

    Raises:
        UserError: the records have different metrics, or no trial has a key of the selection.
    """
    check_alike(records)
    by = by if len(records) == 1 else order_of_all(records, by)
    found: list[tuple[tuple[Any, ...], Line]] = []
    selected = 0
    names, rankings = run_names(records), [Ranking.of(record, by) for record in records]
    for number, record in enumerate(records):
        sizes: list[int] = []
        over, known = is_over(record), seeds(record)

        def select(all_of_it: list[Entry], record: Record = record, sizes: list[int] = sizes) -> list[Entry]:
            kept = selection.apply(record, all_of_it)
            sizes.append(len(kept))
            return kept

        for entry in entries(record, by, limit, select, rankings[number], errors):
            line = Line(record, record.trials[entry["trial"]], entry, names[number], over)
            found.append((_place(line, by or order_of(record), known), line))
        selected += sizes[0]
    if len(records) > 1:
        found.sort(key=lambda pair: pair[0])
    together = [line for _, line in found]
    if len(records) > 1 and selection.sort:
        value = Keys(*records).getter(selection.key)
        values = [value(line.entry, line.trial) for line in together]
        together = ordered(together, values, downwards(records[0], selection.sort))
    return Board(together[:limit], selected, rankings)


def _place(line: Line, by: By, known: Seeds) -> tuple[Any, ...]:
    """A key that orders the trials of several records as the ranking orders those of one, confirmed or not."""
    metric = line.entry["metric"]
    if line.entry["rank"] is None or metric is None:
        return (1,)
    _, *key = sort_key(line.trial, metric, line.record, by, known)
    return 0, *key


def is_over(record: Record) -> bool:
    """Whether nothing runs any more: the sweep has ended, or the record was read and no process writes to its folder."""
    return record.status == "ended" or (record.folder is not None and not driven(record.folder))


def order_of_all(records: Sequence[Record], by: By | None = None) -> By:
    """The order of the trials of several records: by forecasts where all have them, else by rungs, and by the metric where their
    rungs differ."""
    if by is not None:
        return by
    if all(record.expected is not None for record in records):
        return "forecast"
    rungs = {(record.manifest.time_attr, record.manifest.max_t, *record.manifest.rungs) for record in records}
    return "rung" if len(rungs) == 1 else "metric"


def check_alike(records: Sequence[Record]) -> None:
    """Raises UserError where records can't be ranked together, because their metrics differ."""
    first = records[0]
    names = run_names(records)
    for name, record in zip(names[1:], records[1:], strict=True):
        if (record.metric, record.minimize) != (first.metric, first.minimize):
            raise UserError(
                f"{names[0]} ranks by {first.metric}, and {name} by {record.metric}",
                "rank them one after the other; `report RUN_DIR RUN_DIR -o both.html` shows them side by side",
            )


def run_names(records: Sequence[Record]) -> list[str]:
    """A short name of each record's folder that tells it from the others."""
    short = [record.manifest.name if record.folder is None else record.folder.name for record in records]
    if len(set(short)) == len(short):
        return short
    return [name if record.folder is None else str(record.folder) for record, name in zip(records, short, strict=True)]


def finite(value: Any) -> Any:
    """A value as JSON can say it: None in place of what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value
