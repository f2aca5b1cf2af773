"""The points of a search space: which there are, which give the same training, and how many can be trained."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from typing import Any

from scalesweep.spec.checks import allowed_gpus
from scalesweep.spec.config import default_of
from scalesweep.spec.space import Parameter
from scalesweep.spec.sweep import SweepSpec

ANY: Any = ...  # stands for any value of a continuous range
MOST_COUNTED = 10_000  # points; a larger space holds more than any sweep tries

Combination = tuple[str, str]  # model size, method (`method_name`)


def combination(spec: SweepSpec, params: dict[str, Any]) -> Combination:
    """The model size and method of a trial, which determine its memory."""
    names = ("model_size", "unfreezing", "adapter")
    size, mode, adapter = (params.get(name, default_of(spec, name, params)) for name in names)
    return str(size), method_name(str(mode), str(adapter))


def method_name(mode: str, adapter: str) -> str:
    """The method of a trial in words: its unfreezing mode, and its adapter if it has one."""
    return mode if adapter == "none" else f"{mode} with {adapter}"


def without_influence(spec: SweepSpec) -> frozenset[str]:
    """Parameters that change a trial's speed and not its result: the GPU count, unless time itself is the fidelity."""
    return frozenset() if spec.early_terminate.time_attr in ("gpu_seconds", "dollars") else frozenset({"num_gpus"})


def identity(spec: SweepSpec, params: dict[str, Any]) -> Hashable:
    """A value that is equal for two draws if and only if both train the same."""
    left_out = without_influence(spec)
    return frozenset((name, value) for name, value in params.items() if name not in left_out)


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


def space_size(spec: SweepSpec, refused: Collection[Combination] = ()) -> int | None:
    """The number of different trials that the space holds; None if there is no limit or it is above `MOST_COUNTED`.

    Args:
        refused: pairs of size and method that can't run.
    """
    found: set[Hashable] = set()
    for params in points(spec):
        if combination(spec, params) in refused:
            continue
        if ANY in params.values() or len(found) > MOST_COUNTED:
            return None
        found.add(identity(spec, params))
    return len(found)
