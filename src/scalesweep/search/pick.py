"""The forecasts of a record's trials, by which they are ranked and one is promoted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scalesweep.record import Record, Trial
from scalesweep.record.ranking import best

if TYPE_CHECKING:
    from scalesweep.search.outlook import Outlook


def expected(outlook: Outlook) -> dict[str, tuple[float, float]] | None:
    """`Record.expected`, from an outlook."""
    search, early = outlook.spec.search, outlook.spec.early_terminate
    if "forecast" not in (search.sampler, early.survival):
        return None
    sign = outlook.spec.loss_sign
    return {name: (sign * one.mean, one.sd) for name, one in outlook.expected().items() if math.isfinite(one.mean)}


def with_forecasts(record: Record) -> Record:
    """The record, with its forecasts where they drive the sweep."""
    spec = record.manifest.spec
    if "forecast" in (spec.get("search", {}).get("sampler"), spec.get("early_terminate", {}).get("survival")):
        from scalesweep.search.outlook import Outlook  # numpy, which a record without forecasts needs not
        from scalesweep.spec import sweep_from_dict

        outlook = Outlook(sweep_from_dict(spec), record.n_params)
        outlook.take(record.by_number(), record.past)
        record.expected = expected(outlook)
    return record


def pick(record: Record, outlook: Outlook) -> Trial | None:
    """The trial that a sweep would promote now: the first of the ranking; None if no trial is ranked.

    It need not have run to the end, because promotion trains it to the end anyway.
    """
    record.expected = expected(outlook)
    return best(record)
