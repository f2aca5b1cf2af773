"""Schedules as functions of the step, compared with transformers' schedulers run step by step, and ULMFiT's formula."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from jobs import job
from scalesweep.spec import TrialConfig
from scalesweep.training.schedules import SCHEDULES, schedule

TOTAL = 57


@pytest.fixture(scope="module")
def config() -> TrialConfig:
    return job({"warmup_ratio": 0.15, "decay_ratio": 0.3, "min_lr_ratio": 0.05, "lr_power": 1.5}).config


SPECIFIC = {
    "cosine_with_min_lr": {"min_lr_rate": 0.05},
    "polynomial": {"lr_end": 0.0, "power": 1.5},
    "warmup_stable_decay": {"num_decay_steps": round(0.3 * TOTAL)},
}


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"slanted_triangular"}))
def test_factor_is_what_the_scheduler_of_transformers_sets(name: str, config: TrialConfig) -> None:
    factor = schedule(config.model_copy(update={"lr_scheduler_type": name}), TOTAL)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    reference = get_scheduler(name, optimizer, round(0.15 * TOTAL), TOTAL, scheduler_specific_kwargs=SPECIFIC.get(name))
    for step in range(TOTAL):
        assert 3.0 * factor(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(("warmup", "cut_share"), [(0.0, 0.1), (0.3, 0.3)])
def test_slanted_triangle_is_ulmfits(warmup: float, cut_share: float, config: TrialConfig) -> None:
    factor = schedule(config.model_copy(update={"lr_scheduler_type": "slanted_triangular", "warmup_ratio": warmup}), 100)
    cut, ratio = int(100 * cut_share), 32
    for step in range(100):
        p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_share - 1))
        assert factor(step) == pytest.approx((1 + p * (ratio - 1)) / ratio)
    assert max(range(100), key=factor) == cut


def test_every_schedule_stays_between_nothing_and_the_peak(config: TrialConfig) -> None:
    for name in SCHEDULES:
        for warmup in (0.0, 0.2, 1.0):
            for total in (1, 2, 30):
                factor = schedule(config.model_copy(update={"lr_scheduler_type": name, "warmup_ratio": warmup}), total)
                assert all(0 <= factor(step) <= 1 + 1e-9 for step in range(total)), (name, warmup, total)
