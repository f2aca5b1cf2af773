"""Training: bit-equal again, unharmed by an interruption, true to an independent loop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from jobs import job, reports
from scalesweep.models.ladder import load_model, locate
from scalesweep.training import micro_batch
from scalesweep.training.job import open_data
from scalesweep.training.loop import Trainer
from scalesweep.training.schedules import schedule
from tiny_sweeps import tiny_sweep

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 3e-4, "eval_interval": 25, "max_t": 50, "rungs": []}


def test_a_rerun_is_bit_equal_dropout_included() -> None:
    config = {"dropout": 0.2, "learning_rate": 1e-3, "eval_interval": 6, "max_t": 12, "rungs": []}
    first, again = ([report.metrics for report in reports(job(config, sweep=tiny_sweep()))] for _ in range(2))
    assert first == again


def test_another_seed_gives_another_run() -> None:
    config = {"learning_rate": 1e-3, "max_t": 6, "rungs": [], "eval_interval": None}
    first, second = (
        list(reports(job({**config, "seed": seed}, sweep=tiny_sweep())))[-1].metrics["eval_loss"] for seed in (0, 1)
    )
    assert first != second


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    config = {
        "dropout": 0.1,
        "learning_rate": 1e-3,
        "unfreezing": "gradual",
        "unfreeze_interval": 5,
        "eval_interval": 4,
        "max_t": 14,
        "rungs": [],
    }
    spec = tiny_sweep()
    undisturbed = list(reports(job(config, sweep=spec)))
    interrupted = []
    for report in reports(job(config, tmp_path, sweep=spec)):
        interrupted.append(report)
        if report.step == 8:
            break
    resumed = list(reports(job(config, tmp_path, sweep=spec)))
    # A report whose reader may have died before it was recorded is given out again, with what follows.
    assert [report.step for report in resumed] == [4, 8, 12, 14]
    assert interrupted[:1] + resumed[1:] == undisturbed
    assert resumed[0] == interrupted[0]
    assert len(list(tmp_path.glob("step-*"))) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".json")]


@pytest.mark.parametrize(("saves_first", "pauses"), [("rungs", {4, 8}), ("reports", {3, 4, 6, 8, 9})])
def test_where_a_trial_is_paused_the_checkpoint_is_there_with_the_report_and_gone_on_from(
    saves_first: str, pauses: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"dropout": 0.1, "learning_rate": 1e-3, "eval_interval": 3, "max_t": 12, "rungs": [4, 8]}
    spec = tiny_sweep()
    undisturbed = list(reports(job(config, sweep=spec)))
    found: dict[int, Any] = {}
    attempts = 0
    while 12 not in found:
        attempts += 1
        for report in reports(job(config, tmp_path, sweep=spec, saves_first=saves_first)):
            again = report.step in found
            assert found.setdefault(report.step, report) == report
            assert found[report.step].examples == report.examples is not None
            assert (report.first_step_at == 0) == again, "given out again without a step of training"
            if report.step in pauses and not again:
                assert [path.name for path in tmp_path.iterdir()] == [f"step-{report.step:08d}"]
                break  # paused: nobody asks for more, and the next attempt is begun later
        # … on a node that takes fewer examples at once; the draws of dropout stay.
        monkeypatch.setattr(micro_batch, "CPU_MICRO_BATCH", 4)
    assert attempts == 1 + len(pauses)
    assert list(found.values()) == undisturbed
    for report in reports(job(config, other := tmp_path / "stopping", sweep=spec)):
        if report.step == 4:
            assert not list(other.glob("step-*4")), "where most are stopped for good, nothing is written at a rung"
            break


def test_the_loop_agrees_with_one_written_out_by_hand() -> None:
    """Plain torch on whole, padded batches: AdamW, clipping, label smoothing, layer-wise rates, a schedule."""
    made = job({
        **NO_DROPOUT, "max_t": 8, "eval_interval": None, "label_smoothing_factor": 0.1, "weight_decay": 0.1, "max_grad_norm": 0.5,
        "layerwise_lr_decay": 0.8, "lr_scheduler_type": "cosine", "warmup_ratio": 0.25, "micro_batch_size": 3, "model_size": "L2",
        "group_by_length": False,
    })  # fmt: skip
    got = list(reports(made))[-1]

    config = made.config
    data = open_data(made)
    model = load_model(made.size, made.task, 2, config.knobs(), config.seed)
    depth = {"bert.embeddings": 3, "encoder.layer.0": 2, "encoder.layer.1": 1, "pooler": 0, "classifier": 0}
    groups = []
    for name, parameter in model.named_parameters():
        below = next(d for part, d in depth.items() if part in name)
        decay = 0.1 if parameter.dim() > 1 else 0.0
        groups.append({"params": [parameter], "lr": config.learning_rate * 0.8**below, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    factor = schedule(config, 8)
    peaks = [group["lr"] for group in optimizer.param_groups]
    model.train()
    order = np.random.default_rng([config.seed, 0]).permutation(300)
    for step in range(8):
        arrays = data.train.batch(order[16 * step : 16 * (step + 1)], pad_id=0)
        labels = torch.from_numpy(arrays.pop("targets"))
        logits = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor(step)
        optimizer.step()
    model.eval()
    validation = data.validation.batch(np.arange(len(data.validation)), pad_id=0)
    labels = validation.pop("targets")
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(array) for name, array in validation.items()}).logits
    expected = log_loss(labels, torch.softmax(logits.double(), -1).numpy())
    assert got.metrics["eval_loss"] == pytest.approx(expected, abs=2e-5)
    assert got.metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1).numpy() == labels).mean())


def test_validation_loss_has_no_label_smoothing() -> None:
    config = {"max_t": 1, "rungs": [], "eval_interval": None, "learning_rate": 1e-9, "dropout": 0.0, "attention_dropout": 0.0}
    plain, smooth = (
        list(reports(job({**config, "label_smoothing_factor": s}, sweep=tiny_sweep())))[-1].metrics for s in (0.0, 0.5)
    )
    assert smooth["eval_loss"] == pytest.approx(plain["eval_loss"], abs=1e-6)
    assert smooth["train_loss"] != pytest.approx(plain["train_loss"], abs=1e-6)


def test_head_only_leaves_the_body_as_the_checkpoint_has_it() -> None:
    made = job(
        {"unfreezing": "head", "max_t": 3, "rungs": [], "eval_interval": None, "learning_rate": 1e-2, "model_size": "L2"}
    )
    trainer = Trainer(made)
    for _ in range(3):
        trainer.train_step()
    base = AutoModelForSequenceClassification.from_pretrained(locate(made.size.model), num_hidden_layers=2).state_dict()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, base[name])}
    assert {name.split(".")[0] for name in changed} <= {"classifier", "bert"}
    assert not [name for name in changed if "embeddings" in name or "encoder" in name]
    assert "bert.pooler.dense.weight" in changed
    held = [p for group in trainer.optimizer.param_groups for p in group["params"] if trainer.optimizer.state.get(p)]
    assert len(held) == 4, "frozen parameters must hold no optimizer state"


def test_gradual_unfreezing_thaws_from_the_top_with_each_groups_own_rate() -> None:
    made = job({
        "unfreezing": "gradual", "unfreeze_interval": 2, "max_t": 8, "rungs": [], "learning_rate": 1e-3, "layerwise_lr_decay": 0.5,
        "lr_scheduler_type": "constant", "model_size": "L2", "weight_decay": 0.0,
    })  # fmt: skip
    trainer = Trainer(made)
    before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
    thawed_at: dict[str, int] = {}
    for step in range(8):
        trainer.train_step()
        for name, parameter in trainer.parameters.items():
            if name not in thawed_at and not torch.equal(parameter, before[name]):
                thawed_at[name] = step
                if not name.endswith(("dense.weight", "word_embeddings.weight", "classifier.weight")):
                    continue  # keys' biases have no gradient to speak of (softmax ignores them)
                # AdamW's first step moves every weight by its rate: the group's own, at once, with no warm-up of moments.
                moved = (parameter - before[name]).abs().max().item()
                depth = len(trainer.groups) - 1 - next(i for i, g in enumerate(trainer.groups) if name in g.parameter_names)
                assert moved == pytest.approx(1e-3 * 0.5**depth, rel=0.02), name
    assert thawed_at["classifier.weight"] == 0
    assert thawed_at["bert.encoder.layer.1.output.dense.weight"] == 2
    assert thawed_at["bert.encoder.layer.0.output.dense.weight"] == 4
    assert thawed_at["bert.embeddings.word_embeddings.weight"] == 6


def test_token_fidelity_ends_at_the_first_step_that_reaches_it_and_reports_at_rungs() -> None:
    levels = (150, 320, 600)
    config = {"time_attr": "tokens", "max_t": 600, "rungs": [150, 320], "eval_interval": None, "group_by_length": False}
    made = job(config, sweep=tiny_sweep())
    found = list(reports(made))
    lengths = open_data(made).train.lengths
    order = np.random.default_rng([0, 0]).permutation(60)
    cumulative = np.cumsum([lengths[order[16 * step : 16 * (step + 1)]].sum() for step in range(4)])
    assert cumulative[-1] > 600, "within an epoch"
    steps = [int(np.searchsorted(cumulative, level)) + 1 for level in levels]
    assert len(set(steps)) == 3
    assert [report.step for report in found] == steps
    assert [report.fidelity for report in found] == [int(cumulative[step - 1]) for step in steps]


def test_diverging_training_reports_what_it_is() -> None:
    config = {"learning_rate": 5.0, "max_t": 8, "rungs": [], "eval_interval": 4, "adam_epsilon": 1e-12, "max_grad_norm": 0.0}
    found = list(reports(job(config, sweep=tiny_sweep())))
    assert all(not math.isfinite(report.metrics["eval_loss"]) or report.metrics["eval_loss"] > 1 for report in found)


def test_a_job_first_reports_the_untrained_model_and_trains_as_without(tmp_path: Path) -> None:
    made = job(
        {"max_t": 4, "rungs": [], "eval_interval": 2, "dropout": 0.1, "learning_rate": 1e-3}, tmp_path, sweep=tiny_sweep()
    )
    first, *rest = reports(replace(made, untrained=True, checkpoint_dir=None))
    assert (first.step, first.fidelity, first.tokens) == (0, 0, 0)
    assert first.metrics["eval_loss"] == pytest.approx(Trainer(made).evaluate()["eval_loss"])
    assert rest == list(reports(made))
    resumed = list(reports(replace(made, untrained=True)))
    assert [report.step for report in resumed] == [4]
