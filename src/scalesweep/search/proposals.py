"""What to try next: Optuna's ask and tell over the conditional joint space.

A proposal is a function of the study's trials, the seed and the trial's number alone: the sampler is seeded anew for each
number, so a study that was rebuilt proposes what it would have proposed without the interruption.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from scalesweep.record import State, Trial
from scalesweep.spec import Parameter, SweepSpec, allowed_gpus, gpu_choices

_STATES = {
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAIL: TrialState.FAIL,
    # Optuna has no state for "can't run"; a failed trial teaches its samplers nothing.
    State.INFEASIBLE: TrialState.FAIL,
}


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study, and its parameters (conditional ones that do not apply are absent)."""

    number: int
    params: dict[str, Any]


def distribution(parameter: Parameter) -> BaseDistribution | None:
    """Optuna's distribution for a parameter; None for a fixed one."""
    if parameter.kind == "constant":
        return None
    if parameter.kind == "categorical":
        return CategoricalDistribution(parameter.values or [])
    low, high = parameter.min, parameter.max
    assert low is not None
    assert high is not None
    if parameter.kind == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log=parameter.kind == "log_uniform_values")


Draw = Callable[[str, BaseDistribution], Any]


def draw_params(spec: SweepSpec, draw: Draw) -> dict[str, Any]:
    """Walk the space in `when` order and draw each parameter that exists.

    A size with a `min_gpus` draws its GPU count from those that reach it. Optuna wants one distribution per name, so
    such a draw has a name of its own in the study: `num_gpus (at least 2)`.
    """
    params: dict[str, Any] = {}
    for name, parameter in spec.search_space.ordered():
        if not parameter.holds(params):
            continue
        label, options = name, distribution(parameter)
        if name == "num_gpus":
            size = spec.size(params.get("model_size", spec.sizes()[0].name))
            allowed = allowed_gpus(spec, size)
            if allowed != gpu_choices(spec):
                label, options = f"num_gpus (at least {size.min_gpus})", CategoricalDistribution(allowed)
                if len(allowed) == 1:
                    params[name] = allowed[0]
                    continue
        params[name] = parameter.value if options is None else draw(label, options)
    return params


class Proposer:
    """An Optuna study that is asked for trials and told what became of them."""

    def __init__(
        self, spec: SweepSpec, goal: str, storage: BaseStorage, trials: Iterable[Trial] = (), metric: str = ""
    ) -> None:
        """Create the study in `storage` (which must not hold it yet) and fill it with `trials`, in order of their numbers."""
        self.spec = spec
        self.metric = metric
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(storage=storage, study_name=spec.name, direction=goal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([metric or spec.metric.name])
        self._open: dict[int, optuna.Trial] = {}
        for trial in trials:
            self._add(trial, storage)

    def _add(self, trial: Trial, storage: BaseStorage) -> None:
        distributions: dict[str, BaseDistribution] = {}
        internal: dict[str, Any] = {}

        def known(label: str, options: BaseDistribution) -> Any:
            distributions[label] = options
            internal[label] = trial.params["num_gpus" if label.startswith("num_gpus") else label]
            return internal[label]

        draw_params(self.spec, known)
        values = {report.fidelity: report.metrics[self.metric] for report in trial.reports}
        state = _STATES[trial.state]
        last = trial.last.metrics[self.metric] if trial.last else None
        with_value = state in (TrialState.COMPLETE, TrialState.PRUNED) and last is not None and last == last
        frozen = optuna.trial.create_trial(
            state=state,
            params=internal,
            distributions=distributions,
            intermediate_values=values,
            value=last if with_value else None,
            user_attrs={"trial": trial.name},
        )
        self.study.add_trial(frozen)
        if state == TrialState.RUNNING:
            study_id = storage.get_study_id_from_name(self.spec.name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            self._open[trial.number] = optuna.Trial(self.study, trial_id)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        search = self.spec.search
        seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
        if search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=search.n_startup_trials
            )

    def propose(self, number: int, name: str, num_gpus: Sequence[int] | None = None) -> Proposal:
        """Ask for the next trial.

        Args:
            number: the number that the trial will have.
            name: the name it goes by in the record.
            num_gpus: GPU counts to choose from where not all will do; the rest of the proposal is Optuna's.
        """
        self.study.sampler = self._sampler(number)
        if num_gpus and "num_gpus" in self.spec.search_space.parameters:
            self.study.enqueue_trial({"num_gpus": num_gpus[number % len(num_gpus)]})
        trial = self.study.ask()
        if trial.number != number:
            raise RuntimeError(f"the study numbered a trial {trial.number} that the record numbers {number}")

        def suggest(label: str, options: BaseDistribution) -> Any:
            if isinstance(options, CategoricalDistribution):
                return trial.suggest_categorical(label, options.choices)
            if isinstance(options, IntDistribution):
                return trial.suggest_int(label, options.low, options.high)
            assert isinstance(options, FloatDistribution)
            return trial.suggest_float(label, options.low, options.high, log=options.log)

        params = draw_params(self.spec, suggest)
        trial.set_user_attr("trial", name)
        self._open[number] = trial
        return Proposal(number, params)

    def report(self, number: int, fidelity: int, value: float) -> None:
        """Store an intermediate value, the last one before a stop included."""
        self._open[number].report(value, fidelity)

    def tell(self, number: int, state: State, value: float | None) -> None:
        """Close a trial with its true state. `value` counts for COMPLETE alone: Optuna takes a pruned trial's from its reports."""
        self._open.pop(number)
        told = _STATES[state]
        self.study.tell(number, value if told == TrialState.COMPLETE else None, state=told)
