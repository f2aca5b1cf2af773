"""The conductor alone: what it queues, decides, counts and writes, on a clock and a cluster made up by the test."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from scalesweep.record import RecordWriter, State, Trial, read_record
from scalesweep.record.schema import SCHEMA_VERSION
from scalesweep.search.proposals import Proposer
from scalesweep.spec import SweepSpec
from scalesweep.sweep.conductor import OVERTAKEN_LIMIT, Conductor
from sweeps import sweep

MANIFEST = {"schema_version": SCHEMA_VERSION, "name": "tiny", "metric": {"name": "eval_loss", "goal": "minimize"}}


class Workers:
    """A pool that always has what is asked for, unless told otherwise."""

    def __init__(self) -> None:
        self.booted: list[float] = []
        self.holders: set[str] = set()
        self.discarded: list[str] = []
        self.there = True

    def take(self, trial: Trial) -> bool:
        if self.there:
            self.holders.add(trial.name)
        return self.there

    def names(self, holder: str) -> list[str]:
        return [f"{holder}-worker"]

    def tend(self) -> None: ...

    def release(self, holder: str) -> None:
        self.holders.discard(holder)

    def discard(self, holder: str) -> None:
        self.holders.discard(holder)
        self.discarded.append(holder)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def conductor(folder: Path, spec: SweepSpec, slots: int, clock: Clock | None = None, resume: bool = False) -> Conductor:
    writer = RecordWriter(folder / "run", None if resume else MANIFEST)
    proposer = Proposer(spec, "minimize", InMemoryStorage(), writer.record.by_number(), "eval_loss")
    return Conductor(spec, "minimize", writer, proposer, lambda: slots, Workers(), clock=clock or Clock())


def report(made: Conductor, name: str, step: int, loss: float) -> bool:
    return made.report(name, step, {"eval_loss": loss}, step=step, tokens=100 * step, flops=1e9 * step)


def start(made: Conductor) -> str:
    trial = made.next_trial()
    assert trial is not None
    return trial.name


def test_a_stopped_trial_is_pruned_with_every_value_and_a_finished_one_is_complete(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}}}), slots=3)
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


def test_no_worker_idles_while_a_large_trial_waits_and_the_large_one_never_starves(tmp_path: Path) -> None:
    spec = sweep(
        search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"values": [1, 4]}}},
        budget={"run_cap": 200},
    )
    made = conductor(tmp_path, spec, slots=4)
    placed_before: Counter[str] = Counter()
    idle_while_hungry = 0
    for _ in range(120):
        while (trial := made.next_trial()) is not None:
            placed_before.update(name for name, other in made.waiting.items() if other.trial.number < trial.number)
        free = 4 - sum(running.trial.config["num_gpus"] for running in made.running.values())
        held = any(waiting.overtaken >= OVERTAKEN_LIMIT for waiting in made.waiting.values())
        idle_while_hungry += free > 0 and not held
        report(made, next(iter(made.running)), 12, 0.5)  # the longest-running one ends
    assert idle_while_hungry == 0
    assert max(placed_before.values()) <= OVERTAKEN_LIMIT
    assert {trial.config["num_gpus"] for trial in made.record.trials.values() if trial.state is State.COMPLETE} == {1, 4}


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
    assert len(made.record.trials) == 1, "what waits for workers is not doubled"
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
    made.died(name)
    trial = read_record(tmp_path / "run").trials[name]
    assert (trial.state, trial.wall_seconds, trial.gpu_seconds) == (State.FAIL, 30, 30 * workers)
    assert name not in made.pool.holders
    made.died(name)  # told twice
    assert len(made.pool.discarded) == 3


def test_workers_go_back_when_a_trial_ends(tmp_path: Path) -> None:
    made = conductor(tmp_path, sweep(), slots=2)
    name = start(made)
    assert name in made.pool.holders
    report(made, name, 12, 0.3)
    assert name not in made.pool.holders
    assert not made.pool.discarded
    made.died(name)  # the process it kept for others died: no concern of this trial
    assert made.record.trials[name].state is State.COMPLETE


@pytest.mark.parametrize(
    ("budget", "spent"),
    [({"time": 60.0}, "time"), ({"gpu_hours": 60 / 3600}, "gpu_hours"), ({"dollars": 60.0}, "dollars")],
)
def test_a_spent_budget_stops_trials_at_their_next_report(budget: dict[str, Any], spent: str, tmp_path: Path) -> None:
    clock = Clock()
    one_gpu = {"parameters": {"model_size": {"values": ["L1", "L2"]}}}
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
        search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"value": 2}}},
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


def test_a_driver_that_died_between_a_decision_and_its_end_is_put_right(tmp_path: Path) -> None:
    one_gpu = {"parameters": {"model_size": {"values": ["L1", "L2"]}}}
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
