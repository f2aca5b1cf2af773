"""The pick: the trial that a sweep would promote now."""

from __future__ import annotations

from scalesweep.record import Record, Trial
from scalesweep.record.ranking import best
from scalesweep.search.samplers import BaseSampler, make_sampler
from scalesweep.spec import SweepSpec


def pick(record: Record, sampler: BaseSampler) -> Trial | None:
    """The sampler's pick, if it has models and they know enough trials; otherwise the first of the ranking.

    The models may pick a trial with the best expected final value before it has run to the end, because promotion trains it
    to the end anyway.
    """
    name = sampler.pick()
    return best(record) if name is None else record.trials[name]


def pick_of(record: Record, spec: SweepSpec) -> Trial | None:
    """The pick from a record alone, with a sampler that has seen all of it."""
    sampler = make_sampler(spec, record.n_params)
    sampler.take(record.by_number(), record.past)
    return pick(record, sampler)
