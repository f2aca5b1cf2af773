"""Points from records: the trials that reached the end, by size; curves that have not flattened, and sweeps that can't be compared,
are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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


TABLES = 4_000_000.0  # parameters of the lookup tables, where the ladder tells them
SOURCE = {"path": "/data.csv", "text": "text", "label": "label", "max_length": 48, "split_seed": 0, "learn": "assistant"}
SPLITS = {"train": 1000, "validation": 200, "test": 300}


def told(train: int = 1000, mark: str | None = "abc", **source: Any) -> dict[str, Any]:
    """The manifest's facts about the data. `mark`: fingerprint of the validation split; None as in older records."""
    validation = {"rows": 200, "classes": {"a": 120, "b": 80}} | ({"fingerprint": mark} if mark else {})
    return {
        "fingerprint": f"all of {train} {source}",
        "classes": ["a", "b"],
        "source": {**SOURCE, "splits": {**SPLITS, "train": train}, **source},
        "splits": {"train": {"rows": train}, "validation": validation, "test": {"rows": 300}},
    }


def changed(record: Record, **keys: Any) -> Record:
    record.manifest = type(record.manifest)({**record.manifest, **keys})
    return record


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


def test_cells_that_learnt_nothing_are_counted() -> None:
    """The best trial of L1 has a loss of 0.56, that of L2 0.50: guessing at 0.562 is as good as the one, at 0.5 as both, at 0.463 as three."""
    for guess, cells in ((0.6, 0), (0.562, 1), (0.5, 2), (0.463, 3)):
        points = points_of_records([changed(sweep(), baseline={"guess": "class shares", "metrics": {"eval_loss": guess}})])
        told = [note for note in points.notes if "guessing" in note]
        assert [f"The best trials of {cells} of 4 cells are no better than guessing" in note for note in told] == [True] * (
            cells > 0
        )


def without_tables() -> Record:
    """A sweep whose ladder tells the parameters of the lookup tables, beside which there are those of `SIZES`."""
    record = sweep()
    rows = [{**size.json, "n_params": size.n_params + TABLES, "n_params_embedding": TABLES} for size in record.manifest.ladder]
    return changed(record, ladder=rows)


def test_embeddings_do_not_count_where_the_records_know_them() -> None:
    """Sizes that share their tables differ little in all their parameters, and several times in those that a token passes."""
    points = points_of_records([without_tables()])
    assert [cell.axes["n_params"] for cell in points.cells] == list(SIZES.values())
    assert "counts parameters without embeddings" in points.notes[-1]
    total = points_of_records([without_tables()], "total")
    assert [cell.axes["n_params"] for cell in total.cells] == [size + TABLES for size in SIZES.values()]
    assert not total.notes
    mixed = points_of_records([without_tables(), sweep()])  # one record does not tell, so all parameters count
    assert mixed.counting == "total"
    with pytest.raises(UserError, match="don't tell how many of the parameters are embeddings"):
        points_of_records([sweep()], "non-embedding")


def test_other_amounts_of_training_data_are_the_axis_of_data() -> None:
    """Tokens and examples in proportion: a place needs one of them."""
    records = [sweep(), sweep(), sweep()]
    for record, train in zip(records, (250, 500, 1000), strict=True):
        changed(record, data=told(train))
        for trial in record.trials.values():
            trial.reports[-1] = replace(trial.reports[-1], tokens=40 * train)
    points = points_of_records(records)
    assert points.data == "tokens"
    assert points.place({"n_params": 1e9, "examples": 4000}) == {"n_params": 1e9, "examples": 4000, "tokens": 160_000}
    assert points.place({"tokens": 160_000}) == {"tokens": 160_000, "examples": 4000}
    assert not any("different files" in note for note in points.notes)
    assert not any("passes" in note for note in points.notes)
    for trial in records[0].trials.values():  # two passes more over the smallest split
        trial.reports[-1] = replace(trial.reports[-1], tokens=3 * 40 * 250)
    apart = points_of_records(records)
    assert apart.place({"examples": 4000}) == {"examples": 4000}
    assert any("differ in passes over the data" in note for note in apart.notes)
    changed(records[0], data=told(250, path="/other.csv"))
    assert any("different files (/other.csv, /data.csv)" in note for note in points_of_records(records).notes)


def test_shares_of_the_train_split_are_the_axis_of_data() -> None:
    """One sweep over `train_share`, whose trials are as much shorter, has the points of three sweeps."""
    record = changed(sweep(), data=told(1000))
    trials = [trial for trial in record.trials.values() if trial.params["learning_rate"] != 3e-3]
    for number, trial in enumerate(trials):
        share = (0.25, 0.5, 1.0)[number % 3]
        trial.config |= {"train_share": share, "max_t": trial.reports[-1].fidelity * share}
        last = trial.reports[-1]
        trial.reports[-1] = replace(last, fidelity=last.fidelity * share, tokens=int(40_000 * share))
    points = points_of_records([record])
    assert sorted({cell.axes["examples"] for cell in points.cells}) == [250, 500, 1000]
    assert points.place({"examples": 4000}) == {"tokens": 160_000, "examples": 4000}
    assert sum(len(cell.trials) for cell in points.cells) == len(trials)


LM = {"task": "causal-lm"}
OTHERS: list[tuple[dict[str, Any], str]] = [
    (
        {"metric": {"name": "eval_accuracy", "goal": "maximize"}},
        "different metrics: eval_loss in quick, eval_accuracy in quick",
    ),
    ({"metric": {"name": "eval_loss", "goal": "maximize"}}, "different goals: minimize in quick, maximize"),
    (
        {"metric": {"name": "eval_loss", "goal": "minimize", "function": "own:f"}, "functions": {"own:f": "0123456789abcdef"}},
        "different functions that compute the metric: none in quick, own:f (file 0123456789ab)",
    ),
    ({"spec": {**make_manifest()["spec"], **LM}}, "different tasks: sequence-classification in quick, causal-lm"),
    ({"data": told() | {"classes": ["a", "c"]}}, "different classes: ['a', 'b'] in quick, ['a', 'c']"),
    ({"data": told(max_length=64)}, "different data.max_length: 48 in quick, 64"),
    (
        {"data": told(mark="other", path="/new.csv")},
        "validation splits, because data.path differs: /data.csv in quick, /new.csv",
    ),
    ({"data": told(mark="other", split_seed=1)}, "because data.split_seed differs: 0 in quick, 1"),
    ({"data": told(mark="other", splits={**SPLITS, "test": 50})}, "because data.splits.test differs: 300 in quick, 50"),
    ({"data": told(mark="other")}, "in texts or labels, with fingerprints: abc in quick, other"),
    ({"data": told(500, mark=None, label="other")}, "because data.label differs: label in quick, other"),
]


@pytest.mark.parametrize(("keys", "said"), OTHERS, ids=[said for _, said in OTHERS])
def test_sweeps_that_cant_be_compared_are_refused(keys: dict[str, Any], said: str) -> None:
    first, other = changed(sweep(), data=told()), changed(sweep(), data=told(500))
    points_of_records([first, other])
    with pytest.raises(UserError) as error:
        points_of_records([first, changed(other, **keys)])
    assert said in error.value.message
    assert error.value.hint


def test_a_sweep_counts_once() -> None:
    one = replace(sweep(), folder=Path("runs/a"))
    with pytest.raises(UserError, match="runs/a is named twice"):
        points_of_records([one, one])


def test_older_records_are_compared_by_their_sources_and_counts() -> None:
    """They have no fingerprint of the validation split alone."""
    points_of_records([changed(sweep(), data=told(mark=None)), changed(sweep(), data=told(500))])
    other = told(500, mark=None)
    other["splits"]["validation"] = {"rows": 200, "classes": {"a": 100, "b": 100}}
    with pytest.raises(UserError, match="in texts or labels"):
        points_of_records([changed(sweep(), data=told(mark=None)), changed(sweep(), data=other)])


def test_tokens_of_different_tokenizers_are_not_compared() -> None:
    records = []
    for mark in ("one", "two"):
        rows = [{**size.json, "tokenizer_fingerprint": mark} for size in sweep().manifest.ladder]
        records.append(changed(sweep(), ladder=rows, spec={**make_manifest()["spec"], **LM}))
    with pytest.raises(UserError, match="different tokenizers, and eval_loss counts per token"):
        points_of_records(records)
    for record in records:
        changed(record, spec=make_manifest()["spec"])
    points_of_records(records)  # a class is a class for every tokenizer


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
