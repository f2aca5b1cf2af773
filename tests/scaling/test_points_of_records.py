"""Points from records: the trials that reached the end, by size; curves that have not flattened are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from records import make_manifest, make_searched
from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.scaling.analysis import analyse
from scalesweep.scaling.best import best_of
from scalesweep.scaling.recorded import points_of_records

SIZES = {"L1": 1e6, "L2": 4e6, "L4": 1.6e7, "L6": 6.4e7}
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
SPACE = {
    "model_size": {"values": list(SIZES)},
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
}


def loss(size: float, rate: float) -> float:
    """A law of size; the best rate falls as the root of the size."""
    return (0.4 + 20 / size**0.35) * (1 + 0.02 * np.log(rate / (4e-4 * (size / 4e6) ** -0.5)) ** 2)


def sweep(flat: bool = True) -> Record:
    rows: list[tuple[dict[str, Any], list[float]]] = []
    for name, size in SIZES.items():
        for rate in RATES:
            end = loss(size, rate)
            rows.append(({"model_size": name, "learning_rate": rate}, [1.5 * end, (1.001 if flat else 1.2) * end, end]))
    rows.append(({"model_size": "L6", "learning_rate": 3e-3}, [0.1, 0.1]))  # stopped: better than all, but not at the end
    record = make_searched(rows, SPACE)
    ladder = [
        {**row, "name": name, "n_params": size}
        for (name, size), row in zip(SIZES.items(), [*make_manifest()["ladder"]] * 2, strict=False)
    ]
    record.manifest = type(record.manifest)({**record.manifest, "ladder": ladder})
    return record


def test_a_sweep_predicts_a_larger_size_and_its_rate() -> None:
    points = points_of_records([sweep()])
    assert [cell.axes["n_params"] for cell in points.cells] == list(SIZES.values())
    assert [len(cell.trials) for cell in points.cells] == [len(RATES)] * 4
    assert points.varied() == ["n_params"]
    found = analyse(points, None, [{"n_params": 2.56e8}])
    (told,) = found.predictions
    assert told.law.low is not None
    assert told.law.high is not None
    assert told.law.low < 0.4 + 20 / 2.56e8**0.35 < told.law.high
    assert "Nothing tells the noise of eval_loss" in found.notes[-1]
    (trend,) = found.trends
    assert trend.setting == "learning_rate"
    value, low, high = trend.law.exponent()
    assert low <= -0.5 <= high
    assert value == pytest.approx(-0.5, abs=0.1)


def test_curves_that_have_not_flattened_are_refused() -> None:
    refused = analyse(points_of_records([sweep(flat=False)])).refused
    assert refused is not None
    assert "4 of 4 cells were still improving at their end" in refused.reasons[0]
    assert [cell["n_params"] for cell in refused.mend] == list(SIZES.values())
    assert refused.length == 3.0
    assert refused.gpu_hours is not None


def test_sweeps_of_different_metrics_are_refused() -> None:
    other = sweep()
    other.manifest = type(other.manifest)({**other.manifest, "metric": {"name": "eval_accuracy", "goal": "maximize"}})
    with pytest.raises(UserError, match="different metrics"):
        points_of_records([sweep(), other])


def test_the_best_of_noisy_trials_is_corrected() -> None:
    """Over 400 cells, the mean optimism of the best of 8 is taken off, and the stated error is the true one."""
    random = np.random.default_rng(0)
    truth = random.exponential(0.04, (400, 8))
    seen = truth + 0.01 * random.standard_normal(truth.shape)
    chosen = seen.argmin(axis=1)
    true = truth[np.arange(400), chosen]
    optimism = (seen.min(axis=1) - true).mean()
    found = np.array([best_of(np.sort(cell), np.full(8, 0.01)) for cell in seen])
    assert optimism < -0.006
    assert abs((found[:, 0] - true).mean()) < 0.3 * abs(optimism)
    assert found[:, 1].mean() == pytest.approx((found[:, 0] - true).std(), rel=0.25)
