"""The whole training path on a tiny model of every supported architecture: gradual unfreezing, checkpoint, resume, export."""

from __future__ import annotations

import csv
import functools
import random
from pathlib import Path
from typing import Any

import pytest

from jobs import job, reports
from scalesweep.promotion.promote import verify
from scalesweep.training.loop import Trainer, train
from tiny_models import DECODERS, TINY, WORDS, save_tiny

CASES = [(kind, "sequence-classification") for kind in TINY] + [(kind, "causal-lm") for kind in DECODERS]


@functools.cache
def text_file(folder: str) -> str:
    """120 distinct rows whose label a model can learn from a word."""
    draw = random.Random(0)
    path = Path(folder) / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        for number in range(120):
            words = draw.sample(WORDS, 8)
            writer.writerow([" ".join([*words, WORDS[number % 40]]), ("good", "poor")[number % 2]])
    return str(path)


@pytest.mark.parametrize(("kind", "task"), CASES, ids=lambda value: value)
def test_trains_thaws_resumes_and_exports(
    kind: str, task: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = save_tiny(kind, tmp_path / "model", task)
    rows = text_file(str(tmp_path_factory.getbasetemp()))
    data: dict[str, Any] = {
        "path": rows,
        "text": "text",
        "splits": {"train": 60, "validation": 20, "test": 20},
        "max_length": 16,
    }
    if task == "sequence-classification":
        data["label"] = "category"
    spec = {
        "task": task,
        "data": data,
        "ladder": [{"name": "tiny", "model": str(model)}],
        "search_space": {"parameters": {"learning_rate": {"min": 0.001, "max": 0.01}}},
    }
    # Three blocks, embeddings and head: five groups, all thawed by step 4 (T5 has a decoder of three more).
    config = {
        "unfreezing": "gradual",
        "unfreeze_interval": 1,
        "max_t": 6,
        "rungs": [3],
        "eval_interval": None,
        "learning_rate": 3e-3,
    }
    undisturbed = list(reports(job(config, sweep=spec)))
    assert [report.metrics["trainable_groups"] for report in undisturbed] == [3, 6 if kind == "t5" else 5]
    interrupted = reports(job(config, tmp_path / "checkpoint", sweep=spec))
    assert [next(interrupted), next(interrupted)] == undisturbed
    made = job(config, tmp_path / "checkpoint", sweep=spec)
    trainer = Trainer(made)
    assert list(train(trainer)) == undisturbed
    logits = trainer.export(tmp_path / "export")
    verify(made, tmp_path / "export", logits)
