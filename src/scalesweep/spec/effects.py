"""Parameters that have an effect only beside certain words of other parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesweep.spec.space import ADAPTERS, CADENCES, PARAMETERS, THAWING_MODES

# Each parameter of unfreezing, of adapters and of one schedule has an effect only with one of these words of other parameters.
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "unfreeze_cadence": {"unfreezing": THAWING_MODES},
    "thaw_warmup_steps": {"unfreezing": THAWING_MODES},
    **{
        row.parameter: {"unfreezing": THAWING_MODES, "unfreeze_cadence": (name,)}
        for name, row in CADENCES.items()
        if row.parameter is not None
    },
    **{
        name: {"adapter": tuple(name for name in ADAPTERS if name != "none")}
        for name in PARAMETERS
        if name.startswith("lora_") or name in ("use_rslora", "adapter_lr_ratio")
    },
    "decay_ratio": {"lr_scheduler_type": ("warmup_stable_decay",)},
    "min_lr_ratio": {"lr_scheduler_type": ("cosine_with_min_lr",)},
    "lr_power": {"lr_scheduler_type": ("polynomial",)},
}


def lacks(name: str, config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """The parameter that keeps another one from having an effect in a configuration, and the words that it needs; None if none does."""
    return next(((other, words) for other, words in NEEDS.get(name, {}).items() if config.get(other) not in words), None)


def in_effect(config: Mapping[str, Any], rehearses: bool) -> dict[str, Any]:
    """The settings of a configuration that have an effect. `rehearses`: there are earlier data to rehearse."""
    set_ones = {name: value for name, value in config.items() if value not in (None, []) and lacks(name, config) is None}
    return set_ones if rehearses else {name: value for name, value in set_ones.items() if name != "rehearsal_share"}
