"""Suggestions of what to try after a sweep, each from its record and with the numbers that support it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalesweep.record import Record, Trial
from scalesweep.record.curves import levels, values_at
from scalesweep.record.flips import rung_correlations
from scalesweep.report import words
from scalesweep.report.axes import TRIALS_NEEDED, Axis, Effect
from scalesweep.report.findings import worth_promoting
from scalesweep.spec.space import PARAMETERS

MOST = 3  # suggestions
EDGE = 0.1  # share of a range
LEAST_GAIN = 0.01  # share of the metric's value; less is no improvement
LEADERS = 3  # trials whose last improvement is judged
LARGE_TIE = 5  # trials; as many that can't be told apart call for more validation examples
POOR_RUNG = 0.5  # rank correlation with the end


def suggestions(
    record: Record,
    leaders: Sequence[Trial],
    error: float | None,
    axes: Sequence[Axis],
    found: Sequence[Effect],
    untried: Mapping[str, Any],
) -> list[str]:
    """The first suggestions that the record supports, the most important first.

    Args:
        leaders: the best trial, then those that can't be told apart from it.
        error: the standard error of the best trial's metric, if it is known.
        untried: the facts of the finding `untried`.
    """
    every = [
        *_poor(record),
        *_edges(leaders[0], axes, found),
        *_unfinished(record, leaders[:LEADERS], error or 0.0),
        *_vague(record),
        *_many(leaders),
        *_unseen(leaders[0], found, untried),
        *_few(record, axes, found),
    ]
    return every[:MOST]


def _poor(record: Record) -> Iterator[str]:
    if not worth_promoting(record):
        yield "Change learning_rate or the data: no trial beats guessing and the untrained model."


def _edges(trial: Trial, axes: Sequence[Axis], found: Sequence[Effect]) -> Iterator[str]:
    """Ranges at whose end the best trial is, where the axis matters and the better values are on the same side."""
    effect_of = {effect.axis: effect for effect in found}
    for axis in axes:
        value, effect, info = axis.of(trial), effect_of.get(axis.name), PARAMETERS.get(axis.name)
        if not axis.ordered or value is None or (not effect.matters if effect else axis.name != "learning_rate"):
            continue
        place = axis.place(value)
        upper = place > 0.5
        end, limit = (axis.high, info.high if info else None) if upper else (axis.low, info.low if info else None)
        near = value == end if axis.listed else min(place, 1 - place) <= EDGE
        if near and end != limit and (effect is None or (axis.place(effect.better) > 0.5) == upper):
            scale = " on a log scale" if axis.log else ""
            yield (
                f"Widen {axis.name} {'upwards' if upper else 'downwards'}: {axis.shown(value)} of {trial.name} is within "
                f"{EDGE:.0%} of the {'upper' if upper else 'lower'} end {axis.shown(end)} of its range{scale}."
            )


def _unfinished(record: Record, trials: Sequence[Trial], error: float) -> Iterator[str]:
    """Leading trials that still improved between the last two rungs."""
    rungs, sign = levels(record.manifest), 1.0 if record.minimize else -1.0
    curves = [values for trial in trials if len(values := values_at(trial.reports, record.metric, rungs)) == len(rungs) > 1]
    if not curves:
        return
    gain = sum(sign * (values[-2] - values[-1]) for values in curves) / len(curves)
    if gain > max(LEAST_GAIN * abs(curves[0][-1]), error):
        who = f"the {len(curves)} leading trials" if len(curves) > 1 else "the best trial"
        before, end = (words.amount(rung, record.manifest.time_attr) for rung in rungs[-2:])
        yield f"Raise early_terminate.max_t: {record.metric} of {who} still improved by {gain:.3g} from {before} to {end}."


def _vague(record: Record) -> Iterator[str]:
    """The last rung whose order says little of the end; an earlier one is then no better."""
    for one in reversed(rung_correlations(record)):
        if one.high < POOR_RUNG:
            at = words.amount(one.fidelity, record.manifest.time_attr)
            yield (
                f"Raise early_terminate.grace_period above {at}: the order at rung {one.rung} says little of the end (rank "
                f"correlation {one.value:.2f}, at most {one.high:.2f})."
            )
            return


def _many(leaders: Sequence[Trial]) -> Iterator[str]:
    if len(leaders) >= LARGE_TIE:
        yield (
            f"Use more validation examples, or train the leaders again with other seeds: {len(leaders)} trials can't be told "
            "apart."
        )


def _unseen(trial: Trial, found: Sequence[Effect], untried: Mapping[str, Any]) -> Iterator[str]:
    """Regions without a trial near the best one: its size with another method, or values of an axis that matters."""
    size = str(trial.config.get("model_size"))
    methods = [method for other, method in untried["combinations"] if other == size]
    if methods:
        yield f"Try {size}, the size of {trial.name}, with {words.several(methods)}: no trial did."
    mattered = {effect.axis for effect in found if effect.matters}
    for name, some in untried["passed_rung_1_of_tried"].items():
        never = [value for value, (_, tried) in some.items() if not tried]
        if never and name in mattered:
            yield f"Try {name} {words.several(never)}: no trial did."


def _few(record: Record, axes: Sequence[Axis], found: Sequence[Effect]) -> Iterator[str]:
    if axes and not found and len(record.trials) < TRIALS_NEEDED:
        yield f"Raise budget.run_cap to at least {TRIALS_NEEDED} trials, from which on the axes can be ranked."
