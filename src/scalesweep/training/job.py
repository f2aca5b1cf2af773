"""What goes to a worker and what comes back: a job to train, and reports. Plain values.

Imports nothing heavy: the process that places workers passes jobs on and never trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalesweep.costs import FlopProfile
from scalesweep.errors import OutsideError
from scalesweep.spec import LadderSize, TrialConfig, sweep_from_dict
from scalesweep.spec.sweep import DataSpec
from scalesweep.storage import UrlPath, cache_dir

if TYPE_CHECKING:
    from scalesweep.data.tokens import TokenizedData


@dataclass(frozen=True)
class TrialJob:
    """`data_key` names the tokenized data in each node's cache; `flops` says what a pass costs per layer group.
    `train_on` joins splits; `evaluate_on` is never `test` in a sweep."""

    trial: str
    task: str
    config: TrialConfig
    size: LadderSize
    flops: FlopProfile
    data: DataSpec
    data_key: str
    tokenizer_fingerprint: str
    classes: tuple[str, ...]
    threads: int
    checkpoint_dir: str | None = None  # a path or a URL
    reached: float = 0.0  # fidelity of the last report that is recorded
    train_on: tuple[str, ...] = ("train",)
    evaluate_on: str = "validation"
    heartbeat_steps: int | None = None  # also report after so many steps, without evaluating
    saves_first: Literal["never", "rungs", "reports"] = "never"  # where the checkpoint is there before the report is given out,
    # because the trial may be paused there and go on later on other workers
    metric: str = "eval_loss"  # what a plateau is seen in
    minimize: bool = True
    thaw_at: tuple[float, ...] | None = None  # shares of the run at which stages of unfreezing begin, in the cadence's place
    price: float | None = None  # dollars per GPU hour
    cache_gib: float | None = None  # disk that cached activations may take on a node; None: a share of what is free
    shared_modes: tuple[str, ...] = ()  # ways of unfreezing in this sweep, whose trials share cached activations


@dataclass(frozen=True)
class TrainReport:
    """Where a trial stands. `fidelity` counts the sweep's `time_attr`; `tokens` are those trained on so far.

    `flops` were computed so far, by all workers: padding and evaluation are in, what the cache saved is not.
    `model_flops` are what the training alone takes without a cache, each global batch padded to its longest example: the same
    for any GPU count.
    `train_seconds` were spent in training steps, without loading, evaluating and saving. `first_step_at` and `reported_at`
    (unix seconds) tell what a change of trials costs: from the last report of one to the first step of the next.
    """

    step: int
    fidelity: float
    tokens: int
    model_flops: float
    metrics: dict[str, float]
    total_steps: int  # where the fidelity counts neither steps nor tokens: an estimate
    # What depends on the machine and on what other trials left in the cache is no part of a report's identity.
    flops: float = field(default=0.0, compare=False)
    train_seconds: float = field(default=0.0, compare=False)
    first_step_at: float = field(default=0.0, compare=False)  # unix seconds, of this attempt
    reported_at: float = field(default=0.0, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


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
    manifest: dict[str, Any], trial: str, config: TrialConfig, checkpoint_dir: Path | UrlPath | None, **changes: Any
) -> TrialJob:
    """The job that trains `config` in the sweep that `manifest` describes. `changes` override fields of the job."""
    entry, spec = ladder_entry(manifest, config.model_size), sweep_from_dict(manifest["spec"])
    unfreezing = spec.search_space.parameters.get("unfreezing")
    fields: dict[str, Any] = {
        "trial": trial,
        "task": spec.task,
        "config": config,
        "size": LadderSize(**entry["entry"]),
        "flops": FlopProfile.from_dict(entry["flops"]),
        "data": DataSpec(**manifest["data"]["source"]),
        "data_key": entry["data_key"],
        "tokenizer_fingerprint": entry["tokenizer_fingerprint"],
        "classes": tuple(manifest["data"]["classes"]),
        "threads": spec.resources.cpus_per_worker,
        "metric": manifest["metric"]["name"],
        "minimize": manifest["metric"]["goal"] == "minimize",
        "checkpoint_dir": str(checkpoint_dir) if checkpoint_dir else None,
        "saves_first": "rungs" if spec.early_terminate.variant == "promotion" else "never",
        "price": spec.price(config.model_size),
        "cache_gib": spec.resources.cache_gib,
        "shared_modes": tuple(str(mode) for mode in (unfreezing.choices() or [] if unfreezing else [])),
    }
    return TrialJob(**{**fields, **changes})
