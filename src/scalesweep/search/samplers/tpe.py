"""The sampler `tpe`: Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

In the study a trial that waits at a rung is running, and TPE with `constant_liar` takes running trials for poor ones. Therefore TPE
sees each running trial that has reported as pruned: pruned trials are compared by their last step, then by their value there. It
does not see repeats of earlier trials with other seeds.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from scalesweep.search.samplers import REPEAT, BaseSampler


class _Judged:
    """The storage of a study in which running trials that have reported count as pruned, and repeats are missing. All else is the
    storage's own."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states is not None and TrialState.RUNNING not in states and TrialState.PRUNED not in states:
            return self._storage.get_all_trials(study_id, deepcopy, states)
        trials = self._storage.get_all_trials(study_id, deepcopy)
        seen = [_as_judged(trial) for trial in trials if REPEAT not in trial.user_attrs]
        return seen if states is None else [trial for trial in seen if trial.state in states]


def _as_judged(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.RUNNING or not trial.intermediate_values:
        return trial
    judged = copy.copy(trial)
    judged.state = TrialState.PRUNED
    return judged


class Sampler(BaseSampler):
    def view(self, storage: BaseStorage) -> BaseStorage:
        return cast("BaseStorage", _Judged(storage))

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
