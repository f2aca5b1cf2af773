"""The files for clusters that are shipped beside cluster.yaml: KubeRay's manifests and the Slurm script."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from scalesweep.errors import SpecError
from scalesweep.record import read_record
from scalesweep.spec import load_sweep
from scalesweep.sweep.cluster import check_placement, read_cluster
from sweeps import sweep_dict

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "cluster"
SLURM = FOLDER / "slurm.sh"
KUBERAY = FOLDER / "kuberay.yaml"


def loose(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_these_are_all() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"kuberay.yaml", "kuberay-job.yaml", "slurm.sh"}


# ---- KubeRay -----------------------------------------------------------------------------------------------------------------


def test_rays_own_autoscaler_reads_the_manifest_as_we_do() -> None:
    """Ray's reader of a RayCluster turns it into an autoscaler's config, which Ray's schema then checks."""
    config = _derive_autoscaling_config_from_ray_cr(loose(KUBERAY))
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config, schema)
    theirs = {
        name: (node["max_workers"], node["resources"].get("GPU", 0), node["resources"]["CPU"])
        for name, node in config["available_node_types"].items()
        if name != config["head_node_type"]
    }
    head, *ours = read_cluster(KUBERAY).kinds
    assert {kind.name: (kind.count, kind.gpus, kind.cpus) for kind in ours} == theirs
    assert [kind.accelerator_type for kind in ours] == ["A10G", "A100"]
    assert (head.gpus, head.cpus) == (0, 0) == (0, config["available_node_types"][config["head_node_type"]]["resources"]["CPU"])


def test_pods_are_alike_and_have_what_the_manifest_says() -> None:
    spec = loose(KUBERAY)["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert all({"name": "runs", "mountPath": "/shared"} in pod["containers"][0]["volumeMounts"] for pod in pods)
    for group, pod in zip(groups[1:], pods[1:], strict=True):
        limits = pod["containers"][0]["resources"]["limits"]
        assert (limits["cpu"], limits["nvidia.com/gpu"]) == (group["resources"]["CPU"], group["resources"]["GPU"])
        assert not group["rayStartParams"], "KubeRay refuses resources in both"
    job = loose(FOLDER / "kuberay-job.yaml")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": loose(KUBERAY)["metadata"]["name"]}
    assert job["metadata"]["namespace"] == loose(KUBERAY)["metadata"]["namespace"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    sweep, run_dir = re.fullmatch(  # type: ignore[union-attr]
        r"scalesweep launch /opt/scalesweep/(\S+) --address auto --run-dir (\S+)", job["spec"]["entrypoint"]
    ).groups()
    assert load_sweep(ROOT / sweep)
    assert run_dir.startswith("/shared/")


@pytest.mark.parametrize("file", ["cluster.yaml", "docs/cluster/kuberay.yaml"])
def test_the_shipped_sweep_fits_the_shipped_clusters(file: str) -> None:
    cluster = read_cluster(ROOT / file)
    check_placement(load_sweep(ROOT / "sweeps" / "bert-ladder.yaml"), cluster)
    assert cluster.gpus == 4 * 4 + 2 * 8
    with pytest.raises(SpecError, match="33 is above 32, the most GPUs"):
        check_placement(load_sweep(ROOT / "sweeps" / "bert-ladder.yaml", ["resources.max_gpus=33"]), cluster)


# ---- closed to the world -----------------------------------------------------------------------------------------------------


def test_kuberay_opens_no_port_and_asks_for_a_token() -> None:
    spec = loose(KUBERAY)["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for path in (KUBERAY, FOLDER / "kuberay-job.yaml"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"LoadBalancer|NodePort|hostNetwork|hostPort|enableIngress|Ingress|RAY_AUTH_MODE", text)


def test_slurm_starts_no_dashboard_and_asks_for_a_token() -> None:
    text = SLURM.read_text(encoding="utf-8")
    assert "export RAY_AUTH_MODE=token" in text
    assert text.index("export RAY_AUTH_MODE=token") < text.index("ray start")
    assert "--include-dashboard=false" in text
    assert "umask 077" in text
    assert "dashboard-host" not in text
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_secret_is_in_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"hf_[A-Za-z0-9]{20}|-----BEGIN|WANDB_API_KEY=\w|[0-9a-f]{32}", text)


# ---- Slurm -------------------------------------------------------------------------------------------------------------------


def test_the_slurm_script_is_right_bash() -> None:
    assert os.access(SLURM, os.X_OK)
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0
    shellcheck = str(Path(sys.executable).parent / "shellcheck")
    subprocess.run([shellcheck, "--exclude=SC1091", str(SLURM)], check=True)  # what it sources is not there


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
hostname
"""


@pytest.mark.rest
def test_the_slurm_script_runs_a_sweep_and_resumes_it(tmp_path: Path) -> None:
    """Both nodes are this machine: `srun` runs what it is given here, and all else is real."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={programs}:{Path(sys.executable).parent}:$PATH\n")
    scalesweep = f'#!/usr/bin/env bash\nexec {sys.executable} -m scalesweep.cli "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scalesweep", scalesweep)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    spec = tmp_path / "tiny.yaml"
    spec.write_text(yaml.safe_dump(sweep_dict(budget={"run_cap": 3}, resources={"placement": "strict_pack"})))
    token = tmp_path / "token"
    with socket.socket() as probe:  # the job's number decides on its ports
        probe.bind(("", 0))
        job = str(probe.getsockname()[1] % 10_000)
    environment = {
        "VENV": str(tmp_path / "venv"), "RAY_AUTH_TOKEN_PATH": str(token), "SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "2",
    }  # fmt: skip

    def submitted() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SLURM), str(spec), str(tmp_path / "run")],
            capture_output=True, text=True, timeout=400, check=False, env={**os.environ, **environment},
        )  # fmt: skip

    done = submitted()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_record(tmp_path / "run").trials) == 3
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    again = submitted()
    assert (again.returncode, "has ended" in again.stderr) == (2, True), again.stdout + again.stderr
