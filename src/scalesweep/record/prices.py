"""Costs of a sweep in dollars, from its record. Each trial counts at the price of the GPUs that its size runs on."""

from __future__ import annotations

from scalesweep.costs import bill, dollars
from scalesweep.record.schema import Record, Trial


def start_price(record: Record) -> float | None:
    """Return the price of the first size, if any. It applies to the start of workers, which belongs to no trial."""
    ladder = record.manifest.ladder
    return record.manifest.price(ladder[0].name) if ladder else None


def paid(record: Record, trial: Trial) -> float | None:
    """Return the cost of a trial so far, in dollars; None without a price."""
    return dollars(trial.gpu_seconds, record.manifest.price(str(trial.config.get("model_size"))))


def paid_in_all(record: Record) -> float | None:
    """Return the cost of all trials and of the start of their workers so far, in dollars; None without prices."""
    return bill(record.boot_gpu_seconds, start_price(record), record.trial_gpu_seconds, record.manifest.price)
