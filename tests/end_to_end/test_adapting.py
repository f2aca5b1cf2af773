"""A whole adaptation: sweep, promotion, new data, sweep from the promoted model, judgement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import scalesweep
from command_line import refused
from scalesweep.record import read_record
from sweeps import sweep_dict
from tiny_sweeps import tiny_sweep


def run_apart(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scalesweep.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=cwd, env=dict(os.environ))


def done(*arguments: str | Path, cwd: Path) -> str:
    ended = run_apart(*arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_a_promoted_model_is_adapted_by_one_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_of_its_own: None,  # noqa: ARG001
) -> None:
    tiny: dict[str, Any] = tiny_sweep(layers=(1, 2))
    space = {"parameters": {**tiny["search_space"]["parameters"], "unfreezing": {"value": "full"}}}
    del space["parameters"]["unfreeze_interval"]
    sweep = sweep_dict(**{**tiny, "search_space": space, "budget": {"run_cap": 2}, "resources": {"max_concurrent_trials": 1}})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep))
    new = tmp_path / "new"
    new.mkdir()
    rows = [{"text": f"{'fine' if n % 2 else 'dull'} story {n}", "category": ("good", "poor")[n % 2]} for n in range(300)]
    for part in (0, 1):
        (new / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[part::2]))
    done("launch", "tiny.yaml", cwd=tmp_path)
    export = json.loads(done("promote", "runs/tiny", "--confirm", "off", "--json", cwd=tmp_path))["output"]
    wide = ("--worse-by", "9", "--set", "early_terminate.max_t=60", "--set", "budget.run_cap=3", "--json")
    result = json.loads(done("adapt", export, "--data", new, *wide, cwd=tmp_path))
    assert result["adapted"]["new"]["better_by"][1] > 0
    assert Path(tmp_path / result["output"]).is_relative_to(tmp_path / "runs" / "tiny-adapted" / "promoted")
    record = read_record(tmp_path / "runs" / "tiny-adapted")
    params = [trial.params for trial in record.by_number()]
    assert (
        params[0]["model_size"]
        == json.loads((tmp_path / export / "provenance.json").read_text())["trial"]["params"]["model_size"]
    )
    assert all("rehearsal_share" in one for one in params)
    last = record.by_number()[0].last
    assert last is not None
    assert {"eval_loss", "new_loss", "old_loss", "new_accuracy", "old_accuracy"} <= last.metrics.keys()
    again = json.loads(done("adapt", export, "--data", new, *wide, cwd=tmp_path))
    assert again["weights"] == result["weights"]
    overrides = [word for word in wide if "=" in word]
    monkeypatch.chdir(tmp_path)
    assert scalesweep.adapt(export, new, worse_by=9.0, overrides=overrides)["weights"] == result["weights"]
    assert "other settings" in refused("adapt", export, "--data", new, "--worse-by", "1")
