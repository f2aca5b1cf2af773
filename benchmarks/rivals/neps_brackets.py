"""NePS 0.17 through its `AskAndTell`. Trials pause at a rung and continue when they are promoted.

`ifbo`, its freeze–thaw method, is left out, because it downloads a surrogate at the first run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import neps
from neps.status.status import Summary

from scalesweep.spec import Parameter

from .base import Rival, Shown

FIDELITY = "fidelity"


def domain(parameter: Parameter) -> Any:
    """The space for NePS. Categories are passed as indices, because NePS uses a set, whose order differs between processes."""
    if parameter.values is not None:
        return neps.Categorical(tuple(range(len(parameter.values))))
    assert parameter.min is not None
    assert parameter.max is not None
    if parameter.kind == "int_uniform":
        return neps.Integer(int(parameter.min), int(parameter.max))
    return neps.Float(float(parameter.min), float(parameter.max), log=parameter.kind == "log_uniform_values")


class NepsHyperband(Rival):
    """`hyperband`, the choice of NePS (`optimizer="auto"`) for a space with a fidelity and without priors.

    NePS minimizes, so a maximized metric is negated. One trial here is a series of its trials, one per rung. A diverged trial
    is reported as the exception that its pipeline would have raised.
    """

    def optimizer(self, space: neps.PipelineSpace) -> Any:
        return neps.algorithms.hyperband(space, eta=max(2, round(self.eta)))

    def build(self) -> None:
        parameters: dict[str, Any] = {name: domain(parameter) for name, parameter in self.free_parameters()}
        parameters[FIDELITY] = neps.FloatFidelity(self.min_t, self.max_t)
        space = type("Space", (neps.PipelineSpace,), parameters)()
        self.neps = neps.AskAndTell(self.optimizer(space))
        self.by_config: dict[str, Shown] = {}  # NePS names a trial CONFIG_rung_RUNG
        self.busy: set[str] = set()

    def ask(self) -> Shown:
        while True:
            asked = self.neps.ask()
            config = asked.id.partition("_")[0]
            earlier = self.by_config.get(config)
            if earlier is None or earlier.name in self.busy:  # it may want a configuration that still runs to a lower rung
                trial = self.new(dict(earlier.params) if earlier else self._drawn(asked.config), asked)
            else:
                trial = earlier
            self.by_config[config] = trial
            target = self._target(asked)
            if (there := next((value for fidelity, value in trial.reports if fidelity >= target), None)) is None:
                break
            self.neps.tell(asked, -self.sign * there)  # the last report was beyond that rung too
        trial.handle = asked
        self.busy.add(trial.name)
        return trial

    def _drawn(self, config: Mapping[str, Any]) -> dict[str, Any]:
        drawn = dict(config)
        for name, parameter in self.free_parameters():
            if parameter.values is not None:
                drawn[name] = parameter.values[drawn[name]]
        return self.held(drawn)

    @staticmethod
    def _target(asked: Any) -> float:
        return float(asked.config[FIDELITY]) * (1 - 1e-9)

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        if fidelity < self._target(trial.handle) and not last:
            return True
        self.busy.discard(trial.name)
        self.neps.tell(trial.handle, -self.sign * value)
        return False

    def failed(self, trial: Shown) -> None:
        self.busy.discard(trial.name)
        self.neps.tell(trial.handle, ArithmeticError("diverged"))

    def best(self) -> Shown | None:
        """The best of `neps.status`: the lowest objective of all its trials, at any rung."""
        best = Summary.from_trials(self.neps.trials).best
        return self.by_config[best[0].id.partition("_")[0]] if best else None


class NepsPriorBand(NepsHyperband):
    """`priorband` (Mallik et al., 2023) on asynchronous Hyperband, which NePS recommends for many parallel workers.

    No priors are given, so it draws uniformly or around the incumbent. Its Gaussian process
    (`bayesian_optimization_kick_in_point`) stays off, as by default: in 0.17 it raises on a space with many combinations of
    categories while trials are running.
    """

    def optimizer(self, space: neps.PipelineSpace) -> Any:
        return neps.algorithms.priorband(space, eta=max(2, round(self.eta)), base="async_hb")
