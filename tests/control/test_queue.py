"""The conductor's queue: which trial gets free workers, and what waits, with an artificial clock and cluster."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

import pytest

from conducting import RATE, Clock, conductor, report, start
from scalesweep.control.conductor import QUEUE_LIMIT, STARTING_SECONDS
from scalesweep.record import State, read_record
from scalesweep.simulation.driver import Everywhere
from sweeps import sweep

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


def test_a_cluster_that_lost_its_workers_is_waited_for(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    made.slots = lambda: 0
    assert made.next_trial() is None
    assert made.next_trial() is None
    assert len(made.waiting) <= 1
    made.slots = lambda: 2
    start(made)
