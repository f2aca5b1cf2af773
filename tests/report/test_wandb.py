"""W&B's runs, made from a record and checked by what is left in `.wandb` files. No test reaches a network."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalesweep
from records import START, curve, make_events, make_manifest, make_record, make_searched
from scalesweep.errors import UserError
from scalesweep.record import Record, read_record
from scalesweep.record.table import columns, entries, flat
from scalesweep.report.trackers import TRACKERS, make_trackers
from scalesweep.report.wandb import boards, content, plain
from scalesweep.report.wandb.promoted import promotions
from scalesweep.report.wandb.tracker import WandbTracker, make
from wandb_files import WandbRun, read_runs, write_promotion, write_run

ENDED = {"event": "sweep_ended", "time": START + 200, "reason": "run_cap"}
SWEEP = "quick"


def send(run_dir: Path) -> int:
    """Publish a run folder to files, and return how many were written."""
    return scalesweep.publish(run_dir, offline=True).written


def by_trial(run_dir: Path) -> dict[str, WandbRun]:
    runs = read_runs(run_dir / "wandb")
    assert len({run.run_id for run in runs}) == len(runs), "a run has several parts"
    return {run.name.partition(" ")[0]: run for run in runs}


def board_rows(run: WandbRun) -> list[dict[str, Any]]:
    table = json.loads((run.folder / "files" / run.summary["leaderboard"]["path"]).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, dict[str, WandbRun], Path]:
    """A whole sweep in files, with secrets in the environment."""
    run_dir = write_run(tmp_path_factory.mktemp("sweep"), [*make_events(), ENDED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_topsecretvalue")
        assert send(run_dir) == 11
    return read_record(run_dir), by_trial(run_dir), run_dir


Published = tuple[Record, dict[str, WandbRun], Path]


def test_there_is_one_run_per_trial_and_one_for_the_sweep(published: Published) -> None:
    record, runs, _ = published
    assert set(runs) == {*record.trials, SWEEP}
    assert {run.group for run in runs.values()} == {"quick (01234567)"}  # another sweep of the name has another group
    assert {run.project for run in runs.values()} == {"tests"}
    assert {run.job_type for name, run in runs.items() if name != SWEEP} == {"trial"}
    assert runs[SWEEP].job_type == "sweep"
    assert runs["t0001"].tags == ["L6", "2-gpu", "gradual", "night"]
    assert runs["t0001"].run_id == "0123456789abcdef-t0001"
    assert runs["t0001"].name == "t0001 · L6 · gradual · 1.2e-4"
    assert (
        runs["t0001"].notes == "L6 · 2 GPUs · gradual/40 · lr 1.2e-04 cosine: complete · max_t, eval_loss 0.4400 at 360 steps"
    )


def test_searched_parameters_have_a_prefix_and_those_that_do_not_exist_are_absent(published: Published) -> None:
    record, runs, _ = published
    for name, trial in record.trials.items():
        assert runs[name].config["params"] == trial.params
        assert not runs[name].config["params"].keys() & runs[name].config["fixed"].keys()
    config = runs["t0001"].config
    expected = {"n_params": 22_713_216, "hidden_size": 384, "data_fingerprint": "f00dfeed", "trial_number": 1}
    assert {key: config[key] for key in expected} == expected
    assert config["model"] == "minilm"  # no folder of this machine
    assert config["fixed"]["global_batch_size"] == 32
    space = {"search_space": {"parameters": {"unfreeze_interval": {"min": 1, "max": 99, "when": {"unfreezing": "gradual"}}}}}
    other = make_record(spec=make_manifest()["spec"] | space)
    full = content.trial_run(other, other.trials["t0000"], content.board_of(other)[2], True).config
    assert "unfreeze_interval" not in {**full["params"], **full["fixed"]}  # it has a default there, which means nothing


def test_every_report_is_a_row_over_the_step_and_the_rung_never_falls(published: Published) -> None:
    record, runs, _ = published
    for name, trial in record.trials.items():
        assert [(row["_step"], row["step"]) for row in runs[name].history] == [(i, r.step) for i, r in enumerate(trial.reports)]
    row = runs["t0001"].history[2]
    assert row["eval_loss"] == pytest.approx(0.52)
    assert (row["tokens"], row["epoch"]) == (153_600, 0.96)
    assert [row["rung"] for row in runs["t0001"].history] == [1, 1, 2, 2, 3]
    assert row["gpu_hours"] == row["gpu_seconds"] / 3600
    metrics = runs["t0001"].metrics
    assert metrics["*"].step_metric == "step"
    assert metrics["eval_loss"].summary.min
    assert metrics["eval_loss"].step_metric == "step"


def test_a_nan_does_not_spoil_the_best_value(published: Published) -> None:
    run = published[1]["t0004"]
    assert "eval_loss" not in run.history[1]
    assert run.summary["eval_loss"] == {"min": 0.65}


def test_the_summary_is_the_trials_row_of_the_leaderboard(published: Published) -> None:
    record, runs, _ = published
    board = content.board_of(record)
    for entry in board:
        summary = runs[entry["trial"]].summary
        assert {key: summary[name] for key, name in content.RANKED.items()} == {key: entry[key] for key in content.RANKED}
        assert {name: summary[f"ranked/{name}"] for name in entry["metrics"]} == entry["metrics"]
    ranked = sorted((run for run in runs.values() if run.summary.get("rank")), key=lambda run: run.summary["rank"])
    assert [run.run_id[-5:] for run in ranked] == [entry["trial"] for entry in board if entry["rank"]]
    ends = {
        name: (run.summary["state"], run.summary["stop_reason"], run.exit_code) for name, run in runs.items() if name != SWEEP
    }
    assert ends["t0001"] == ("COMPLETE", "max_t", 0)
    assert ends["t0004"] == ("FAIL", "diverged", 1)
    assert ends["t0008"] == ("INFEASIBLE", "placement", 0)
    assert ends["t0009"] == ("RUNNING", None, 1)  # left off
    assert runs["t0007"].summary["error"] == "RayActorError: node lost"


def test_the_sweeps_run_holds_the_leaderboard(published: Published) -> None:
    record, runs, _ = published
    sweep = runs[SWEEP]
    assert sweep.notes.startswith("The best of 7 trials is t0001 (L6 · 2 GPUs")
    assert "artifact" in sweep.kinds
    rows, board = board_rows(sweep), entries(record, None)
    names = [name for name in columns(record) if name != "traceback"]
    assert [list(row) for row in rows] == [[*names, "run"]] * 10
    for row, entry in zip(rows, board, strict=True):
        assert {name: row[name] for name in names} == {name: flat(entry).get(name) for name in names}
        assert row["run"] == runs[entry["trial"]].run_id
    assert (sweep.summary["best"], sweep.summary["best_trial"], sweep.summary["ended_reason"]) == (0.44, "t0001", "run_cap")
    assert [row["trials/running"] for row in sweep.history[:-1]] == [9, 8, 7, 6, 5, 4, 3, 2, 1]  # and the charts
    assert {name for name in sweep.summary if name in ("rungs", "pareto_front")} == {"rungs", "pareto_front"}
    assert sweep.metrics["*"].step_metric == "elapsed_seconds"


def test_nothing_of_the_machine_or_its_secrets_is_written(published: Published) -> None:
    _, runs, run_dir = published
    for path in run_dir.rglob("*"):
        if path.is_file():
            assert b"topsecret" not in path.read_bytes(), path
    for run in runs.values():
        assert "environment" not in run.kinds
        assert run.host == ""
        written = (run.folder / f"run-{run.run_id}.wandb").read_bytes()
        for own in (sys.executable, str(Path.cwd()), "/home/me"):
            assert own.encode() not in written
        assert {path.name for path in (run.folder / "files").iterdir()} <= {"media"}


def test_text_of_others_is_shown_as_text() -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[31mred\x1b[0m\x07 [/misc]\u202e"
    for given in (hostile, hostile * 400):
        shown = plain.line(given, plain.NAME_LENGTH)
        assert shown.startswith("<img src=x onerror=alert(1)>red [/misc]")
        assert len(shown) <= plain.NAME_LENGTH
        assert shown.isprintable()
    events = make_events()
    for event in events:
        if event["event"] in ("trial", "end") and event["trial"] == "t0007":
            event |= {"error": f"{hostile} at /home/ada/secret/model.bin on 10.0.0.3:8080"} if "state" in event else {}
            if "config" in event:
                event["config"] = event["config"] | {"model_size": hostile * 400}
    record = make_record(events, name=hostile * 400)
    entry = next(entry for entry in content.board_of(record) if entry["trial"] == "t0007")
    run = content.trial_run(record, record.trials["t0007"], entry, True)
    told = json.dumps([run.name, run.group, run.notes, run.tags, run.config, run.summary], ensure_ascii=False)
    assert "\x1b" not in told
    assert "/home/ada" not in told
    assert "10.0.0.3" not in told
    assert "model.bin on <host>" in run.summary["error"]
    assert max(map(len, (run.name, run.group))) <= plain.NAME_LENGTH
    assert max(map(len, run.tags)) <= plain.TAG_LENGTH


def test_a_second_time_changes_nothing_and_a_resumed_sweep_has_one_part_per_run(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "sweep", make_events())
    assert send(run_dir) == 11
    before = sorted((run_dir / "wandb").glob("offline-run-*"))
    assert send(run_dir) == 0
    assert sorted((run_dir / "wandb").glob("offline-run-*")) == before
    later = START + 10_000
    report = next(e for e in make_events() if e["event"] == "report" and e["fidelity"] == 120)
    events = [
        {"event": "session", "time": later, "resumed": True},
        {"event": "start", "time": later + 1, "trial": "t0009", "attempt": 2},
        {**report, "trial": "t0009", "time": later + 5},
        {"event": "end", "time": later + 6, "trial": "t0009", "state": "PRUNED", "reason": "rung", "error": None},
        {**ENDED, "time": later + 7},
    ]
    write_run(run_dir, events)
    assert 0 < send(run_dir) < 11  # the trial, those whose rank it changed, and the sweep
    runs = by_trial(run_dir)
    assert [(row["_step"], row["step"]) for row in runs["t0009"].history] == [(0, 40), (1, 80), (2, 120)]
    assert [row["_step"] for row in runs[SWEEP].history] == sorted({row["_step"] for row in runs[SWEEP].history})
    assert len(board_rows(runs[SWEEP])) == 10


def test_importance_is_shown_where_the_trials_are_enough_and_rungs_count_who_reached_them() -> None:
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-5, -2, 24)
    rows = [({"model_size": "L4", "learning_rate": float(rate)}, [0.9, 0.7 + abs(np.log10(rate) + 3) / 9]) for rate in rates]
    space = {"learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}}
    record = make_searched(rows, space)
    found = boards.boards(record, entries(record, None))
    assert [row[0] for row in found["importance"].rows] == ["learning_rate"]
    assert [row[:3] for row in found["rungs"].rows] == [["rung 1", 40, 24], ["rung 2", 120, 24]]
    few = make_searched(rows[:9], space)
    assert "importance" not in boards.boards(few, entries(few, None))


def test_the_scaling_law_is_a_table_a_summary_and_an_image(tmp_path: Path) -> None:
    """A sweep of three sizes of which each has flattened; and one in which the sizes are too few."""
    sizes = {"L1": 1e6, "L4": 4e6, "L6": 1.6e7}
    events = [{"event": "session", "time": START, "resumed": False}]
    for number, (size, excess) in enumerate((size, excess) for size in sizes for excess in (1.0, 1.01, 1.02)):
        end = excess * (0.4 + 20 / sizes[size] ** 0.35)
        events += curve(number, size, [1.5 * end, 1.001 * end, end])
    ladder = [{"name": name, "n_params": n_params} for name, n_params in sizes.items()]
    write_run(tmp_path / "fits", [*events, ENDED], ladder=ladder)
    send(tmp_path / "fits")
    run = by_trial(tmp_path / "fits")[SWEEP]
    table = json.loads((run.folder / "files" / run.summary["scaling_law"]["path"]).read_text())
    assert [row[0] for row in table["data"]] == ["E", "A", "alpha", "predicted: n_params 32M", "predicted: n_params 64M"]
    assert run.summary["scaling/law"] == "saturating: E + A/X^alpha"
    assert run.summary["scaling/E"] == table["data"][0][1]
    image = run.folder / "files" / run.summary["charts/scaling_law.path"]
    assert image.read_bytes().startswith(b"\x89PNG")
    few = content.sweep_run(record := make_record([*make_events(), ENDED]), entries(record, None), [], over=True)
    assert few.summary["scaling/law"] is None
    assert few.summary["scaling/refused"].startswith("No fit: n_params has 2 of the 3 values")
    assert "scaling_law" not in few.boards


def test_a_prediction_stands_beside_what_the_final_run_reached(tmp_path: Path) -> None:
    model = write_promotion(tmp_path, "t0001")
    record = make_record()
    told = [promotions(record, tmp_path, entries(record, None))[0].summary]
    record.expected = {"t0001": (0.43, 0.02)}
    told += [promotions(record, tmp_path, entries(record, None))[0].summary]
    keys = ("reached_metric", "predicted_metric", "predicted_sd", "reached_minus_predicted")
    assert [[summary.get(key) for key in keys] for summary in told] == [
        [0.45, None, None, None],
        [0.45, 0.43, 0.02, pytest.approx(0.02)],
    ]
    (model / "provenance.json").write_text("{}")
    assert promotions(record, tmp_path, entries(record, None)) == []


def test_a_moved_folder_is_published_anew(tmp_path: Path) -> None:
    write_run(tmp_path / "here", make_events()[:30])
    written = send(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert send(tmp_path / "there") == written  # the files name the folder in which W&B keeps tables until they are synced
    files = (tmp_path / "there" / "wandb").glob("offline-run-*/run-*.wandb")
    assert not [path for path in files if str(tmp_path / "here").encode() in path.read_bytes()]


def test_a_long_history_is_complete(tmp_path: Path) -> None:
    report = next(event for event in make_events() if event["event"] == "report" and event["trial"] == "t0009")
    start = [event for event in make_events() if event["event"] == "session" or event.get("trial") == "t0009"][:3]
    reports = [{**report, "fidelity": step, "step": step, "time": START + 100 + step} for step in range(1, 301)]
    send(write_run(tmp_path / "sweep", [*start, *reports]))
    run = by_trial(tmp_path / "sweep")["t0009"]
    assert (run.folder / f"run-{run.run_id}.wandb").stat().st_size > 3 * 32 * 1024  # over several blocks of the log
    assert [row["step"] for row in run.history] == list(range(1, 301))


def test_one_process_at_a_time_writes_the_runs_of_a_folder(tmp_path: Path) -> None:
    import fcntl

    run_dir = write_run(tmp_path / "sweep", make_events())
    (run_dir / "wandb").mkdir()
    with (run_dir / "wandb" / "publishing.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process writes the W&B runs"):
            send(run_dir)


def test_a_tracker_without_a_login_writes_files_and_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE")
    run_dir = write_run(tmp_path / "sweep", [*make_events(), ENDED])
    said = io.StringIO()
    tracker = WandbTracker(read_record(run_dir), run_dir, "auto", stream=said)
    tracker.close(read_record(run_dir))
    assert (
        f"W&B: offline runs in {run_dir}/wandb; `scalesweep publish {run_dir}` uploads them and saves a workspace"
        in said.getvalue()
    )
    assert all(line.startswith("W&B: ") for line in said.getvalue().splitlines())
    assert len(by_trial(run_dir)) == 11


def test_the_mode_decides_whether_there_is_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TRACKERS) == {"wandb"}
    spec = make_manifest()["spec"]
    disabled = make_record([], spec=spec | {"tracking": {"wandb": spec["tracking"]["wandb"] | {"mode": "disabled"}}})
    assert make_trackers(disabled, tmp_path) == []
    assert make_trackers(make_record([], spec=spec | {"tracking": {}}), tmp_path) == []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    auto = make_record([], spec=spec | {"tracking": {"wandb": spec["tracking"]["wandb"] | {"mode": "auto"}}})
    assert make(auto, tmp_path) is None
