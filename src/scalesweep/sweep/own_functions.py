"""Functions of the user's own: found, imported, and called once with guesses, before any compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.errors import SpecError, UserError
from scalesweep.spec import SweepSpec, functions
from scalesweep.spec.sweep import DataSpec
from scalesweep.tasks import task_of
from scalesweep.training.baseline import Baseline, judged_guess, scored_guess

if TYPE_CHECKING:
    from scalesweep.data.tokens import TokenizedData


def own_function(spec: SweepSpec, base: Path) -> str | None:
    """Return the function of the metric by its place, after an import. Raises SpecError if that fails."""
    if spec.metric.function is None:
        return None
    placed = functions.placed(spec.metric.function, (base, Path.cwd()))
    try:
        functions.load(placed)
    except UserError as error:
        raise SpecError([spec.problem(("metric", "function"), error.message, error.hint)]) from None
    return placed


def with_own_metric(
    spec: SweepSpec, data: DataSpec, function: str | None, baseline: Baseline, tokens: TokenizedData, tokenizer: Any
) -> Baseline:
    """Return the baseline with the metric that the user's function computes of guessing. A scorer is called for one answer.

    Raises SpecError if a function fails, or returns something else than a finite number.
    """
    labelled = tokens.validation.labels is not None
    answering = None if labelled or (function, data.scorer) == (None, None) else task_of(spec.task).answering(data, tokenizer)
    key = ("data", "scorer")
    try:
        if data.scorer is not None and answering is not None:
            scored_guess(data.scorer, tokens, answering)
        key = ("metric", "function")
        guessed = None if function is None else judged_guess(function, tokens, answering)
    except UserError as error:
        raise SpecError([spec.problem(key, error.message, error.hint)]) from None
    return baseline if guessed is None else replace(baseline, metrics={**baseline.metrics, spec.metric.name: guessed})
