"""The messages between driver and workers: a job to train, and reports. All are plain values.

The module imports nothing heavy, because the process that places workers passes jobs on and never trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalesweep.costs import FlopProfile
from scalesweep.errors import OutsideError
from scalesweep.spec import LadderSize, SweepSpec, TrialConfig, price_of
from scalesweep.spec.sweep import DataSpec
from scalesweep.storage import UrlPath, cache_dir

if TYPE_CHECKING:
    from scalesweep.data.tokens import TokenizedData
    from scalesweep.examples import Examples


ADAPTER_FOLDER = "adapter"  # of an export, beside the merged model


@dataclass(frozen=True)
class TrialJob:
    """A trial to train. `data_key` names the tokenized data in each node's cache. `flops` is the cost of a pass per layer
    group. `train_on` lists splits that are joined. `evaluate_on` is never `test` in a sweep."""

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
    reached: float = 0.0  # fidelity of the last recorded report
    train_on: tuple[str, ...] = ("train",)
    evaluate_on: str = "validation"
    heartbeat_steps: int | None = None  # also report after this many steps, without an evaluation
    saves_first: Literal["never", "rungs", "reports"] = "never"  # reports before which the
    # checkpoint is saved, because the trial may be paused there and continued on other workers
    metric: str = "eval_loss"  # of the sweep; for the plateau cadence, and for what is computed only where it is asked for
    function: str | None = None  # of the user's, that computes the metric
    minimize: bool = True
    thaw_at: tuple[float, ...] | None = None  # shares of the run at which unfreezing stages begin; replaces the cadence
    price: float | None = None  # dollars per GPU hour
    cache_gib: float | None = None  # disk for cached activations on a node; None: a share of the free disk
    untrained: bool = False  # also report the metrics before the first step
    head_groups: int = 1  # layer groups, from the top, that train as the head
    class_weights: tuple[float, ...] | None = None  # in the training loss
    parallel: str = "replicated"  # how the workers share the model (`training/parallel/`)
    shared_modes: tuple[str, ...] = ()  # unfreezing modes of this sweep, whose trials share cached activations
    keep: Literal["last", "best"] = "last"  # the checkpoint to end with; best: of the metric on `evaluate_on`
    judges: bool = False  # trains nothing: evaluates the kept checkpoint of an earlier job


@dataclass(frozen=True)
class TrainReport:
    """The position of a trial. `fidelity` counts the sweep's `time_attr`; `tokens` counts the tokens trained on so far.

    `flops` counts the FLOPs computed so far by all workers, with padding and evaluation and without cached work.
    `model_flops` counts the FLOPs of training alone without a cache, each global batch padded to its longest example. It is
    the same for any GPU count. `train_seconds` is the time in training steps, without loading, evaluation and saving.
    `device` is the name of the first worker's GPU, or `cpu`. `first_step_at` and `reported_at` (unix seconds) show the cost of a
    change of trials: the time from the last report of one trial to the first step of the next.
    """

    step: int
    fidelity: float
    tokens: int
    model_flops: float
    metrics: dict[str, float]
    total_steps: int  # an estimate if the fidelity counts neither steps nor tokens
    # Reports are compared without values that depend on the machine or on the cache contents.
    flops: float = field(default=0.0, compare=False)
    train_seconds: float = field(default=0.0, compare=False)
    first_step_at: float = field(default=0.0, compare=False)  # unix seconds, of this attempt
    reported_at: float = field(default=0.0, compare=False)
    device: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    examples: Examples | None = field(default=None, compare=False)


def open_data(job: TrialJob) -> TokenizedData:
    """The trial's data from this node's cache, which creates them first if they are missing.

    Raises:
        OutsideError: the source has different data on this node from where the sweep was launched.
    """
    from scalesweep.data.prepare import prepare
    from scalesweep.data.tokens import TokenizedData, is_written, tokenize
    from scalesweep.models.ladder import load_tokenizer

    folder = cache_dir() / job.data_key
    if not is_written(folder):
        prepared = prepare(job.data, job.task, Path.cwd())
        made = tokenize(prepared, job.data, job.task, load_tokenizer(job.size), job.tokenizer_fingerprint, cache_dir())
        if made.name != job.data_key:
            raise OutsideError(
                f"{job.data.shown} has different data on this node from where the sweep was launched",
                "restore the file of the launch; if it is that file, another version of scalesweep read it otherwise: launch anew",
            )
    return TokenizedData.open(folder)


def class_weights(written: Any, data: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The weight of each class. `written`: the key of the sweep; `data`: the manifest's.

    Balanced weights are rows / (classes × rows of the class) of the train split (King and Zeng, 2001), as in scikit-learn.
    """
    if written == "none":
        return None
    if written != "balanced":
        named = {str(name): float(weight) for name, weight in written.items()}
        return tuple(named.get(name, 1.0) for name in data["classes"])
    counts = data["splits"]["train"]["classes"]
    rows, classes = sum(counts.values()), len(data["classes"])
    return tuple(rows / (classes * max(1, counts.get(name, 0))) for name in data["classes"])


def job_from_manifest(
    manifest: Mapping[str, Any],
    spec: SweepSpec,
    trial: str,
    config: TrialConfig,
    checkpoint_dir: Path | UrlPath | None,
    **changes: Any,
) -> TrialJob:
    """The job that trains `config` in the sweep of `manifest` and `spec`. `changes` override fields of the job."""
    entry = next(row for row in manifest["ladder"] if row["name"] == config.model_size)
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
        "metric": spec.metric.name,
        "function": manifest["metric"].get("function"),
        "minimize": spec.goal == "minimize",
        "checkpoint_dir": str(checkpoint_dir) if checkpoint_dir else None,
        "saves_first": "rungs" if spec.early_terminate.variant == "promotion" else "never",
        "price": price_of(spec.resources.dollars_per_gpu_hour, entry["entry"].get("accelerator_type")),
        "head_groups": entry.get("head_groups", 1),
        "cache_gib": spec.resources.cache_gib,
        "class_weights": class_weights(spec.training.class_weights, manifest["data"]),
        "shared_modes": tuple(str(mode) for mode in (unfreezing.choices() or [] if unfreezing else [])),
    }
    return TrialJob(**{**fields, **changes})
