"""Points of a scaling law, from a table of runs or from records: the best trials per cell of size, data and compute.

The best of n noisy values is optimistic (the winner's curse). With the noise of a value known, from seeds or from the validation
rows, the mean optimism is subtracted; `best_of` says how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalesweep.errors import UserError, counted, did_you_mean
from scalesweep.spec.metrics import METRICS, goal_of
from scalesweep.spec.space import PARAMETERS

AXES = ("n_params", "tokens", "examples", "flops")
OTHERS = ("seed", "config", "gpu_seconds", "standard_error")
BETTER_HIGH = ("acc", "f1", "exact_match", "score", "matthews", "bleu", "rouge")  # words in names of metrics
DRAWS = 400  # of the noise, for the winner's curse
FREEDOM = 10.0  # most degrees of freedom that the trials within the cells count as, because they don't show a law's misfit
STATED = 30.0  # degrees of freedom of noise that a table or a record states
OF_NOISE = 0.2  # of the noise's variance is in the gaps too: half the mean squared gap of the two least of 8 normal numbers
VARIES = 1.1  # the largest ÷ the smallest on an axis that varies
TOGETHER = 0.999  # correlation of ln(size) and ln(data), from which on their effects can't be told apart
SPACED = 3  # trials of a cell, with fewer the search's scatter can't be told


@dataclass(frozen=True)
class Trial:
    """A configuration in a cell. `log_value` is the mean of ln(loss or error) over its seeds."""

    log_value: float
    seeds: int
    settings: Mapping[str, Any]
    gpu_seconds: float | None = None
    noise: float | None = None  # standard deviation of `log_value`, where its own is known


@dataclass(frozen=True)
class Cell:
    """Trials of one size, data and compute.

    Attributes:
        axes: size, data and compute by name, those that are known.
        trials: best first.
        log_value: of the best, corrected for the winner's curse.
        error: standard deviation of `log_value` by the metric's noise.
    """

    axes: Mapping[str, float]
    trials: tuple[Trial, ...]
    log_value: float
    error: float

    @property
    def observed(self) -> float:
        """ln of the best trial's value as observed."""
        return self.trials[0].log_value


@dataclass(frozen=True)
class Points:
    """The points that laws are fitted to.

    Attributes:
        source: the file, or the run folders.
        metric: its name. `errors`: it is an accuracy, and the laws describe 1 − it; or an error rate.
        maximize: a value is 1 − exp(log_value).
        noise: standard deviation of ln(value) of one run; None where nothing tells it.
        scatter: standard deviation of a cell's ln(value) by noise and search; None without cells of several trials.
        freedom: degrees of freedom of `scatter`.
    """

    source: str
    metric: str
    maximize: bool
    cells: tuple[Cell, ...]
    noise: float | None = None
    scatter: float | None = None
    freedom: float = 0.0
    notes: tuple[str, ...] = field(default=())
    unfinished: int = 0  # cells whose best trial was still improving at its end

    @property
    def bounded(self) -> bool:
        """Whether the values are error rates, or accuracies, so that the law should stay between 0 and 1."""
        rate = self.maximize or "error" in self.metric
        return rate and all(cell.observed <= 0 for cell in self.cells)

    @property
    def log_y(self) -> np.ndarray:
        return np.array([cell.log_value for cell in self.cells])

    def axis(self, name: str) -> np.ndarray:
        """The cells' values on an axis; NaN where unknown."""
        return np.array([cell.axes.get(name, math.nan) for cell in self.cells])

    def varied(self) -> list[str]:
        """The axes that all cells have and that vary. Runs of as many steps differ a little in tokens; that is no variation."""
        ranges = {name: self.axis(name) for name in AXES}
        return [name for name, axis in ranges.items() if np.isfinite(axis).all() and axis.max() > VARIES * axis.min()]

    @property
    def data(self) -> str | None:
        """The axis of data: tokens, or examples where tokens do not vary."""
        varied = self.varied()
        return next((name for name in ("tokens", "examples") if name in varied), None)

    @property
    def crossed(self) -> bool:
        """Whether size and data vary apart: several amounts of data at a size, and several sizes at an amount."""
        if self.data is None or "n_params" not in self.varied():
            return False
        pairs = np.log(np.stack([self.axis("n_params"), self.axis(self.data)], axis=-1))
        return bool(abs(np.corrcoef(pairs.T)[0, 1]) < TOGETHER)

    def shown(self, log_value: float | np.ndarray) -> Any:
        """A value in the metric's own direction."""
        value = np.exp(log_value)
        return 1 - value if self.maximize else value


def points_of_table(
    columns: Mapping[str, Sequence[Any]], source: str = "table", metric: str | None = None, goal: str | None = None
) -> Points:
    """The points of a table with a row per run.

    Columns: `n_params`, `tokens` or `examples`, `flops` (at least one of them), the metric, and where there are any `seed`,
    `config` (the id of a configuration) and the parameters of a search space, such as `learning_rate`. Rows of one size and amount
    of data are one cell. In a cell, rows with the same `config`, or the same parameters, are seeds of one configuration. An empty
    or NaN metric is a diverged run and left out.

    Args:
        columns: a mapping of names to columns, such as a pandas DataFrame.
        source: the file's name, for errors.
        metric: the metric's column; default: the only column of numbers that has no other meaning.
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
    values = _numbers(columns[metric], source, metric, empty=True)
    places = {name: _numbers(columns[name], source, name, above=0.0) for name in axes}
    if not len(values):
        raise UserError(f"{source}: the table has no rows", "add a row for each run")
    maximize = _maximize(metric, goal)
    usable = np.isfinite(values)
    wrong = usable & (values >= 1 if maximize else values <= 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{source}: column {metric}, row {row + 1}: {values[row]:g} is not {'below 1' if maximize else 'above 0'}",
            "an accuracy is a share, such as 0.93"
            if maximize
            else "the fit works with logarithms; if higher is better, add --goal maximize",
        )
    notes = []
    if not usable.all():
        notes.append(f"{counted(int((~usable).sum()), 'run')} without a finite {metric} left out")
    if not usable.any():
        raise UserError(f"{source}: column {metric} has no finite value", "check that it is the right column")
    log_values = np.log(np.where(usable, 1 - values if maximize else values, 1.0))
    settings = [name for name in names if name == "config" or name in PARAMETERS]
    carried = [*settings, *(name for name in names if name == "trial")]
    errors = _numbers(columns["standard_error"], source, "standard_error", empty=True) if "standard_error" in names else None
    seconds = _numbers(columns["gpu_seconds"], source, "gpu_seconds", empty=True) if "gpu_seconds" in names else None
    rows: dict[tuple[float, ...], dict[Any, list[int]]] = {}
    for row in map(int, np.flatnonzero(usable)):
        cell = tuple(
            float(f"{places[name][row]:.6g}") for name in (axes if axes == ["flops"] else [a for a in axes if a != "flops"])
        )
        config: Any = tuple(str(columns[name][row]) for name in settings) if settings else None if "seed" in names else row
        rows.setdefault(cell, {}).setdefault(config, []).append(row)
    own_noise = [
        log_values[group] - log_values[group].mean()
        for configs in rows.values()
        for group in configs.values()
        if len(group) > 1
    ]
    noise, freedom = None, 0
    if own_noise:
        freedom = sum(len(part) - 1 for part in own_noise)
        noise = math.sqrt(sum(float(part @ part) for part in own_noise) / freedom)
    cells = []
    for configs in rows.values():
        trials = []
        for group in configs.values():
            first = group[0]
            error = noise
            if noise is None and errors is not None and np.isfinite(errors[group]).all():
                error = float(np.mean(errors[group] / np.exp(log_values[group])))
            trials.append(
                Trial(
                    float(log_values[group].mean()),
                    len(group),
                    {name: columns[name][first] for name in carried},
                    None if seconds is None else float(np.nansum(seconds[group])),
                    None if error is None else error / math.sqrt(len(group)),
                )
            )
        at = {name: float(np.median([places[name][row] for group in configs.values() for row in group])) for name in axes}
        cells.append(cell_of(at, trials))
    cells.sort(key=lambda cell: tuple(cell.axes.values()))
    found = Points(source, metric, maximize, tuple(cells), noise, notes=tuple(notes))
    return with_scatter(found, float(freedom) if own_noise else STATED)


def frontier(points: Points) -> Points:
    """The cells that no cell of less or equal compute beats, for laws in `flops`."""
    kept, best = [], math.inf
    for cell in sorted(points.cells, key=lambda cell: (cell.axes["flops"], cell.log_value)):
        if cell.log_value < best:
            kept.append(cell)
            best = cell.log_value
    left_out = len(points.cells) - len(kept)
    note = (f"left out, because cells of less compute are better: {counted(left_out, 'cell')}",) if left_out else ()
    return replace(points, cells=tuple(kept), notes=(*points.notes, *note))


def cell_of(axes: Mapping[str, float], trials: Sequence[Trial]) -> Cell:
    """A cell with its best trial, corrected for the winner's curse where the noise is known."""
    ordered = tuple(sorted(trials, key=lambda trial: trial.log_value))
    values = np.array([trial.log_value for trial in ordered])
    noise = np.array([math.nan if trial.noise is None else trial.noise for trial in ordered])
    if not np.isfinite(noise).all():
        return Cell(axes, ordered, float(values[0]), 0.0)
    return Cell(axes, ordered, *best_of(values, noise))


def best_of(values: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The true value of the trial that looks best, and the standard deviation of that estimate.

    The optimism is estimated by a parametric bootstrap: the trials' values, drawn together by as much as the noise has spread
    them, stand for the truth; noise is added anew, the best is chosen, and compared with its truth.

    Args:
        values: observed values of a cell's trials, lower is better, (trials,).
        noise: their standard deviations, (trials,).
    """
    if len(values) == 1 or not noise.any():
        return float(values.min()), float(noise[np.argmin(values)])
    near = values <= values.min() + 4 * noise.max() + 1e-12  # others can't look best
    told = values[near]
    middle, spread = told.mean(), max(float(told.var(ddof=1)) if len(told) > 1 else 0.0, 1e-300)
    shrink = math.sqrt(max(0.0, 1 - float((noise[near] ** 2).mean()) / spread))
    truth = middle + shrink * (told - middle)
    drawn = truth + noise[near] * np.random.default_rng(0).standard_normal((DRAWS, len(told)))
    chosen = drawn.argmin(axis=1)
    gap = truth[chosen] - drawn[np.arange(DRAWS), chosen]  # of the truth over what is seen
    return float(values.min() + gap.mean()), float(gap.std())


def scatter(gaps: np.ndarray, trials: np.ndarray, errors: np.ndarray, noise_freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """The standard deviation of a cell's ln(value) by noise and search, and its degrees of freedom, for many sets of cells.

    The gap between a cell's best trial and the next estimates the search's part: the least of n exponential gaps is as uncertain as
    (n − 1)/n of the mean distance to the second. The degrees of freedom are Satterthwaite's (1946).

    Args:
        gaps: between the two best trials of each cell, (…, cells with gaps).
        trials: of these cells, (cells with gaps,).
        errors: standard deviations by the metric's noise, (…, cells).
        noise_freedom: degrees of freedom of the noise.
    """
    none = np.zeros(np.broadcast_shapes(gaps.shape[:-1], errors.shape[:-1]))
    search = ((gaps * (trials - 1) / trials) ** 2).mean(axis=-1) / 2 if gaps.shape[-1] else none
    noise = (errors**2).mean(axis=-1) if errors.shape[-1] else none
    search = np.maximum(search - OF_NOISE * noise, 0.0)
    total = search + noise
    doubt = search**2 / max(gaps.shape[-1], 1) + noise**2 / max(noise_freedom, 1.0)
    freedom = np.where(total > 0, total**2 / np.maximum(doubt, 1e-300), 0.0)
    return np.sqrt(total), np.minimum(freedom, FREEDOM)


def with_scatter(points: Points, noise_freedom: float) -> Points:
    """The points with the scatter of a cell's value by noise and search."""
    several = [cell for cell in points.cells if len(cell.trials) >= SPACED]
    gaps = np.array([cell.trials[1].log_value - cell.trials[0].log_value for cell in several])
    errors = np.array([cell.error for cell in points.cells if cell.error > 0])
    spread, freedom = scatter(gaps, np.array([len(cell.trials) for cell in several]), errors, noise_freedom)
    return replace(points, scatter=float(spread), freedom=float(freedom)) if spread > 0 else points


def _metric(columns: Mapping[str, Sequence[Any]], names: Sequence[str], source: str) -> str:
    """The metric's column where the user names none."""
    rest = [name for name in names if name not in (*AXES, *OTHERS) and name not in PARAMETERS]
    numbers = [name for name in rest if _is_number(columns[name])]
    known = [name for name in numbers if name in METRICS or name == "loss"]
    found = known if len(known) == 1 else numbers
    if len(found) != 1:
        what = "has no column for a metric" if not found else f"has several columns that may be the metric: {', '.join(found)}"
        raise UserError(
            f"{source}: the table {what}", f"name it: --metric {found[0]}" if found else "add a column, such as loss"
        )
    return found[0]


def _is_number(column: Sequence[Any]) -> bool:
    array = np.asarray(column)
    return array.dtype.kind in "if"


def _maximize(metric: str, goal: str | None) -> bool:
    if goal is not None:
        return goal == "maximize"
    known = goal_of(metric)
    return known == "maximize" if known else any(word in metric.lower() for word in BETTER_HIGH)


def _numbers(column: Sequence[Any], source: str, name: str, empty: bool = False, above: float | None = None) -> np.ndarray:
    """A column as floats. NaN for empty cells where `empty` ones are allowed."""
    array = np.asarray(column)
    if array.dtype.kind in "iuf":
        numbers = array.astype(float)
    else:
        numbers = np.full(len(array), math.nan)
        for row, cell in enumerate(array):
            try:
                numbers[row] = float(cell) if cell is not None else math.nan
            except (TypeError, ValueError):
                raise UserError(
                    f"{source}: column {name}, row {row + 1}: {cell!r} is not a number",
                    f"write plain numbers, such as {EXAMPLES.get(name, '2.31')}",
                ) from None
    wrong = np.isnan(numbers) if not empty else np.zeros(len(numbers), dtype=bool)
    if above is not None:
        wrong |= ~(np.isfinite(numbers) & (numbers > above))
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = "the cell is empty" if np.isnan(numbers[row]) else f"{numbers[row]:g} is not a number above {above:g}"
        raise UserError(
            f"{source}: column {name}, row {row + 1}: {shown}", f"write a number above 0, such as {EXAMPLES.get(name, '1')}"
        )
    return numbers


EXAMPLES = {"n_params": "124000000", "tokens": "2500000000", "examples": "20000", "flops": "1.9e18"}
