"""The score of guessing: the metrics that a model reaches which never reads its input.

Classification guesses from the classes' shares in the training split (and answers the most frequent class). Language modelling
guesses each token from its frequency in the training split (a unigram model). Both add one to every count, so that
what training never showed is unlikely and not impossible (Laplace, 1814). Answers are guessed to be the one that is most frequent
in the training split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesweep.data.tokens import TokenizedData
from scalesweep.errors import UserError
from scalesweep.spec.functions import accepts, called, load
from scalesweep.spec.metrics import METRICS
from scalesweep.tasks import task_of
from scalesweep.tasks.answers import Answering, exact_match, most_frequent, questions_of
from scalesweep.tasks.metrics import compute_metrics


@dataclass(frozen=True)
class Baseline:
    """`guess` says how it guesses; `metrics` holds every metric of the task on the validation split."""

    guess: str
    metrics: dict[str, float]


def guessing(task: str, data: TokenizedData, outcomes: int, answering: Answering | None = None) -> Baseline:
    """The metrics of guessing on the validation split.

    Args:
        outcomes: how many classes, or how many tokens in the vocabulary, there are to guess from.
        answering: of a sweep whose metric needs answers.

    Raises:
        UserError: no answer of a split is whole.
    """
    train, validation = (split.target_counts(outcomes) for split in (data.train, data.validation))
    share = (train + 1) / (train.sum() + outcomes)
    nll = float(-(validation * np.log(share)).sum())
    rule = task_of(task)
    metrics = compute_metrics(task, rule.guessed(nll, train, validation, data.validation.n_bytes))
    if answering is None:
        return Baseline(rule.guess, metrics)
    guess = _guess(data, answering)
    asked = questions_of(data.validation, answering).values()
    metrics["eval_exact_match"] = sum(exact_match(guess, question.reference) for question in asked) / len(asked)
    return Baseline("the most frequent answer in train", metrics)


def judged_guess(function: str, data: TokenizedData, answering: Answering | None) -> float | None:
    """The number that a user's function makes of guessing, on the validation split.

    Some functions have no value where all predictions are equal, such as a correlation. They are called once more with
    predictions that differ, and the result is None.

    Args:
        answering: of a task whose answers are generated; None for classes.

    Raises:
        UserError: the function fails both times.
    """
    equal: Any
    differing: Any
    if answering is not None:
        true: Any = [question.reference for question in questions_of(data.validation, answering).values()]
        equal, differing = [_guess(data, answering)] * len(true), true[::-1]
    else:
        true = np.array(data.validation.labels)
        counts = data.train.target_counts(len(data.classes)) + 1
        equal = np.tile(np.log(counts / counts.sum()).astype(np.float32), (len(true), 1))
        differing = equal + np.random.default_rng(0).gumbel(size=equal.shape).astype(np.float32)  # draws from the shares
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy warns of what has no value
            return called(function, equal, true)
    except UserError:
        called(function, differing, true)
        return None


def scored_guess(scorer: str, data: TokenizedData, answering: Answering) -> float:
    """The score of a guess at the first question of the validation split: one call, because a scorer may be slow or cost money.

    Raises:
        UserError: the scorer fails.
    """
    question = next(iter(questions_of(data.validation, answering).values()))
    prompts = [answering.prompt(question)] if accepts(load(scorer), 3) else []
    return called(scorer, _guess(data, answering), question.reference, *prompts)


def _guess(data: TokenizedData, answering: Answering) -> str:
    """The answer that is most frequent in train."""
    return most_frequent(questions_of(data.train, answering).values())


def strictest(baselines: Iterable[Baseline], metric: str) -> Baseline:
    """The baseline that is best in `metric`: what several tokenizers make of the same text is measured against one.

    Nobody guesses a metric that a function of the user's computes; then it is the first one.
    """
    found: Sequence[Baseline] = list(baselines)
    if any(metric not in baseline.metrics for baseline in found):
        return found[0]
    sign = 1.0 if METRICS[metric].goal == "minimize" else -1.0
    return min(found, key=lambda baseline: sign * baseline.metrics[metric])
