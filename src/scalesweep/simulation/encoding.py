"""Encoding of parameters as numbers, to compare recorded configurations and to fit models to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesweep.search.encoding import LOG_SPAN
from scalesweep.spec import Parameter, SearchSpace

Token = float | str
ABSENT_WORD = -1.0  # the code of an absent word parameter; an absent number is NaN


def token(value: Any) -> Token | None:
    """The form in which values from YAML, JSON and tables are compared; None for an empty value.

    Numbers become floats, even if written as text (a table's column of words may contain a size named 350). Other values
    become text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    try:
        number = float(value)
    except (TypeError, ValueError):
        text = str(value)
        return text.lower() if text.lower() in ("true", "false") else text
    return number if math.isfinite(number) else str(value)


def is_number(parameter: Parameter) -> bool:
    """Whether the values of `parameter` have distances, as in ranges and lists of numbers."""
    choices = parameter.choices()
    return choices is None or all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)


@dataclass(frozen=True)
class Feature:
    """One parameter: the code of a word, or a number scaled from `low` … `high` to the unit interval."""

    name: str
    words: dict[Token, int] | None  # None: a number
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def encode(self, value: Token | None) -> float:
        if self.words is not None:
            return ABSENT_WORD if value is None else float(self.words.get(value, len(self.words)))
        if value is None or isinstance(value, str):
            return math.nan
        if self.log:
            value = math.log(max(value, self.low)) - math.log(self.low)
            return value / span if (span := math.log(self.high) - math.log(self.low)) else 0.0
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0


class Encoding:
    """The encoding of the parameters `names` of a space, one column each."""

    def __init__(self, space: SearchSpace, names: Sequence[str], recorded: Sequence[Mapping[str, Any]]) -> None:
        """`recorded` configurations may be outside the space: they widen ranges and add words."""
        self.names = tuple(names)
        self.features = [
            _feature(name, space.parameters[name], (token(params.get(name)) for params in recorded)) for name in names
        ]
        self.is_word = np.array([feature.words is not None for feature in self.features], dtype=bool)

    def key(self, params: Mapping[str, Any]) -> tuple[Token | None, ...]:
        """A key that is equal for equal parameters."""
        return tuple(token(params.get(name)) for name in self.names)

    def row(self, params: Mapping[str, Any]) -> np.ndarray:
        """One number per parameter, float [n_parameters]: see `Feature`."""
        return np.array([feature.encode(token(params.get(feature.name))) for feature in self.features])

    def matrix(self, many: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return np.array([self.row(params) for params in many]).reshape(len(many), len(self.features))

    def for_trees(self, matrix: np.ndarray) -> np.ndarray:
        """The rows for tree models: absent numbers are below all others, like absent words."""
        return np.nan_to_num(matrix, nan=-1.0)


def _feature(name: str, parameter: Parameter, recorded: Iterable[Token | None]) -> Feature:
    seen = [value for value in recorded if value is not None]
    choices = [value for choice in parameter.choices() or [] if (value := token(choice)) is not None]
    if not is_number(parameter):
        return Feature(name, {value: code for code, value in enumerate(dict.fromkeys([*choices, *seen]))})
    bounds = [float(choice) for choice in choices] or [float(parameter.min or 0), float(parameter.max or 0)]
    log = parameter.kind == "log_uniform_values" or (
        bool(choices) and min(bounds) > 0 and max(bounds) >= LOG_SPAN * min(bounds)
    )
    bounds += [value for value in seen if isinstance(value, float) and (value > 0 or not log)]
    return Feature(name, None, min(bounds), max(bounds), log)
