"""A run folder of an earlier version is read, ranked and resumed.

`old_run/` was interrupted in its second trial. Its checkpoints are left out, so that trial begins anew. FOLDER stands for the
place of its data. The folder is never made anew: a later version that reads it is what these tests are for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import run
from scalesweep.errors import UserError
from scalesweep.promotion.choice import checked_config, choose
from scalesweep.record import read_record
from scalesweep.spec import sweep_from_dict
from scalesweep.training.job import job_from_manifest

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy of the folder whose data lie beside it."""
    shutil.copy(OLD / "data.jsonl", tmp_path)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    shutil.copy(OLD / "record.jsonl", run_dir)
    manifest = (OLD / "sweep.json").read_text()
    (run_dir / "sweep.json").write_text(manifest.replace('"FOLDER/', f'"{tmp_path}/'))
    return run_dir


def test_its_leaderboard_is_unchanged(old_run: Path) -> None:
    board = json.loads(run("leaderboard", old_run, "--json").stdout)
    assert [(row["trial"], row["state"], row["metric"], row["rung"]) for row in board["trials"]] == [
        ("t0000", "COMPLETE", 0.6869103312492371, 3),
        ("t0001", "RUNNING", 0.6889582276344299, 1),
    ]


def test_promotion_picks_from_it_and_makes_its_job(old_run: Path) -> None:
    record = read_record(old_run)
    with pytest.raises(UserError, match="has not ended"):
        choose(record, old_run, "best")
    trial = choose(record, old_run, "t0000")
    config = checked_config(record, trial, old_run)
    assert (config.learning_rate, config.unfreezing, config.max_t) == (0.00034324115020458297, "head", 8)
    job = job_from_manifest(record.manifest, sweep_from_dict(record.manifest.spec), trial.name, config, None)
    assert (job.data.path, job.classes) == (str(old_run.parent / "data.jsonl"), ("neg", "pos"))
    assert (job.size.layers, job.metric, job.minimize) == (1, "eval_loss", True)


def test_it_is_resumed_to_its_end(old_run: Path, local_ray: None) -> None:  # noqa: ARG001
    before = read_record(old_run)
    done = run("resume", old_run, "--num-gpus", "1", "--set", "budget.run_cap=4", "--json")
    assert done.returncode == 0, done.stderr
    after = read_record(old_run)
    assert after.ended_reason == "budget: run_cap"
    first, second, third, _ = after.by_number()
    assert first == before.trials["t0000"]
    assert (second.params, second.attempts) == (before.trials["t0001"].params, 2)
    assert second.reports[0] == before.trials["t0001"].reports[0]
    assert third.state.ended
    assert [row["trial"] for row in json.loads(done.stdout)["trials"]]
