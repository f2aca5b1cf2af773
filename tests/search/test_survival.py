"""Our plain ASHA against Ray's own scheduler, on the same streams of reports."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from scalesweep.search.survival import Rungs, judge, rung_count
from scalesweep.spec import rung_levels
from sweeps import sweep

STREAMS = 1200


def random_stream(rng: np.random.Generator) -> tuple[dict[str, float], list[tuple[str, int, float]]]:
    """Settings, and interleaved reports of several trials with jumps over rungs, ties and late starters."""
    settings = {
        "grace_period": int(rng.integers(1, 60)),
        "reduction_factor": float(rng.choice([2, 3, 4, 2.5, 1.7])),
    }
    settings["max_t"] = int(settings["grace_period"] * rng.integers(1, 40))
    position: dict[str, int] = {}
    stream = []
    for _ in range(int(rng.integers(5, 80))):
        trial = f"t{rng.integers(0, 12)}"
        position[trial] = position.get(trial, 0) + int(rng.integers(1, max(2, settings["max_t"] // 3)))
        stream.append((trial, position[trial], float(np.round(rng.normal(), int(rng.integers(0, 4))))))
    return settings, stream


@pytest.mark.parametrize("mode", ["max", "min"])
def test_decides_as_ray_does_on_random_streams(mode: str) -> None:
    rng = np.random.default_rng(7 if mode == "max" else 8)
    stops = 0
    for number in range(STREAMS // 2):
        settings, stream = random_stream(rng)
        spec = sweep(early_terminate={"type": "asha", "time_attr": "steps", **settings})
        ours = Rungs(rung_levels(spec), settings["reduction_factor"], settings["max_t"])
        theirs = ASHAScheduler(time_attr="steps", metric="value", mode=mode, **settings)
        trials: dict[str, SimpleNamespace] = {}
        ended: set[str] = set()
        for name, steps, value in stream:
            if name in ended:
                continue
            if name not in trials:
                trials[name] = SimpleNamespace(trial_id=name)
                theirs.on_trial_add(None, trials[name])
            expected = theirs.on_trial_result(None, trials[name], {"steps": steps, "value": value})
            verdict = ours.report(name, steps, value if mode == "max" else -value)
            assert ("CONTINUE" if verdict.action == "continue" else "STOP") == expected, (number, settings, name, steps)
            if verdict.action != "continue":
                ended.add(name)
                stops += verdict.action == "stop"
    assert stops > STREAMS / 4, "the streams are too easy to tell two rules apart"


def test_a_verdict_is_a_function_of_what_was_recorded() -> None:
    recorded = [{"a": 1.0, "b": 2.0, "c": 3.0}, {}]
    verdict = judge([10, 30], recorded, 3, 90, "d", 12, 1.5)
    assert verdict == judge([10, 30], recorded, 3, 90, "d", 12, 1.5)
    assert (verdict.action, verdict.rung) == ("stop", 1)
    assert verdict.cutoff == pytest.approx(np.percentile([1, 2, 3], 200 / 3))
    assert recorded == [{"a": 1.0, "b": 2.0, "c": 3.0}, {}]


def test_the_end_is_the_last_rung() -> None:
    assert rung_count([40, 120, 360], 360) == 3
    assert rung_count([40, 120], 300) == 3
    assert judge([40, 120], [{}, {}], 3, 300, "a", 300, 0.0).rung == 3
    assert judge([], [], 3, 50, "a", 50, 0.0).action == "complete"
