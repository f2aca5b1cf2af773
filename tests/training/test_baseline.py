"""The score of guessing, against counts made by hand and against scikit-learn's dummy classifier."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from scalesweep.data.prepare import PreparedText
from scalesweep.data.tokens import TokenizedData, tokenize
from scalesweep.spec.sweep import DataSpec
from scalesweep.training.baseline import Baseline, guessing, strictest
from tiny_models import tiny_tokenizer

SPEC = DataSpec(path="x", text="text", splits={"train": 4, "validation": 2}, max_length=6)


def tokenized(
    folder: Path, task: str, texts: dict[str, list[str]], labels: dict[str, list[int]], classes: list[str]
) -> TokenizedData:
    arrays = {split: np.array(values, dtype=np.int64) for split, values in labels.items()}
    prepared = PreparedText(texts, None, arrays, classes, str(folder), {}, [])
    return TokenizedData.open(tokenize(prepared, SPEC, task, tiny_tokenizer(), "tiny", folder))


def test_classes_are_guessed_from_their_shares_in_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {"train": rng.choice(4, 300, p=[0.2, 0.5, 0.3, 0.0]).tolist(), "validation": rng.choice(4, 90).tolist()}
    texts = {split: ["a film"] * len(values) for split, values in labels.items()}
    found = guessing("sequence-classification", tokenized(tmp_path, "sequence-classification", texts, labels, list("abcd")), 4)
    train, truth = labels["train"], labels["validation"]
    share = {number: (train.count(number) + 1) / (len(train) + 4) for number in range(4)}  # the class d is in no row of train
    assert found.metrics["eval_loss"] == pytest.approx(-sum(math.log(share[number]) for number in truth) / len(truth))
    answers = DummyClassifier(strategy="most_frequent").fit(np.zeros((300, 1)), train).predict(np.zeros((90, 1)))
    assert found.metrics["eval_accuracy"] == pytest.approx(accuracy_score(truth, answers))
    assert found.metrics["eval_f1_macro"] == pytest.approx(f1_score(truth, answers, average="macro", zero_division=0))
    assert found.metrics["eval_matthews"] == matthews_corrcoef(truth, answers) == 0.0


def test_tokens_are_guessed_from_their_frequencies_in_train(tmp_path: Path) -> None:
    texts = {
        "train": ["the film is good", "the film is a long film and it is bad", "good"],
        "validation": ["a bad film", "the end"],
    }
    data = tokenized(tmp_path, "causal-lm", texts, {split: [] for split in texts}, [])
    tokenizer = tiny_tokenizer()

    def targets(split: str) -> list[int]:
        """Every token of each document and its end; the start is not predicted."""
        return [
            i
            for text in texts[split]
            for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ]

    counts, wanted, words = Counter(targets("train")), targets("validation"), len(tokenizer)
    nll = -sum(math.log((counts[token] + 1) / (counts.total() + words)) for token in wanted)
    found = guessing("causal-lm", data, words).metrics
    assert found["eval_loss"] == pytest.approx(nll / len(wanted))
    assert found["eval_perplexity"] == pytest.approx(math.exp(nll / len(wanted)))
    assert found["eval_bits_per_byte"] == pytest.approx(nll / math.log(2) / sum(map(len, texts["validation"])))


@pytest.mark.parametrize(("metric", "best"), [("eval_loss", 0), ("eval_accuracy", 1)])
def test_of_several_baselines_the_strictest_counts(metric: str, best: int) -> None:
    found = [Baseline("x", {"eval_loss": 0.5, "eval_accuracy": 0.6}), Baseline("x", {"eval_loss": 0.7, "eval_accuracy": 0.8})]
    assert strictest(found, metric) is found[best]
