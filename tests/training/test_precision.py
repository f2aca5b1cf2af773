"""Mixed precision, compared with float32 arithmetic; and the variables of launchers, which decide nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jobs import job, reports
from scalesweep.training.loop import Trainer
from scalesweep.training.precision import Precision
from tiny_sweeps import tiny_sweep

LEFT_BEHIND = {
    "LOCAL_RANK": "0",
    "RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "PMI_SIZE": "2",
    "OMPI_COMM_WORLD_SIZE": "2",
    "MV2_COMM_WORLD_SIZE": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_CPU": "true",
}


def test_variables_that_launchers_leave_behind_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = job({"unfreezing": "full", "max_t": 2, "rungs": []}, sweep=tiny_sweep())
    before = [report.metrics for report in reports(made)]
    for name, value in LEFT_BEHIND.items():
        monkeypatch.setenv(name, value)
    assert [report.metrics for report in reports(made)] == before


def test_precisions_may_change_within_a_process() -> None:
    weight = torch.eye(2)
    for name, dtype in (("bf16", torch.bfloat16), ("no", torch.float32), ("bf16", torch.bfloat16)):
        with Precision(name).autocast():
            found = (weight @ weight).dtype
        assert found == dtype


def test_scaled_gradients_are_clipped_as_they_are_and_a_step_that_overflows_is_skipped() -> None:
    precision = Precision("fp16")
    if precision.scaler is None:  # fp16 is for GPUs; the arithmetic of the scaler is the same here
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scale = precision.scaler.get_scale()
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], device=precision.device))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.backward((weight**2).sum() / 2)  # its gradient is the weight, of norm 5
    assert weight.grad is not None
    assert weight.grad.tolist() == [3 * scale, 4 * scale]
    precision.unscale(optimizer)
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    precision.step(optimizer)
    assert weight.tolist() == pytest.approx([3 - 0.6, 4 - 0.8], abs=1e-5)
    optimizer.zero_grad()
    before = weight.tolist()
    precision.backward(weight.sum() * torch.inf)
    precision.step(optimizer)
    assert weight.tolist() == before
    assert precision.scaler.get_scale() == scale / 2


def test_the_pieces_of_a_step_share_the_casts_of_the_weights() -> None:
    """The gradients are those of pieces that each cast them anew, bit by bit; checkpointing and a frozen prefix included."""
    for changes in ({"gradient_checkpointing": True}, {"unfreezing": "gradual"}):
        config = {"rungs": [], "unfreezing": "full", "mixed_precision": "bf16", "micro_batch_size": 4, "attention_dropout": 0.0}
        gradients, casts = [], []
        for shared in (True, False):
            trainer = Trainer(job({**config, **changes}, sweep=tiny_sweep("llama", "instruction-tuning")))
            trainer._set_mode()
            if not shared:
                trainer.precision.casts_kept = contextlib.nullcontext  # type: ignore[method-assign]
            trainer.gradients.of_batch(trainer.plan.batch(0), 1.0, 0)  # it fills the prefix cache, without gradients
            trainer.optimizer.zero_grad()
            with Casts() as seen:
                trainer.gradients.of_batch(trainer.plan.batch(0), 1.0, 0)
            casts.append(seen.n)
            gradients.append({name: p.grad for name, p in trainer.parameters.items() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() != set()
        assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
        assert casts[0] < casts[1]


class Casts(TorchDispatchMode):
    """Counts the casts of matrices that train to bfloat16."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
            self.n += 1
        return func(*args, **(kwargs or {}))
