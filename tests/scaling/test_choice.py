"""The choice among checkpoints: known curves, the published table, refusals, records, and the command on tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from command_line import refused
from command_line import run as command
from records import make_manifest
from scalesweep import choose
from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.scaling.choice import choice_of_record
from scalesweep.spec.config import rows_of_share

PUBLISHED = Path(__file__).parents[3] / "shared/curves/rectified_finetuning/losses_flan.csv"
SIZES = [125, 250, 500, 1000, 2000, 4000]
WHOLE = 32_000
LAWS = {"small": (0.5, 3.0, 2.0, 0.25), "middle": (0.4, 6.0, 5.0, 0.3), "large": (0.3, 30.0, 20.0, 0.4)}  # E, B, D_l, beta


def loss(model: str, size: float) -> float:
    floor, scale, before, beta = LAWS[model]
    return floor + scale / (before + size**beta)


def table(models: tuple[str, ...] = tuple(LAWS), sizes: list[int] | None = None, noise: float = 0.001) -> dict[str, list[Any]]:
    draw = np.random.default_rng(0)
    cells = [(model, size) for model in models for size in sizes or SIZES]
    losses = [loss(model, size) * float(np.exp(noise * draw.normal())) for model, size in cells]
    return {"model": [model for model, _ in cells], "examples": [size for _, size in cells], "loss": losses}


def test_known_laws_are_predicted_and_ranked() -> None:
    found = choose(pd.DataFrame(table()))
    assert found.whole == WHOLE, "eight times the largest subset, where nothing else is said"
    truth = {model: loss(model, WHOLE) for model in LAWS}
    assert [one.name for one in found.ranking] == sorted(LAWS, key=lambda model: truth[model])
    for one in found.ranking:
        assert one.predicted.low < truth[one.name] < one.predicted.high
        assert [size for size, _ in one.subsets] == SIZES
    assert found == choose(table(), examples=WHOLE)
    twins = table()
    twins["model"] += ["twin"] * len(SIZES)
    twins["examples"] += SIZES
    twins["loss"] += [value * 1.0005 for name, value in zip(twins["model"], twins["loss"], strict=False) if name == "middle"]
    assert "twin" in {one.name for one in choose(twins).tied} | {choose(twins).best.name}
    far = {**table(), "loss": [v * 3 if m == "small" else v for m, v in zip(table()["model"], table()["loss"], strict=True)]}
    assert not choose(far).ranking[-1].tied, "three times the loss can be told apart"


def test_the_best_settings_of_each_subset_count_in_the_mean_over_seeds() -> None:
    plain = table(noise=0.0)
    rows = {name: [*column, *column, *column] for name, column in plain.items()}
    count = len(plain["loss"])
    rows["learning_rate"] = [1e-3] * count + [1e-4] * count + [1e-3] * count
    rows["seed"] = [0] * (2 * count) + [1] * count
    rows["loss"] = [v * 0.99 for v in plain["loss"]] + [v * 1.5 for v in plain["loss"]] + [v / 0.99 for v in plain["loss"]]
    found = choose(rows)
    assert all(one.settings == {"learning_rate": 1e-3} for one in found.ranking)
    for one in found.ranking:
        assert one.subsets[-1][1] == pytest.approx(loss(one.name, SIZES[-1]), rel=2e-3)


def test_accuracies_are_higher_for_better_ones() -> None:
    errors = table()
    accuracies = {"model": errors["model"], "examples": errors["examples"], "accuracy": [1 - v / 4 for v in errors["loss"]]}
    found = choose(accuracies)
    assert found.maximize
    assert found.best.name == choose(errors).best.name
    assert found.best.predicted.low < found.best.predicted.value < found.best.predicted.high < 1


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (table(models=("small",)), "there is one model"),
        (table(sizes=SIZES[:4]), "small has 4 subsets of the 5 that it needs"),
        (table(sizes=SIZES[:5]), "nothing tells its error"),
        ({**table(), "loss": [0.5] * 18}, "loss does not differ between the subsets"),
        ({**table(), "loss": [{"small": 0.5}.get(model, 0.7) for model in table()["model"]]}, "loss does not differ"),
    ],
)
def test_too_little_is_refused(columns: dict[str, list[Any]], reason: str) -> None:
    found = choose(columns)
    assert not found.ranking
    assert reason in "; ".join(found.refused)
    assert found.mend


@pytest.mark.skipif(not PUBLISHED.exists(), reason="recorded results of others are not here")
def test_the_published_models_are_chosen_from_an_eighth_of_the_data() -> None:
    """At least the published correlation with the true losses, in intervals that hold, and more than the plain power law's."""
    rows = pd.read_csv(PUBLISHED).rename(columns={"finetune_samples": "examples"})
    whole = rows["examples"].max()
    seen = rows[(rows["examples"] > 0) & (rows["examples"] <= whole / 8) & (rows["examples"] > whole / 8 / 2**5.5)]
    found = choose(seen[["model", "n_params", "examples", "test_loss"]], examples=whole)
    truth = rows[rows["examples"] == whole].set_index("model")["test_loss"]
    actual = np.array([truth[one.name] for one in found.ranking])
    told = np.array([one.predicted.value for one in found.ranking])
    assert np.corrcoef(told, actual)[0, 1] > 0.95
    assert np.corrcoef([one.power for one in found.ranking], actual)[0, 1] < 0.9
    held = np.mean([one.predicted.low <= truth[one.name] <= one.predicted.high for one in found.ranking])
    assert held >= 0.9
    assert truth.idxmin() in {found.best.name, *(one.name for one in found.tied)}


def record(shares: list[float], status: str = "ended", guess: float = 9.0) -> Record:
    """A sweep of two sizes on shares of 32,000 rows; one training of L6 failed."""
    made = Record(make_manifest(data={"splits": {"train": {"rows": WHOLE}}}, baseline={"metrics": {"eval_loss": guess}}))
    made.apply({"event": "session", "time": 0.0})
    number = 0
    for size, law in (("L4", "small"), ("L6", "large")):
        for share in shares:
            name, params = f"t{number:04d}", {"model_size": size, "train_share": share, "learning_rate": 1e-3}
            value = loss(law, rows_of_share(WHOLE, share))
            failed = size == "L6" and share == shares[-1]
            events = [
                {
                    "event": "trial",
                    "trial": name,
                    "number": number,
                    "params": params,
                    "config": {**params, "seed": 0, "max_t": 9},
                },
                {"event": "start", "trial": name},
                {
                    **{"event": "report", "trial": name, "fidelity": 9, "step": 9, "tokens": 9, "flops": 9.0, "rungs": []},
                    **{"wall_seconds": 1.0, "gpu_seconds": 36.0, "metrics": {"eval_loss": value}},
                    **{"action": "complete", "cutoff": None},
                },
                {
                    "event": "end",
                    "trial": name,
                    "state": "FAIL" if failed else "COMPLETE",
                    "reason": "max_t",
                    "gpu_seconds": 36.0,
                },
            ]
            for event in events:
                made.apply({"time": 1.0, **event})
            number += 1
    if status == "ended":
        made.apply({"event": "sweep_ended", "time": 2.0, "reason": "budget: run_cap"})
    return made


SHARES = [1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


def test_a_record_gives_the_choice_by_itself() -> None:
    found = choice_of_record(record(SHARES))
    assert found.best.name == "L6"
    assert found.whole == WHOLE
    assert found.largest == 4000
    assert (found.trainings, found.missing) == (11, 0)
    assert found.gpu_seconds == 12 * 36
    assert found.best.n_params == 22_713_216
    assert [len(one.subsets) for one in found.ranking] == [5, 6]
    assert found.notes == ("left out, because they failed or diverged: 1 training",)
    assert choice_of_record(record(SHARES, status="running")).missing == 12, "of its run_cap of 24"
    assert choice_of_record(record(SHARES[:2], status="running")).refused == ("20 of 23 trainings have not ended",)
    idle = choice_of_record(record(SHARES, guess=0.1))
    assert not idle.ranking
    assert "no better than guessing (0.1) on their largest subsets: L6, L4" in idle.refused[0]
    with pytest.raises(UserError, match="no trial of quick trained on a share of the data"):
        choice_of_record(record([1.0]))


def test_the_command_on_a_table(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    pd.DataFrame(table()).to_csv(path, index=False)
    done = command("choose", path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert f"start from {choose(table()).best.name}: loss " in text
    assert "a plain power law would choose" in text
    found = json.loads(command("choose", path, "--json", "--examples", "64000").stdout)
    assert found["examples"] == 64000
    assert found["choice"] == found["ranking"][0]["checkpoint"]
    assert found["ranking"][0]["low"] < found["ranking"][0]["value"] < found["ranking"][0]["high"]
    pd.DataFrame(table(models=("small",))).to_csv(path, index=False)
    done = command("choose", path)
    assert done.returncode == 3
    assert "no choice: there is one model" in done.stdout
    for change, words, said in (
        ({"model": "name"}, (), "the table has no column model"),
        ({"examples": "rows"}, (), "the table has no column examples"),
        ({"loss": "note"}, ("--metric", "lose"), "the table has no column lose"),
        ({}, ("--examples", "100"), "no row has fewer examples than all data, 100"),
        ({}, ("--share", "1/4"), "--share is for a sweep file"),
        ({}, ("--dry-run",), "--dry-run is for a sweep file"),
        ({}, ("--set", "a.b=1"), "--set is for a sweep file"),
    ):
        pd.DataFrame(table()).rename(columns=change).to_csv(path, index=False)
        assert said in refused("choose", path, *words)
    assert "is not a share of the data" in refused("choose", "sweep.yaml", "--share", "2")
    assert "--examples is for a table of points" in refused("choose", tmp_path, "--examples", "9")
