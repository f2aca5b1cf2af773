"""Layer groups: the units of unfreezing, found from a model's structure for any architecture in transformers.

The groups form a chain, bottom to top: `embeddings`, `block.0` … `block.N-1`, `head`. A chain has one property: a
parameter of group k has no influence on the input of block j for any j ≤ k (block j is group j + 1). So the groups below
any cut are a prefix of the computation, which needs no gradient and can be cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from scalesweep.errors import UserError
from scalesweep.models.meta import LOOKS, evaluation_mode, leaves, to_meta

EMBEDDINGS = 0  # index of the lowest group


@dataclass(frozen=True)
class LayerGroup:
    """One group. Names are those of `model.named_parameters()` (a tied parameter once) and `model.named_modules()`.

    Every module is in exactly one group: the lowest group that uses it. A container that spans several groups, or a
    Dropout that is used both before and after the blocks, belongs to the lowest of them.
    """

    name: str
    parameter_names: tuple[str, ...]
    module_names: tuple[str, ...] = ()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks in the order of a forward pass.

    An encoder–decoder is one chain: its encoder blocks, then its decoder blocks.

    Raises:
        UserError: the model has no stack of blocks.
    """
    return [block for _, stack in _stacks(model) for block in stack]


def layer_groups(model: nn.Module) -> list[LayerGroup]:
    """The groups of `model`, bottom to top: N blocks make N + 2 groups.

    The function works on any device, including the meta device, and does not change the model. Call it before wrapping
    the model, because wrappers such as DDP rename parameters.

    Raises:
        UserError: the model has no stack of blocks.
    """
    stacks = _stacks(model)
    chain = [block for _, stack in stacks for block in stack]
    uses = _probe(model, stacks)
    names = [name for name, _ in model.named_modules()]
    first_stack = min(names.index(name) for name, _ in stacks)
    parameter_group: dict[int, int] = {}
    module_group: dict[int, int] = {}

    def place(name: str, key: int) -> int:
        """The group of a part outside the blocks: by its first use in a forward pass, or by its position if unused."""
        group = uses.get(key, EMBEDDINGS if names.index(name) < first_stack else len(chain) + 1)
        # A decoder's operations on its own inputs (BART's positions) run after the encoder but do not depend on it.
        in_decoder = f"{name}.".startswith(stacks[-1][0].rpartition(".")[0] + ".")
        return EMBEDDINGS if len(stacks) > 1 and in_decoder and group <= len(chain) else group

    def visit(module: nn.Module, block: int | None) -> int:
        """The lowest group that uses `module`. A shared module or parameter belongs to its lowest owner."""
        block = index_of_block.get(id(module), block)
        if id(module) not in module_group or block is not None:
            members = []
            for parameter in module.parameters(recurse=False):
                group = place(name_of[id(module)], id(parameter)) if block is None else block + 1
                group = min(group, uses.get(id(parameter), group), parameter_group.get(id(parameter), group))
                parameter_group[id(parameter)] = group
                members.append(group)
            members += [visit(child, block) for child in module.children()]
            if not members:
                members = [place(name_of[id(module)], id(module)) if block is None else block + 1]
            module_group[id(module)] = min(*members, module_group.get(id(module), len(chain) + 1))
        return module_group[id(module)]

    name_of = {id(module): name for name, module in model.named_modules()}
    index_of_block = {id(block): index for index, block in enumerate(chain)}
    visit(model, None)
    titles = ["embeddings", *(f"block.{index}" for index in range(len(chain))), "head"]
    parameters: list[list[str]] = [[] for _ in titles]
    modules: list[list[str]] = [[] for _ in titles]
    for name, parameter in model.named_parameters():
        parameters[parameter_group[id(parameter)]].append(name)
    for name, module in model.named_modules():
        modules[module_group[id(module)]].append(name)
    return [LayerGroup(t, tuple(p), tuple(m)) for t, p, m in zip(titles, parameters, modules, strict=True)]


def _stacks(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """(module name, blocks) of each stack: one, or encoder and decoder.

    A stack is an outermost ModuleList with parameters; a block's own lists, such as experts, are inside it. Of several
    candidates, the one as long as the config's layer count is chosen, then the one with the most parameters. The blocks
    may differ in class: hybrids alternate attention and recurrent blocks in one list.
    """
    candidates: list[tuple[str, list[nn.Module]]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in candidates)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and any(True for _ in module.parameters()):
            candidates.append((name, list(_flat(module))))
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        halves = (model.get_encoder(), model.get_decoder())  # type: ignore[operator]
        inside_half = [{id(module) for module in half.modules()} if half is not model else set() for half in halves]
        found = [[c for c in candidates if id(c[1][0]) in ids] for ids in inside_half]
        if all(found):
            return [_largest(half, config) for half in found]
    if not candidates:
        raise UserError(
            f"{type(model).__name__} has no stack of blocks (no ModuleList), so it has no layer groups",
            hint="choose a transformer that keeps its blocks in a ModuleList, as nearly all models in transformers do",
        )
    return [_largest(candidates, config)]


def _flat(modules: nn.ModuleList) -> Iterator[nn.Module]:
    """The items of a ModuleList, with inner lists flattened (Funnel has a list of lists)."""
    for module in modules:
        if isinstance(module, nn.ModuleList):
            yield from _flat(module)
        else:
            yield module


def _largest(candidates: list[tuple[str, list[nn.Module]]], config: Any) -> tuple[str, list[nn.Module]]:
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    n_layers = getattr(text_config, "num_hidden_layers", None)

    def size(candidate: tuple[str, list[nn.Module]]) -> tuple[bool, int]:
        return len(candidate[1]) == n_layers, sum(p.numel() for block in candidate[1] for p in block.parameters())

    return max(candidates, key=size)


def _probe(model: nn.Module, stacks: list[tuple[str, list[nn.Module]]]) -> dict[int, int]:
    """The group of the first use of each parameter and parameterless module in a forward pass, by id.

    Registration order does not show which parts precede the blocks: OPT registers its final norm before them, and DeBERTa
    registers its relative positions (used inside every block) after them. Module hooks do not show it either: DeBERTa and
    many heads read a `weight` without calling its module. So one forward pass of 8 tokens runs on the meta device (without
    arithmetic, memory or random numbers), and the parameters among the arguments of every torch function are noted:

    - before the first block, or inside a block that does not own it: embeddings;
    - after the last block: head;
    - after another block (DeBERTa's convolution, an encoder's final norm): that block's group.

    A forward pass that fails after the last block has shown enough. One that fails earlier is repeated in bfloat16, because
    expert kernels accept nothing else on the meta device. If that fails too, the result is empty, and registration order
    decides.
    """
    for dtype in (None, torch.bfloat16):
        uses = _first_uses(model, [block for _, stack in stacks for block in stack], dtype)
        if uses is not None:
            return uses
    return {}


def _first_uses(model: nn.Module, chain: list[nn.Module], dtype: torch.dtype | None) -> dict[int, int] | None:
    inside: list[int] = []  # blocks now running, outermost first
    left = -1  # the highest block that has finished
    uses: dict[int, int] = {}
    owned = [{id(part) for part in (*block.parameters(), *block.modules())} for block in chain]

    def note(key: int) -> None:
        if not any(key in owned[index] for index in inside):
            uses.setdefault(key, EMBEDDINGS if inside else left + 1 + (left == len(chain) - 1))

    def leave(index: int) -> None:
        nonlocal left
        inside.pop()
        left = max(left, index)

    parameters = {name: to_meta(parameter, dtype) for name, parameter in model.named_parameters()}
    originals = {id(parameters[name]): id(parameter) for name, parameter in model.named_parameters()}
    tensors = parameters | {name: to_meta(buffer, dtype) for name, buffer in model.named_buffers()}
    handles = [
        module.register_forward_pre_hook(lambda module, _: note(id(module)))
        for module in model.modules()
        if not any(True for _ in module.parameters())
    ]
    for index, block in enumerate(chain):
        handles.append(block.register_forward_pre_hook(lambda _m, _a, index=index: inside.append(index)))
        handles.append(block.register_forward_hook(lambda _m, _a, _o, index=index: leave(index)))
    tokens = torch.zeros(1, 8, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), evaluation_mode(model), _Watch(originals, note):
            torch.func.functional_call(model, tensors, (), {"input_ids": tokens})
    except Exception:  # noqa: BLE001 - any model code may fail on meta tensors; `left` shows how far it ran
        pass
    finally:
        for handle in handles:
            handle.remove()
    return uses if left == len(chain) - 1 else None


class _Watch(TorchFunctionMode):
    """Calls `note(original id)` for each watched tensor from which a torch function computes another tensor.

    Reading a dtype or a shape is a torch function too, but does not count as a use.
    """

    def __init__(self, originals: Mapping[int, int], note: Callable[[int], None]) -> None:
        super().__init__()
        self.originals, self.note = originals, note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS and args[0].is_meta:
            return LOOKS[func]
        result = func(*args, **kwargs)
        if any(isinstance(part, torch.Tensor) for part in leaves(result)):
            for part in leaves((args, kwargs)):
                if id(part) in self.originals:
                    self.note(self.originals[id(part)])
        return result
