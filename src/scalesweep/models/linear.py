"""The linear layers of a model's blocks, which adapters attach to."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from scalesweep.models.groups import blocks
from scalesweep.spec.adapters import Shape


def linear_layers(model: nn.Module) -> dict[str, Shape]:
    """The linear layers inside the blocks, each by its full name, as the shape of one layer."""
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for block in blocks(model):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D):  # Conv1D, of GPT-2, stores its weight the other way round
                rows, columns = module.weight.shape
                outputs = rows if isinstance(module, nn.Linear) else columns
                found[names[id(module)]] = (name, rows + columns, outputs, min(rows, columns))
    return found


def linear_shapes(model: nn.Module) -> tuple[Shape, ...]:
    """The linear layers of all blocks, added up by their names within a block."""
    sums: dict[str, tuple[int, int, int]] = {}
    for name, both, outputs, rank in linear_layers(model).values():
        before = sums.get(name, (0, 0, 0))
        sums[name] = (before[0] + both, before[1] + outputs, max(before[2], rank))
    return tuple((name, *found) for name, found in sums.items())
