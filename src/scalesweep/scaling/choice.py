"""The choice among checkpoints for a new task: each one's loss on all data, predicted from subsets. `choose_among` returns the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalesweep.errors import UserError, counted
from scalesweep.record import Record, State, Trial
from scalesweep.scaling.analysis import Range
from scalesweep.scaling.points import Points
from scalesweep.scaling.recorded import source_of
from scalesweep.scaling.selection import LEAST, Predicted, predict_models
from scalesweep.scaling.tables import points_of_table
from scalesweep.spec.config import rows_of_share
from scalesweep.spec.space import PARAMETERS

PARTS = 8  # the whole data ÷ the largest subset, where a table does not say
FAR = 16  # the same, beyond which intervals held less often than they should on the results of others
SAME = 1e-9  # of ln(loss): less is rounding


@dataclass(frozen=True)
class Ranked:
    """A checkpoint in the ranking.

    Attributes:
        name: of the checkpoint. `n_params`: its parameters, if known.
        predicted: the metric with all data, and its 90 % interval. `power`: the same by a plain power law.
        less: the 90 % interval of ln(loss) less the first one's; None for the first.
        tied: whether it can't be told apart from the first.
        subsets: sizes and the metric there, of the best settings; `settings`: those at the largest.
        gpu_seconds: of its trainings, if known.
    """

    name: str
    predicted: Range
    power: float
    less: tuple[float, float] | None
    tied: bool
    subsets: tuple[tuple[float, float], ...]
    settings: Mapping[str, Any]
    n_params: float | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True)
class Choice:
    """Everything that the terminal and JSON show of a choice among checkpoints.

    Attributes:
        source: the file or the run folder. `whole`: examples of all data.
        ranking: the best first; empty where `refused`, the reasons, are given.
        trainings: those that count; `missing`: those that the sweep still owes.
        gpu_seconds: of all trainings and the starts of workers, if known.
    """

    source: str
    metric: str
    maximize: bool
    whole: float
    ranking: tuple[Ranked, ...] = ()
    refused: tuple[str, ...] = ()
    mend: str = ""
    trainings: int = 0
    missing: int = 0
    gpu_seconds: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> Ranked:
        return self.ranking[0]

    @property
    def largest(self) -> float:
        """The largest subset."""
        return max(size for one in self.ranking for size, _ in one.subsets)

    @property
    def tied(self) -> tuple[Ranked, ...]:
        """The others that can't be told apart from the first."""
        return tuple(one for one in self.ranking[1:] if one.tied)


def choose_among(
    columns: Mapping[str, Sequence[Any]],
    source: str = "table",
    metric: str | None = None,
    goal: str | None = None,
    whole: float | None = None,
) -> Choice:
    """Predict each model's loss on all data from a table with a row per training, and rank the models.

    Columns: `model`, `examples`, the metric, and where there are any `seed`, `n_params`, `gpu_seconds` and the parameters of a search
    space. Of one model's rows of one number of examples, the best settings count, in the mean over seeds. Rows of all data and
    more are left out.

    Args:
        source, metric, goal: as for `points_of_table`.
        whole: examples of all data; default: eight times the largest of the table.

    Raises:
        UserError: a column is missing, a cell is not a number above 0, or `whole` is not above the subsets.
    """
    names = [str(name) for name in columns]
    for name, meaning in (
        ("model", "the checkpoint's name"),
        ("examples", "the number of examples that a model was trained on"),
    ):
        if name not in names:
            hint = f"add {name}, {meaning}; the table has: {', '.join(names)}"
            raise UserError(f"{source}: the table has no column {name}", hint)
    # Sizes are no axis here: each model has a curve of its own.
    kept = [name for name in names if name not in ("model", "n_params", "tokens", "flops")]
    points = points_of_table({name: columns[name] for name in kept}, source, metric, goal)  # checks every cell
    sizes = [float(size) for size in columns["examples"]]
    if whole is None:
        whole = PARTS * max(sizes)
    smaller = [row for row, size in enumerate(sizes) if 0 < size < whole]
    if not smaller:
        message = f"{source}: no row has fewer examples than all data, {whole:,.0f}"
        raise UserError(message, "give the size of all data: --examples N, above the subsets of the table")
    models: dict[str, list[int]] = {}
    for row in smaller:
        models.setdefault(str(columns["model"][row]), []).append(row)
    curves, left_out = {}, list[str]()
    for model, rows in models.items():
        try:
            own = points_of_table({name: [columns[name][row] for row in rows] for name in kept}, source, points.metric, goal)
        except UserError:  # no finite value: all cells were checked before
            left_out.append(f"{model} has no finite {points.metric}")
            continue
        if len(own.cells) < LEAST:
            left_out.append(f"{model} has {counted(len(own.cells), 'subset')} of the {LEAST} that it needs")
            continue
        curves[model] = own
    found = Choice(source, points.metric, points.maximize, whole, trainings=len(smaller), notes=tuple(left_out))
    if len(curves) < 2:
        one = f"{counted(len(models), 'model')}, of which {len(curves)} can be predicted"
        reason = "there is one model, and nothing to choose from" if len(models) == 1 else one
        return replace(
            found, notes=(), refused=(reason, *left_out), mend=f"train at least two models on {LEAST + 1} subsets or more"
        )
    if all(len(own.cells) <= LEAST for own in curves.values()):
        reason = f"{LEAST} subsets give a prediction, and nothing tells its error"
        return replace(found, refused=(reason,), mend="add a subset of half the smallest size for each model")
    if all(np.ptp(own.log_y) < SAME for own in curves.values()):
        reason = (
            f"{points.metric} does not differ between the subsets of a model, so nothing tells which one learns from more data"
        )
        mend = "check the metric; if it is right, train on larger subsets or with other learning rates"
        return replace(found, refused=(reason,), mend=mend)
    facts = {model: _facts(columns, names, models[model]) for model in curves}
    ranking = _ranked(curves, facts, whole)
    notes = [*left_out]
    if (part := whole / max(size for one in ranking for size, _ in one.subsets)) > FAR:
        notes.append(
            f"the largest subset is 1/{part:.3g} of all data: beyond 1/{FAR}, intervals held less often than they should"
        )
    seconds = [one.gpu_seconds for one in ranking if one.gpu_seconds is not None]
    return replace(found, ranking=ranking, gpu_seconds=sum(seconds) if seconds else None, notes=tuple(notes))


def _facts(columns: Mapping[str, Sequence[Any]], names: Sequence[str], rows: Sequence[int]) -> dict[str, float | None]:
    """The parameters of a model and the GPU seconds of its trainings, where the table has them."""
    found: dict[str, float | None] = {"n_params": None, "gpu_seconds": None}
    for name, summed in (("n_params", max), ("gpu_seconds", sum)):
        cells = [columns[name][row] for row in rows] if name in names else []
        numbers = [float(cell) for cell in cells if isinstance(cell, int | float) and math.isfinite(cell)]
        found[name] = float(summed(numbers)) if numbers else None
    return found


def _ranked(curves: Mapping[str, Points], facts: Mapping[str, Mapping[str, float | None]], whole: float) -> tuple[Ranked, ...]:
    """The models by their predictions, best first."""
    told = predict_models([(own.axis("examples"), np.exp(own.log_y)) for own in curves.values()], whole)
    order = sorted(zip(curves, told, strict=True), key=lambda pair: pair[1].value)
    first = order[0][1]
    ranking = []
    for place, (model, one) in enumerate(order):
        own, less = curves[model], one.less(first)
        settings = {name: value for name, value in own.cells[-1].trials[0].settings.items() if name in PARAMETERS}
        ranking.append(
            Ranked(
                model,
                _range(own, one),
                float(own.shown(one.power)),
                less if place else None,
                not place or less[0] <= 0,
                tuple((cell.axes["examples"], float(own.shown(cell.log_value))) for cell in own.cells),
                settings,
                facts[model]["n_params"],
                facts[model]["gpu_seconds"],
            )
        )
    return tuple(ranking)


def _range(points: Points, one: Predicted) -> Range:
    low, high = one.less(Predicted(0.0, 0.0, 0.0))
    ends = [float(points.shown(end)) if math.isfinite(end) else None for end in (low, high)]
    return Range(float(points.shown(one.value)), *(reversed(ends) if points.maximize else ends))


# ---- records ----------------------------------------------------------------------------------------------------------------


def choice_of_record(record: Record) -> Choice:
    """The choice among the sizes of a sweep whose trials trained on shares of the data (`train_share`).

    Raises:
        UserError: no trial trained on a share.
    """
    source, train = source_of(record), record.manifest.data.get("splits", {}).get("train", {})
    rows = int(train.get("rows", 0)) if isinstance(train, Mapping) else 0
    shared = [trial for trial in record.by_number() if 0 < trial.config.get("train_share", 1.0) < 1]
    if not shared or not rows:
        hint = "`scalesweep choose SWEEP.yaml` trains the checkpoints of its ladder on shares of the data"
        raise UserError(f"no trial of {source} trained on a share of the data (train_share)", hint)
    counted_in = [trial for trial in shared if _ended(trial, record.metric)]
    cap = record.manifest.budget.get("run_cap") or 0
    owed = 0 if record.status == "ended" else max(cap - len(shared), 0) + sum(not trial.state.ended for trial in shared)
    lost = len(shared) - len(counted_in) - sum(not trial.state.ended for trial in shared)
    notes = [f"left out, because they failed or diverged: {counted(lost, 'training')}"] if lost else []
    state = {"missing": owed, "trainings": len(counted_in), "gpu_seconds": record.gpu_seconds}
    empty = Choice(source, record.metric, not record.minimize, float(rows), **state)  # type: ignore[arg-type]
    if not counted_in:
        return replace(empty, refused=("no training has ended",), notes=tuple(notes))
    drawn = sorted({name for trial in counted_in for name in trial.params} - {"model_size", "train_share", "num_gpus"})
    columns: dict[str, list[Any]] = {
        "model": [str(trial.config["model_size"]) for trial in counted_in],
        "examples": [rows_of_share(rows, trial.config["train_share"]) for trial in counted_in],
        record.metric: [trial.last.metrics[record.metric] for trial in counted_in if trial.last is not None],
        "seed": [trial.config["seed"] for trial in counted_in],
        "gpu_seconds": [trial.gpu_seconds for trial in counted_in],
        **{name: [trial.config.get(name) for trial in counted_in] for name in drawn},
    }
    if all(size in record.n_params for size in columns["model"]):
        columns["n_params"] = [record.n_params[size] for size in columns["model"]]
    found = choose_among(columns, source, record.metric, "minimize" if record.minimize else "maximize", rows)
    found = replace(found, **state, notes=(*notes, *found.notes))  # type: ignore[arg-type]
    if found.refused and owed:
        reason = f"{owed} of {counted(len(counted_in) + owed, 'training')} have not ended"
        return replace(found, refused=(reason,), mend="let the sweep end first")
    return _against_guessing(found, record) if found.ranking else found


def _ended(trial: Trial, metric: str) -> bool:
    last = trial.last
    return trial.state is State.COMPLETE and last is not None and math.isfinite(last.metrics.get(metric, math.nan))


def _against_guessing(choice: Choice, record: Record) -> Choice:
    """Refuse where no model learnt anything from its largest subset, and name the models that did not."""
    guess = (record.manifest.baseline or {}).get("metrics", {}).get(record.metric)
    if guess is None:
        return choice
    sign = 1 if record.minimize else -1
    idle = [one.name for one in choice.ranking if sign * one.subsets[-1][1] >= sign * guess]
    text = f"no better than guessing ({guess:.4g}) on their largest subsets: {', '.join(idle)}"
    if len(idle) == len(choice.ranking):
        mend = "try a larger --share, more passes over the data (early_terminate.max_t), or other learning rates"
        return replace(choice, ranking=(), refused=(text,), mend=mend)
    return replace(choice, notes=(*choice.notes, text)) if idle else choice
