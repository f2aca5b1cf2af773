"""Costs of a sweep in dollars. Each trial counts at the price of the GPUs that its size runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesweep.costs import dollars
from scalesweep.record import Record, Trial
from scalesweep.report.words import ladder_size
from scalesweep.spec import price_of


def price(record: Record, config: Mapping[str, Any]) -> float | None:
    """Return the dollars per GPU hour of a configuration's size; None without a price."""
    entry = ladder_size(config, record).get("entry", {})
    return price_of(record.manifest["spec"]["resources"].get("dollars_per_gpu_hour"), entry.get("accelerator_type"))


def start_price(record: Record) -> float | None:
    """Return the price of the first size. It applies to the start of workers, which belongs to no trial."""
    return price(record, {"model_size": record.manifest["ladder"][0]["name"]})


def paid(record: Record, trial: Trial) -> float | None:
    """Return the cost of a trial so far, in dollars; None without a price."""
    return dollars(trial.gpu_seconds, price(record, trial.config))


def paid_in_all(record: Record) -> float | None:
    """Return the cost of all trials and of the start of their workers so far, in dollars; None without prices."""
    starts = dollars(record.boot_gpu_seconds, start_price(record))
    return None if starts is None else starts + sum(paid(record, trial) or 0.0 for trial in record.trials.values())
