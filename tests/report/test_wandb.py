"""The W&B tracker, checked by what it leaves in `.wandb` files. No test reaches a network."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from records import START, make_events, make_manifest, make_record
from scalesweep.record import Record
from scalesweep.report.leaderboard import leaderboard_json
from scalesweep.report.trackers import TRACKERS, make_trackers
from scalesweep.report.wandb_tracker import WandbTracker, make
from wandb_files import WandbRun, read_runs

ENDED = {"event": "sweep_ended", "time": START + 200, "reason": "run_cap"}


def track(run_dir: Path, record: Record, events: list[dict[str, Any]], mode: str = "offline") -> tuple[WandbTracker, str]:
    said = io.StringIO()
    tracker = WandbTracker(record, run_dir, mode, stream=said)
    for event in events:
        record.apply(event)
        tracker.handle(event, record)
    tracker.close(record)
    return tracker, said.getvalue()


def by_name(runs: list[WandbRun]) -> dict[str, WandbRun]:
    assert len({run.name for run in runs}) == len(runs)
    return {run.name: run for run in runs}


def board_rows(run: WandbRun) -> list[dict[str, Any]]:
    table = json.loads((run.folder / "files" / run.summary["leaderboard.path"]).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, dict[str, WandbRun], Path, str]:
    """A whole sweep tracked offline, with secrets in the environment."""
    run_dir = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_topsecretvalue")
        record = Record(make_manifest())
        _, said = track(run_dir, record, [*make_events(), ENDED])
    return record, by_name(read_runs(run_dir / "wandb")), run_dir, said


def test_there_is_one_run_per_trial_and_one_for_the_sweep(tracked: Any) -> None:
    record, runs, run_dir, said = tracked
    assert set(runs) == {*record.trials, "quick"}
    assert {run.group for run in runs.values()} == {"quick"}
    assert {run.project for run in runs.values()} == {"tests"}
    assert {run.job_type for name, run in runs.items() if name != "quick"} == {"trial"}
    assert runs["quick"].job_type == "sweep"
    assert runs["t0001"].tags == ["L6", "2-gpu", "gradual", "night"]
    assert runs["t0001"].run_id == "0123456789abcdef-t0001"
    assert f"wandb sync {run_dir}/wandb/offline-run-*" in said


def test_a_trials_config_holds_parameters_and_what_follows_from_them(tracked: Any) -> None:
    config = tracked[1]["t0001"].config
    expected = {"learning_rate": 1.2e-4, "unfreezing": "gradual", "unfreeze_interval": 40, "global_batch_size": 32}
    expected |= {"n_params": 22_713_216, "hidden_size": 384, "data_fingerprint": "f00dfeed", "trial_number": 1}
    assert {key: config[key] for key in expected} == expected
    assert config["model"] == "minilm"  # no folder of this machine
    assert "unfreeze_interval" in config["sampled"]
    assert "weight_decay" not in config["sampled"]


def test_every_report_is_a_row_over_the_step(tracked: Any) -> None:
    record, runs, *_ = tracked
    for name, trial in record.trials.items():
        assert [(row["_step"], row["step"]) for row in runs[name].history] == [(i, r.step) for i, r in enumerate(trial.reports)]
    row = runs["t0001"].history[2]
    assert row["eval_loss"] == pytest.approx(0.52)
    assert (row["tokens"], row["rung"], row["epoch"]) == (153_600, 2, 0.96)
    metrics = runs["t0001"].metrics
    assert metrics["*"].step_metric == "step"
    assert metrics["eval_loss"].summary.min
    assert metrics["eval_loss"].step_metric == "step"


def test_a_nan_does_not_spoil_the_best_value(tracked: Any) -> None:
    run = tracked[1]["t0004"]
    assert "eval_loss" not in run.history[1]
    assert run.summary["eval_loss"] == {"min": 0.65}


def test_the_summary_says_how_a_trial_ended(tracked: Any) -> None:
    runs = tracked[1]
    ends = {
        name: (run.summary["state"], run.summary["stop_reason"], run.exit_code) for name, run in runs.items() if name != "quick"
    }
    assert ends["t0001"] == ("COMPLETE", "max_t", 0)
    assert ends["t0003"] == ("PRUNED", "rung", 0)
    assert ends["t0004"] == ("FAIL", "diverged", 1)
    assert ends["t0008"] == ("INFEASIBLE", "placement", 0)
    assert ends["t0009"] == ("RUNNING", None, 1)  # left off
    totals = {"rung": 3, "tokens": 460_800, "gpu_seconds": pytest.approx(817.675776), "wall_seconds": pytest.approx(408.837888)}
    assert {key: runs["t0001"].summary[key] for key in totals} == totals


def test_the_sweeps_run_holds_the_leaderboard(tracked: Any) -> None:
    record, runs, *_ = tracked
    sweep = runs["quick"]
    assert "artifact" in sweep.kinds
    expected = leaderboard_json(record)["trials"]
    rows = board_rows(sweep)
    assert len(rows) == len(expected)
    for row, trial in zip(rows, expected, strict=True):
        nested = ("params", "metrics", "standard_errors", "difference_to_first")
        flat = {key: value for key, value in trial.items() if key not in nested} | trial["params"] | trial["metrics"]
        assert {key: value for key, value in row.items() if key in flat} == flat
        assert all(value is None for key, value in row.items() if key not in flat)
    assert (sweep.summary["best"], sweep.summary["best_trial"], sweep.summary["ended_reason"]) == (0.44, "t0001", "run_cap")
    assert [row["trials/running"] for row in sweep.history[:-1]] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert sweep.metrics["*"].step_metric == "elapsed_seconds"


def test_nothing_of_the_machine_or_its_secrets_is_written(tracked: Any) -> None:
    _, runs, run_dir, _ = tracked
    for path in run_dir.rglob("*"):
        if path.is_file():
            assert b"topsecret" not in path.read_bytes(), path
    for run in runs.values():
        assert "environment" not in run.kinds
        assert run.host == ""
        written = (run.folder / f"run-{run.run_id}.wandb").read_bytes()
        for own in (sys.executable, str(Path.cwd()), "/home/me"):
            assert own.encode() not in written
        assert {path.name for path in (run.folder / "files").iterdir()} <= {"media"}


def test_a_resumed_sweep_goes_on_in_the_same_runs(tmp_path: Path) -> None:
    record = make_record()
    later = START + 10_000
    events = [
        {"event": "session", "time": later, "resumed": True},
        {"event": "start", "time": later + 1, "trial": "t0009", "attempt": 2},
        next(
            {**e, "trial": "t0009", "time": later + 5} for e in make_events() if e["event"] == "report" and e["fidelity"] == 120
        ),
        {"event": "end", "time": later + 6, "trial": "t0009", "state": "PRUNED", "reason": "rung", "error": None},
        {**ENDED, "time": later + 7},
    ]
    track(tmp_path, record, events)
    runs = by_name(read_runs(tmp_path / "wandb"))
    assert set(runs) == {"quick", "t0009"}  # what ended before is not touched
    assert runs["t0009"].run_id == "0123456789abcdef-t0009"
    # The earlier reports come along: what a killed session did not get out is not lost.
    assert [(row["_step"], row["step"]) for row in runs["t0009"].history] == [(0, 40), (1, 80), (2, 120)]
    assert runs["quick"].history[0]["_step"] > 100_000  # above every step of the session before
    assert len(board_rows(runs["quick"])) == 10


def test_a_long_history_is_complete(tmp_path: Path) -> None:
    report = next(event for event in make_events() if event["event"] == "report" and event["trial"] == "t0009")
    start = [event for event in make_events() if event["event"] == "session" or event.get("trial") == "t0009"][:3]
    reports = [{**report, "fidelity": step, "step": step, "time": START + 100 + step} for step in range(1, 301)]
    track(tmp_path, Record(make_manifest()), [*start, *reports])
    run = by_name(read_runs(tmp_path / "wandb"))["t0009"]
    assert (run.folder / f"run-{run.run_id}.wandb").stat().st_size > 3 * 32 * 1024  # over several blocks of the log
    assert [row["step"] for row in run.history] == list(range(1, 301))


def test_a_run_that_fails_in_the_middle_is_written_again_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    real = wandb.init

    def no_answer(**_: Any) -> None:
        raise TimeoutError("no answer")

    def online_that_hangs(**kwargs: Any) -> Any:
        run = real(**(kwargs | {"mode": "offline"}))
        if kwargs["mode"] == "online" and kwargs["name"] == "t0005":
            monkeypatch.setattr(run, "finish", no_answer)
        return run

    monkeypatch.setattr(wandb, "init", online_that_hangs)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    record = Record(make_manifest())
    _, said = track(tmp_path, record, [*make_events(), ENDED], mode="auto")
    assert said.count("continuing offline (no answer)") == 1
    last = {run.name: run for run in read_runs(tmp_path / "wandb")}
    assert {name: len(last[name].history) for name in record.trials} == {n: len(t.reports) for n, t in record.trials.items()}
    assert last["t0005"].summary["state"] == "PRUNED"


CHILD = """
import sys
from pathlib import Path
from records import make_events, make_manifest
from scalesweep.record import Record
from scalesweep.report.wandb_tracker import WandbTracker
record = Record(make_manifest())
tracker = WandbTracker(record, Path(sys.argv[1]), sys.argv[2], init_timeout=1.0)
for event in make_events():
    record.apply(event)
    tracker.handle(event, record)
tracker.close(record)
"""


def run_child(tmp_path: Path, mode: str, **env: str) -> tuple[str, dict[str, WandbRun]]:
    """A tracker in a process of its own: wandb reads its environment once per process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    tests = str(Path(__file__).parents[1])
    environment = kept | {"PYTHONPATH": tests, "HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home")} | env
    (tmp_path / "home").mkdir()
    (tmp_path / "sweep").mkdir()
    command = [sys.executable, "-c", CHILD, str(tmp_path / "sweep"), mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == ""
    offline = [run for run in read_runs(tmp_path / "sweep" / "wandb") if run.folder.name.startswith("offline-")]
    return done.stderr, by_name(offline)


def test_a_server_that_is_away_loses_nothing(tmp_path: Path) -> None:
    with socket.socket() as probe:  # a port that refuses
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = "5ec2e7" + "0" * 34
    said, runs = run_child(tmp_path, "online", WANDB_BASE_URL=f"http://127.0.0.1:{port}", WANDB_API_KEY=key)
    assert said.count("W&B: continuing offline") == 1
    assert "Traceback" not in said
    record = make_record()
    assert set(runs) == {*record.trials, "quick"}
    assert {name: len(runs[name].history) for name in record.trials} == {n: len(t.reports) for n, t in record.trials.items()}
    assert all(key.encode() not in path.read_bytes() for path in (tmp_path / "sweep").rglob("*") if path.is_file())


def test_auto_without_a_login_is_offline_and_asks_nothing(tmp_path: Path) -> None:
    said, runs = run_child(tmp_path, "auto")
    assert len(runs) == 11
    assert said.splitlines()[-1].startswith("W&B: offline runs in ")
    assert all(line.startswith("W&B: ") for line in said.splitlines())


def test_the_mode_decides_whether_there_is_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TRACKERS) == {"wandb"}
    spec = make_manifest()["spec"]
    disabled = make_record([], spec=spec | {"tracking": {"wandb": spec["tracking"]["wandb"] | {"mode": "disabled"}}})
    assert make_trackers(disabled, tmp_path) == []
    assert make_trackers(make_record([], spec=spec | {"tracking": {}}), tmp_path) == []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    auto = make_record([], spec=spec | {"tracking": {"wandb": spec["tracking"]["wandb"] | {"mode": "auto"}}})
    assert make(auto, tmp_path) is None
