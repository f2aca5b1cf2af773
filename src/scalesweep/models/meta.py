"""Running models on the meta device: shapes without arithmetic, memory or random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# Meta tensors have no values. Code that reads one ("is anything padded?") gets zero or False, so the pass can continue.
LOOKS: dict[Any, Any] = {
    torch.Tensor.item: 0,
    torch.Tensor.__bool__: False,
    torch.Tensor.__contains__: False,
    torch.Tensor.__int__: 0,
    torch.Tensor.__float__: 0.0,
}


def to_meta(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """An empty copy of `tensor` on the meta device. `dtype` applies to floating-point tensors only."""
    return tensor.detach().to("meta", dtype if tensor.is_floating_point() else None)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples and mappings."""
    if isinstance(value, list | tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(part)
    else:
        yield value


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, then restore each module's own mode (`train()` would also change frozen blocks)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
