"""Points of a scaling law from a table with a row per run, or per evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalesweep.errors import UserError, counted, did_you_mean
from scalesweep.record.final_length import LARGE_GAIN, LAST_PART, SMALL_GAIN
from scalesweep.scaling.best import STATED, cell_of, with_scatter
from scalesweep.scaling.points import AXES, Points, Trial
from scalesweep.spec.metrics import METRICS, goal_of
from scalesweep.spec.space import PARAMETERS
from scalesweep.spec.sweep import TIME_ATTRS

OTHERS = ("seed", "config", "gpu_seconds", "standard_error", "step", "epoch", *TIME_ATTRS)  # columns that are no metric
LOSSES = ("loss", "eval_loss")  # the metric, where a table has several columns that could be it
BETTER_HIGH = ("acc", "f1", "exact_match", "score", "matthews", "bleu", "rouge")  # words in names of metrics
DATA = ("tokens", "examples")
COUNTERS = ("step", "steps", "tokens", "flops")  # those by which the rows of a run are in order
EXAMPLES = {"n_params": "124000000", "tokens": "2500000000", "examples": "20000", "flops": "1.9e18"}


def points_of_table(
    columns: Mapping[str, Sequence[Any]], source: str = "table", metric: str | None = None, goal: str | None = None
) -> Points:
    """The points of a table with a row per run.

    Columns: `n_params`, `tokens` or `examples`, `flops` (at least one of them), the metric, and where there are any `seed`,
    `config` (the id of a run), `standard_error`, `gpu_seconds` and the parameters of a search space, such as `learning_rate`. Rows of
    one size and amount of data are one cell. In a cell, rows with the same parameters are repetitions of one configuration; without
    parameters, rows with the same `config`, or with different `seed`. Of the rows of one `config` and `seed`, the last counts: that of
    the most steps, tokens or FLOPs. An empty or NaN metric is a diverged run and left out, and so
    are rows of 0 tokens or examples.

    Args:
        columns: a mapping of names to columns, such as a pandas DataFrame.
        source: the file's name, for errors.
        metric: the metric's column; default: the only column of numbers that has no other meaning, or `loss`, or `eval_loss`.
        goal: minimize or maximize; default: by the metric's name.

    Raises:
        UserError: a column is missing, or a cell is not a number above 0.
    """
    names = [str(name) for name in columns]
    axes = [name for name in AXES if name in names]
    if not axes:
        raise UserError(
            f"{source}: the table has none of the columns {', '.join(AXES)}",
            f"add the model's parameters as n_params, or rename a column; the table has: {', '.join(names)}",
        )
    metric = metric or _metric(columns, names, source)
    if metric not in names:
        raise UserError(f"{source}: the table has no column {metric}", did_you_mean(metric, names))
    places = {name: _numbers(columns[name], source, name, above=None if name in DATA else 0.0) for name in axes}
    for name in DATA:
        _check_data(places.get(name), source, name)
    values = _numbers(columns[metric], source, metric, empty=True)
    maximize = _maximize(metric, goal)
    runs = _runs(columns, names)
    ends = sorted(run[-1] for run in runs)
    rows = [row for row in ends if all(places[name][row] > 0 for name in DATA if name in places)]
    log_values = _log_values(values, rows, source, metric, maximize)
    usable = [row for row in rows if math.isfinite(log_values[row])]
    notes = (
        [f"left out, without a finite {metric}: {counted(len(rows) - len(usable), 'run')}"] if len(usable) < len(rows) else []
    )
    notes += [f"left out, before any training: {counted(len(ends) - len(rows), 'row')}"] if len(rows) < len(ends) else []
    groups = _groups(columns, names, places, usable)
    noise, freedom = _noise([log_values[group] for cell in groups for group in cell])
    stated = _numbers(columns["standard_error"], source, "standard_error", empty=True) if "standard_error" in names else None
    seconds = _numbers(columns["gpu_seconds"], source, "gpu_seconds", empty=True) if "gpu_seconds" in names else None
    carried = [name for name in names if name in PARAMETERS or name in ("config", "trial")]

    def trial(group: list[int]) -> Trial:
        error = noise
        if noise is None and stated is not None and np.isfinite(stated[group]).all():
            error = float(np.mean(stated[group] / np.exp(log_values[group])))
        return Trial(
            float(log_values[group].mean()),
            len(group),
            {name: columns[name][group[0]] for name in carried},
            None if seconds is None else float(np.nansum(seconds[group])),
            None if error is None else error / math.sqrt(len(group)),
        )

    improving = _improving(columns, names, runs, 1 - values if maximize else values)
    cells, unfinished = [], 0
    for configurations in groups:
        members = [row for group in configurations for row in group]
        unfinished += min(members, key=lambda row: log_values[row]) in improving
        at = {name: float(np.median(place[members])) for name, place in places.items()}
        cells.append(cell_of(at, [trial(group) for group in configurations]))
    cells.sort(key=lambda cell: tuple(cell.axes.values()))
    found = Points(source, metric, maximize, tuple(cells), noise, notes=tuple(notes), unfinished=unfinished)
    return with_scatter(found, float(freedom) if freedom else STATED)


def _check_data(amounts: np.ndarray | None, source: str, name: str) -> None:
    """Refuse negative amounts of data; 0 stands for a model before fine-tuning."""
    if amounts is not None and (amounts < 0).any():
        row = int(np.argmax(amounts < 0))
        raise UserError(
            f"{source}: column {name}, row {row + 1}: {amounts[row]:g} is below 0",
            f"write a plain number, such as {EXAMPLES[name]}",
        )


def _runs(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[list[int]]:
    """The rows of each run in order, where rows have the id of their run; else each row alone."""
    count = len(columns[names[0]])
    counter = next((name for name in COUNTERS if name in names), None)
    if "config" not in names or counter is None:
        return [[row] for row in range(count)]
    found: dict[Any, list[int]] = {}
    for row in range(count):
        run = (str(columns["config"][row]), str(columns["seed"][row]) if "seed" in names else "")
        found.setdefault(run, []).append(row)
    return [sorted(rows, key=lambda row: float(columns[counter][row])) for rows in found.values()]


def _improving(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], runs: Sequence[list[int]], losses: np.ndarray
) -> set[int]:
    """The last rows of runs whose loss was still falling, as `record.final_length` judges it."""
    counter = next((name for name in COUNTERS if name in names), None)
    found = set()
    for rows in runs:
        if counter is None or not len(rows) > 1:
            continue
        end = float(columns[counter][rows[-1]])
        before = [row for row in rows if float(columns[counter][row]) <= LAST_PART * end]
        if before and losses[before[-1]] - losses[rows[-1]] > max(
            LARGE_GAIN * (losses[rows[0]] - losses[rows[-1]]), SMALL_GAIN * losses[rows[-1]]
        ):
            found.add(rows[-1])
    return found


def _log_values(values: np.ndarray, rows: list[int], source: str, metric: str, maximize: bool) -> np.ndarray:
    """The logarithms of losses, or of 1 − accuracy; NaN for diverged runs."""
    known = [row for row in rows if math.isfinite(values[row])]
    if not len(values):
        raise UserError(f"{source}: the table has no rows", "add a row for each run")
    if not rows:
        raise UserError(f"{source}: every row has 0 tokens or examples", "add a row for each run that trained")
    if not known:
        raise UserError(f"{source}: column {metric} has no finite value", "check that it is the right column")
    for row in known:
        if values[row] >= 1 if maximize else values[row] <= 0:
            raise UserError(
                f"{source}: column {metric}, row {row + 1}: {values[row]:g} is not {'below 1' if maximize else 'above 0'}",
                "an accuracy is a share, such as 0.93"
                if maximize
                else "the fit works with logarithms; if higher is better, add --goal maximize",
            )
    logs = np.full(len(values), math.nan)
    logs[known] = np.log(1 - values[known] if maximize else values[known])
    return logs


def _groups(
    columns: Mapping[str, Sequence[Any]], names: Sequence[str], places: Mapping[str, np.ndarray], rows: list[int]
) -> list[list[list[int]]]:
    """The rows of each configuration of each cell."""
    settings = [name for name in names if name in PARAMETERS] or [name for name in ("config",) if name in names]
    keys = [name for name in places if name != "flops"] or ["flops"]
    found: dict[Any, dict[Any, list[int]]] = {}
    for row in rows:
        cell = tuple(f"{places[name][row]:.6g}" for name in keys)
        alone = None if "seed" in names else row
        configuration = tuple(str(columns[name][row]) for name in settings) if settings else alone
        found.setdefault(cell, {}).setdefault(configuration, []).append(row)
    return [list(configurations.values()) for configurations in found.values()]


def _noise(groups: Sequence[np.ndarray]) -> tuple[float | None, int]:
    """The standard deviation of a value among repetitions, and its degrees of freedom; None without repetitions."""
    squares = [float(((group - group.mean()) ** 2).sum()) for group in groups]
    freedom = sum(len(group) - 1 for group in groups)
    return (math.sqrt(sum(squares) / freedom), freedom) if freedom else (None, 0)


def _metric(columns: Mapping[str, Sequence[Any]], names: Sequence[str], source: str) -> str:
    """The metric's column where the user names none."""
    rest = [name for name in names if name not in (*AXES, *OTHERS) and name not in PARAMETERS]
    numbers = [name for name in rest if np.asarray(columns[name]).dtype.kind in "if"]
    known = [name for name in numbers if name in METRICS]
    for candidates in ([name for name in LOSSES if name in numbers][:1], known, numbers):
        if len(candidates) == 1:
            return candidates[0]
    if not numbers:
        raise UserError(f"{source}: the table has no column for a metric", "add a column of numbers, such as loss")
    raise UserError(
        f"{source}: the table has several columns that may be the metric: {', '.join(numbers)}",
        f"name it: --metric {numbers[0]}",
    )


def _maximize(metric: str, goal: str | None) -> bool:
    if goal is not None:
        return goal == "maximize"
    known = goal_of(metric)
    return known == "maximize" if known else any(word in metric.lower() for word in BETTER_HIGH)


def _numbers(column: Sequence[Any], source: str, name: str, empty: bool = False, above: float | None = None) -> np.ndarray:
    """A column as floats. NaN for empty cells where `empty` ones are allowed."""
    hint = f"write a plain number, such as {EXAMPLES.get(name, '2.31')}"
    numbers = np.full(len(column), math.nan)
    for row, cell in enumerate(column):
        try:
            numbers[row] = math.nan if cell is None else float(cell)
        except (TypeError, ValueError):
            raise UserError(f"{source}: column {name}, row {row + 1}: {cell!r} is not a number", hint) from None
    wrong = np.zeros(len(numbers), dtype=bool) if empty else ~np.isfinite(numbers)
    if above is not None:
        wrong |= ~(numbers > above)
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = "the cell is empty" if math.isnan(numbers[row]) else f"{numbers[row]:g} is not a number above 0"
        raise UserError(f"{source}: column {name}, row {row + 1}: {shown}", hint)
    return numbers
