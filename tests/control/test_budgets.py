"""The conductor's budgets: of one trial, of the sweep, and what is left for the next trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from conducting import ONE_SIZE, RATE, Clock, conductor, pause_three, report, start, waiting_sweep
from scalesweep.record import State, read_record
from sweeps import sweep


@pytest.mark.parametrize(
    ("budget", "spent"),
    [({"time": 60.0}, "time"), ({"gpu_hours": 60 / 3600}, "gpu_hours"), ({"dollars": 60.0}, "dollars")],
)
def test_a_spent_budget_stops_trials_at_their_next_report(budget: dict[str, Any], spent: str, tmp_path: Path) -> None:
    clock = Clock()
    one_gpu = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "learning_rate": RATE}}
    spec = sweep(budget=budget, search_space=one_gpu, resources={"dollars_per_gpu_hour": 3600.0})
    made = conductor(tmp_path, spec, 1, clock)
    name = start(made)
    clock.now += 40
    assert report(made, name, 4, 0.5)
    clock.now += 40
    assert made.no_more_trials()
    assert not report(made, name, 8, 0.4)
    assert made.record.trials[name].stop_reason == f"budget: {spent}"
    assert made.finished()
    made.end_sweep()
    assert made.record.ended_reason == f"budget: {spent}"


def test_trials_that_fail_before_any_report_cost_what_they_held(tmp_path: Path) -> None:
    clock = Clock()
    spec = sweep(
        budget={"gpu_hours": 1.0},
        search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"value": 2}, "learning_rate": RATE}},
    )
    made = conductor(tmp_path, spec, 2, clock)
    for _ in range(2):
        name = start(made)
        clock.now += 600
        made.died(name)
        assert start(made) == name
        clock.now += 300
        made.failed(name, "no such luck")
    assert made.record.gpu_seconds == pytest.approx(2 * 900 * 2)
    assert made.exhausted() == "gpu_hours"
    assert made.no_more_trials()
    assert read_record(tmp_path / "run").gpu_seconds == pytest.approx(3600)


def test_a_trial_stops_before_it_takes_more_than_its_cap(tmp_path: Path) -> None:
    clock = Clock()
    spec = sweep(
        search_space=ONE_SIZE,
        budget={"run_cap": 3, "trial_gpu_hours": 100 / 3600},
        early_terminate={"type": "none", "max_t": 12},
    )
    made = conductor(tmp_path, spec, 1, clock)
    name = start(made)
    clock.now += 40
    assert report(made, name, 3, 0.5)
    clock.now += 30
    assert report(made, name, 6, 0.5), "70 s, and 30 more are 100"
    clock.now += 20
    assert not report(made, name, 9, 0.5), "90 s, and 20 more are too many"
    assert (made.record.trials[name].state, made.record.trials[name].stop_reason) == (State.PRUNED, "budget: trial_gpu_hours")
    assert not made.finished()


def test_what_is_left_is_told_to_the_proposer_and_none_ends_the_sweep(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, sweep(search_space=ONE_SIZE, budget={"gpu_hours": 1000 / 3600}), 2, clock)
    told = []
    propose = made.proposer.propose

    def asked(number: int, name: str, num_gpus: Any = None, *, left: float, **more: Any) -> Any:
        told.append(left)
        return None if left < 900 else propose(number, name, num_gpus, left=left, **more)

    made.proposer.propose = asked  # type: ignore[method-assign]
    name = start(made)
    assert told == [1000]
    clock.now += 20
    assert report(made, name, 4, 0.5)
    assert start(made)  # 20 s are spent, and 40 more to the end (its next rung) are expected
    assert told[1:] == [pytest.approx(1000 - 20 - 40)]
    clock.now += 200
    assert made.next_trial() is None
    assert told[-1] < 900
    assert not made.out_of_choices, "running trials may take less than expected"
    for running in list(made.running):
        report(made, running, 12, 0.4)
    assert made.next_trial() is None
    assert made.finished()
    made.end_sweep()
    assert made.record.ended_reason == "nothing that fits the budget is left to try"


def test_what_is_left_of_a_budget_goes_to_the_best_that_wait(tmp_path: Path) -> None:
    """Nothing new fits: without a budget to spend one trial goes to the end, with one also the next."""
    for budget, whole in (({"run_cap": 50}, 1), ({"gpu_hours": 1.0}, 3)):
        clock = Clock()
        made = conductor(tmp_path / str(whole), waiting_sweep(budget=budget), 1, clock)
        pause_three(made, clock)
        made.proposer.propose = lambda *asked, **more: None  # type: ignore[method-assign] # noqa: ARG005
        order = []
        while (trial := made.next_trial()) is not None:
            order.append(trial.name)
            clock.now += 10
            report(made, trial.name, 12 if trial.last.fidelity == 4 else 36, 0.3)
        assert made.out_of_choices
        assert made.finished()
        assert sum(trial.state is State.COMPLETE for trial in made.record.trials.values()) == whole
        assert order[0] == "t0001", "the best first"


def test_the_cap_of_a_trial_and_dollars_bound_what_is_left(tmp_path: Path) -> None:
    clock = Clock()
    prices = {"dollars_per_gpu_hour": 3600.0}
    made = conductor(tmp_path, sweep(budget={"dollars": 500.0, "trial_gpu_hours": 1.0}, resources=prices), 2, clock)
    assert made.left_gpu_seconds() == pytest.approx(500)
    other = conductor(tmp_path / "other", sweep(budget={"run_cap": 3, "trial_gpu_hours": 0.01}), 2, clock)
    assert other.left_gpu_seconds() == pytest.approx(36)
    third = conductor(tmp_path / "third", sweep(), 2, clock)
    assert third.left_gpu_seconds() == math.inf


def test_a_small_space_ends_the_sweep_once_all_of_it_was_tried(tmp_path: Path) -> None:
    spec = sweep(search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}}}, budget={"run_cap": 12})
    made = conductor(tmp_path, spec, slots=2)
    for name in [start(made), start(made)]:
        assert made.next_trial() is None
        assert not made.finished()
        report(made, name, 12, 0.4)
    assert made.next_trial() is None
    assert made.finished()
    made.end_sweep()
    assert made.record.ended_reason == "every configuration of the search space was tried"
    assert [trial.params["model_size"] for trial in made.record.by_number()] in (["L1", "L2"], ["L2", "L1"])
