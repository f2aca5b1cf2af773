"""A cluster of two real raylets, one of which can't run a trial."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.cluster_utils import Cluster

from scalesweep.record import Record, read_record
from sessions import ONE_GPU
from sweeps import sweep_dict

pytestmark = pytest.mark.rest

# Every trial on the node fails as on a GPU whose memory is worn out: after it has begun, with an error.
WORN_OUT = """
import sys
from importlib.machinery import PathFinder

def train(trainer):
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    yield

class Worn:
    @staticmethod
    def find_spec(name, path, target=None):
        if name != "scalesweep.training.loop":
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), setattr(module, "train", train))
        return spec

sys.meta_path.insert(0, Worn)
"""


# Long trials: a worker that takes the place of a killed one needs seconds.
LONG = {"type": "asha", "time_attr": "steps", "grace_period": 50, "max_t": 100}


@contextlib.contextmanager
def cluster(**environment: str) -> Iterator[Cluster]:
    """A head without GPUs, a node that is well, and one with that environment."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=2, num_gpus=2)
    made.add_node(num_cpus=2, num_gpus=2, env_vars=environment)
    yield made
    made.shutdown()


def launched(cluster: Cluster, tmp_path: Path, **changes: Any) -> Record:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(yaml.safe_dump(sweep_dict(resources={"cpus_per_worker": 1}, **changes)))
    command = [sys.executable, "-m", "scalesweep.cli", "launch", str(spec), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--address", cluster.address],
        # As the raylets were started: an earlier `ray.init` of this process has turned tokens on, or nothing has.
        capture_output=True, text=True, timeout=400, check=False, env={"RAY_AUTH_MODE": "disabled", **os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return read_record(tmp_path / "run")


def test_a_node_where_no_worker_can_start_is_drained_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "no-folder"
    file.touch()
    with cluster(SCALESWEEP_CACHE=str(file / "cache")) as made:  # a full or a read-only disk
        record = launched(made, tmp_path, budget={"run_cap": 6})
    states = [str(trial.state) for trial in record.trials.values()]
    assert len(states) == 6
    assert set(states) <= {"COMPLETE", "PRUNED"}
    (note,) = [note for note in record.notes if "is drained" in note]
    assert "because a worker could not start there" in note
    assert "cache" in note


def test_a_node_where_every_trial_fails_is_drained_after_a_few(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WORN_OUT)
    with cluster(PYTHONPATH=str(tmp_path)) as made:
        record = launched(made, tmp_path, budget={"run_cap": 9}, search_space=ONE_GPU, early_terminate=LONG)
    failed = [trial for trial in record.by_number() if str(trial.state) == "FAIL"]
    assert len(record.trials) == 9
    assert {str(trial.state) for trial in record.trials.values()} <= {"COMPLETE", "PRUNED", "FAIL"}
    (note,) = [note for note in record.notes if "is drained" in note]
    assert "ECC" in note
    assert 3 <= len(failed) <= 5, "the third, or the fourth while few have done well elsewhere; one more may run there then"
    assert all("ECC" in str(trial.error) for trial in failed)
    for trial in failed:
        text = (tmp_path / "run" / str(trial.traceback)).read_text()
        assert "in next" in text
        assert "ECC" in text.splitlines()[-1]
    assert sum(trial.name in note for trial in failed) >= 3
