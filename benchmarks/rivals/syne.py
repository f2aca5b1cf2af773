"""Syne Tune 0.16: asynchronous halving with a model of the search space.

Of the multi-fidelity methods that its authors have published, version 0.16 contains ASHA, BOHB, ASHABORE and ASHACQR, but not
MOBSTER, HyperTune and DyHPO. The scheduler receives the same calls as from Syne Tune's `Tuner`: `on_trial_result` for every report,
then `on_trial_remove` if it returned STOP. A diverged trial counts as failed (`on_trial_error`), and the method ignores it.
"""

from __future__ import annotations

import datetime
from typing import Any

from syne_tune import config_space as spaces
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHABORE, ASHACQR
from syne_tune.optimizer.scheduler import SchedulerDecision

from scalesweep.spec import Parameter

from .base import Rival, Shown


def domain(parameter: Parameter) -> Any:
    """The space for Syne Tune. Lists of ascending numbers are `ordinal`, which it models as a range; others are `choice`."""
    if parameter.values is not None:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in parameter.values)
        ascending = numbers and parameter.values == sorted(set(parameter.values))  # type: ignore[type-var]
        alike = len({type(value) for value in parameter.values}) == 1
        return spaces.ordinal(parameter.values) if ascending and alike else spaces.choice(parameter.values)
    assert parameter.min is not None
    assert parameter.max is not None
    if parameter.kind == "int_uniform":
        return spaces.randint(int(parameter.min), int(parameter.max))
    span = spaces.loguniform if parameter.kind == "log_uniform_values" else spaces.uniform
    return span(float(parameter.min), float(parameter.max))


class AshaCqr(Rival):
    """`ASHACQR`, which its authors recommend over their other methods (Salinas et al., 2023, "Optimizing Hyperparameters with
    Conformal Quantile Regression"): ASHA with a model of each trial's last value, at any fidelity. It uses the defaults and
    the sweep's rungs."""

    scheduler_class: Any = ASHACQR

    def build(self) -> None:
        self.metric, self.time_attr = self.spec.metric.name, self.spec.early_terminate.time_attr
        self.scheduler = self.scheduler_class(
            config_space={name: domain(parameter) for name, parameter in self.free_parameters()},
            metric=self.metric,
            time_attr=self.time_attr,
            max_t=self.max_t,
            do_minimize=self.goal == "minimize",
            random_seed=self.seed,
            grace_period=self.min_t,
            reduction_factor=self.eta,
        )

    def ask(self) -> Shown | None:
        suggestion = self.scheduler.suggest()
        if suggestion is None:
            return None
        handle = Trial(trial_id=len(self.trials), config=suggestion.config, creation_time=datetime.datetime.now())
        self.scheduler.on_trial_add(handle)
        return self.new(self.held(suggestion.config), handle)

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        result = {self.metric: value, self.time_attr: fidelity}
        stop = self.scheduler.on_trial_result(trial.handle, result) == SchedulerDecision.STOP
        if stop:
            self.scheduler.on_trial_remove(trial.handle)
        elif last:
            self.scheduler.on_trial_complete(trial.handle, result)
        return not stop

    def failed(self, trial: Shown) -> None:
        self.scheduler.on_trial_error(trial.handle)

    def best(self) -> Shown | None:
        """`Tuner.best_config`: the trial with the best reported value, at any fidelity."""
        return self.best_of(self.trials, last_only=False)


class AshaBore(AshaCqr):
    """`ASHABORE`: density-ratio estimation (Tiao et al., 2021) with ASHA, the runner-up in the same paper."""

    scheduler_class = ASHABORE
