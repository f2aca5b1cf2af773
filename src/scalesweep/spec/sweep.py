"""What a user writes in `sweeps/NAME.yaml`: typed, checked once, never changed afterwards."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from scalesweep.errors import Problem
from scalesweep.spec.loading import Document, KeyPath, key_text
from scalesweep.spec.space import SearchSpace

Task = Literal["sequence-classification", "causal-lm"]
TimeAttr = Literal["steps", "tokens", "flops", "gpu_seconds", "dollars"]
SPLITS = ("train", "validation", "test")


def _seconds(value: Any) -> Any:
    """'5m', '2h30m', '90s', '1d' or a number of seconds → seconds."""
    if isinstance(value, str):
        parts = re.fullmatch(
            r"\s*(?:(\d+(?:\.\d+)?)d)?\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s)?\s*", value
        )
        if not parts or not any(parts.groups()):
            raise ValueError(f"{value!r} is no duration; write for example 90s, 5m, 2h30m or 1d")
        return sum(float(part or 0) * scale for part, scale in zip(parts.groups(), (86400, 3600, 60, 1), strict=True))
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Price = Annotated[float, Field(gt=0)]
Prices = Price | dict[str, Price]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSpec(_Strict):
    path: str = Field(
        description="hub id, local file (.csv/.jsonl/.parquet, compressed too), saved folder, or package:NAME/FILE"
    )
    name: str | None = Field(None, description="configuration of a hub data set")
    revision: str | None = Field(None, description="revision of a hub data set")
    text: str | list[str] = Field("text", description="text column; two columns make a sentence pair")
    label: str | None = Field(None, description="label column; absent for causal-lm")
    labels: list[str | int] | None = Field(None, description="keep these classes only, in this order")
    group: str | None = Field(None, description="rows of one group never straddle two splits")
    splits: dict[str, int | float | str] = Field(description="train, validation, test: counts, fractions or names of splits")
    split_seed: int = Field(0, ge=0)
    max_length: int = Field(128, ge=2, description="tokens an example may have")


class LadderSize(_Strict):
    """One model size. `name` is what `model_size` chooses; `layers` keeps the lowest blocks only."""

    name: str
    model: str = Field(description="hub id, local folder, or package:NAME/FOLDER")
    layers: int | None = Field(None, ge=1)
    revision: str | None = None
    min_gpus: int = Field(1, ge=1)
    accelerator_type: str | None = None
    trust_remote_code: bool = Field(False, description="run the model code that a hub repository brings")
    allow_pickle: bool = Field(False, description="load weights that are kept as pickle, where there is no safetensors file")


class DepthLadder(_Strict):
    """One checkpoint cut by depth: size L4 keeps the lowest 4 blocks (Sajjad et al., 2020)."""

    model: str
    layers: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    revision: str | None = None
    min_gpus: int = Field(1, ge=1)
    accelerator_type: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def sizes(self) -> list[LadderSize]:
        shared = self.model_dump(exclude={"layers"})
        return [LadderSize(name=f"L{layers}", layers=layers, **shared) for layers in self.layers]


class MetricSpec(_Strict):
    name: str = "eval_loss"
    goal: Literal["minimize", "maximize"] | None = Field(None, description="follows from the metric where left out")


class TrainingSpec(_Strict):
    global_batch_size: int = Field(32, ge=1, description="examples per optimizer step over all workers")
    micro_batch_size: int | None = Field(
        None, ge=1, description="examples per forward pass of one worker; accumulation makes up the rest"
    )
    eval_interval: int | None = Field(
        None, ge=1, description="steps between evaluations; at each rung and at max_t in any case"
    )
    checkpoint_interval: int | None = Field(None, ge=1, description="steps between checkpoints; default: at every evaluation")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    prefix_cache: Literal["auto", "off"] = Field("auto", description="keep what the frozen prefix computes, where it is exact")
    group_by_length: bool = Field(True, description="examples of like length share a batch: less padding")
    seed: int = Field(0, ge=0)


class EarlyTerminateSpec(_Strict):
    type: Literal["asha", "none"] = "asha"
    time_attr: TimeAttr = Field("steps", description="the fidelity that rungs count")
    grace_period: int | float | None = Field(None, gt=0, description="fidelity of the first rung (asha)")
    max_t: int | float = Field(gt=0, description="fidelity of a finished trial")
    reduction_factor: float = Field(3, gt=1, description="one of so many trials passes a rung (asha)")
    variant: Literal["stopping", "promotion"] = Field(
        "stopping", description="what does not pass a rung is stopped for good, or waits there until it does (asha)"
    )
    survival: Literal["metric", "by_size", "pareto"] = Field("metric", description="who may pass a rung (asha)")
    brackets: int = Field(
        1, ge=1, description="the b-th begins at rung b, counted from 1; each trial is in one (Hyperband, asha)"
    )


class SearchSpec(_Strict):
    sampler: Literal["scale_aware", "tpe", "random"] = "tpe"
    cost_weight: float = Field(0.3, ge=0, description="how much a proposal's expected cost counts (scale_aware); 0: not at all")
    n_startup_trials: int = Field(10, ge=1, description="trials before the sampler models anything")
    warm_start: list[str] = Field(default_factory=list, description="run folders of earlier sweeps to learn from")
    seed: int = Field(0, ge=0)


class BudgetSpec(_Strict):
    run_cap: int | None = Field(None, ge=1, description="trials at most")
    time: Seconds | None = Field(None, gt=0, description="wall-clock of the sweep, e.g. 5m")
    gpu_hours: float | None = Field(None, gt=0)
    dollars: float | None = Field(None, gt=0, description="needs resources.dollars_per_gpu_hour")
    trial_gpu_hours: float | None = Field(
        None, gt=0, description="that one trial may take; it is stopped where its next stretch would exceed them"
    )


def _spot_notice(value: str) -> str:
    if value not in ("aws", "gcp") and not value.startswith("/"):
        raise ValueError(f"{value!r} tells of no spot notice; write aws, gcp, or the absolute path of a file")
    return value


class ResourcesSpec(_Strict):
    max_concurrent_trials: int | None = Field(None, ge=1)
    cpus_per_worker: int = Field(1, ge=1)
    placement: Literal["pack", "spread", "strict_pack"] = Field(
        "pack", description="a trial's workers: on as few nodes as can be, as few per node as can be, or all on one"
    )
    max_gpus: int | None = Field(None, ge=1, description="GPUs that an autoscaling cluster can grow to; default: what it has")
    gpu_memory_gib: float | None = Field(None, gt=0, description="memory of the smallest GPU; sizes that can't fit are refused")
    cache_gib: float | None = Field(
        None, ge=0, description="disk that the activation cache may take on each node; default: a quarter of what is free"
    )
    dollars_per_gpu_hour: Prices | None = Field(
        None, description="one price for all, or one per accelerator_type (and default: for the others)"
    )
    spot_notice: Annotated[str, AfterValidator(_spot_notice)] | None = Field(
        None,
        description="who tells a node that it will be taken away: aws, gcp, or the absolute path of a file that then appears",
    )
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose process died")


class WandbSpec(_Strict):
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "scalesweep"
    entity: str | None = None
    tags: list[str] = Field(default_factory=list)


class TrackingSpec(_Strict):
    wandb: WandbSpec = Field(default_factory=lambda: WandbSpec(mode="disabled"))


def price_of(prices: Prices | None, accelerator_type: str | None) -> float | None:
    """Dollars per GPU hour on such a GPU: the price of all, or its row in the table, or the table's `default`."""
    if not isinstance(prices, dict):
        return prices
    return prices.get(accelerator_type or "default", prices.get("default"))


class SweepSpec(_Strict):
    """A whole sweep. Build it with `load_sweep(path)` or `sweep_from_dict(data)`, which check it across fields too."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Task
    data: DataSpec
    ladder: DepthLadder | list[LadderSize]
    search_space: SearchSpace
    metric: MetricSpec = Field(default_factory=MetricSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    early_terminate: EarlyTerminateSpec
    search: SearchSpec = Field(default_factory=SearchSpec)
    budget: BudgetSpec
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    tracking: TrackingSpec = Field(default_factory=TrackingSpec)

    _documents: tuple[Document, Document | None] | None = PrivateAttr(default=None)
    _foreign: bool = PrivateAttr(default=False)

    def __eq__(self, other: object) -> bool:
        # Where it was read from makes no difference.
        return self.model_dump() == other.model_dump() if isinstance(other, SweepSpec) else NotImplemented

    @property
    def foreign(self) -> bool:
        """Whether the space may hold parameters that training does not know: the columns of a table, in a simulation."""
        return self._foreign

    @property
    def space_file(self) -> str | None:
        """The file that the search space was read from; None where it stands in the sweep file itself."""
        space = self._documents[1] if self._documents else None
        return space.file if space else None

    def sizes(self) -> list[LadderSize]:
        """The ladder, smallest first as the user ordered it."""
        return self.ladder.sizes() if isinstance(self.ladder, DepthLadder) else list(self.ladder)

    def size(self, name: str) -> LadderSize:
        return next(size for size in self.sizes() if size.name == name)

    def price(self, size_name: str) -> float | None:
        """Dollars per GPU hour of a size; None without a price."""
        return price_of(self.resources.dollars_per_gpu_hour, self.size(size_name).accelerator_type)

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """A problem at a key of this spec, with the file and line it was read from."""
        if self._documents is None:
            return Problem(message, key_text(path), hint=hint)
        sweep, space = self._documents
        if space is not None and path[:1] == ("search_space",) and len(path) > 1:
            return space.problem(path[1:], message, hint)
        return sweep.problem(path, message, hint)
