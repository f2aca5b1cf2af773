"""The points of a search space: which there are, which give the same training, and how many can be trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scalesweep.costs import share_of
from scalesweep.spec.checks import allowed_gpus, gpu_choices
from scalesweep.spec.config import default_of
from scalesweep.spec.space import ADAPTERS, PARAMETERS, Parameter
from scalesweep.spec.sweep import SweepSpec
from scalesweep.spec.tasks import TASKS

ANY: Any = ...  # stands for any value of a continuous range
MOST_COUNTED = 10_000  # points; a larger space holds more than any sweep tries

Combination = tuple[str, str, float]  # model size, method (`method_name`), share of a GPU that a worker has
SHARES = (1.0, *PARAMETERS["num_gpus"].fractions)  # of a GPU that a worker may have
OF_ADAPTERS = frozenset(name for name in PARAMETERS if name.startswith("lora_") or name == "use_rslora")


def combination(spec: SweepSpec, params: dict[str, Any]) -> Combination:
    """The model size, method and share of a GPU of a trial, which determine whether it has enough memory."""
    names = ("model_size", "unfreezing", "adapter", "num_gpus")
    size, mode, adapter, gpus = (params[name] if name in params else default_of(spec, name, params) for name in names)
    return str(size), method_name(str(mode), str(adapter)), share_of(gpus)


def method_name(mode: str, adapter: str) -> str:
    """The method of a trial in words: its unfreezing mode, and its adapter if it has one."""
    return mode if adapter == "none" else f"{mode} with {adapter}"


def rank_of(spec: SweepSpec, params: Mapping[str, Any]) -> int:
    """The rank of a trial's adapters; 0 without adapters."""
    adapter, rank = (params.get(name, default_of(spec, name, {})) for name in ("adapter", "lora_rank"))
    return 0 if adapter == "none" else int(rank)


def ranks(spec: SweepSpec, adapter: str) -> list[int]:
    """Every rank that an adapter may have in a trial, ascending; 0 for `none`."""
    parameter, default = spec.search_space.parameters.get("lora_rank"), int(PARAMETERS["lora_rank"].default or 0)
    if adapter == "none":
        return [0]
    wanted = parameter.when.get("adapter", adapter) if parameter is not None else []
    if parameter is None or adapter not in (wanted if isinstance(wanted, list) else [wanted]):
        return [default]
    drawn = {int(rank) for rank in _values(spec, "lora_rank", parameter, {})}
    return sorted(drawn | ({default} if parameter.when.keys() - {"adapter"} else set()))


def least_ranks(hopeless: Iterable[Sequence[Any]]) -> dict[Combination, int]:
    """The combinations that can't run, each with the least rank that can't. 0 stands for every rank.

    Args:
        hopeless: sizes and methods; with a third value, that rank; with a fourth, the share of a GPU.
    """
    rows = ((size, method, *rest, *(0, 1.0)[len(rest) :]) for size, method, *rest in hopeless)
    return {(size, method, share): int(rank) for size, method, rank, share in rows}


def fits(found: Combination, rank: int, hopeless: Mapping[Combination, int]) -> bool:
    """Whether a combination may run with adapters of this rank. `hopeless` is that of `least_ranks`.

    If `head` does not fit, no mode with the same adapter fits; another mode says nothing about the others. Where a share of a
    GPU is too small, a smaller one is too.
    """
    size, method, share = found
    _, with_, adapter = method.partition(" with ")
    larger = [one for one in SHARES if one >= share]
    return all(
        rank < hopeless.get((size, known, one), math.inf) for known in (method, f"head{with_}{adapter}") for one in larger
    )


def shares(spec: SweepSpec) -> list[float]:
    """The shares of a GPU that a worker may have in the space, the largest first."""
    return sorted({share_of(count) for count in gpu_choices(spec)}, reverse=True)


def without_influence(spec: SweepSpec) -> frozenset[str]:
    """Parameters that change a trial's speed and not its result: the GPU count, unless time itself is the fidelity."""
    return frozenset() if spec.early_terminate.time_attr in ("gpu_seconds", "dollars") else frozenset({"num_gpus"})


def identity(spec: SweepSpec, params: dict[str, Any]) -> Hashable:
    """A value that is equal for two draws if both train the same."""
    return frozenset(influential(spec, params).items())


def influential(spec: SweepSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the result of a draw depends on. All adapters on the same base are one where none of them trains."""
    left_out = without_influence(spec)
    mode, adapter = (params.get(name, default_of(spec, name, {})) for name in ("unfreezing", "adapter"))
    kept = {name: value for name, value in params.items() if name not in left_out}
    if mode == "head" and adapter != "none" and TASKS[spec.task].draws_head and not spec.foreign:
        any_of = "any in 4 bits" if ADAPTERS[str(adapter)].four_bits else "any"
        kept = {name: value for name, value in kept.items() if name not in OF_ADAPTERS} | {"adapter": any_of}
    return kept


def listed_again(spec: SweepSpec, whole: bool = False) -> int:
    """The number of listed points that train the same as an earlier one, such as one with another GPU count. At most: the sampler
    may complete points that leave something open to different ones. `whole` counts none of these."""
    listed = [identity(spec, point) for point in spec.search.points_to_evaluate if not (whole and _leaves_open(spec, point))]
    return len(listed) - len(set(listed))


def _leaves_open(spec: SweepSpec, point: Mapping[str, Any]) -> bool:
    """Whether a listed point leaves a choice that changes the result."""
    known = dict(point)
    for name, parameter in spec.search_space.ordered():
        if name in known or not parameter.holds(known):
            continue
        values = list(_values(spec, name, parameter, known))
        if name not in without_influence(spec) and (len(values) > 1 or ANY in values):
            return True
        known[name] = values[0]
    return False


def points(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    """Every draw of listed values and whole numbers, with `ANY` for parameters of a continuous range."""
    ordered = spec.search_space.ordered()

    def extend(place: int, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if place == len(ordered):
            yield params
            return
        name, parameter = ordered[place]
        for value in _values(spec, name, parameter, params) if parameter.holds(params) else ():
            yield from extend(place + 1, {**params, name: value})
        if not parameter.holds(params):
            yield from extend(place + 1, params)

    return extend(0, {})


def _values(spec: SweepSpec, name: str, parameter: Parameter, params: dict[str, Any]) -> Collection[Any]:
    if name == "num_gpus":
        return allowed_gpus(spec, spec.size(params.get("model_size", spec.sizes()[0].name)))
    if (choices := parameter.choices()) is not None:
        return choices
    low, high = parameter.min, parameter.max
    assert low is not None
    assert high is not None
    if parameter.kind == "int_uniform":
        return range(int(low), int(high) + 1)
    return [ANY] if low < high else [low]


def space_size(spec: SweepSpec, hopeless: Iterable[Sequence[Any]] = ()) -> int | None:
    """The number of different trials that the space holds; None if there is no limit or it is above `MOST_COUNTED`.

    Args:
        hopeless: sizes and methods that can't run, as in `least_ranks`.
    """
    found: set[Hashable] = set()
    refused = least_ranks(hopeless)
    for params in points(spec):
        if not fits(combination(spec, params), rank_of(spec, params), refused):
            continue
        if ANY in influential(spec, params).values() or len(found) > MOST_COUNTED:
            return None
        found.add(identity(spec, params))
    return len(found)
