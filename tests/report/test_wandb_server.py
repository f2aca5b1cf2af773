"""A sweep whose W&B server fails in each way, and the same sweep published afterwards: nothing is lost, and no step is there twice.

The server is a stand-in (`wandb_server.py`); the client is the real one, in processes of their own.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from records import START, make_events, make_record
from scalesweep.record import Record, read_record
from scalesweep.record.store import encode
from scalesweep.record.table import columns, entries, flat
from scalesweep.report.wandb import content, ids, publisher
from scalesweep.report.wandb.tracker import WandbTracker
from scalesweep.report.wandb.uploader import clear, log_in
from wandb_files import write_promotion, write_run
from wandb_server import ENTITY, Fault, WandbServer

pytestmark = pytest.mark.wandb_server

ENDED = {"event": "sweep_ended", "time": START + 200, "reason": "run_cap"}
EVENTS = [*make_events(), ENDED]
PACE = 0.03  # seconds between two events of the sweep that is played
KEY = "5ec2e7" + "0" * 34
PROMOTION = "0123456789abcdef-promote-t0001"
LOOP_SECONDS = 0.02  # that the driver may wait for the tracker at an event


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logged in by an environment variable, with a home directory of the test's own."""
    (tmp_path / "home").mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@dataclass
class Played:
    """A sweep that was tracked: what the tracker said, its longest turn in the driver's loop, and the time of its `close`."""

    said: str
    longest: float
    close_seconds: float


def play(run_dir: Path, events: list[dict[str, Any]], pace: float = PACE, close_seconds: float = 20.0) -> Played:
    """Write the events one by one, as a driver does, with a tracker beside."""
    write_run(run_dir, [])
    record, said, longest = read_record(run_dir), io.StringIO(), 0.0
    tracker = WandbTracker(record, run_dir, "online", close_seconds=close_seconds, stream=said)
    with (run_dir / "record.jsonl").open("a") as file:
        for event in events:
            file.write(json.dumps(encode(event)) + "\n")
            file.flush()
            record.apply(event)
            begun = time.perf_counter()
            tracker.handle(event, record)
            longest = max(longest, time.perf_counter() - begun)
            time.sleep(pace)
    begun = time.monotonic()
    tracker.close(record)
    return Played(said.getvalue(), longest, time.monotonic() - begun)


def problems(played: Played) -> list[str]:
    return [line for line in played.said.splitlines() if "finishing" not in line]


def publish(run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "scalesweep.cli", "publish", str(run_dir), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)


def check_complete(server: WandbServer, record: Record) -> None:
    """Every run is there once, with every row once, and says what the leaderboard says."""
    runs, board = server.named(), content.board_of(record)
    assert set(runs) == {*record.trials, ids.SWEEP}
    for entry in board:
        run, trial = runs[entry["trial"]], record.trials[entry["trial"]]
        assert run.steps == list(range(len(trial.reports)))
        assert [row["step"] for row in run.history] == [report.step for report in trial.reports]
        assert run.settings["params"] == trial.params
        assert {key: run.summary.get(name) for key, name in content.RANKED.items()} == {
            key: entry[key] for key in content.RANKED
        }
        assert run.exit_code is not None
    sweep = runs[ids.SWEEP]
    assert {"rungs", "pareto_front", "charts/rungs_table"} <= sweep.summary.keys()
    assert sweep.steps == sorted(set(sweep.steps))
    assert len([step for step in sweep.steps if step % content.SPACING == 0]) == 9  # ends of trials; charts lie between
    assert sweep.summary["best_trial"] == "t0001"
    check_board(server, record)


def check_board(server: WandbServer, record: Record) -> None:
    """The table in the sweep's run is the leaderboard, with a link to each run."""
    sweep = server.named()[ids.SWEEP]
    table = json.loads(sweep.files[sweep.summary["leaderboard"]["path"]])
    names = [name for name in columns(record) if name != "traceback"]
    assert table["columns"] == [*names, "run"]
    expected = [
        [
            *(flat(entry).get(name) for name in names),
            f"{server.url}/{ENTITY}/tests/runs/{ids.run_id(record, entry['trial'])}",
        ]
        for entry in entries(record, None)
    ]
    assert table["data"] == expected


def rows_of(server: WandbServer) -> dict[str, list[dict[str, Any]]]:
    return {run.id: run.history for run in server.runs.values()}


def late(what: int | str) -> Fault:
    """It works until rows have arrived."""
    return Fault(lambda server, _: what if server.rows >= 5 else None)


# Name → the fault, the reason that the user is told, the seconds that `close` may take.
FAULTS: dict[str, tuple[Fault, str, float]] = {
    "401": (Fault(lambda *_: 401), "does not accept the API key (401); `wandb login` sets another one", 10),
    "403": (Fault(lambda _, operation: 403 if operation == "UpsertBucket" else None), "planted 403", 15),
    "500 from the start": (Fault(lambda *_: 500), "answers with an error (500)", 10),
    "500 after rows": (late(500), "answers with an error (500)", 15),
    "dropped in the middle": (late("drop"), "breaks the connection off", 15),
    "hanging": (Fault(lambda *_: "hang"), "does not answer within 8 s", 20),
    "3 s per request": (Fault(lambda *_: None, delay=3.0), "not finished after 20 s", 21),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.usefixtures("environment")
def test_nothing_is_lost_whatever_the_server_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, reason, seconds = FAULTS[name]
    run_dir = tmp_path / "sweep"
    with WandbServer(fault) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        played = play(run_dir, EVENTS)
        assert played.longest < LOOP_SECONDS
        assert played.close_seconds < seconds
        assert reason in played.said
        assert f"`scalesweep publish {run_dir}`" in played.said
        assert "Traceback" not in played.said
        assert all(line.startswith("W&B: ") for line in played.said.splitlines())
        for run in server.runs.values():
            assert run.steps == sorted(set(run.steps)), "a step is there twice"

        server.fault = None
        record = read_record(run_dir)
        done = publish(run_dir)
        assert done.returncode == 0, done.stderr
        check_complete(server, record)
        rows, artifacts = rows_of(server), len(server.artifacts)
        again = publish(run_dir)
        assert "0 runs written" in again.stderr
        assert (rows_of(server), len(server.artifacts)) == (rows, artifacts)
        check_complete(server, record)
    assert not list((tmp_path / "home").rglob("*.table.json")), "W&B keeps tables in the home directory"


@pytest.mark.usefixtures("environment")
def test_a_server_that_refuses_is_named_and_publish_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "sweep"
    with WandbServer() as server:  # its port is free afterwards
        pass
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    played = play(run_dir, EVENTS, pace=0.0)
    assert f"{server.url} can't be reached: Connection refused" in played.said
    assert played.close_seconds < 10
    done = publish(run_dir)
    assert done.returncode == 4
    assert "can't be reached: Connection refused" in done.stderr
    assert f"`scalesweep publish {run_dir}` sends the rest" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("environment")
def test_publish_goes_on_where_a_server_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = write_run(tmp_path / "sweep", EVENTS)
    with WandbServer(late(500)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        failed = publish(run_dir)
        assert failed.returncode == 4
        assert "answers with an error (500)" in failed.stderr
        assert "Traceback" not in failed.stderr
        server.fault = None
        assert publish(run_dir).returncode == 0
        check_complete(server, read_record(run_dir))


@pytest.mark.usefixtures("environment")
def test_a_healthy_server_has_every_run_when_the_sweep_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "sweep"
    half = next(place for place, event in enumerate(EVENTS) if event.get("fidelity") == 120)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert not problems(play(run_dir, EVENTS[:half]))
        unfinished = {name for name, run in server.named().items() if run.exit_code}
        assert "t0001" in unfinished
        resumed = [{"event": "session", "time": START + 5_000, "resumed": True}]
        moved = tmp_path / "elsewhere"
        run_dir.rename(moved)
        assert not problems(play(moved, [*resumed, *EVENTS[half:]]))
        check_complete(server, read_record(moved))
        ranks = {name: run.summary.get("rank") for name, run in server.named().items() if name != ids.SWEEP}
        board = [entry["trial"] for entry in entries(read_record(moved), None) if entry["rank"]]
        assert sorted(filter(ranks.get, ranks), key=ranks.__getitem__) == board
        before = sum(server.operations.values())
        assert publish(moved).returncode == 0
        assert sum(server.operations.values()) - before < 2 * len(server.runs)


@pytest.mark.usefixtures("environment")
def test_ranks_of_ended_trials_follow_without_opening_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(publisher, "SHARE", 1e9)
    record = make_record([])
    said: list[str] = []
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        follower = publisher.Publisher(record, tmp_path, log_in("online", tmp_path, said.append), said.append)
        counts = []
        for place, event in enumerate(EVENTS):
            record.apply(event)
            if event["event"] in ("end", "sweep_ended"):
                server.operations.clear()
                follower.update(record, EVENTS[: place + 1], over=False)
                counts.append(server.operations["RunResumeStatus"])
                for entry in entries(record, None):
                    if record.trials[entry["trial"]].state.ended:
                        assert server.named()[entry["trial"]].summary.get("rank") == entry["rank"]
        assert counts[-1] == 0, "a rank opened a run"
        assert sum(counts) == len(record.trials) + 1
        follower.update(record, EVENTS, over=True)
        follower.close()
        clear()
    assert said == []


@pytest.mark.usefixtures("environment")
def test_a_sweep_without_tracking_is_published_and_files_are_synced_by_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_record().manifest.spec
    bare = spec | {"tracking": {"wandb": {"mode": "disabled", "project": "tests", "entity": None, "tags": []}}}
    bare["tracking"]["wandb"]["log_model"] = True
    rate = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}
    bare["search_space"] = {"parameters": {"learning_rate": rate, "model_size": {"values": ["L1", "L4", "L6"]}}}
    run_dir = write_run(tmp_path / "sweep", EVENTS, spec=bare)
    write_promotion(run_dir, "t0001")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert publish(run_dir).returncode == 0
        check_promotion(server)
        rows, artifacts = rows_of(server), len(server.artifacts)
        assert "0 runs written" in (again := publish(run_dir).stderr)
        assert "12 were complete already" in again
        assert (rows_of(server), len(server.artifacts)) == (rows, artifacts)
        check_workspace(server)
        del server.runs[PROMOTION]
        check_complete(server, read_record(run_dir))
        check_sweep_artifact(server, run_dir)
    assert publish(run_dir, "--offline").returncode == 0
    files = sorted(map(str, (run_dir / "wandb").glob("offline-run-*")))
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb = [sys.executable, "-m", "wandb", "sync", *files]
        assert subprocess.run(wandb, capture_output=True, timeout=100, check=False).returncode == 0
        check_complete_of_sync(server, read_record(run_dir))


def check_promotion(server: WandbServer) -> None:
    """The run of the promoted trial stands beside the sweep, and its model is there without a path of the machine."""
    run, trial = server.runs[PROMOTION], server.named()["t0001"]
    assert (run.job_type, run.group, run.name) == ("promote", trial.group, f"promoted {trial.name}")
    assert (run.summary["test/eval_loss"], run.summary["test/standard_error/eval_loss"]) == (0.45, 0.01)
    assert (run.summary["validation/eval_loss"], run.summary["trial_rank"]) == (0.44, 1)
    assert run.settings["trial_run"] == trial.id
    assert run.settings["fixed"] == {"adapter": "none"}, "settings in effect"
    (model,) = [artifact for artifact in server.artifacts.values() if artifact["artifactTypeName"] == "model"]
    assert {alias["alias"] for alias in model["aliases"]} == {"latest", "promoted", "t0001"}
    assert set(model["files"]) == {"model.safetensors", "config.json"}
    assert json.loads(server.file(model, "config.json")) == {"_name_or_path": "minilm", "layers": 6}


def check_workspace(server: WandbServer) -> None:
    """One view was saved: the sweep's runs alone, by rank, with parameters and the metric of the top rung."""
    (view,) = server.views
    assert view["displayName"] == "quick (01234567)"
    spec = json.loads(view["spec"])["section"]
    runs = json.dumps(spec["runSets"])
    assert make_record().manifest.id in runs
    assert spec["runSets"][0]["sort"]["keys"] == [{"key": {"section": "summary", "name": "rank"}, "ascending": True}]
    pinned = json.dumps(spec["runSets"][0])
    assert all(f"summary:{name}" in pinned for name in ("rank", "ranked_metric", "rung"))
    panels = [panel for section in spec["panelBankConfig"]["sections"] for panel in section["panels"]]
    by_kind = {panel["viewType"]: panel["config"] for panel in panels}
    columns = [column["accessor"] for column in by_kind["Parallel Coordinates Plot"]["columns"]]
    assert columns == ["config:params.value.learning_rate", "config:params.value.model_size", "summary:ranked_metric"]
    assert by_kind["Parameter Importance"]["targetKey"] == content.TOP_RUNG
    assert [panel["config"]["xAxis"] for panel in panels if panel["viewType"] == "Run History Line Plot"] == [
        "tokens",
        "gpu_hours",
        "gpu_hours",
        "dollars",
    ]
    top = {name: run.summary.get(content.TOP_RUNG) for name, run in server.named().items() if run.job_type == "trial"}
    assert {name: value for name, value in top.items() if value is not None} == {"t0000": 0.58, "t0001": 0.44}
    assert server.named()[ids.SWEEP].summary["workspace"].startswith(f"{server.url}/{ENTITY}/tests?nw=")


def check_sweep_artifact(server: WandbServer, run_dir: Path) -> None:
    (kept,) = [artifact for artifact in server.artifacts.values() if artifact["artifactTypeName"] == "sweep"]
    assert set(kept["files"]) == {"sweep.json", "search_space.json", "record.jsonl"}
    lines = server.file(kept, "record.jsonl").splitlines()
    assert [json.loads(line)["event"] for line in lines] == [event["event"] for event in EVENTS]
    for place, content_sent in server.uploads.items():
        assert b"/home/me" not in content_sent, place
        assert str(run_dir).encode() not in content_sent, place


def check_complete_of_sync(server: WandbServer, record: Record) -> None:
    runs = server.named()
    for trial in record.trials.values():
        assert runs[trial.name].steps == list(range(len(trial.reports)))
        assert runs[trial.name].summary["state"] == str(trial.state)
    assert any(artifact["state"] == "COMMITTED" for artifact in server.artifacts.values())


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    import psutil

    yield
    ours = [child for child in psutil.Process().children(recursive=True) if "scalesweep.commands.follow" in child.cmdline()]
    _, alive = psutil.wait_procs(ours, timeout=5)
    assert not alive
