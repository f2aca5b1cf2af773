"""Joining a cluster: addresses that can't be used are told at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from command_line import refused
from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.workers.session import SOCKET_BYTES, check_address, logical_gpus, ray_cluster, short_folder, usable_cpus


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "surrounding", "kind", "words"),
    [
        ("ray://head:10001", None, UserError, "is a client address"),
        ("http://head:8265", None, UserError, "is a client address"),
        ("head", None, UserError, "not HOST:PORT"),
        ("127.0.0.1:CLOSED", None, OutsideError, "no Ray cluster answers at 127.0.0.1:"),
        ("127.0.0.1:CLOSED", "head:6379", OutsideError, "no Ray cluster answers at 127.0.0.1:"),
        ("auto", "127.0.0.1:CLOSED", OutsideError, "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("auto", "ray://head:10001", UserError, "RAY_ADDRESS=ray://head:10001 is a client address"),
        ("auto", "head", UserError, "RAY_ADDRESS=head is not HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(
    address: str, surrounding: str | None, kind: type[ScalesweepError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(closed_port())
    if surrounding is not None:
        monkeypatch.setenv("RAY_ADDRESS", surrounding.replace("CLOSED", closed))
    with pytest.raises(kind, match=words) as caught, ray_cluster(address.replace("CLOSED", closed)):
        pass
    assert caught.value.hint
    assert ("RAY_ADDRESS" in caught.value.hint) == (address == "auto")


def test_a_cluster_that_is_gone_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves the address of a cluster on its nodes, also when the cluster ends by a loss of power."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port()}")
    with pytest.raises(OutsideError, match=r"no Ray cluster answers at 127.0.0.1:[0-9]+, this node's last cluster"):
        check_address("auto", processes=tmp_path)
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "comm").write_text("gcs_server\n")
    check_address("auto", processes=tmp_path)  # a head runs here, and Ray finds it by itself


def test_following_a_job_of_a_cluster_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    assert "no Ray cluster answers at RAY_ADDRESS=" in refused("attach", "runs/x", "--address", "auto", code=4)


def test_a_long_folder_for_temporary_files_is_no_place_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "a" * 38)  # as long as may be: socket paths have 107 bytes, 64 of them below /ray
    assert short_folder() is None
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "/" + "a" * 39)
        assert short_folder(str(tmp_path)) == str(tmp_path / "ray")
        with pytest.raises(OutsideError, match=f"{SOCKET_BYTES} bytes") as caught:
            short_folder(str(tmp_path / "missing"))
        assert f"; {name} is longer" in caught.value.hint


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),  # a container with a view of its own group
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {}, None),
        ("0::/batch/job7\n", {"batch/cpu.max": "150000 100000", "batch/job7/cpu.max": "max 100000"}, 1),
        ("0::/batch/job7\n", {"batch/cpu.max": "900000 100000", "batch/job7/cpu.max": "50000 100000"}, 1),
        ("0::/batch/job7\n", {"cpu.max": "9900000 100000"}, None),  # more than the machine has
        ("4:cpu,cpuacct:/\n1:memory:/x\n", {"cpu,cpuacct/cpu.cfs_quota_us": "120000"}, 1),
        ("4:cpu,cpuacct:/docker/f00\n", {"cpu/cpu.cfs_quota_us": "120000"}, 1),  # a container of version 1 sees only its own
        ("4:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1"}, None),
    ],
)
def test_the_cpu_quota_of_a_container_counts(groups: str, files: dict[str, str], cpus: int | None, tmp_path: Path) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        path.with_name("cpu.cfs_period_us").write_text("100000\n")
    present = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path / "groups", tmp_path / "mount") == (present if cpus is None else cpus)
    assert usable_cpus(tmp_path / "missing") == present


def test_logical_gpus_where_cuda_visible_devices_names_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        with logical_gpus(2, entries=tmp_path / "none"):
            assert "CUDA_VISIBLE_DEVICES" not in os.environ, "Ray would refuse to start"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == hidden
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "0000:01:00.0").mkdir()
    with logical_gpus(1, entries=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    with (
        pytest.raises(UserError, match=r"--num-gpus 2 is more than the 1 GPU\(s\) in CUDA_VISIBLE_DEVICES=0"),
        logical_gpus(2, tmp_path),
    ):
        pass
