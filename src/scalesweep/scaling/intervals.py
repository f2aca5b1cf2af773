"""Intervals of parameters and predictions by profile likelihood.

An interval holds every value that the points don't rule out: with the value held there and the other coefficients fitted anew,
the sum of losses rises by less than a limit. This needs no normal distribution of the estimate, so an interval may be lopsided, and
open where the points say nothing (Bates & Watts, 1988, chapter 6). The limit is that of Student's t for the freedom that is left.
For a Huber loss it is scaled by E[ψ²]/E[ψ'] (Huber & Ronchetti, 2009, chapter 13).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import t as student

from scalesweep.scaling.fit import Batch, Fit, Pin, descend

LEVEL = 0.9  # of all intervals
DRAWS = 400  # of the bootstrap
ROUNDS = 14  # of the search for an end
STEPS = 80  # of one fit with a pin, at most
PULL = 100.0  # strength of a pin against the curvature of the profile
CLOSE = 0.02  # relative error of the root of the rise at an end


def variance(batch: Batch, theta: np.ndarray) -> np.ndarray:
    """The variance of a point's residual that the loss's curvature at the minimum stands for, (fits,); NaN without freedom."""
    residuals = batch.residuals(theta)
    points, coefficients = residuals.shape[1], theta.shape[1]
    if points <= coefficients:
        return np.full(len(theta), np.nan)
    delta = batch.delta[:, None]
    bent = np.clip(residuals, -delta, delta)
    straight = np.maximum((np.abs(residuals) <= delta).mean(axis=1), 1 / points)
    few = (
        1 + coefficients / points * (1 - straight) / straight
    )  # Huber's correction for few points (Huber & Ronchetti, section 7.6)
    return (batch.weights * bent**2).mean(axis=1) / straight * few**2 * (points / (points - coefficients))


def quantile(freedom: np.ndarray | float, level: float = LEVEL) -> np.ndarray:
    """Student's t of a two-sided interval."""
    return np.asarray(student.ppf(0.5 + level / 2, freedom))


def profile(
    batch: Batch,
    theta: np.ndarray,
    losses: np.ndarray,
    spread: np.ndarray,
    multiple: np.ndarray,
    which: np.ndarray,
    places: np.ndarray,
    centre: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals of parameters and of ln of predictions.

    Args:
        theta, losses: the best fits, (fits, coefficients) and (fits,).
        spread: the standard deviation of a point, (fits,).
        multiple: standard errors that an interval reaches on each side, (fits,): a quantile of Student's t.
        which, places, centre: as of `Pin`, for each wanted number: (wanted,), (wanted, axes).

    Returns:
        Low and high ends, (fits, wanted) each. Infinite where the points set no limit.
    """
    fits, wanted = len(theta), len(which)
    owner = np.repeat(np.arange(fits), wanted * 2)
    kind = np.tile(np.repeat(np.arange(wanted), 2), fits)
    side = np.tile(np.array([-1.0, 1.0]), fits * wanted)
    pin = Pin(which[kind], places[kind][:, None], centre, np.zeros(len(owner)), np.zeros(len(owner)))
    part = batch.take(owner)
    at, best, aim, unit = theta[owner].copy(), losses[owner], multiple[owner], spread[owner]
    estimate, direction = pin.at(batch.law, at)
    errors = _standard_errors(part, at, direction)
    span = errors * unit * aim
    strength = PULL / np.maximum(errors, 1e-9) ** 2
    inside, root_inside = np.zeros(len(owner)), np.zeros(len(owner))  # distances from the estimate, and roots of the rise
    outside, root_outside = np.full(len(owner), np.inf), np.full(len(owner), np.inf)
    distance = np.clip(span, 1e-9, 2.0)
    open_ended = np.zeros(len(owner), dtype=bool)
    todo = np.arange(len(owner))
    for _ in range(ROUNDS):
        held = Pin(pin.which[todo], pin.place[todo], centre, estimate[todo] + side[todo] * distance[todo], strength[todo])
        moved, loss = descend(part.take(todo), at[todo], STEPS, held, 1e-7)
        reached = (held.at(batch.law, moved)[0] - estimate[todo]) * side[todo]
        root = np.sqrt(np.maximum(2 * (loss - best[todo]), 0.0)) / unit[todo]
        is_in = root < aim[todo]
        stuck = is_in & (reached < 0.5 * distance[todo]) & (reached <= inside[todo] * (1 + 1e-6) + 1e-12)
        rows = todo[is_in & (reached >= inside[todo])]
        inside[rows], root_inside[rows] = reached[is_in & (reached >= inside[todo])], root[is_in & (reached >= inside[todo])]
        at[rows] = moved[is_in & (reached >= inside[todo])]
        out = ~is_in & (reached < outside[todo])
        outside[todo[out]], root_outside[todo[out]] = reached[out], root[out]
        open_ended[todo[stuck]] = True
        close = np.abs(root - aim[todo]) <= CLOSE * aim[todo]
        todo = todo[~(close | stuck)]
        if not len(todo):
            break
        bounded = np.isfinite(outside[todo])
        gap = np.where(bounded, outside[todo] - inside[todo], 0.0)
        share = (aim[todo] - root_inside[todo]) / np.maximum(root_outside[todo] - root_inside[todo], 1e-12)
        between = inside[todo] + gap * np.clip(np.where(bounded, share, 0.5), 0.1, 0.9)
        factor = np.clip(aim[todo] / np.maximum(root_inside[todo], 1e-12) * 1.05, 1.2, 4.0)
        distance[todo] = np.where(bounded, between, np.maximum(inside[todo], distance[todo]) * factor)
    ends = np.where(
        np.isfinite(outside),
        inside
        + np.where(np.isfinite(outside), outside - inside, 0.0)
        * np.clip((aim - root_inside) / np.maximum(root_outside - root_inside, 1e-12), 0, 1),
        np.where(open_ended | (root_inside < (1 - CLOSE) * aim), np.inf, inside),
    )
    ends = (estimate + side * ends).reshape(fits, wanted, 2)
    return ends[..., 0], ends[..., 1]


def _standard_errors(batch: Batch, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Standard errors of numbers with these derivatives by coefficient, for points of variance 1: (fits,)."""
    _, slopes = batch.law.log_value(theta, batch.u)
    hessian = np.matmul((slopes * batch.weights[..., None]).transpose(0, 2, 1), slopes)
    ridge = 1e-9 * np.einsum("bpp->b", hessian)[:, None, None] * np.eye(theta.shape[1])
    solved = np.linalg.solve(hessian + ridge, direction[..., None])[..., 0]
    return np.sqrt(np.maximum((direction * solved).sum(axis=1), 0.0))


def bootstrap(found: Fit, which: np.ndarray, places: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The ends of intervals by a bootstrap of the points, (wanted,) each, for fits to many points.

    Points are drawn with replacement, and the law is fitted to each draw, from the best fit on.

    Args:
        which, places: as of `Pin`, for each wanted number: (wanted,), (wanted, axes).
    """
    points = found.batch.log_y.shape[1]
    drawn = np.random.default_rng(0).multinomial(points, np.full(points, 1 / points), size=DRAWS)
    batch = replace(found.batch.take(np.zeros(DRAWS, dtype=int)), weights=drawn * found.batch.weights)
    theta, _ = descend(batch, np.repeat(found.theta[None], DRAWS, axis=0), 80)
    described, _ = found.law.described(theta, found.centre)
    predicted, _ = found.law.log_value(theta, places[None])
    values = np.where(which >= 0, described[:, np.maximum(which, 0)], predicted)
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high
