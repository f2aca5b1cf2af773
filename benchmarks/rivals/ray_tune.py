"""Stock Ray Tune: its `ASHAScheduler`, with random draws or with its `OptunaSearch`, without starting Ray.

Scheduler and searcher receive the same calls as from Ray's `TuneController`, in the same order. The scheduler decides on a result
first. The searcher gets the result if the trial continues, and only `on_trial_complete` with the last result if it is stopped. A
diverged trial counts as one whose trainable raised: `on_trial_error` and `on_trial_complete(error=True)`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from scalesweep.search.proposals import draw_params

from .base import Rival, Shown
from .optuna_pruners import suggest_from


class RandomAsha(Rival):
    """Random search with `ASHAScheduler` and its defaults, except the rungs, which are those of the sweep."""

    def build(self) -> None:
        early = self.spec.early_terminate
        self.metric, self.mode = self.spec.metric.name, "max" if self.goal == "maximize" else "min"
        self.scheduler = ASHAScheduler(
            time_attr=early.time_attr,
            metric=self.metric,
            mode=self.mode,
            max_t=self.max_t,
            grace_period=self.min_t,
            reduction_factor=self.eta,
        )
        sampler = optuna.samplers.RandomSampler(seed=self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.draws = optuna.create_study(sampler=sampler)

    def draw(self, name: str) -> dict[str, Any]:  # noqa: ARG002
        return draw_params(self.spec, suggest_from(self.draws.ask()))

    def ask(self) -> Shown:
        trial = self.new({})
        trial.handle = SimpleNamespace(trial_id=trial.name)  # the scheduler reads nothing else of a trial
        trial.params = self.draw(trial.name)
        self.scheduler.on_trial_add(None, trial.handle)
        return trial

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        result = {
            "trial_id": trial.name,
            "training_iteration": len(trial.reports),
            self.spec.early_terminate.time_attr: fidelity,
            self.metric: value,
        }
        stop = self.scheduler.on_trial_result(None, trial.handle, result) == TrialScheduler.STOP
        if not stop:
            self.searcher_result(trial.name, result)
        if stop or last:
            self.scheduler.on_trial_complete(None, trial.handle, result)
            self.searcher_complete(trial.name, result)
        return not stop

    def failed(self, trial: Shown) -> None:
        self.scheduler.on_trial_error(None, trial.handle)
        self.searcher_complete(trial.name, None, error=True)

    def searcher_result(self, name: str, result: dict[str, Any]) -> None: ...

    def searcher_complete(self, name: str, result: dict[str, Any] | None, error: bool = False) -> None: ...

    def best(self) -> Shown | None:
        """`ResultGrid.get_best_result(metric, mode)`: the best last value of all trials, at any fidelity."""
        return self.best_of(self.trials)


class Tune(RandomAsha):
    """`OptunaSearch` with ASHA and its defaults (Optuna's `TPESampler`). The space is a function, so that conditions hold."""

    def build(self) -> None:
        super().build()

        def space(trial: optuna.Trial) -> dict[str, Any]:
            return draw_params(self.spec, suggest_from(trial))

        self.searcher = OptunaSearch(space=space, metric=self.metric, mode=self.mode, seed=self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def draw(self, name: str) -> dict[str, Any]:
        config = self.searcher.suggest(name) or {}
        return {key: value for key, value in config.items() if key in self.spec.search_space.parameters}

    def searcher_result(self, name: str, result: dict[str, Any]) -> None:
        self.searcher.on_trial_result(name, result)

    def searcher_complete(self, name: str, result: dict[str, Any] | None, error: bool = False) -> None:
        self.searcher.on_trial_complete(name, result=result, error=error)
