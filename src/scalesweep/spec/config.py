"""One trial's full configuration: what was drawn, every default filled in, and what the sweep fixes for all."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from scalesweep.spec.space import PARAMETERS
from scalesweep.spec.sweep import SweepSpec

WHOLE = ("steps", "tokens", "flops")  # fidelities that are counted in whole numbers
KNOBS = ("dropout", "attention_dropout", "embedding_dropout", "classifier_dropout", "layerdrop")


class TrialConfig(BaseModel):
    """Frozen, JSON-able, and all that training needs to know of the search. Knobs that are None stay as the checkpoint
    has them. `rungs` and `max_t` count the fidelity `time_attr`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_size: str
    num_gpus: int
    unfreezing: str
    unfreeze_cadence: str
    unfreeze_interval: int
    unfreeze_fraction: float
    unfreeze_patience: int
    thaw_warmup_steps: int
    learning_rate: float
    layerwise_lr_decay: float
    lr_scheduler_type: str
    warmup_ratio: float
    decay_ratio: float
    min_lr_ratio: float
    lr_power: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    dropout: float | None
    attention_dropout: float | None
    embedding_dropout: float | None
    classifier_dropout: float | None
    layerdrop: float | None
    label_smoothing_factor: float
    max_grad_norm: float
    global_batch_size: int

    micro_batch_size: int | None
    eval_interval: int | None
    checkpoint_interval: int | None
    mixed_precision: str
    gradient_checkpointing: bool
    prefix_cache: str
    group_by_length: bool
    seed: int
    time_attr: str
    max_t: int | float
    rungs: list[int | float]

    def knobs(self) -> dict[str, float | None]:
        """The regularization knobs that `models/` maps onto an architecture."""
        return {name: getattr(self, name) for name in KNOBS}


def rung_levels(spec: SweepSpec) -> list[int | float]:
    """Fidelities of ASHA's rungs, ascending: grace_period × reduction_factor^k up to max_t (Li et al., 2018, Alg. 2).

    The count is computed as Ray's ASHAScheduler does, so that both have the same rungs. Where steps, tokens or FLOPs are
    counted, a level that is no whole number is rounded up: it is reached at the same report.
    """
    early = spec.early_terminate
    if early.type == "none" or early.grace_period is None:
        return []
    count = int(math.log(early.max_t / early.grace_period) / math.log(early.reduction_factor) + 1)
    levels = [early.grace_period * early.reduction_factor**k for k in range(count)]
    if early.time_attr in WHOLE:
        return [math.ceil(level) for level in levels]
    # A last level that is max_t but for floating-point error is max_t: it is no rung before the end.
    return [early.max_t if math.isclose(level, early.max_t, rel_tol=1e-9) else level for level in levels]


def default_of(spec: SweepSpec, name: str, params: dict[str, Any]) -> Any:
    """The value of a parameter that a trial drawn as `params` does not have."""
    if name == "model_size":
        return spec.sizes()[0].name
    if name == "global_batch_size":
        return spec.training.global_batch_size
    if name == "num_gpus":
        return spec.size(params.get("model_size", spec.sizes()[0].name)).min_gpus
    return PARAMETERS[name].default


def trial_config(spec: SweepSpec, params: dict[str, Any]) -> TrialConfig:
    """Fill a draw (`params`, conditional parameters absent) up to a full configuration."""
    values = {name: params[name] if name in params else default_of(spec, name, params) for name in PARAMETERS}
    training, early = spec.training, spec.early_terminate
    return TrialConfig(
        **values,
        micro_batch_size=training.micro_batch_size,
        eval_interval=training.eval_interval,
        checkpoint_interval=training.checkpoint_interval,
        mixed_precision=training.mixed_precision,
        gradient_checkpointing=training.gradient_checkpointing,
        prefix_cache=training.prefix_cache,
        group_by_length=training.group_by_length,
        seed=training.seed,
        time_attr=early.time_attr,
        max_t=early.max_t,
        rungs=rung_levels(spec),
    )
