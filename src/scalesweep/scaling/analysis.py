"""The whole analysis of points: laws fitted, compared and combined, with intervals and predictions. `analyse` returns the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalesweep.errors import UserError, did_you_mean
from scalesweep.scaling.fit import MANY, Fit, fit
from scalesweep.scaling.intervals import LEVEL, bootstrap, profile, quantile, variance
from scalesweep.scaling.laws import LAWS, Law
from scalesweep.scaling.mixture import mixture
from scalesweep.scaling.points import Points, frontier
from scalesweep.scaling.refusal import Refusal, refusal
from scalesweep.scaling.trends import Trend, trends

SURE = 0.95  # weight of a law that stands alone
LEAST_SPREAD = 1e-6  # of ln(value); rounding in a table is more


@dataclass(frozen=True)
class Range:
    """An estimate with its 90 % interval. An end is None where the points set no limit."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FittedLaw:
    """One law's fit.

    Attributes:
        name: of the law. `axes`: names of the axes that it uses, in its order.
        fit: the fit. `spread`: standard deviation of a point's ln(value) around the law; `freedom`: its degrees of freedom.
        parameters: the published ones with intervals.
        held_out: root mean square error of ln(value) at the largest size, from a fit without it; None where too few points are left.
        score: mean log density of these values under the predictions; None likewise.
        weight: share in the combination.
    """

    name: str
    axes: tuple[str, ...]
    fit: Fit
    spread: float
    freedom: float
    parameters: Mapping[str, Range]
    deviation: float  # standard deviation of the residuals, outliers included
    held_out: float | None = None
    score: float | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """A prediction at a place.

    Attributes:
        at: size and data by axis.
        law: interval of the law's value. `run`: interval of the best of a search there, noise included.
    """

    at: Mapping[str, float]
    law: Range
    run: Range
    beyond: float  # the largest of the place ÷ the largest of the points, over the axes


@dataclass(frozen=True)
class Analysis:
    """Everything that the terminal, JSON, plots and pages show of a scaling fit."""

    points: Points
    laws: tuple[FittedLaw, ...]  # the heaviest first; empty where `refused`
    predictions: tuple[Prediction, ...] = ()
    trends: tuple[Trend, ...] = ()
    refused: Refusal | None = None
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> FittedLaw:
        return self.laws[0]

    @property
    def combined(self) -> bool:
        """Whether predictions combine several laws, because the points can't choose."""
        return self.laws[0].weight < SURE


def analyse(
    points: Points, law: str | None = None, at: Sequence[Mapping[str, float]] = (), delta: float | None = None
) -> Analysis:
    """Fit laws to points and predict.

    Args:
        law: a name of `LAWS`; default: every law that suits the points, compared by predicting the held-out largest size.
        at: places to predict, by axis.
        delta: of the Huber loss; default: as in `fit`.

    Raises:
        UserError: the law is unknown or needs an axis that the points lack, or a place lacks an axis.
    """
    if law is not None and law not in LAWS:
        raise UserError(f"there is no law {law!r}", did_you_mean(law, LAWS))
    candidates = [law] if law else candidates_of(points)
    chosen = [(name, *form_of(name, points)) for name in candidates]
    if chosen[0][2] == ("flops",):
        points = frontier(points)
    why = refusal(points, chosen)
    if why is not None:
        return Analysis(points, (), refused=why, notes=points.notes)
    needed = 0 if points.scatter is not None else 1
    carried = [one for one in chosen if len(one[1].parameters) + needed <= len(points.cells)]
    fitted = [fitted_law(points, name, form, axes, delta) for name, form, axes in carried]
    laws = tuple(sorted(weighted(fitted), key=lambda one: -one.weight))
    predictions = tuple(predict(points, laws, [points.place(place) for place in at]))
    return Analysis(points, laws, predictions, tuple(trends(points)), notes=(*points.notes, *points.on_selection()))


def candidates_of(points: Points) -> list[str]:
    """The laws that suit the points: their axes vary, and the metric is bounded or not."""
    if points.bounded:
        return ["bounded"]
    if points.crossed:
        return ["hoffmann", "multiplicative"]
    return ["saturating", "rectified"] if points.varied() == [points.data] else ["saturating"]


def form_of(name: str, points: Points) -> tuple[Law, tuple[str, ...]]:
    """The law's form for the axes that vary, and the axes' names."""
    varied, data = points.varied(), points.data
    forms = {form.axes: form for form in LAWS[name]}
    if 2 in forms and (points.crossed or 1 not in forms):
        return forms[2], ("n_params", data or "tokens")
    if name == "rectified":
        return forms[1], (data or "tokens",)
    return forms[1], (
        "flops" if "flops" in varied and points.crossed else varied[0] if varied else next(iter(points.cells[0].axes)),
    )


def fitted_law(points: Points, name: str, law: Law, axes: tuple[str, ...], delta: float | None = None) -> FittedLaw:
    """A law's fit to all points, with intervals of its parameters and its error at the held-out largest size."""
    x, log_y = np.stack([points.axis(axis) for axis in axes], axis=-1), points.log_y
    found = fit(law, x, np.exp(log_y), delta)
    spread, freedom = spread_of(points, found)
    names = [parameter.name for parameter in law.parameters]
    wanted = np.arange(len(names)), np.zeros((len(names), law.axes))
    low, high = ends(found, spread, freedom, *wanted)
    floor = names.index("E") if "E" in names else None
    if floor is not None and not math.isfinite(high[floor]):
        high[floor] = found.batch.high[0, floor]  # a floor is at most the least value
    logged = np.array([parameter.logged for parameter in law.parameters])
    low, high = np.where(logged, np.exp(low), low), np.where(logged, np.exp(np.minimum(high, 700)), high)
    parameters = {name: Range(found.parameters[name], _end(low[i]), _end(high[i])) for i, name in enumerate(names)}
    held_out, score = held_out_error(points, law, x, log_y, delta)
    deviation = math.sqrt(float(found.residuals @ found.residuals) / max(len(x) - len(names), 1))
    return FittedLaw(name, axes, found, spread, freedom, parameters, deviation, held_out, score)


def _end(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value < 1e300 else None


def spread_of(points: Points, found: Fit) -> tuple[float, float]:
    """The standard deviation of a point around the law, and its degrees of freedom.

    Residuals and the scatter within the cells both estimate it; they are pooled by their degrees of freedom (as moderated variances
    are: Smyth, 2004).
    """
    free = len(points.cells) - len(found.theta)
    own = float(variance(found.batch, found.theta[None])[0]) if free > 0 else 0.0
    prior = points.freedom if points.scatter is not None else 0.0
    freedom = max(free, 0) + prior
    if freedom == 0:
        return math.nan, 0.0
    pooled = (max(free, 0) * own + prior * (points.scatter or 0.0) ** 2) / freedom
    return max(math.sqrt(pooled), LEAST_SPREAD), freedom


def ends(found: Fit, spread: float, freedom: float, which: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals of parameters and of ln of predictions, (wanted,) each. `which` and `places`: as for `Pin`."""
    points, coefficients = found.batch.log_y.shape[1], len(found.theta)
    if points >= MANY * coefficients:
        return bootstrap(found, which, places)
    low, high = profile(
        found.batch,
        found.theta[None],
        np.array([found.objective]),
        np.array([spread]),
        quantile(freedom)[None],
        which,
        places,
        found.centre,
    )
    return low[0], high[0]


def held_out_error(
    points: Points, law: Law, x: np.ndarray, log_y: np.ndarray, delta: float | None
) -> tuple[float | None, float | None]:
    """The error at the largest size, or the largest data or compute of a law in one axis, of a fit to the others; and the mean log
    density of what was held out."""
    last = x[:, 0] >= x[:, 0].max() * (1 - 1e-6)
    rest, coefficients = ~last, len(law.parameters)
    if len(set(x[rest, 0])) < 2 or rest.sum() < coefficients or (rest.sum() == coefficients and points.scatter is None):
        return None, None
    found = fit(law, x[rest], np.exp(log_y[rest]), delta)
    part = replace(points, cells=tuple(cell for cell, out in zip(points.cells, last, strict=True) if not out))
    spread, _ = spread_of(part, found)
    value, slopes = law.log_value(found.theta[None], found.centred(x[last])[None])
    errors = log_y[last] - value[0]
    _, own = law.log_value(found.theta[None], found.batch.u)
    information = own[0].T @ own[0] + 1e-9 * np.trace(own[0].T @ own[0]) * np.eye(coefficients)
    doubt = 1 + np.einsum("ni,ij,nj->n", slopes[0], np.linalg.inv(information), slopes[0])
    density = -0.5 * np.log(2 * np.pi * spread**2 * doubt) - 0.5 * errors**2 / (spread**2 * doubt)
    return float(np.sqrt(np.mean(errors**2))), float(density.mean())


def weighted(fitted: Sequence[FittedLaw]) -> list[FittedLaw]:
    """The laws with their shares: by the log density of what was held out, where that is known, and by Akaike's criterion.

    The values held out have one error of extrapolation in common, so their densities count as one value's, not as many.
    """
    if len(fitted) == 1:
        return [replace(fitted[0], weight=1.0)]
    scores = np.array([-_criterion(one) / 2 for one in fitted])
    if all(one.score is not None for one in fitted):
        scores += np.array([one.score for one in fitted], dtype=float)
    shares = np.exp(scores - scores.max())
    return [replace(one, weight=float(share)) for one, share in zip(fitted, shares / shares.sum(), strict=True)]


def _criterion(one: FittedLaw) -> float:
    """Akaike's criterion for few points (Hurvich & Tsai, 1989), from the sum of losses as a sum of squares."""
    points, coefficients = one.fit.batch.log_y.shape[1], len(one.fit.theta) + 1
    loss = max(one.fit.objective, points * LEAST_SPREAD**2)
    return points * math.log(loss) + 2 * coefficients * points / max(points - coefficients - 1, 1)


def predict(points: Points, laws: Sequence[FittedLaw], places: Sequence[Mapping[str, float]]) -> list[Prediction]:
    """The laws' combined predictions at places.

    Raises:
        UserError: a place lacks an axis.
    """
    if not places:
        return []
    parts: list[list[tuple[float, float, float, float]]] = [[] for _ in places]
    runs: list[list[tuple[float, float, float, float]]] = [[] for _ in places]
    for one in laws:
        for at in places:
            if lacking := [axis for axis in one.axes if axis not in at]:
                known = ",".join(f"{axis}={value:g}" for axis, value in at.items())
                raise UserError(f"--at {known}: {lacking[0]} is missing", f"the law {one.name} needs {' and '.join(one.axes)}")
        u = one.fit.centred(np.array([[at[axis] for axis in one.axes] for at in places], dtype=float))
        middles = one.fit.law.log_value(one.fit.theta[None], u[None])[0][0]
        lows, highs = ends(one.fit, one.spread, one.freedom, np.full(len(places), -1), u)
        reach = float(quantile(one.freedom)) * max(one.spread, one.deviation)
        for number, (middle, low, high) in enumerate(
            zip(map(float, middles), map(float, lows), map(float, highs), strict=True)
        ):
            parts[number].append((one.weight, middle, low, high))
            wide = middle - math.hypot(middle - low, reach), middle + math.hypot(high - middle, reach)
            runs[number].append((one.weight, middle, *wide))
    largest = {axis: float(points.axis(axis).max()) for axis in laws[0].axes}
    return [
        Prediction(
            dict(at),
            _range(points, mixture(of_law, LEVEL)),
            _range(points, mixture(of_run, LEVEL)),
            max(at[axis] / most for axis, most in largest.items()),
        )
        for at, of_law, of_run in zip(places, parts, runs, strict=True)
    ]


def _range(points: Points, ends: tuple[float, float, float]) -> Range:
    middle, low, high = (float(points.shown(end)) for end in ends)
    low, high = (high, low) if points.maximize else (low, high)
    return Range(middle, _end(low), _end(high))
