"""Thawing of layer groups: each cadence and mode on its own, and in a real run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import job, reports
from scalesweep.data.batches import BatchPlan
from scalesweep.spec import TrialConfig
from scalesweep.spec.space import CADENCES, UNFREEZING_MODES
from scalesweep.training.loop import Trainer, train
from scalesweep.training.methods.cadence import STAGES, Cadence
from scalesweep.training.methods.unfreezing import MODES, stages
from tiny_models import save_tiny
from tiny_sweeps import tiny_sweep

GROUPS = 5
GRADUAL = stages("gradual", GROUPS)
PLAN = BatchPlan(n_examples=40, batch_size=10, seed=0)  # four steps per epoch


def config(**changes: Any) -> TrialConfig:
    return job({"unfreezing": "gradual", **changes}, sweep=tiny_sweep(layers=(1, 2))).config


def thawed_by_step(cadence: Cadence, steps: int) -> list[int]:
    """The number of groups that train at each step of a run of `steps`."""
    found = []
    for step in range(steps):
        cadence.advance(step, step / steps)
        found.append(sum(cadence.trainable))
    return found


def test_every_cadence_of_the_table_has_a_function() -> None:
    assert STAGES.keys() == CADENCES.keys()


@pytest.mark.parametrize(
    ("mode", "heads", "expected"),  # a word per stage, bottom to top: the head is the last letter
    [
        ("full", 1, "TTTT"),
        ("head", 1, "...T"),
        ("gradual", 1, "...T ..TT .TTT TTTT"),
        ("chain_thaw", 1, "...T T... .T.. ..T. TTTT"),
        ("lp_ft", 1, "...T TTTT"),
        ("full", 2, "TTTTT"),
        ("head", 2, "...TT"),
        ("gradual", 2, "...TT ..TTT .TTTT TTTTT"),
        ("chain_thaw", 2, "...TT T.... .T... ..T.. TTTTT"),
        ("lp_ft", 2, "...TT TTTTT"),
    ],
)
def test_the_stages_of_every_mode(mode: str, heads: int, expected: str) -> None:
    found = stages(mode, len(expected.split()[0]), heads)
    assert " ".join("".join(".T"[trains] for trains in stage) for stage in found) == expected


def test_the_modes_are_those_of_the_table() -> None:
    assert MODES.keys() == UNFREEZING_MODES.keys()
    with pytest.raises(ValueError, match="sideways"):
        stages("sideways", 3)


def test_a_thaw_every_few_steps_every_epoch_or_at_shares_of_the_run() -> None:
    steps = Cadence(config(unfreeze_interval=3), GRADUAL, PLAN)
    assert thawed_by_step(steps, 14) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    epochs = Cadence(config(unfreeze_cadence="epoch"), GRADUAL, PLAN)
    assert thawed_by_step(epochs, 10) == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    shares = Cadence(config(unfreeze_cadence="fraction", unfreeze_fraction=0.25), GRADUAL, PLAN)
    assert thawed_by_step(shares, 12) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    found_out = Cadence(config(unfreeze_cadence="plateau"), GRADUAL, PLAN, thaw_at=(0.25, 0.5, 0.5))
    assert thawed_by_step(found_out, 8) == [1, 1, 2, 2, 4, 4, 4, 4]


def test_a_plateau_thaws_after_so_many_evaluations_without_gain() -> None:
    cadence = Cadence(config(unfreeze_cadence="plateau", unfreeze_patience=2), GRADUAL, PLAN)
    found = []
    for step, loss in enumerate([0.9, 0.8, 0.85, 0.8, 0.7, 0.75, 0.6, 0.65, 0.61]):
        cadence.observe(loss)
        cadence.advance(step, 0.0)
        found.append(sum(cadence.trainable))
    #  0.85 and 0.8 are no gain on 0.8; 0.75 alone is not enough; 0.65 and 0.61 are no gain on 0.6
    assert found == [1, 1, 1, 2, 2, 2, 2, 2, 3]


def test_a_restored_cadence_goes_on_as_it_would_have() -> None:
    made = config(unfreeze_cadence="plateau", unfreeze_patience=1, thaw_warmup_steps=4)
    cadence = Cadence(made, GRADUAL, PLAN)
    for step, loss in enumerate([0.9, 0.95, 0.9, 0.85]):
        cadence.observe(loss)
        cadence.advance(step, 0.0)
    again = Cadence(made, GRADUAL, PLAN)
    again.load(cadence.state())
    for other in (cadence, again):
        other.observe(0.86)
        other.advance(9, 0.0)
    assert again.state() == cadence.state()
    assert [again.warmth(group, 9) for group in range(GROUPS)] == [cadence.warmth(group, 9) for group in range(GROUPS)]


def test_a_thawed_group_warms_up_on_its_own() -> None:
    cadence = Cadence(config(unfreeze_interval=2, thaw_warmup_steps=4), GRADUAL, PLAN)
    for step in range(5):
        cadence.advance(step, 0.0)
    assert [cadence.warmth(group, 4) for group in range(GROUPS)] == [1.0, 1.0, 0.25, 0.75, 1.0]
    assert cadence.warmth(3, 30) == 1.0


def test_the_rates_of_a_run_follow_the_warm_up_of_each_group() -> None:
    made = job({
        "unfreezing": "gradual", "unfreeze_interval": 2, "thaw_warmup_steps": 4, "max_t": 8, "rungs": [], "model_size": "L2",
        "learning_rate": 1e-3, "layerwise_lr_decay": 1.0, "lr_scheduler_type": "constant",
    }, sweep=tiny_sweep(layers=(1, 2)))  # fmt: skip
    trainer = Trainer(made)
    for _ in range(4):
        trainer.train_step()
    rates = {group["layer_group"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates[3] == pytest.approx(1e-3)  # the head trained from the start
    assert rates[2] == pytest.approx(1e-3 * 2 / 4)  # thawed at step 2: this was its second step


@pytest.mark.parametrize(
    ("mode", "trained"),
    [
        ("lp_ft", [{3}, {3}, {0, 1, 2, 3}, {0, 1, 2, 3}]),
        ("chain_thaw", [{3}, {3}, {0}, {0}, {1}, {1}, {2}, {2}, {0, 1, 2, 3}]),
    ],
)
def test_lp_ft_and_chain_thaw_train_what_they_say(mode: str, trained: list[set[int]]) -> None:
    made = job({
        "unfreezing": mode, "unfreeze_interval": 2, "max_t": 12, "rungs": [], "model_size": "L2", "learning_rate": 1e-3,
        "weight_decay": 0.0, "dropout": 0.0,
    }, sweep=tiny_sweep(layers=(1, 2)))  # fmt: skip
    trainer = Trainer(made)
    for expected in trained:
        before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
        trainer.train_step()
        moved = {
            index
            for index, group in enumerate(trainer.groups)
            for name in group.parameter_names
            if not np.array_equal(before[name].numpy(), trainer.parameters[name].detach().numpy())
        }
        assert moved == expected
    trainer.close()


def test_the_first_stage_of_a_tied_decoder_learns(tmp_path: Path) -> None:
    """Its final norm alone could not: the loss falls further with the highest block, and nothing below it moves."""
    spec = tiny_sweep("gpt2", "causal-lm", save_tiny("gpt2", tmp_path / "model", "causal-lm", initializer_range=0.2))
    made = job({"unfreezing": "head", "max_t": 12, "rungs": [], "learning_rate": 1e-2, "dropout": 0.0}, sweep=spec)
    assert made.head_groups == 2
    losses = {}
    for heads in (1, 2):
        trainer = Trainer(replace(made, head_groups=heads))
        before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
        *_, last = train(trainer)
        losses[heads] = last.metrics["eval_loss"]
        moved = {name for name, parameter in trainer.parameters.items() if not torch.equal(before[name], parameter)}
        assert moved <= {name for group in trainer.groups[-heads:] for name in group.parameter_names}
        assert any(".h.2." in name for name in moved) == (heads == 2)
    assert losses[2] < losses[1] - 0.1


def test_a_plateau_is_seen_in_the_sweeps_metric_and_thaws_the_run() -> None:
    made = job({
        "unfreezing": "gradual", "unfreeze_cadence": "plateau", "unfreeze_patience": 1, "eval_interval": 2, "max_t": 12,
        "rungs": [], "learning_rate": 1e-9, "model_size": "L2",
    }, sweep=tiny_sweep(layers=(1, 2)), metric="eval_accuracy", minimize=False)  # fmt: skip
    stages = [report.metrics["unfreezing_stage"] for report in reports(made)]
    assert stages == [0, 1, 2, 3, 3, 3], "accuracy stands still, so every evaluation but the first thaws"
