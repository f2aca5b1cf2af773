"""`choose` from a sweep file to its ranking, on a real local Ray with tiny models; and its plan, which trains nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import refused, run
from records import make_manifest
from scalesweep.record import Record, State, read_record
from scalesweep.report.page.data import page_data
from scalesweep.report.terminal import where_it_is
from scalesweep.scaling.choice import choice_of_record
from scalesweep.spec import sweep_from_dict
from scalesweep.sweep.choosing import design
from tiny_sweeps import tiny_sweep


def sweep_file(folder: Path, **changes: Any) -> Path:
    """Two depths of a tiny model and 80 rows to train on, in batches of 2, one pass: the smallest of six subsets has 2 rows."""
    data = tiny_sweep(layers=(1, 2))
    data["data"]["splits"] = {"train": 80, "validation": 20, "test": 20}
    data["search_space"]["parameters"] |= {
        "unfreezing": {"values": ["gradual", "full"]},
        "unfreeze_interval": {"value": 20, "when": {"unfreezing": "gradual"}},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-2},
        "dropout": {"min": 0.0, "max": 0.2},
        "weight_decay": {"min": 0.1, "max": 0.3},
    }
    data |= {"name": "tiny", "training": {"global_batch_size": 2, "eval_interval": 4}, "budget": {"run_cap": 9, "time": "1m"}}
    data |= {"early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 4, "max_t": 40}} | changes
    (folder / "space.yaml").write_text(yaml.safe_dump(data["search_space"]))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(data | {"search_space": "space.yaml"}))
    return path


def test_the_plan_comes_before_any_compute(tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    done = run("choose", path, "--share", "1/2", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "subsets 2, 3, 5, 10, 20, 40 of 80 training rows, each part of the next; 1 pass over each, 1 to 20 steps" in text
    assert "rates 0.00147, 0.00316, 0.00681; the best of each subset counts" in text
    assert "fixed unfreezing full, weight_decay 0.2" in text, "the default where the space can draw it, else the middle"
    assert "train 36 times: 2 checkpoints × 6 subsets × 3 learning rates" in text
    assert not (tmp_path / "runs").exists()
    plan = json.loads(run("choose", path, "--share", "1/2", "--rates", "1", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["trainings"] == 12
    assert plan["flops"] == pytest.approx(sum(one["flops"] for one in plan["candidates"]))
    assert plan["candidates"][0]["flops"] < plan["candidates"][1]["flops"]
    for words, said in (
        (("--set", "early_terminate.time_attr=flops"), "candidates would pass over the data less often the larger they are"),
        (("--set", "search_space.parameters.model_size.values=[L1]"), "has one candidate, and choose compares at least two"),
        (("--set", "budget.gpu_hours=1.0e-9"), "choose needs about"),
        (("--share", "1/8"), "the smallest of 6 subsets has 1 row, fewer than global_batch_size (2)"),
        (("--address", "http://head:8265"), "choose can't run as a Ray job"),
    ):
        assert said in refused("choose", path, "--share", "1/2", *words, *(() if "--address" in words else ("--dry-run",)))


def test_thaws_come_at_the_same_share_of_every_run(tmp_path: Path) -> None:
    data = yaml.safe_load(sweep_file(tmp_path).read_text()) | {
        "search_space": yaml.safe_load((tmp_path / "space.yaml").read_text())
    }
    data["search_space"]["parameters"]["unfreezing"] = {"values": ["gradual"]}
    data["search"] = {"points_to_evaluate": [{"learning_rate": 0.008, "weight_decay": 0.15}]}
    made = design(sweep_from_dict(data))
    assert made.fixed == {
        **{"unfreezing": "gradual", "unfreeze_cadence": "fraction", "unfreeze_fraction": 0.5, "weight_decay": 0.15}
    }
    assert made.rates == (0.00253, 0.008), "around the rate that the sweep tries first, within its range"
    assert made.spec.budget.run_cap == made.trainings == 2 * 6 * 2
    assert made.spec.training.eval_interval is None
    record, before = (Record(make_manifest(spec=spec.model_dump(mode="json"))) for spec in (made.spec, sweep_from_dict(data)))
    assert where_it_is("runs/x", Path("runs/x"), record).endswith("scalesweep choose runs/x")
    assert not before.manifest.chooses
    assert page_data(record)["commands"]["choose"] == "scalesweep choose RUN_DIR"
    assert "choose" not in page_data(before)["commands"]


@pytest.mark.slow
def test_a_choice_is_a_sweep_whose_record_shows_it_again(tmp_path: Path, ray_of_its_own: None) -> None:  # noqa: ARG001
    path = sweep_file(tmp_path)
    words = ("--share", "1/2", "--rates", "1", "--num-gpus", "2", "--set", "early_terminate.max_t=400")
    done = run("choose", path, *words, cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert "train  12 times: 2 checkpoints × 6 subsets × 1 learning rate" in done.stderr
    folder = tmp_path / "runs/tiny-choose"
    record = read_record(folder)
    assert record.status == "ended"
    assert all(trial.state is State.COMPLETE for trial in record.trials.values())
    assert len(record.trials) == 12
    for trial in record.trials.values():
        rows = choice_rows(trial.config["train_share"])
        assert trial.last.step == trial.config["max_t"] == math.ceil(400 * trial.config["train_share"]), (
            "as many passes over each"
        )
        assert trial.last.metrics["epoch"] == pytest.approx(trial.last.step / -(-rows // 2))
        assert len(trial.reports) == 1
    found = choice_of_record(record)
    assert (found.trainings, found.missing) == (12, 0)
    again = run("choose", "runs/tiny-choose", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (done.returncode, done.stdout)
    if done.returncode == 0:
        assert f"--set 'search_space.parameters.model_size.values=[{found.best.name}]'" in done.stderr
    report = " ".join(run("report", "runs/tiny-choose", cwd=tmp_path).stdout.split())
    assert "`scalesweep choose runs/tiny-choose` ranks the checkpoints" in report
    assert "already" in refused("choose", path, *words, cwd=tmp_path)
    assert "`scalesweep choose runs/tiny-choose` ranks the checkpoints" in refused("resume", "runs/tiny-choose", cwd=tmp_path)


def choice_rows(share: float) -> int:
    return {0.5: 40, 0.25: 20, 0.125: 10, 0.0625: 5, 0.03125: 3, 0.015625: 2}[share]
