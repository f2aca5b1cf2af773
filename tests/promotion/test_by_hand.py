"""`run`: one configuration trained by hand, with no cluster and no trace in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from command_line import refused, run
from jobs import job, manifest, reports
from preflights import sizes_resolved_once
from scalesweep.record import RecordWriter
from scalesweep.spec import sweep_from_dict, trial_config
from sweeps import sweep_dict
from tiny_sweeps import tiny_sweep

SHORT = {"early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 2, "max_t": 4, "reduction_factor": 2}}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a trial of two workers that has the reports of its configuration."""
    folder = tmp_path_factory.mktemp("hand") / "run"
    made = manifest(**tiny_sweep(), **SHORT)
    spec = sweep_from_dict(made.spec)
    params = {"unfreezing": "gradual", "unfreeze_interval": 3, "learning_rate": 0.003}
    config = trial_config(spec, params).model_dump() | {"num_gpus": 2}
    writer = RecordWriter(folder, made)
    writer.append({"event": "trial", "time": 1.0, "trial": "t0000", "number": 0, "params": params, "config": config})
    writer.append(
        {"event": "start", "time": 1.0, "trial": "t0000", "attempt": 1, "workers": [], "wall_seconds": 0, "gpu_seconds": 0}
    )
    for report in reports(job(config | {"num_gpus": 1}, sweep={**tiny_sweep(), **SHORT})):
        told = {"fidelity": report.fidelity, "step": report.step, "tokens": report.tokens, "metrics": report.metrics}
        cost = {"flops": 1.0, "wall_seconds": 1.0, "gpu_seconds": 2.0, "rungs": [], "action": "continue", "cutoff": None}
        writer.append({"event": "report", "time": 2.0, "trial": "t0000", **told, **cost})
    writer.close()
    return folder


def test_a_trial_trains_again_to_its_own_values(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    done = run("run", run_dir, "--trial", "t0000")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2", "4"]
    for line in lines:
        value = line.split("eval_loss ")[1].split()[0]
        assert f"eval_loss {value} (in the sweep {value})" in line
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_parameters_change_a_trial_and_its_reports_go_out_as_json(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir.parent)
    (Path("runs")).mkdir()
    Path("runs/tiny").symlink_to(run_dir)
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep_dict(**tiny_sweep(), **SHORT) | {"name": "tiny"}))
    done = run("run", "sweep.yaml", "--trial", "t0000", "--params", "unfreezing=head", "--max-t", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["config"]["unfreezing"], document["config"]["max_t"], document["config"]["num_gpus"]) == ("head", 2, 1)
    assert [report["step"] for report in document["reports"]] == [2]
    with sizes_resolved_once():
        alone = run("run", "sweep.yaml", "--params", "unfreezing=head", "--max-t", "2", "--json")
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["reports"][0]["metrics"]["eval_loss"] == document["reports"][0]["metrics"]["eval_loss"]


def test_what_can_t_be_trained_is_refused_with_its_remedy(run_dir: Path) -> None:
    for words, part in (
        (["--trial", "t1"], "has no trial 't1'"),
        ([], "name one with --trial"),
        (["--trial", "t0000", "--params", "lr=1"], "scalesweep calls it 'learning_rate'"),
        (["--trial", "t0000", "--params", "learning_rate=1e30"], "--params learning_rate=1e30: this is outside 0 … 10"),
        (["--trial", "t0000", "--params", "learning_rate=high"], "--params learning_rate=high: this is no float"),
        (["--trial", "t0000", "--params", "unfreezing=gradul"], "did you mean 'gradual'?"),
        (["--trial", "t0000", "--params", "model_size=huge"], "--params model_size=huge"),
        (
            ["--trial", "t0000", "--params", "unfreezing=full", "--params", "unfreeze_interval=3"],
            "--params unfreeze_interval=3 has no effect: unfreezing is full",
        ),
    ):
        assert part in refused("run", str(run_dir), *words)


def test_an_error_of_the_training_comes_with_its_traceback(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("scalesweep.training.loop.Trainer.train_step", broken)
    done = run("run", run_dir, "--trial", "t0000")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "error: the training failed: RuntimeError: no such kernel" in done.stderr
