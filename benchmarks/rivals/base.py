"""What all adapters share: names of trials, trials that go on, conditions of the space, and randomness of their own."""

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
from scalesweep.spec.config import default_of


@dataclass
class Shown:
    """A trial and what it has shown. `handle` is what the tool knows it by."""

    name: str
    params: dict[str, Any]
    handle: Any = None
    reports: list[tuple[float, float]] = field(default_factory=list)  # (fidelity, value), NaN left out
    diverged: bool = False

    @property
    def last(self) -> tuple[float, float]:
        return self.reports[-1]


class Randomness:
    """The global generators of `random`, NumPy and torch as one tool sees them.

    Many tools draw from these. Each adapter keeps their states to itself, so one seed gives one run whatever else draws.
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
    """A driver (`scalesweep.simulation.Driver`) that passes everything on to another tool.

    Values reach a tool in the metric's own direction unless its adapter says otherwise.
    """

    cost_of: Callable[[str], float] | None = None
    """GPU seconds that a trial has spent so far, for tools that weigh cost; whoever runs the simulation may set it."""

    def __init__(self, spec: SweepSpec, goal: str, seed: int, n_params: Mapping[str, float]) -> None:
        self.spec, self.goal, self.seed, self.n_params = spec, goal, seed, n_params
        self.sign = 1.0 if goal == "maximize" else -1.0
        early = spec.early_terminate
        self.max_t = float(early.max_t)
        self.min_t = float(early.grace_period or early.max_t)
        self.eta = early.reduction_factor
        self.trials: dict[str, Shown] = {}
        self._died: list[str] = []
        self.imports()
        self.randomness = Randomness(seed)
        with self.randomness():
            self.build()

    # What an adapter has to say.

    def imports(self) -> None:
        """Import what draws from global generators, so that they are known before they are seeded."""

    def build(self) -> None:
        """Construct the tool."""
        raise NotImplementedError

    def ask(self) -> Shown | None:
        """The trial that the tool would run now: a new one (`self.new`), or one that it had paused."""
        raise NotImplementedError

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        """Pass on a report (already in `trial.reports`). Returns whether the trial goes on."""
        raise NotImplementedError

    def failed(self, trial: Shown) -> None:
        """Pass on that a trial has diverged."""
        raise NotImplementedError

    def best(self) -> Shown | None:
        """What the tool itself would name."""
        raise NotImplementedError

    # The driver.

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
        """None of the tools hears of it: each would run the trial again from its last checkpoint."""
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
        """Parameters that may vary, for tools without conditions: they draw all of them."""
        for name, parameter in self.spec.search_space.ordered():
            choices = parameter.choices()
            if choices is None or len(choices) > 1:
                yield name, parameter

    def held(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Of all that was drawn, what exists. A GPU count that the size can't do with is raised to the least that it can."""

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
        """GPU seconds where they are known; else the fidelity, × the model's parameters unless it is a cost by itself."""
        if self.cost_of is not None:
            return self.cost_of(trial.name)
        fidelity = trial.reports[-1][0] if trial.reports else self.min_t
        if self.spec.early_terminate.time_attr in ("flops", "gpu_seconds", "dollars"):
            return fidelity
        size = trial.params.get("model_size", default_of(self.spec, "model_size", {}))
        return fidelity * self.n_params.get(str(size), 1.0)
