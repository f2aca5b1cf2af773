"""A trial's life with the conductor alone: its decisions, deaths and events, with an artificial clock and cluster."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from conducting import RATE, Clock, conductor, report, start
from scalesweep.errors import OutsideError
from scalesweep.record import Record, State, read_record
from scalesweep.report.progress import displays
from sweeps import sweep


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
