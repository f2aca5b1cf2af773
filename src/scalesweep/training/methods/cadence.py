"""The cadence of thawing: by steps, by epochs, at shares of the run, or when the validation metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from scalesweep.data.batches import BatchPlan
from scalesweep.spec import TrialConfig
from scalesweep.spec.space import CADENCES
from scalesweep.training.methods.unfreezing import Stage


class Cadence:
    """The unfreezing stage of a trial. A stage determines the groups that train (`unfreezing.py`)."""

    def __init__(
        self,
        config: TrialConfig,
        stages: Sequence[Stage],
        plan: BatchPlan,
        thaw_at: tuple[float, ...] | None = None,
    ) -> None:
        """
        Args:
            thaw_at: shares of the run at which each further stage begins, taken from an earlier run. They replace the
                config's cadence.
        """
        self.config, self.stages, self.plan, self.thaw_at = config, stages, plan, thaw_at
        self.stage = 0
        self._last = len(stages) - 1
        self.best = math.inf
        self.evaluations_without_gain = 0
        self.trainable = stages[0]
        # The step at which each group thawed; None if it has not thawed or trained from the start.
        self.thawed: list[int | None] = [None] * len(self.trainable)

    def advance(self, step: int, progress: float) -> bool:
        """Move to the stage of `step` (from 0) at `progress` (0 … 1) of the run. Returns whether other groups train now."""
        self.stage = min(self._last, self._stage(step, progress))
        trainable = self.stages[self.stage]
        if trainable == self.trainable:
            return False
        for index, (before, now) in enumerate(zip(self.trainable, trainable, strict=True)):
            if now and not before:
                self.thawed[index] = step
        self.trainable = trainable
        return True

    def _stage(self, step: int, progress: float) -> int:
        if self.thaw_at is not None:
            return sum(share <= progress + 1e-9 for share in self.thaw_at)
        return STAGES[self.config.unfreeze_cadence](self, step, progress)

    def observe(self, loss: float) -> None:
        """Record a validation value (lower is better). After `unfreeze_patience` values without gain the next stage begins."""
        if not CADENCES[self.config.unfreeze_cadence].by_metric or self.thaw_at is not None:
            return
        if loss < self.best:
            self.best, self.evaluations_without_gain = loss, 0
            return
        self.evaluations_without_gain += 1
        if self.evaluations_without_gain >= self.config.unfreeze_patience:
            self.stage, self.evaluations_without_gain = min(self.stage + 1, self._last), 0

    def warmth(self, group: int, step: int) -> float:
        """The factor on a group's learning rate: linear over `thaw_warmup_steps` after its thaw, otherwise 1."""
        thawed, steps = self.thawed[group], self.config.thaw_warmup_steps
        return 1.0 if thawed is None or not steps else min(1.0, (step - thawed + 1) / steps)

    @property
    def lowest(self) -> int:
        """The index of the lowest group that trains."""
        return self.trainable.index(True)

    def state(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "best": None if math.isinf(self.best) else self.best,
            "without_gain": self.evaluations_without_gain,
            "thawed": self.thawed,
            "trainable": list(self.trainable),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.stage, self.evaluations_without_gain = state["stage"], state["without_gain"]
        self.best = math.inf if state["best"] is None else state["best"]
        self.thawed, self.trainable = list(state["thawed"]), tuple(state["trainable"])


# The stage of step `step` (from 0) at `progress` (0 … 1) of the run, by the cadences of `spec.space.CADENCES`.
STAGES: dict[str, Callable[[Cadence, int, float], int]] = {
    "steps": lambda cadence, step, progress: step // cadence.config.unfreeze_interval,  # noqa: ARG005
    "epoch": lambda cadence, step, progress: cadence.plan.epoch(step),  # noqa: ARG005
    "fraction": lambda cadence, step, progress: int(progress / cadence.config.unfreeze_fraction + 1e-9),  # noqa: ARG005
    "plateau": lambda cadence, step, progress: cadence.stage,  # noqa: ARG005 - `observe` advances it
}
