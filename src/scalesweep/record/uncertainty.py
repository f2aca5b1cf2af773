"""Standard errors of metrics, paired differences between trials, and the trials that can't be told apart from the first.

Every metric is a function of sums over the rows of the validation split. The influence of a row is the derivative of the metric
with respect to the row's weight; a ratio of sums is linearised, and the delta method gives the others. The sum of squared
influences estimates the variance of the metric over other draws of as many rows (the infinitesimal jackknife: Efron, 1982). Two
trials that were evaluated on the same rows differ by the difference of their influences, in which what makes a row hard for both
cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from scalesweep.record.evaluations import Evaluation, read_evaluations
from scalesweep.record.ranking import Row
from scalesweep.record.schema import Record, Report, Trial

LEVEL = 0.95  # of intervals, and of the set of trials that can't be told apart
Columns = Mapping[str, np.ndarray]


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
    """A ratio of sums and each row's influence on it."""
    whole = below.sum()
    value = above.sum() / whole
    return float(value), (above - value * below) / whole


def _predictions(columns: Columns) -> np.ndarray:
    return columns.get("predictions", np.ones_like(columns["loss"]))


def _loss(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["loss"] * _predictions(columns), _predictions(columns))


def _perplexity(columns: Columns) -> tuple[float, np.ndarray]:
    loss, influence = _loss(columns)
    value = math.exp(min(loss, 700.0))  # e^700 is the largest power that a float holds
    return value, value * influence


def _bits_per_byte(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["loss"] * _predictions(columns) / math.log(2), columns["bytes"])


def _token_accuracy(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["right"] * _predictions(columns), _predictions(columns))


def _classes(columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The true and the predicted class of each row, and how often each class is one and the other."""
    true, predicted = columns["label"].astype(int), columns["class"].astype(int)
    most = max(true.max(), predicted.max()) + 1
    return true, predicted, np.bincount(true, minlength=most), np.bincount(predicted, minlength=most)


def _accuracy(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio((columns["label"] == columns["class"]).astype(float), np.ones(len(columns["label"])))


def _f1_macro(columns: Columns) -> tuple[float, np.ndarray]:
    true, predicted, of_true, of_predicted = _classes(columns)
    hit = true == predicted
    support = of_true + of_predicted
    present = support > 0
    support = np.maximum(support, 1)
    scores = 2 * np.bincount(true[hit], minlength=len(support)) / support
    influence = 2 * hit / support[true] - scores[true] / support[true] - scores[predicted] / support[predicted]
    return float(scores[present].mean()), influence / present.sum()


def _matthews(columns: Columns) -> tuple[float, np.ndarray]:
    true, predicted, of_true, of_predicted = (array.astype(float) for array in _classes(columns))
    hit, n = true == predicted, float(len(true))
    at_true, at_predicted = true.astype(int), predicted.astype(int)
    covariance = hit.sum() * n - of_true @ of_predicted
    spread_true, spread_predicted = n**2 - of_true @ of_true, n**2 - of_predicted @ of_predicted
    spread = spread_true * spread_predicted
    if spread <= 0:
        return 0.0, np.zeros(len(true))
    value = covariance / math.sqrt(spread)
    moved = hit * n + hit.sum() - of_predicted[at_true] - of_true[at_predicted]
    widened = (n - of_true[at_true]) / spread_true + (n - of_predicted[at_predicted]) / spread_predicted
    return float(value), moved / math.sqrt(spread) - value * widened


INFLUENCE: dict[str, Callable[[Columns], tuple[float, np.ndarray]]] = {
    "eval_loss": _loss,
    "eval_accuracy": _accuracy,
    "eval_f1_macro": _f1_macro,
    "eval_matthews": _matthews,
    "eval_perplexity": _perplexity,
    "eval_token_accuracy": _token_accuracy,
    "eval_bits_per_byte": _bits_per_byte,
}


def influence(evaluation: Evaluation, metric: str) -> tuple[float, np.ndarray] | None:
    """A metric of the kept rows, and each row's influence on it, [rows]. None for a metric that does not follow from them,
    such as a function of the user's, and where one of the numbers is not finite."""
    columns = {name: array.astype(np.float64) for name, array in evaluation.columns.items()}
    try:
        if metric in columns:  # a score of generated answers
            given = ~np.isnan(columns[metric])
            found = _ratio(np.where(given, columns[metric], 0.0), given.astype(np.float64))
        else:
            with np.errstate(invalid="ignore"):  # a diverged trial has infinite losses
                found = INFLUENCE[metric](columns)
    except KeyError:
        return None
    return found if np.isfinite(found[1]).all() else None


def standard_error(influence: np.ndarray, of: int) -> float:
    """The standard error of a metric, or of a difference, on a split of `of` rows, from the influences of those kept; infinite
    for one row."""
    rows = len(influence)
    return math.sqrt(float(influence @ influence) * rows / (rows - 1) * rows / of) if rows > 1 else math.inf


def quantile(rows: int, pairs: int = 1) -> float:
    """The half width of a two-sided interval in standard errors, so that `pairs` intervals hold together (Bonferroni).

    The quantile of Student's t, by its expansion around the normal distribution's (Abramowitz and Stegun, 1964, 26.7.5).
    """
    z, freedom = NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * pairs)), max(rows - 1, 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Certainty:
    """The certainty of a trial's value in the ranking. All are None where the record does not have the numbers.

    Attributes:
        standard_error: of the metric.
        difference: the 95 % interval of the trial's metric less the first trial's, paired over the same rows.
        tied: whether the trial can't be told apart from the first one, corrected for the number of trials.
    """

    standard_error: float | None = None
    difference: tuple[float, float] | None = None
    tied: bool | None = None


def judged(row: Row) -> Report | None:
    """The report that a row of the ranking stands for: the first at its fidelity or beyond."""
    return next((report for report in row.trial.reports if row.fidelity is not None and report.fidelity >= row.fidelity), None)


def certainty(record: Record, rows: Sequence[Row]) -> dict[str, Certainty]:
    """The certainty of each trial, by name. `rows`: the ranking, best first."""
    reports = {row.trial.name: report for row in rows if row.rank is not None and (report := judged(row)) is not None}
    evaluations = _read(record, reports)
    first = rows[0] if rows and rows[0].trial.name in evaluations else None
    reference = None if first is None else evaluations[first.trial.name]
    base = None if reference is None else influence(reference, record.metric)
    found: dict[str, Certainty] = {}
    gaps: dict[str, tuple[float, float]] = {}  # from the first, and the standard errors
    for row in rows:
        evaluation = evaluations.get(row.trial.name)
        own = None if evaluation is None else influence(evaluation, record.metric)
        if evaluation is None or own is None:
            found[row.trial.name] = Certainty()
            continue
        error = standard_error(own[1], evaluation.of)
        interval = None
        same = reference is not None and (len(own[1]), evaluation.of) == (_rows(reference), reference.of)
        if same and base is not None and first is not None and row is not first:
            gap = (row.metric or 0.0) - (first.metric or 0.0), standard_error(own[1] - base[1], evaluation.of)
            gaps[row.trial.name] = gap
            half = quantile(len(own[1])) * gap[1]
            interval = (gap[0] - half, gap[0] + half)
        found[row.trial.name] = Certainty(error if math.isfinite(error) else None, interval)
    if reference is not None:
        ties = tied(gaps, _rows(reference))
        found |= {name: Certainty(found[name].standard_error, found[name].difference, name in ties) for name in gaps}
    return found


def tied(gaps: Mapping[str, tuple[float, float]], rows: int) -> set[str]:
    """The trials that can't be told apart from the first one, from their gaps to it and the standard errors of these.

    The first is chosen by the same numbers, as the best of all. So its gap to the others is the largest of all pairs, and the
    quantile is that of all pairs. Trials that can be told apart are left out, and the others are compared again as if they were
    all (Holm, 1979), until none is left out.
    """
    left = set(gaps)
    while left:
        limit = quantile(rows, (len(left) + 1) * len(left) // 2)
        kept = {name for name in left if abs(gaps[name][0]) <= limit * gaps[name][1]}
        if kept == left:
            break
        left = kept
    return left


def _rows(evaluation: Evaluation) -> int:
    return len(next(iter(evaluation.columns.values())))


def _read(record: Record, reports: Mapping[str, Report]) -> dict[str, Evaluation]:
    if record.folder is None:
        return {}
    places = {name: report.examples for name, report in reports.items() if report.examples is not None}
    return read_evaluations(record.folder, places)


def standard_errors(evaluation: Evaluation, metrics: Sequence[str]) -> dict[str, float]:
    """The standard error of each metric that has one, by name."""
    found = {}
    for metric in metrics:
        own = influence(evaluation, metric)
        if own is not None and math.isfinite(error := standard_error(own[1], evaluation.of)):
            found[metric] = error
    return found


def errors_of(record: Record, trial: Trial) -> dict[str, float]:
    """The standard error of each metric at the report at which a trial was judged."""
    report = trial.judged
    if report is None or not (read := _read(record, {trial.name: report})):
        return {}
    return standard_errors(read[trial.name], [name for name in report.metrics if name.startswith("eval_")])
