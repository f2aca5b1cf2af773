"""The cached prefix: what is read equals what would be computed, over whole runs, and never stale. On every architecture:
`test_every_architecture.py`."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import job, reports
from scalesweep.training import prefix
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer, train
from tiny_models import save_tiny
from tiny_sweeps import tiny_sweep, write_rows

CONFIG = {"learning_rate": 1e-3, "rungs": [], "eval_interval": 4, "max_t": 12, "dropout": 0.1}
MINILM = {**CONFIG, "model_size": "L2", "max_t": 8}


def run(made: TrialJob) -> tuple[list[Any], Trainer]:
    trainer = Trainer(made)
    return list(train(trainer)), trainer


def same_losses(first: list[Any], second: list[Any], tolerance: float) -> None:
    for mine, theirs in zip(first, second, strict=True):
        for name in ("eval_loss", "train_loss"):
            assert mine.metrics[name] == pytest.approx(theirs.metrics[name], abs=tolerance), (mine.step, name)


@pytest.mark.parametrize("mode", ["head", "gradual", "lp_ft", "chain_thaw"])
def test_every_mode_on_a_real_model(mode: str) -> None:
    config = {**MINILM, "unfreezing": mode, "unfreeze_interval": 2}
    cached, trainer = run(job(config))
    plain, _ = run(job({**config, "prefix_cache": "off"}))
    same_losses(cached, plain, 1e-4)
    assert not cached[0].notes
    assert trainer.prefix is not None


def test_beside_a_process_that_writes_the_same_rows_the_bits_are_the_same() -> None:
    config = {**MINILM, "unfreezing": "head", "max_t": 4}
    alone = list(reports(job(config)))
    with ExitStack() as held:
        indexes = list(Path(os.environ["SCALESWEEP_CACHE"]).glob("prefix-*/index.bin"))
        for path in indexes:
            file = held.enter_context(path.open("r+b"))
            file.write(bytes(path.stat().st_size))
            file.flush()
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        assert list(reports(job(config))) == alone
        assert indexes
        assert not any(any(path.read_bytes()) for path in indexes), "nothing was stored"


def test_bf16_gives_the_same_within_its_precision() -> None:
    config = {**MINILM, "unfreezing": "head", "mixed_precision": "bf16", "max_t": 4}
    cached, trainer = run(job(config))
    plain, _ = run(job({**config, "prefix_cache": "off"}))
    assert trainer.precision.name == "bf16"
    assert trainer.prefix is not None
    assert not cached[0].notes
    same_losses(cached, plain, 5e-3)


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
    spec = tiny_sweep(model=save_tiny("bert", tmp_path / "model", num_hidden_layers=4), layers=(2, 4))
    head = {"unfreezing": "head", "max_t": 8, "rungs": [], "dropout": 0.1, "attention_dropout": 0.2}
    small = computed(job({**head, "model_size": "L2"}, sweep=spec))
    assert set(small) == {(0, 3)}
    assert len(small) == 64, "the 60 examples of the epoch in eight passes of 8, the last filled up with 4 of them again"
    large = computed(job({**head, "model_size": "L4", "dropout": 0.3}, sweep=spec))
    assert set(large) == {(3, 5)}, "the lowest two blocks were there from the smaller size"
    assert computed(job({**head, "model_size": "L4", "learning_rate": 0.5}, sweep=spec)) == []
    # A gradual trial works at cut 4 from its second step on: the pass to cut 5 kept that on the way.
    gradual = {**head, "model_size": "L4", "unfreezing": "gradual", "unfreeze_interval": 1}
    assert computed(job(gradual, sweep=spec)) == []


def test_what_is_kept_is_the_same_whoever_asked_for_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples of several lengths, in the batches of two seeds, so in other company in every pass."""
    spec = tiny_sweep("llama", "instruction-tuning")
    kept = []
    for seed in (0, 1):
        monkeypatch.setenv("SCALESWEEP_CACHE", str(tmp_path / str(seed)))
        trainer = Trainer(job({"unfreezing": "head", "max_t": 4, "seed": seed}, sweep=spec))
        for _ in range(4):
            trainer.train_step()
        split, prefix = trainer.train_split, trainer.prefix
        assert prefix is not None
        assert len(set(split.lengths.tolist())) > 4
        prefix.fill = False
        inputs = {"input_ids": torch.zeros(60, int(split.lengths.max()))}
        kept.append(prefix.hidden(split, np.arange(60), trainer.method.lowest, inputs))
        trainer.close()
    assert kept[0] is not None
    assert torch.equal(kept[0], kept[1])


def test_a_changed_checkpoint_or_text_is_never_served_what_was_kept_for_another(tmp_path: Path) -> None:
    large = {"initializer_range": 0.5}  # so that one word makes a difference
    model = save_tiny("bert", tmp_path / "model", seed=1, **large)
    rows = Path(write_rows(tmp_path / "rows.csv"))
    config = {"unfreezing": "head", "max_t": 4, "rungs": [], "eval_interval": None, "learning_rate": 1e-2}
    changes = [
        lambda: save_tiny("bert", model, seed=2, **large),  # the same folder, other weights
        lambda: rows.write_text(rows.read_text().replace("film", "scene")),  # the same file, other text
    ]
    before = None
    for number, change in enumerate([lambda: None, *changes]):
        change()
        plain = None
        for turn in range(2):
            # Under another name it is looked at anew, as another launch would.
            spec = {**tiny_sweep(model=model, rows=str(rows)), "name": f"launch-{number}-{turn}"}
            cached, _ = run(job(config, sweep=spec))
            plain = plain or run(job({**config, "prefix_cache": "off"}, sweep=spec))[0]
            same_losses(cached, plain, 1e-4)
        assert before is None or abs(before - cached[0].metrics["eval_loss"]) > 1e-6
        before = cached[0].metrics["eval_loss"]


def test_without_disk_the_prefix_is_recomputed_and_the_record_can_say_so() -> None:
    config, spec = {**CONFIG, "unfreezing": "head"}, tiny_sweep()
    cached, _ = run(job(config, sweep=spec, cache_gib=0.0))
    plain, _ = run(job({**config, "prefix_cache": "off"}, sweep=spec))
    assert [report.metrics for report in cached] == [report.metrics for report in plain]
    notes = [note for report in cached for note in report.notes]
    assert len(notes) == 1
    assert "is not cached" in notes[0]
    assert "0 GiB" in notes[0]


def test_a_final_run_reads_what_the_sweep_made_and_fills_only_what_it_will_read_again() -> None:
    config, spec = {**CONFIG, "unfreezing": "head", "eval_interval": None, "seed": 4}, tiny_sweep()
    run(job({**config, "max_t": 4}, sweep=spec))  # the sweep: one epoch of train
    both = {"train_on": ("train", "validation"), "evaluate_on": "test"}
    short, trainer = run(job({**config, "max_t": 5}, sweep=spec, **both))
    assert trainer.prefix is not None
    assert trainer.prefix.computed == []
    plain, _ = run(job({**config, "max_t": 5, "prefix_cache": "off"}, sweep=spec, **both))
    same_losses(short, plain, 1e-4)
    long, filling = run(job({**config, "max_t": 60}, sweep=spec, **both))
    uncached, without = run(job({**config, "max_t": 60, "prefix_cache": "off"}, sweep=spec, **both))
    same_losses(long, uncached, 1e-3)
    assert filling.clock.flops < 0.7 * without.clock.flops


def test_a_gpu_recomputes_what_it_reads_slower_and_a_cpu_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for exactly in (True, False):  # as on a CPU, as on a GPU
        monkeypatch.setattr(prefix, "_verdicts", {})
        monkeypatch.setattr(prefix, "_tallies", tallies := {})
        trainer = Trainer(job({**CONFIG, "unfreezing": "head"}, sweep=tiny_sweep()))
        assert trainer.prefix is not None
        trainer.prefix.exactly = exactly
        trainer.train_step()
        (key,) = tallies
        tallies[key] = prefix.Tally(computed=10**6, read=10**6, computing=0.1, reading=100.0)
        trainer.train_step()
        assert any("reading it takes longer" in verdict for verdict in prefix._verdicts.values()) == (not exactly)
        trainer.train_step()
        assert [note.endswith("reading it takes longer than computing it") for note in trainer.prefix.notes] == [True] * (
            not exactly
        )
        trainer.close()


def test_an_interrupted_run_resumes_onto_the_same_cache(tmp_path: Path) -> None:
    config, spec = {**CONFIG, "unfreezing": "gradual", "unfreeze_interval": 5, "seed": 3}, tiny_sweep(layers=(1, 2))
    config["model_size"] = "L2"
    undisturbed = list(reports(job(config, sweep=spec)))
    for report in reports(job(config, tmp_path, sweep=spec)):
        if report.step == 8:
            break
    assert list(reports(job(config, tmp_path, sweep=spec))) == undisturbed


def test_gradient_checkpointing_leaves_the_prefix_out_too() -> None:
    config, spec = {**CONFIG, "unfreezing": "gradual", "unfreeze_interval": 6, "model_size": "L2"}, tiny_sweep(layers=(1, 2))
    plain, without = run(job({**config, "prefix_cache": "off"}, sweep=spec))
    checkpointed, trainer = run(job({**config, "gradient_checkpointing": True}, sweep=spec))
    same_losses(checkpointed, plain, 1e-4)
    assert trainer.clock.flops < without.clock.flops, "what is kept of the prefix saves more than recomputing the top costs"
