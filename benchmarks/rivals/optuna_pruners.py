"""Stock Optuna: ask and tell with its `TPESampler` and `HyperbandPruner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import HyperbandPruner
from optuna.trial import TrialState

from scalesweep.search.proposals import draw_params

from .base import Rival, Shown

UNITS = 1000  # Optuna counts integer steps: this many make a grace period, and rungs keep their ratio


def suggest_from(trial: optuna.Trial) -> Callable[[str, BaseDistribution], Any]:
    """A draw with a trial's public `suggest_` methods."""

    def suggest(label: str, options: BaseDistribution) -> Any:
        if isinstance(options, CategoricalDistribution):
            return trial.suggest_categorical(label, options.choices)
        if isinstance(options, IntDistribution):
            return trial.suggest_int(label, options.low, options.high)
        assert isinstance(options, FloatDistribution)
        return trial.suggest_float(label, options.low, options.high, log=options.log)

    return suggest


class OptunaHyperband(Rival):
    """`HyperbandPruner` with `TPESampler`, the pair that Optuna's documentation recommends for non-deep and deep learning
    tasks with enough parallel trials. The sampler has its defaults, the pruner the sweep's resources.

    Every report goes to `trial.report`, followed by `should_prune`, except the last one, after which an objective returns its
    value. Pruned trials are reported as PRUNED, diverged ones as FAIL (like a returned NaN).
    """

    def build(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            direction=self.goal,
            study_name=f"{self.spec.name}-{self.seed}",  # Hyperband draws a trial's bracket from this name
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            pruner=HyperbandPruner(
                min_resource=UNITS, max_resource=self.steps(self.max_t), reduction_factor=max(2, round(self.eta))
            ),
        )

    def steps(self, fidelity: float) -> int:
        return int(fidelity / self.min_t * UNITS + 1e-6)

    def ask(self) -> Shown:
        asked = self.study.ask()
        return self.new(draw_params(self.spec, suggest_from(asked)), asked)

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        trial.handle.report(value, self.steps(fidelity))
        if last:
            self.study.tell(trial.handle, value)
        elif trial.handle.should_prune():
            self.study.tell(trial.handle, state=TrialState.PRUNED)
            return False
        return True

    def failed(self, trial: Shown) -> None:
        self.study.tell(trial.handle, state=TrialState.FAIL)

    def best(self) -> Shown | None:
        """`study.best_trial`: the best complete trial."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return None
        number = self.study.best_trial.number
        return next(trial for trial in self.trials.values() if trial.handle.number == number)
