"""Losses and gradients from learnt positions in chunks are those of the model's own loss, whatever it does to its logits."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from jobs import job, reports
from scalesweep.tasks import IGNORED, task_of
from scalesweep.training import head
from scalesweep.training.head import Head
from scalesweep.training.loop import Trainer
from scalesweep.training.micro_batch import ran_out
from scalesweep.training.packing import padded
from tiny_models import DECODERS, tiny_config
from tiny_sweeps import tiny_sweep

# Architectures that bound or scale their logits.
_SIZES = {"intermediate_size": 48, "num_key_value_heads": 4}
CHANGED = {
    "gemma2": {**_SIZES, "head_dim": 8, "final_logit_softcapping": 0.5},
    "cohere": {**_SIZES, "logit_scale": 0.25},
    "granite": {**_SIZES, "logits_scaling": 4.0},
}
LABELS = torch.tensor([[5, 9, 3, 7, 2, IGNORED], [IGNORED, 4, IGNORED, 6, IGNORED, IGNORED]])  # targets, by position


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **CHANGED.get(kind, {}))).eval()
    model.double()  # in float32 each layer rounds, in an order that depends on the processor
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)  # so that logits are far from zero
    return model


def chunked(model: Any, found: Head, inputs: dict[str, torch.Tensor], smoothing: float) -> float:
    """The loss as `training/step.py` computes it; its gradients are left in the model."""
    task, targets = task_of("causal-lm"), LABELS
    places = torch.tensor(np.flatnonzero(targets.numpy() != IGNORED))
    learnt = targets.flatten()[places]
    made = None
    while made is None:
        with found.at(places, tuple(targets.shape)):
            logits = model(**inputs).logits
        made = found.predictions(logits, places, learnt)
    if made.states is None:
        assert made.logits is not None
        loss = task.loss_sum(made.logits, learnt, smoothing)
        loss.backward()
        return float(loss.detach())
    states, total = made.states.detach().requires_grad_(), 0.0
    for start in range(0, len(learnt), found.rows):
        part = slice(start, start + found.rows)
        loss = task.loss_sum(found.logits(states[part]), learnt[part], smoothing)
        loss.backward()
        total += float(loss.detach())
    made.states.backward(states.grad)
    return total


@pytest.mark.parametrize("kind", [*DECODERS, *CHANGED])
def test_losses_and_gradients_are_the_models_own(kind: str) -> None:
    model = model_of(kind)
    other = copy.deepcopy(model)
    inputs = {"input_ids": torch.randint(6, 40, LABELS.shape, generator=torch.Generator().manual_seed(1))}
    whole = other(**inputs).logits
    expected = nn.functional.cross_entropy(
        whole.flatten(0, 1), LABELS.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=0.1
    )
    expected.backward()
    found = Head(model)
    with mock.patch.multiple(head, LEAST_ROWS=1, CHUNK_LOGITS={"cpu": 3 * model.config.vocab_size}):
        assert found.rows == 3
        for _ in range(2):  # the first pass compares, the second knows
            model.zero_grad()
            assert chunked(model, found, inputs, 0.1) == pytest.approx(float(expected.detach()), rel=1e-5)
            for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
                if theirs.grad is not None:
                    assert mine.grad is not None, name
                    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert not found.whole
    assert found.plain == (kind not in CHANGED)


def test_a_pass_that_runs_out_of_memory_costs_the_next_one_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(job({"rungs": []}, sweep=tiny_sweep("llama", "instruction-tuning")))
    trainer.method.apply()

    def flops() -> float:
        trainer.passes.flops = 0.0
        trainer.gradients._piece(padded(np.arange(4), trainer.train_split.lengths), 1.0)
        return trainer.passes.flops

    flops()  # it also compares the layer with the model's logits
    expected = flops()
    with monkeypatch.context() as patched:
        patched.setattr(type(trainer.task), "loss_sum", mock.Mock(side_effect=torch.OutOfMemoryError))
        assert ran_out(flops) is not None
    assert flops() == expected


def test_a_trial_in_small_chunks_ends_as_one_with_whole_logits() -> None:
    config = {
        "learning_rate": 3e-3,
        "eval_interval": 5,
        "max_t": 15,
        "rungs": [],
        "unfreezing": "gradual",
        "unfreeze_interval": 4,
    }
    made = job(config, sweep=tiny_sweep("llama", "instruction-tuning"))
    whole = list(reports(made))
    with mock.patch.multiple(head, LEAST_ROWS=1, CHUNK_LOGITS={"cpu": 1}):  # one position at a time
        parts = list(reports(made))
    for one, other in zip(whole, parts, strict=True):
        assert other.metrics == pytest.approx(one.metrics, rel=1e-4)
