"""The memory that sizes and methods need: those that can't fit on a GPU, and ranks that are too high for the layers."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalesweep.costs import GIB, WEIGHT_BYTES, training_memory_bytes
from scalesweep.errors import Problem
from scalesweep.spec import SweepSpec, unfreezing_modes
from scalesweep.spec.adapters import adapter_params, full_rank, trained_params
from scalesweep.spec.checks import adapters, values_drawn
from scalesweep.spec.configurations import combination, fits, least_ranks, method_name, ranks, shares
from scalesweep.spec.space import ADAPTERS
from scalesweep.spec.tasks import TASKS

if TYPE_CHECKING:
    from scalesweep.models.ladder import ResolvedSize

# Size and method; with a third value, the least rank of an adapter for which it holds (0: all); with a fourth, the share of a GPU.
Hopeless = tuple[str, str] | tuple[str, str, int] | tuple[str, str, int, float]


def methods(spec: SweepSpec) -> list[tuple[str, str]]:
    """Return the pairs of unfreezing mode and adapter that a trial may have."""
    return [(mode, adapter) for adapter in adapters(spec) for mode in unfreezing_modes(spec)]


def rank_notes(spec: SweepSpec, sizes: Sequence[ResolvedSize]) -> list[str]:
    """Return a remark for the sizes on whose layers a rank of the space is too high to add anything."""
    found: dict[tuple[int, str], list[str]] = {}
    for size in sizes if adapters(spec) != ["none"] else ():
        most = max(full_rank(size.linears, str(targets)) for targets in values_drawn(spec, "lora_target_modules"))
        if above := [rank for rank in values_drawn(spec, "lora_rank") if rank > most]:
            found.setdefault((most, ", ".join(map(str, above))), []).append(size.name)
    return [
        f"{', '.join(names)}: lora_rank {above} is above {most}, the highest rank of a layer with an adapter, and adds nothing to it"
        for (most, above), names in found.items()
    ]


def memory_gib(spec: SweepSpec, size: ResolvedSize, mode: str, adapter: str, rank: int) -> float:
    """Return the least memory of one worker, in GiB, over the targets of the space."""
    found = []
    for targets in map(str, values_drawn(spec, "lora_target_modules")):
        added = 0 if adapter == "none" else adapter_params(size.linears, adapter, rank, targets)
        trained = trained_params(size, mode, adapter, rank, targets, TASKS[spec.task].draws_head)
        embeddings = size.n_params_embedding if adapter == "none" and mode != "head" else 0
        weights = _weight_bytes(spec, size, adapter, added)
        found.append(training_memory_bytes(weights, trained, spec.training.optimizer, embeddings) / GIB)
    return min(found)


def _weight_bytes(spec: SweepSpec, size: ResolvedSize, adapter: str, added: int) -> float:
    """Return the bytes of all weights, with `added` parameters of adapters. What trains is float32, and so is all without one."""
    if adapter == "none":
        return WEIGHT_BYTES["float32"] * size.n_params
    head = size.group_params[-1] if TASKS[spec.task].draws_head else 0
    in_4_bits = size.linear_params if ADAPTERS[adapter].four_bits else 0
    others = size.n_params - head - in_4_bits
    return (
        WEIGHT_BYTES["float32"] * (head + added)
        + WEIGHT_BYTES["nf4"] * in_4_bits
        + WEIGHT_BYTES[spec.training.base_dtype] * others
    )


def hopeless_combinations(spec: SweepSpec, sizes: Sequence[ResolvedSize]) -> list[Hopeless]:
    """Return the pairs of size and method whose weights, gradients and optimizer states exceed a GPU's memory.

    Where low ranks of an adapter fit, the least rank that does not comes with the pair; so does the share of a GPU where a larger
    one holds more.
    """
    memory, found = spec.resources.gpu_memory_gib, list[Hopeless]()
    if memory is None:
        return found
    for size, (mode, adapter) in itertools.product(sizes, methods(spec)):
        pair = size.name, method_name(mode, adapter)
        needs, drawn = functools.partial(memory_gib, spec, size, mode, adapter), ranks(spec, adapter)
        known = len(drawn)  # ranks that fit on a larger share
        for share in shares(spec):
            fitting = bisect.bisect(drawn, memory * share, key=needs)  # more memory for a higher rank
            if fitting < known:
                known, rank = fitting, drawn[fitting] if fitting else 0
                found.append((*pair, rank, share) if share < 1 else (*pair, rank) if rank else pair)
    return found


def check_points_fit(spec: SweepSpec, hopeless: Sequence[Hopeless]) -> list[Problem]:
    """Find the points of `search.points_to_evaluate` that can't fit in GPU memory."""
    problems, parameters, refused = [], spec.search_space.parameters, least_ranks(hopeless)
    for index, point in enumerate(spec.search.points_to_evaluate):
        # None, where the point leaves it open, is not hopeless.
        fixed = {name: parameter.value for name, parameter in parameters.items() if parameter.value is not None}
        left_open = dict.fromkeys(parameters)
        size, method, share = combination(spec, {**left_open, "num_gpus": shares(spec)[0], **fixed, **point})
        adapter = method.partition(" with ")[2]
        rank = int({**fixed, **point}.get("lora_rank", ranks(spec, adapter)[0])) if adapter else 0
        if not fits((size, method, share), rank, refused):
            named = f" of rank {rank}" if "lora_rank" in point else ""
            gpu = "a GPU" if share == 1 else f"{share} of a GPU"
            message = f"{size} with unfreezing {method}{named} needs more than the memory of {gpu}"
            smaller = "lower lora_rank, choose a smaller size" if named else "choose a smaller size"
            hint = f"{smaller} or unfreezing: head, or increase resources.gpu_memory_gib"
            problems.append(spec.problem(("search", "points_to_evaluate", index), message, hint))
    return problems
