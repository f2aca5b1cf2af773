"""Confirmation: the leaders of an ended sweep compared on new seeds, before one of them is promoted.

The best value of many trials is too good, because it is partly luck. A new seed has no part in the choice, so the mean over new
seeds is fair. The seeds are given out in rounds: each contender gets one, all are trained to the end, and configurations that the
seeds tell apart from the first get no further one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scalesweep.errors import command, counted
from scalesweep.record import Record, State, Trial, best, rank
from scalesweep.record.seeds import seeds
from scalesweep.record.uncertainty import certainty
from scalesweep.search import repeats

MOST = 3  # configurations by default
SEEDS = 2  # new seeds of each by default
SHARE = 0.1  # of the GPU seconds spent that all repeats may take by default


@dataclass(frozen=True)
class Plan:
    """The trials to train again on new seeds, none if nothing is to be confirmed, and a line for the user; empty if there is
    nothing to say."""

    trials: Sequence[str]
    seeds: int
    text: str


def candidates(record: Record, known: bool = False) -> list[str]:
    """The first trial of the sweep that ran to the end, and those that can't be told apart from it, best first.

    Where repeats have shown the noise of seeds, that decides. Elsewhere the noise of the validation rows does, and with `known`
    a trial without it is left out.
    """
    record = record.before_confirmation()
    ranking = [row for row in rank(record) if row.rank is not None]
    start = next((place for place, row in enumerate(ranking) if row.trial.state is State.COMPLETE), len(ranking))
    rows = [row for row in ranking[start:] if row.trial.state is State.COMPLETE]
    sure, of_seeds = certainty(record, ranking[start:]), seeds(record)

    def tied(name: str, metric: float) -> bool:
        if of_seeds.sd is not None:
            return not repeats.told_apart(of_seeds, (rows[0].trial.name, rows[0].metric or 0.0), (name, metric))
        return bool(sure[name].tied) if known else sure[name].tied is not False

    return [row.trial.name for row in rows if row is rows[0] or (row.metric is not None and tied(row.trial.name, row.metric))]


def plan(record: Record, most: int | None, each: int) -> Plan:
    """The confirmation to make of an ended sweep, or to continue.

    Args:
        most: the number of configurations, at most. None for the default: at most `MOST`, if their cost is low.
        each: new seeds of each.
    """
    begun = record.confirmation
    if begun is not None and begun.ended and most is None:
        return Plan((), each, "")
    if begun is not None and most is None:
        return Plan(begun.trials, begun.seeds, _begins(record, begun.trials, begun.seeds))
    if most is None and (first := best(record)) is not None and first.state is not State.COMPLETE:
        return Plan(
            (),
            each,
            f"not confirmed: {first.name}, the search's choice, did not run to the end; --confirm compares those that did",
        )
    found = candidates(record, known=most is None)
    chosen = found[: most or MOST]
    if begun is not None and begun.ended and set(chosen) <= set(begun.trials) and each <= begun.seeds:
        return Plan((), each, "")
    if len(chosen) < 2:
        alone = f"{chosen[0]} alone" if chosen else "no trial"
        full = sum(trial.state is State.COMPLETE for trial in record.configurations())
        why = f"every other full trial can be told apart from {chosen[0]}" if full > 1 else f"{alone} ran to the end"
        return Plan((), each, "" if most is None else f"nothing to confirm: {why}")
    seconds = cost(record, chosen, each)
    if most is None and repeats.spent(record) + seconds > SHARE * record.gpu_seconds:
        share = f" ({seconds / record.gpu_seconds:.0%} of the sweep's)" if record.gpu_seconds else ""
        asked = command("promote", record.folder, "--confirm", len(chosen), "--seeds", each)
        return Plan(
            (),
            each,
            f"not confirmed: {counted(len(found) - 1, 'whole trial')} can't be told apart from {found[0]} by the "
            f"noise of {'seeds' if seeds(record).sd is not None else 'the validation rows'}; training "
            f"{len(chosen)} of them on {each} new seeds takes about {seconds:,.0f} GPU s{share}: {asked}",
        )
    return Plan(chosen, each, _begins(record, chosen, each))


def _begins(record: Record, names: Sequence[str], each: int) -> str:
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"confirming {listed} on {counted(each, 'new seed')} each: at most about {cost(record, names, each):,.0f} GPU s"


def cost(record: Record, names: Sequence[str], each: int) -> float:
    """The GPU seconds of a confirmation that are still to be spent, at most."""
    again = _begun(record, names)
    return math.fsum(record.trials[name].gpu_seconds * max(each - len(again[name]), 0) for name in names)


def planned(record: Record) -> list[str]:
    """The trials of the confirmation that get their next seed now, in order. Empty while a round lasts, and at the end."""
    told = record.confirmation
    assert told is not None
    again = _begun(record, told.trials)
    left = contenders(record) if all(again.values()) else told.trials
    turn = min((len(again[name]) for name in left), default=told.seeds)
    lasts = any(not trial.state.ended for trials in again.values() for trial in trials[:turn])
    if lasts or turn >= told.seeds or len(left) < 2:
        return []
    return [name for name in left if len(again[name]) == turn]


def contenders(record: Record) -> list[str]:
    """The trials of the confirmation that the seeds don't tell apart from its first, best first, without diverged ones."""
    known, told = seeds(record), record.confirmation
    rows = [
        (row.trial.name, row.metric)
        for row in rank(record)
        if told is not None
        and row.trial.name in told.trials
        and row.metric is not None
        and math.isfinite(known.mean(row.trial.name, row.metric))
    ]
    return [row[0] for row in rows if row is rows[0] or not repeats.told_apart(known, rows[0], row)]


def _begun(record: Record, names: Sequence[str]) -> dict[str, list[Trial]]:
    """The new repeats of each trial, in order."""
    since = len(record.trials) if record.confirmation is None else record.confirmation.since
    new = [trial for trial in record.by_number() if trial.number >= since]
    return {name: [trial for trial in new if trial.repeat_of == name] for name in names}
