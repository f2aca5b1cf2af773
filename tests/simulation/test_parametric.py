"""Modelled families: the law compared with independent formulas, and the property of each family."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.spec import SweepSpec, sweep_from_dict


def random_params(spec: SweepSpec, rng: np.random.Generator) -> dict[str, Any]:
    """A draw that shares no code with the source's own."""
    params: dict[str, Any] = {}
    for name, p in spec.search_space.ordered():
        if not p.holds(params):
            continue
        if p.choices() is not None:
            params[name] = p.choices()[rng.integers(len(p.choices()))]
        elif p.kind == "int_uniform":
            params[name] = int(rng.integers(p.min, p.max + 1))
        elif p.kind == "log_uniform_values":
            params[name] = math.exp(rng.uniform(math.log(p.min), math.log(p.max)))
        else:
            params[name] = float(rng.uniform(p.min, p.max))
    return params


@cache
def source(name: str, **changes: Any) -> ParametricSource:
    return ParametricSource(replace(FAMILIES[name], **changes), sweep_from_dict(family_spec(name)))


def best_rate(of: ParametricSource, **params: Any) -> float:
    """The optimum on a grid of a hundredth octave."""
    rates = 2 ** np.arange(-16, -9, 0.01)
    losses = [of.final({"learning_rate": float(rate), **params}) for rate in rates]
    return float(rates[np.nanargmin(losses)])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_sweep_is_a_whole_one(name: str) -> None:
    spec = sweep_from_dict(family_spec(name))
    assert 8 <= len(spec.search_space.parameters) <= 10
    assert [size.name for size in spec.sizes()] == list(FAMILIES[name].sizes)
    assert source(name).n_params == dict(FAMILIES[name].sizes)


@pytest.mark.parametrize(
    ("name", "exponent"), [("trend", -0.713), ("trend_deep", -0.5), ("crossing", -0.713), ("no_trend", 0.0)]
)
def test_the_best_rate_moves_with_size_as_stated(name: str, exponent: float) -> None:
    sizes = FAMILIES[name].sizes
    logs = [math.log(best_rate(source(name), model_size=size)) for size in sizes]
    slope = np.polyfit([math.log(n) for n in sizes.values()], logs, 1)[0]
    assert slope == pytest.approx(exponent, abs=0.01)


def test_the_best_batch_and_the_best_dropout_move_with_size() -> None:
    deep, trend = source("trend_deep"), source("trend")
    batches = 2 ** np.arange(2, 9, 0.01)
    best = {
        n: batches[np.argmin([deep.final({"model_size": s, "global_batch_size": b}) for b in batches])]
        for s, n in deep.n_params.items()
    }
    assert np.polyfit(np.log(list(best)), np.log(list(best.values())), 1)[0] == pytest.approx(0.25, abs=0.01)
    shares = np.arange(0, 0.3, 0.001)
    for size, n in trend.n_params.items():
        found = shares[np.argmin([trend.final({"model_size": size, "dropout": share}) for share in shares])]
        assert found == pytest.approx(max(0.0, 0.10 + 0.03 * math.log2(n / 4e8)), abs=0.001)


def test_the_loss_is_the_stated_law() -> None:
    """The law computed by hand for one configuration: `head`, a rate that is too high, a schedule without decay."""
    tokens = 2430 * 64 * 512
    best = 1.2e-4 * (1.4e9 / 4e8) ** -0.713 * (tokens / 8e7) ** 0.307 * 8
    z = math.log2(2e-3 / best)
    assert z > 0
    above = 2 * 0.012 * z**2 + 0.20 + 0.15 * (tokens / 8e7) ** -0.28 + 0.03 * 2 ** (z / 2) + 0.006 * ((0.2 - 0.06) / 0.1) ** 2
    above += 0.0015 * math.log2(0.1 / (0.01 * (1.4e9 / 4e8) ** 0.4)) ** 2
    expected = 1.69 + 0.25 * (1.4e9 / 4e8) ** -0.34 + 1.2 * (1 - math.exp(-above / 1.2))
    params = {"model_size": "1.4b", "unfreezing": "head", "learning_rate": 2e-3, "lr_scheduler_type": "constant"}
    assert source("trend").final({**params, "warmup_ratio": 0.2, "weight_decay": 0.1}) == pytest.approx(expected, rel=1e-9)


def test_rates_above_the_best_cost_more_than_rates_below_and_far_above_diverge() -> None:
    trend = source("trend")
    best = best_rate(trend, model_size="410m")
    at = lambda octaves: trend.final({"model_size": "410m", "learning_rate": best * 2**octaves})  # noqa: E731
    assert at(0) < at(-1) < at(1) < at(2)
    assert math.isfinite(at(3.4))
    assert math.isnan(at(3.6))
    curve = trend.curve({"model_size": "410m", "learning_rate": best * 2**4.5}, seed=0)
    first = int(np.argmax(np.isnan(curve.value)))
    assert first > 0  # it looks normal at first …
    assert np.isnan(curve.value[first:]).all()  # … and never comes back
    assert trend.true_rank(math.nan) > trend.true_rank(trend.median)


def test_larger_is_better_and_dearer_in_a_trend_but_not_without() -> None:
    finals = [source("trend").final({"model_size": size}) for size in FAMILIES["trend"].sizes]
    assert finals == sorted(finals, reverse=True)
    finals = [source("no_trend").final({"model_size": size}) for size in FAMILIES["no_trend"].sizes]
    assert np.argmin(finals) == 2
    costs = [source("trend").curve({"model_size": size}, 0).gpu_seconds[-1] for size in FAMILIES["trend"].sizes]
    assert costs[-1] / costs[0] == pytest.approx(20)
    assert costs == pytest.approx([6 * n * 2430 * 64 * 512 / 1e14 for n in FAMILIES["trend"].sizes.values()])


def test_curves_cross_in_crossing() -> None:
    """The share of pairs of random configurations that change order between the first rung and the end."""
    rng = np.random.default_rng(3)
    shares = {}
    for name in ("crossing", "trend"):
        quiet = source(name, run_noise=0.0, evaluation_noise=0.0)
        curves = [quiet.curve(random_params(quiet.spec, rng), 0) for _ in range(400)]
        first = np.array([curve.value[0] for curve in curves if np.isfinite(curve.value).all()])
        last = np.array([curve.value[-1] for curve in curves if np.isfinite(curve.value).all()])
        upper = np.triu_indices(len(last), 1)
        shares[name] = np.mean(((first[:, None] - first) * (last[:, None] - last))[upper] < 0)
    assert shares["crossing"] > 0.25
    assert shares["trend"] < 0.15
    slow = {"model_size": "1.4b", "unfreezing": "gradual", "learning_rate": 5e-5}
    fast = {"model_size": "70m", "unfreezing": "full", "learning_rate": 4e-4}
    slow_curve, fast_curve = (source("crossing").curve(params, 0).value for params in (slow, fast))
    assert slow_curve[0] > fast_curve[0] + 0.1
    assert slow_curve[-1] < fast_curve[-1] - 0.1


def test_a_head_costs_a_third_and_thaws_cost_what_is_trained() -> None:
    trend = source("trend")
    seconds = lambda **params: trend.curve({"model_size": "410m", **params}, 0).gpu_seconds[-1]  # noqa: E731
    full = seconds(unfreezing="full")
    assert seconds(unfreezing="head") == pytest.approx(full / 3)
    # One group more each 100 steps: the backward pass, two thirds, grows in a line over 1,200 of 2,430 steps.
    assert seconds(unfreezing="gradual", unfreeze_interval=100) == pytest.approx(full * (1 - 2 / 3 * 600 / 2430))
    assert seconds(unfreezing="lp_ft", unfreeze_interval=243) == pytest.approx(full * (0.1 / 3 + 0.9))
    assert seconds(unfreezing="full", num_gpus=4) == pytest.approx(full * (1 + 0.02 * 3 * (4e8 / 4.1e8) ** 0.4))


def test_poor_scaling_punishes_small_sizes_most() -> None:
    poor = source("poor_scaling")
    ratio = {
        size: poor.curve({"model_size": size, "num_gpus": 8}, 0).gpu_seconds[-1]
        / poor.curve({"model_size": size}, 0).gpu_seconds[-1]
        for size in poor.n_params
    }
    assert list(ratio.values()) == sorted(ratio.values(), reverse=True)
    assert ratio["70m"] > 4
    assert poor.final({"num_gpus": 8}) == poor.final({"num_gpus": 1})


def test_flops_buy_a_small_size_more_tokens() -> None:
    data = family_spec("trend")
    data["early_terminate"] = {"time_attr": "flops", "grace_period": 10**16, "max_t": 27 * 10**16}
    by_flops = ParametricSource(replace(FAMILIES["trend"], run_noise=0.0, evaluation_noise=0.0), sweep_from_dict(data))
    for params in (
        {"unfreezing": "full"},
        {"unfreezing": "head"},
        {"unfreezing": "gradual", "unfreeze_interval": 40},
        {"unfreezing": "lp_ft", "unfreeze_interval": 300},
    ):
        curve = by_flops.curve({"model_size": "160m", **params}, 0)
        assert curve.gpu_seconds == pytest.approx(curve.fidelity / 1e14)
    # Equal compute: 20 times the tokens for a size 20 times as small, so its best rate is 20^0.307 higher on top.
    ratio = best_rate(by_flops, model_size="70m") / best_rate(by_flops, model_size="1.4b")
    assert ratio == pytest.approx(20 ** (0.713 + 0.307), rel=0.01)


def test_seeds_draw_the_noise_and_nothing_else() -> None:
    trend = source("trend")
    params = random_params(trend.spec, np.random.default_rng(0)) | {"learning_rate": 1e-4}
    one, same, other = (trend.curve(params, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.value, same.value)
    assert not np.array_equal(one.value, other.value)
    ends = np.array([trend.curve(params, seed).value[-1] for seed in range(400)])
    assert ends.std() == pytest.approx(math.hypot(0.004, 0.003), rel=0.15)
    assert ends.mean() == pytest.approx(trend.final(params), abs=0.001)
    again = ParametricSource(FAMILIES["trend"], sweep_from_dict(family_spec("trend")))
    assert (again.best, again.median) == (trend.best, trend.median)


@pytest.mark.parametrize("name", FAMILIES)
def test_curves_end_at_max_t_and_pass_every_rung(name: str) -> None:
    spec, rng = source(name).spec, np.random.default_rng(1)
    early = spec.early_terminate
    for _ in range(20):
        curve = source(name).curve(random_params(spec, rng), 0)
        assert curve.fidelity[-1] == early.max_t
        assert {early.grace_period * 3**k for k in range(4)} <= set(curve.fidelity)
        assert (np.diff(curve.fidelity) > 0).all()
        assert (np.diff(curve.gpu_seconds) > 0).all()
        assert curve.gpu_seconds[0] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_no_random_draw_beats_the_best(name: str) -> None:
    of = source(name)
    losses = of.random_losses(100_000, seed=77)
    assert of.best <= np.nanmin(losses)
    assert of.best > np.nanmin(losses) - 0.03  # nor is it out of reach
    assert of.median == pytest.approx(np.median(np.nan_to_num(losses, nan=np.inf)), abs=0.01)
    rng = np.random.default_rng(2)  # the vectorised draws against single ones
    finals = np.array([of.final(random_params(of.spec, rng)) for _ in range(2000)])
    assert of.best <= np.nanmin(finals)
    assert np.median(np.nan_to_num(finals, nan=np.inf)) == pytest.approx(of.median, abs=0.03)
    assert of.true_rank(of.best) == 1
    assert of.true_rank(of.median) == pytest.approx(10_000, rel=0.01)


def test_other_sizes_are_spread_over_the_familys_range_and_a_goal_turns_the_values() -> None:
    data = family_spec("trend")
    data["ladder"] = [{"name": size, "model": "none"} for size in ("s", "m", "l")]
    data["search_space"]["parameters"]["model_size"] = {"values": ["s", "m", "l"]}
    metrics = ({"name": "eval_loss"}, {"name": "likelihood", "goal": "maximize"})
    loss, likelihood = (ParametricSource(FAMILIES["trend"], sweep_from_dict({**data, "metric": metric})) for metric in metrics)
    assert loss.n_params == pytest.approx({"s": 70e6, "m": math.sqrt(70e6 * 1.4e9), "l": 1.4e9})
    assert likelihood.final({"model_size": "m"}) == pytest.approx(math.exp(-loss.final({"model_size": "m"})))
    assert likelihood.best > likelihood.median
    assert likelihood.true_rank(likelihood.best) == 1


def test_a_fidelity_that_is_not_modelled_is_said() -> None:
    data = family_spec("trend")
    data["early_terminate"]["time_attr"] = "gpu_seconds"
    with pytest.raises(ValueError, match="gpu_seconds is not supported"):
        ParametricSource(FAMILIES["trend"], sweep_from_dict(data))
