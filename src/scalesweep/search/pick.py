"""The pick: the trial that a sweep would promote now."""

from __future__ import annotations

from scalesweep.record import Record, Trial
from scalesweep.record.ranking import best
from scalesweep.search.scale_aware import ScaleAware
from scalesweep.spec import SweepSpec, rung_levels


def pick(record: Record, model: ScaleAware) -> Trial | None:
    """The pick by the models, if the sweep uses them and has enough trials; otherwise the first of the ranking.

    The models may pick a trial with the best expected final value before it has run to the end, because promotion trains it
    to the end anyway.
    """
    search = model.spec.search
    name = model.pick() if search.sampler == "scale_aware" else None
    return best(record) if name is None else record.trials[name]


def pick_of(record: Record, spec: SweepSpec) -> Trial | None:
    """The pick from a record alone, with models fitted to it."""
    if spec.search.sampler != "scale_aware":
        return best(record)
    model = ScaleAware(spec, record.n_params, rung_levels(spec))
    model.history.take(record.by_number(), record.metric, 1.0 if record.minimize else -1.0, record.past)
    return pick(record, model)
