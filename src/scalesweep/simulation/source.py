"""Where a simulation's learning curves come from: what every source offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Curve:
    """What a trial would show, evaluation by evaluation, up to `max_t`. Arrays of one length, in order."""

    fidelity: np.ndarray  # of the sweep's `time_attr`, ascending; the last is `max_t`
    value: np.ndarray  # the metric, in its own direction; NaN: diverged by then
    gpu_seconds: np.ndarray  # spent from the start up to there, on the trial's own GPU count, start-up left out


class Source(Protocol):
    """Learning curves for any parameters that a space can draw."""

    n_params: dict[str, float]
    """Parameters of each model size; empty where sizes are not searched or their parameters are not known."""

    @property
    def best(self) -> float:
        """The best value at full fidelity that is known: the reference of regret."""
        ...

    @property
    def median(self) -> float:
        """The median, at full fidelity, of configurations drawn at random from the space."""
        ...

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """The curve of one run. `seed` draws its noise, where the source has any."""
        ...

    def final(self, params: Mapping[str, Any]) -> float:
        """The value at full fidelity that a configuration is judged by, without noise where that is known."""
        ...

    def true_rank(self, value: float) -> int | None:
        """The place of `value` among the configurations whose value at full fidelity is known (1 is the best)."""
        ...

    notes: list[str]
    """What a reader of the results has to know of the source: rows left out, how good a surrogate is."""
