"""What the search believes: how good a configuration would be at full fidelity, and what it costs.

Both models are fitted to the record alone and rebuilt from it:

- `Surrogate`: a Gaussian process over the space and the fidelity, sizes on their logarithm (multi-fidelity Bayesian
  optimization; freeze–thaw, Swersky et al., 2014, for the joint view of unfinished curves). It sees the value of every
  trial at every level it reached, and is asked for the value at full fidelity;
- `CostModel`: GPU seconds per unit of fidelity.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from scalesweep.search.encoding import Encoder
from scalesweep.search.history import Seen

MOST = 300  # values that the process is conditioned on
MOST_FITTED = 160  # values that its length scales are fitted to
JITTER = 1e-6
EXPECTED_SD = 0.05  # of a trial that is taken to end as expected


class BayesianLinear:
    """Linear regression with a normal prior on the weights, and a noise level with a prior of its own."""

    def __init__(self, mean: np.ndarray, sd: np.ndarray, noise: float, weight: float = 4.0) -> None:
        """`noise` is the standard deviation believed beforehand, worth `weight` observations."""
        self.mean, self.precision = mean, 1.0 / sd**2
        self.noise2, self.weight = noise**2, weight

    def fit(self, features: np.ndarray, target: np.ndarray) -> BayesianLinear:
        prior = self.mean
        for _ in range(3):  # weights given the noise, noise given the weights
            a = features.T @ features / self.noise2 + np.diag(self.precision)
            self.mean = np.linalg.solve(a, features.T @ target / self.noise2 + self.precision * prior)
            residual = target - features @ self.mean
            self.noise2 = (self.weight * self.noise2 + float(residual @ residual)) / (self.weight + len(target))
        return self


class CostModel:
    """GPU seconds per unit of fidelity, log-linear in size, GPU count and the words of the space.

    Sizes are believed beforehand to cost in proportion to their parameters; how much, only trials that were paid for tell.
    """

    def __init__(self, encoder: Encoder, size_range: float) -> None:
        """`size_range` is the logarithm of the largest over the smallest size's parameters."""
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
        """Natural logarithm of the GPU seconds of a unit of fidelity at each place of the cube."""
        return self._row(units) @ self.model.mean


def normal_scores(loss: np.ndarray) -> np.ndarray:
    """Losses as the Gaussian process sees them: the normal quantiles of their ranks (a Gaussian copula, as in Salinas et al.,
    2020). Order is what a search needs, and no divergence, plateau or heavy tail bends the model. NaN ranks last."""
    ranks = rankdata(np.where(np.isfinite(loss), loss, np.inf))
    return np.asarray(norm.ppf((ranks - 0.5) / len(loss)))


class Surrogate:
    """The Gaussian process. Inputs are features and, last, the level on [0, 1]; losses are normal scores."""

    def __init__(self, inputs: np.ndarray, target: np.ndarray, theta: np.ndarray, noise: np.ndarray | float = 0.0) -> None:
        """Condition on values. `theta` are fitted length scales (log); `noise` is a standard deviation besides theirs."""
        self.mean = float(np.mean(target))
        self.theta = theta
        self.kernel = _kernel(inputs.shape[1])
        self.kernel.theta = theta
        self.inputs, self.target = inputs, target
        self.noise = np.broadcast_to(noise, len(target))
        covariance = self.kernel(inputs)
        covariance[np.diag_indices(len(target))] += self.noise**2 + JITTER
        self.factor = cholesky(covariance, lower=True, check_finite=False)
        self.weights = cho_solve((self.factor, True), target - self.mean, check_finite=False)

    def given(self, inputs: np.ndarray, loss: np.ndarray) -> Surrogate:
        """The same process with further values, at the same length scales."""
        noise = np.concatenate([self.noise, np.full(len(loss), EXPECTED_SD)])
        return Surrogate(np.vstack([self.inputs, inputs]), np.concatenate([self.target, loss]), self.theta, noise)

    def expected(self, inputs: np.ndarray) -> np.ndarray:
        """Mean of the loss."""
        return np.asarray(self.kernel(inputs, self.inputs) @ self.weights + self.mean)

    def predict(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the loss, the noise of evaluations left out."""
        across = self.kernel(inputs, self.inputs)
        known = solve_triangular(self.factor, across.T, lower=True, check_finite=False)
        variance = math.exp(self.theta[0]) - np.einsum("ij,ij->j", known, known)
        return np.asarray(across @ self.weights + self.mean), np.sqrt(np.maximum(variance, 1e-9))


def _kernel(width: int) -> Any:
    smooth = Matern(length_scale=np.full(width, 1.5), length_scale_bounds=(0.05, 50.0), nu=2.5)
    return ConstantKernel(1.0, (0.02, 50.0)) * smooth + WhiteKernel(0.01, (1e-4, 0.5))


def fit_theta(inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Length scales by penalized likelihood, as logarithms in the kernel's order.

    A log-normal prior whose median grows with the dimension (Hvarfner et al., 2024) keeps a dozen trials in a dozen
    dimensions from being taken for structure. The level's is narrower: few trials go far and those were chosen, so the
    likelihood alone takes early values for final ones.
    """
    width = inputs.shape[1]
    middle, spread = np.full(width, math.log(0.5) + 0.5 * math.log(width)), np.ones(width)
    middle[-1], spread[-1] = 0.0, 0.3

    def penalized(objective: Any, start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
        def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
            loss, slope = objective(theta, eval_gradient=True)
            offset = np.concatenate([[theta[0] / 2], (theta[1:-1] - middle) / spread, [(theta[-1] - math.log(0.01)) / 2]])
            scale = np.concatenate([[2.0], spread, [2.0]])
            return loss + 0.5 * float(offset @ offset), slope + offset / scale

        found = minimize(value, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 30})
        return found.x, found.fun

    process = GaussianProcessRegressor(_kernel(width), alpha=JITTER, optimizer=penalized)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(inputs, target - np.mean(target))
    return np.asarray(process.kernel_.theta)


def chosen(target: np.ndarray, most: int) -> np.ndarray:
    """Which values a model is conditioned on where there are more than `most`: the best half of them, and an even selection
    of the others, so that it knows the valleys well and the hills at all."""
    if len(target) <= most:
        return np.arange(len(target))
    order = np.argsort(target, kind="stable")
    best, rest = order[: most // 2], order[most // 2 :]
    return np.sort(np.concatenate([best, rest[np.linspace(0, len(rest) - 1, most - len(best)).astype(int)]]))
