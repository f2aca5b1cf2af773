"""The whole training path on a tiny model of every supported architecture: gradual unfreezing, the frozen prefix cached and
recomputed, checkpoint, resume, export. Three runs each, which the tests below read."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import job, reports
from scalesweep.promotion.final_run import verify
from scalesweep.training.job import TrainReport, TrialJob
from scalesweep.training.loop import Trainer, train
from tiny_models import DECODERS, TINY, tiny_checkpoint
from tiny_sweeps import tiny_sweep

CASES = [(kind, "sequence-classification") for kind in TINY] + [(kind, "causal-lm") for kind in DECODERS]
# Three blocks, embeddings and head: five groups, one more every other step. T5 has a decoder of three blocks more.
CONFIG = {"unfreezing": "gradual", "unfreeze_interval": 2, "rungs": [5], "eval_interval": 1, "learning_rate": 3e-3}
CHANGED = {"architectures", "id2label", "label2id", "problem_type"}  # of a config in an export
TIED = {(kind, "causal-lm") for kind in ("gpt2", "opt", "gemma")}
RUNG, FOUR_THAWED = 5, 8  # steps

every_architecture = pytest.mark.parametrize(("kind", "task"), CASES, ids=lambda value: value)


@dataclass(frozen=True)
class Runs:
    """One trial three times: reports, and what trained."""

    cached: list[TrainReport]  # the first, which fills the cache
    first: Trainer
    interrupted: list[TrainReport]  # from the cache, up to the step behind the checkpoint
    resumed: list[TrainReport]
    job: TrialJob  # of the resumed one
    second: Trainer
    recomputed: list[TrainReport]  # without a cache
    third: Trainer


@functools.cache
def runs(kind: str, task: str) -> Runs:
    spec = tiny_sweep(kind, task, tiny_checkpoint(kind, task, seed=1))  # no other test has a prefix of it in the cache
    config: dict[str, Any] = {**CONFIG, "max_t": 12 if kind == "t5" else 10}
    first = Trainer(job(config, sweep=spec))
    cached = list(train(first))
    with tempfile.TemporaryDirectory() as folder:
        saving = {**config, "checkpoint_interval": RUNG}
        interrupted = []
        for report in reports(job(saving, Path(folder) / "checkpoint", sweep=spec)):
            interrupted.append(report)
            if report.step == RUNG + 1:
                break
        made = job(saving, Path(folder) / "checkpoint", sweep=spec)
        second = Trainer(made)
        resumed = list(train(second))
    third = Trainer(job({**config, "prefix_cache": "off"}, sweep=spec))
    return Runs(cached, first, interrupted, resumed, made, second, list(train(third)), third)


@every_architecture
def test_groups_thaw_one_by_one(kind: str, task: str) -> None:
    thawed = [report.metrics["trainable_groups"] for report in runs(kind, task).cached]
    # A tied head has no matrix of its own here, so the highest block trains with it from the start.
    stages = [2, 3, 4, 5, 5] if (kind, task) in TIED else [1, 2, 3, 4, 5, *([6] if kind == "t5" else [])]
    assert thawed == [stage for stage in stages for _ in range(2)]


@every_architecture
def test_an_interrupted_run_ends_as_an_undisturbed_one(kind: str, task: str) -> None:
    found = runs(kind, task)
    assert found.interrupted == found.cached[: RUNG + 1]
    assert found.resumed == found.cached[RUNG - 1 :], "the checkpoint's report is given out again"


@every_architecture
def test_an_exported_model_answers_as_the_trained_one(kind: str, task: str, tmp_path: Path) -> None:
    found = runs(kind, task)
    logits = found.second.export(tmp_path / "export")
    assert np.isfinite(logits).all()
    verify(found.job, tmp_path / "export", logits)
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (tiny_checkpoint(kind, task), tmp_path / "export")
    )
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= CHANGED, "a model goes back as it came, but for its head"


@every_architecture
def test_a_cached_prefix_changes_nothing_but_what_is_computed(kind: str, task: str) -> None:
    """Two epochs, every thaw on the way, dropout on: losses, weights and FLOPs."""
    found = runs(kind, task)
    for mine, theirs in zip(found.cached, found.recomputed, strict=True):
        for name in ("eval_loss", "train_loss"):
            assert mine.metrics[name] == pytest.approx(theirs.metrics[name], abs=2e-4), (mine.step, name)
    for name, parameter in found.third.parameters.items():
        assert torch.allclose(found.first.parameters[name], parameter, atol=2e-3), name
    cold, warm, without = (
        next(report.flops for report in some if report.step == FOUR_THAWED)
        for some in (found.cached, found.resumed, found.recomputed)
    )
    if kind == "t5":
        assert any("is not cached" in note for note in found.cached[0].notes)
        assert warm == pytest.approx(without)
    else:
        assert not any(report.notes for report in found.cached)
        assert warm < cold < 1.5 * without
        assert warm < 0.95 * without
