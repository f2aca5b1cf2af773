"""The table of metrics: goal and meaning of each. `spec/tasks.py` says which task has which; `tasks/metrics.py` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Goal = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Metric:
    """One row of the table. `per_token` metrics can't rank sizes with different tokenizers."""

    goal: Goal
    help: str
    per_token: bool = False
    either: bool = False  # the sweep may set the other goal


METRICS: dict[str, Metric] = {
    "eval_loss": Metric(
        "minimize",
        "cross-entropy without label smoothing, in nats per predicted class or token",
        per_token=True,
    ),
    "eval_accuracy": Metric("maximize", "share of examples classified correctly"),
    "eval_f1_macro": Metric("maximize", "mean F1 of the classes that occur in the data or in the predictions"),
    "eval_matthews": Metric("maximize", "Matthews correlation, for any number of classes (Gorodkin, 2004)"),
    "eval_perplexity": Metric("minimize", "exponential of the loss", per_token=True),
    "eval_token_accuracy": Metric(
        "maximize", "share of predicted tokens that the model finds most likely (greedy choice)", per_token=True
    ),
    "eval_bits_per_byte": Metric(
        "minimize",
        "cross-entropy in bits per UTF-8 byte of the text. It compares sizes with different tokenizers.",
    ),
    "eval_exact_match": Metric(
        "maximize",
        "share of conversations whose generated last answer is the one of the data, without white space around both",
    ),
    "eval_score": Metric(
        "maximize",
        "mean of what the function `data.scorer` returns for the generated last answer of each conversation. A score that is "
        "better when lower needs `metric.goal: minimize`.",
        either=True,
    ),
}
LOWER_IS_BETTER = ("loss", "perplexity", "error")  # words in the names of metrics that others recorded


def goal_of(name: str) -> Goal | None:
    """Return the goal of a metric of the table, or of a table's column whose name shows it; None if it is unknown."""
    if name in METRICS:
        return METRICS[name].goal
    return "minimize" if any(word in name.lower() for word in LOWER_IS_BETTER) else None
