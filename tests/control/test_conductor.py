"""The conductor alone: its queue, decisions, counts and events, with an artificial clock and cluster."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from conducting import Clock, conductor, report, start
from scalesweep.control.conductor import QUEUE_LIMIT, STARTING_SECONDS, Conductor
from scalesweep.errors import OutsideError
from scalesweep.record import Record, State, read_record
from scalesweep.report.progress import displays
from scalesweep.simulation.driver import Everywhere
from scalesweep.spec import SweepSpec
from sweeps import sweep

RATE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}


def test_a_stopped_trial_is_pruned_with_every_value_and_a_finished_one_is_complete(tmp_path: Path) -> None:
    made = conductor(
        tmp_path, sweep(search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, "learning_rate": RATE}}), slots=3
    )
    names = [start(made) for _ in range(3)]
    assert report(made, names[0], 4, 0.5)
    assert report(made, names[1], 4, 0.4)
    assert report(made, names[1], 8, 0.35)
    assert not report(made, names[2], 4, 0.6)
    assert not report(made, names[1], 12, 0.3)
    study = made.proposer.study.trials
    assert [(t.state, t.intermediate_values) for t in study] == [
        (TrialState.RUNNING, {4: 0.5}),
        (TrialState.COMPLETE, {4: 0.4, 8: 0.35, 12: 0.3}),
        (TrialState.PRUNED, {4: 0.6}),
    ]
    record = made.record
    assert [(t.state, t.stop_reason) for t in record.by_number()] == [
        ("RUNNING", None),
        ("COMPLETE", "max_t"),
        ("PRUNED", "rung"),
    ]
    assert record.trials[names[2]].last.cutoff == pytest.approx(0.4 + 0.1 / 3)  # the 1/3 quantile of 0.4 and 0.5


def test_a_diverged_trial_stops_and_cannot_be_the_best(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    name = start(made)
    assert report(made, name, 4, 0.1)
    assert not report(made, name, 8, math.nan)
    trial = read_record(tmp_path / "run").trials[name]
    assert (trial.state, trial.stop_reason) == (State.PRUNED, "diverged")


def test_a_repeated_report_is_judged_once(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    name = start(made)
    assert report(made, name, 4, 0.5)
    assert report(made, name, 4, 0.5)
    assert len(made.record.trials[name].reports) == 1


GANG = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"values": [1, 4]}, "learning_rate": RATE}}


def test_no_worker_idles_and_a_large_trial_waits_a_report_longer_at_most_than_without_the_small_ones(tmp_path: Path) -> None:
    """Trials of any length that report once a tick. The test counts how long a large trial would wait without the others."""
    spec = sweep(search_space=GANG, budget={"run_cap": 400}, early_terminate={"type": "asha", "max_t": 100, "grace_period": 50})
    clock, rng = Clock(), random.Random(1)
    made = conductor(tmp_path, spec, 8, clock)
    left: dict[str, int] = {}  # reports of each trial until it ends
    queued: dict[str, float] = {}  # since when each large trial is the longest-waiting one
    before: dict[str, set[str]] = {}  # who ran then
    due: dict[str, float] = {}  # when those had given enough back
    late, yields, idle = [], 0, 0

    def gpus(names: Collection[str]) -> int:
        return sum(made.record.trials[name].config["num_gpus"] for name in names)

    for _ in range(300):
        while (trial := made.next_trial()) is not None:
            left.setdefault(trial.name, rng.choice([1, 2, 3, 5, 30]))
            late += [clock.now - due[trial.name]] if trial.name in due else []
        head = next(iter(made.waiting), None)
        if head is not None and head not in queued:
            queued[head], before[head] = clock.now, set(made.running)
        idle += 8 - gpus(made.running) if head not in due else 0
        clock.now += 1
        for name in list(made.running):
            left[name] -= 1
            if left[name] > 0:
                yields += not report(made, name, len(made.record.trials[name].reports) + 1, 0.5)
            else:
                assert not report(made, name, 100, 0.5)
        for name in queued.keys() - due.keys():
            if gpus(before[name] & made.running.keys()) + gpus([name]) <= 8:
                due[name] = clock.now
    assert idle == 0
    assert len(late) > 20
    assert max(late) <= 1
    assert yields > 5
    ended = [trial for trial in made.record.trials.values() if trial.state is State.COMPLETE]
    assert {trial.config["num_gpus"] for trial in ended} == {1, 4}
    assert all(len({r.fidelity for r in trial.reports}) == len(trial.reports) for trial in ended), "no report twice"


HALVES = {"parameters": {"model_size": {"value": "L1"}, "num_gpus": {"values": [0.25, 0.5, 1, 2]}, "learning_rate": RATE}}


def test_shares_lie_within_one_gpu_and_a_whole_one_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Two GPUs that trials of at most five reports share. Nothing idles that a trial fits into, unless it is kept for the first."""
    early = {"type": "asha", "max_t": 100, "grace_period": 50}
    clock, rng = Clock(), random.Random(1)
    made = conductor(tmp_path, sweep(search_space=HALVES, budget={"run_cap": 400}, early_terminate=early), 2, clock)
    made.pool = pool = Everywhere(2)
    left: dict[str, int] = {}
    queued: dict[str, float] = {}
    waits, fragmented, together = [], 0, 0
    for _ in range(200):
        while (trial := made.next_trial()) is not None:
            left.setdefault(trial.name, rng.choice([1, 2, 5]))
            if trial.name in queued:
                waits.append((trial.num_gpus, clock.now - queued[trial.name]))
        held: list[float] = [0, 0]
        for name, (share, places) in pool.held.items():
            assert (len(places), share) == (
                max(1, made.record.trials[name].num_gpus),
                min(1, made.record.trials[name].num_gpus),
            )
            for place in places:
                held[place] += share
        assert max(held) <= 1
        assert pool.held.keys() == made.running.keys()
        assert sum(held) == 2 or min(1 - max(held), 1 - min(held)) < 0.25 or made._gathered_for()
        fragmented += sum(held) == 1 and min(held) > 0
        together = max(together, len(made.running))
        head = next(iter(made.waiting), None)
        if head is not None:
            queued.setdefault(head, clock.now)
        clock.now += 1
        for name in list(made.running):
            left[name] -= 1
            done = len(made.record.trials[name].reports) + 1
            report(made, name, done if left[name] > 0 else 100, 0.5)
    assert together > 4
    assert len([wait for gpus, wait in waits if gpus == 2]) > 5
    assert max(wait for _, wait in waits) <= 6, "the longest of those before it, and a report"
    for trial in made.record.trials.values():
        assert trial.gpu_seconds == trial.wall_seconds * trial.num_gpus


def test_who_gives_way_goes_on_next_and_pays_nothing_meanwhile(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, sweep(search_space=GANG, budget={"run_cap": 40}), 4, clock)
    while not any(run.overtook for run in made.running.values()):
        if made.next_trial() is None:
            clock.now += 10
            report(made, next(iter(made.running)), 12, 0.5)
    name = next(name for name, run in made.running.items() if run.overtook)
    head = next(iter(made.waiting))
    assert head in made.running[name].overtook
    assert made.may_give_way(name)
    for other in [other for other in made.running if not made.running[other].overtook]:
        clock.now += 10
        report(made, other, 12, 0.5)
    clock.now += 10
    before = made.running[name].since
    assert made.next_trial() is None, "the workers are kept for the one that waits"
    assert not report(made, name, 4, 0.5)
    assert name not in made.pool.holders
    assert list(made.waiting)[:2] == [head, name]
    assert start(made) == head
    trial = read_record(tmp_path / "run").trials[name]
    assert (trial.state, trial.placed, trial.wall_seconds) == (State.RUNNING, False, clock.now - before)
    clock.now += 1000
    assert not report(made, head, 12, 0.5)
    assert start(made) == name
    assert made.record.trials[name].wall_seconds == clock.now - 1000 - before
    assert not report(made, name, 12, 0.5)
    assert made.record.trials[name].state is State.COMPLETE


def test_what_is_up_does_not_idle_because_workers_of_another_trial_never_come(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, sweep(search_space=GANG, budget={"run_cap": 40}), 8, clock)
    made.pool.up = 3  # the cluster is to grow to 8
    started = []
    while (trial := made.next_trial()) is not None:
        started.append(trial)
        made.pool.up -= trial.config["num_gpus"]
    assert [waiting.trial.config["num_gpus"] for waiting in made.waiting.values()] == [4]
    up = made.pool.up
    clock.now += STARTING_SECONDS
    while (trial := made.next_trial()) is not None:
        started.append(trial)
        made.pool.up -= trial.config["num_gpus"]
    assert up > made.pool.up == 0
    assert {trial.config["num_gpus"] for trial in started} == {1}


def test_workers_of_one_kind_do_not_idle_because_a_trial_waits_for_another_kind(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(search_space=GANG, budget={"run_cap": 100}), 8)
    made.pool.lacking = {"L2"}
    while made.next_trial() is not None:
        pass
    assert {run.trial.config["model_size"] for run in made.running.values()} == {"L1"}
    assert sum(run.trial.config["num_gpus"] for run in made.running.values()) >= 5
    assert len(made.waiting) <= QUEUE_LIMIT


def test_max_concurrent_trials_is_never_exceeded(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(resources={"max_concurrent_trials": 2}), slots=8)
    while made.next_trial() is not None:
        pass
    assert len(made.running) == 2
    assert len(made.waiting) <= 1, "one is kept ready, no more"


def test_workers_that_start_are_waited_for_and_paid_for(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    made.pool.there = False
    assert made.next_trial() is None
    assert len(made.record.trials) == 1, "a trial that waits for workers is not proposed twice"
    made.pool.there, made.pool.booted = True, [4.0, 5.0]
    assert start(made) == "t0000"
    assert made.record.gpu_seconds == pytest.approx(9.0)
    assert read_record(tmp_path / "run").boot_gpu_seconds == pytest.approx(9.0)


def test_a_trial_whose_process_dies_goes_on_with_other_workers_and_not_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, sweep(resources={"max_failures": 2}), 2, clock)
    name = start(made)
    workers = made.record.trials[name].config["num_gpus"]
    for death in range(2):
        clock.now += 10
        made.died(name)
        assert made.pool.discarded == [name] * (death + 1)
        clock.now += 100  # nothing is paid while it waits
        assert start(made) == name
    assert made.record.trials[name].attempts == 3
    clock.now += 10
    made.died(name, "ray: killed by the OOM killer")
    trial = read_record(tmp_path / "run").trials[name]
    assert (trial.state, trial.wall_seconds, trial.gpu_seconds) == (State.FAIL, 30, 30 * workers)
    assert [path.read_text() for path in (tmp_path / "run" / "errors").iterdir()] == ["ray: killed by the OOM killer\n"]
    assert trial.traceback == f"errors/{name}-3.txt"
    assert name not in made.pool.holders
    made.died(name)  # told twice
    assert len(made.pool.discarded) == 3


def test_a_callback_sees_every_event_and_its_error_ends_the_session(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def watch(event: dict[str, Any], record: Record) -> None:
        seen.append((event["event"], len(record.trials)))
        if event["event"] == "start":
            raise KeyError("enough")

    made = conductor(tmp_path, sweep(), 4)
    made.sinks = displays(watch)
    with pytest.raises(KeyError, match="enough"):
        made.next_trial()
    assert seen == [("trial", 1), ("start", 1)]
    assert made.finished()
    assert isinstance(made.outage, KeyError)
    assert displays(False) == []


def test_a_sweep_that_stands_still_says_what_it_waits_for(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, sweep(), 4, clock)
    made.pool.there = False
    for seconds in (0, 200, 200, 200):
        clock.now += seconds
        assert made.next_trial() is None
    (note,) = made.record.notes
    (name,) = list(made.waiting)[:1]
    assert note.startswith(f"nothing runs: {name} has waited ")
    assert "the cluster has room for 4" in note
    made.pool.there = True
    assert start(made) == name


def test_a_record_that_cannot_be_written_ends_the_session_and_nothing_more_happens(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), 4)
    name = start(made)
    real, tries = made.writer, []

    class Lost:
        record = real.record

        def append(self, event: dict[str, Any]) -> None:
            tries.append(event)
            raise OutsideError("the storage is gone")

    made.writer = Lost()
    with pytest.raises(OutsideError, match="the storage is gone"):
        report(made, name, 4, 0.5)
    assert len(tries) == 1
    assert made.finished()
    assert made.next_trial() is None
    assert made.record.trials[name].reports == []


def test_workers_go_back_when_a_trial_ends(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    name = start(made)
    assert name in made.pool.holders
    report(made, name, 12, 0.3)
    assert name not in made.pool.holders
    assert not made.pool.discarded
    made.died(name)  # the process it kept for others died, which does not concern this trial
    assert made.record.trials[name].state is State.COMPLETE


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


def test_the_workers_of_a_failed_trial_are_ended_unless_they_are_intact(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    for intact in (True, False):
        name = start(made)
        made.failed(name, "the model can't be read", intact=intact)
        assert made.record.trials[name].state is State.FAIL
        assert name not in made.pool.holders
        assert (name in made.pool.discarded) != intact


def test_a_driver_that_died_between_a_decision_and_its_end_is_put_right(tmp_path: Path) -> None:
    one_gpu = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "learning_rate": RATE}}
    made = conductor(tmp_path, sweep(search_space=one_gpu), slots=3)
    names = [start(made) for _ in range(3)]
    report(made, names[0], 4, 0.4)
    report(made, names[1], 4, 0.5)  # stopped
    report(made, names[2], 4, 0.3)
    made.writer.close()
    path = tmp_path / "run" / "record.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"event": "end"' not in line]
    path.write_text("\n".join(lines) + "\n")

    again = conductor(tmp_path, sweep(search_space=one_gpu), slots=3, resume=True)
    assert (again.record.trials[names[1]].state, again.record.trials[names[1]].stop_reason) == (State.PRUNED, "rung")
    assert again.rungs.recorded == made.rungs.recorded
    assert [trial.name for trial in again.unfinished] == [names[0], names[2]]
    assert start(again) == names[0]
    states = [trial.state for trial in again.proposer.study.trials]
    assert states == [TrialState.RUNNING, TrialState.PRUNED, TrialState.RUNNING]


def test_an_exception_leaves_the_sweep_open(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    start(made)
    made.close()
    made.writer.close()
    record = read_record(tmp_path / "run")
    assert record.status == "running"
    assert [trial.state for trial in record.trials.values()] == [State.RUNNING]


def test_a_cluster_that_lost_its_workers_is_waited_for(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    made.slots = lambda: 0
    assert made.next_trial() is None
    assert made.next_trial() is None
    assert len(made.waiting) <= 1
    made.slots = lambda: 2
    start(made)


# ---- rungs that trials wait at -------------------------------------------------------------------------------------------


PROMOTION = {"type": "asha", "grace_period": 4, "max_t": 36, "reduction_factor": 3, "variant": "promotion"}
ONE_SIZE = {"parameters": {"model_size": {"value": "L1"}, "learning_rate": RATE}}


def waiting_sweep(**changes: Any) -> SweepSpec:
    early = {**PROMOTION, **changes.pop("early", {})}
    return sweep(**{"search_space": ONE_SIZE, "early_terminate": early, "budget": {"run_cap": 3}, **changes})


def pause_three(made: Conductor, clock: Clock) -> list[str]:
    """Three trials, one after the other, ten seconds each; the second is the best."""
    names = []
    for loss in (0.5, 0.4, 0.6):
        names.append(start(made))
        clock.now += 10
        assert not report(made, names[-1], 4, loss)
    return names


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


# ---- budgets of one trial, and what is left for the next ---------------------------------------------------------------------


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


def test_the_untrained_model_is_recorded_and_decides_nothing(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=1)
    name = start(made)
    assert report(made, name, 0, float("nan"))
    assert report(made, name, 4, 0.5)
    size = made.record.trials[name].config["model_size"]
    again = read_record(tmp_path / "run")
    assert [found.keys() for found in (made.record.untrained, again.untrained)] == [{size}, {size}]
    assert again.untrained[size]["eval_loss"] != again.untrained[size]["eval_loss"]
    assert [r.fidelity for r in again.trials[name].reports] == [4]
