"""The choice of a trial: among how many, by which rule, and how many can't be told apart from it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from scalesweep.record import Record, Trial
from scalesweep.record.ranking import order_of
from scalesweep.record.table import Ranking
from scalesweep.report import words

By = Literal["search", "user", "plan"]


def chosen(record: Record, trial: Trial, by: By) -> dict[str, Any]:
    """The choice, as it stands in `provenance.json`.

    Args:
        record: of the sweep, with forecasts where they drive it.
        by: who chose: the search, the user who named a trial, or a target file of `plan --from`.

    Returns:
        `by`; `trials`: configurations that the sweep tried; `states`: how many of them ended in each; `rule`: the order of the
        ranking in words; `rank`; `first`: the first trial; `ties`: the trials that can't be told apart from the first one, which
        may be the chosen one. None where the record lacks the numbers.
    """
    ranking = Ranking.of(record)
    rows = [row for row in ranking.rows if row.rank is not None]
    known = any(one.tied is not None for one in ranking.sure.values())
    return {
        "by": by,
        "trials": len(record.configurations()),
        "states": dict(Counter(str(one.state) for one in record.configurations())),
        "rule": words.order(order_of(record), record),
        "rank": next((row.rank for row in rows if row.trial.name == trial.name), None),
        "first": rows[0].trial.name if rows else None,
        "ties": [row.trial.name for row in rows if ranking.sure[row.trial.name].tied] if known else None,
    }
