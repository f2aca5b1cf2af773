"""The optimizer: AdamW with a learning rate per layer group, its moments in float32 or in 8 bits (through bitsandbytes)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from scalesweep.training.methods.method import Method

CONSTANTS = ("qmap1", "qmap2")  # of 8-bit moments: the values of the 256 codes, which all parameters share


def make_optimizer(method: Method, device: torch.device) -> torch.optim.Optimizer:
    """AdamW with the rate `learning_rate × layerwise_lr_decay^(groups above)` for each layer group.

    Biases and norms (vectors) have no weight decay. Frozen parameters are in the optimizer from the start: AdamW keeps no
    state for parameters without gradient, so a thaw needs no registration.
    """
    config = method.config
    in_8_bits = config.optimizer == "adamw_8bit"
    groups = _parameter_groups(method, _embeddings(method.model) if in_8_bits else ())
    settings: dict[str, Any] = {
        "lr": method.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
    }
    if in_8_bits:
        return _adamw_8bit(groups, settings)
    return torch.optim.AdamW(groups, **settings, fused=device.type in ("cpu", "cuda"))


def _parameter_groups(method: Method, in_float32: Collection[int]) -> list[dict[str, Any]]:
    """The parameters that may train: per layer group, matrices and vectors, and apart the parameters with ids `in_float32`."""
    config, learnt, found = method.config, method.learnt, list[dict[str, Any]]()
    for index, group in enumerate(learnt):
        rate = method.learning_rate * config.layerwise_lr_decay ** (len(learnt) - 1 - index)
        whole = [method.parameters[name] for name in group.parameter_names]
        matrices = [p for p in whole if p.dim() >= 2 and id(p) not in in_float32]
        vectors = [p for p in whole if p.dim() < 2]
        apart = [p for p in whole if p.dim() >= 2 and id(p) in in_float32]
        for members, decay, bits in ((matrices, config.weight_decay, 8), (vectors, 0.0, 32), (apart, config.weight_decay, 32)):
            if members:
                shared = {"lr": rate, "peak_lr": rate, "weight_decay": decay, "layer_group": index, "optim_bits": bits}
                found.append({"params": members, **shared})
    return found


def _embeddings(model: nn.Module) -> set[int]:
    """The ids of the embeddings' weights. Their moments stay in float32, as in transformers' Trainer."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _adamw_8bit(groups: Sequence[dict[str, Any]], settings: dict[str, Any]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    class AdamW(AdamW8bit):
        """AdamW whose parameter groups state the bits of their moments."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            return {**super().get_config(gindex, pindex, group), "optim_bits": group["optim_bits"]}

        def step(self, closure: Any = None) -> Any:
            # On a CPU, bitsandbytes would compile the update where there is a compiler: other bits on other machines.
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    made: torch.optim.Optimizer = AdamW(groups, **settings)
    return made


# ---- its state in a checkpoint -------------------------------------------------------------------------------------------------


def state_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """The state of a parameter as tensors, without what is constant; empty before the parameter's first step."""
    state = optimizer.state.get(parameter, {})
    return {key: torch.as_tensor(value) for key, value in state.items() if key not in CONSTANTS}


def set_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, key: str, value: torch.Tensor) -> None:
    """Restore an item of `state_of`."""
    if isinstance(optimizer, torch.optim.AdamW):
        # AdamW keeps its step counter on the CPU unless fused on CUDA, and `load_state_dict` places it the same way.
        device = parameter.device if value.dim() or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][key] = value.to(device)
        return
    state = optimizer.state[parameter]
    if not state:
        _init_8bit(optimizer, parameter)
    state[key] = value.to(parameter.device) if value.dim() else int(value)


def _init_8bit(optimizer: Any, parameter: nn.Parameter) -> None:
    """Let bitsandbytes make the state of a parameter, with its constants."""
    for index, group in enumerate(optimizer.param_groups):
        for place, one in enumerate(group["params"]):
            if one is parameter:
                optimizer.init_state(group, parameter, index, place)
