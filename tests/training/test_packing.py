"""Packed examples: each computed as alone, or else padded; a step's gradients are the same."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from jobs import job
from scalesweep.data.batches import BatchPlan
from scalesweep.tasks import IGNORED
from scalesweep.training import head
from scalesweep.training.loop import Trainer, train
from scalesweep.training.packing import WORTH, Piece, filled_rows, pack, pieces, refusal, saving
from tiny_models import DECODERS, WORDS, made_once, tiny_model
from tiny_sweeps import tiny_sweep

REFUSED = {"opt", "bloom", "mpt", "mamba"}
SIZES: dict[str, dict[str, Any]] = {
    "gemma2": {"intermediate_size": 48, "num_key_value_heads": 4, "head_dim": 8},
    "bloom": {"n_head": 4},
}
LENGTHS = np.array([5, 9, 3, 7, 2, 8])


def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and targets."""
    draws = np.random.default_rng(0)
    made = [(draws.integers(6, 90, size), draws.integers(6, 90, size)) for size in LENGTHS]
    for _, targets in made:
        targets[0] = IGNORED
    return made


def padded_arrays(indices: np.ndarray) -> dict[str, np.ndarray]:
    width = LENGTHS[indices].max()
    arrays = {name: np.zeros((len(indices), width), dtype=np.int64) for name in ("input_ids", "attention_mask", "targets")}
    for row, index in enumerate(indices):
        tokens, targets = examples()[index]
        for name, values in (("input_ids", tokens), ("attention_mask", 1), ("targets", targets)):
            arrays[name][row, : LENGTHS[index]] = values
    return arrays


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", [*DECODERS, "gemma2", "bloom", "mpt", "mamba"])
def test_packed_examples_have_the_gradients_of_each_alone_or_are_refused(kind: str) -> None:
    model = tiny_model(kind, "causal-lm", use_cache=False, **SIZES.get(kind, {}))
    assert bool(refusal(model, pad_id=0)) == (kind in REFUSED)
    if kind in REFUSED:
        return
    for tokens, targets in examples():
        logits = model(input_ids=torch.tensor(tokens[None])).logits[0]
        functional.cross_entropy(logits, torch.tensor(targets), ignore_index=IGNORED, reduction="sum").backward()
    alone = gradients(model)
    (piece,) = pieces(np.arange(6), LENGTHS, 6, lambda: True)
    arrays = {name: torch.tensor(array) for name, array in pack(padded_arrays(piece.indices), piece, pad_id=0).items()}
    logits = model(input_ids=arrays["input_ids"], position_ids=arrays["position_ids"]).logits
    functional.cross_entropy(
        logits.flatten(0, 1), arrays["targets"].flatten(), ignore_index=IGNORED, reduction="sum"
    ).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-5, atol=1e-5, msg=name)


def test_a_model_that_keeps_keys_and_values_is_refused() -> None:
    assert refusal(tiny_model("llama", "causal-lm", use_cache=True), pad_id=0)
    assert refusal(tiny_model("bert", "masked-lm"), pad_id=0), "it attends to everything in its row"


def test_a_packed_row_is_its_examples_and_then_padding() -> None:
    piece = Piece(np.array([1, 4, 3, 2]), 12, np.array([2, 2]))
    found = pack(padded_arrays(piece.indices), piece, pad_id=77)
    made = examples()
    for row, (first, second) in enumerate([(1, 4), (3, 2)]):
        sizes = (LENGTHS[first], LENGTHS[second], 12 - LENGTHS[first] - LENGTHS[second])
        assert found["position_ids"][row].tolist() == [place for size in sizes for place in range(size)]
        assert found["input_ids"][row].tolist() == [*made[first][0], *made[second][0], *[77] * sizes[2]]
        assert found["targets"][row].tolist() == [*made[first][1], *made[second][1], *[IGNORED] * sizes[2]]


@pytest.mark.parametrize("spread", [0.1, 0.8])
def test_every_example_is_in_one_piece_and_packed_where_that_pays(spread: float) -> None:
    draws = np.random.default_rng(0)
    lengths = np.clip(draws.lognormal(4, spread, 500).astype(int), 2, 512)
    plan = BatchPlan(500, 64, seed=0)
    for step in range(plan.steps_per_epoch):
        share = plan.batch(step)
        packed, plain = (pieces(share, lengths, 8, lambda answer=answer: answer) for answer in (True, False))
        for found in (packed, plain):
            assert sorted(np.concatenate([piece.indices for piece in found])) == sorted(share)
            assert max(piece.shape[0] for piece in found) <= 8
        for piece in packed:
            rows = np.split(piece.indices, np.cumsum(piece.counts)[:-1]) if piece.counts is not None else piece.indices[:, None]
            assert max(lengths[row].sum() for row in rows) <= piece.width <= lengths[share].max()
        tokens = [sum(piece.tokens for piece in found) for found in (packed, plain)]
        assert (tokens[0] <= WORTH * tokens[1]) == (packed[0].counts is not None)
        assert (packed[0].counts is not None) == (spread > 0.5)
    assert filled_rows(np.array([], dtype=int), lengths, 512) == []


def write_uneven(path: Path) -> None:
    """120 conversations, of which every eighth is long."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(120):
            words = draw.sample(WORDS, 16 if number % 8 == 0 else 3)
            messages = [{"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": f"{words[0]} ."}]
            file.write(json.dumps({"messages": messages}) + "\n")


@pytest.mark.usefixtures("own_sizes")
def test_a_plan_counts_what_a_worker_packs() -> None:
    lengths = np.array([20, 2, 3, 2] * 10)
    found = saving(BatchPlan(40, 4, 0), lengths, 4)
    assert found["batches"] == 10
    padded_tokens, packed_tokens = 0, 0
    for step in range(10):
        made = lengths[BatchPlan(40, 4, 0).batch(step)]
        padded_tokens += 4 * made.max()
        packed_tokens += sum(piece.tokens for piece in pieces(BatchPlan(40, 4, 0).batch(step), lengths, 4, lambda: True))
    assert found["saved"] == pytest.approx(1 - packed_tokens / padded_tokens)
    assert 0 < found["packed"] < 10
    assert saving(BatchPlan(40, 4, 0), np.full(40, 7), 4) == {"batches": 10, "packed": 0, "saved": 0.0}


def test_a_packed_step_of_a_trial_has_the_gradients_of_a_padded_one() -> None:
    """LoRA, smoothed targets, chunks of logits, a random batch, too little memory at first; no dropout, whose draws differ."""
    config = {
        "rungs": [], "unfreezing": "full", "adapter": "lora", "label_smoothing_factor": 0.1, "attention_dropout": 0.0,
        "group_by_length": False,
    }  # fmt: skip
    uneven = str(made_once("uneven.jsonl", write_uneven))
    found: dict[str, tuple[dict[str, torch.Tensor], float, float]] = {}
    rows: dict[str, list[tuple[int, bool]]] = {"auto": [], "off": []}
    for packing, shapes in rows.items():
        trainer = Trainer(job({**config, "packing": packing}, sweep=tiny_sweep("llama", "instruction-tuning", rows=uneven)))
        trainer._set_mode()

        def refuse(_module: Any, _args: Any, kwargs: Any, shapes: list[tuple[int, bool]] = shapes) -> None:
            if torch.is_grad_enabled():
                shapes.append((len(kwargs["input_ids"]), "position_ids" in kwargs))
                if shapes[-1][0] > 8:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        trainer.model.register_forward_pre_hook(refuse, with_kwargs=True)
        batch = trainer.plan.batch(0)
        with mock.patch.multiple(head, LEAST_ROWS=3, CHUNK_LOGITS={"cpu": 1}):
            loss = trainer.gradients.of_batch(batch, float(trainer.weights[batch].sum()), 0)
        found[packing] = gradients(trainer.model), float(loss), trainer.passes.flops
    assert rows["auto"] == [(10, True), (8, True), (2, True)], "halved once"
    assert set(rows["off"]) == {(8, False)}
    (packed, loss, flops), (padded, expected, more) = found["auto"], found["off"]
    assert loss == pytest.approx(expected, rel=1e-6)
    assert flops < more
    assert packed.keys() == padded.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, padded[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_trial_that_is_not_packed_says_why() -> None:
    config = {"rungs": [], "max_t": 2, "unfreezing": "full", "group_by_length": False, "eval_interval": 1}
    found = [report.notes for report in train(Trainer(job(config, sweep=tiny_sweep("opt", "instruction-tuning"))))]
    assert found == [("opt: examples are padded, not packed, because packed examples get other logits than each alone",), ()]
