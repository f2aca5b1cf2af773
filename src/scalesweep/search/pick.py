"""The pick: the trial that a sweep would promote now."""

from __future__ import annotations

from scalesweep.record import Record, Trial
from scalesweep.record.ranking import best
from scalesweep.search.outlook import Outlook
from scalesweep.spec import SweepSpec


def pick(record: Record, outlook: Outlook) -> Trial | None:
    """The trial with the best forecast where forecasts drive the sweep; otherwise the first of the ranking.

    It need not have run to the end, because promotion trains it to the end anyway.
    """
    spec = outlook.spec
    name = outlook.pick() if "forecast" in (spec.search.sampler, spec.early_terminate.survival) else None
    return best(record) if name is None else record.trials[name]


def pick_of(record: Record, spec: SweepSpec) -> Trial | None:
    """The pick from a record alone."""
    outlook = Outlook(spec, record.n_params)
    outlook.take(record.by_number(), record.past)
    return pick(record, outlook)
