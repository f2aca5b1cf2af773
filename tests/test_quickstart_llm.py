"""The sweep of `make quickstart-llm` on its real questions, with a tiny decoder in place of the pretrained one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from scalesweep import Sweep
from tiny_models import save_tiny

ROOT = Path(__file__).parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_llm", ROOT / "scripts" / "quickstart_llm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="reasoning-gym makes the questions; `make quickstart-llm` installs it",
)
def test_the_sweep_plans(tmp_path: Path) -> None:
    write = script()
    write.write_questions(tmp_path / "siblings.jsonl")
    rows = [json.loads(line)["messages"] for line in (tmp_path / "siblings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({user["content"] for _, user, _ in rows}) == len(rows) == write.ROWS
    assert {answer["content"] for *_, answer in rows} == set("23456")

    save_tiny("llama", tmp_path / "smollm2", "causal-lm", num_hidden_layers=write.BLOCKS)
    at = {"data.path": tmp_path / "siblings.jsonl", "ladder.model": tmp_path / "smollm2"}
    plan = Sweep.load(ROOT / "sweeps" / "instruct-quickstart.yaml", [f"{key}={value}" for key, value in at.items()]).plan()
    assert plan.baseline.metrics["eval_exact_match"] < 0.35
