"""The influence of each validation row on a metric.

Every metric is a function of sums over the rows. The influence of a row is the derivative of the metric with respect to the row's
weight; a ratio of sums is linearised, and the delta method gives the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from scalesweep.record.evaluations import Evaluation

Columns = Mapping[str, np.ndarray]


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
    """A ratio of sums and each row's influence on it."""
    whole = below.sum()
    value = above.sum() / whole
    return float(value), (above - value * below) / whole


def _predictions(columns: Columns) -> np.ndarray:
    return columns.get("predictions", np.ones_like(columns["loss"]))


def _loss(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["loss"] * _predictions(columns), _predictions(columns))


def _perplexity(columns: Columns) -> tuple[float, np.ndarray]:
    loss, influence = _loss(columns)
    value = math.exp(min(loss, 700.0))  # e^700 is the largest power that a float holds
    return value, value * influence


def _bits_per_byte(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["loss"] * _predictions(columns) / math.log(2), columns["bytes"])


def _token_accuracy(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio(columns["right"] * _predictions(columns), _predictions(columns))


def _classes(columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The true and the predicted class of each row, and how often each class is one and the other."""
    true, predicted = columns["label"].astype(int), columns["class"].astype(int)
    most = max(true.max(), predicted.max()) + 1
    return true, predicted, np.bincount(true, minlength=most), np.bincount(predicted, minlength=most)


def _accuracy(columns: Columns) -> tuple[float, np.ndarray]:
    return _ratio((columns["label"] == columns["class"]).astype(float), np.ones(len(columns["label"])))


def _f1_macro(columns: Columns) -> tuple[float, np.ndarray]:
    true, predicted, of_true, of_predicted = _classes(columns)
    hit = true == predicted
    support = of_true + of_predicted
    present = support > 0
    support = np.maximum(support, 1)
    scores = 2 * np.bincount(true[hit], minlength=len(support)) / support
    influence = 2 * hit / support[true] - scores[true] / support[true] - scores[predicted] / support[predicted]
    return float(scores[present].mean()), influence / present.sum()


def _matthews(columns: Columns) -> tuple[float, np.ndarray]:
    true, predicted, of_true, of_predicted = (array.astype(float) for array in _classes(columns))
    hit, n = true == predicted, float(len(true))
    at_true, at_predicted = true.astype(int), predicted.astype(int)
    covariance = hit.sum() * n - of_true @ of_predicted
    spread_true, spread_predicted = n**2 - of_true @ of_true, n**2 - of_predicted @ of_predicted
    spread = spread_true * spread_predicted
    if spread <= 0:
        return 0.0, np.zeros(len(true))
    value = covariance / math.sqrt(spread)
    moved = hit * n + hit.sum() - of_predicted[at_true] - of_true[at_predicted]
    widened = (n - of_true[at_true]) / spread_true + (n - of_predicted[at_predicted]) / spread_predicted
    return float(value), moved / math.sqrt(spread) - value * widened


INFLUENCE: dict[str, Callable[[Columns], tuple[float, np.ndarray]]] = {
    "eval_loss": _loss,
    "eval_accuracy": _accuracy,
    "eval_f1_macro": _f1_macro,
    "eval_matthews": _matthews,
    "eval_perplexity": _perplexity,
    "eval_token_accuracy": _token_accuracy,
    "eval_bits_per_byte": _bits_per_byte,
}


@lru_cache(maxsize=8)
def _draws(groups: bytes, dtype: str) -> np.ndarray:
    """The number of each row's draw, from 0. All evaluations of a sweep have the same groups, as a rule."""
    return np.unique(np.frombuffer(groups, dtype), return_inverse=True)[1]


def influence(evaluation: Evaluation, metric: str) -> tuple[float, np.ndarray] | None:
    """A metric of the kept rows, and the influence on it of each row, or of all rows of a group together, [draws].

    None for a metric that does not follow from the rows, such as a function of the user's, where one of the numbers is not
    finite, and of a single draw.
    """
    if not evaluation.rows or not (metric in INFLUENCE or metric in evaluation.columns):
        return None
    columns = evaluation.floats
    try:
        with np.errstate(invalid="ignore", divide="ignore"):  # a diverged trial has infinite losses
            if metric.startswith("eval_") and metric in columns:  # a score of generated answers
                given = ~np.isnan(columns[metric])
                found = _ratio(np.where(given, columns[metric], 0.0), given.astype(np.float64))
            else:
                found = INFLUENCE[metric](columns)
    except KeyError:
        return None
    value, at = found
    if "group" in columns:
        groups = evaluation.columns["group"]
        at = np.bincount(_draws(groups.tobytes(), groups.dtype.str), weights=at)
    return (value, at) if len(at) > 1 and np.isfinite(at).all() else None
