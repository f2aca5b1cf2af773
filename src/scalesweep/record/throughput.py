"""Measured training speed of each size on each GPU count, from the trials of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from scalesweep.record.schema import Record, Trial


@dataclass(frozen=True)
class Throughput:
    """The speed of a size on a GPU count. `tokens_per_second` counts all workers together, in training steps alone.
    `efficiency` is that rate ÷ (`num_gpus` × the rate of a single worker on the same size); None without a single-worker trial."""

    model_size: str
    num_gpus: float
    tokens_per_second: float
    efficiency: float | None
    trials: int


def throughput(record: Record) -> list[Throughput]:
    """One row per (size, GPU count) that has trained the whole model, in the ladder's order.

    Only trials that train everything from the start count. The work of other trials per step depends on the frozen groups
    at that moment and on the contents of the node's cache.
    """
    trained: dict[tuple[str, float], list[Trial]] = {}
    for trial in record.by_number():
        if (
            trial.last is not None
            and trial.last.train_seconds > 0
            and trial.config.get("unfreezing") == "full"
            and trial.config.get("adapter", "none") == "none"
        ):
            trained.setdefault((trial.config["model_size"], trial.num_gpus), []).append(trial)
    rates = {key: _rate(trials) for key, trials in trained.items()}
    order = {size.name: place for place, size in enumerate(record.manifest.ladder)}
    rows = []
    for size, gpus in sorted(rates, key=lambda key: (order.get(key[0], len(order)), key[1])):
        rate, single = rates[size, gpus], rates.get((size, 1))
        rows.append(Throughput(size, gpus, rate, rate / (gpus * single) if single else None, len(trained[size, gpus])))
    return rows


def _rate(trials: list[Trial]) -> float:
    reports = [trial.last for trial in trials if trial.last is not None]
    return sum(report.tokens for report in reports) / sum(report.train_seconds for report in reports)
