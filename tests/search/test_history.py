"""The history: values at the levels, interpolated between reports, and equal from a record and report by report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from scalesweep.record import Report, State, Trial
from scalesweep.search.encoding import Encoder
from scalesweep.search.history import STEPS, History, between_rungs
from sweeps import sweep

SPACE = {"model_size": {"values": ["L1", "L2"]}, "weight_decay": {"min": 0.0, "max": 0.2}}
SPEC = sweep(search_space={"parameters": SPACE})


def history(rungs: tuple[float, ...] = (4, 12, 36), max_t: float = 100) -> History:
    made = History(Encoder(SPEC), rungs, max_t)
    made.add("a", {"model_size": "L1", "weight_decay": 0.1})
    return made


def test_values_at_levels_lie_between_the_reports_around_them() -> None:
    made = history()
    made.report("a", 4, 3.0, 1.0)
    made.report("a", 24, 1.0, 6.0)
    made.report("a", 100, 0.5, 25.0)
    # On a straight line over the logarithm: by the two weights that log 12 has between log 4 and log 24.
    at12 = (math.log(24 / 12) * 3.0 + math.log(12 / 4) * 1.0) / math.log(24 / 4)
    at36 = float(np.interp(math.log(36), [math.log(24), math.log(100)], [1.0, 0.5]))
    assert made.seen["a"].values == pytest.approx([3.0, at12, at36, 0.5])
    assert (made.seen["a"].score, made.seen["a"].gpu_seconds) == (0.5, 25.0)


def test_a_first_report_beyond_several_levels_tells_of_the_last_alone() -> None:
    made = history()
    made.report("a", 40, 1.0, 1.0)
    assert made.seen["a"].values == [None, None, 1.0]
    assert made.judged == 1
    made.report("a", 100, 0.8, 1.0)
    assert made.seen["a"].values == [None, None, 1.0, 0.8]


def test_before_the_first_level_nothing_is_known() -> None:
    made = history()
    made.report("a", 2, 5.0, 1.0)
    assert (made.seen["a"].values, made.seen["a"].score, made.judged) == ([], math.inf, 0)
    made.report("a", 8, 3.0, 2.0)
    assert made.seen["a"].values == pytest.approx([4.0])  # 4 is half way from 2 to 8


@pytest.mark.parametrize("before", [[], [(4, 3.0)], [(2, 3.0)]])
def test_a_diverged_trial_is_the_worst_whenever_it_diverged(before: list[tuple[int, float]]) -> None:
    made = history()
    for fidelity, loss in before:
        made.report("a", fidelity, loss, 1.0)
    made.report("a", 6, math.nan, 1.0)
    trial = made.seen["a"]
    assert trial.score == math.inf
    assert len(trial.values) == 4
    assert math.isnan(trial.values[-1])
    assert made.judged == 1
    assert (trial.values[0] == 3.0) == (before == [(4, 3.0)])  # its earlier values stay


def test_a_sweep_without_rungs_has_levels_all_the_same() -> None:
    made = history((), 270)
    assert made.levels == pytest.approx([10, 30, 90, 270])
    assert history((4, 12, 36), 36).levels == [4, 12, 36]


def test_reports_between_rungs_count_too() -> None:
    """Half way to the next rung on a log scale, up to the end."""
    levels = between_rungs((4, 16, 64), 100)
    assert levels == pytest.approx([4, 8, 16, 32, 64, 80])
    assert levels[STEPS] == 16
    assert between_rungs((), 100) == between_rungs((100,), 100) == []
    made = history(tuple(levels))
    for fidelity, loss in ((4, 3.0), (16, 2.0), (33, 2.5)):
        made.report("a", fidelity, loss, 1.0)
    assert made.seen["a"].values[:3] == pytest.approx([3.0, 2.5, 2.0])
    assert made.seen["a"].score > 2.4, "a loss that rises after its last rung is seen"


def test_a_record_taken_in_is_what_its_reports_were() -> None:
    rng = np.random.default_rng(0)
    live, trials = history(), []
    live.seen.clear()
    for number in range(20):
        params: dict[str, Any] = {"model_size": ("L1", "L2")[number % 2], "weight_decay": number / 100}
        trials.append(Trial(number, f"t{number}", params, {}, 0.0))
        live.add(f"t{number}", params)
    order = 0
    for fidelity in (3, 7, 20, 60, 100):
        for trial in rng.permutation(np.array(trials, object)):
            if trial.state.ended or rng.random() < 0.2:
                continue
            accuracy = math.nan if rng.random() < 0.05 else float(rng.random())
            report = Report(fidelity, 0, 0, 0.0, 1.0, fidelity * 2.0, {"eval_accuracy": accuracy}, order=order)
            order += 1
            trial.reports.append(report)
            live.report(trial.name, fidelity, -accuracy, report.gpu_seconds)
            if math.isnan(accuracy) or rng.random() < 0.1:
                trial.state = State.PRUNED
                live.ended(trial.name, State.PRUNED)
    taken = History(Encoder(SPEC), (4, 12, 36), 100)
    taken.take(trials, "eval_accuracy", -1.0)
    assert str([(t.name, t.values, t.fidelity, t.last, t.gpu_seconds, t.state) for t in taken.seen.values()]) == str(
        [(t.name, t.values, t.fidelity, t.last, t.gpu_seconds, t.state) for t in live.seen.values()]
    )
    assert str(taken.snapshot) == str(live.snapshot)
    assert taken.judged == live.judged > 10
    assert len({trial.state for trial in trials}) == 2
