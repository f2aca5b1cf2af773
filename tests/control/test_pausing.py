"""The conductor with trials that wait at rungs, with an artificial clock and cluster."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from conducting import Clock, conductor, pause_three, report, start, waiting_sweep
from scalesweep.record import State, read_record


def test_a_paused_trial_waits_without_workers_and_is_not_paid_for(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(), 1, clock)
    names = pause_three(made, clock)
    assert not made.pool.holders
    assert not made.finished(), "the cap on trials is reached, but one of them may continue"
    record = made.record
    assert [(t.state, t.paused, t.stop_reason, t.last.action) for t in record.by_number()] == [
        (State.RUNNING, True, None, "pause")
    ] * 3
    clock.now += 1000
    assert start(made) == names[1]
    assert not record.trials[names[1]].paused
    assert report(made, names[1], 4, 0.4), "its checkpoint's report comes again"
    clock.now += 20
    assert not report(made, names[1], 12, 0.3)
    trial = record.trials[names[1]]
    assert (trial.gpu_seconds, trial.wall_seconds, trial.attempts, len(trial.reports)) == (30, 30, 2, 2)
    # One trial at rung 2 makes no third, but no other trial will come, and none has run to the end.
    assert not made.finished()
    assert start(made) == names[1]
    assert not report(made, names[1], 36, 0.2)
    assert made.finished()
    made.end_sweep()
    ended = read_record(tmp_path / "run")
    states = [(t.state, t.stop_reason, t.paused) for t in ended.by_number()]
    assert states == [(State.PRUNED, "rung", False), (State.COMPLETE, "max_t", False), (State.PRUNED, "rung", False)]
    assert ended.ended_reason == "budget: run_cap"
    study = made.proposer.study.trials
    assert [(t.state.name, t.value) for t in study] == [("PRUNED", 0.5), ("COMPLETE", 0.2), ("PRUNED", 0.6)]


def test_a_resumed_sweep_leaves_paused_what_was_paused(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(), 1, clock)
    names = pause_three(made, clock)
    made.writer.close()
    again = conductor(tmp_path, waiting_sweep(), 1, clock, resume=True)
    assert (again.unfinished, list(again.paused), again.rungs.recorded) == ([], names, made.rungs.recorded)
    assert start(again) == names[1]
    again.writer.close()
    # Killed while the promoted trial ran: that trial has passed its rung and continues first.
    third = conductor(tmp_path, waiting_sweep(), 1, clock, resume=True)
    assert ([trial.name for trial in third.unfinished], list(third.paused)) == ([names[1]], [names[0], names[2]])
    assert start(third) == names[1]
    third.died(names[1])
    third.died(names[0])  # the process that a paused trial had kept: nothing of its own
    assert start(third) == names[1]
    assert third.record.trials[names[1]].state is State.RUNNING
    assert third.deaths == {names[1]: 1}


def test_a_promotion_comes_before_a_new_trial_and_keeps_to_max_concurrent_trials(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(budget={"run_cap": 9}, resources={"max_concurrent_trials": 2}), 4, clock)
    first = [start(made), start(made)]
    assert made.next_trial() is None
    for name, loss in zip(first, (0.5, 0.4), strict=True):
        report(made, name, 4, loss)
    third = start(made)  # two at the rung: none continues yet
    assert third not in first
    fourth = start(made)
    assert made.next_trial() is None
    report(made, third, 4, 0.6)
    kept = list(made.waiting)  # it was made ready before the rung had three
    while (trial := made.next_trial()) is not None:
        kept.append(trial.name)
    report(made, fourth, 4, 0.7)
    if first[1] not in kept:
        assert start(made) == first[1]
    assert len(made.running) <= 2


def test_a_spent_budget_ends_what_waits_as_stopped_at_its_rung(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(budget={"time": 25.0}), 1, clock)
    name = start(made)
    clock.now += 10
    report(made, name, 4, 0.5)
    other = start(made)
    clock.now += 20
    assert not report(made, other, 2, 0.5)
    assert made.finished()
    made.end_sweep()
    assert [(t.state, t.stop_reason) for t in made.record.by_number()] == [
        (State.PRUNED, "rung"),
        (State.PRUNED, "budget: time"),
    ]


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
@pytest.mark.parametrize("survival", ["metric", "pareto", "by_size"])
def test_every_rule_in_every_bracket_comes_to_an_end_and_resumes_alike(variant: str, survival: str, tmp_path: Path) -> None:
    clock = Clock()
    early = {"variant": variant, "survival": survival, "brackets": 3}
    spec = waiting_sweep(early=early, budget={"run_cap": 30}, search={"sampler": "random", "n_startup_trials": 4})
    made = conductor(tmp_path, spec, 1, clock)
    while not made.finished():
        name = start(made)
        loss = abs(math.log10(made.record.trials[name].params["learning_rate"]) + 3)
        done = made.record.trials[name].last.fidelity if made.record.trials[name].last else 0
        for step in range(done + 2, 37, 2):
            clock.now += 1
            if not report(made, name, step, loss + 1 / step):
                break
    made.writer.close()
    again = conductor(tmp_path, spec, 1, clock, resume=True)
    assert again.rungs.recorded == made.rungs.recorded
    record = again.record
    assert {trial.bracket for trial in record.trials.values()} == {0, 1, 2}
    for trial in record.trials.values():
        judged = [mark.rung for found in trial.reports for mark in found.marks]
        assert judged == sorted(set(judged)), "no rung twice"
        assert all(rung > trial.bracket for rung in judged)
    again.end_sweep()
    states = Counter((trial.state, trial.stop_reason) for trial in record.trials.values())
    assert set(states) == {(State.COMPLETE, "max_t"), (State.PRUNED, "rung")}
