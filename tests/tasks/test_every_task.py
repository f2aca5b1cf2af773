"""The contract of a task, checked for each row of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scalesweep.spec.metrics import METRICS
from scalesweep.spec.sweep import DataSpec
from scalesweep.spec.tasks import TASKS
from scalesweep.tasks import IGNORED, Encoded, task_of
from scalesweep.tasks.metrics import compute_metrics
from tiny_models import WORDS, tiny_model, tiny_tokenizer

TEXTS = [" ".join(WORDS[start : start + n]) for start, n in ((0, 3), (3, 9), (5, 1), (7, 14))]
CLASSES = ["good", "poor", "neither"]
MODELS = {"sequence-classification": "bert", "masked-lm": "bert"}  # else llama


DATA = DataSpec(path="none", splits={}, max_length=8)


def encoded(name: str) -> Encoded:
    task, texts = task_of(name), TEXTS
    if read := task.row_reader(DATA, ["prompt", "completion"]):
        texts = [read({"prompt": text, "completion": "stop"}) for text in TEXTS]
    return task.encode(texts, None, DATA, tiny_tokenizer())


@pytest.mark.parametrize("name", TASKS)
def test_its_metrics_are_in_the_table_and_follow_from_what_it_measures(name: str) -> None:
    row, task = TASKS[name], task_of(name)
    assert set(row.metrics) <= METRICS.keys()
    classes = len(CLASSES) if row.label else 0
    outcomes = classes or 11
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, outcomes, generator=rng)
    targets = torch.randint(0, outcomes, (6,), generator=rng)
    whole = task.measured(logits, targets)
    assert whole.dtype == torch.float64
    count = len(targets)
    assert whole.shape == (count, len(task.measures))
    found = compute_metrics(name, task.totals(whole.numpy(), count, 40.0, targets.numpy(), classes))
    assert list(found) == list(row.metrics)
    assert found["eval_loss"] == pytest.approx(float(task.loss_sum(logits, targets)) / count)


@pytest.mark.parametrize("name", TASKS)
def test_examples_follow_one_another_and_fit(name: str) -> None:
    made = encoded(name)
    assert made.tokens.dtype == np.int32
    assert made.lengths.sum() == made.tokens.size
    assert made.lengths.max() <= 8
    assert len(made.bytes) == len(made.lengths)
    rows = np.arange(len(made.lengths)) if made.rows is None else made.rows
    assert len(rows) == len(made.lengths)
    assert len(set(rows.tolist())) + len(made.left_out) == len(TEXTS)
    assert (np.diff(rows) >= 0).all()
    if not task_of(name).per_token:
        assert made.targets is None
        assert len(made.lengths) == len(TEXTS)
        return
    assert made.targets is not None
    assert made.targets.shape == made.tokens.shape
    ends = np.cumsum(made.lengths) - 1
    assert (made.targets[ends] == IGNORED).all(), "nothing is predicted from an example's last token"
    if name == "causal-lm":
        assert made.bytes.sum() == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("name", TASKS)
def test_its_loss_is_that_of_the_model_class(name: str) -> None:
    task = task_of(name)
    model = tiny_model(MODELS.get(name, "llama"), name).eval()
    assert isinstance(model, tuple(task.auto_class()._model_mapping.values()))
    made = encoded(name)
    tokens = torch.tensor(made.tokens[: made.lengths[0]])[None].long()
    if made.targets is None:
        targets = labels = torch.tensor([1])
    else:
        targets = labels = torch.tensor(made.targets[: made.lengths[0]])[None].long()
        if name != "masked-lm":  # elsewhere transformers shifts them
            labels = torch.cat([torch.full((1, 1), IGNORED), targets[:, :-1]], 1)
    with torch.no_grad():
        output = model(input_ids=tokens, labels=labels)
    learnt = targets != IGNORED
    count = int(learnt.sum())
    assert float(task.loss_sum(output.logits[learnt], targets[learnt])) / count == pytest.approx(float(output.loss), rel=1e-5)


def test_hidden_tokens_are_those_of_bert_and_belong_to_the_text_alone() -> None:
    """15 % of the tokens of a text; 80 % of them behind the mask, 10 % another token; whatever else is encoded with it."""
    task, tokenizer, rng = task_of("masked-lm"), tiny_tokenizer(), np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(1, 60, size=600)]
    made = task.encode(texts, None, DATA.model_copy(update={"max_length": 32}), tokenizer)
    assert made.targets is not None
    learnt = made.targets != IGNORED
    again = tokenizer(" ".join(texts), add_special_tokens=False)["input_ids"]
    whole = np.where(learnt, made.targets, made.tokens)
    ordinary = ~np.isin(whole, [tokenizer.cls_token_id, tokenizer.sep_token_id])
    assert whole[ordinary].tolist() == again, "put back, the targets make the text"
    assert not (learnt & ~ordinary).any()
    starts = np.cumsum(made.lengths) - made.lengths
    per_example = np.add.reduceat(learnt, starts)
    assert (per_example == np.maximum(1, np.round(0.15 * np.add.reduceat(ordinary, starts)))).all()
    hidden, there = made.tokens[learnt], made.targets[learnt]
    assert (hidden == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.03)
    assert (hidden == there).mean() == pytest.approx(0.1, abs=0.03)
    alone = [task.encode([text], None, DATA.model_copy(update={"max_length": 32}), tokenizer) for text in texts[:20]]
    tokens = np.concatenate([one.tokens for one in alone])
    assert (tokens == made.tokens[: len(tokens)]).all()
    shown = task.shown(made.tokens[: made.lengths[0]], made.targets[: made.lengths[0]], tokenizer)
    assert "".join(text for text, _ in shown).split() == ["<cls>", *texts[0].split()[:30], "<sep>"][: made.lengths[0]]
    assert sum(len(text.split()) for text, is_learnt in shown if is_learnt) == per_example[0]


def test_a_file_for_each_row() -> None:
    room = Path(task_of.__wrapped__.__code__.co_filename).parent  # type: ignore[attr-defined]
    files = {path.stem for path in room.glob("*.py")}
    assert {name.replace("-", "_") for name in TASKS} <= files
