"""What a sweep has cost in dollars: each trial at the price of the GPUs that its size runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesweep.costs import dollars
from scalesweep.record import Record, Trial
from scalesweep.report.words import ladder_size
from scalesweep.spec import price_of


def price(record: Record, config: Mapping[str, Any]) -> float | None:
    """Dollars per GPU hour of a configuration's size; None without a price."""
    entry = ladder_size(config, record).get("entry", {})
    return price_of(record.manifest["spec"]["resources"].get("dollars_per_gpu_hour"), entry.get("accelerator_type"))


def start_price(record: Record) -> float | None:
    """The price at which workers that start are booked, as they belong to no trial: that of the first size."""
    return price(record, {"model_size": record.manifest["ladder"][0]["name"]})


def paid(record: Record, trial: Trial) -> float | None:
    """What a trial has cost so far."""
    return dollars(trial.gpu_seconds, price(record, trial.config))


def paid_in_all(record: Record) -> float | None:
    """What all trials have cost so far, and the start of their workers; None without prices."""
    starts = dollars(record.boot_gpu_seconds, start_price(record))
    return None if starts is None else starts + sum(paid(record, trial) or 0.0 for trial in record.trials.values())
