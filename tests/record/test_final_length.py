"""The default length of a final run, from curves as sweeps have recorded them."""

from __future__ import annotations

from typing import Any

import pytest

from records import make_manifest
from scalesweep.record.final_length import final_length
from scalesweep.record.schema import Record, replay

ROWS = {"train": {"rows": 336}, "validation": {"rows": 42}, "test": {"rows": 42}}
FULL = 1.0993  # loss of guessing


def record_of(
    curve: list[tuple[float, float]], epochs: float | None, max_t: float = 30, time_attr: str = "steps", rows: Any = ROWS
) -> Record:
    """A sweep with one trial of this curve, (fidelity, eval_loss), and a later one that was pruned at its first report."""
    events: list[dict[str, Any]] = [{"event": "session", "time": 0.0, "resumed": False}]
    for number, points in enumerate((curve, curve[:1])):
        name = f"t{number:04}"
        events.append({"event": "trial", "time": 0.0, "trial": name, "number": number, "params": {}, "config": {}})
        events.append({"event": "start", "time": 0.0, "trial": name, "attempt": 1})
        for fidelity, loss in points:
            metrics = {"eval_loss": loss} | ({"epoch": epochs * fidelity / max_t} if epochs is not None else {})
            reached = {"fidelity": fidelity, "step": 1, "tokens": 1, "flops": 1.0, "wall_seconds": 1.0, "gpu_seconds": 1.0}
            decided = {"rungs": [1] if fidelity >= max_t else [], "action": "continue", "reason": None, "cutoff": None}
            events.append({"event": "report", "time": 0.0, "trial": name, "metrics": metrics, **reached, **decided})
    data = {"fingerprint": "", "splits": rows}
    manifest = make_manifest(
        max_t=max_t, time_attr=time_attr, data=data, baseline={"metrics": {"eval_loss": FULL}, "guess": ""}
    )
    return replay(manifest, events)


FALLING = [(10.0, 1.1018), (30.0, 0.8058)]  # 30 steps of 8 of 336 rows: 0.71 epochs


@pytest.mark.parametrize(
    ("curve", "more", "length", "says"),
    [
        (FALLING, {"epochs": 30 * 8 / 336}, 142, "still improving (eval_loss 1.102 → 0.8058)"),  # 3 epochs of 378 rows by 8
        (FALLING, {"epochs": 0.01}, 300, "still improving"),  # 3 epochs would be ten times as long and more
        (FALLING, {"epochs": 20.0}, 60, "still improving"),
        (FALLING, {"epochs": None}, 300, "still improving"),
        (FALLING, {"epochs": 1.0, "rows": {}}, 90, "still improving"),
        (FALLING, {"epochs": 1.0, "time_attr": "gpu_seconds"}, 101, "still improving"),
        ([(10, 1.0986), (30, 1.0987)], {"epochs": 1.0}, 102, "no better than guessing"),
        ([(30, 0.5)], {"epochs": 1.0}, 102, "judged at its end alone"),
        ([(10, 0.7), (20, 0.51), (30, 0.50)], {"epochs": 1.0}, 30, "had stopped improving"),
        ([(10, 0.7), (20, 0.5), (30, 0.6)], {"epochs": 1.0}, 30, "had stopped improving"),
        ([(10, 0.5), (20, 0.4)], {"epochs": 1.0}, 30, "no trial reached"),
        ([(10, 0.5), (30, float("nan"))], {"epochs": 1.0}, 30, "had stopped improving"),
    ],
)
def test_a_final_run_is_longer_where_short_trials_were_still_improving(
    curve: list[tuple[float, float]], more: dict[str, Any], length: float, says: str
) -> None:
    record = record_of(curve, **more)
    for name in ("t0000", "t0001"):  # one that was stopped early is measured by one that was not
        found = final_length(record, record.trials[name], ("train", "validation"))
        assert found.max_t == length
        assert says in found.reason
        assert found.short == (length != 30)


def test_a_final_run_without_validation_has_shorter_epochs() -> None:
    record = record_of(FALLING, 30 * 8 / 336)
    found = final_length(record, record.trials["t0000"], ("train",))
    assert found.max_t == 126
    assert found.epochs == pytest.approx(3.0)
