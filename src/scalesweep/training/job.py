"""What goes to a worker and what comes back: a job to train, and reports. Plain values.

Imports nothing heavy: the process that places workers passes jobs on and never trains.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.costs import matmul_params
from scalesweep.errors import OutsideError
from scalesweep.spec import LadderSize, TrialConfig
from scalesweep.spec.sweep import DataSpec
from scalesweep.training.metrics import LANGUAGE_MODELLING

if TYPE_CHECKING:
    from scalesweep.data.tokens import TokenizedData


@dataclass(frozen=True)
class TrialJob:
    """`data_key` names the tokenized data in each node's cache; `group_params` counts weights per layer group, bottom to
    top, as FLOPs do. `train_on` joins splits; `evaluate_on` is never `test` in a sweep."""

    trial: str
    task: str
    config: TrialConfig
    size: LadderSize
    group_params: tuple[int, ...]
    hidden_size: int
    tokenizer_fingerprint: str
    data: DataSpec
    data_key: str
    classes: tuple[str, ...]
    threads: int
    checkpoint_dir: str | None = None
    train_on: tuple[str, ...] = ("train",)
    evaluate_on: str = "validation"
    heartbeat_steps: int | None = None  # also report after so many steps, without evaluating

    @property
    def n_layers(self) -> int:
        return len(self.group_params) - 2


@dataclass(frozen=True)
class TrainReport:
    """One evaluation. `fidelity` counts the sweep's `time_attr`; `tokens` and `flops` are those trained on so far."""

    step: int
    fidelity: int
    tokens: int
    flops: float
    metrics: dict[str, float]
    total_steps: int


def cache_dir() -> Path:
    """Where a node keeps tokenized data: `$SCALESWEEP_CACHE`, or `~/.cache/scalesweep`."""
    return Path(os.environ.get("SCALESWEEP_CACHE") or Path.home() / ".cache" / "scalesweep")


def open_data(job: TrialJob) -> TokenizedData:
    """The trial's data from this node's cache, made there first where this node has none yet.

    Raises:
        OutsideError: the source gives other data on this node than where the sweep was launched.
    """
    from scalesweep.data.tokens import TokenizedData, prepare, tokenize
    from scalesweep.models.ladder import load_tokenizer

    folder = cache_dir() / job.data_key
    if not folder.is_dir():
        prepared = prepare(job.data, job.task, Path.cwd())
        made = tokenize(prepared, job.data, job.task, load_tokenizer(job.size), job.tokenizer_fingerprint, cache_dir())
        if made.name != job.data_key:
            raise OutsideError(f"{job.data.path} holds other data on this node than where the sweep was launched")
    return TokenizedData.open(folder)


def ladder_entry(manifest: dict[str, Any], size: str) -> dict[str, Any]:
    """What a run folder's manifest says of a ladder size."""
    return next(dict(entry) for entry in manifest["ladder"] if entry["name"] == size)


def job_from_manifest(
    manifest: dict[str, Any], trial: str, config: TrialConfig, checkpoint_dir: Path | None, **changes: Any
) -> TrialJob:
    """The job that trains `config` in the sweep that `manifest` describes. `changes` override fields of the job."""
    entry = ladder_entry(manifest, config.model_size)
    output_weights = entry["vocab_size"] * entry["hidden_size"] if manifest["spec"]["task"] == LANGUAGE_MODELLING else 0
    fields: dict[str, Any] = {
        "trial": trial,
        "task": manifest["spec"]["task"],
        "config": config,
        "size": LadderSize(**entry["entry"]),
        "group_params": matmul_params(entry["group_params"], output_weights),
        "hidden_size": entry["hidden_size"],
        "tokenizer_fingerprint": entry["tokenizer_fingerprint"],
        "data": DataSpec(**manifest["data"]["source"]),
        "data_key": entry["data_key"],
        "classes": tuple(manifest["data"]["classes"]),
        "threads": manifest["spec"]["resources"]["cpus_per_worker"],
        "checkpoint_dir": str(checkpoint_dir) if checkpoint_dir else None,
    }
    return TrialJob(**{**fields, **changes})
