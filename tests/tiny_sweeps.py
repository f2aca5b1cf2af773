"""A sweep over a tiny model and rows of made-up text, for tests that train many times and need no real model."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_models import WORDS, made_once, tiny_checkpoint


def write_rows(path: Path) -> str:
    """120 distinct rows whose label a model can learn from a word."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        for number in range(120):
            words = draw.sample(WORDS, 8)
            writer.writerow([" ".join([*words, WORDS[number % 40]]), ("good", "poor")[number % 2]])
    return str(path)


def write_talks(path: Path) -> str:
    """120 distinct conversations of one or two answers, each the first word of its question and a full stop."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(120):
            messages = []
            for _ in range(1 + number % 2):
                words = draw.sample(WORDS, draw.randint(2, 5))
                messages += [{"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": f"{words[0]} ."}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return str(path)


def tiny_sweep(
    kind: str = "bert",
    task: str = "sequence-classification",
    model: Path | None = None,
    rows: str | None = None,
    layers: Sequence[int] = (),
) -> dict[str, Any]:
    """The `sweep` argument of `jobs.job`: 60 rows to train on, in batches of 16, so the last of an epoch has 12.

    `layers` makes a ladder of depths (L1, L2, …) of the model; without, it has one size, named `kind`.
    """
    data: dict[str, Any] = {"path": rows or str(made_once("rows.csv", write_rows)), "text": "text", "max_length": 16}
    if task == "instruction-tuning":
        data = {"path": rows or str(made_once("talks.jsonl", write_talks)), "max_length": 24}
    data["splits"] = {"train": 60, "validation": 20, "test": 20}
    if task == "sequence-classification":
        data["label"] = "category"
    space: dict[str, Any] = {
        "unfreezing": {"values": ["gradual", "head"]},
        "unfreeze_interval": {"value": 3},
        "learning_rate": {"value": 0.003},
    }
    folder = str(model or tiny_checkpoint(kind, task))
    ladder: Any = [{"name": kind, "model": folder}]
    if layers:
        ladder = {"model": folder, "layers": list(layers)}
        space["model_size"] = {"values": [f"L{depth}" for depth in layers]}
    return {"task": task, "data": data, "ladder": ladder, "search_space": {"parameters": space}}
