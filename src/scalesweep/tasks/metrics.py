"""Validation metrics, from sums over all examples: the same for any number of workers and any shards.

No metric contains a regularizer: the loss is plain cross-entropy without label smoothing, so trials are comparable.
`spec/metrics.py` has the table of names; `COMPUTE` has the function of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalesweep.spec.tasks import TASKS


@dataclass
class Totals:
    """Sums over a data set. `count` is examples (classification) or predicted tokens (language modelling); `n_bytes` the
    UTF-8 bytes of the text; `confusion[i, j]` counts examples of class i that were predicted as class j; `correct`
    counts the tokens predicted right."""

    nll: float  # nats
    count: float
    n_bytes: float = 0.0
    confusion: np.ndarray | None = None
    correct: float = 0.0

    @property
    def mean_nll(self) -> float:
        return self.nll / self.count


def _confusion(totals: Totals) -> np.ndarray:
    assert totals.confusion is not None
    return totals.confusion


def accuracy(totals: Totals) -> float:
    matrix = _confusion(totals)
    return float(np.trace(matrix) / matrix.sum())


def f1_macro(totals: Totals) -> float:
    """The mean F1 of the classes, without classes that neither occur nor are predicted."""
    matrix = _confusion(totals)
    true_positive, support = np.diag(matrix), matrix.sum(axis=1) + matrix.sum(axis=0)
    present = support > 0
    return float(np.mean(2 * true_positive[present] / support[present]))


def matthews(totals: Totals) -> float:
    """Matthews correlation for any number of classes (Gorodkin, 2004); 0 if labels or predictions are constant."""
    matrix = _confusion(totals)
    n, correct = matrix.sum(), np.trace(matrix)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    covariance = correct * n - true @ predicted
    spread = (n**2 - true @ true) * (n**2 - predicted @ predicted)
    return float(covariance / math.sqrt(spread)) if spread > 0 else 0.0


def perplexity(totals: Totals) -> float:
    return math.exp(min(totals.mean_nll, 700.0))  # e^700 is the largest power that a float holds


def token_accuracy(totals: Totals) -> float:
    return totals.correct / totals.count


def bits_per_byte(totals: Totals) -> float:
    """Cross-entropy per byte of text: unlike a loss per token, it is comparable between tokenizers."""
    return totals.nll / math.log(2) / totals.n_bytes


COMPUTE: dict[str, Callable[[Totals], float]] = {
    "eval_loss": lambda totals: totals.mean_nll,
    "eval_accuracy": accuracy,
    "eval_f1_macro": f1_macro,
    "eval_matthews": matthews,
    "eval_perplexity": perplexity,
    "eval_token_accuracy": token_accuracy,
    "eval_bits_per_byte": bits_per_byte,
}


def compute_metrics(task: str, totals: Totals) -> dict[str, float]:
    """All metrics of the task, by name."""
    return {name: float(COMPUTE[name](totals)) for name in TASKS[task].metrics}
