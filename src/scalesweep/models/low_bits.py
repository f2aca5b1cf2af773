"""Frozen weights in fewer bits: a base in bf16, and the linear layers of its blocks in 4 bits (NF4, through bitsandbytes).

A layer in 4 bits computes as bitsandbytes' own `Linear4bit` does, with the same kernels. It differs in three ways: under autocast
it computes in autocast's type, as every other layer; it runs on the meta device; and in evaluation on a CPU it does not
repack its weights for a kernel that computes in bf16 alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scalesweep.models.linear import linear_layers


@dataclass(frozen=True)
class WeightTypes:
    """The types in which a model's weights are kept.

    Attributes:
        base: `float32` or `bf16`.
        four_bits: whether the linear layers of the blocks have 4 bits.
        whole: names of the parameters that stay float32, because they train.
    """

    base: str = "float32"
    four_bits: bool = False
    whole: frozenset[str] = frozenset()

    @property
    def plain(self) -> bool:
        return self.base == "float32" and not self.four_bits

    def dtype(self, name: str, made: torch.dtype) -> torch.dtype:
        """The type of a parameter whose model was made with the type `made`."""
        return torch.bfloat16 if self.base == "bf16" and made == torch.float32 and name not in self.whole else made

    def hashes(self, of_groups: Sequence[str]) -> list[str]:
        """Hashes of layer groups in these types, from those of the checkpoint's."""
        return list(of_groups) if self.plain else [f"{hashed} {self.base} {self.four_bits}" for hashed in of_groups]


FLOAT32 = WeightTypes()


class Linear4bit(nn.Linear):
    """A frozen linear layer whose weight has 4 bits (NF4), with scales in 8 bits (Dettmers et al., 2023, arXiv 2305.14314)."""

    def __init__(self, like: nn.Linear) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None, device="meta")
        self.bias = like.bias
        self.state: Any = None

    def keep(self, weight: torch.Tensor) -> None:
        """Quantize `weight`, on its device."""
        from bitsandbytes.functional import quantize_4bit

        packed, self.state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.device.type
        if kind == "meta":
            return nn.functional.linear(x, x.new_empty(self.out_features, self.in_features), self.bias)
        from bitsandbytes import matmul_4bit

        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        self.state.dtype = x.dtype  # that of the weights in the backward pass
        out: torch.Tensor = matmul_4bit(x, self.weight, quant_state=self.state, bias=bias)
        return out

    @torch.no_grad()
    def whole(self) -> nn.Linear:
        """A plain layer in float32 on the CPU with the values that this one computes with."""
        from bitsandbytes.functional import dequantize_4bit

        made = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        self.state.dtype = torch.float32
        made.weight = nn.Parameter(dequantize_4bit(self.weight, self.state).cpu(), requires_grad=False)
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().float().cpu(), requires_grad=False)
        return made


def quantizable(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that get 4 bits, by name: those of the blocks, except where transformers demands float32."""
    demanded = {
        *(getattr(model, "_keep_in_fp32_modules", None) or ()),
        *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()),
    }
    layers = ((name, model.get_submodule(name)) for name in linear_layers(model))
    return {name: layer for name, layer in layers if type(layer) is nn.Linear and not demanded & set(name.split("."))}


def place_layers(model: nn.Module) -> None:
    """Replace the layers that get 4 bits by empty ones, whose weights `Linear4bit.keep` fills in."""
    for name, layer in quantizable(model).items():
        _replace(model, name, Linear4bit(layer))


@torch.no_grad()
def lower(model: nn.Module, types: WeightTypes, device: torch.device) -> nn.Module:
    """The whole model in other types and on another device, a tensor at a time."""
    for name, layer in quantizable(model).items() if types.four_bits else ():
        made = Linear4bit(layer)
        made.keep(layer.weight.to(device))
        _replace(model, name, made)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(device, types.dtype(name, parameter.dtype))
    return model.to(device)


def widen(model: nn.Module) -> None:
    """Make every weight float32, on the CPU: each keeps its value, which float32 represents exactly."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            _replace(model, name, layer.whole())
    model.cpu().float()


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    layer.training = model.get_submodule(name).training
    setattr(model.get_submodule(parent), attribute, layer)
