"""How fast each size trains on each GPU count, as its trials showed: what a sweep learns about scaling as it runs."""

from __future__ import annotations

from dataclasses import dataclass

from scalesweep.record.schema import Record, Trial


@dataclass(frozen=True)
class Throughput:
    """`tokens_per_second` of all workers together, in training steps alone. `efficiency` is that over `num_gpus` times the
    single worker's rate on the same size; None where no single worker has trained it."""

    model_size: str
    num_gpus: int
    tokens_per_second: float
    efficiency: float | None
    trials: int


def throughput(record: Record) -> list[Throughput]:
    """One row per (size, GPU count) that has trained the whole model, in the ladder's order.

    Only trials that train everything from the start are taken: what a step of the others computes depends on what is frozen
    at that moment, and on what other trials left in the node's cache.
    """
    trained: dict[tuple[str, int], list[Trial]] = {}
    for trial in record.by_number():
        if trial.last is not None and trial.last.train_seconds > 0 and trial.config.get("unfreezing") == "full":
            trained.setdefault((trial.config["model_size"], trial.config["num_gpus"]), []).append(trial)
    rates = {key: _rate(trials) for key, trials in trained.items()}
    order = [entry["name"] for entry in record.manifest["ladder"]]
    rows = []
    for size, gpus in sorted(rates, key=lambda key: (order.index(key[0]), key[1])):
        rate, single = rates[size, gpus], rates.get((size, 1))
        rows.append(Throughput(size, gpus, rate, rate / (gpus * single) if single else None, len(trained[size, gpus])))
    return rows


def _rate(trials: list[Trial]) -> float:
    reports = [trial.last for trial in trials if trial.last is not None]
    return sum(report.tokens for report in reports) / sum(report.train_seconds for report in reports)
