"""Fits of a scaling law: the Huber loss of the residuals of ln(value) (Hoffmann et al., 2022), from a grid of starts, by L-BFGS.

Many fits run at once. From each start, damped Gauss-Newton steps (Levenberg-Marquardt) with Huber weights find a minimum; L-BFGS
ends the search from the best one. Bootstraps and profiles need thousands of fits that begin near a minimum, and use the
Gauss-Newton steps alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from scalesweep.scaling.laws import Law

PUBLISHED_DELTA = 1e-3  # of Hoffmann et al. (2022)
MANY = 8  # points per parameter, from which on that delta is used
SPARE = 3  # points beyond the coefficients; with fewer, an outlier can't be told, and the fit is by least squares
WIDE = 1.0  # a delta that amounts to least squares
EFFICIENT = 1.345  # standard deviations: a Huber loss that keeps 95 % of the efficiency under normal noise (Huber, 1964)
FINALISTS = 5  # starts that are followed to the end


def huber(residuals: np.ndarray, delta: np.ndarray | float) -> np.ndarray:
    """The Huber loss: half the square up to `delta`, linear beyond."""
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


@dataclass(frozen=True)
class Batch:
    """Fits of one law to many sets of points.

    Attributes:
        log_y: ln of the values, (fits, points).
        u: centred ln of size and data, (fits or 1, points, axes).
        weights: of the points, (fits, points).
        delta: of the Huber loss, (fits,); infinite for least squares.
        low, high: bounds of the coefficients, (fits, coefficients).
    """

    law: Law
    log_y: np.ndarray
    u: np.ndarray
    weights: np.ndarray
    delta: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(
        cls, law: Law, log_y: np.ndarray, u: np.ndarray, weights: np.ndarray | None = None, delta: np.ndarray | None = None
    ) -> Batch:
        """A batch with the law's bounds; by default, equal weights and least squares."""
        weights = np.ones_like(log_y) if weights is None else weights
        delta = np.full(len(log_y), np.inf) if delta is None else delta
        return cls(law, log_y, u, weights, delta, *law.bounds(log_y, u))

    def __len__(self) -> int:
        return len(self.log_y)

    def take(self, rows: np.ndarray) -> Batch:
        """The fits with these numbers, which may repeat."""
        u = self.u if len(self.u) == 1 else self.u[rows]
        return replace(
            self,
            log_y=self.log_y[rows],
            u=u,
            weights=self.weights[rows],
            delta=self.delta[rows],
            low=self.low[rows],
            high=self.high[rows],
        )

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        return self.log_y - self.law.log_value(theta, self.u)[0]


@dataclass(frozen=True)
class Pin:
    """A constraint for each fit: a published parameter, or ln of the value at a place, is held near `target`.

    Attributes:
        which: number of the parameter; -1 for the value at `place`. (fits,)
        place: (fits, 1, axes), centred logarithms.
        centre: as for `Law.described`.
        target: (fits,)
        strength: of the pull towards the target, as the curvature of a loss, (fits,).
    """

    which: np.ndarray
    place: np.ndarray
    centre: np.ndarray
    target: np.ndarray
    strength: np.ndarray

    def at(self, law: Law, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pinned numbers, (fits,), and their derivatives, (fits, coefficients)."""
        values, slopes = law.log_value(theta, self.place)
        value, slope = values[:, 0], slopes[:, 0]
        rows = np.flatnonzero(self.which >= 0)
        if len(rows):
            described, by_coefficient = law.described(theta, self.centre)
            value[rows] = described[rows, self.which[rows]]
            slope[rows] = by_coefficient[rows, self.which[rows]]
        return value, slope

    def take(self, rows: np.ndarray) -> Pin:
        return Pin(self.which[rows], self.place[rows], self.centre, self.target[rows], self.strength[rows])


@dataclass
class _State:
    """Everything that a step needs, for the fits that still move."""

    residuals: np.ndarray
    slopes: np.ndarray
    loss: np.ndarray
    total: np.ndarray  # loss and pin
    gap: np.ndarray
    direction: np.ndarray

    def merged(self, other: _State, better: np.ndarray, keep: np.ndarray) -> _State:
        """The fits `keep`, with the numbers of `other` where that is `better`."""
        parts = []
        for old, new in zip(vars(self).values(), vars(other).values(), strict=True):
            parts.append(np.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)[keep])
        return _State(*parts)


def descend(
    batch: Batch, theta: np.ndarray, steps: int, pin: Pin | None = None, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray]:
    """Damped Gauss-Newton steps with Huber weights from `theta`, (fits, coefficients).

    Returns:
        The coefficients, and the weighted sums of Huber losses without the pin: (fits,).
    """
    theta = np.clip(theta, batch.low, batch.high)
    strength = pin.strength if pin is not None else np.zeros(len(batch))
    damping = np.full(len(theta), 1e-3)
    losses = np.zeros(len(theta))
    active = np.arange(len(theta))
    eye = np.eye(theta.shape[1])

    def evaluate(part: Batch, at: np.ndarray) -> _State:
        value, slopes = batch.law.log_value(at, part.u)
        residuals = part.log_y - value
        loss = (part.weights * huber(residuals, part.delta[:, None])).sum(axis=1)
        if pin is None:
            return _State(residuals, slopes, loss, loss, np.zeros(len(at)), np.zeros_like(at))
        held = pin.take(active)
        now, direction = held.at(batch.law, at)
        gap = held.target - now
        return _State(residuals, slopes, loss, loss + 0.5 * strength[active] * gap**2, gap, direction)

    part = batch
    state = evaluate(part, theta)
    losses[:] = state.loss
    for _ in range(steps):
        now = theta[active]
        size = np.maximum(np.abs(state.residuals), 1e-300)
        bent = part.weights * np.minimum(1.0, part.delta[:, None] / size)
        weighted = state.slopes * bent[..., None]
        pull = strength[active]
        gradient = np.matmul(state.residuals[:, None], weighted)[:, 0] + (pull * state.gap)[:, None] * state.direction
        hessian = np.matmul(weighted.transpose(0, 2, 1), state.slopes)
        if pin is not None:
            hessian += pull[:, None, None] * state.direction[:, :, None] * state.direction[:, None, :]
        held = ((now <= part.low) & (gradient < 0)) | ((now >= part.high) & (gradient > 0))
        gradient = np.where(held, 0.0, gradient)
        hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
        diagonal = np.einsum("bpp->bp", hessian)
        scale = diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        system = hessian + np.where(held, 1.0, damping[active, None] * scale)[:, :, None] * eye
        step = np.linalg.solve(system, gradient[..., None])[..., 0]
        tried = np.clip(now + step, part.low, part.high)
        found = evaluate(part, tried)
        better = found.total <= state.total
        gain = np.where(better, state.total - found.total, np.inf)
        theta[active[better]] = tried[better]
        losses[active[better]] = found.loss[better]
        damping[active] = np.clip(np.where(better, damping[active] * 0.2, damping[active] * 6), 1e-9, 1e12)
        keep = ~((better & (gain <= tolerance * found.total + 1e-300)) | (damping[active] >= 1e9))
        state = state.merged(found, better, keep)
        active = active[keep]
        if not len(active):
            break
        part = batch.take(active)
    return theta, losses


def best_fits(batch: Batch, steps: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """The best fit of each set of points from the law's grid of starts, without L-BFGS.

    Returns:
        Coefficients, (fits, coefficients), and sums of Huber losses, (fits,).
    """
    starts = batch.law.starts(batch.log_y, batch.u)
    fits, count, coefficients = starts.shape
    rows = np.arange(fits)
    theta, losses = descend(batch.take(np.repeat(rows, count)), starts.reshape(fits * count, coefficients), 8)
    finalists = min(FINALISTS, count)
    order = np.argsort(losses.reshape(fits, count), axis=1)[:, :finalists]
    first = np.take_along_axis(theta.reshape(fits, count, -1), order[..., None], axis=1)
    theta, losses = descend(batch.take(np.repeat(rows, finalists)), first.reshape(fits * finalists, -1), steps)
    place = rows * finalists + np.argmin(losses.reshape(fits, finalists), axis=1)
    return theta[place], losses[place]


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        batch: the points, as a batch of one fit.
        theta: coefficients, (coefficients,).
        centre: natural logarithms on which the axes are centred, (axes,).
        objective: the weighted sum of Huber losses of the residuals of ln(value).
    """

    batch: Batch
    theta: np.ndarray
    centre: np.ndarray
    objective: float

    @property
    def law(self) -> Law:
        return self.batch.law

    @property
    def delta(self) -> float:
        """The delta of the Huber loss."""
        return float(self.batch.delta[0])

    @property
    def residuals(self) -> np.ndarray:
        """ln(value) − ln(prediction), (points,)."""
        return self.batch.residuals(self.theta[None])[0]

    @property
    def parameters(self) -> dict[str, float]:
        """The published parameters."""
        values, _ = self.law.described(self.theta[None], self.centre)
        return {
            parameter.name: float(np.exp(value) if parameter.logged else value)
            for parameter, value in zip(self.law.parameters, values[0], strict=True)
        }

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The law's value, (places,), at sizes and data `x`, (places, axes)."""
        return np.exp(self.law.log_value(self.theta[None], self.centred(x)[None])[0][0])

    def centred(self, x: np.ndarray) -> np.ndarray:
        return np.log(x) - self.centre


def robust_delta(residuals: np.ndarray, coefficients: int) -> np.ndarray:
    """The delta of the Huber loss for few points: `EFFICIENT` robust standard deviations, (fits,), of residuals (fits, points).

    With the published 1e-3, far below the noise of few points, the fit would minimise absolute residuals, and pass through as many
    points as it has coefficients. With fewer than `SPARE` points beyond the coefficients, it is by least squares.
    """
    points = residuals.shape[1]
    if points < coefficients + SPARE:
        return np.full(len(residuals), WIDE)
    spread = np.median(np.abs(residuals), axis=1) / 0.6745 * np.sqrt(points / (points - coefficients))
    return np.maximum(EFFICIENT * spread, PUBLISHED_DELTA)


def fit(law: Law, x: np.ndarray, y: np.ndarray, delta: float | None = None) -> Fit:
    """Fit a law to points.

    Args:
        x: sizes and data, (points, axes), above 0.
        y: losses or error rates, (points,), above 0.
        delta: of the Huber loss on residuals of ln(y). Default: 1e-3, as published, from `MANY` points per parameter on; for fewer
            points, 1.345 of their standard deviations.
    """
    centre = np.log(x).mean(axis=0)
    batch = Batch.of(law, np.log(y)[None], (np.log(x) - centre)[None])
    coefficients = len(law.parameters)
    if delta is None and len(y) < MANY * coefficients:
        theta, _ = best_fits(batch)
        delta = float(robust_delta(batch.residuals(theta), coefficients)[0])
    batch = replace(batch, delta=np.array([delta or PUBLISHED_DELTA]))
    theta, _ = best_fits(batch)
    return Fit(batch, *_polished(batch, theta[0], centre))


def _polished(batch: Batch, theta: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The end of the search by L-BFGS: coefficients, centre, and the sum of Huber losses."""
    law, delta, weights = batch.law, float(batch.delta[0]), batch.weights[0]
    spread = float(np.abs(batch.residuals(theta[None])).mean())
    scale = 1.0 / (delta * max(delta, spread) * weights.sum())  # L-BFGS stops by absolute gradients

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, slopes = law.log_value(at[None], batch.u)
        residuals = batch.log_y[0] - value[0]
        gradient = -slopes[0].T @ (weights * np.clip(residuals, -delta, delta))
        return float((weights * huber(residuals, delta)).sum()) * scale, gradient * scale

    least = objective(theta)[0]
    bounds = list(zip(batch.low[0], batch.high[0], strict=True))
    options = {"maxiter": 2000, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-10}
    for _ in range(5):  # begun anew, L-BFGS forgets the curvature across the kinks of a small delta
        found = minimize(objective, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        if found.fun >= least * (1 - 1e-12):
            break
        theta, least = found.x, float(found.fun)
    return theta, centre, least / scale
