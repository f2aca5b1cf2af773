"""CARBS (Imbue, 2023), from a checkout of its repository, because the package index has another package of that name."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

from .axes import Axis, axis
from .base import Rival, Shown

LENGTH = "run length"


def load() -> Any:
    """Import the checkout's package, even if another package is called `carbs` too."""
    sys.path.insert(0, os.environ["CARBS_PATH"])
    try:
        import carbs
        from loguru import logger
    finally:
        sys.path.pop(0)
    logger.disable("carbs")
    return carbs


class Carbs(Rival):
    """CARBS with the defaults of `CARBSParams`, which its authors recommend not to change.

    It stops no trial early: each runs to the end. It receives the result and its cost, and a diverged trial as `is_failure`. As
    its README recommends, a parameter's scale is half its range, and at least large enough for a radius of 0.3 to reach the
    next integer. It has no conditions and no categories: lists are integers.
    """

    searches_length = False

    def imports(self) -> None:
        self.carbs = load()

    def build(self) -> None:
        self.axes = {name: axis(self.spec, name, parameter) for name, parameter in self.free_parameters()}
        if self.searches_length:
            self.axes[LENGTH] = Axis(LENGTH, self.min_t, self.max_t, min(2 * self.min_t, self.max_t), log=True)
        settings = self.carbs.CARBSParams(
            better_direction_sign=int(self.sign),
            seed=self.seed,
            is_wandb_logging_enabled=False,
            is_saved_on_every_observation=False,
        )
        self.tool = self.carbs.CARBS(settings, [self._param(one) for one in self.axes.values()])

    def _param(self, one: Axis) -> Any:
        if one.log:
            space = self.carbs.LogSpace(min=one.low, max=one.high, scale=math.log10(one.high / one.low) / 2)
        else:
            half = (one.high - one.low) / 2
            scale = max(half, 1 / 0.3) if one.integer else half
            space = self.carbs.LinearSpace(min=one.low, max=one.high, scale=scale, is_integer=one.integer)
        return self.carbs.Param(name=one.name, space=space, search_center=one.center)

    def ask(self) -> Shown:
        suggestion = self.tool.suggest().suggestion
        return self.new(self.held({name: one.decode(suggestion[name]) for name, one in self.axes.items()}), suggestion)

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        if not last and fidelity < trial.handle.get(LENGTH, math.inf) * (1 - 1e-9):
            return True
        if self.searches_length:
            trial.handle[LENGTH] = fidelity  # the fidelity of its observation, which is that of the next report
        self._observe(trial, output=value, is_failure=False)
        return False

    def failed(self, trial: Shown) -> None:
        self._observe(trial, output=math.nan, is_failure=True)

    def _observe(self, trial: Shown, **outcome: Any) -> None:
        # CARBS removes its own id from the suggestion.
        seen = self.carbs.ObservationInParam(input=dict(trial.handle), cost=self.cost(trial), **outcome)
        self.tool.observe(seen)
        trial.handle["observed"] = not outcome["is_failure"]

    def best(self) -> Shown | None:
        """The `best_observation` of its log: the best successful trial, regardless of cost."""
        return self.best_of([trial for trial in self.trials.values() if trial.handle.get("observed")])


class CarbsLength(Carbs):
    """CARBS with the run's length as a further parameter, from the first rung to `max_t`, which is its own method for cheap
    trials (its README searches the number of epochs). The search starts near the short end, as recommended."""

    searches_length = True
