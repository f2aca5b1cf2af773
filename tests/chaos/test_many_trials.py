"""Many short trials at once: the driver keeps up with them, and books every one of them once."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune

from scalesweep.control.conductor import Conductor
from scalesweep.record import read_record
from scalesweep.record.manifest import SCHEMA_VERSION
from scalesweep.record.store import RecordWriter, read_events
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, manifest
from scalesweep.simulation.parametric import family_spec
from scalesweep.simulation.replay import replay_decisions
from scalesweep.spec import sweep_from_dict
from scalesweep.sweep.bridge import run_tune
from scalesweep.sweep.launch import TUNE_SETTINGS
from scalesweep.sweep.study import new_study_storage
from scalesweep.sweep.trainable import placement

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

GPUS, TRIALS = 32, int(os.environ.get("SCALESWEEP_LOAD_TRIALS", "500"))


def one_second() -> type[tune.Trainable]:
    """A trial of one report, without workers. Made here so that it travels by value: trial processes have no tests."""

    class OneSecond(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None: ...

        def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(1)
            return {"report": {"fidelity": 1, "step": 1, "tokens": 0, "flops": 0.0, "metrics": {"eval_loss": 1.0}}}

    return OneSecond


def test_many_trials_of_a_second_on_32_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = family_spec("trend")
    document["search_space"]["parameters"]["num_gpus"] = {"values": [1]}
    document |= {
        "budget": {"run_cap": TRIALS},
        "search": {"sampler": "random"},
        "early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 1, "max_t": 1},
    }
    spec = sweep_from_dict(document)
    run_dir = tmp_path / "run"
    writer = RecordWriter(run_dir, {"schema_version": SCHEMA_VERSION, "name": "load", **manifest(spec, {})})
    proposer = Proposer(spec, new_study_storage(run_dir / "study.log"))
    conductor = Conductor(spec, writer, proposer, lambda: GPUS, Everywhere(), time.time, [])
    for key, value in TUNE_SETTINGS.items():
        monkeypatch.setenv(key, value)
    ray.init(
        address="local", num_cpus=GPUS, num_gpus=GPUS, include_dashboard=False, log_to_driver=False,
        object_store_memory=200 * 1024**2, _memory=100 * 1024**3,
    )  # fmt: skip
    before = psutil.Process().memory_info().rss
    try:
        run_tune(conductor, one_second(), placement(GPUS), lambda trial: {"trial": trial.name}, str(tmp_path / "tune"))
    finally:
        ray.shutdown()
    conductor.end_sweep()
    conductor.close()
    writer.close()

    record, events = read_record(run_dir), list(read_events(run_dir))
    assert len(record.trials) == TRIALS
    assert {str(trial.state) for trial in record.trials.values()} == {"COMPLETE"}
    for kind in ("start", "report", "end"):
        assert len([event for event in events if event["event"] == kind]) == TRIALS, kind
    held = list(itertools.accumulate({"start": 1, "end": -1}.get(event["event"], 0) for event in events))
    assert max(held) == GPUS, "as many at once as there are GPUs, and no more"
    states = [str(trial.state.name) for trial in proposer.study.trials]
    assert states == ["COMPLETE"] * TRIALS
    assert psutil.Process().memory_info().rss - before < 300 * 1024**2
    replayed = replay_decisions(events, record.manifest, spec)
    assert replayed.decisions >= 2 * TRIALS
    assert replayed.differences == []
