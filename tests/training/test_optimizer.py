"""AdamW with moments in 8 bits: what they cost, what keeps float32, and how near it stays to AdamW."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from jobs import job, needs_bitsandbytes
from scalesweep.costs import MOMENT_BYTES
from scalesweep.training.loop import Trainer, train
from scalesweep.training.optimizer import state_of
from tiny_models import WIDE, tiny_checkpoint
from tiny_sweeps import tiny_sweep

pytestmark = needs_bitsandbytes

TASK = "instruction-tuning"
RUN = {"max_t": 20, "rungs": [], "eval_interval": 20, "learning_rate": 3e-3, "unfreezing": "full"}


def trained(**config: Any) -> tuple[Trainer, list[float]]:
    trainer = Trainer(job({**RUN, **config}, sweep=tiny_sweep("llama", TASK, tiny_checkpoint("llama", TASK, **WIDE))))
    return trainer, [report.metrics["eval_loss"] for report in train(trainer)]


def test_moments_in_8_bits_train_as_moments_in_float32_do() -> None:
    _, [expected] = trained()
    trainer, [loss] = trained(optimizer="adamw_8bit")
    assert loss < 0.8 * math.log(96), "of 96 words"
    assert loss == pytest.approx(expected, rel=0.02)
    found = {name: state_of(trainer.optimizer, parameter) for name, parameter in trainer.parameters.items()}
    for name, state in found.items():
        parameter = trainer.parameters[name]
        small = parameter.numel() < 4096 or "embed_tokens" in name
        assert state["state1"].dtype == state["state2"].dtype == (torch.float32 if small else torch.uint8), name
        used = sum(value.nbytes for key, value in state.items() if key != "step") / parameter.numel()
        assert used == pytest.approx(MOMENT_BYTES["adamw" if small else "adamw_8bit"]), name


def test_what_is_frozen_has_no_moments() -> None:
    trainer, _ = trained(optimizer="adamw_8bit", unfreezing="head", max_t=2, eval_interval=2)
    held = {name for name, parameter in trainer.parameters.items() if state_of(trainer.optimizer, parameter)}
    assert held == {"lm_head.weight", "model.norm.weight"}
