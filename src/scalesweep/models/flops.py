"""A model's cost in FLOPs, measured from the matrix products of a forward pass and the dependencies of their factors.

Two forward passes of different shapes on the meta device find every product. The cost of each grows like rows^a · width^b,
and the two passes determine a and b. The backward pass of a product is two products of the same cost, one per factor, and
each is computed only if that factor depends on a trained parameter. The dependencies are followed through the forward pass.
They give the cost of the backward pass for any set of trained groups: a frozen prefix, a frozen group in the middle, a tied
output layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from scalesweep.costs import FlopProfile, Gradient, Growth
from scalesweep.models.groups import LayerGroup, blocks, layer_groups
from scalesweep.models.meta import LOOKS, evaluation_mode, leaves, to_meta

SHAPES = (
    (2, 8),
    (10, 24),
)  # rows and width of the two passes: factors 5 and 3, so no two pairs of exponents give the same ratio
_GROWTHS: dict[float, int] = {
    5**a * 3**b: 3 * a + b for a in (0, 1) for b in (0, 1, 2)
}  # ratio of the two passes → place in a Growth
_EMPTY = (0.0,) * 6

Groups = frozenset[int]


@dataclass(frozen=True)
class _Product:
    """A product of two tensors, and the groups on whose parameters each of them depends."""

    group: int  # the group that computes it
    run: int  # the number of the block run, counted over the pass; -1 outside the blocks
    flops: float
    left: Groups
    right: Groups


class _NotMeasurable(Exception):
    """The model can't run on the meta device, or its cost does not have the assumed form."""


def flop_profile(
    model: nn.Module, groups: Sequence[LayerGroup] | None = None, trained: Collection[str] | None = None
) -> FlopProfile:
    """Measure the FLOPs of `model`, on any device, without changing it.

    Attention counts in full even if a mask hides half of it. It counts as in unfused kernels: the second computation of the
    scores in a fused backward pass is left out. The backward pass of a grouped convolution counts as twice its forward pass
    (torch's counter ignores the groups there). A model that can't run on the meta device is estimated at 2 FLOPs per
    parameter and token.

    Args:
        trained: names of the parameters that may train; by default all. The others cost no gradient.
    """
    groups = layer_groups(model) if groups is None else groups
    for dtype in (None, torch.bfloat16):  # expert kernels accept nothing else on the meta device
        try:
            small, large = (_Pass(model, groups, rows, width, dtype, trained) for rows, width in SHAPES)
            return _profile(small, large, len(groups))
        except _NotMeasurable:
            continue
    return _estimate(model, groups, trained)


def _profile(small: _Pass, large: _Pass, n_groups: int) -> FlopProfile:
    if len(small.products) != len(large.products):
        raise _NotMeasurable
    forwards, recomputed = ([list(_EMPTY) for _ in range(n_groups)] for _ in range(2))
    gradients: dict[Groups, list[float]] = defaultdict(lambda: list(_EMPTY))
    for index, (one, other) in enumerate(zip(small.products, large.products, strict=True)):
        place = _GROWTHS.get(other.flops / one.flops)
        if place is None:
            raise _NotMeasurable
        rows, width = SHAPES[0]
        cost = one.flops / (rows ** (place // 3) * width ** (place % 3))
        forwards[one.group][place] += cost
        if one.run >= 0 and index < small.saved[one.run]:
            recomputed[one.group][place] += cost
        for needed in (one.left, one.right):
            if needed:
                gradients[needed][place] += cost
    return FlopProfile(
        forwards=tuple(map(tuple, forwards)),
        recomputed=tuple(map(tuple, recomputed)),
        gradients=tuple(Gradient(_ranges(needed), tuple(growth)) for needed, growth in gradients.items()),
        estimated=small.estimated,
    )


def _ranges(groups: Groups) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of group numbers: {0, 1, 2, 5} → ((0, 3), (5, 6))."""
    starts = sorted(group for group in groups if group - 1 not in groups)
    return tuple(zip(starts, sorted(group + 1 for group in groups if group + 1 not in groups), strict=True))


class _Pass(TorchFunctionMode):
    """One forward pass with every product in order, found by intercepting torch functions and reading the FLOP counter."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        rows: int,
        width: int,
        dtype: torch.dtype | None,
        trained: Collection[str] | None,
    ) -> None:
        super().__init__()
        self.products: list[_Product] = []
        self.estimated = False
        self.counter = FlopCounterMode(display=False)
        self.chain = blocks(model)
        self.inside: list[int] = []  # blocks that are running, outermost first
        self.left = -1  # the highest block that has finished
        self.met: set[int] = set()  # ids of the factors of all products
        self.alive: list[torch.Tensor] = []  # keeps tensors alive, so no id is reused
        self.needs: dict[int, Groups] = {}  # id of a tensor → the groups on which it depends
        # Per run of a block, the number of products before the last tensor saved for the backward pass. Gradient
        # checkpointing recomputes the block up to that point.
        self.saved: list[int] = []
        self._run(model, groups, torch.zeros(rows, width, dtype=torch.long, device="meta"), dtype, trained)

    def _run(
        self,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        tokens: torch.Tensor,
        dtype: torch.dtype | None,
        trained: Collection[str] | None,
    ) -> None:
        group_of = {name: index for index, group in enumerate(groups) for name in group.parameter_names}
        parameters = {
            name: to_meta(p, dtype).requires_grad_(p.is_floating_point() and (trained is None or name in trained))
            for name, p in model.named_parameters()
        }
        for name, parameter in parameters.items():
            self._know(parameter, frozenset({group_of[name]}))
        tensors = parameters | {name: to_meta(buffer, dtype) for name, buffer in model.named_buffers()}
        handles = []
        for index, block in enumerate(self.chain):
            handles.append(block.register_forward_pre_hook(lambda _m, _a, index=index: self._enter(index)))
            handles.append(block.register_forward_hook(lambda _m, _a, _o, index=index: self._leave(index)))
        try:
            watched = torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)
            with torch.enable_grad(), evaluation_mode(model), watched, self.counter, self:
                torch.func.functional_call(model, tensors, (), {"input_ids": tokens})
        except Exception as error:
            if self.left < len(self.chain) - 1:
                raise _NotMeasurable from error
            # A head may read values (for example to find the end of the text). Its unseen layers are counted by their weights.
            every_token = getattr(model, "get_output_embeddings", lambda: None)() is not None
            times = 2 * tokens.shape[0] * (tokens.shape[1] if every_token else 1)
            for name in groups[-1].parameter_names:
                if parameters[name].dim() > 1 and id(parameters[name]) not in self.met:
                    self.estimated = True
                    self._add(times * parameters[name].numel(), frozenset(range(len(groups))), self.needs[id(parameters[name])])
        finally:
            for handle in handles:
                handle.remove()
        if sum(product.flops for product in self.products) < self.counter.get_total_flops():
            raise _NotMeasurable  # some products run outside torch's functions
        self.alive.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS and args[0].is_meta:
            return LOOKS[func]
        before = self.counter.get_total_flops()
        result = func(*args, **kwargs)
        flops = self.counter.get_total_flops() - before
        inputs = [part for part in leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
        if flops:
            self._multiply(func, flops, inputs)
        outputs = [part for part in leaves(result) if isinstance(part, torch.Tensor)]
        if func is torch.Tensor.__setitem__:
            outputs = inputs[:1]
        if outputs:
            needs = frozenset[int]().union(*(self._needs(part) for part in inputs))
            for part in outputs:
                self._know(part, needs)
        if func is nn.functional.dropout and _rate(args, kwargs) > 0:
            self._save(None)  # dropout saves its mask in training mode
        return result

    def _multiply(self, func: Any, flops: float, inputs: list[torch.Tensor]) -> None:
        if func is nn.functional.scaled_dot_product_attention:
            query, key, value = (self._needs(part) for part in inputs[:3])
            self.met.update(map(id, inputs[:3]))
            self._add(flops / 2, query, key)
            self._add(flops / 2, query | key, value)
            return
        factors = [part for part in inputs if part.dim() > 1]  # one-dimensional tensors are biases
        if len(factors) < 2:
            factors = inputs
        if len(factors) < 2:
            raise _NotMeasurable
        self.met.update(map(id, factors[-2:]))
        self._add(flops, self._needs(factors[-2]), self._needs(factors[-1]))

    def _add(self, flops: float, left: Groups, right: Groups) -> None:
        run = len(self.saved) - 1 if self.inside else -1
        self.products.append(_Product(self._group(), run, flops, left, right))

    def _know(self, tensor: torch.Tensor, needs: Groups) -> None:
        self.alive.append(tensor)
        self.needs[id(tensor)] = needs

    def _needs(self, tensor: torch.Tensor) -> Groups:
        """The groups on which a tensor depends: all groups so far, if an unseen function (with its own backward) made it."""
        if not tensor.requires_grad:
            return frozenset()
        return self.needs.get(id(tensor)) or frozenset(range(self._group() + 1))

    def _group(self) -> int:
        if self.inside:
            return self.inside[0] + 1
        return self.left + 1 + (self.left == len(self.chain) - 1)

    def _enter(self, index: int) -> None:
        self.inside.append(index)
        if len(self.inside) == 1:
            self.saved.append(0)

    def _leave(self, index: int) -> None:
        self.inside.pop()
        self.left = max(self.left, index)

    def _save(self, tensor: Any) -> Any:
        if self.inside:
            self.saved[-1] = len(self.products)
        return tensor


def _rate(args: Any, kwargs: Any) -> float:
    return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5))


def _estimate(model: nn.Module, groups: Sequence[LayerGroup], trained: Collection[str] | None) -> FlopProfile:
    """2 FLOPs per weight and token, plus attention over the sequence (Kaplan et al., 2020, table 1)."""
    parameters = dict(model.named_parameters())
    config: Any = model.config
    hidden = config.get_text_config().hidden_size
    output = getattr(model, "get_output_embeddings", lambda: None)()
    forwards: list[Growth] = [_EMPTY]
    for group in groups[1:]:
        weights = sum(parameters[name].numel() for name in group.parameter_names)
        if group is groups[-1]:
            per_token = max(weights, output.weight.numel()) if output is not None else 0
            forwards.append((0.0, 0.0, 0.0, 0.0 if output is not None else 2.0 * weights, 2.0 * per_token, 0.0))
        else:
            forwards.append((0.0, 0.0, 0.0, 0.0, 2.0 * weights, 4.0 * hidden))
    gradients = []
    for index, growth in enumerate(forwards[1:], start=1):
        products = (*growth[:5], growth[5] / 2)  # about half of attention's factors depend on the input alone
        names = groups[index].parameter_names
        own = sum(parameters[name].numel() for name in names if trained is None or name in trained)
        share = own / max(1, sum(parameters[name].numel() for name in names))  # of the weights, that of those that train
        weights_gradient = tuple(share * value for value in products)
        gradients += [Gradient(((index, index + 1),), weights_gradient), Gradient(((0, index),), products)]
        gradients.append(Gradient(((0, index + 1),), (0.0, 0.0, 0.0, 0.0, 0.0, growth[5])))
    recomputed = (_EMPTY, *forwards[1:-1], _EMPTY)
    return FlopProfile(tuple(forwards), recomputed, tuple(gradients), estimated=True)
