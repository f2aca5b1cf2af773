"""The base of all adapters: trial names, continued trials, conditions of the space, and separate random states."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from scalesweep.search.proposals import draw_params
from scalesweep.simulation.simulator import Start
from scalesweep.spec import Parameter, SweepSpec
from scalesweep.spec.config import default_of, first_rung


@dataclass
class Shown:
    """A trial and its reports. `handle` is the tool's own identifier."""

    name: str
    params: dict[str, Any]
    handle: Any = None
    reports: list[tuple[float, float]] = field(default_factory=list)  # (fidelity, value), without NaN
    diverged: bool = False

    @property
    def last(self) -> tuple[float, float]:
        return self.reports[-1]


class Randomness:
    """The states of the global generators of `random`, NumPy and torch for one tool.

    Many tools draw from these. Each adapter keeps its own states, so one seed gives one run, whatever other code draws.
    """

    def __init__(self, seed: int) -> None:
        with self._kept():
            random.seed(seed)
            np.random.seed(seed)
            if torch := sys.modules.get("torch"):
                torch.manual_seed(seed)
            self._own = self._states()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._kept():
            self._restore(self._own)
            try:
                yield
            finally:
                self._own = self._states()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        others = self._states()
        try:
            yield
        finally:
            self._restore(others)

    @staticmethod
    def _states() -> tuple[Any, Any, Any]:
        torch = sys.modules.get("torch")
        return random.getstate(), np.random.get_state(), torch and torch.get_rng_state()

    @staticmethod
    def _restore(states: tuple[Any, Any, Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if states[2] is not None:
            sys.modules["torch"].set_rng_state(states[2])


class Rival:
    """A driver (`scalesweep.simulation.Driver`) that delegates to another tool.

    Values reach a tool in the metric's own direction unless its adapter converts them.
    """

    cost_of: Callable[[str], float] | None = None
    """GPU seconds of a trial so far, for tools that use the cost. The caller of the simulation may set it."""

    def __init__(self, spec: SweepSpec, seed: int, n_params: Mapping[str, float]) -> None:
        self.spec, self.goal, self.seed, self.n_params = spec, spec.goal, seed, n_params
        self.sign = -spec.loss_sign
        early = spec.early_terminate
        self.max_t = float(early.max_t)
        self.min_t = float(early.max_t if early.type == "none" else first_rung(spec))
        self.eta = early.reduction_factor
        self.trials: dict[str, Shown] = {}
        self._died: list[str] = []
        self.imports()
        self.randomness = Randomness(seed)
        with self.randomness():
            self.build()

    # Methods that an adapter implements.

    def imports(self) -> None:
        """Import packages that draw from global generators before these are seeded."""

    def build(self) -> None:
        """Construct the tool."""
        raise NotImplementedError

    def ask(self) -> Shown | None:
        """The trial that the tool would run now: a new one (`self.new`), or a paused one."""
        raise NotImplementedError

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        """Pass a report, which is already in `trial.reports`, to the tool. Returns whether the trial continues."""
        raise NotImplementedError

    def failed(self, trial: Shown) -> None:
        """Report a diverged trial to the tool."""
        raise NotImplementedError

    def best(self) -> Shown | None:
        """The best trial according to the tool itself."""
        raise NotImplementedError

    # Methods of the driver.

    def next_trial(self, free: int) -> Start | None:  # noqa: ARG002
        if self._died:
            trial: Shown | None = self.trials[self._died.pop(0)]
        else:
            with self.randomness():
                trial = self.ask()
        if trial is None:
            return None
        return Start(
            trial.name, trial.params, int(trial.params.get("num_gpus", default_of(self.spec, "num_gpus", trial.params)))
        )

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:
        trial = self.trials[name]
        with self.randomness():
            if not math.isfinite(value):
                trial.diverged = True
                self.failed(trial)
                return False
            trial.reports.append((fidelity, value))
            return self.told(trial, fidelity, value, last)

    def died(self, name: str) -> None:
        """The tools are not informed, because each would run the trial again from its last checkpoint."""
        self._died.append(name)

    def finished(self) -> bool:
        return False

    def pick(self) -> Mapping[str, Any] | None:
        with self.randomness():
            trial = self.best()
        return None if trial is None else trial.params

    # Help for adapters.

    def new(self, params: dict[str, Any], handle: Any = None) -> Shown:
        name = f"trial-{len(self.trials):04d}"
        self.trials[name] = Shown(name, params, handle)
        return self.trials[name]

    def free_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The varied parameters, for tools without conditions, which draw all of them."""
        for name, parameter in self.spec.search_space.ordered():
            choices = parameter.choices()
            if choices is None or len(choices) > 1:
                yield name, parameter

    def held(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The existing parameters of a draw. A GPU count below the size's minimum is raised to it."""

        def given(label: str, options: BaseDistribution) -> Any:
            value = drawn.get(label.partition(" (")[0])
            if isinstance(options, CategoricalDistribution):
                return value if value in options.choices else options.choices[0]
            return value

        return draw_params(self.spec, given)

    def best_of(self, trials: Mapping[Any, Shown] | list[Shown], last_only: bool = True) -> Shown | None:
        """The first trial with the best last value (or the best of all its values) that has not diverged."""

        def score(trial: Shown) -> float:
            return max(self.sign * value for _, value in (trial.reports[-1:] if last_only else trial.reports))

        shown = trials.values() if isinstance(trials, Mapping) else trials
        return max((trial for trial in shown if trial.reports and not trial.diverged), key=score, default=None)

    def cost(self, trial: Shown) -> float:
        """The GPU seconds if known; otherwise the fidelity, × the model's parameters unless the fidelity is a cost itself."""
        if self.cost_of is not None:
            return self.cost_of(trial.name)
        fidelity = trial.reports[-1][0] if trial.reports else self.min_t
        if self.spec.early_terminate.time_attr in ("flops", "gpu_seconds", "dollars"):
            return fidelity
        size = trial.params.get("model_size", default_of(self.spec, "model_size", {}))
        return fidelity * self.n_params.get(str(size), 1.0)
