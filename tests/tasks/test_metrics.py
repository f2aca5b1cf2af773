"""Metrics from sums, compared with scikit-learn and torch on the raw predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from scalesweep.spec.metrics import METRICS
from scalesweep.spec.tasks import TASKS
from scalesweep.tasks import task_of
from scalesweep.tasks.answers import SCORES
from scalesweep.tasks.metrics import COMPUTE, Totals, compute_metrics


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_classification_metrics_are_scikit_learns(classes: int, seed: int) -> None:
    rng = np.random.default_rng([classes, seed])
    true = rng.integers(0, classes - (seed % 2), 200)  # every second seed lacks a class
    logits = torch.tensor(rng.normal(size=(200, classes)) + 2 * np.eye(classes)[true], dtype=torch.float64)
    predicted = logits.argmax(-1).numpy()
    confusion = sk.confusion_matrix(true, predicted, labels=range(classes)).astype(float)
    nll = task_of("sequence-classification").loss_sum(logits, torch.tensor(true)).item()
    got = compute_metrics("sequence-classification", Totals(nll, 200, confusion=confusion))
    probabilities = torch.softmax(logits, -1).numpy()
    assert got["eval_loss"] == pytest.approx(sk.log_loss(true, probabilities, labels=range(classes)), rel=1e-5)
    assert got["eval_accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert got["eval_f1_macro"] == pytest.approx(sk.f1_score(true, predicted, average="macro"))
    assert got["eval_matthews"] == pytest.approx(sk.matthews_corrcoef(true, predicted))


def test_every_metric_of_the_table_is_computed() -> None:
    generated = {name for row in TASKS.values() for name in row.generated}
    assert COMPUTE.keys() | generated == METRICS.keys()
    assert SCORES.keys() | {"eval_score"} == generated


def test_a_constant_prediction_has_no_correlation() -> None:
    assert COMPUTE["eval_matthews"](Totals(1.0, 4, confusion=np.array([[2.0, 0.0], [2.0, 0.0]]))) == 0.0


def test_language_modelling_loss_predicts_the_next_token_and_skips_padding() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 11)
    targets = torch.tensor([[2, 3, 4, 5, -100], [7, 8, -100, -100, -100]])
    by_hand = -sum(
        torch.log_softmax(logits[row, t], -1)[targets[row, t]]
        for row in range(2) for t in range(5) if targets[row, t] != -100
    )  # fmt: skip
    learnt = targets != -100
    assert task_of("causal-lm").loss_sum(logits[learnt], targets[learnt]).item() == pytest.approx(by_hand.item(), rel=1e-5)
    got = compute_metrics("causal-lm", Totals(by_hand.item(), 6, n_bytes=20))
    assert got["eval_perplexity"] == pytest.approx(math.exp(by_hand.item() / 6), rel=1e-6)
    assert got["eval_bits_per_byte"] == pytest.approx(by_hand.item() / math.log(2) / 20)


def test_bits_per_byte_does_not_depend_on_how_text_is_cut_into_tokens() -> None:
    """A fair model of 8 equally likely bytes, seen as single bytes or as pairs: the loss per token differs, bits per byte not."""
    single = Totals(nll=100 * math.log(8), count=100, n_bytes=100)
    pairs = Totals(nll=50 * math.log(64), count=50, n_bytes=100)
    assert single.mean_nll != pytest.approx(pairs.mean_nll)
    bits = COMPUTE["eval_bits_per_byte"]
    assert bits(single) == pytest.approx(bits(pairs)) == pytest.approx(3.0)
