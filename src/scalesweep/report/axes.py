"""The axes of a search space, and the difference that each makes in the sweep's metric, estimated from its trials.

Each trial counts once, with its value at the highest rung that it reached. A value of a lower rung is brought to the end by the
mean change, rung by rung, of the trials that continued. A diverged trial counts as the worst of the others.

The model is a sum over the axes: a number linear and squared on its scale, a word with a value of its own, an axis under a `when`
among the trials that have it. The product of learning rate and size is beside them, because the best rate falls with the size (Li
et al., 2025, arXiv 2503.04715). Other interactions are left out, so an effect is an average over the other axes. The other
axes are held by ridge regression (Hoerl & Kennard, 1970), with the penalty of the least leave-one-out error. The axis in question
is not shrunk, because a shrunk difference would look surer and smaller than it is.

The interval of a difference comes from 200 bootstrap samples of the trials (Efron, 1979). It is widened for the degrees of freedom
that the model uses, by the factor of HC1 (MacKinnon & White, 1985) and that of Student's t over the normal distribution. It holds
for all pairs of an axis's values at once (the max-t method: Westfall & Young, 1993), because the best and the worst value were
chosen by the same trials. `benchmarks/axes.py` measures how often it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesweep.record import Record, State, Trial
from scalesweep.record.curves import levels, values_at
from scalesweep.record.uncertainty import quantile
from scalesweep.spec.configurations import OF_ADAPTERS
from scalesweep.spec.space import Parameter

SAMPLES = 200  # of the bootstrap
SURE = 0.9  # of an interval: from 5 to 95 %
TRIALS_NEEDED = 15  # for a ranking of the axes
OF_AXIS = 8  # trials that have an axis; with fewer it is not judged
OF_VALUE = 3  # trials with a word; fewer are not compared with others
LOG_SPAN = 10.0  # listed numbers that span this factor are on a log scale, as for the samplers
PLACES = 9  # at which a range is compared
PENALTIES = np.geomspace(1e-3, 1e3, 25)  # for columns of variance 1
MANY = 10**9  # draws, with which Student's t is the normal distribution
UNSHRUNK = 1e-3  # penalty of the axis in question; with 0, a sample that lacks a word has no solution
MOST_FREEDOM = 0.5  # degrees of freedom per trial; with more, the model fits the noise of few trials


@dataclass(frozen=True)
class Axis:
    """A parameter that the sweep varied. `listed` are its values; None for a range from `low` to `high`. `ordered`: numbers."""

    name: str
    listed: tuple[Any, ...] | None
    ordered: bool
    log: bool = False
    low: float = 0.0
    high: float = 1.0
    whole: bool = False

    def of(self, trial: Trial) -> Any:
        """The trial's value; None where the parameter does not exist in it."""
        if self.name in OF_ADAPTERS and trial.config.get("adapter", "none") == "none":
            return None
        return trial.params.get(self.name)

    def place(self, value: float) -> float:
        """The place of a number on the scale: 0 at `low`, 1 at `high`."""
        low, high, at = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, place: float) -> float:
        """The number at a place."""
        low, high = (math.log(x) if self.log else float(x) for x in (self.low, self.high))
        at = float(low + place * (high - low))
        value = math.exp(at) if self.log else at
        return round(value) if self.whole else value

    def shown(self, value: Any) -> str:
        """A value in words: '1.2e-04' on a scale of logarithms, '0.12', '32', 'yes', 'cosine'."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if not isinstance(value, float):
            return str(value)
        return f"{value:.1e}" if self.log else f"{value:.2g}"


@dataclass(frozen=True)
class Effect:
    """The difference that an axis makes in the metric, on average over the other axes.

    `difference`, from `low` to `high`, is that between its values `worse` and `better`: the pair that differs most among those
    that surely differ, or among all where none does. Then `low` is not above 0, and the trials can't say that the axis matters.
    `trials` have the axis.
    """

    axis: str
    better: Any
    worse: Any
    difference: float
    low: float
    high: float
    trials: int
    profile: tuple[tuple[Any, float, float], ...] = ()

    @property
    def matters(self) -> bool:
        return self.low > 0


def searched(record: Record) -> list[Axis]:
    """The axes that may change a result. The GPU count does so only where time is the fidelity."""
    timed = record.manifest.time_attr in ("gpu_seconds", "dollars")
    found = []
    for name, told in record.manifest.parameters.items():
        parameter = Parameter.model_validate(told)
        choices = parameter.choices()
        if name == "num_gpus" and not timed:
            continue
        if choices is None and parameter.min is not None and parameter.max is not None and parameter.min < parameter.max:
            log = parameter.kind == "log_uniform_values"
            found.append(
                Axis(name, None, True, log, float(parameter.min), float(parameter.max), parameter.kind == "int_uniform")
            )
        elif choices is not None and len(choices) > 1:
            numbers = [float(value) for value in choices if isinstance(value, int | float) and not isinstance(value, bool)]
            if len(numbers) == len(choices) and len(set(numbers)) > 1:
                low, high = min(numbers), max(numbers)
                found.append(Axis(name, tuple(sorted(choices)), True, 0 < low <= high / LOG_SPAN, low, high))
            else:
                found.append(Axis(name, tuple(choices), False))
    return found


def brought_to_the_end(record: Record) -> tuple[list[Trial], np.ndarray]:
    """The trials that count, and the value of each at the end, float [trials]; lower is better with either goal."""
    sign = 1.0 if record.minimize else -1.0
    trials, curves, diverged = [], [], []
    for trial in record.configurations():
        values = [sign * value for value in values_at(trial.reports, record.metric, levels(record.manifest))]
        if trial.stop_reason == "diverged":
            diverged.append(trial)
        elif trial.state not in (State.FAIL, State.INFEASIBLE) and values and all(map(math.isfinite, values)):
            trials.append(trial)
            curves.append(values)
    highest = max(map(len, curves), default=0)
    continued = [[values for values in curves if len(values) > at + 1] for at in range(highest - 1)]
    changes = [float(np.mean([values[at + 1] - values[at] for values in some])) for at, some in enumerate(continued)]
    ends = [values[-1] + sum(changes[len(values) - 1 :]) for values in curves]
    return trials + diverged * bool(ends), np.array(ends + [max(ends)] * len(diverged) if ends else [])


@dataclass(frozen=True)
class _Block:
    """The columns [trials, columns] of one axis, and those of the values that are compared, [values, columns]."""

    columns: np.ndarray
    compared: np.ndarray
    values: list[Any]
    trials: int


def _block(axis: Axis, trials: Sequence[Trial]) -> _Block | None:
    """The columns of an axis, each 0 on average and in the trials that lack it; None where too few trials have it."""
    told = [axis.of(trial) for trial in trials]
    have = np.array([value is not None for value in told])
    tried = [value for value in dict.fromkeys(told) if value is not None]
    if have.sum() < OF_AXIS or len(tried) < 2:
        return None
    if axis.ordered:
        places = np.array([0.0 if value is None else axis.place(value) for value in told])
        ends = places[have].min(), places[have].max()
        at = np.linspace(*ends, PLACES) if axis.listed is None else np.unique(places[have])
        values = [axis.value(place) for place in at] if axis.listed is None else sorted(tried)
        powers = np.array([1, 2][: len(tried) - 1])
        middle = places[have].mean()
        columns, compared = ((x - middle)[:, None] ** powers for x in (places, at))
    else:
        columns = np.array([[value == one for one in tried] for value in told], float)
        often = columns.sum(0) >= OF_VALUE
        values, compared = [value for value, enough in zip(tried, often, strict=True) if enough], np.eye(len(tried))[often]
    if len(values) < 2:
        return None
    mean = columns[have].mean(0)
    columns, compared = np.where(have[:, None], columns - mean, 0.0), compared - mean
    # Words keep their scale among each other, so that none is shrunk for being rare.
    scale = columns.std(0) if axis.ordered else np.sqrt(columns.var(0).sum() / (len(tried) - 1))
    return _Block(columns / scale, compared / scale, values, int(have.sum()))


def _rate_by_size(record: Record, trials: Sequence[Trial]) -> np.ndarray:
    """The product of log learning rate and log size, [trials, 1]; no column where one of them was not searched or is unknown."""
    rates, sizes = ([trial.params.get(name) for trial in trials] for name in ("learning_rate", "model_size"))
    counts = [record.n_params.get(size) if size is not None else None for size in sizes]
    if not all(rates) or not all(counts) or len(set(rates)) < 2 or len(set(counts)) < 2:
        return np.zeros((len(trials), 0))
    rate, count = (np.log(np.array(column, float)) for column in (rates, counts))
    product = (rate - rate.mean()) * (count - count.mean())
    spread = product.std()
    return np.asarray((product - product.mean())[:, None] / spread) if spread > 0 else np.zeros((len(trials), 0))


def effects(record: Record) -> list[Effect]:
    """The effect of each axis that enough trials have, those that matter first, the largest first. Empty where there are fewer
    than TRIALS_NEEDED trials."""
    trials, ends = brought_to_the_end(record)
    blocks = {axis.name: block for axis in searched(record) if (block := _block(axis, trials)) is not None}
    if len(trials) < TRIALS_NEEDED or not blocks or not ends.std():
        return []
    x = np.column_stack([*(block.columns for block in blocks.values()), _rate_by_size(record, trials)])
    x -= x.mean(0)
    n, rng, penalty = len(trials), np.random.default_rng(0), _penalty(x, ends)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), SAMPLES)])  # all trials first, then the samples
    squares, products = _sums(x, ends, weights)
    owners = [name for name, block in blocks.items() for _ in block.columns.T]
    owner = np.array(owners + [""] * (x.shape[1] - len(owners)))
    found = []
    for name, block in blocks.items():
        mine = owner == name
        penalties = np.diag(np.where(mine, UNSHRUNK, penalty))
        beta = np.linalg.solve(squares + penalties, products[..., None])[..., 0]
        freedom = 1 + float(np.trace(np.linalg.solve(squares[0] + penalties, squares[0])))
        left = max(n - freedom, 1.0)
        widened = math.sqrt(n / left) * quantile(int(left) + 1) / quantile(MANY)
        fitted = beta[:, mine] @ block.compared.T
        fitted, again = fitted[0], fitted[1:]
        one, other = np.triu_indices(len(fitted), 1)
        gap, gaps = fitted[one] - fitted[other], again[:, one] - again[:, other]
        error = np.maximum(gaps.std(0, ddof=1), 1e-12)
        reach = float(np.quantile(np.abs((gaps - gap) / error).max(1), SURE)) * widened
        sure = np.abs(gap) > reach * error
        pair = int(np.argmax(np.abs(gap) * (sure if sure.any() else 1)))
        size, half = float(abs(gap[pair])), float(reach * error[pair])
        worse, better = (one[pair], other[pair]) if gap[pair] > 0 else (other[pair], one[pair])
        best = int(np.argmin(fitted))
        halves = reach * (again - again[:, [best]]).std(0, ddof=1)
        profile = tuple(zip(block.values, (fitted - fitted[best]).tolist(), halves.tolist(), strict=True))
        values = block.values[better], block.values[worse]
        found.append(Effect(name, *values, size, size - half, size + half, block.trials, profile))
    return sorted(found, key=lambda effect: (not effect.matters, -effect.difference))


def _penalty(x: np.ndarray, y: np.ndarray) -> float:
    """The penalty of the least leave-one-out error, among those with which the model uses at most MOST_FREEDOM."""
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    centred = y - y.mean()
    tried = []
    for penalty in PENALTIES:
        kept = sizes**2 / (sizes**2 + penalty)
        misses = (centred - left @ (kept * (left.T @ centred))) / (1 - left**2 @ kept - 1 / len(y))
        tried.append((1 + kept.sum() > MOST_FREEDOM * len(y), float(misses @ misses), float(penalty)))
    return min(tried)[-1]


def _sums(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of squares [samples, columns, columns] and of products with `y` [samples, columns] around the means, with each row
    of `weights` [samples, trials]."""
    total = weights.sum(1)[:, None]
    mean, level = weights @ x / total, weights @ y[:, None] / total
    pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    squares = (weights @ pairs).reshape(-1, x.shape[1], x.shape[1]) - total[..., None] * mean[:, :, None] * mean[:, None, :]
    return np.asarray(squares), np.asarray((weights * y) @ x - total * mean * level)
