"""How fast each size trains on each GPU count, as its trials showed: what a sweep learns about scaling as it runs."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from scalesweep.record.schema import Record


@dataclass(frozen=True)
class Throughput:
    """`tokens_per_second` of all workers together, in training steps alone. `efficiency` is that over `num_gpus` times the
    single worker's rate on the same size and way of unfreezing; None where no single worker has trained it."""

    model_size: str
    num_gpus: int
    tokens_per_second: float
    efficiency: float | None
    trials: int


def throughput(record: Record) -> list[Throughput]:
    """One row per (size, GPU count) that has trained, in the ladder's order.

    How much a step computes depends on what is frozen, so trials are compared within a way of unfreezing; over several of
    those, the efficiency is the geometric mean, weighted by training time.
    """
    tokens: dict[tuple[str, int, str], int] = defaultdict(int)
    seconds: dict[tuple[str, int, str], float] = defaultdict(float)
    trials: dict[tuple[str, int], int] = defaultdict(int)
    for trial in record.trials.values():
        if trial.last is None or trial.last.train_seconds <= 0:
            continue
        size, gpus, mode = (trial.config.get(name) for name in ("model_size", "num_gpus", "unfreezing"))
        key = (str(size), int(gpus or 1), str(mode))
        tokens[key] += trial.last.tokens
        seconds[key] += trial.last.train_seconds
        trials[key[:2]] += 1
    order = [entry["name"] for entry in record.manifest["ladder"]]
    rows = []
    for size, gpus in sorted(trials, key=lambda key: (order.index(key[0]), key[1])):
        same = [key for key in tokens if key[:2] == (size, gpus)]
        compared = [(key, (size, 1, key[2])) for key in same if (size, 1, key[2]) in tokens]
        logs = [
            (seconds[key], math.log(tokens[key] / seconds[key] / (gpus * tokens[single] / seconds[single])))
            for key, single in compared
        ]
        weight = sum(time for time, _ in logs)
        mean = math.exp(sum(time * log for time, log in logs) / weight) if logs else None
        rate = sum(tokens[key] for key in same) / sum(seconds[key] for key in same)
        rows.append(Throughput(size, gpus, rate, mean, trials[size, gpus]))
    return rows
