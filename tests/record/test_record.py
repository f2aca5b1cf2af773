"""The record: append-only, repaired after a crash, refused when it is not one, ranked fairly."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from events import MANIFEST, end, report, trial
from records import make_record
from scalesweep.errors import OutsideError, UserError
from scalesweep.record import RecordWriter, best, rank, read_record
from scalesweep.record.lease import Lease
from scalesweep.record.schema import replay
from scalesweep.report.leaderboard import leaderboard_csv
from scalesweep.simulation.replay import replay_decisions


def test_events_survive_and_read_back_equal(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run", MANIFEST)
    events = [trial("t0", 0), report("t0", 4, 0.5, 1), report("t0", 8, math.nan, None), end("t0", "PRUNED", "diverged")]
    for event in events:
        writer.append(event)
    writer.close()
    read = read_record(tmp_path / "run").trials["t0"]
    assert read.state == "PRUNED"
    assert read.reports[0].metrics == {"eval_loss": 0.5}
    assert math.isnan(read.reports[1].metrics["eval_loss"])
    # The file has the documented format: JSON lines that pandas can read.
    frame = pd.read_json(tmp_path / "run" / "record.jsonl", lines=True)
    assert list(frame["event"]) == ["trial", "report", "report", "end"]


def test_a_record_holds_plain_numbers_the_same_in_memory_as_on_disk(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run", MANIFEST)
    writer.append(trial("t0", 0))
    writer.append(
        report("t0", 4, np.float64(0.5), 1) | {"marks": [{"rung": 1, "fidelity": 4, "value": 0.5, "gpu_seconds": 1.0}]}
    )
    writer.append(report("t0", 8, np.float64("nan"), None))
    writer.close()
    held, read = writer.record.trials["t0"].reports, read_record(tmp_path / "run").trials["t0"].reports
    assert held[0] == read[0]
    assert [type(number) for one in held for number in one.metrics.values()] == [float, float]
    assert math.isnan(held[1].metrics["eval_loss"])


def test_a_record_is_a_data_frame_and_short_in_a_notebook() -> None:
    record = make_record()
    trials = record.to_frame()
    assert trials.to_csv(index=False) == pd.read_csv(io.StringIO(leaderboard_csv(record))).to_csv(index=False)
    assert trials.loc[trials["trial"] == "t0001", "unfreeze_interval"].item() == 40
    assert list(record.to_frame(by="metric")["trial"]) == [row.trial.name for row in rank(record, "metric")]
    reports = record.to_frame("reports").pivot(index="fidelity", columns="trial", values="eval_loss")
    assert list(reports["t0001"]) == [0.60, 0.55, 0.52, 0.47, 0.44]
    assert repr(record) == "<Record quick: running, 10 trials>"
    assert repr(record.trials["t0002"]) == "<Trial t0002: PRUNED (rung), 3 reports>"
    assert make_record([]).to_frame().empty


def _append_forever(run_dir: str) -> None:
    writer = RecordWriter(Path(run_dir), MANIFEST)
    number = 0
    while True:
        writer.append(trial(f"t{number}", number))
        number += 1


def test_a_writer_killed_in_the_middle_leaves_a_readable_record(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = multiprocessing.get_context("spawn").Process(target=_append_forever, args=(str(run_dir),))
    process.start()
    while not (run_dir / "record.jsonl").exists() or (run_dir / "record.jsonl").stat().st_size < 5000:
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with (run_dir / "record.jsonl").open("a") as file:
        file.write('{"event": "trial", "tim')  # the remains of a process that was killed during a write
    before = read_record(run_dir)
    assert [t.number for t in before.by_number()] == list(range(len(before.trials)))
    writer = RecordWriter(run_dir)
    writer.append(trial("last", len(before.trials)))
    writer.close()
    assert len(read_record(run_dir).trials) == len(before.trials) + 1


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run", MANIFEST)
    with pytest.raises(UserError, match="in use by another"):
        RecordWriter(tmp_path / "run")
    writer.close()
    with pytest.raises(UserError, match="already contains a sweep"):
        RecordWriter(tmp_path / "run", MANIFEST)
    RecordWriter(tmp_path / "run").close()


def _lease_of_another_host(run_dir: Path, age: float) -> Path:
    path = run_dir / "lease-000003.json"
    path.write_text('{"host": "gpu-7", "kernel": "another", "pid": 1}\n')
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_a_writer_of_another_host_is_waited_for_until_its_lease_has_run_out(tmp_path: Path) -> None:
    RecordWriter(tmp_path, MANIFEST).close()
    theirs = _lease_of_another_host(tmp_path, age=1)  # it may have died a second ago, or not
    with pytest.raises(UserError, match=r"in use by a scalesweep process on gpu-7, which was alive 1 s ago") as refused:
        RecordWriter(tmp_path)
    assert "try again in 59 s" in str(refused.value)
    theirs.write_text("{")  # a driver that died while it took the folder
    with pytest.raises(UserError, match="on another host"):
        RecordWriter(tmp_path)
    _lease_of_another_host(tmp_path, age=61)
    writer = RecordWriter(tmp_path)
    assert [path.name for path in tmp_path.glob("lease-*")] == ["lease-000004.json"]
    writer.close()
    assert not list(tmp_path.glob("lease-*"))


def test_a_lease_is_renewed_and_one_that_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    lease = Lease(tmp_path, seconds=0.4, renew_seconds=0.05)
    first = lease.path.stat().st_mtime
    time.sleep(0.8)
    assert lease.path.stat().st_mtime - first >= 0.4
    lease.check()
    lease.path.rename(tmp_path / "lease-000002.json")  # as by another host's driver: the next number, and this one is gone
    time.sleep(0.3)
    with pytest.raises(OutsideError, match="taken over this sweep"):
        lease.check()
    lease.close()
    assert [path.name for path in tmp_path.glob("lease-*")] == ["lease-000002.json"]


def test_a_folder_that_is_away_for_a_while_was_not_taken_over(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "run", seconds=0.2, renew_seconds=0.05)
    (tmp_path / "run").rename(tmp_path / "away")
    time.sleep(0.3)
    with pytest.raises(FileNotFoundError):
        lease.check()
    (tmp_path / "away").rename(tmp_path / "run")
    lease.check()
    lease.close()
    assert not list((tmp_path / "run").glob("lease-*"))


def _append_beyond_the_limit(run_dir: str, lift_after: float, storage_seconds: float, answer: Any) -> None:
    """A file-size limit at which only a part of the next line fits, until the limit is lifted."""
    writer = RecordWriter(Path(run_dir), MANIFEST, storage_seconds)
    writer.append(trial("t0", 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (Path(run_dir) / "record.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    lift = threading.Timer(lift_after, resource.setrlimit, (resource.RLIMIT_FSIZE, (hard, hard)))
    lift.daemon = True
    lift.start()
    try:
        for number in range(1, 4):
            writer.append(trial(f"t{number}", number))
        answer.put(None)
    except OutsideError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        with pytest.raises(OutsideError):  # no event may follow a missing one
            writer.append(trial("t9", 9))
        answer.put(str(error))
    writer.close()


@pytest.mark.parametrize(("lift_after", "storage_seconds"), [(1.0, 30.0), (60.0, 1.0)])
def test_a_full_disk_is_waited_for_and_leaves_whole_lines(tmp_path: Path, lift_after: float, storage_seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(
        target=_append_beyond_the_limit, args=(str(tmp_path / "run"), lift_after, storage_seconds, answer)
    )
    process.start()
    error = answer.get(timeout=60)
    process.join()
    trials = list(read_record(tmp_path / "run").trials)
    if error is None:
        assert trials == ["t0", "t1", "t2", "t3"]
    else:
        assert "could not be written: File too large" in error
        assert "scalesweep resume" in error
        assert trials == ["t0"]
        writer = RecordWriter(tmp_path / "run")  # resumed: the partial line is removed
        writer.append(trial("t1", 1))
        writer.close()
        assert list(read_record(tmp_path / "run").trials) == ["t0", "t1"]
    assert (error is None) == (lift_after < storage_seconds)


def test_what_is_no_run_folder_gets_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_record(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run folder"):
        read_record(tmp_path / "empty")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sweep.json").write_text(json.dumps({**MANIFEST, "schema_version": 99}))
    with pytest.raises(UserError, match="record version 99"):
        read_record(tmp_path / "old")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        read_record(tmp_path / "torn")
    (tmp_path / "torn" / "sweep.json").write_text(json.dumps(MANIFEST))
    for read in (read_record, RecordWriter):
        with pytest.raises(UserError, match=r"torn/record\.jsonl, which holds the trials of the sweep, is missing"):
            read(tmp_path / "torn")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "bad" / "record.jsonl").write_text(json.dumps(trial("t0", 0)) + "\nnot json\n")
    with pytest.raises(UserError, match=r"record\.jsonl:2"):
        read_record(tmp_path / "bad")
    (tmp_path / "bad" / "record.jsonl").write_text(2 * (json.dumps(trial("t0", 0)) + "\n"))
    with pytest.raises(UserError, match=r"record\.jsonl:2  .*: t0 is proposed a second time"):
        read_record(tmp_path / "bad")
    (tmp_path / "bad" / "record.jsonl").write_text(json.dumps(report("never-begun", 4, 0.1, 1)) + "\n")
    for read in (read_record, replay_decisions):
        with pytest.raises(
            UserError,
            match=r"record\.jsonl:1  this event contradicts earlier ones: it refers to 'never-begun', which is not there",
        ):
            read(tmp_path / "bad")


def test_a_trial_stopped_low_never_ranks_above_one_judged_higher() -> None:
    events = [
        trial("low", 0), report("low", 4, 0.1, 1), end("low", "PRUNED"),
        trial("high", 1), report("high", 4, 0.9, 1), report("high", 12, 0.8, 2), end("high", "PRUNED"),
        trial("done", 2), report("done", 4, 0.95, 1), report("done", 12, 0.9, 2), report("done", 36, 0.85, 3, 9.0), end("done", "COMPLETE"),
        trial("broken", 3), report("broken", 4, 0.01, 1), end("broken", "FAIL"),
        trial("nan", 4), report("nan", 4, math.nan, None), end("nan", "PRUNED", "diverged"),
        trial("young", 5), report("young", 2, 0.05, None),
    ]  # fmt: skip
    record = replay(MANIFEST, events)
    rows = rank(record)
    assert [row.trial.name for row in rows] == ["done", "high", "low", "young", "broken", "nan"]
    assert [row.rank for row in rows] == [1, 2, 3, 4, None, None]
    assert best(record).name == "done"
    assert [row.trial.name for row in rank(record, by="metric")][:4] == ["young", "low", "high", "done"]
    assert [(row.metric, row.fidelity, row.rung) for row in rows[:3]] == [(0.85, 36, 3), (0.8, 12, 2), (0.1, 4, 1)]


def test_the_goal_turns_the_ranking_round() -> None:
    events = [trial("a", 0), report("a", 4, 0.1, 1), trial("b", 1), report("b", 4, 0.9, 1)]
    up = {**MANIFEST, "metric": {"name": "eval_loss", "goal": "maximize"}}
    assert [row.trial.name for row in rank(replay(up, events))] == ["b", "a"]


def test_pareto_marks_exactly_the_trials_that_none_beats() -> None:
    costs = {"a": (0.5, 10.0), "b": (0.4, 20.0), "c": (0.45, 25.0), "d": (0.5, 12.0), "e": (0.3, 30.0), "f": (0.3, 30.0)}
    events = []
    for number, (name, (loss, seconds)) in enumerate(costs.items()):
        events += [trial(name, number), report(name, 4, loss, 1, seconds)]
    marked = {row.trial.name for row in rank(replay(MANIFEST, events)) if row.pareto}
    beaten = {x for x, (lx, cx) in costs.items() for ly, cy in costs.values() if ly <= lx and cy <= cx and (ly < lx or cy < cx)}
    assert marked - {"e", "f"} == set(costs) - beaten - {"e", "f"}
    assert marked & {"e", "f"}  # equal twins: at least one is on the front


def test_elapsed_time_counts_sessions_and_not_the_pause_between_them() -> None:
    events = [
        {"event": "session", "time": 100.0, "resumed": False}, {**trial("t0", 0), "time": 110.0},
        {"event": "session", "time": 500.0, "resumed": True}, {**report("t0", 4, 0.5, 1), "time": 507.0},
    ]  # fmt: skip
    record = replay(MANIFEST, events)
    assert record.elapsed_seconds == pytest.approx(17.0)
    assert record.elapsed(now=509.0) == pytest.approx(19.0)
