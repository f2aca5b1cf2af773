"""Proposals and the pick by predicted values at full fidelity.

One model over sizes, hyperparameters and fidelity chooses the next configuration (expected improvement per expected cost), and
the trial to promote while few have run to the end. So a trial of a small size that stopped at its first rung informs the
learning rate of a large size, as far as the two are correlated in the record.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, qmc

from scalesweep.record import Past, State, Trial
from scalesweep.search.encoding import Encoder
from scalesweep.search.history import History, Seen
from scalesweep.search.samplers import Ask, BaseSampler
from scalesweep.search.surrogate import MOST, MOST_FITTED, CostModel, Surrogate, chosen, fit_theta, normal_scores
from scalesweep.spec import SweepSpec, rung_levels
from scalesweep.spec.configurations import without_influence

RANDOM, LOCAL = 500, 500  # candidates from the whole space, and near the best trials
TOP = 10  # best trials with candidates near them
SIZE_WEIGHT = 0.3  # the first trials draw a size in proportion to its parameter count to the power of minus this
STEPS = (0.02, 0.05, 0.15)  # distances of candidates from the best trials, on the unit interval
TWIN = 0.05  # of the range: trials that differ by less in every number, and in no word, are near twins
NOTHING = 1e-9
RANDOM_SHARE = 0.1  # share of trials drawn without the models, which may be permanently wrong
ENOUGH = 20  # trials that ran to the end, from which on the best of them is picked regardless of the models
PRIOR_SD = 0.15  # of a user's prior on a number, on the unit interval of its range
PRIOR_FLOOR = -3.0  # lowest log density relative to the peak of a prior, so that nothing is ruled out
PRIOR_WEIGHT = 10.0  # weight of a prior, in trials


@dataclass
class Beliefs:
    """The models fitted to a history at one moment. Losses are normal scores of their ranks; about −2 is the best."""

    surrogate: Surrogate
    trials: list[Seen]  # trials that have reached a level
    inputs: np.ndarray  # inputs of each trial at full fidelity
    mean: np.ndarray  # its mean loss there


class Sampler(BaseSampler):
    """The model-based sampler. It is rebuilt from the history alone, so a resumed sweep continues as without interruption."""

    past_in_study = False  # its own model uses them

    def __init__(self, spec: SweepSpec, n_params: Mapping[str, float]) -> None:
        super().__init__(spec, n_params)
        self.encoder = Encoder(spec, n_params)
        self.history = History(self.encoder, rung_levels(spec), spec.early_terminate.max_t)
        self.without = without_influence(spec)
        known = [n_params[size.name] for size in spec.sizes() if size.name in n_params]
        self.size_range = math.log(max(known) / min(known)) if len(known) > 1 else 0.0
        levels = np.log(np.array(self.history.levels, float))
        self._places = (levels - levels[0]) / (levels[-1] - levels[0]) if len(levels) > 1 else np.ones(1)
        # Largest distance on each axis at which two trials count as near twins.
        self._twin = np.array([
            np.inf if column.name in self.without else NOTHING if column.choices is not None else TWIN
            for column in self.encoder.columns
        ])  # fmt: skip
        self._same = np.where(np.isinf(self._twin), np.inf, NOTHING)
        self._theta: tuple[int, np.ndarray] | None = None
        self._beliefs: tuple[int, Beliefs | None] | None = None

    # ---- the record -----------------------------------------------------------------------------------------------------

    def take(self, trials: Sequence[Trial], past: Sequence[Past] = ()) -> None:
        self.history.take(trials, self.spec.metric.name, self.spec.loss_sign, past)

    def add(self, name: str, params: Mapping[str, Any]) -> None:
        self.history.add(name, params)

    def report(self, name: str, fidelity: float, loss: float, gpu_seconds: float) -> None:
        self.history.report(name, fidelity, loss, gpu_seconds)

    def ended(self, name: str, state: State) -> None:
        self.history.ended(name, state)

    # ---- models ---------------------------------------------------------------------------------------------------------

    def _features(self, units: np.ndarray) -> np.ndarray:
        return self.encoder.features(units, self.without)

    def _at(self, features: np.ndarray, level: np.ndarray | int) -> np.ndarray:
        """Inputs of the process: the features, and the level on [0, 1] by log fidelity."""
        return np.column_stack([features, np.broadcast_to(self._places[level], len(features))])

    def _observations(self, values: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All values at all levels: the trial, the level and the normal score of each, as three arrays.

        Losses decrease during training, and few trials reach high levels. So each value is first shifted by the median
        decrease of the trials that continued, level by level. Without such trials, half of the previous decrease is assumed.
        """
        falls, fall = [], 0.0
        for level in range(len(self.history.levels) - 1):
            pairs = [v[level : level + 2] for v in values if len(v) > level + 1]
            both = [then - now for now, then in pairs if now is not None and then is not None and math.isfinite(then)]
            fall = (float(np.median(both)) * len(both) + fall) / (len(both) + 2) if both else 0.5 * fall
            falls.append(fall)
        still = np.append(np.cumsum(falls[::-1])[::-1], 0.0)
        found = [
            (i, level, value + still[level]) for i, v in enumerate(values) for level, value in enumerate(v) if value is not None
        ]
        who, at, loss = (np.array(column) for column in zip(*found, strict=True))
        return who, at, normal_scores(loss)

    def _fitted_theta(self) -> np.ndarray:
        snapshot = self.history.snapshot
        if self._theta is None or self._theta[0] != len(snapshot):
            who, at, target = self._observations([values for _, values in snapshot])
            inputs = self._at(self._features(np.array([units for units, _ in snapshot]))[who], at)
            rows = chosen(target, MOST_FITTED)
            self._theta = len(snapshot), fit_theta(inputs[rows], who[rows], target[rows])
        return self._theta[1]

    @property
    def knows(self) -> bool:
        """Whether there are enough trials for the models."""
        return self.history.judged >= max(3, self.spec.search.n_startup_trials)

    def beliefs(self) -> Beliefs | None:
        """The models fitted to the history; None while it has too few trials."""
        if self._beliefs is None or self._beliefs[0] != self.history.version:
            self._beliefs = self.history.version, self._fit() if self.knows else None
        return self._beliefs[1]

    def _fit(self) -> Beliefs:
        trials = [trial for trial in self.history.seen.values() if trial.values]
        features = self._features(np.array([trial.units for trial in trials]))
        who, at, target = self._observations([trial.values for trial in trials])
        rows = chosen(target, MOST)
        surrogate = Surrogate(self._at(features[who], at)[rows], who[rows], target[rows], self._fitted_theta())
        inputs = self._at(features, -1)
        return Beliefs(surrogate, trials, inputs, surrogate.expected(inputs, np.arange(len(trials))))

    # ---- proposing ------------------------------------------------------------------------------------------------------

    def choose(self, ask: Ask) -> dict[str, Any] | None:
        """Parameters of the next trial; None if nothing allowed is left within the budget."""
        rng = np.random.default_rng([self.spec.search.seed, ask.number])
        beliefs = None if rng.random() < RANDOM_SHARE else self.beliefs()
        if beliefs is None:
            units = self._design(ask.number, rng)
            score = -np.arange(len(units), dtype=float)
        else:
            units = self._candidates(beliefs, rng)
            incumbent, model = self._as_if_ended(beliefs, ask.paused)
            mean, sd = model.predict(self._at(self._features(units), -1))
            score = log_improvement(incumbent, mean, sd)
        costs = CostModel(self.encoder, self.size_range).fit(list(self.history.seen.values()))
        if costs.known:
            log_cost = costs.log_cost(units)
            score = np.where(log_cost + math.log(self.history.levels[-1]) <= _log(ask.left), score, -np.inf)
            score = score - self.spec.search.cost_weight * log_cost * (beliefs is not None)
        if beliefs is not None:
            score = score + PRIOR_WEIGHT / (PRIOR_WEIGHT + self.history.judged) * self._log_prior(units)
        second: dict[str, Any] | None = None  # the best candidate that is not an exact twin, if all are near twins
        for place in np.argsort(-score, kind="stable"):
            if score[place] == -np.inf:
                break
            params = self.encoder.params(units[place])
            if ask.num_gpus and params.get("num_gpus", None) not in (None, *ask.num_gpus):
                continue
            apart = np.abs(self.history.tried - self.encoder.units(params))
            if (apart <= self._same).all(axis=1).any() or not ask.allowed(params):
                continue
            if not (apart < self._twin).all(axis=1).any():
                return params
            second = second or params
        return second

    def _as_if_ended(self, beliefs: Beliefs, paused: Collection[str]) -> tuple[float, Surrogate]:
        """The best expected loss of all trials, and the surrogate as if all running trials had ended as expected. This keeps
        simultaneous trials apart."""
        expected = [float(mean) for mean, trial in zip(beliefs.mean, beliefs.trials, strict=True) if not trial.past]
        places = {trial.name: place for place, trial in enumerate(beliefs.trials)}
        running = [trial for trial in self.history.seen.values() if trial.state is State.RUNNING and trial.name not in paused]
        model = beliefs.surrogate
        if running:
            inputs = self._at(self._features(np.array([trial.units for trial in running])), -1)
            whose = np.array([places.get(trial.name, len(places) + k) for k, trial in enumerate(running)])
            means = model.expected(inputs, whose)
            expected += means.tolist()
            model = model.given(inputs, whose, means)
        return min(expected, default=float(beliefs.mean.min())), model

    def _design(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """The candidate for one of the first trials: a point of a Sobol sequence, with small sizes somewhat more often. Every
        other one is near the user's priors, and the first one exactly at them. Further rows are used if it can't run."""
        axes = len(self.encoder.columns)
        sobol = qmc.Sobol(axes, seed=np.random.default_rng([self.spec.search.seed, 1]))
        if number:
            sobol.fast_forward(number)
        units = np.vstack([sobol.random(1), rng.random((200, axes))])
        place = self.encoder.axis.get("model_size")
        if place is not None and self.size_range:
            sizes = self.encoder.columns[place].choices or ()
            weight = np.array([self.n_params.get(str(size), 1.0) for size in sizes]) ** -SIZE_WEIGHT
            index = np.searchsorted(np.cumsum(weight / weight.sum()), units[:, place])
            units[:, place] = (np.minimum(index, len(sizes) - 1) + 0.5) / len(sizes)
        if number % 2 == 0:
            for axis, column in enumerate(self.encoder.columns):
                if column.parameter.prior is None:
                    continue
                centre = column.unit(column.parameter.prior)
                near = (
                    np.full(len(units), centre) if column.words or number == 0 else centre + PRIOR_SD * norm.ppf(units[:, axis])
                )
                units[:, axis] = near.clip(0.0, 1.0)
        return units

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

    def _candidates(self, beliefs: Beliefs, rng: np.random.Generator) -> np.ndarray:
        """Candidate places in the cube: over all of it, and near the best trials, with their size and with others."""
        axes = len(self.encoder.columns)
        order = np.argsort(beliefs.mean, kind="stable")[:TOP]
        near = np.array([beliefs.trials[i].units for i in order])[rng.integers(len(order), size=LOCAL)]
        moved = near + rng.choice(STEPS, size=(LOCAL, 1)) * rng.standard_normal(near.shape)
        moved = np.where(moved < 0, -moved, np.where(moved > 1, 2 - moved, moved)).clip(0, 1)
        for place, column in enumerate(self.encoder.columns):
            if column.choices is not None:
                anew = rng.random(LOCAL) < (0.5 if column.name in ("model_size", "num_gpus") else 0.15)
                moved[:, place] = np.where(anew, rng.random(LOCAL), near[:, place])
            else:
                moved[:, place] = np.where(rng.random(LOCAL) < 0.3, near[:, place], moved[:, place])
        return np.vstack([rng.random((RANDOM, axes)), moved])

    # ---- the pick -------------------------------------------------------------------------------------------------------

    def pick(self) -> str | None:
        """The trial to promote; None while the models know too little.

        If at least `ENOUGH` trials have run to the end, it is the best of those. Before, it is the trial with the smallest mean
        + standard deviation, because a trial that is almost certainly good is preferable to one that may be better. If that
        trial has run to the end, the value itself decides among all that have, because the process smooths.
        """
        beliefs = self.beliefs()
        if beliefs is None:
            return None
        usable = np.array([
            not t.past and t.state in (State.RUNNING, State.PRUNED, State.COMPLETE) and math.isfinite(t.score)
            for t in beliefs.trials
        ])  # fmt: skip
        if not usable.any():
            return None
        whole = usable & [len(trial.values) == len(self.history.levels) for trial in beliefs.trials]
        mean, sd = beliefs.surrogate.predict(beliefs.inputs, np.arange(len(beliefs.trials)))
        best = int(np.argmin(np.where(usable, mean + sd, np.inf)))
        if whole[best] or whole.sum() >= ENOUGH:
            best = int(np.argmin(np.where(whole, [trial.score for trial in beliefs.trials], np.inf)))
        return beliefs.trials[best].name


def _log(value: float) -> float:
    return math.log(value) if 0 < value < math.inf else math.inf if value > 0 else -math.inf


def log_improvement(incumbent: float, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """The logarithm of the expected improvement below `incumbent`."""
    z = (incumbent - mean) / sd
    safe = np.maximum(z, -12.0)  # continued as −z²/2 below
    improvement = sd * (safe * norm.cdf(safe) + norm.pdf(safe))
    return np.log(np.maximum(improvement, 1e-300)) - np.where(z < -12, (z**2 - 144) / 2, 0.0)
