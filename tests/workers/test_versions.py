"""The versions on the nodes of a real cluster are compared with those of the driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from scalesweep.errors import OutsideError
from scalesweep.workers import pool as pools
from scalesweep.workers.pool import WorkerPool
from scalesweep.workers.versions import difference, installed
from sweeps import sweep_dict


def test_what_differs_is_named_with_both_versions() -> None:
    here = installed()
    assert difference(here, installed()) == ""
    assert difference(here, {**here, "torch": "1.0"}) == f"torch 1.0 instead of {here['torch']}"
    assert "sources" in here["scalesweep"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head, a node with another transformers, and one where scalesweep can't be imported."""
    other = tmp_path / "other" / "transformers-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    broken = tmp_path / "broken" / "scalesweep"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'scalesweep'\")\n")
    path = os.environ.get("PYTHONPATH", "")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for folder in ("other", "broken"):
        made.add_node(num_cpus=1, num_gpus=1, env_vars={"PYTHONPATH": f"{tmp_path / folder}{os.pathsep}{path}"})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_sweep_does_not_start_where_nodes_differ(cluster: Cluster, tmp_path: Path) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(yaml.safe_dump(sweep_dict()))
    command = [sys.executable, "-m", "scalesweep.cli", "launch", str(spec), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--address", cluster.address],
        capture_output=True, text=True, timeout=300, check=False, env={"RAY_AUTH_MODE": "disabled", **os.environ},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "transformers" in line]
    assert "has transformers 0.0.1 instead of" in line
    assert line.count(",") == 0, "nothing else differs"
    (line,) = [line for line in done.stderr.splitlines() if "can't import" in line]
    assert "No module named 'scalesweep'" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_worker_on_a_node_that_joins_later_compares_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "installed", lambda: {**installed(), "torch": "1.0"})
    pool = WorkerPool(threads=1, on_gpus=True)
    try:
        with pytest.raises(OutsideError, match=r"installed versions differ from the driver's: torch .* instead of 1\.0"):
            pool.lease_soon("t", 1)
    finally:
        pool.shutdown()
