"""The space as plain numbers, for tools that support only ranges and integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalesweep.spec import Parameter, SweepSpec


@dataclass(frozen=True)
class Axis:
    """One parameter as a number from `low` to `high`; for a list, the number is the index in `choices`."""

    name: str
    low: float
    high: float
    center: float
    log: bool = False
    integer: bool = False
    choices: Sequence[Any] | None = None

    def decode(self, number: float) -> Any:
        number = min(max(number, self.low), self.high)
        if self.choices is not None:
            return self.choices[round(number)]
        return round(number) if self.integer else float(number)


def axis(spec: SweepSpec, name: str, parameter: Parameter) -> Axis:
    """The axes of a space. Numbers are in ascending order, sizes in ladder order, words in the order of the list.

    The centre is the middle of the range, except for size and GPU count, where it is the cheapest value: the authors of both
    tools recommend starting with cheap trials.
    """
    if parameter.values is not None:
        choices = list(parameter.values)
        if name == "model_size":
            choices.sort(key=[size.name for size in spec.sizes()].index)
        elif all(isinstance(value, int | float) for value in choices):
            choices.sort()  # type: ignore[type-var]
        center = 0 if name in ("model_size", "num_gpus") else (len(choices) - 1) // 2
        return Axis(name, 0, len(choices) - 1, center, integer=True, choices=choices)
    assert parameter.min is not None
    assert parameter.max is not None
    low, high = parameter.min, parameter.max
    if parameter.kind == "int_uniform":
        return Axis(name, int(low), int(high), int(low) if name == "num_gpus" else (int(low) + int(high)) // 2, integer=True)
    if parameter.kind == "log_uniform_values":
        return Axis(name, float(low), float(high), (low * high) ** 0.5, log=True)
    return Axis(name, float(low), float(high), (low + high) / 2)
