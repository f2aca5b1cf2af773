"""The position of a run: how far it is, and what it has used."""

from __future__ import annotations

import time
from collections.abc import Callable

from scalesweep.costs import dollars
from scalesweep.spec import TrialConfig

PARTS_OF_A_RUN = 10_000  # resolution of the schedule if a run is measured in FLOPs, seconds or dollars
COUNTERS = ("step", "tokens", "model_flops", "flops", "train_seconds")  # stored in a checkpoint unchanged


class Clock:
    """Counts steps, tokens, FLOPs and seconds, and converts them into the fidelity that rungs count.

    Attributes:
        total_steps: None if the run ends by its cost and not after a known number of steps.
        model_flops: FLOPs of training alone without a cache, each global batch padded to its longest example.
        flops: FLOPs computed by all workers, with padding and evaluation and without cached work.
        train_seconds: time in training steps, without loading, evaluation and saving.
        first_step_at: unix seconds of the first step of this attempt.
        agreed_seconds: time on the clock that all workers share, where the run ends by its time or price.
    """

    def __init__(self, config: TrialConfig, total_steps: int | None, gpus: float, price: float | None) -> None:
        """
        Args:
            gpus: number of workers, or the share of a GPU that the only one has.
            price: dollars per GPU hour.
        """
        self.config, self.total_steps, self.gpus, self.price = config, total_steps, gpus, price
        self.step = self.tokens = 0
        self.model_flops = self.flops = self.train_seconds = self.agreed_seconds = 0.0
        self.first_step_at = 0.0
        self._began = time.monotonic()
        self._before = 0.0  # seconds of earlier attempts

    @property
    def seconds(self) -> float:
        """Seconds with workers, over all attempts that reached a checkpoint."""
        return self._before + time.monotonic() - self._began

    def leave_out(self, seconds: float) -> None:
        """Take `seconds` out of the time that has passed."""
        self._began += seconds

    def agree(self, from_first_rank: Callable[[float], float]) -> None:
        """Take over the first rank's time where the fidelity depends on it: all workers must agree on the end of the run."""
        if self.config.time_attr in ("gpu_seconds", "dollars"):
            self.agreed_seconds = from_first_rank(self.seconds)

    @property
    def fidelity(self) -> float:
        """The amount used of the resource that rungs count (`time_attr`)."""
        attr = self.config.time_attr
        if attr in ("steps", "tokens"):
            return self.step if attr == "steps" else self.tokens
        if attr == "flops":
            return self.model_flops
        gpu_seconds = self.agreed_seconds * self.gpus
        return gpu_seconds if attr == "gpu_seconds" else dollars(gpu_seconds, self.price) or 0.0

    @property
    def ended(self) -> bool:
        return self.fidelity >= self.config.max_t if self.total_steps is None else self.step >= self.total_steps

    @property
    def progress(self) -> float:
        """The finished share of the run, 0 … 1."""
        if self.total_steps is not None:
            return self.step / max(self.total_steps, 1)
        return self.fidelity / self.config.max_t

    @property
    def place(self) -> int:
        """The position in the learning-rate schedule, which has `total_steps` places, or PARTS_OF_A_RUN."""
        if self.total_steps is not None:
            return self.step
        return min(int(self.progress * PARTS_OF_A_RUN), PARTS_OF_A_RUN - 1)

    def state(self) -> dict[str, float]:
        """The content of a checkpoint."""
        counted = {name: getattr(self, name) for name in COUNTERS}
        return {**counted, "seconds": self.seconds, "agreed_seconds": self.agreed_seconds}

    def load(self, state: dict[str, float]) -> None:
        for name in COUNTERS:
            setattr(self, name, state[name])
        self._before, self.agreed_seconds = state["seconds"], state["agreed_seconds"]
