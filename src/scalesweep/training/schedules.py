"""Learning-rate schedules as pure functions of the step. The module imports nothing heavy; `SCHEDULES` is the table.

All schedules except ULMFiT's slanted triangle come from transformers: `get_scheduler` builds a torch `LambdaLR`, and only
its factor at a step is used. A pure function can resume at any step and applies to layer groups that thaw late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from scalesweep.spec import TrialConfig

Factor = Callable[[int], float]
Build = Callable[[TrialConfig, int, int], Factor]  # from a config, the steps of the run, and the steps of warm-up

ULMFIT_RATIO = 32  # peak rate ÷ lowest rate of the slanted triangle (Howard & Ruder, 2018)
ULMFIT_CUT = 0.1  # share of rising steps if warmup_ratio is 0


def decay_steps(config: TrialConfig, total_steps: int) -> int:
    """Steps of the decay phase of warmup_stable_decay, at most the steps that warm-up leaves."""
    return max(1, min(round(config.decay_ratio * total_steps), total_steps - round(config.warmup_ratio * total_steps)))


def _transformers(name: str, **kwargs: Any) -> Build:
    def build(config: TrialConfig, total_steps: int, warmup_steps: int) -> Factor:
        import torch
        from transformers import get_scheduler

        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        specific = {key: value(config, total_steps) if callable(value) else value for key, value in kwargs.items()}
        scheduler = get_scheduler(name, optimizer, warmup_steps, total_steps, scheduler_specific_kwargs=specific or None)
        factor: Factor = scheduler.lr_lambdas[0]
        return factor

    return build


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


# transformers' polynomial schedule needs an end below the peak, which is 1.0 here; it decays to 0.
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(_transformers("constant"), "stays constant, without warm-up (`warmup_ratio` is ignored)"),
    "constant_with_warmup": Schedule(_transformers("constant_with_warmup"), "stays constant"),
    "linear": Schedule(_transformers("linear"), "falls linearly to 0"),
    "cosine": Schedule(_transformers("cosine"), "falls to 0 along half a cosine"),
    "cosine_with_min_lr": Schedule(
        _transformers("cosine_with_min_lr", min_lr_rate=lambda config, _: config.min_lr_ratio),
        "falls to `min_lr_ratio` × peak along half a cosine",
    ),
    "polynomial": Schedule(
        _transformers("polynomial", lr_end=0.0, power=lambda config, _: config.lr_power),
        "falls to 0 as a polynomial of degree `lr_power`",
    ),
    "inverse_sqrt": Schedule(
        _transformers("inverse_sqrt"),
        "falls as 1/√step, counted in lengths of the warm-up. Without warm-up, transformers takes 10,000 steps as that length, "
        "so the rate is nearly constant over a short run.",
    ),
    "warmup_stable_decay": Schedule(
        _transformers("warmup_stable_decay", num_decay_steps=decay_steps),
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
