"""Standard errors of metrics, paired differences between trials, and the trials that can't be told apart from the first.

The sum of the rows' squared influences on a metric (`record/influence.py`) estimates its variance over other draws of as many rows
(the infinitesimal jackknife: Efron, 1982). Rows of one `data.group` were drawn together, so their influences are added up first.
Two trials that were evaluated on the same rows differ by the difference of their influences, in which what makes a row hard for
both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from scalesweep.record.evaluations import Evaluation, read_evaluations
from scalesweep.record.ranking import Row
from scalesweep.record.schema import Record, Report, Trial

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95  # of intervals, and of the set of trials that can't be told apart


def standard_error(influence: np.ndarray, kept: float = 1.0) -> float:
    """The standard error of a metric, or of a difference, from the influences of at least two draws: rows, or groups of rows.

    Args:
        kept: the share of the split whose influences these are. The metric is of the whole split.
    """
    draws = len(influence)
    return math.sqrt(float(influence @ influence) * draws / (draws - 1) * kept)


def quantile(draws: int, pairs: int = 1) -> float:
    """The half width of a two-sided interval in standard errors, so that `pairs` intervals hold together (Bonferroni).

    The quantile of Student's t: exact for up to two degrees of freedom, else by its expansion around the normal distribution's
    (Abramowitz and Stegun, 1964, 26.7.5).
    """
    inside = 1 - (1 - LEVEL) / pairs
    if draws <= 2:
        return math.tan(math.pi / 2 * inside)
    if draws == 3:
        return inside * math.sqrt(2 / (1 - inside**2))
    z, freedom = NormalDist().inv_cdf((1 + inside) / 2), draws - 1
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def interval(gap: float, error: float, draws: int) -> tuple[float, float]:
    """The 95 % interval around a difference with this standard error."""
    half = quantile(draws) * error
    return gap - half, gap + half


def tied(gaps: Mapping[str, tuple[float, float]], draws: int) -> set[str]:
    """The trials that can't be told apart from the first one, from their gaps to it and the standard errors of these.

    The first is chosen by the same numbers, as the best of all. So its gap to the last is the largest of all pairs, and the
    quantile is that of all pairs. Trials that can be told apart are left out, and the others are compared again as if they were
    all (Holm, 1979), until none is left out.
    """
    left = set(gaps)
    while left:
        limit = quantile(draws, (len(left) + 1) * len(left) // 2)
        kept = {name for name in left if abs(gaps[name][0]) <= limit * gaps[name][1]}
        if kept == left:
            break
        left = kept
    return left


@dataclass(frozen=True)
class Certainty:
    """The certainty of a trial's value in the ranking. What is None is not known: the record lacks the numbers.

    Attributes:
        standard_error: of the metric.
        difference: the 95 % interval of the trial's metric less the first trial's, paired over the same rows.
        tied: whether the trial can't be told apart from the first one, corrected for the number of trials.
    """

    standard_error: float | None = None
    difference: tuple[float, float] | None = None
    tied: bool | None = None


def certainty(record: Record, ranking: Sequence[Row]) -> dict[str, Certainty]:
    """The certainty of each trial, by name. `ranking`: best first, as `rank` returns it."""
    reports = {row.trial.name: report for row in ranking if (report := judged(row)) is not None}
    evaluations = _read(record, reports)
    if not evaluations:
        return {row.trial.name: Certainty() for row in ranking}
    from scalesweep.record.influence import influence  # numpy, which a record without these numbers needs not

    known = {name: found for name, one in evaluations.items() if (found := influence(one, record.metric)) is not None}
    errors = {name: standard_error(own, evaluations[name].kept) for name, (_, own) in known.items()}
    values = {row.trial.name: row.metric for row in ranking if row.metric is not None}
    ranked = [row.trial.name for row in ranking if row.rank is not None]
    first = ranked[0] if ranked else ""
    gaps: dict[str, tuple[float, float]] = {}
    draws = 0
    if first in known:
        reference, draws = evaluations[first], len(known[first][1])
        for name in ranked:
            if name in known and name != first and evaluations[name].alike(reference):
                gaps[name] = values[name] - values[first], standard_error(known[name][1] - known[first][1], reference.kept)
    ties = tied(gaps, draws)
    compared = {name: (interval(*gap, draws), name in ties) for name, gap in gaps.items()}
    names = [row.trial.name for row in ranking]
    return {name: Certainty(errors.get(name), *compared.get(name, (None, None))) for name in names}


def judged(row: Row) -> Report | None:
    """The report that a row of the ranking stands for: the first at its fidelity or beyond."""
    return next((report for report in row.trial.reports if row.fidelity is not None and report.fidelity >= row.fidelity), None)


def standard_errors(evaluation: Evaluation, metrics: Iterable[str]) -> dict[str, float]:
    """The standard error of each of the metrics that has one, by name."""
    from scalesweep.record.influence import influence

    found = {metric: influence(evaluation, metric) for metric in metrics}
    return {metric: standard_error(own[1], evaluation.kept) for metric, own in found.items() if own is not None}


def errors_at(record: Record, reports: Mapping[str, Report]) -> dict[str, dict[str, float]]:
    """The standard error of each metric at these reports, by the names that `reports` gives them; without those of which the
    record lacks the numbers."""
    return {name: standard_errors(one, reports[name].metrics) for name, one in _read(record, reports).items()}


def errors_of(record: Record, trial: Trial) -> dict[str, float]:
    """The standard error of each metric at the report at which a trial was judged; empty where the record lacks the numbers."""
    return {} if trial.judged is None else errors_at(record, {trial.name: trial.judged}).get(trial.name, {})


def differences(record: Record, one: Trial, other: Trial) -> dict[str, tuple[float, float]]:
    """The 95 % interval of `other`'s value less `one`'s in each metric, paired over the rows, at the reports at which they were
    judged. Empty where the record lacks the numbers."""
    from scalesweep.record.influence import influence

    reports = {trial.name: trial.judged for trial in (one, other) if trial.judged is not None}
    read = _read(record, reports)
    if len(read) < 2 or not read[one.name].alike(read[other.name]):
        return {}
    found = {}
    for metric in reports[one.name].metrics:
        pair = [influence(read[trial.name], metric) for trial in (one, other)]
        if pair[0] is not None and pair[1] is not None:
            gap = reports[other.name].metrics[metric] - reports[one.name].metrics[metric]
            error = standard_error(pair[1][1] - pair[0][1], read[one.name].kept)
            found[metric] = interval(gap, error, len(pair[0][1]))
    return found


def _read(record: Record, reports: Mapping[str, Report]) -> dict[str, Evaluation]:
    places = {name: report.examples for name, report in reports.items() if report.examples is not None}
    return read_evaluations(record.folder, places) if places and record.folder is not None else {}
