"""Encoding of parameters as numbers: the unit cube for drawing candidates, and the features for the models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesweep.spec import Parameter, SweepSpec
from scalesweep.spec.config import default_of

ABSENT = 0.5  # the feature of an absent number; the feature of the parameter in its `when` shows its absence
LOG_SPAN = 10.0  # listed numbers that span this factor are compared on a log scale


@dataclass(frozen=True)
class Column:
    """One parameter on the unit interval. Each choice has an equal share of it; `places` orders numeric choices."""

    name: str
    parameter: Parameter
    choices: tuple[Any, ...] | None
    places: np.ndarray | None  # positions of the choices on [0, 1]; None for words without an order
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @property
    def words(self) -> bool:
        return self.choices is not None and self.places is None

    def unit(self, value: Any) -> float:
        """The position of `value` on [0, 1]."""
        if self.choices is not None:
            index = self.choices.index(value)
            return (index + 0.5) / len(self.choices)
        if self.high == self.low:
            return 0.5
        number = math.log(value) if self.log else float(value)
        return min(1.0, max(0.0, (number - self.low) / (self.high - self.low)))

    def value(self, unit: float) -> Any:
        """The value at position `unit`: the inverse of `unit`, up to rounding to valid values."""
        if self.choices is not None:
            return self.choices[min(len(self.choices) - 1, int(unit * len(self.choices)))]
        number = self.low + unit * (self.high - self.low)
        number = math.exp(number) if self.log else number
        bounds = float(self.parameter.min or 0), float(self.parameter.max or 0)
        if self.parameter.kind == "int_uniform":
            return int(min(bounds[1], max(bounds[0], round(number))))
        return float(min(bounds[1], max(bounds[0], number)))

    def index(self, units: np.ndarray) -> np.ndarray:
        """The index of the choice at each of `units`."""
        assert self.choices is not None
        return np.minimum((units * len(self.choices)).astype(int), len(self.choices) - 1)


class Encoder:
    """The space of a sweep as a unit cube with one axis per varied parameter, in the order of drawing.

    Features for the models have a column per number or ordered choice, and one per word. Model sizes are placed by the
    logarithm of their parameter counts if these are known, otherwise by their position on the ladder.
    """

    def __init__(self, spec: SweepSpec, n_params: Mapping[str, float] | None = None) -> None:
        self.spec = spec
        self.fixed = {name: p.value for name, p in spec.search_space.ordered() if p.kind == "constant"}
        self.order = [name for name, _ in spec.search_space.ordered()]
        self.columns = [
            _column(name, p, n_params or {}, spec) for name, p in spec.search_space.ordered() if p.kind != "constant"
        ]
        self.names = [column.name for column in self.columns]
        self.axis = {name: place for place, name in enumerate(self.names)}

    def units(self, params: Mapping[str, Any]) -> np.ndarray:
        """A trial's place in the cube, shape (axes,). Absent parameters are at the middle."""
        return np.array([c.unit(params[c.name]) if c.name in params else ABSENT for c in self.columns])

    def params(self, units: np.ndarray) -> dict[str, Any]:
        """The parameters at a place in the cube, without conditional ones that do not apply."""
        params: dict[str, Any] = {}
        for name in self.order:
            parameter = self.spec.search_space.parameters[name]
            if parameter.holds(params):
                params[name] = (
                    self.fixed[name] if name in self.fixed else self.columns[self.axis[name]].value(units[self.axis[name]])
                )
        return params

    def features(self, units: np.ndarray, without: frozenset[str] = frozenset()) -> np.ndarray:
        """The features [n, features] of places [n, axes], without the parameters in `without`."""
        present = self._present(units)
        found = []
        for place, column in enumerate(self.columns):
            if column.name in without:
                continue
            axis = units[:, place]
            if column.choices is None:
                if column.parameter.kind == "int_uniform":
                    axis = np.array([column.unit(column.value(u)) for u in axis]) if len(axis) < 64 else axis
                found.append(np.where(present[:, place], axis, ABSENT))
            elif column.places is not None:
                found.append(np.where(present[:, place], column.places[column.index(axis)], ABSENT))
            else:
                index = column.index(axis)
                found += [np.where(present[:, place], index == k, 0.0) for k in range(len(column.choices))]
        return np.column_stack(found) if found else np.zeros((len(units), 0))

    def numbers(self, without: frozenset[str] = frozenset()) -> np.ndarray:
        """Whether each column of `features` holds a number or an ordered choice rather than a word, bool [features]."""
        kept = [column for column in self.columns if column.name not in without]
        counts = [len(column.choices or ()) if column.words else 1 for column in kept]
        return np.repeat(np.array([not column.words for column in kept], bool), counts)

    def feature_of(self, name: str) -> int | None:
        """The column in `features` of a number or ordered choice; None if the space does not vary it."""
        place = 0
        for column in self.columns:
            if column.name == name:
                return place
            place += len(column.choices or ()) if column.words else 1
        return None

    def _present(self, units: np.ndarray) -> np.ndarray:
        """Whether each parameter exists at each place, bool [n, axes]."""
        there: dict[str, np.ndarray] = {}
        for name in self.order:
            parameter = self.spec.search_space.parameters[name]
            holds = np.ones(len(units), bool)
            for other, wanted in parameter.when.items():
                listed = wanted if isinstance(wanted, list) else [wanted]
                holds &= there[other] & self._takes(other, units, listed)
            there[name] = holds
        return np.column_stack([there[name] for name in self.names]) if self.names else np.ones((len(units), 0), bool)

    def _takes(self, name: str, units: np.ndarray, listed: list[Any]) -> np.ndarray:
        if name in self.fixed:
            return np.full(len(units), self.fixed[name] in listed)
        column = self.columns[self.axis[name]]
        axis = units[:, self.axis[name]]
        if column.choices is not None:
            return np.isin(column.index(axis), [k for k, choice in enumerate(column.choices) if choice in listed])
        return np.array([column.value(u) in listed for u in axis], bool)

    def chosen(self, name: str, units: np.ndarray) -> list[Any]:
        """The value of a parameter at each place; its default if it is not searched."""
        if name in self.axis:
            column = self.columns[self.axis[name]]
            return [column.value(u) for u in units[:, self.axis[name]]]
        value = self.fixed.get(name, default_of(self.spec, name, {}))
        return [value] * len(units)


def _column(name: str, parameter: Parameter, n_params: Mapping[str, float], spec: SweepSpec) -> Column:
    choices = parameter.choices()
    if choices is None:
        low, high = float(parameter.min or 0), float(parameter.max or 0)
        log = parameter.kind == "log_uniform_values"
        return Column(name, parameter, None, None, math.log(low) if log else low, math.log(high) if log else high, log)
    places: np.ndarray | None = None
    if name == "model_size":
        ladder = [size.name for size in spec.sizes()]
        known = all(choice in n_params for choice in choices)
        places = _spread([math.log(n_params[str(c)]) if known else float(ladder.index(str(c))) for c in choices])
    elif all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
        numbers = [float(choice) for choice in choices]
        log = min(numbers) > 0 and max(numbers) >= LOG_SPAN * min(numbers)
        places = _spread([math.log(number) for number in numbers] if log else numbers)
    return Column(name, parameter, tuple(choices), places)


def _spread(numbers: list[float]) -> np.ndarray:
    """Numbers scaled to [0, 1]."""
    array = np.array(numbers)
    width = array.max() - array.min()
    return (array - array.min()) / width if width else np.full(len(array), 0.5)
