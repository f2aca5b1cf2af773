"""Which layer groups train at a step, and putting a model into that state.

Gradual unfreezing (Howard and Ruder, 2018) starts with the head and thaws one more group, from the top, per interval.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scalesweep.models.groups import LayerGroup


def lowest_trainable(mode: str, interval: int, step: int, n_groups: int) -> int:
    """Index of the lowest layer group that trains at `step` (counted from 0); all groups above it train too."""
    if mode == "full":
        return 0
    if mode == "head":
        return n_groups - 1
    if mode == "gradual":
        return max(0, n_groups - 1 - step // interval)
    raise ValueError(f"unknown unfreezing mode {mode!r}")


def apply_unfreezing(model: nn.Module, groups: Sequence[LayerGroup], lowest: int) -> None:
    """Train groups `lowest` and above; freeze those below, without gradients and in evaluation mode.

    The frozen prefix runs without dropout: its output is then a function of its input alone, and can be cached. This is
    exact per module. A container that spans groups (the model itself, too) goes with its lowest group, so
    `model.training` is False while anything is frozen; so is the layerdrop of a container (OPT), which would skip
    frozen blocks as well as trainable ones.

    `model.train()` and `model.eval()` flip every module: call this after `model.train()`. It only sets flags.
    """
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    for index, group in enumerate(groups):
        trains = index >= lowest
        for name in group.parameter_names:
            parameters[name].requires_grad_(trains)
        for name in group.module_names:
            modules[name].training = trains
