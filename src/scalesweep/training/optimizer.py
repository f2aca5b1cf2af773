"""The optimizer: AdamW with a learning rate per layer group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from scalesweep.models.groups import LayerGroup
from scalesweep.spec import TrialConfig


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    groups: Sequence[LayerGroup],
    config: TrialConfig,
    device: torch.device,
    learning_rate: float,
) -> torch.optim.AdamW:
    """AdamW with the rate `learning_rate × layerwise_lr_decay^(groups above)` for each layer group.

    Biases and norms (vectors) have no weight decay. Frozen parameters are in the optimizer from the start: AdamW keeps no
    state for parameters without gradient, so a thaw needs no registration.

    Args:
        groups: the parameters that may train, per layer group.
    """
    optimizer_groups = []
    for index, group in enumerate(groups):
        rate = learning_rate * config.layerwise_lr_decay ** (len(groups) - 1 - index)
        matrices = [parameters[name] for name in group.parameter_names if parameters[name].dim() >= 2]
        vectors = [parameters[name] for name in group.parameter_names if parameters[name].dim() < 2]
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if members:
                optimizer_groups.append(
                    {"params": members, "lr": rate, "peak_lr": rate, "weight_decay": decay, "layer_group": index}
                )
    betas = (config.adam_beta1, config.adam_beta2)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(optimizer_groups, lr=learning_rate, betas=betas, eps=config.adam_epsilon, fused=fused)
