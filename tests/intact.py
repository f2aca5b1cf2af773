"""Checks of a sweep that ended, whatever was killed meanwhile. They read its files without the code that wrote them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import command_line


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    """Every whole line of the record so far."""
    path = run_dir / "record.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def check(run_dir: Path) -> None:
    """All of it, for a sweep with ASHA that stops (`variant: stopping`), checkpoints at each report, and has ended."""
    events = events_of(run_dir)
    assert events[-1]["event"] == "sweep_ended"
    by_trial: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        for trial in [event["trial"]] if "trial" in event else list(by_trial) if event["event"] == "session" else []:
            by_trial[trial].append(event)
    for name, told in by_trial.items():
        check_trial(name, told)
    check_rungs(events)
    check_study(run_dir, by_trial)
    assert not list((run_dir / "checkpoints").iterdir()), "checkpoints of ended trials must go"
    replayed = command_line.run("simulate", run_dir, "--replay")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "all as recorded" in replayed.stdout


def check_trial(name: str, told: list[dict[str, Any]]) -> None:
    """No finished trial lost or run again, none that loses more than the work since its last checkpoint."""
    kinds = [event["event"] for event in told]
    assert kinds.count("trial") == 1, name
    assert kinds.count("end") == 1, (name, kinds)
    after = told[kinds.index("end") + 1 :]
    assert {event["event"] for event in after} <= {"session"}, (name, kinds)
    reports = [event["fidelity"] for event in told if event["event"] == "report"]
    assert reports == sorted(set(reports)), (name, "a report was judged twice")
    assert all(e["action"] == "continue" for e in [e for e in told if e["event"] == "report"][:-1]), name
    for costs in ("wall_seconds", "gpu_seconds"):
        spent = [event[costs] for event in told if costs in event]
        assert spent == sorted(spent), (name, costs)
    attempt = 0
    so_far: list[float] = []
    for place, event in enumerate(told):
        if event["event"] == "start":
            attempt += 1
            assert event["attempt"] == attempt, name
            following = told[place + 1]
            if not so_far or following["event"] in ("died", "session", "end", "start"):
                continue
            # It goes on from its newest checkpoint, which is written before it trains on to its next report. Where that was
            # written before the report was given out, which then died on its way, it is the next report, from no step of training.
            if following["event"] == "report":
                assert following["first_step_at"] == 0, (name, following, "it began anew")
                continue
            assert following["event"] == "repeated", (name, following)
            if len(so_far) > 1:
                assert following["fidelity"] >= so_far[-2], (name, so_far, following)
                assert following["first_step_at"] == 0, (name, "it began anew")
        elif event["event"] == "report":
            so_far.append(event["fidelity"])


def check_rungs(events: list[dict[str, Any]]) -> None:
    """ASHA as Ray has it, over the reports in their order, gives the verdicts that were recorded."""
    seen: dict[int, list[float]] = defaultdict(list)
    factor = 3
    for event in events:
        if event["event"] != "report" or event["action"] == "complete":
            continue
        value = event["metrics"]["eval_loss"]
        for rung in event["rungs"]:
            cutoff = np.percentile(seen[rung], 100 / factor) if seen[rung] else None
            seen[rung].append(value)
            assert event["cutoff"] == (None if cutoff is None else float(cutoff)) or math.isclose(event["cutoff"], cutoff), (
                event
            )
            assert event["action"] == ("stop" if cutoff is not None and value > cutoff else "continue"), event
    assert seen, "no trial was judged"


def check_study(run_dir: Path, by_trial: dict[str, list[dict[str, Any]]]) -> None:
    """Optuna's study has the record's trials, states and values."""
    (name,) = {json.loads((run_dir / "sweep.json").read_text())["name"]}
    study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(run_dir / "study.log"))))
    frozen = {trial.user_attrs["trial"]: trial for trial in study.trials if "not run" not in trial.user_attrs}
    assert frozen.keys() == by_trial.keys()
    for trial, told in by_trial.items():
        reports = {event["fidelity"]: event["metrics"]["eval_loss"] for event in told if event["event"] == "report"}
        assert frozen[trial].intermediate_values == reports, trial
        for event in (event for event in told if event["event"] == "end"):
            assert frozen[trial].user_attrs["stop_reason"] == event["reason"], trial
            assert frozen[trial].user_attrs["gpu_seconds"] == event["gpu_seconds"], trial
        assert [frozen[trial].state.name] == [event["state"] for event in told if event["event"] == "end"], trial


def outcome(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The outcome of a sweep, without times. Two sweeps with equal outcomes show that nothing made a difference."""
    kept: dict[str, list[Any]] = defaultdict(list)
    for event in events:
        if event["event"] == "trial":
            kept[event["trial"]].append(event["params"])
        elif event["event"] == "report":
            kept[event["trial"]].append([event[key] for key in ("fidelity", "tokens", "metrics", "rungs", "action", "cutoff")])
        elif event["event"] == "end":
            kept[event["trial"]].append([event[key] for key in ("state", "reason")])
    return dict(kept)
