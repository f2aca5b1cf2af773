"""Points of a scaling law: the best trials per cell of size, data and compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalesweep.errors import counted
from scalesweep.scaling.sizes import Counting

AXES = ("n_params", "tokens", "examples", "flops")
VARIES = 1.1  # the largest ÷ the smallest on an axis that varies
TOGETHER = 0.999  # correlation of ln(size) and ln(data), from which on their effects can't be told apart


@dataclass(frozen=True)
class Trial:
    """A configuration in a cell. `log_value` is the mean of ln(loss or error) over its seeds."""

    log_value: float
    seeds: int
    settings: Mapping[str, Any]
    gpu_seconds: float | None = None
    noise: float | None = None  # standard deviation of `log_value`, where its own is known


@dataclass(frozen=True)
class Cell:
    """Trials of one size, data and compute.

    Attributes:
        axes: size, data and compute by name, those that are known.
        trials: best first.
        log_value: of the best, corrected for the winner's curse.
        error: standard deviation of `log_value` by the metric's noise.
    """

    axes: Mapping[str, float]
    trials: tuple[Trial, ...]
    log_value: float
    error: float

    @property
    def observed(self) -> float:
        """ln of the best trial's value as observed."""
        return self.trials[0].log_value


@dataclass(frozen=True)
class Points:
    """The points that laws are fitted to.

    Attributes:
        source: the file, or the run folders.
        metric: its name. `errors`: it is an accuracy, and the laws describe 1 − it; or an error rate.
        maximize: a value is 1 − exp(log_value).
        noise: standard deviation of ln(value) of one run; None where nothing tells it.
        scatter: standard deviation of a cell's ln(value) by noise and search; None without cells of several trials.
        freedom: degrees of freedom of `scatter`.
        counting: what `n_params` counts, as of `sizes.py`; of a table, whatever its column does.
    """

    source: str
    metric: str
    maximize: bool
    cells: tuple[Cell, ...]
    noise: float | None = None
    scatter: float | None = None
    freedom: float = 0.0
    notes: tuple[str, ...] = field(default=())
    counting: Counting = "total"  # of `n_params`
    unfinished: int = 0  # cells whose best trial was still improving at its end

    @property
    def bounded(self) -> bool:
        """Whether the values are error rates, or accuracies, so that the law should stay between 0 and 1."""
        rate = self.maximize or "error" in self.metric
        return rate and all(cell.observed <= 0 for cell in self.cells)

    @property
    def log_y(self) -> np.ndarray:
        return np.array([cell.log_value for cell in self.cells])

    def axis(self, name: str) -> np.ndarray:
        """The cells' values on an axis; NaN where unknown."""
        return np.array([cell.axes.get(name, math.nan) for cell in self.cells])

    def varied(self) -> list[str]:
        """The axes that all cells have and that vary. Runs of as many steps differ a little in tokens; that is no variation."""
        ranges = {name: self.axis(name) for name in AXES}
        return [name for name, axis in ranges.items() if np.isfinite(axis).all() and axis.max() > VARIES * axis.min()]

    @property
    def data(self) -> str | None:
        """The axis of data: tokens, or examples where tokens do not vary."""
        varied = self.varied()
        return next((name for name in ("tokens", "examples") if name in varied), None)

    @property
    def crossed(self) -> bool:
        """Whether size and data vary apart: several amounts of data at a size, and several sizes at an amount."""
        if self.data is None or "n_params" not in self.varied():
            return False
        pairs = np.log(np.stack([self.axis("n_params"), self.axis(self.data)], axis=-1))
        return bool(abs(np.corrcoef(pairs.T)[0, 1]) < TOGETHER)

    @property
    def in_proportion(self) -> bool:
        """Whether every cell has as many tokens per example: as many passes over its train split."""
        ratio = self.axis("tokens") / self.axis("examples")
        return bool(np.isfinite(ratio).all() and ratio.max() <= VARIES * ratio.min())

    def place(self, at: Mapping[str, float]) -> dict[str, float]:
        """A place with the amount of data in both units, where tokens and examples of the points are in proportion."""
        known = [name for name in ("tokens", "examples") if name in at]
        if len(known) == 1 and self.in_proportion:
            per_example = float(np.median(self.axis("tokens") / self.axis("examples")))
            if "tokens" in at:
                return {**at, "examples": at["tokens"] / per_example}
            return {**at, "tokens": at["examples"] * per_example}
        return dict(at)

    def on_selection(self) -> list[str]:
        """Remarks on the best of several trials: the optimism that was subtracted, or that nothing tells it."""
        several = [cell for cell in self.cells if len(cell.trials) > 1]
        if not several:
            return []
        if not any(cell.error for cell in several):
            most = max(len(cell.trials) for cell in several)
            return [
                f"Nothing tells the noise of {self.metric}, so the best of up to {most} trials is taken as it looks, which is optimistic. Two "
                "seeds of a few configurations would tell it."
            ]
        gain = 100 * float(np.mean([cell.log_value - cell.observed for cell in several]))
        return [f"The best of several noisy trials looks better than it is: {gain:.2g} % in the mean, which is subtracted."]

    def shown(self, log_value: float | np.ndarray) -> Any:
        """A value in the metric's own direction."""
        value = np.exp(log_value)
        return 1 - value if self.maximize else value


def frontier(points: Points) -> Points:
    """The cells that no cell of less or equal compute beats, for laws in `flops`."""
    kept, best = [], math.inf
    for cell in sorted(points.cells, key=lambda cell: (cell.axes["flops"], cell.log_value)):
        if cell.log_value < best:
            kept.append(cell)
            best = cell.log_value
    left_out = len(points.cells) - len(kept)
    note = (f"left out, because cells of less compute are better: {counted(left_out, 'cell')}",) if left_out else ()
    return replace(points, cells=tuple(kept), notes=(*points.notes, *note))
