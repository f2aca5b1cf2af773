"""Reads W&B's transaction logs back: wandb itself has no public reader of its `.wandb` files.

A file is a 7-byte header and a LevelDB log: 32 KiB blocks of fragments, each with a CRC (4 bytes), a length (2) and a
type (1: whole, 2: first, 3: middle, 4: last); a record is one serialized `wandb_internal_pb2.Record`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

from records import make_manifest
from scalesweep.record.store import encode

BLOCK = 32 * 1024
WHOLE, LAST = 1, 4


def read_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Every record of a `.wandb` file."""
    content = path.read_bytes()
    assert struct.unpack(">4sHB", content[:7]) == (b":W&B", 0xE1BE, 0), f"{path} is no W&B log"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < 7:  # too short for a header: padding
            position += left_in_block
            continue
        _crc, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:  # the zeroed rest of a block
            position += left_in_block
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@dataclass
class WandbRun:
    """The contents of one `.wandb` file."""

    folder: Path
    run_id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    host: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, wandb_internal_pb2.MetricRecord] = field(default_factory=dict)
    exit_code: int | None = None
    kinds: set[str] = field(default_factory=set)


def read_run(path: Path) -> WandbRun:
    run = WandbRun(path.parent)
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        run.kinds.add(kind)
        if kind == "run":
            told = record.run
            run.run_id, run.group, run.job_type, run.name = told.run_id, told.run_group, told.job_type, told.display_name
            run.project, run.host, run.tags, run.notes = told.project, told.host, list(told.tags), told.notes
            run.config.update({item.key: json.loads(item.value_json) for item in told.config.update})
        elif kind == "config":
            run.config.update({item.key: json.loads(item.value_json) for item in record.config.update if item.key})
        elif kind == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            run.history.append(row)
        elif kind == "summary":
            for item in record.summary.update:
                run.summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def read_runs(wandb_dir: Path) -> list[WandbRun]:
    """Every run under a `wandb` folder, oldest file first."""
    wandb.teardown()  # `finish` returns before the service of this process has written a run's last block; this waits
    files = sorted(wandb_dir.glob("*run-*/run-*.wandb"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return [read_run(path) for path in files]


def write_promotion(run_dir: Path, trial: str) -> Path:
    """A promoted model in a run folder, as far as its W&B run reads it."""
    model = run_dir / "promoted" / trial
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text(json.dumps({"_name_or_path": "/home/me/models/minilm", "layers": 6}))
    final = {
        "config": {"model_size": "L6", "learning_rate": 1.2e-4, "unfreezing": "full", "adapter": "none", "lora_rank": 8},
        "train_on": ["train"],
    }
    final |= {"length": "as in the sweep", "steps": 360, "tokens": 460_800, "flops": 1e15, "wall_seconds": 9.0}
    content = {
        "sweep": {"name": "quick", "id": make_manifest()["id"], "run_dir": "sweep"},
        "trial": {"name": trial, "validation": {"eval_loss": 0.44}},
        "base_model": {"model": "/home/me/models/minilm"},
        "n_params": 22_713_216,
        "final_run": final,
        "test": {"eval_loss": 0.45, "eval_accuracy": 0.77},
        "test_standard_errors": {"eval_loss": 0.01},
        "data": {"fingerprint": "f00dfeed"},
        "test_reads": 1,
    }
    (model / "provenance.json").write_text(json.dumps(content))
    return model


def write_run(folder: Path, events: list[dict[str, Any]], **changes: Any) -> Path:
    """A run folder whose record holds the events. Those of a folder that exists follow the ones that it has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(encode(make_manifest(**changes))))
    with (folder / "record.jsonl").open("a") as file:
        file.writelines(json.dumps(encode(event)) + "\n" for event in events)
    return folder
