"""Learning curves of a table: reading, looking up parameters, and the notes on both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scalesweep.errors import UserError
from scalesweep.simulation.table_files import read_table
from scalesweep.simulation.tables import TableSource
from scalesweep.spec import SweepSpec, sweep_from_dict

TASKSET = Path(__file__).parents[3] / "shared" / "curves" / "taskset"
SPACE: dict[str, Any] = {
    "optimizer": {"values": ["adam", "sgd"]},
    "momentum": {"min": 0.0, "max": 1.0, "when": {"optimizer": "sgd"}},
    "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
}


def make_spec(space: dict[str, Any] | None = None, max_t: float = 400, **changes: Any) -> SweepSpec:
    data = {
        "name": "table",
        "search_space": {"parameters": SPACE if space is None else space},
        "metric": {"name": "loss"},
        "early_terminate": {"type": "none", "time_attr": "steps", "max_t": max_t},
        "budget": {"run_cap": 9},
    }
    return sweep_from_dict({**data, **changes}, foreign=True)


def make_frame(steps: tuple[int, ...] = (100, 200, 400)) -> pd.DataFrame:
    """Four configurations whose loss is (number of the configuration) + 100 ÷ steps."""
    settings = [("adam", None, 1e-3), ("adam", None, 1e-2), ("sgd", 0.2, 1e-3), ("sgd", 0.9, 1e-3)]
    rows = [
        {"optimizer": optimizer, "momentum": momentum, "lr": rate, "steps": step, "loss": number + 100 / step}
        for number, (optimizer, momentum, rate) in enumerate(settings)
        for step in steps
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # order must not matter


def source(frame: pd.DataFrame | None = None, goal: str = "minimize", **spec: Any) -> TableSource:
    spec.setdefault("metric", {"name": "loss", "goal": goal})
    return TableSource(make_frame() if frame is None else frame, make_spec(**spec))


# ---- curves ----------------------------------------------------------------------------------------------------------------


def test_a_recorded_configuration_gets_its_own_curve() -> None:
    curve = source().curve({"optimizer": "sgd", "momentum": 0.9, "lr": 1e-3}, seed=0)
    assert curve.fidelity.tolist() == [100, 200, 400]
    assert curve.value.tolist() == [4.0, 3.5, 3.25]
    assert curve.gpu_seconds.tolist() == [100, 200, 400]  # without a cost column: one step per second


def test_max_t_between_two_rows() -> None:
    frame = make_frame().assign(gpu_seconds=lambda rows: 10 * rows["steps"])
    curve = source(frame, max_t=300).curve({"optimizer": "adam", "lr": 1e-3}, seed=0)
    share = math.log(300 / 200) / math.log(400 / 200)
    assert curve.fidelity.tolist() == [100, 200, 300]
    assert curve.value[-1] == pytest.approx(0.5 + share * (0.25 - 0.5))
    assert curve.gpu_seconds.tolist() == pytest.approx([1000, 2000, 3000])


def test_runs_that_end_before_max_t_are_left_out_and_counted() -> None:
    frame = make_frame()
    short = (frame["optimizer"] == "adam") & (frame["lr"] == 1e-3) & (frame["steps"] == 400)
    table = source(frame[~short])
    assert len(table.configs) == 3
    assert any("ignored, because they end earlier: 1 configuration and 1 run" in note for note in table.notes)
    assert table.final({"optimizer": "adam", "lr": 1e-3}) == 1.25  # the other adam answers


def test_no_run_that_reaches_max_t() -> None:
    with pytest.raises(UserError, match="the largest value is 400") as caught:
        source(max_t=401)
    assert "max_t to 400" in caught.value.hint
    assert source(make_frame().assign(steps=lambda rows: rows["steps"] * 0.9999999)).best == 0.25  # the same, but for rounding


def test_a_diverged_run_needs_no_rows_up_to_max_t() -> None:
    frame = make_frame()
    adam = (frame["optimizer"] == "adam") & (frame["lr"] == 1e-3)
    frame.loc[adam & (frame["steps"] == 200), "loss"] = math.inf
    table = source(frame[~(adam & (frame["steps"] == 400))])
    curve = table.curve({"optimizer": "adam", "lr": 1e-3}, seed=0)
    assert curve.fidelity.tolist() == [100, 200, 400]
    assert np.isnan(curve.value).tolist() == [False, True, True]
    assert math.isnan(table.final({"optimizer": "adam", "lr": 1e-3}))
    assert (table.best, table.median) == (1.25, np.median([math.inf, 1.25, 2.25, 3.25]))
    assert table.true_rank(math.nan) == 4
    assert any("1 configuration diverged" in note for note in table.notes)


def test_where_most_have_diverged_the_median_stays_finite() -> None:
    frame = make_frame().query("steps == 400")
    table = source(frame.assign(loss=[math.nan, math.nan, 5.0, 3.0]))
    assert (table.best, table.median) == (3.0, 5.0)


def test_final_values_only() -> None:
    table = source(make_frame((400,)).drop(columns="steps"))
    curve = table.curve({"optimizer": "adam", "lr": 1e-2}, seed=0)
    assert (curve.fidelity.tolist(), curve.value.tolist(), curve.gpu_seconds.tolist()) == ([400], [1.25], [400])
    assert any("final values only" in note for note in table.notes)


def test_seeds_and_repeated_rows_are_curves_of_one_configuration() -> None:
    parts = [make_frame().assign(seed=seed, loss=lambda rows, add=seed: rows["loss"] + add) for seed in (0, 1, 5)]
    for table in (source(pd.concat(parts)), source(pd.concat(part.drop(columns="seed") for part in parts))):
        params = {"optimizer": "adam", "lr": 1e-3}
        assert len(table.configs) == 4
        assert [table.curve(params, seed).value[-1] for seed in range(4)] == [0.25, 1.25, 5.25, 0.25]
        assert table.final(params) == pytest.approx(2.25)
        assert table.best == pytest.approx(2.25)


def test_run_ids_of_a_csv_are_words(tmp_path: Path) -> None:
    one = make_frame().query("optimizer == 'adam' and lr == 0.001")
    other = one.assign(config="01", steps=[150, 300, 400])
    pd.concat([one.assign(config="001"), other]).to_csv(tmp_path / "curves.csv", index=False)
    table = source(read_table(tmp_path / "curves.csv"))
    reports = sorted(table.curve({"optimizer": "adam", "lr": 1e-3}, seed).fidelity.tolist() for seed in range(2))
    assert reports == [[100, 200, 400], [150, 300, 400]]


def test_run_ids_part_what_the_parameters_do_not() -> None:
    one = make_frame().query("optimizer == 'adam' and lr == 0.001")
    table = source(pd.concat([one.assign(config="a"), one.assign(config="b", steps=one["steps"] * 2, loss=one["loss"] + 1)]))
    finals = sorted(table.curve({"optimizer": "adam", "lr": 1e-3}, seed).value[-1] for seed in range(2))
    assert finals == [0.25, 1.5]  # of the second one, 400 of its 800 steps
    with pytest.raises(UserError, match=r"config a has lr = 0\.0\d* and 0\.0"):
        source(make_frame().query("optimizer == 'adam'").assign(config="a"))


# ---- what it costs ---------------------------------------------------------------------------------------------------------

COLUMNS = {"gpu_seconds": 7.0, "flops": 3e14, "n_params": 1e9, "tokens": 5e5}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (["gpu_seconds", "flops", "n_params", "tokens"], 7.0),
        (["flops", "n_params", "tokens"], 3.0),
        (["n_params", "tokens"], 6 * 1e9 * 5e5 / 1e14),
        (["n_params"], 6 * 1e9 * 400 / 1e14),
        (["tokens"], 400.0),
    ],
)
def test_the_first_column_that_tells_the_cost_does(given: list[str], seconds: float) -> None:
    frame = make_frame((400,)).assign(**{name: COLUMNS[name] for name in given})
    assert source(frame).curve({"optimizer": "adam", "lr": 1e-3}, 0).gpu_seconds.tolist() == pytest.approx([seconds])


def test_a_fidelity_in_gpu_seconds_or_dollars_is_the_cost() -> None:
    frame = make_frame().rename(columns={"steps": "gpu_seconds"}).assign(flops=1e20)
    early = {"type": "none", "time_attr": "gpu_seconds", "max_t": 300}
    assert source(frame, early_terminate=early).curve({"optimizer": "adam", "lr": 1e-3}, 0).gpu_seconds.tolist() == [
        100,
        200,
        300,
    ]
    early = {"type": "none", "time_attr": "dollars", "max_t": 400}
    table = source(
        frame.rename(columns={"gpu_seconds": "dollars"}), early_terminate=early, resources={"dollars_per_gpu_hour": 4.0}
    )
    assert table.curve({"optimizer": "adam", "lr": 1e-3}, 0).gpu_seconds.tolist() == [90_000, 180_000, 360_000]


def test_gpus_that_the_table_does_not_know() -> None:
    space = {**SPACE, "num_gpus": {"values": [0.25, 1, 2, 4]}}
    table = TableSource(make_frame(), make_spec(space), efficiency=0.8)
    curves = [table.curve({"optimizer": "adam", "lr": 1e-3, "num_gpus": gpus}, 0) for gpus in (0.25, 1, 2, 4)]
    assert [curve.gpu_seconds[-1] for curve in curves] == pytest.approx([400, 400, 400 / 0.8, 400 / 0.8**2])
    assert all(curve.value.tolist() == curves[0].value.tolist() for curve in curves)
    with pytest.raises(UserError, match="efficiency"):
        TableSource(make_frame(), make_spec(space), efficiency=1.2)


def test_gpus_that_the_table_knows_are_looked_up() -> None:
    parts = [make_frame().assign(num_gpus=gpus, gpu_seconds=1000 * gpus) for gpus in (1, 4)]
    table = source(pd.concat(parts), space={**SPACE, "num_gpus": {"values": [1, 2, 4]}})
    costs = [table.curve({"optimizer": "adam", "lr": 1e-3, "num_gpus": gpus}, 0).gpu_seconds[-1] for gpus in (1, 2, 4)]
    assert costs == [1000, 1000, 4000]


# ---- looking up ------------------------------------------------------------------------------------------------------------


def test_the_nearest_answers() -> None:
    table = source()
    assert table.final({"optimizer": "sgd", "momentum": 0.5, "lr": 1e-3}) == 2.25
    assert table.final({"optimizer": "sgd", "momentum": 0.6, "lr": 1e-3}) == 3.25
    assert table.final({"optimizer": "adam", "lr": 3.1e-3}) == 0.25  # on a log scale, below the middle of 0.001 and 0.01
    assert table.final({"optimizer": "adam", "lr": 3.3e-3}) == 1.25
    assert table.final({"optimizer": "adam", "lr": 1e-1}) == 1.25
    # Words match first, however far the numbers are.
    assert table.final({"optimizer": "sgd", "momentum": 0.9, "lr": 1e-2}) == 3.25


def test_a_word_that_was_not_recorded_counts_as_one_apart() -> None:
    space = {**SPACE, "optimizer": {"values": ["adam", "sgd", "lion"]}}
    assert source(space=space).final({"optimizer": "lion", "lr": 1e-2}) == 1.25


def test_what_matters_matches_best() -> None:
    """Only one of two parameters matters. The nearest configuration in that one is used, even if the other differs much."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.uniform(size=300), "b": rng.uniform(size=300)})
    frame["loss"] = frame["a"] + 0.01 * frame["b"]
    space = {name: {"min": 0.0, "max": 1.0} for name in "ab"}
    table = source(frame, space=space)
    draws = rng.uniform(size=(200, 2))
    weighted = [abs(table.final({"a": a, "b": b}) - a - 0.01 * b) for a, b in draws]
    plain = [
        abs(frame["loss"].to_numpy()[np.argmin((frame["a"] - a) ** 2 + (frame["b"] - b) ** 2)] - a - 0.01 * b) for a, b in draws
    ]
    assert np.mean(weighted) < 0.6 * np.mean(plain)


def test_listed_numbers_have_distances_and_words_may_be_numbers_or_booleans() -> None:
    frame = pd.DataFrame({"batch": [8, 64, 512], "flag": [True, False, True], "model_size": [350, 350, 1000]})
    frame["loss"] = [1.0, 2.0, 3.0]
    space = {
        "batch": {"values": [8, 32, 64, 512]},  # log: 32 is nearer to 64 than to 8, and 150 to 64 than to 512
        "flag": {"values": [True, False]},
        "model_size": {"values": ["350", "1000"]},
    }
    table = source(frame.assign(n_params=[3.5e8, 3.5e8, 1e9]), space=space)
    assert table.final({"batch": 8, "flag": True, "model_size": "350"}) == 1.0
    assert table.final({"batch": 32, "flag": False, "model_size": "350"}) == 2.0
    assert table.final({"batch": 8, "flag": True, "model_size": "1000"}) == 3.0
    assert table.n_params == {"350": 3.5e8, "1000": 1e9}
    numbers = source(frame, space={"batch": space["batch"]})
    assert [numbers.final({"batch": batch}) for batch in (20, 32, 150, 200)] == [1.0, 2.0, 2.0, 3.0]


def test_what_the_space_fixes_picks_the_rows() -> None:
    fixed = {"optimizer": {"value": "sgd"}, "momentum": SPACE["momentum"], "lr": SPACE["lr"], "depth": {"value": 3}}
    table = source(space=fixed)
    assert (table.best, len(table.configs)) == (2.25, 2)
    assert table.final({"optimizer": "sgd", "momentum": 0.9, "lr": 1e-3, "depth": 3}) == 3.25
    with pytest.raises(UserError, match="no row has optimizer = lion"):
        source(space={"optimizer": {"value": "lion"}, "lr": SPACE["lr"]})


def test_a_cell_of_a_parameter_that_does_not_exist_is_ignored() -> None:
    frame = make_frame()
    frame.loc[frame["optimizer"] == "adam", "momentum"] = 0.7
    assert source(frame).final({"optimizer": "adam", "lr": 1e-3}) == 0.25


def test_the_lookups_error_is_said() -> None:
    """Five configurations on a line, values in order: each one's nearest other is one rank (a fifth) away."""
    frame = pd.DataFrame({"a": [0.0, 0.2, 0.4, 0.6, 0.8], "loss": [1.0, 2.0, 3.0, 4.0, 5.0]})
    notes = source(frame, space={"a": {"min": 0.0, "max": 1.0}}).notes
    assert any("20.0% of the ranks" in note for note in notes)


# ---- best, median, rank ----------------------------------------------------------------------------------------------------


def test_both_directions() -> None:
    low, high = source(), source(goal="maximize")
    assert (low.best, low.median, high.best, high.median) == (0.25, 1.75, 3.25, 1.75)
    assert [low.true_rank(value) for value in (0.25, 1.25, 9.0)] == [1, 2, 5]
    assert [high.true_rank(value) for value in (3.25, 2.25, 0.0)] == [1, 2, 5]


# ---- files and errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "t.csv.xz", "T.CSV.BZ2"])
def test_every_kind_of_file_holds_the_same(tmp_path: Path, name: str) -> None:
    frame, path = make_frame().assign(lr=lambda rows: rows["lr"] * (1 / 3)), tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        packed = {"gz": "gzip", "xz": "xz", "bz2": "bz2"}.get(name.lower().rpartition(".")[2])
        frame.to_csv(path, index=False, compression=packed)
    read = read_table(path)
    assert read["lr"].tolist() == frame["lr"].tolist()  # to the last bit: equal parameters have to be found
    assert source(read).final({"optimizer": "sgd", "momentum": 0.9, "lr": 1e-3 / 3}) == 3.25


def test_a_csv_keeps_words_that_pandas_takes_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("schedule,loss\nNone,1\nlinear,NaN\ncosine,inf\n", encoding="utf-8")
    table = source(read_table(tmp_path / "t.csv"), space={"schedule": {"values": ["None", "linear", "cosine"]}})
    assert table.final({"schedule": "None"}) == 1.0
    assert math.isnan(table.final({"schedule": "linear"}))
    assert math.isnan(table.final({"schedule": "cosine"}))


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("a\n1\n", encoding="utf-8")
    (tmp_path / "broken.parquet").write_text("no", encoding="utf-8")
    (tmp_path / "broken.csv.gz").write_text("no", encoding="utf-8")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    for name, message, hint in [
        ("curves.xlsx", "format of this table is not supported", ".parquet"),
        ("curves.parquet.gz", "format of this table is not supported", ".csv"),
        ("curves", "format of this table is not supported", ".csv"),
        ("curve.csv", "does not exist", "curves.csv"),
        ("broken.parquet", "can't be read as Parquet", "complete"),
        ("broken.csv.gz", "can't be read as CSV", "complete"),
        ("empty.csv", "can't be read as CSV", "complete"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read_table(tmp_path / name)
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            lambda f: f.rename(columns={"momentum": "momentun"}),
            "no column for the parameter momentum",
            "did you mean 'momentun'",
        ),
        (lambda f: f.rename(columns={"loss": "losses"}), "no column for the metric loss", "did you mean 'losses'"),
        (lambda f: f.assign(lr="fast"), "column lr needs numbers, but contains 'fast'", "numbers"),
        (lambda f: f.assign(loss="low"), "column loss needs numbers, but contains 'low'", "numbers"),
        (
            lambda f: f.assign(flops=[None, *range(11)]),
            "column flops needs numbers from 0, but contains an empty cell",
            "fill in",
        ),
        (lambda f: f.assign(gpu_seconds=-1), "column gpu_seconds needs numbers from 0, but contains -1", "fill in"),
        (lambda f: f.assign(loss=math.nan), "every run has diverged", "right column"),
        (lambda f: f[:0], "no usable rows", "with steps above 0"),
    ],
)
def test_errors_name_the_column(change: Any, message: str, hint: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        source(change(make_frame()))
    assert hint in caught.value.hint


# ---- a real one ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not TASKSET.is_dir(), reason="the recorded curves of others are not on this machine")
def test_taskset() -> None:
    configs = pd.read_parquet(TASKSET / "configs.parquet")
    curves = pd.read_parquet(TASKSET / "curves_imdb_patch32_IRNN64_relu_last_bs128.parquet")
    frame = curves.merge(configs, on="config_id").rename(columns={"config_id": "config"})
    frame["steps"] = frame["point"].astype(int) * 200
    space = {}
    for name in configs.columns.drop("config_id"):
        low, high = float(configs[name].min()), float(configs[name].max())
        space[name] = {"min": low, "max": high, "distribution": "log_uniform_values" if high > 10 * low else "uniform"}
    table = source(frame, space=space, max_t=10_000, metric={"name": "valid_loss", "goal": "minimize"})
    finals = curves[curves["point"] == 50].set_index("config_id")["valid_loss"]
    assert len(table.configs) == 1000
    assert table.best == finals.min()
    assert table.median == np.median(finals.fillna(np.inf))
    params = configs.drop(columns="config_id").to_dict("records")
    for number in (0, 3, 500, 999):
        own = curves[curves["config_id"] == number].sort_values("point")["valid_loss"].to_numpy()
        np.testing.assert_array_equal(table.curve(params[number], 0).value, own[1:])
