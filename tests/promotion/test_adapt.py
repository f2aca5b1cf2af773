"""A promoted model adapted to new data: the sweep that is written, and what is promoted of it. Whole commands are in end_to_end/."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import refused, run
from jobs import manifest
from preflights import sizes_resolved_once
from scalesweep.errors import NothingUsableError, SpecError, UserError
from scalesweep.promotion.adapt import adaptation
from scalesweep.promotion.promote import promote
from scalesweep.promotion.reproduce import reproduce
from scalesweep.promotion.watch import EVENTS, watch
from scalesweep.record.evaluations import Evaluation
from scalesweep.record.exports import read_provenance
from scalesweep.spec import sweep_from_dict, trial_config
from scalesweep.sweep.launch import make_manifest
from scalesweep.sweep.preflight import preflight
from tiny_models import WORDS
from tiny_sweeps import tiny_sweep

METRICS = {"eval_loss": 0.6, "new_loss": 0.6, "old_loss": 0.6, "epoch": 3.0}


def record_of(folder: Path, made: dict[str, Any], params: dict[str, Any], untrained: dict[str, Any] | None = None) -> Path:
    """A run folder whose only trial was trained to the end."""
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(made))
    config = trial_config(sweep_from_dict(made["spec"]), params).model_dump() | {"prefix_cache": "off"}
    counted = {"tokens": 1200, "flops": 1e6, "wall_seconds": 2.0, "gpu_seconds": 2.0}
    report = {"fidelity": 12, "step": 12, **counted, "metrics": METRICS, "rungs": [1], "action": "complete"}
    size = config["model_size"]
    events: list[dict[str, Any]] = [
        {"event": "session", "resumed": False},
        {"event": "trial", "trial": "t0000", "number": 0, "params": params, "config": config},
        {"event": "start", "trial": "t0000", "attempt": 1},
        *([{"event": "untrained", "trial": "t0000", "model_size": size, "metrics": untrained, **counted}] if untrained else []),
        {"event": "report", "trial": "t0000", **report, "reason": "max_t", "cutoff": None},
        {"event": "end", "trial": "t0000", "state": "COMPLETE", "reason": "max_t", "error": None},
        {"event": "sweep_ended", "reason": "budget: run_cap"},
    ]
    (folder / "record.jsonl").write_text("".join(json.dumps({"time": 1e9 + i, **e}) + "\n" for i, e in enumerate(events)))
    return folder


def write_new(path: Path, first: int, count: int) -> Path:
    """Rows whose label another word shows than in the old data: `good` means poor there."""
    draw = random.Random(first)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        for number in range(first, first + count):
            words = draw.sample(WORDS, 9)
            writer.writerow([" ".join([*words, ("fine", "dull")[number % 2]]), ("good", "poor")[number % 2]])
    return path


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A promoted model with three blocks, in the run folder of its sweep. No test may change it."""
    made = dict(manifest(**tiny_sweep(layers=(1, 2, 3))))
    params = {"model_size": "L3", "unfreezing": "head", "unfreeze_interval": 3, "learning_rate": 0.003}
    folder = record_of(tmp_path_factory.mktemp("adapt") / "old", made, params)
    return Path(promote(folder, max_t=20)["output"])


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_new(tmp_path_factory.mktemp("new") / "new.csv", 1000, 200)


def adapting(folder: Path, export: Path, new: Path, untrained: dict[str, Any] | None = None, **margins: float) -> Path:
    """The run folder of an adaptation that has one trial."""
    made = adaptation(export, new, **margins)
    with sizes_resolved_once():
        plan = preflight(sweep_from_dict(made), slots=4, base=Path.cwd())
    params = {
        "model_size": "L3",
        "unfreezing": "gradual",
        "unfreeze_interval": 3,
        "learning_rate": 0.003,
        "rehearsal_share": 0.5,
    }
    return record_of(folder, json.loads(json.dumps(dict(make_manifest(plan)), default=str)), params, untrained)


def test_the_sweep_starts_from_the_model_its_ladder_space_and_leaders(export: Path, new: Path, tmp_path: Path) -> None:
    file = tmp_path / "adapt.yaml"
    done = run("adapt", export, "--data", new, "--worse-by", 0.1, "--set", "budget.run_cap=5", "-o", file)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(file.read_text())
    assert made["ladder"] == {"model": str(export), "keep_head": True, "layers": [1, 2, 3]}
    space = made["search_space"]["parameters"]
    assert space.pop("rehearsal_share") == {"min": 0.0, "max": 0.75}
    assert space.pop("model_size") == {"values": ["L1", "L2", "L3"], "prior": "L3"}
    assert set(space) == {"unfreezing", "unfreeze_interval", "learning_rate"}
    params = read_provenance(export)["trial"]["params"]
    assert made["search"]["points_to_evaluate"] == [params]
    assert made["data"]["path"] == str(new)
    assert made["data"]["earlier"]["trained_on"] == ["train", "validation"]
    assert made["budget"] == {"run_cap": 5}
    assert made["adapt"] == {"model": str(export), "better_by": 0.0, "worse_by": 0.1}
    planned = run("plan", file)
    assert planned.returncode == 0, planned.stderr
    assert "already" in refused("adapt", export, "--data", new, "-o", file)
    assert "--grown needs --watch DIR" in refused("adapt", export, "--data", new, "--grown", 0.5)
    one = tmp_path / "one.csv"
    one.write_text("".join(line for line in new.read_text().splitlines(keepends=True) if not line.endswith("poor\n")))
    told = refused("adapt", export, "--data", one, "--run-dir", tmp_path / "one")
    assert "data.label: " in told
    assert f"{one}: all 100 rows have the class 'good' in column 'category'" in told
    assert not (tmp_path / "one" / "record.jsonl").exists()
    words = ("adapt", export, "--data", new, "--max-t", 5.5, "--run-dir", tmp_path / "none")
    assert "max_t 5.5 is not a whole number of steps" in refused(*words)
    assert not (tmp_path / "none").exists(), "nothing has been trained"
    missing = refused("adapt", export.with_name("t0001"), "--data", new)
    assert f"{export.with_name('t0001')} does not exist\n\nhint: did you mean {export}?" in missing
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "provenance.json").write_text("{")
    assert "torn/provenance.json can't be read" in refused("adapt", tmp_path / "torn", "--data", new)


def test_what_is_better_is_promoted_with_its_ancestry_and_can_be_adapted_again(export: Path, new: Path, tmp_path: Path) -> None:
    folder = adapting(tmp_path / "run", export, new, METRICS | {"new_loss": 0.7}, worse_by=9.0)
    before = read_provenance(export)
    result = promote(folder, max_t=60)
    judged = result["adapted"]
    assert judged["new"]["better_by"][1] > 0  # the whole interval
    assert judged["new"]["after"] == result["test"]
    assert judged["old"]["after"] == result["earlier_test"]
    assert result["test_standard_errors"].keys() == {"eval_loss", "eval_accuracy", "eval_f1_macro", "eval_matthews"}
    assert judged["from"]["data"]["fingerprint"] == before["data"]["fingerprint"]
    assert judged["from"]["weights"] == before["weights"]
    # The rows of the old test split that are left judge the model that it was before.
    assert judged["old"]["rows"] == 20 - 20 // 3
    gap = judged["new"]["before"]["eval_loss"] - judged["new"]["after"]["eval_loss"]
    assert judged["new"]["better_by"][0] == pytest.approx(gap)
    card = (Path(result["output"]) / "README.md").read_text()
    assert "## Adapted from" in card
    assert "t0000 of tiny" in card
    assert "| `rehearsal_share` | `0.5` |" in card
    assert reproduce(result["output"])["verdict"] == "bit-equal"

    third = write_new(tmp_path / "third.csv", 5000, 200)
    again = adaptation(result["output"], third)
    assert again["name"] == "tiny-adapted"
    assert again["data"]["earlier"]["earlier"]["path"] == before["data"]["source"]["path"]
    with sizes_resolved_once():
        plan = preflight(sweep_from_dict(again), slots=4, base=Path.cwd())
    rows = {split: one["rows"] for split, one in plan.data_summary["splits"].items()}
    assert rows["earlier_train"] == 60 + 120
    assert plan.adapts is not None
    assert plan.adapts["provenance"]["adapted"]["from"]["weights"] == before["weights"]


def test_what_is_not_better_or_does_not_keep_the_old_is_refused(export: Path, new: Path, tmp_path: Path) -> None:
    folder = adapting(tmp_path / "run", export, new, METRICS | {"new_loss": 0.7, "old_loss": 0.3}, worse_by=0.0)
    with pytest.raises(NothingUsableError, match=r"no trial .* is better"):  # it is worse on the old validation rows
        promote(folder, max_t=20)
    assert not (folder / "promoted").exists()
    again = ("adapt", export, "--data", new, "--worse-by", 0, "--run-dir", folder, "--json")
    done = run(*again)
    assert done.returncode == 3, done.stderr
    untested = json.loads(done.stdout)
    assert (untested["verdict"], untested["trial"], untested["adapted"]) == ("refused", None, None)
    assert "no trial in" in untested["reasons"][0]
    errors = refused("promote", folder, "--trial", "t0000", "--max-t", 20, code=3)
    assert "may be worse on the old test split by more than 0" in errors
    assert f"{export} stays" in errors
    assert not (folder / "promoted" / "t0000").exists()
    kept = json.loads((folder / "promoted" / "t0000.refused.json").read_text())
    assert kept["test_reads"] == 1
    done = run(*again)
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"verdict": "refused", **kept}
    assert all(reason in errors for reason in kept["reasons"])
    assert "was refused" in refused("promote", folder, "--trial", "t0000")
    done = run("promote", folder, "--trial", "t0000", "--max-t", 20, "--force", "--json")
    assert done.returncode == 3
    assert done.stderr.count("training the final run …") == 1
    kept = json.loads((folder / "promoted" / "t0000.refused.json").read_text())
    assert json.loads(done.stdout) == {"verdict": "refused", **kept}
    assert kept["test_reads"] == 2


def test_data_that_have_changed_or_leak_are_refused(export: Path, new: Path, tmp_path: Path) -> None:
    made = adaptation(export, new)
    old = Path(made["data"]["earlier"]["path"])
    (tmp_path / "old.csv").write_text("\n".join(old.read_text().splitlines()[:-1]))
    data = made["data"]
    for earlier, says in (
        ({**data["earlier"], "path": str(tmp_path / "old.csv")}, "not the data that"),
        ({**data["earlier"], "split_seed": 1}, "not the data that"),
        ({**data["earlier"], "trained_on": ["train"]}, "trained on validation too"),
    ):
        with pytest.raises(SpecError, match=says), sizes_resolved_once():
            preflight(sweep_from_dict({**made, "data": {**data, "earlier": earlier}}), slots=4, base=Path.cwd())
    with pytest.raises(SpecError, match="rehearsal_share"):
        sweep_from_dict({**made, "adapt": None, "data": {**data, "earlier": None}})


def test_parts_of_an_evaluation_are_told_apart() -> None:
    import numpy as np

    whole = Evaluation(4, 8, {"loss": np.arange(4.0), "part": np.array([0, 0, 0, 1])})
    assert (whole.part(0).rows, whole.part(0).of, whole.part(1).columns["loss"].tolist()) == (3, 6, [3.0])


def test_a_watched_folder_adapts_once_for_each_growth(export: Path, tmp_path: Path) -> None:
    """The adaptation itself is replaced by its outcome. The folder, the counting and the memory are real."""
    folder, root = tmp_path / "incoming", tmp_path / "watched"
    folder.mkdir()
    called: list[tuple[int, str]] = []
    outcomes: list[Exception | None] = [NothingUsableError("nothing to promote"), KeyboardInterrupt(), None]  # type: ignore[list-item]

    def adapt_to(model: Path, rows: Path, run_dir: Path) -> dict[str, Any]:
        assert rows.exists()
        assert model == export.resolve()
        called.append((len(called), run_dir.name))
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        return {"output": str(export)}

    def session(*steps: Callable[[], object]) -> list[str]:
        """Watch, with one step done in each wait; then Ctrl-C."""
        said: list[str] = []
        todo = list(steps)

        def wait(seconds: float) -> None:  # noqa: ARG001
            if not todo:
                raise KeyboardInterrupt
            todo.pop(0)()

        with pytest.raises(KeyboardInterrupt):
            watch(export, folder, root, 0.5, 1.0, adapt_to, said.append, wait)
        return said

    def nothing() -> None: ...

    said = session(nothing, lambda: write_new(folder / "one.csv", 2000, 10), nothing, nothing)
    assert called == []
    assert "10 new rows beside the 80 of the model; 40 are wanted" in said[-1]
    session(lambda: write_new(folder / "two.csv", 3000, 35), nothing, nothing)
    assert called == [(0, "001")]  # and nothing came of it
    session(nothing, nothing)
    assert len(called) == 1, "the same rows are not tried twice"
    session(lambda: write_new(folder / "three.csv", 4000, 70), nothing, nothing)
    assert called[1:] == [(1, "002")]  # interrupted
    session()
    assert called[2:] == [(2, "002")]  # continued
    events = [json.loads(line) for line in (root / EVENTS).read_text().splitlines()]
    assert [event["event"] for event in events] == ["watch", "begin", "end", "begin", "end"]
    assert [event["promoted"] for event in events if event["event"] == "end"] == [None, str(export.resolve())]
    (other := tmp_path / "other").mkdir()
    for name in ("provenance.json", "config.json"):
        (other / name).write_text((export / name).read_text())
    with pytest.raises(UserError, match="watches for"):
        watch(other, folder, root, 0.5, 1.0, adapt_to, print)
