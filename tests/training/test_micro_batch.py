"""Too little memory: smaller pieces, the same result; remembered; and only where one example does not fit, no result."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import job
from scalesweep.training.job import cache_dir
from scalesweep.training.loop import Trainer, train
from scalesweep.training.micro_batch import EvaluationSize, MicroBatch
from tiny_sweeps import tiny_sweep

CONFIG = {"dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3, "max_t": 6, "rungs": [], "eval_interval": 3}


pytestmark = pytest.mark.usefixtures("own_sizes")


@contextmanager
def memory_for(trainer: Trainer, rows: int) -> Iterator[list[int]]:
    """A device that holds so many examples while it trains, and twice as many while it evaluates."""
    seen: list[int] = []

    def refuse(_module: torch.nn.Module, _args: Any, kwargs: Any) -> None:
        seen.append(kwargs["input_ids"].shape[0])
        if seen[-1] > (rows if torch.is_grad_enabled() else 2 * rows):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = trainer.model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.parametrize(("unfreezing", "exactly"), [("full", True), ("head", True), ("head", False)])
def test_a_run_short_of_memory_goes_on_in_smaller_pieces_to_the_same_result(unfreezing: str, exactly: bool) -> None:
    """With `head`, the passes that fill the prefix cache, of 8 examples, are too large. On a GPU (not `exactly`) they shrink."""
    config = {**CONFIG, "unfreezing": unfreezing}
    uncached = job({**config, "prefix_cache": "off"}, sweep=tiny_sweep())
    plenty = list(train(Trainer(uncached)))
    trainer = Trainer(job(config, sweep=tiny_sweep()))
    assert trainer.prefix is not None
    trainer.prefix.exactly = exactly
    with memory_for(trainer, 3):
        scarce = list(train(trainer))
    notes = [note for report in scarce for note in report.notes]
    lacks = "memory is too small for a pass over 8 examples"
    assert [note.endswith(lacks) for note in notes] == [True] * (exactly and unfreezing == "head")
    assert bool(trainer.passes.first) == (not exactly)
    for mine, theirs in zip(scarce, plenty, strict=True):
        assert mine.metrics["eval_loss"] == pytest.approx(theirs.metrics["eval_loss"], abs=1e-5)
        assert mine.metrics["train_loss"] == pytest.approx(theirs.metrics["train_loss"], abs=1e-5)
    remembered = json.loads((cache_dir() / "micro-batches.json").read_text())
    width = int(trainer.eval_split.lengths.max())
    assert list(remembered.values()) == [2, 5 * width], "16, 8, 4, 2; and of 20 evaluated at once 10, 5"
    again = Trainer(uncached)
    with memory_for(again, 3) as seen:
        again.train_step()
        assert seen == [2] * 8, "what was found is known to the next trial"
        again.evaluate()
    assert max(seen) <= 6
    assert sum(seen[8:]) == 20, "also for its evaluations"


def test_where_not_even_one_example_fits_the_error_says_so() -> None:
    trainer = Trainer(job(CONFIG, sweep=tiny_sweep()))
    with memory_for(trainer, 0), pytest.raises(torch.OutOfMemoryError, match=r"one example of .* does not fit in memory"):
        trainer.train_step()


class Demanding(Trainer):
    """A trial whose memory holds no example without gradient checkpointing. It counts the passes that it refused."""

    refused = 0

    def train_step(self) -> None:
        def refuse(*_: Any) -> None:
            if torch.is_grad_enabled() and not self.model.is_activation_checkpointing:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        handle = self.model.register_forward_pre_hook(refuse)
        super().train_step()
        handle.remove()


def test_gradient_checkpointing_is_on_where_one_example_does_not_fit_without_it(tmp_path: Path) -> None:
    """Frozen embeddings and adapters, dropout on: the results are those of a trial with memory enough, also from a checkpoint."""
    sweep = tiny_sweep("llama", "instruction-tuning")
    config = {"unfreezing": "full", "adapter": "lora", "lora_dropout": 0.1, "max_t": 4, "rungs": [2], "eval_interval": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # transformers renamed its function
        first = Demanding(job(config, tmp_path / "checkpoint", sweep=sweep))
        reports = list(train(first))
    assert first.refused == 5, "16, 8, 4, 2, 1"
    assert "gradient checkpointing is on" in reports[0].notes[0]
    plenty = list(train(Trainer(job({**config, "gradient_checkpointing": False}, sweep=sweep))))
    assert reports == plenty
    assert reports[-1].flops > plenty[-1].flops
    again = Demanding(job(config, sweep=sweep))
    assert next(train(again)) == plenty[0]
    assert again.refused == 0, "the node knows"
    (cache_dir() / "micro-batches.json").unlink()
    resumed = Demanding(job(config, tmp_path / "checkpoint", sweep=sweep))
    assert resumed.restore() == plenty[-1]
    assert resumed.model.is_activation_checkpointing


def test_other_errors_are_not_taken_for_too_little_memory() -> None:
    trainer = Trainer(job(CONFIG, sweep=tiny_sweep()))

    def fail(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trainer.train_step()


def tried(limit: int) -> tuple[list[int], Callable[[int], None]]:
    sizes: list[int] = []

    def try_out(rows: int) -> None:
        sizes.append(rows)
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return sizes, try_out


def test_a_gpu_is_tried_out_once_per_node(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: the search itself, with a device that says it is one."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")  # noqa: ARG005
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    gpu = torch.device("cuda", 0)
    sizes, try_out = tried(limit=20)
    made = MicroBatch(job({}, sweep=tiny_sweep()), tmp_path, gpu, share=100)
    assert made.size(3, try_out) == 16
    on_half, try_there = tried(limit=10)
    assert MicroBatch(job({"num_gpus": 0.5}, sweep=tiny_sweep()), tmp_path, gpu, share=100).size(3, try_there) == 8
    assert len(on_half) == 5, "a share of a GPU has sizes of its own"
    assert sizes == [128, 64, 32, 16]
    assert [made.rows(3, width, longest=512) for width in (512, 128, 500)] == [16, 64, 16], "a size is so many tokens"
    other, try_other = tried(limit=0)
    assert MicroBatch(job({}, sweep=tiny_sweep()), tmp_path, gpu, share=100).size(3, try_other) == made.size(3, try_out)
    assert other == [], "remembered"
    given, try_given = tried(limit=0)
    asked = MicroBatch(job({"micro_batch_size": 7}, sweep=tiny_sweep()), tmp_path, gpu, share=100)
    assert asked.size(3, try_given) == 7 == asked.rows(3, 16, longest=512)
    assert given == []


def test_an_evaluation_takes_as_much_as_its_tokens_and_vocabulary_let_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… and not twice the micro-batch. The examples in a piece of 512 tokens each, and of 16."""
    given = Trainer(job({"micro_batch_size": 1}, sweep=tiny_sweep()))
    passes: list[int] = []
    given.model.register_forward_pre_hook(lambda _, __, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True)
    given.evaluate()
    assert passes == [20]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")  # noqa: ARG005
    tiny, cpu, gpu = job({}, sweep=tiny_sweep()), torch.device("cpu"), torch.device("cuda", 0)
    for outputs, device, long, short in ((0, cpu, 64, 64), (32_768, cpu, 2, 64), (131_072, cpu, 1, 16), (131_072, gpu, 4, 128)):
        size = EvaluationSize(tiny, tmp_path, device, partial(int, outputs))
        assert (size.examples(512), size.examples(16)) == (long, short)
