"""The cached prefix: what is read equals what would be computed, over whole runs, on every architecture, and never stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_every_architecture import text_file

from jobs import job, manifest_of, reports
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer, train
from tiny_models import DECODERS, TINY, save_tiny

CASES = [(kind, "sequence-classification") for kind in TINY] + [(kind, "causal-lm") for kind in DECODERS]
MINILM = {"model_size": "L2", "learning_rate": 1e-3, "rungs": [], "eval_interval": 4, "max_t": 12, "dropout": 0.1}


def tiny_sweep(kind: str, task: str, model: Path, rows: str) -> dict[str, Any]:
    data: dict[str, Any] = {"path": rows, "text": "text", "max_length": 16}
    data["splits"] = {"train": 60, "validation": 20, "test": 20}
    if task == "sequence-classification":
        data["label"] = "category"
    space = {
        "unfreezing": {"values": ["gradual", "head"]},
        "unfreeze_interval": {"value": 3},
        "learning_rate": {"value": 0.003},
    }
    return {"task": task, "data": data, "ladder": [{"name": kind, "model": str(model)}], "search_space": {"parameters": space}}


def run(made: TrialJob) -> tuple[list[Any], Trainer]:
    trainer = Trainer(made)
    return list(train(trainer)), trainer


def same_losses(first: list[Any], second: list[Any], tolerance: float) -> None:
    for mine, theirs in zip(first, second, strict=True):
        for name in ("eval_loss", "train_loss"):
            assert mine.metrics[name] == pytest.approx(theirs.metrics[name], abs=tolerance), (mine.step, name)


@pytest.mark.parametrize(("kind", "task"), CASES, ids=lambda value: value)
def test_a_whole_gradual_run_is_the_same_with_and_without(
    kind: str, task: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two epochs, every thaw on the way, dropout on: losses and weights."""
    model = save_tiny(kind, tmp_path / "model", task)
    spec = tiny_sweep(kind, task, model, text_file(str(tmp_path_factory.getbasetemp())))
    config = {
        "unfreezing": "gradual",
        "unfreeze_interval": 2,
        "max_t": 8,
        "rungs": [],
        "eval_interval": 1,
        "learning_rate": 3e-3,
    }
    cached, with_cache = run(job(config, sweep=spec))
    again, warm = run(job(config, sweep=spec))
    plain, without = run(job({**config, "prefix_cache": "off"}, sweep=spec))
    same_losses(cached, plain, 2e-4)
    same_losses(again, cached, 1e-9)
    for name, parameter in without.parameters.items():
        assert torch.allclose(with_cache.parameters[name], parameter, atol=2e-3), name
    if kind == "t5":
        assert any("recomputed" in note for note in cached[0].notes)
        assert warm.flops == pytest.approx(without.flops)
    else:
        assert not any(report.notes for report in cached)
        assert warm.flops < with_cache.flops < 1.5 * without.flops
        assert warm.flops < 0.95 * without.flops
    assert cached[-1].metrics["trainable_groups"] == 4


@pytest.mark.parametrize("mode", ["head", "gradual", "lp_ft", "chain_thaw"])
def test_every_mode_on_a_real_model(mode: str) -> None:
    config = {**MINILM, "unfreezing": mode, "unfreeze_interval": 3}
    cached, trainer = run(job(config))
    plain, _ = run(job({**config, "prefix_cache": "off"}))
    same_losses(cached, plain, 1e-4)
    assert not cached[0].notes
    assert trainer.prefix is not None


BF16 = """
from test_prefix import MINILM, run, same_losses
from jobs import job
config = {**MINILM, "unfreezing": "head", "mixed_precision": "bf16", "max_t": 4}
cached, trainer = run(job(config))
plain, _ = run(job({**config, "prefix_cache": "off"}))
assert trainer.prefix is not None and not cached[0].notes, cached[0].notes
same_losses(cached, plain, 5e-3)
"""


def test_bf16_gives_the_same_within_its_precision() -> None:
    """In a process of its own: accelerate fixes the precision for the life of a process."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders}\n{BF16}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def computed(made: TrialJob) -> list[tuple[int, int]]:
    """(first group, cut) of what a trial has to compute of its prefix, in four steps without an evaluation."""
    trainer = Trainer(made)
    for _ in range(4):
        trainer.train_step()
    assert trainer.prefix is not None
    found = [(first, cut) for _, first, cut in trainer.prefix.computed]
    trainer.close()
    return found


def test_trials_find_what_others_made_also_of_another_size_or_depth(tmp_path: Path) -> None:
    model = save_tiny("bert", tmp_path / "model", num_hidden_layers=4)
    rows = text_file(str(tmp_path))
    spec = tiny_sweep("bert", "sequence-classification", model, rows)
    spec["ladder"] = {"model": str(model), "layers": [2, 4]}
    spec["search_space"]["parameters"]["model_size"] = {"values": ["L2", "L4"]}
    head = {"unfreezing": "head", "max_t": 8, "rungs": [], "dropout": 0.1, "attention_dropout": 0.2}
    small = computed(job({**head, "model_size": "L2"}, sweep=spec))
    assert set(small) == {(0, 3)}
    assert len(small) == 60, "three batches of 16 and one of 12 are the epoch"
    large = computed(job({**head, "model_size": "L4", "dropout": 0.3}, sweep=spec))
    assert set(large) == {(3, 5)}, "the lowest two blocks were there from the smaller size"
    assert computed(job({**head, "model_size": "L4", "learning_rate": 0.5}, sweep=spec)) == []
    # A gradual trial works at cut 4 from its second step on: the pass to cut 5 kept that on the way.
    gradual = {**head, "model_size": "L4", "unfreezing": "gradual", "unfreeze_interval": 1}
    assert computed(job(gradual, sweep=spec)) == []


def test_a_changed_checkpoint_or_text_is_never_served_what_was_kept_for_another(tmp_path: Path) -> None:
    large = {"initializer_range": 0.5}  # so that one word makes a difference
    model = save_tiny("bert", tmp_path / "model", seed=1, **large)
    rows = Path(text_file(str(tmp_path)))
    config = {"unfreezing": "head", "max_t": 4, "rungs": [], "eval_interval": None, "learning_rate": 1e-2}
    changes = [
        lambda: save_tiny("bert", model, seed=2, **large),  # the same folder, other weights
        lambda: rows.write_text(rows.read_text().replace("film", "scene")),  # the same file, other text
    ]
    before = None
    for change in [lambda: None, *changes]:
        change()
        for _ in range(2):
            manifest_of.cache_clear()  # to be looked at anew, as another launch would
            spec = tiny_sweep("bert", "sequence-classification", model, str(rows))
            cached, _ = run(job(config, sweep=spec))
            plain, _ = run(job({**config, "prefix_cache": "off"}, sweep=spec))
            same_losses(cached, plain, 1e-4)
        assert before is None or abs(before - cached[0].metrics["eval_loss"]) > 1e-6
        before = cached[0].metrics["eval_loss"]


def test_without_disk_the_prefix_is_recomputed_and_the_record_can_say_so() -> None:
    config = {**MINILM, "unfreezing": "head"}
    cached, _ = run(job(config, cache_gib=0.0))
    plain, _ = run(job({**config, "prefix_cache": "off"}))
    assert [report.metrics for report in cached] == [report.metrics for report in plain]
    notes = [note for report in cached for note in report.notes]
    assert len(notes) == 1
    assert "recomputed" in notes[0]
    assert "0 GiB" in notes[0]


def test_a_final_run_reads_what_the_sweep_made_and_fills_only_what_it_will_read_again() -> None:
    config = {**MINILM, "unfreezing": "head", "eval_interval": None}
    run(job({**config, "max_t": 19}))  # the sweep: one epoch of train
    both = {"train_on": ("train", "validation"), "evaluate_on": "test"}
    short, trainer = run(job({**config, "max_t": 5}, **both))
    assert trainer.prefix is not None
    assert trainer.prefix.computed == []
    plain, _ = run(job({**config, "max_t": 5, "prefix_cache": "off"}, **both))
    same_losses(short, plain, 1e-4)
    long, filling = run(job({**config, "max_t": 60}, **both))
    uncached, without = run(job({**config, "max_t": 60, "prefix_cache": "off"}, **both))
    same_losses(long, uncached, 1e-3)
    assert filling.flops < 0.7 * without.flops


def test_an_interrupted_run_resumes_onto_the_same_cache(tmp_path: Path) -> None:
    config = {**MINILM, "unfreezing": "gradual", "unfreeze_interval": 5, "seed": 3}
    undisturbed = list(reports(job(config)))
    for report in reports(job(config, tmp_path)):
        if report.step == 8:
            break
    assert list(reports(job(config, tmp_path))) == undisturbed


def test_gradient_checkpointing_leaves_the_prefix_out_too() -> None:
    config = {**MINILM, "unfreezing": "gradual", "unfreeze_interval": 6}
    plain, without = run(job({**config, "prefix_cache": "off"}))
    checkpointed, trainer = run(job({**config, "gradient_checkpointing": True}))
    same_losses(checkpointed, plain, 1e-4)
    assert trainer.flops < without.flops, "what is kept of the prefix saves more than recomputing the top costs"
