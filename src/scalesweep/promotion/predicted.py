"""The value that was predicted for a final run, beside the one that it reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scalesweep.record import Record, State, Trial
from scalesweep.record.confirmed import confirmed
from scalesweep.record.seeds import seeds
from scalesweep.record.uncertainty import errors_of, quantile
from scalesweep.report import words

MANY = 1000  # draws: the errors are taken as known


def predicted(
    record: Record,
    trial: Trial,
    reached: float,
    test_error: float | None,
    target: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The prediction for a final run, as it stands in `provenance.json`.

    The prediction of a trial is for the sweep's length and the validation rows. Its interval covers the value on the test rows: it
    has the error of the prediction, and those of both samples of rows.

    Args:
        record: of the sweep, with forecasts where they drive it.
        trial: the promoted one.
        reached: the final model's value on the test split.
        test_error: its standard error; None if unknown.
        target: what a target file says was predicted.

    Returns:
        `metric`, `value`, `low` and `high` (None: no limit is known) of the `level`, the `rows` that they are about, `source`,
        `reached` and `inside`; or only `reason`, where nothing was predicted.
    """
    metric = record.metric
    if target is not None:
        if not isinstance(target.get("value"), int | float) or target.get("metric") != metric:
            return {"reason": f"the target file predicts no {metric}"}
        low, high = target.get("low"), target.get("high")
        told = _told(metric, float(target["value"]), low, high, "the plan", reached)
        return {**told, "level": "90 %", "rows": "the validation rows of the sweeps"}
    known, at = seeds(record), words.amount(record.manifest.max_t, record.manifest.time_attr)
    again = next((one for one in confirmed(record) if one.trial == trial.name and one.value is not None), None)
    if again is not None and again.value is not None:
        value, sd = again.value, (known.sd or 0.0) * math.sqrt(1 + 1 / len(again.values))
        source = f"the mean of {trial.name}'s new seeds at {at}"
    elif trial.state is State.COMPLETE and (standing := trial.standing(metric)) is not None:
        count = known.count(trial.name)
        value, sd = known.mean(trial.name, standing[0]), (known.sd or 0.0) * math.sqrt(1 + 1 / count)
        source = f"{trial.name}'s own value at {at}" if count == 1 else f"the mean of {trial.name}'s {count} seeds at {at}"
    elif record.expected is not None and trial.name in record.expected:
        value, sd = record.expected[trial.name]
        source = f"the forecast of {trial.name} at {at}"
    else:
        return {"reason": f"{trial.name} did not run to the end of the sweep, and no forecast drives this sweep"}
    own = errors_of(record, trial).get(metric)
    if own is None or test_error is None:
        return _told(metric, value, None, None, source, reached)
    half = quantile(MANY) * math.hypot(sd, own, test_error)
    return _told(metric, value, value - half, value + half, source, reached)


def _told(metric: str, value: float, low: float | None, high: float | None, source: str, reached: float) -> dict[str, Any]:
    unknown = low is None and high is None
    return {
        **{"metric": metric, "value": value, "low": low, "high": high, "source": source, "reached": reached},
        **{"level": "95 %", "rows": "the test rows"},
        "inside": None if unknown else (low is None or low <= reached) and (high is None or reached <= high),
    }
