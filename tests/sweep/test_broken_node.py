"""A cluster of two real raylets, one of which can't run a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from scalesweep.record import read_record
from sweeps import sweep_dict


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head without GPUs, a node that is well, and one whose cache folder can't be made (a full or a read-only disk)."""
    file = tmp_path / "no-folder"
    file.touch()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=2, num_gpus=2)
    made.add_node(num_cpus=2, num_gpus=2, env_vars={"SCALESWEEP_CACHE": str(file / "cache")})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_node_where_no_worker_can_start_is_drained_and_reported(cluster: Cluster, tmp_path: Path) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(yaml.safe_dump(sweep_dict(budget={"run_cap": 6}, resources={"cpus_per_worker": 1})))
    command = [sys.executable, "-m", "scalesweep.cli", "launch", str(spec), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--address", cluster.address],
        # As the raylets were started: an earlier `ray.init` of this process has turned tokens on, or nothing has.
        capture_output=True, text=True, timeout=400, check=False, env={"RAY_AUTH_MODE": "disabled", **os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "run")
    states = [str(trial.state) for trial in record.trials.values()]
    assert len(states) == 6
    assert set(states) <= {"COMPLETE", "PRUNED"}
    (note,) = [note for note in record.notes if "is drained" in note]
    assert "a worker did not start there" in note
    assert "cache" in note
    assert "Traceback" not in done.stderr
