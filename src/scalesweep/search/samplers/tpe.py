"""The sampler `tpe`: Optuna's tree-structured Parzen estimator (Bergstra et al., 2011)."""

from __future__ import annotations

import warnings

import optuna

from scalesweep.search.samplers import BaseSampler


class Sampler(BaseSampler):
    def of_study(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=self.spec.search.n_startup_trials,
            )
