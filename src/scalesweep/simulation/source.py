"""The interface of all sources of learning curves for a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Curve:
    """The evaluations of a trial up to `max_t`, as arrays of equal length, in order."""

    fidelity: np.ndarray  # in units of the sweep's `time_attr`, ascending; the last is `max_t`
    value: np.ndarray  # the metric, in its own direction; NaN if the trial has diverged
    gpu_seconds: np.ndarray  # GPU seconds since the start on the trial's own GPU count, without start-up


class Source(Protocol):
    """Learning curves for all parameters that a space can draw."""

    n_params: dict[str, float]
    """The parameter count of each model size; empty if sizes are not searched or the counts are unknown."""

    @property
    def best(self) -> float:
        """The best known value at full fidelity, which has regret 0."""
        ...

    @property
    def median(self) -> float:
        """The median value at full fidelity of random configurations of the space, which has regret 1."""
        ...

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """The curve of one run. `seed` draws its noise, if the source has noise."""
        ...

    def final(self, params: Mapping[str, Any]) -> float:
        """The value of a configuration at full fidelity, without noise if the source knows it."""
        ...

    def true_rank(self, value: float) -> int | None:
        """The rank of `value` among configurations with a known value at full fidelity; 1 is the best."""
        ...

    notes: list[str]
    """Remarks for readers of the results, such as ignored rows or the error of a surrogate."""
