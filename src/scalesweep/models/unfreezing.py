"""Which layer groups train in which stage, and putting a model into that state.

Gradual unfreezing (Howard and Ruder, 2018) starts with the head and thaws one more group, from the top, per stage.
Chain-thaw (Felbo et al., 2017) trains the head, then every other group alone from the bottom up, then all together.
LP-FT (Kumar et al., 2022) trains the head, then everything. When a stage ends is not told here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scalesweep.models.groups import LayerGroup


def stages(mode: str, n_groups: int) -> int:
    """How many stages a mode has; from each to the next leads a thaw."""
    counts = {"full": 1, "head": 1, "gradual": n_groups, "chain_thaw": n_groups + 1, "lp_ft": 2}
    if mode not in counts:
        raise ValueError(f"unknown unfreezing mode {mode!r}")
    return counts[mode]


def trainable_groups(mode: str, stage: int, n_groups: int) -> tuple[bool, ...]:
    """Which groups train, bottom to top, in a stage (from 0). A stage beyond the last is the last."""
    last = stages(mode, n_groups) - 1
    stage, head = min(stage, last), n_groups - 1
    if mode == "head" or (mode != "full" and stage == 0):
        return tuple(index == head for index in range(n_groups))
    if stage == last:
        return (True,) * n_groups
    if mode == "gradual":
        return tuple(index >= head - stage for index in range(n_groups))
    return tuple(index == stage - 1 for index in range(n_groups))  # chain_thaw


def apply_unfreezing(model: nn.Module, groups: Sequence[LayerGroup], trainable: Sequence[bool]) -> None:
    """Train the groups that are `trainable` (bottom to top) and freeze the others.

    What lies below the lowest trainable group, the frozen prefix, is in evaluation mode. It runs without dropout: its
    output is then a function of its input alone, and can be cached. What lies above is differentiated through, so it is
    in training mode and keeps its dropout, whether it is trained itself or not (chain_thaw freezes groups there).

    This is exact per module. A container that spans groups (the model itself, too) goes with its lowest group, so
    `model.training` is False while there is a frozen prefix; so is the layerdrop of a container (OPT), which would skip
    frozen blocks as well as trainable ones.

    `model.train()` and `model.eval()` flip every module: call this after `model.train()`. It only sets flags.
    """
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    lowest = list(trainable).index(True)
    for index, (group, trains) in enumerate(zip(groups, trainable, strict=True)):
        for name in group.parameter_names:
            parameters[name].requires_grad_(trains)
        for name in group.module_names:
            modules[name].training = index >= lowest
