"""The ranking of trials, which the terminal, W&B, `--json` and promotion all use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scalesweep.record.schema import Record, State, Trial
from scalesweep.record.seeds import Seeds, seeds

By = Literal["forecast", "rung", "metric"]
CAUTION = 0.25  # standard deviations by which the first trial may disappoint


@dataclass(frozen=True)
class Row:
    """A trial in the ranking. `metric` is its value at `fidelity`, where it was judged at `rung` (0: at none yet). `expected` is the
    metric that it is expected to have at `max_t`, and the standard deviation. With `repeats`, further trainings to the end with other
    seeds, `metric` is the mean over all seeds. `seed_sd` is the standard deviation between seeds, pooled over configurations."""

    rank: int | None
    trial: Trial
    metric: float | None
    fidelity: float | None
    rung: int
    pareto: bool
    expected: tuple[float, float] | None = None
    repeats: int = 0
    seed_sd: float | None = None


def best_report_metric(trial: Trial, metric: str, minimize: bool) -> tuple[float, float] | None:
    """The best value of `metric` over all reports, and its fidelity."""
    values = [(report.metrics[metric], report.fidelity) for report in trial.reports if math.isfinite(report.metrics[metric])]
    return (min if minimize else max)(values, default=None)


def order_of(record: Record) -> By:
    """The order by which a record is ranked: that of the forecasts where they drive the sweep, else that of the rungs."""
    return "rung" if record.expected is None else "forecast"


def rank(record: Record, by: By | None = None) -> list[Row]:
    """All trials, best first. Failed, infeasible and diverged trials, and trials without a finite value, come last, without a rank,
    and so do repeats: their values count in the row of the trial that they repeat.

    `pareto` marks the trials that no other trial beats in both metric and GPU seconds.

    Args:
        by: the order; by default that of `order_of`.
            forecast: the metric that a trial is expected to have at `max_t`, made worse by `CAUTION` standard deviations. Trials
            before their first rung follow, ordered by the metric.
            rung: a trial judged at a higher rung is above all others. Trials of the same rung are ordered by the metric there.
            metric: the best value of each trial, at any fidelity.
    """
    by, sign = by or order_of(record), 1.0 if record.minimize else -1.0
    known = seeds(record)
    scored: list[tuple[tuple[float, ...], Trial, float, float]] = []
    rest: list[Trial] = []
    for trial in record.by_number():
        value = _value(trial, record, by)
        unusable = trial.state in (State.FAIL, State.INFEASIBLE) or trial.stop_reason == "diverged" or trial.repeat_of
        if value is None or unusable:
            rest.append(trial)
            continue
        metric, fidelity = value
        mean = metric if by == "metric" else known.mean(trial.name, metric)
        metric = mean if math.isfinite(mean) else metric  # of a configuration that diverged with another seed
        scored.append((sort_key(trial, metric, record, by, known), trial, metric, fidelity))
    scored.sort(key=lambda item: item[0])
    front = _pareto([(sign * metric, trial.gpu_seconds) for _, trial, metric, _ in scored])
    rows = [
        Row(
            *(place, trial, metric, fidelity, trial.rung, pareto, _expected(trial, metric, record, known)),
            repeats=known.count(trial.name) - 1,
            seed_sd=known.sd if known.count(trial.name) > 1 else None,
        )
        for place, ((_, trial, metric, fidelity), pareto) in enumerate(zip(scored, front, strict=True), start=1)
    ]
    for trial in rest:
        reached, fidelity_reached = trial.standing(record.metric) or (None, None)
        rows.append(Row(None, trial, reached, fidelity_reached, trial.rung, False))
    return rows


def sort_key(trial: Trial, metric: float, record: Record, by: By, known: Seeds) -> tuple[float, ...]:
    """A key that is least for the best trial. `metric` is the value that counts for the trial, or that of its first seed.

    Trials of a confirmation are ahead of all others, whose values are those of lucky seeds. In the order `metric` they are not.
    """
    metric = metric if by == "metric" else known.mean(trial.name, metric)
    sign, found = 1.0 if record.minimize else -1.0, _expected(trial, metric, record, known)
    first, value = {"forecast": 1.0, "rung": float(-trial.rung), "metric": 0.0}[by], sign * metric
    if by == "forecast" and found is not None:
        first, value = 0.0, sign * found[0] + CAUTION * found[1]
    luck = 1.0
    if by != "metric" and record.confirmation is not None:
        luck = 0.0 if trial.name in record.confirmation.trials and math.isfinite(metric) else 1.0
    return luck, first, math.inf if math.isnan(metric) else value, trial.number


def _expected(trial: Trial, metric: float, record: Record, known: Seeds) -> tuple[float, float] | None:
    """The metric that a trial is expected to have at `max_t`, and the standard deviation.

    At the end that is the mean over seeds and its standard error. No trial is surer than its seeds let it be.
    """
    found, error = (record.expected or {}).get(trial.name), known.error(trial.name)
    if found is None or error is None:
        return found
    return (metric, error) if trial.state is State.COMPLETE else (found[0], max(found[1], error))


def best(record: Record) -> Trial | None:
    """The first trial of the ranking; None if no trial is ranked."""
    rows = rank(record)
    return rows[0].trial if rows and rows[0].rank is not None else None


def _value(trial: Trial, record: Record, by: By) -> tuple[float, float] | None:
    if by == "metric":
        return best_report_metric(trial, record.metric, record.minimize)
    standing = trial.standing(record.metric)
    return standing if standing is not None and math.isfinite(standing[0]) else None


def _pareto(points: list[tuple[float, float]]) -> list[bool]:
    """Whether no other point beats each point (smaller is better in both coordinates)."""
    on_front = [False] * len(points)
    best_first = math.inf
    # In order of cost, then metric, a point is on the front exactly if it is better than all before it.
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], points[i][0])):
        if points[index][0] < best_first:
            on_front[index], best_first = True, points[index][0]
    return on_front
