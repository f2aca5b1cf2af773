"""Who may pass a rung: asynchronous successive halving (Li et al., 2018) as a pure function.

Values are "higher is better" here; the caller negates a metric that is minimized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Action = Literal["continue", "stop", "complete"]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial after a report. `rung` is the rung (1 is the grace period) it was judged at, if any."""

    action: Action
    rung: int | None = None
    cutoff: float | None = None


def rung_count(levels: Sequence[float], max_t: float) -> int:
    """Rungs of a sweep, the end included: `max_t` is the last rung whether or not the halving sequence meets it."""
    return len(levels) if levels and levels[-1] >= max_t else len(levels) + 1


def judge(
    levels: Sequence[float],
    recorded: Sequence[Mapping[str, float]],
    reduction_factor: float,
    max_t: float,
    trial: str,
    fidelity: float,
    value: float,
) -> Verdict:
    """Plain ASHA, deciding as Ray's `ASHAScheduler` does on the same reports.

    A trial is judged at the highest rung that it has reached and was not judged at before. It stops there if its value is
    below the (1 − 1/reduction_factor) quantile of those recorded at that rung so far; the first to arrive always passes.

    Args:
        levels: fidelity of each rung, ascending.
        recorded: values recorded at each rung so far, by trial.
        fidelity: what the trial has reached.
        value: its metric there; higher is better.
    """
    if fidelity >= max_t:
        return Verdict("complete", rung_count(levels, max_t))
    for index in range(len(levels) - 1, -1, -1):
        if fidelity < levels[index] or trial in recorded[index]:
            continue
        if not recorded[index]:
            return Verdict("continue", index + 1)
        cutoff = float(np.nanpercentile(list(recorded[index].values()), (1 - 1 / reduction_factor) * 100))
        return Verdict("stop" if value < cutoff else "continue", index + 1, cutoff)
    return Verdict("continue")


class Rungs:
    """The values recorded at each rung: the state that `judge` reads, rebuilt from the record by replaying its reports."""

    def __init__(self, levels: Sequence[float], reduction_factor: float, max_t: float) -> None:
        self.levels = list(levels)
        self.reduction_factor = reduction_factor
        self.max_t = max_t
        self.recorded: list[dict[str, float]] = [{} for _ in self.levels]

    def report(self, trial: str, fidelity: float, value: float) -> Verdict:
        """Judge a report and remember its value at the rung it was judged at."""
        verdict = judge(self.levels, self.recorded, self.reduction_factor, self.max_t, trial, fidelity, value)
        if verdict.rung is not None and verdict.rung <= len(self.levels) and verdict.action != "complete":
            self.recorded[verdict.rung - 1][trial] = value
        return verdict
