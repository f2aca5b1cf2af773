"""One trial's full configuration: its drawn parameters, every default, and the settings that the sweep fixes for all trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from scalesweep.spec.space import KNOBS, PARAMETERS
from scalesweep.spec.sweep import SweepSpec

AUTO_RUNGS = 3  # rungs with `grace_period: auto`, at most
WHOLE = ("steps", "tokens", "flops")  # fidelities that training counts in whole numbers


_TYPES: dict[str, Any] = {"int": int, "float": float, "word": str, "bool": bool}

if TYPE_CHECKING:

    class _Drawn(BaseModel):
        def __getattr__(self, name: str) -> Any: ...

else:  # a field per row of the table
    _Drawn = create_model(
        "_Drawn",
        **{
            # A record of a version without the parameter was trained with its default.
            name: (
                _TYPES[info.kind] | None
                if name in KNOBS
                else _TYPES[info.kind] | float
                if info.fractions
                else _TYPES[info.kind],
                ... if info.default is None else info.default,
            )
            for name, info in PARAMETERS.items()
        },
    )


class TrialConfig(_Drawn):
    """Everything that training needs to know about a trial: every parameter, and the settings that all trials share.

    Frozen and serializable as JSON. A knob that is None keeps the checkpoint's value. `rungs` and `max_t` are amounts of the
    fidelity `time_attr`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    micro_batch_size: int | None
    eval_interval: int | None
    checkpoint_interval: int | None
    mixed_precision: str
    optimizer: str = "adamw"  # records of older versions lack this and the next
    base_dtype: str = "float32"
    gradient_checkpointing: bool | Literal["auto"]
    prefix_cache: str
    packing: str = "off"  # of a record that is older than the setting
    group_by_length: bool
    seed: int
    time_attr: str
    max_t: int | float
    rungs: list[int | float]

    def knobs(self) -> dict[str, float | None]:
        """Return the regularization knobs, which `models/` maps onto an architecture."""
        return {name: getattr(self, name) for name in KNOBS}


def counts_whole(spec: SweepSpec) -> bool:
    """Return whether fidelities are whole numbers. A table may count steps in thousands, with fractions."""
    return spec.early_terminate.time_attr in WHOLE and not spec.foreign


def first_rung(spec: SweepSpec) -> float:
    """Return the fidelity of the first rung. `auto` is early, because the forecast lets more trials pass a rung whose order has
    little in common with the order at the end, down to all of them."""
    early, every = spec.early_terminate, spec.training.eval_interval or 1
    if early.grace_period != "auto":
        return early.grace_period
    first = early.max_t / early.reduction_factor**AUTO_RUNGS
    return math.ceil(first / every) * every if early.time_attr == "steps" and not spec.foreign else first


def rung_levels(spec: SweepSpec) -> list[int | float]:
    """Return the fidelities of ASHA's rungs, ascending: grace_period × reduction_factor^k up to max_t (Li et al., 2018, Alg. 2).

    The number of rungs is computed as in Ray's ASHAScheduler, so both have the same rungs. Where fidelities are whole numbers,
    a fractional level is rounded up; the same report reaches it.
    """
    early = spec.early_terminate
    if early.type == "none":
        return []
    first = first_rung(spec)
    count = int(math.log(early.max_t / first) / math.log(early.reduction_factor) + 1)
    levels = [first * early.reduction_factor**k for k in range(count)]
    if counts_whole(spec):
        return [math.ceil(level) for level in levels]
    # Floating-point error must not turn max_t into a rung before the end, nor 3 × 0.1 into a rung that 0.3 does not reach.
    return [early.max_t if math.isclose(level, early.max_t, rel_tol=1e-9) else float(f"{level:.12g}") for level in levels]


def rung_count(levels: Sequence[float], max_t: float) -> int:
    """Return the number of rungs including the end: `max_t` is the last rung even if it is not in the halving sequence."""
    return len(levels) if levels and levels[-1] >= max_t else len(levels) + 1


def length_of_share(spec: SweepSpec, share: float) -> int | float:
    """Return the length of a trial on a share of the train split: this share of `max_t`, rounded up where it is whole."""
    max_t = spec.early_terminate.max_t
    return max_t if share == 1 else rows_of_share(int(max_t), share) if counts_whole(spec) else share * max_t


def rows_of_share(rows: int, share: float) -> int:
    """Return the rows in a share of a split of `rows` rows, rounded up: at least one."""
    return max(1, math.ceil(round(share * rows, 6)))  # 0.07 × 100 is a little above 7


def default_of(spec: SweepSpec, name: str, params: dict[str, Any]) -> Any:
    """Return the default of parameter `name` for a trial whose draw `params` lacks it."""
    if name == "model_size":
        return spec.sizes()[0].name
    if name == "global_batch_size":
        return spec.training.global_batch_size
    if name == "num_gpus":
        return spec.size(params.get("model_size", spec.sizes()[0].name)).min_gpus or 1
    return PARAMETERS[name].default


def trial_config(spec: SweepSpec, params: dict[str, Any]) -> TrialConfig:
    """Complete a draw to a full configuration. `params` lacks the conditional parameters that do not apply."""
    values = {name: params[name] if name in params else default_of(spec, name, params) for name in PARAMETERS}
    training, early = spec.training, spec.early_terminate
    return TrialConfig(
        **values,
        micro_batch_size=training.micro_batch_size,
        eval_interval=training.eval_interval,
        checkpoint_interval=training.checkpoint_interval,
        mixed_precision=training.mixed_precision,
        optimizer=training.optimizer,
        base_dtype=training.base_dtype,
        gradient_checkpointing=training.gradient_checkpointing,
        prefix_cache=training.prefix_cache,
        packing=training.packing,
        group_by_length=training.group_by_length,
        seed=training.seed,
        time_attr=early.time_attr,
        max_t=length_of_share(spec, float(values["train_share"])),
        rungs=rung_levels(spec),
    )
