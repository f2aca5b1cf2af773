"""The command `scaling` on tables: output, JSON, plots, errors before any fit, and refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import run as command
from scalesweep import fit_scaling
from scalesweep.scaling.laws import LAWS

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37


def law(size: float, tokens: float) -> float:
    return E + A / size**ALPHA + B / tokens**BETA


def write(path: Path, head: str, rows: list[tuple[object, ...]]) -> str:
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def run(*words: str) -> tuple[int, str]:
    done = command("scaling", *words)
    return done.returncode, done.stderr if done.returncode == 2 else done.stdout


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Four sizes × four amounts of data, noise of 0.1 %."""
    noise = np.random.default_rng(1).normal(0, 0.001, 16)
    cells = itertools.product([1e8, 3e8, 9e8, 2.7e9], [2e9, 8e9, 3.2e10, 1.28e11])
    rows = [(n, d, law(n, d) * np.exp(e)) for (n, d), e in zip(cells, noise, strict=True)]
    return write(tmp_path / "points.csv", "n_params,tokens,loss", rows)


def test_json_and_plot(table: str, tmp_path: Path) -> None:
    code, output = run(
        table, "--law", "hoffmann", "--at", "n_params=1.08e10,tokens=5.12e11", "--plot", str(tmp_path / "fit.svg"), "--json"
    )
    assert code == 0
    found = json.loads(output)
    assert found["law"] == "hoffmann"
    for name, truth in (("E", E), ("A", A), ("B", B), ("alpha", ALPHA), ("beta", BETA)):
        assert found["parameters"][name]["low"] < truth < found["parameters"][name]["high"]
    (prediction,) = found["predictions"]
    assert prediction["low"] < law(1.08e10, 5.12e11) < prediction["high"]
    assert prediction["high"] - prediction["low"] < 0.1
    assert prediction["run"]["low"] < prediction["low"]
    assert found["objective"] > 0
    assert "<svg" in (tmp_path / "fit.svg").read_text()


def test_the_held_out_largest_size_chooses_the_law(table: str) -> None:
    code, output = run(table)
    assert code == 0
    assert "law hoffmann: E + A/N^alpha + B/D^beta" in output
    assert "multiplicative" in output
    assert output.index("hoffmann") < output.index("multiplicative")


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("size,loss", [(1, 2)], "none of the columns n_params, tokens, examples, flops"),
        ("n_params,note", [(1e8, "x")], "no column for a metric"),
        ("n_params,loss,other", [(1e8, 2.0, 1.0)], ""),
        ("n_params,a,b", [(1e8, 2.0, 1.0)], "several columns that may be the metric: a, b"),
        ("n_params,loss", [(1e8, 2.0), ("big", 1.9)], "column n_params, row 2: 'big' is not a number"),
        ("n_params,loss", [(1e8, 2.0), (0, 1.9)], "column n_params, row 2: 0 is not a number above 0"),
        ("n_params,loss", [(1e8, 2.0), (2e8, -1.9)], "column loss, row 2: -1.9 is not above 0"),
        ("n_params,accuracy", [(1e8, 93), (2e8, 94)], "column accuracy, row 1: 93 is not below 1"),
        ("n_params,loss", [(1e8, "nan")], "column loss has no finite value"),
        ("examples,loss", [(0, 2.0)], "every row has 0 tokens or examples"),
    ],
)
def test_bad_tables(head: str, rows: list[tuple[object, ...]], said: str, tmp_path: Path) -> None:
    code, output = run(write(tmp_path / "points.csv", head, rows))
    assert code == (2 if said else 3)
    assert said in output
    assert not said or "hint: " in output


def test_the_help_names_every_law() -> None:
    done = command("scaling", "--help")
    assert all(name in done.stdout for name in LAWS)


def test_bad_options(table: str) -> None:
    for words, said in (
        (("--law", "hofmann"), "did you mean 'hoffmann'"),
        (("--at", "n_parms=1e9"), "did you mean 'n_params'"),
        (("--at", "n_params=many"), "n_params must be a number above 0, not 'many'"),
        (("--at", "n_params=1e9"), "tokens is missing"),
        (("--plot", "fit.gif"), "this kind of image is not supported"),
        (("--metric", "lossy"), "did you mean 'loss'"),
    ):
        code, output = run(table, *words)
        assert code == 2
        assert said in output


def test_refusals(tmp_path: Path) -> None:
    """Two sizes, and a narrow range: the reason, and the cheapest trials that would mend it."""
    two = [(n, d, law(n, d)) for n in (1e8, 1e9) for d in (2e9, 8e9, 3.2e10)]
    code, output = run(write(tmp_path / "two.csv", "n_params,tokens,loss", two), "--law", "hoffmann")
    assert code == 3
    assert "no fit: n_params has 2 of the 3 values" in output
    assert "by 1 trial at each of: n_params 66.7M, tokens 2B, about 2.22 GPU hours" in " ".join(output.split())
    together = [(n, 20 * n, law(n, 20 * n)) for n in (1e8, 2e8, 4e8, 8e8)]
    code, output = run(write(tmp_path / "together.csv", "n_params,tokens,loss", together), "--law", "hoffmann", "--json")
    assert code == 3
    refused = json.loads(output)["refused"]
    assert "vary together" in refused["reasons"][0]
    assert [cell["n_params"] * cell["tokens"] for cell in refused["mend"]["cells"]] == [4e17, 4e17]
    narrow = [(n, law(n, 1e10)) for n in (1e8, 1.2e8, 1.4e8, 1.6e8)]
    code, output = run(write(tmp_path / "narrow.csv", "n_params,loss", narrow), "--json")
    assert code == 3
    refused = json.loads(output)["refused"]
    assert "spans a factor of 1.6" in refused["reasons"][0]
    assert refused["mend"]["cells"][0]["n_params"] == pytest.approx(1.6e8 / 3)
    flat = [(n, 0.5) for n in (100, 200, 400, 800)]
    code, output = run(write(tmp_path / "flat.csv", "examples,loss", flat))
    assert code == 3
    assert "no trend to see" in output


@pytest.mark.parametrize(
    "form", [form for forms in LAWS.values() for form in forms], ids=lambda form: f"{form.name}-{form.axes}"
)
def test_laws_have_the_derivatives_that_they_state(form: object) -> None:
    """Against differences, for the value and for the published parameters."""
    random = np.random.default_rng(0)
    u, log_y = random.normal(size=(1, 7, form.axes)), np.log(random.uniform(0.3, 0.9, (3, 7)))  # type: ignore[attr-defined]
    theta, centre, step = form.starts(log_y, u)[:, 1], np.arange(1.0, 1.0 + form.axes), 1e-6  # type: ignore[attr-defined]
    for function, last in ((form.log_value, u), (form.described, centre)):  # type: ignore[attr-defined]
        for place, move in enumerate(step * np.eye(theta.shape[1])):
            numeric = (function(theta + move, last)[0] - function(theta - move, last)[0]) / (2 * step)
            assert np.allclose(function(theta, last)[1][..., place], numeric, atol=1e-6)


def test_a_table_with_a_row_per_evaluation(tmp_path: Path) -> None:
    """The last row of a run counts; runs that were still improving are refused where tokens are no axis."""
    for last, code in ((1.001, 0), (1.1, 3)):
        rows = [
            (f"t{place}", size, step, law(size, 1e10) * share)
            for place, size in enumerate([1e8, 3e8, 9e8, 2.7e9])
            for step, share in ((10, 1.5), (60, last), (100, 1.0))
        ]
        output = run(write(tmp_path / "curves.csv", "config,n_params,steps,loss", rows))
        assert output[0] == code
        assert "4 points of 4 trials" in output[1]
        assert ("4 of 4 cells were still improving" in output[1]) == bool(code)


def test_from_python(table: str) -> None:
    frame = pd.read_csv(table)
    found = fit_scaling(frame, "hoffmann", [{"n_params": 1.08e10, "tokens": 5.12e11}])
    assert found.refused is None
    assert found.predictions[0].law.value == pytest.approx(law(1.08e10, 5.12e11), rel=0.01)
    assert found.predictions == fit_scaling(frame.to_dict("list"), "hoffmann", [found.predictions[0].at]).predictions


def test_laws_of_one_axis_use_points_of_one_axis(table: str, tmp_path: Path) -> None:
    """Size and data at once are refused; with FLOPs, the cells that no cheaper one beats are fitted. Rows of no data are left out."""
    code, output = run(table, "--law", "saturating")
    assert code == 3
    assert "the law saturating has one axis, n_params, but tokens varies too" in output
    rows = [(n, d, 6 * n * d, law(n, d)) for n in (1e8, 3e8, 9e8, 2.7e9) for d in (2e9, 8e9, 3.2e10, 1.28e11)]
    code, output = run(write(tmp_path / "flops.csv", "n_params,tokens,flops,loss", rows), "--law", "saturating", "--json")
    found = json.loads(output)
    assert (code, found["axes"]) == (0, ["flops"])
    values = [point["value"] for point in found["points"]]
    assert values == sorted(values, reverse=True)
    assert 4 < len(values) < 16
    tuned = [(0, 9.0), *((d, 1 + 300 / (100 + d**0.5)) for d in 200 * 2.0 ** np.arange(10))]
    code, output = run(write(tmp_path / "tuned.csv", "examples,loss", tuned), "--law", "rectified", "--json")
    assert code == 0
    found = json.loads(output)
    assert found["parameters"]["D_l"]["value"] == pytest.approx(100, rel=0.05)
    assert found["notes"] == ["left out, before any training: 1 row"]
