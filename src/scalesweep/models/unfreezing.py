"""The groups of a model that train as its head, and setting a model to train some of its groups.

In a decoder whose output layer is tied to its embeddings, only the final norm is left in the group `head`. It can rescale
features, but not learn new ones. There the highest block trains with the head wherever the head trains alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from scalesweep.models.groups import LayerGroup


def head_groups(model: nn.Module, groups: Sequence[LayerGroup]) -> int:
    """The number of groups, from the top, that train as the head: 1, or 2 if the head has no matrix to learn with."""
    parameters = dict(model.named_parameters())
    return 1 if any(parameters[name].dim() >= 2 for name in groups[-1].parameter_names) else 2


def apply_unfreezing(model: nn.Module, groups: Sequence[LayerGroup], trainable: Sequence[bool]) -> None:
    """Train the groups that are `trainable` (bottom to top) and freeze the others.

    The groups below the lowest trainable one, the frozen prefix, are in evaluation mode. They run without dropout, so their
    output is a function of the input alone and can be cached. Gradients pass through the groups above, so these are in
    training mode with dropout, even if they are frozen themselves (as in chain_thaw).

    This holds exactly for each module. A container that spans groups, including the model itself, belongs to its lowest
    group, so `model.training` is False while there is a frozen prefix. The layerdrop of a container (OPT) is then off too,
    because it would also skip frozen blocks.

    The function only sets flags. Call it after `model.train()` or `model.eval()`, which change the mode of every module.
    """
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    lowest = list(trainable).index(True)
    for index, (group, trains) in enumerate(zip(groups, trainable, strict=True)):
        for name in group.parameter_names:
            parameters[name].requires_grad_(trains)
        for name in group.module_names:
            modules[name].training = index >= lowest
