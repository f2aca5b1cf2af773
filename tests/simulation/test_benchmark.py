"""The search benchmark: the rule on rows of a table, and the score."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scalesweep.simulation.tables import TableSource
from scalesweep.spec import sweep_from_dict

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from figures import difference, score
from rows import UnusedRows

SWEEP: dict[str, Any] = {
    "name": "line",
    "search_space": {"parameters": {"a": {"min": 0.0, "max": 1.0}, "num_gpus": {"values": [1, 2]}}},
    "metric": {"name": "loss"},
    "early_terminate": {"type": "none", "max_t": 10},
    "budget": {"run_cap": 9},
}


def test_new_parameters_take_the_nearest_row_that_the_run_has_not_used() -> None:
    places = [0.0, 0.2, 0.4, 0.6]
    frame = pd.DataFrame({"a": places * 2, "seed": [0] * 4 + [1] * 4, "loss": [1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0]})
    rows = UnusedRows(TableSource(frame, sweep_from_dict(SWEEP, foreign=True)))
    asked = [{"a": 0.01, "num_gpus": 1}, {"a": 0.02, "num_gpus": 1}, {"a": 0.0, "num_gpus": 1}, {"a": 0.01, "num_gpus": 2}]
    assert [rows.curve(params, 0).value[-1] for params in asked] == [1.0, 2.0, 3.0, 1.0]
    assert rows.curve(asked[3], 0).gpu_seconds[-1] > rows.curve(asked[0], 0).gpu_seconds[-1]
    assert [rows.final(params) for params in asked] == [2.0, 3.0, 4.0, 2.0]  # the mean over the seeds
    assert [rows.final({"a": place}) for place in (0.03, 0.04)] == [5.0, 2.0]  # the last row; then the nearest again


def test_the_score_is_the_mean_log_regret_at_five_shares_of_the_budget() -> None:
    curve = np.ones(200)
    for (start, end), regret in zip(pairwise((0, 25, 50, 100, 150, 200)), (0.99, 0.09, 0.0, -1e-9, 0.09), strict=True):
        curve[start:end] = regret
    assert score(curve) == pytest.approx((0 - 1 - 2 - 2 - 1) / 5)
    assert score(np.array([curve, np.full(200, 0.99)])).tolist() == pytest.approx([-1.2, 0.0])


def test_a_difference_resamples_families_and_seeds() -> None:
    one, other = [np.array([-1.0, -2.0]), np.array([-1.0])], [np.array([-1.0]), np.array([0.0, 0.0])]
    mean, low, high = difference(one, other)
    assert mean == pytest.approx(-0.75)  # of −0.5 and −1
    assert (low, high) == (pytest.approx(-1.0), pytest.approx(-0.25, abs=0.26))
    assert difference([np.full(9, -2.0)], [np.full(9, -1.0)]) == [-1.0, -1.0, -1.0]
