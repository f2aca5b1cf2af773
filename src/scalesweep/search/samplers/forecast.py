"""The sampler `forecast`: half of the proposals spread evenly over the space, half where the forecasts promise most.

The second half comes from a Gaussian process over the settings, fitted to the ranks of all trials' expected losses at `max_t`
(`outlook.py`). So a trial of a small size that stopped at its first rung informs the learning rate of a large one, as far as the
two are correlated in the record. The proposal is the candidate with the highest expected improvement.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import norm, qmc

from scalesweep.record import State
from scalesweep.search.forecast import Forecast, as_rows
from scalesweep.search.history import Snapshot
from scalesweep.search.samplers import Ask, BaseSampler
from scalesweep.search.surrogate import CostModel, Surrogate, chosen, fit_theta, log_improvement, normal_scores

EVEN_SHARE = 0.5  # of the proposals
SPREAD, LOCAL = 500, 500  # candidates over the whole space, and near the best trials
TOP = 10  # best trials with candidates near them
STEPS = (0.02, 0.05, 0.15)  # distances of candidates from the best trials, on the unit interval
ANEW, OTHER_SIZE = 0.15, 0.5  # probability that a candidate near a trial has another word; another size or GPU count
KEPT = 0.3  # probability that a candidate near a trial has the same number
SAME = 1e-9  # distance on an axis below which two values are equal
PRIOR_SD = 0.15  # of a user's prior on a number, on the unit interval of its range
PRIOR_FLOOR = -3.0  # lowest log density relative to the peak of a prior, so that nothing is ruled out
PRIOR_WEIGHT = 10.0  # weight of a prior, in trials


class Sampler(BaseSampler):
    """Proposals from the forecasts of the record. They depend on nothing else, so a resumed sweep proposes the same."""

    past_in_study = False  # the outlook holds the trials of a warm start

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.history, self.encoder = self.outlook.history, self.outlook.encoder
        known = [self.n_params[size.name] for size in self.spec.sizes() if size.name in self.n_params]
        self.size_range = math.log(max(known) / min(known)) if len(known) > 1 else 0.0
        # Trials that differ only on an axis of infinite distance train the same.
        without = self.outlook.without
        self._same = np.array([np.inf if column.name in without else SAME for column in self.encoder.columns])
        self._theta: tuple[Snapshot, np.ndarray] | None = None  # and what it was fitted to

    def choose(self, ask: Ask) -> dict[str, Any] | None:
        """Parameters of the next trial; None if nothing allowed is left within the budget."""
        rng = np.random.default_rng([self.spec.search.seed, ask.number])
        even = self.history.judged < max(3, self.spec.search.n_startup_trials) or rng.random() < EVEN_SHARE
        units = self._spread_evenly(ask.number, rng) if even else self._candidates(rng)
        score = -np.arange(len(units), dtype=float) if even else self._improvement(units, ask)
        if math.isfinite(ask.left):
            costs = CostModel(self.encoder, self.size_range).fit(list(self.history.seen.values()))
            if costs.known:
                most = math.log(ask.left) if ask.left > 0 else -math.inf
                score[costs.log_cost(units) + math.log(self.history.levels[-1]) > most] = -math.inf
        for place in np.argsort(-score, kind="stable"):
            if score[place] == -math.inf:
                break
            params = self.encoder.params(units[place])
            if ask.num_gpus and params.get("num_gpus", None) not in (None, *ask.num_gpus):
                continue
            apart = np.abs(self.history.tried - self.encoder.units(params))
            if not (apart <= self._same).all(axis=1).any() and ask.allowed(params):
                return params
        return None

    def _spread_evenly(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """A point of a Sobol sequence, then random ones for where it can't run. Of the first trials, every other one is near the
        user's priors, and the very first is exactly at them."""
        axes = len(self.encoder.columns)
        sobol = qmc.Sobol(axes, seed=np.random.default_rng([self.spec.search.seed, 1]))
        if number:
            sobol.fast_forward(number)
        units = np.vstack([sobol.random(1), rng.random((200, axes))])
        if number % 2 == 0 and number < 2 * PRIOR_WEIGHT:
            for axis, column in enumerate(self.encoder.columns):
                if column.parameter.prior is None:
                    continue
                centre = column.unit(column.parameter.prior)
                near = (
                    np.full(len(units), centre) if column.words or number == 0 else centre + PRIOR_SD * norm.ppf(units[:, axis])
                )
                units[:, axis] = near.clip(0.0, 1.0)
        return units

    def _candidates(self, rng: np.random.Generator) -> np.ndarray:
        """Candidate places in the cube: over all of it, and near the best trials, with their size and with others."""
        axes, expected = len(self.encoder.columns), self.outlook.expected()
        judged = [trial for trial in self.history.seen.values() if trial.values]
        best = sorted(judged, key=lambda trial: (expected[trial.name].mean, trial.name))[:TOP]
        near = np.array([trial.units for trial in best])[rng.integers(len(best), size=LOCAL)]
        moved = near + rng.choice(STEPS, size=(LOCAL, 1)) * rng.standard_normal(near.shape)
        moved = np.where(moved < 0, -moved, np.where(moved > 1, 2 - moved, moved)).clip(0, 1)
        for place, column in enumerate(self.encoder.columns):
            if column.choices is not None:
                anew = rng.random(LOCAL) < (OTHER_SIZE if column.name in ("model_size", "num_gpus") else ANEW)
                moved[:, place] = np.where(anew, rng.random(LOCAL), near[:, place])
            else:
                moved[:, place] = np.where(rng.random(LOCAL) < KEPT, near[:, place], moved[:, place])
        return np.vstack([rng.random((SPREAD, axes)), moved])

    def _improvement(self, units: np.ndarray, ask: Ask) -> np.ndarray:
        """The logarithm of the expected improvement of each candidate, with the user's priors, which fade."""
        expected = self.outlook.expected()
        judged = [trial for trial in self.history.seen.values() if trial.values]
        target = normal_scores(np.array([expected[trial.name].mean for trial in judged]))
        rows = chosen(target)
        features = self.outlook.features(np.array([trial.units for trial in judged]))[rows]
        model = Surrogate(features, target[rows], self._fitted_theta())
        # Running trials count as if they had ended as expected. This keeps simultaneous trials apart.
        running = [
            trial.units
            for trial in self.history.seen.values()
            if trial.state is State.RUNNING and not trial.values and trial.name not in ask.paused
        ]
        if running:
            model = model.given(self.outlook.features(np.array(running)))
        own = [score for score, trial in zip(target, judged, strict=True) if not trial.past]
        found = log_improvement(min(own, default=float(target.min())), *model.predict(self.outlook.features(units)))
        return found + PRIOR_WEIGHT / (PRIOR_WEIGHT + self.history.judged) * self._log_prior(units)

    def _fitted_theta(self) -> np.ndarray:
        """The process's parameters, from the forecasts at the last rare refit."""
        snapshot = self.history.rare
        if self._theta is None or self._theta[0] is not snapshot:
            losses = as_rows([values for _, values in snapshot], len(self.history.levels))
            units = np.array([units for units, _ in snapshot])
            features, settings = self.outlook.features(units), self.outlook.settings(units)
            rungs = np.array([len(values) - 1 for _, values in snapshot])
            last = losses[np.arange(len(rungs)), rungs]
            mean, _ = Forecast(losses, settings).at_end(rungs, last, settings)
            target = normal_scores(mean)
            rows = chosen(target, fitting=True)
            self._theta = snapshot, fit_theta(features[rows], target[rows])
        return self._theta[1]

    def _log_prior(self, units: np.ndarray) -> np.ndarray:
        """The log density of the user's priors at each place, relative to the peak (as in πBO, Hvarfner et al., 2022)."""
        total = np.zeros(len(units))
        for axis, column in enumerate(self.encoder.columns):
            if column.parameter.prior is None:
                continue
            centre = column.unit(column.parameter.prior)
            if column.words:
                total += np.where(column.index(units[:, axis]) == column.index(np.array([centre]))[0], 0.0, PRIOR_FLOOR / 2)
            else:
                total += np.maximum(-(((units[:, axis] - centre) / PRIOR_SD) ** 2) / 2, PRIOR_FLOOR)
        return total
