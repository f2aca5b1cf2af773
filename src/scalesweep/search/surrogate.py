"""The models of the proposals: a configuration's expected loss at full fidelity, and its cost.

- `Surrogate`: a Gaussian process over the space, with sizes on a log scale;
- `CostModel`: GPU seconds per unit of fidelity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import norm, rankdata

from scalesweep.search.encoding import Encoder
from scalesweep.search.history import Seen

MOST = 250  # most values on which the process is conditioned
MOST_FITTED = 120  # most values for fitting its length scales
JITTER = 1e-6
ROOT5 = math.sqrt(5.0)
EXPECTED_SD = 0.05  # of a running trial that is assumed to end as expected


class BayesianLinear:
    """Linear regression with a normal prior on the weights and a prior on the noise."""

    def __init__(self, mean: np.ndarray, sd: np.ndarray, noise: float, weight: float = 4.0) -> None:
        """`noise` is the prior standard deviation of the noise, with the weight of `weight` observations."""
        self.mean, self.precision = mean, 1.0 / sd**2
        self.noise2, self.weight = noise**2, weight

    def fit(self, features: np.ndarray, target: np.ndarray) -> BayesianLinear:
        prior = self.mean
        for _ in range(3):  # alternate between weights given the noise and noise given the weights
            a = features.T @ features / self.noise2 + np.diag(self.precision)
            self.mean = np.linalg.solve(a, features.T @ target / self.noise2 + self.precision * prior)
            residual = target - features @ self.mean
            self.noise2 = (self.weight * self.noise2 + float(residual @ residual)) / (self.weight + len(target))
        return self


class CostModel:
    """GPU seconds per unit of fidelity, log-linear in size, GPU count and the words of the space.

    The prior assumes cost in proportion to the parameter count. The scale comes from the trials alone.
    """

    def __init__(self, encoder: Encoder, size_range: float) -> None:
        """`size_range` is the logarithm of the ratio of the largest to the smallest parameter count."""
        self.encoder = encoder
        width = 1 + encoder.features(np.full((1, len(encoder.columns)), 0.5)).shape[1]
        mean, sd = np.zeros(width), np.full(width, 0.3)
        sd[0] = 30.0
        place = encoder.feature_of("model_size")
        if place is not None and size_range:
            mean[1 + place], sd[1 + place] = size_range, 0.5
        self.model = BayesianLinear(mean, sd, 0.2)
        self.known = False

    def _row(self, units: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(units)), self.encoder.features(units) - 0.5])

    def fit(self, seen: Sequence[Seen]) -> CostModel:
        paid = [trial for trial in seen if trial.fidelity > 0 and trial.gpu_seconds > 0]
        if paid:
            target = np.log([trial.gpu_seconds / trial.fidelity for trial in paid])
            self.model.fit(self._row(np.array([trial.units for trial in paid])), target)
            self.known = True
        return self

    def log_cost(self, units: np.ndarray) -> np.ndarray:
        """The natural logarithm of GPU seconds per unit of fidelity at each place of the cube, float [n]."""
        return self._row(units) @ self.model.mean


def normal_scores(loss: np.ndarray) -> np.ndarray:
    """The normal quantiles of the ranks of losses, the targets of the Gaussian process (a Gaussian copula, as in Salinas et
    al., 2020). A search needs only the order, and divergence, plateaus and heavy tails can't distort the model. NaN ranks last."""
    ranks = rankdata(np.where(np.isfinite(loss), loss, np.inf))
    return np.asarray(norm.ppf((ranks - 0.5) / len(loss)))


class Surrogate:
    """The Gaussian process over features: a smooth part (Matérn 5/2 with a length scale per feature), and noise. Losses are normal
    scores. The parameters `theta` are logarithms: variance of the smooth part, length scales, variance of the noise.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray, theta: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Condition the process on values.

        Args:
            features: [values, features].
            target: normal scores, float [values].
            theta: parameters from `fit_theta`.
            noise: the variance of each value; by default that of `theta`.
        """
        self.mean, self.theta, self.scales = float(np.mean(target)), theta, np.exp(theta[1:-1])
        self.features, self.target = features, target
        self.noise = np.full(len(target), math.exp(theta[-1]) + JITTER) if noise is None else noise
        covariance = self._covariance(features)
        covariance[np.diag_indices(len(target))] += self.noise
        self.factor = cholesky(covariance, lower=True, check_finite=False)
        self.weights = cho_solve((self.factor, True), target - self.mean, check_finite=False)

    def _covariance(self, features: np.ndarray) -> np.ndarray:
        """The covariance of the smooth part at `features` with that at the known values."""
        return math.exp(self.theta[0]) * _matern(_distances(features / self.scales, self.features / self.scales))

    def given(self, features: np.ndarray) -> Surrogate:
        """The process as if the values at further places were known to be the expected ones."""
        return Surrogate(
            np.vstack([self.features, features]),
            np.concatenate([self.target, self._covariance(features) @ self.weights + self.mean]),
            self.theta,
            np.concatenate([self.noise, np.full(len(features), EXPECTED_SD**2)]),
        )

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and standard deviation of the loss at each place, without noise."""
        across = self._covariance(features)
        known = solve_triangular(self.factor, across.T, lower=True, check_finite=False)
        variance = math.exp(self.theta[0]) - np.einsum("ij,ij->j", known, known)
        return np.asarray(across @ self.weights + self.mean), np.sqrt(np.maximum(variance, 1e-9))


def _matern(distance: np.ndarray) -> np.ndarray:
    """The Matérn 5/2 kernel at distances in units of the length scale."""
    far = ROOT5 * distance
    polynomial = far / 3.0
    polynomial += 1.0
    polynomial *= far
    polynomial += 1.0
    np.negative(far, out=far)
    np.exp(far, out=far)
    far *= polynomial
    return np.asarray(far)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances between all rows of `a` and `b`."""
    squared = a @ (-2.0 * b.T)
    squared += (a * a).sum(1)[:, None]
    squared += (b * b).sum(1)
    np.maximum(squared, 0.0, out=squared)
    return np.asarray(np.sqrt(squared, out=squared))


def fit_theta(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Parameters of the process by penalized likelihood; arguments and result as in `Surrogate`.

    A log-normal prior whose median grows with the dimension (Hvarfner et al., 2024) prevents overfitting to a dozen trials in
    a dozen dimensions.
    """
    width = features.shape[1]
    middle = np.log([1.0, *[0.5 * math.sqrt(width + 1)] * width, 0.05])
    spread = np.array([2.0, *[1.0] * width, 1.5])
    bounds = np.log([(0.02, 50.0), *[(0.05, 50.0)] * width, (1e-4, 4.0)])
    start = np.log([1.0, *[1.5] * width, 0.1])
    centred = target - np.mean(target)
    squared = (features[:, None, :] - features[None, :, :]) ** 2

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Penalized negative log likelihood and its gradient (Rasmussen & Williams, 2006, eq. 5.9)."""
        inverse_squares = np.exp(-2 * theta[1:-1])
        far = ROOT5 * np.sqrt(squared @ inverse_squares)
        fade = math.exp(theta[0]) * np.exp(-far)
        smooth = fade * (1 + far + far * far / 3)
        covariance = smooth.copy()
        covariance[np.diag_indices(len(target))] += math.exp(theta[-1]) + JITTER
        factor = cholesky(covariance, lower=True, check_finite=False)
        weights = cho_solve((factor, True), centred, check_finite=False)
        inner = cho_solve((factor, True), np.eye(len(target)), check_finite=False) - np.outer(weights, weights)
        slope = np.empty_like(theta)
        slope[0], slope[-1] = np.sum(inner * smooth), np.trace(inner) * math.exp(theta[-1])
        slope[1:-1] = 5 / 3 * np.tensordot(inner * fade * (1 + far), squared, 2) * inverse_squares
        offset = (theta - middle) / spread
        loss = 0.5 * centred @ weights + np.log(np.diag(factor)).sum() + 0.5 * offset @ offset
        return float(loss), 0.5 * slope + offset / spread

    found = minimize(value, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 30})
    return np.asarray(found.x)


def log_improvement(incumbent: float, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """The logarithm of the expected improvement below `incumbent`."""
    z = (incumbent - mean) / sd
    safe = np.maximum(z, -12.0)  # continued as −z²/2 below
    improvement = sd * (safe * norm.cdf(safe) + norm.pdf(safe))
    return np.asarray(np.log(np.maximum(improvement, 1e-300)) - np.where(z < -12, (z**2 - 144) / 2, 0.0))


def chosen(target: np.ndarray, fitting: bool = False) -> np.ndarray:
    """The indices of the values on which the process is conditioned, or fitted. Of many values, these are the best ones for half
    of the places, and an even selection of the others, so that the model also covers poor regions."""
    most = MOST_FITTED if fitting else MOST
    if len(target) <= most:
        return np.arange(len(target))
    order = np.argsort(target, kind="stable")
    best, rest = order[: most // 2], order[most // 2 :]
    return np.sort(np.concatenate([best, rest[np.linspace(0, len(rest) - 1, most - len(best)).astype(int)]]))
