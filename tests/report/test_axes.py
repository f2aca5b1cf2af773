"""The difference that each axis makes, on modelled sweeps where the truth is known and on made-up records."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from records import make_record, make_searched
from scalesweep.record import Record
from scalesweep.report.axes import TRIALS_NEEDED, brought_to_the_end, effects
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.simulation.simulator import Clock, Cluster, simulate
from scalesweep.spec import sweep_from_dict

WITHOUT = {  # the modelled curves do not depend on these
    "max_grad_norm": {"values": [0.5, 1.0]},
    "adam_beta1": {"values": [0.8, 0.85, 0.9, 0.95]},
    "adam_beta2": {"min": 0.9, "max": 0.999},
    "layerwise_lr_decay": {"min": 0.6, "max": 1.0},
}


def swept(seed: int, trials: int = 50) -> Record:
    """A simulated sweep of random trials, most of which stop at a rung."""
    told = family_spec("trend") | {"budget": {"run_cap": trials}, "search": {"sampler": "random"}}
    told["search_space"]["parameters"] |= WITHOUT
    spec = sweep_from_dict(told)
    source, clock = ParametricSource(FAMILIES["trend"], spec), Clock()
    source.__dict__ |= {"best": 0.0, "median": 1.0, "_random": np.ones(1)}  # of the regret, which nobody reads here
    driver = SweepDriver(spec, source.n_params, 8, clock, seed)
    simulate(driver, source, Cluster(8), clock, 1e6, seed, points=1)
    return driver.record


def test_modelled_sweeps_name_the_axes_that_matter_and_hardly_ever_one_without_effect() -> None:
    found = [effects(swept(seed)) for seed in range(3)]
    named = Counter(effect.axis for one in found for effect in one if effect.matters)
    assert named["model_size"] == named["learning_rate"] == len(found)
    assert sum(named[name] for name in WITHOUT) <= 1  # of 12
    for one in found:
        size = next(effect for effect in one if effect.axis == "model_size")
        assert (size.better, size.worse) == ("1.4b", "70m")
        # The loss that the law gives to 70M parameters beyond that of 1.4B (the power law, of which `trend` has 0.25 at 400M).
        assert size.low < 0.25 * ((70e6 / 4e8) ** -0.34 - (1.4e9 / 4e8) ** -0.34) < size.high
        rate = next(effect for effect in one if effect.axis == "learning_rate")
        assert 2e-5 < rate.better < 1e-3  # the best rates are 5e-5 (1.4b) to 4e-4 (70m)


def test_a_stopped_trial_is_brought_to_the_end_by_the_change_of_those_that_continued() -> None:
    rows: list[tuple[dict[str, Any], list[float]]] = [
        ({}, [0.6, 0.5, 0.3]), ({}, [0.7, 0.5]), ({}, [0.8]), ({}, [0.9, float("nan")]), ({}, [0.7, 0.4, 0.1]),
    ]  # fmt: skip
    ends = [{"event": "end", "time": 9.0, "trial": "t0003", "state": "PRUNED", "reason": "diverged", "error": None}]
    trials, values = brought_to_the_end(make_searched(rows, {}, ends=ends))
    first, second = (0.1 + 0.2 + 0.3) / 3, (0.2 + 0.3) / 2
    assert [trial.name for trial in trials] == ["t0000", "t0001", "t0002", "t0004", "t0003"]
    assert values == pytest.approx([0.3, 0.5 - second, 0.8 - first - second, 0.1, 0.8 - first - second])
    assert brought_to_the_end(make_searched(rows[:1], {}, "maximize"))[1].tolist() == [-0.3]


SPACE = {
    "unfreezing": {"values": ["full", "head"]},
    "learning_rate": {"min": 1e-5, "max": 1e-3, "distribution": "log_uniform_values"},
    "unfreeze_interval": {"min": 10, "max": 50, "when": {"unfreezing": "full"}},
    "num_gpus": {"values": [1, 2]},
    "dropout": {"value": 0.1},
}


def drawn(seed: int, trials: int = 40) -> list[tuple[dict[str, Any], list[float]]]:
    """`head` costs 0.2, and each factor of 10 from a rate of 1e-4 costs 0.1 squared; the interval and the GPUs cost nothing."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(trials):
        mode, rate = str(rng.choice(["full", "head"])), float(10 ** rng.uniform(-5, -3))
        params = {"unfreezing": mode, "learning_rate": rate, "num_gpus": int(rng.integers(1, 3))}
        params |= {"unfreeze_interval": int(rng.integers(10, 51))} if mode == "full" else {}
        rows.append(
            (params, [0.5 + 0.2 * (mode == "head") + 0.1 * (np.log10(rate) + 4) ** 2 + 0.02 * rng.standard_normal()] * 3)
        )
    return rows


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_a_conditional_axis_is_judged_among_the_trials_that_have_it(goal: str) -> None:
    rows = drawn(0)
    found = {effect.axis: effect for effect in effects(make_searched(rows, SPACE, goal))}
    assert set(found) == {"unfreezing", "learning_rate", "unfreeze_interval"}  # the GPUs change no result, dropout was fixed
    mode, rate, interval = (found[name] for name in ("unfreezing", "learning_rate", "unfreeze_interval"))
    pair = ("full", "head") if goal == "minimize" else ("head", "full")
    assert (mode.better, mode.worse) == pair
    assert 0 < mode.low < 0.2 < mode.high < 0.25
    assert rate.matters
    assert 0 < rate.low < 0.1 < rate.high
    centre, edge = (rate.better, rate.worse) if goal == "minimize" else (rate.worse, rate.better)
    assert abs(np.log10(centre) + 4) < 0.3 < 0.7 < abs(np.log10(edge) + 4)
    assert not interval.matters
    assert interval.trials == sum("unfreeze_interval" in params for params, _ in rows)
    assert isinstance(interval.better, int)


def test_few_trials_rank_no_axis() -> None:
    assert effects(make_searched(drawn(0, TRIALS_NEEDED - 1), SPACE)) == []
    assert effects(make_searched(drawn(0, TRIALS_NEEDED), SPACE)) != []
    assert effects(make_record()) == []  # no search space in the manifest
    same = [(params, [0.5] * 3) for params, _ in drawn(0)]
    assert effects(make_searched(same, SPACE)) == []
