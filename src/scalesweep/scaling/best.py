"""The best of a cell's trials, and how surely it is known.

The best of n noisy values is optimistic (the winner's curse). With the noise of a value known, from seeds or from the validation
rows, the mean optimism is subtracted; `best_of` says how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scalesweep.scaling.points import Cell, Points, Trial

DRAWS = 400  # of the noise, for the winner's curse
FREEDOM = 10.0  # most degrees of freedom that the trials within the cells count as, because they don't show a law's misfit
STATED = 30.0  # degrees of freedom of noise that a table or a record states
OF_GAP = 0.7  # degrees of freedom of a gap: exponential, it tells a variance less surely than a normal deviate
OF_NOISE = 0.2  # of the noise's variance is in the gaps too: half the mean squared gap of the two least of 8 normal numbers
SPACED = 3  # trials of a cell, with fewer the search's scatter can't be told


def cell_of(axes: Mapping[str, float], trials: Sequence[Trial]) -> Cell:
    """A cell with its best trial, corrected for the winner's curse where the noise is known."""
    ordered = tuple(sorted(trials, key=lambda trial: trial.log_value))
    values = np.array([trial.log_value for trial in ordered])
    noise = np.array([math.nan if trial.noise is None else trial.noise for trial in ordered])
    if not np.isfinite(noise).all():
        return Cell(axes, ordered, float(values[0]), 0.0)
    return Cell(axes, ordered, *best_of(values, noise))


def best_of(values: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """The true value of the trial that looks best, and the standard deviation of that estimate.

    The optimism is estimated by a parametric bootstrap: the trials' values, drawn together by as much as the noise has spread
    them, stand for the truth; noise is added anew, the best is chosen, and compared with its truth.

    Args:
        values: observed values of a cell's trials, lower is better, (trials,).
        noise: their standard deviations, (trials,).
    """
    if len(values) == 1 or not noise.any():
        return float(values.min()), float(noise[np.argmin(values)])
    near = values <= values.min() + 4 * noise.max() + 1e-12  # others can't look best
    told = values[near]
    middle, spread = told.mean(), max(float(told.var(ddof=1)) if len(told) > 1 else 0.0, 1e-300)
    shrink = math.sqrt(max(0.0, 1 - float((noise[near] ** 2).mean()) / spread))
    truth = middle + shrink * (told - middle)
    drawn = truth + noise[near] * np.random.default_rng(0).standard_normal((DRAWS, len(told)))
    chosen = drawn.argmin(axis=1)
    gap = truth[chosen] - drawn[np.arange(DRAWS), chosen]  # of the truth over what is seen
    return float(values.min() + gap.mean()), float(gap.std())


def scatter(gaps: np.ndarray, trials: np.ndarray, errors: np.ndarray, noise_freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """The standard deviation of a cell's ln(value) by noise and search, and its degrees of freedom, for many sets of cells.

    The gap between a cell's best trial and the next estimates the search's part: the least of n exponential gaps is as uncertain as
    (n − 1)/n of the mean distance to the second. The degrees of freedom are Satterthwaite's (1946).

    Args:
        gaps: between the two best trials of each cell, (…, cells with gaps).
        trials: of these cells, (cells with gaps,).
        errors: standard deviations by the metric's noise, (…, cells).
        noise_freedom: degrees of freedom of the noise.
    """
    none = np.zeros(np.broadcast_shapes(gaps.shape[:-1], errors.shape[:-1]))
    search = ((gaps * (trials - 1) / trials) ** 2).mean(axis=-1) / 2 if gaps.shape[-1] else none
    noise = (errors**2).mean(axis=-1) if errors.shape[-1] else none
    search = np.maximum(search - OF_NOISE * noise, 0.0)
    total = search + noise
    doubt = search**2 / max(OF_GAP * gaps.shape[-1], 1.0) + noise**2 / max(noise_freedom, 1.0)
    freedom = np.where(total > 0, total**2 / np.maximum(doubt, 1e-300), 0.0)
    return np.sqrt(total), np.minimum(freedom, FREEDOM)


def with_scatter(points: Points, noise_freedom: float) -> Points:
    """The points with the scatter of a cell's value by noise and search."""
    several = [cell for cell in points.cells if len(cell.trials) >= SPACED]
    gaps = np.array([cell.trials[1].log_value - cell.trials[0].log_value for cell in several])
    errors = np.array([cell.error for cell in points.cells if cell.error > 0])
    spread, freedom = scatter(gaps, np.array([len(cell.trials) for cell in several]), errors, noise_freedom)
    return replace(points, scatter=float(spread), freedom=float(freedom)) if spread > 0 else points
