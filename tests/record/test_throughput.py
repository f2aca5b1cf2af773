"""Training speed and scaling efficiency, computed from the record."""

from __future__ import annotations

from typing import Any

import pytest

from records import make_events, make_manifest, make_record
from scalesweep.record.schema import replay
from scalesweep.record.throughput import throughput


def events(trials: list[tuple[str, int, str, int, float]]) -> list[dict[str, Any]]:
    """A trial each: size, GPUs, mode, tokens, seconds of training."""
    found: list[dict[str, Any]] = [{"event": "session", "time": 0.0}]
    for number, (size, gpus, mode, tokens, seconds) in enumerate(trials):
        name, config = f"t{number}", {"model_size": size, "num_gpus": gpus, "unfreezing": mode}
        found.append({"event": "trial", "time": 1.0, "trial": name, "number": number, "params": {}, "config": config})
        counts = {"fidelity": 1, "step": 1, "tokens": tokens, "flops": 0.0, "wall_seconds": 9.0, "gpu_seconds": 9.0}
        decision = {"metrics": {"eval_loss": 1.0}, "rungs": [], "action": "continue", "cutoff": None}
        found.append({"event": "report", "time": 2.0, "trial": name, **counts, **decision, "train_seconds": seconds})
    return found


def test_efficiency_is_the_rate_over_that_of_as_many_single_workers() -> None:
    record = replay(
        make_manifest(),
        events([
            ("L6", 1, "full", 1000, 10.0),
            ("L6", 1, "full", 3000, 30.0),  # 100 tokens per second together
            ("L6", 2, "full", 3000, 20.0),  # 150, of 200 at best
            ("L4", 4, "full", 800, 1.0),  # no single worker to compare with
            ("L6", 2, "head", 10**6, 1.0),  # uses the cache
            ("L1", 1, "full", 0, 0.0),  # has not trained yet
        ]),
    )  # fmt: skip
    rows = [(row.model_size, row.num_gpus, row.tokens_per_second, row.efficiency, row.trials) for row in throughput(record)]
    assert rows == [("L4", 4, 800.0, None, 1), ("L6", 1, 100.0, 1.0, 2), ("L6", 2, 150.0, pytest.approx(0.75), 1)]


def test_a_record_without_training_times_has_no_rows() -> None:
    assert throughput(make_record(make_events())) == []
