"""Proposals of new trials, with Optuna's ask and tell over the conditional joint space.

A proposal depends only on the record's trials, the seed, the trial's number, and the GPU counts and the budget that were left
(which the record contains). The sampler is seeded again for each number, so a rebuilt study makes the same proposals as one
without interruption.

A combination of size and method (unfreezing mode, adapter) that can't run is not proposed, nor one with a rank that can't. No
configuration is proposed twice, unless the user lists it (`search.points_to_evaluate`). Such a draw stays in the study as a failed
trial, which samplers ignore, and the trial is drawn again. So the study has more trials than the record and numbers them
differently. The user attribute `trial` is the name in the record.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from scalesweep.costs import dollars
from scalesweep.record import Past, State, Trial
from scalesweep.search.outlook import Outlook
from scalesweep.search.samplers import REPEAT, Ask, make_sampler
from scalesweep.spec import Parameter, SweepSpec, allowed_gpus, gpu_choices
from scalesweep.spec.config import counts_whole
from scalesweep.spec.configurations import (
    ANY,
    Combination,
    combination,
    fits,
    identity,
    influential,
    least_ranks,
    points,
    rank_of,
    ranks,
    shares,
)

ATTEMPTS = 50  # most draws before a combination that can run is chosen directly
REPEATS = 5  # draws of earlier configurations before a new one is chosen directly
UNTRIED = 1000  # points among which that one is drawn
_STATES = {
    State.RUNNING: TrialState.RUNNING,
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAIL: TrialState.FAIL,
    # Optuna has no state for "can't run". The trial violates a constraint, so TPE ranks it below all others.
    State.INFEASIBLE: TrialState.PRUNED,
}
_VIOLATED = {"runs": 1.0}  # the constraint; a value above 0 violates it


@dataclass(frozen=True)
class Proposal:
    """A proposed trial: its number in the record, and its parameters, without conditional ones that do not apply."""

    number: int
    params: dict[str, Any]


def distribution(parameter: Parameter) -> BaseDistribution | None:
    """The Optuna distribution of a parameter; None for a fixed one."""
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
    """Draw each existing parameter of the space, in the order of `when`.

    A size with `min_gpus` draws its GPU count from the counts that reach it. Optuna needs one distribution per name, so such
    a draw has its own name in the study: `num_gpus (at least 2)`.
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
                label, options = _gpus_label(size.min_gpus), CategoricalDistribution(allowed)
                if len(allowed) == 1:
                    params[name] = allowed[0]
                    continue
        params[name] = parameter.value if options is None else draw(label, options)
    return params


def _gpus_label(least: int | None) -> str:
    return f"num_gpus (at least {least or 0})"


def combinations(spec: SweepSpec) -> list[tuple[Combination, dict[str, Any]]]:
    """All combinations that the space can draw, each with draws that lead to it (in the form of `enqueue_trial`)."""
    deciding = {"model_size", "unfreezing", "adapter"} & spec.search_space.parameters.keys()
    if shares(spec) != [1]:
        deciding.add("num_gpus")
    while more := {other for name in deciding for other in spec.search_space.depends_on(name)} - deciding:
        deciding |= more
    found = []
    unfinished: list[dict[str, Any]] = [{}]
    while unfinished:
        fixed = unfinished.pop(0)
        undecided: list[tuple[str, BaseDistribution]] = []
        params = draw_params(spec, _with_fixed(fixed, deciding, undecided))
        if undecided:
            label, options = undecided[0]
            unfinished += [{**fixed, label: value} for value in _telling_values(spec, label, options)]
        else:
            found.append((combination(spec, params), fixed))
    return found


def _with_fixed(fixed: dict[str, Any], deciding: set[str], undecided: list[tuple[str, BaseDistribution]]) -> Draw:
    """A draw that returns `fixed` values, notes undecided parameters, and returns any value for others."""

    def draw(label: str, options: BaseDistribution) -> Any:
        if label in fixed:
            return fixed[label]
        if _name(label) in deciding:
            undecided.append((label, options))
        return options.choices[0] if isinstance(options, CategoricalDistribution) else options.low

    return draw


def _telling_values(spec: SweepSpec, label: str, options: BaseDistribution) -> list[Any]:
    """All choices of a list; for a range, the values that a `when` names, and one value for all others."""
    if isinstance(options, CategoricalDistribution):
        return list(options.choices)
    assert isinstance(options, IntDistribution)
    wanted = [parameter.when.get(_name(label), []) for parameter in spec.search_space.parameters.values()]
    named = {value for values in wanted for value in (values if isinstance(values, list) else [values])}
    other = next((value for value in range(options.low, options.high + 1) if value not in named), None)
    return sorted(named) if other is None else [other, *sorted(named)]


def _name(label: str) -> str:
    """The parameter of a name in the study."""
    return "num_gpus" if label.startswith("num_gpus") else label


class Proposer:
    """An Optuna study that proposes trials and receives their results. Trial numbers are those of the record."""

    def __init__(
        self,
        spec: SweepSpec,
        storage: BaseStorage,
        trials: Iterable[Trial] = (),
        hopeless: Iterable[Sequence[Any]] = (),
        n_params: Mapping[str, float] | None = None,
        past: Sequence[Past] = (),
    ) -> None:
        """Create the study in `storage` (which must not contain it yet) and add `trials`, in order of their numbers.

        Args:
            hopeless: sizes and methods that are known to be unable to run, as in `least_ranks`.
            n_params: known parameter counts of sizes.
            past: trials of earlier sweeps for the warm start; they must be in the space.
        """
        self.spec = spec
        self.metric = spec.metric.name
        self._hopeless = least_ranks(hopeless)
        self.outlook = Outlook(spec, n_params or {})
        self.sampler = make_sampler(spec, n_params or {}, self.outlook)
        self._combinations = combinations(spec)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(storage=storage, study_name=spec.name, direction=spec.goal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([self.metric])
        # The same trials, as the sampler sees them.
        self._view = optuna.load_study(study_name=spec.name, storage=self.sampler.view(storage))
        self._tried: set[Hashable] = set()  # what each trial of this sweep trains
        self._drawn: set[Hashable] = set()  # all parameters of each
        self._storage = storage
        self._open: dict[int, tuple[optuna.Trial, dict[str, Any], str]] = {}
        known = list(trials)
        for earlier in past if self.sampler.past_in_study else ():
            self._add_past(earlier)
        for trial in known:
            self._add(trial)
        self.outlook.take(known, past)

    def _add_past(self, past: Past) -> None:
        """Add a trial of an earlier sweep for the sampler. Trials without a value are skipped."""
        state = _STATES[past.state]
        if past.state is State.INFEASIBLE or state == TrialState.FAIL or not past.reports:
            return
        # A trial that was complete at a smaller `max_t` counts as pruned here.
        if state == TrialState.COMPLETE and past.reports[-1][0] < self.spec.early_terminate.max_t:
            state = TrialState.PRUNED
        self._add_frozen(past.name, past.params, [(fidelity, value) for fidelity, value, _ in past.reports], state)

    def _add_frozen(
        self,
        name: str,
        params: Mapping[str, Any],
        reports: Sequence[tuple[float, float]],
        state: TrialState,
        constraints: dict[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a trial to the study with its state. `reports` are pairs of fidelity and metric, `facts` further user attributes."""
        distributions: dict[str, BaseDistribution] = {}
        internal: dict[str, Any] = {}

        def known(label: str, options: BaseDistribution) -> Any:
            distributions[label] = options
            internal[label] = params[_name(label)]
            return internal[label]

        draw_params(self.spec, known)
        last = reports[-1][1] if reports else None
        with_value = state in (TrialState.COMPLETE, TrialState.PRUNED) and last is not None and last == last
        frozen = optuna.trial.create_trial(
            state=state,
            params=internal,
            distributions=distributions,
            intermediate_values={self._step(fidelity): value for fidelity, value in reports},
            value=last if with_value else None,
            user_attrs={"trial": name, **(facts or {})},
            constraints=constraints,
        )
        self.study.add_trial(frozen)

    def repeat(self, trial: Trial) -> None:
        """Add a repeat, which trains the parameters of another trial again. It is in the study, but no sampler learns from it."""
        self._add(trial)

    def _add(self, trial: Trial) -> None:
        state = _STATES[trial.state]
        reports = [(report.fidelity, report.metrics[self.metric]) for report in trial.reports]
        constraints = _VIOLATED if trial.state is State.INFEASIBLE else None
        facts = self._facts(trial) if trial.state.ended else {}
        if trial.repeat_of:
            facts[REPEAT] = trial.repeat_of
        self._add_frozen(trial.name, trial.params, reports, state, constraints, facts)
        self._note_tried(trial.params)
        if trial.state is State.INFEASIBLE:
            self._give_up(trial.params)
        if state == TrialState.RUNNING:
            study_id = self._storage.get_study_id_from_name(self.spec.name)
            last = self._storage.get_n_trials(study_id) - 1
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, last)
            self._open[trial.number] = optuna.Trial(self.study, trial_id), dict(trial.params), trial.name

    def _facts(self, trial: Trial) -> dict[str, Any]:
        """The user attributes of an ended trial, by which Optuna's dashboard sorts. What is not known or not finite has none."""
        value, _ = trial.standing(self.metric) or (None, None)
        price = self.spec.price(trial.params.get("model_size", self.spec.sizes()[0].name))
        facts = {
            "rung": trial.rung,
            "ranked_metric": value,
            "gpu_seconds": trial.gpu_seconds,
            "dollars": dollars(trial.gpu_seconds, price),
            "stop_reason": trial.stop_reason,
        }
        return {key: fact for key, fact in facts.items() if fact is not None and fact == fact}

    def _step(self, fidelity: float) -> int:
        """A fidelity as one of Optuna's integer steps: what is not whole counts in millionths."""
        return round(fidelity if counts_whole(self.spec) else fidelity * 1e6)

    def _runs(self, params: dict[str, Any]) -> bool:
        gpus = allowed_gpus(self.spec, self.spec.size(params.get("model_size", self.spec.sizes()[0].name)))
        return self._may_run(params) and params.get("num_gpus", gpus[0]) in gpus

    def _may_run(self, params: dict[str, Any]) -> bool:
        return fits(combination(self.spec, params), rank_of(self.spec, params), self._hopeless)

    def _refused(self, found: Combination) -> bool:
        """Whether a combination can't run with the least rank that its adapter has in the space."""
        adapter = found[1].partition(" with ")[2] or "none"
        return not fits(found, ranks(self.spec, adapter)[0], self._hopeless)

    def _give_up(self, params: dict[str, Any]) -> None:
        """Note that a combination can't run with this rank, and so with no higher one."""
        found, rank = combination(self.spec, params), rank_of(self.spec, params)
        self._hopeless[found] = min(rank, self._hopeless.get(found, rank))

    def _note_tried(self, params: dict[str, Any]) -> None:
        self._tried.add(identity(self.spec, params))
        self._drawn.add(frozenset(params.items()))

    def _repeated(self, params: dict[str, Any], point: Mapping[str, Any]) -> bool:
        """Whether these parameters were tried. Where a listed `point` names one that changes no result, such as the GPU count,
        only a trial with equal parameters counts: the user wants this one too."""
        if point.items() - influential(self.spec, params).items():
            return frozenset(params.items()) in self._drawn
        return identity(self.spec, params) in self._tried

    def _seed(self, number: int, attempt: int) -> int:
        search = self.spec.search
        key = [search.seed, number, attempt] if attempt else [search.seed, number]
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def can_run(self) -> bool:
        """Whether some combination of the space may still run."""
        return any(not self._refused(found) for found, _ in self._combinations)

    def exhausted(self) -> bool:
        """Whether every configuration of the space that can run was proposed."""
        return self.can_run() and next(self._untried(), None) is None

    def _untried(self, num_gpus: Sequence[float] | None = None) -> Iterator[dict[str, Any]]:
        """Points of the space that can run and were not proposed. One with a continuous range always counts."""
        for params in points(self.spec):
            allowed = not num_gpus or params.get("num_gpus") in (None, *num_gpus)
            if allowed and self._runs(params):
                found = influential(self.spec, params)
                if ANY in found.values() or frozenset(found.items()) not in self._tried:
                    yield params

    def _choose_untried(self, number: int, num_gpus: Sequence[float] | None) -> dict[str, Any]:
        """One of the untried points, under its names in the study. Continuous ranges are left out."""
        untried = list(itertools.islice(self._untried(num_gpus), UNTRIED))
        fixed: dict[str, Any] = {}
        rng = np.random.default_rng([self.spec.search.seed, number])
        draw_params(self.spec, _labelled(untried[rng.integers(len(untried))], fixed))
        return {label: value for label, value in fixed.items() if value is not ANY}

    def propose(
        self,
        number: int,
        name: str,
        num_gpus: Sequence[float] | None = None,
        left: float = math.inf,
        paused: Collection[str] = (),
    ) -> Proposal | None:
        """Propose the next trial; None if nothing in the space can run, or all of it was proposed.

        Args:
            number: the trial's number in the record.
            name: the trial's name in the record.
            num_gpus: allowed GPU counts if not all are; Optuna chooses the rest of the proposal.
            left: most GPU seconds that the trial may take.
            paused: names of trials that wait at a rung.
        """
        allowed = [fixed for found, fixed in self._combinations if not self._refused(found)]
        if not allowed:
            return None
        chosen: dict[str, Any] | None = None
        listed, repeats = self.spec.search.points_to_evaluate, 0
        given, users = self._given(number), len(listed)
        if not given and next(self._untried(num_gpus), None) is None:
            return None
        for attempt in range(ATTEMPTS + 2):
            if chosen is None and not given and repeats < REPEATS:
                chosen = self.sampler.choose(Ask(max(0, number - users), self._runs, num_gpus or (), left, paused))
                if chosen is None and math.isfinite(left):
                    return None
                repeats = REPEATS if chosen is None else repeats  # none of the sampler's candidates is new
            self._view.sampler = self.sampler.of_study(self._seed(number, attempt))
            point, fixed = listed[number] if given else {}, dict(given)
            if chosen:
                draw_params(self.spec, _labelled(chosen, fixed))
            elif num_gpus and "num_gpus" in self.spec.search_space.parameters:
                fixed = {"num_gpus": num_gpus[number % len(num_gpus)]} | fixed
            if repeats >= REPEATS or attempt > ATTEMPTS:
                fixed = self._choose_untried(number, num_gpus)
            elif attempt == ATTEMPTS:
                rng = np.random.default_rng([self.spec.search.seed, number])
                fixed |= allowed[rng.integers(len(allowed))]
            if fixed:
                self.study.enqueue_trial(fixed)
            trial = self._view.ask()
            params = draw_params(self.spec, _suggest_from(trial))
            repeated = self._repeated(params, point)
            if self._may_run(params) and not repeated:
                break
            repeats += repeated
            size, method, _ = combination(self.spec, params)
            trial.set_user_attr("not run", "proposed before" if repeated else f"{method} of {size} can't run")
            self.study.tell(trial, state=TrialState.FAIL)
            if given and (
                not repeated or repeats == REPEATS
            ):  # the point can't run, or the sampler completes it to nothing new
                given, repeats = {}, 0
                if next(self._untried(num_gpus), None) is None:
                    return None
        trial.set_user_attr("trial", name)
        self._note_tried(params)
        self._open[number] = trial, params, name
        self.outlook.add(name, params)
        return Proposal(number, params)

    def _given(self, number: int) -> dict[str, Any]:
        """The user's point for this trial, under its names in the study; empty without one."""
        points = self.spec.search.points_to_evaluate
        point = dict(points[number]) if number < len(points) else {}
        if "num_gpus" in point:
            point |= {_gpus_label(size.min_gpus): point["num_gpus"] for size in self.spec.sizes()}
        return point

    def report(self, number: int, fidelity: float, value: float, gpu_seconds: float = 0.0) -> None:
        """Store an intermediate value, including the last one before a stop."""
        trial, _, name = self._open[number]
        trial.report(value, self._step(fidelity))
        if name in self.outlook.history.seen:  # no repeat
            self.outlook.report(name, fidelity, self.spec.loss_sign * value, gpu_seconds)

    def tell(self, number: int, state: State, value: float | None, ended: Trial | None = None) -> None:
        """Close a trial with its state. `value` counts for COMPLETE only: Optuna takes a pruned trial's value from its reports.
        The facts of the `ended` trial go into its user attributes."""
        trial, params, name = self._open.pop(number)
        for key, fact in ({} if ended is None else self._facts(ended)).items():
            trial.set_user_attr(key, fact)
        if state is State.INFEASIBLE:
            for constraint, violation in _VIOLATED.items():
                trial.set_constraint(constraint, violation)
            self._give_up(params)
        if name in self.outlook.history.seen:  # no repeat
            self.outlook.ended(name, state)
        told = _STATES[state]
        self.study.tell(trial, value if told == TrialState.COMPLETE else None, state=told)


def _labelled(params: Mapping[str, Any], fixed: dict[str, Any]) -> Draw:
    """A draw that returns `params` and notes them in `fixed` under their names in the study."""

    def draw(label: str, options: BaseDistribution) -> Any:  # noqa: ARG001
        fixed[label] = params[_name(label)]
        return fixed[label]

    return draw


def _suggest_from(trial: optuna.Trial) -> Draw:
    """A draw with the study's sampler."""

    def suggest(label: str, options: BaseDistribution) -> Any:
        if isinstance(options, CategoricalDistribution):
            return trial.suggest_categorical(label, options.choices)
        if isinstance(options, IntDistribution):
            return trial.suggest_int(label, options.low, options.high)
        assert isinstance(options, FloatDistribution)
        return trial.suggest_float(label, options.low, options.high, log=options.log)

    return suggest
