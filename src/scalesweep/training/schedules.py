"""Learning-rate schedules as pure functions of the step. The module imports nothing heavy; `SCHEDULES` is the table.

All schedules except ULMFiT's slanted triangle are those of transformers, written again, and a test compares them: the import
of transformers' own takes a second where bitsandbytes is installed, in every worker. A pure function can resume at any step
and applies to layer groups that thaw late.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scalesweep.spec import TrialConfig

Factor = Callable[[int], float]
Build = Callable[[TrialConfig, int, int], Factor]  # from a config, the steps of the run, and the steps of warm-up

ULMFIT_RATIO = 32  # peak rate ÷ lowest rate of the slanted triangle (Howard & Ruder, 2018)
ULMFIT_CUT = 0.1  # share of rising steps if warmup_ratio is 0


def decay_steps(config: TrialConfig, total_steps: int) -> int:
    """Steps of the decay phase of warmup_stable_decay, at most the steps that warm-up leaves."""
    return max(1, min(round(config.decay_ratio * total_steps), total_steps - round(config.warmup_ratio * total_steps)))


def _after_warmup(fall: Callable[[TrialConfig, int, int], float]) -> Build:
    """A linear rise to 1, then `fall` as a function of the config, the steps since then and all steps after warm-up."""

    def build(config: TrialConfig, total_steps: int, warmup_steps: int) -> Factor:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return step / warmup_steps
            return fall(config, step - warmup_steps, total_steps - warmup_steps)

        return factor

    return build


def _linear(_config: TrialConfig, done: int, steps: int) -> float:
    return max(0.0, (steps - done) / max(1, steps))


def _half_cosine(done: int, steps: int, lowest: float = 0.0) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (done / max(1, steps)))) * (1 - lowest) + lowest)


def _polynomial(config: TrialConfig, done: int, steps: int) -> float:
    return float((1 - done / max(1, steps)) ** config.lr_power) if done <= steps else 0.0


def _inverse_sqrt(_config: TrialConfig, _total_steps: int, warmup_steps: int) -> Factor:
    length = warmup_steps or 10_000
    return lambda step: step / warmup_steps if step < warmup_steps else 1 / math.sqrt((step - warmup_steps + length) / length)


def _warmup_stable_decay(config: TrialConfig, total_steps: int, warmup_steps: int) -> Factor:
    falling = decay_steps(config, total_steps)
    stable = total_steps - falling

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return 1.0 if step < stable else _half_cosine(step - stable, falling) if step < total_steps else 0.0

    return factor


def _slanted_triangular(config: TrialConfig, total_steps: int, warmup_steps: int) -> Factor:
    """A short rise and a long fall, both linear, from 1/32 to 1 and back (Howard & Ruder, 2018, eq. 3)."""
    cut = warmup_steps if config.warmup_ratio > 0 else max(1, int(total_steps * ULMFIT_CUT))

    def factor(step: int) -> float:
        rising = step / cut if step < cut else 1 - (step - cut) / max(1, total_steps - cut)
        return (1 + max(0.0, rising) * (ULMFIT_RATIO - 1)) / ULMFIT_RATIO

    return factor


class Schedule(NamedTuple):
    """One row of the table. `help` says what the rate does after warm-up."""

    build: Build
    help: str


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(lambda *_: lambda _: 1.0, "stays constant, without warm-up (`warmup_ratio` is ignored)"),
    "constant_with_warmup": Schedule(_after_warmup(lambda *_: 1.0), "stays constant"),
    "linear": Schedule(_after_warmup(_linear), "falls linearly to 0"),
    "cosine": Schedule(_after_warmup(lambda _, done, steps: _half_cosine(done, steps)), "falls to 0 along half a cosine"),
    "cosine_with_min_lr": Schedule(
        _after_warmup(lambda config, done, steps: _half_cosine(done, steps, config.min_lr_ratio)),
        "falls to `min_lr_ratio` × peak along half a cosine",
    ),
    "polynomial": Schedule(_after_warmup(_polynomial), "falls to 0 as a polynomial of degree `lr_power`"),
    "inverse_sqrt": Schedule(
        _inverse_sqrt,
        "falls as 1/√step, counted in lengths of the warm-up. Without warm-up, transformers takes 10,000 steps as that length, "
        "so the rate is nearly constant over a short run.",
    ),
    "warmup_stable_decay": Schedule(
        _warmup_stable_decay,
        "stays constant, then falls over the last `decay_ratio` of the steps. Keep `warmup_ratio` + `decay_ratio` at most 1.",
    ),
    "slanted_triangular": Schedule(
        _slanted_triangular,
        "rises linearly from 1/32 of the peak and falls back to it (Howard & Ruder, 2018, arXiv 1801.06146). The rise takes "
        "`warmup_ratio` of the steps, or 10 % where that is 0.",
    ),
}


def schedule(config: TrialConfig, total_steps: int) -> Factor:
    """The factor on each group's peak rate at optimizer step 0, 1, …, `total_steps` − 1."""
    return SCHEDULES[config.lr_scheduler_type].build(config, total_steps, round(config.warmup_ratio * total_steps))
