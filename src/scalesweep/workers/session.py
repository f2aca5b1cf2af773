"""Joins a running Ray cluster, or starts a local one. Nothing in the surroundings decides which: without an address it is local."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from scalesweep.errors import OutsideError, UserError

VERSIONS_SECONDS = 120.0  # time for nodes to report their installed versions
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # longest path of a Unix socket
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")  # one entry for each GPU of this machine
OBJECT_STORE_BYTES = 100 * 1024**2  # enough for configs and reports, the only objects of a local cluster


def usable_cpus(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPUs that this process may use: those it may run on, at most the CPU quota of its container.

    `groups` and `mount` are the kernel's lists of control groups. A quota of 1.5 CPUs counts as one.
    """
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(present, int(min(_cpu_quotas(groups, mount), default=present))))


def _cpu_quotas(groups: Path, mount: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of this process's control groups and all above them, in version 1 and 2."""
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (mount, mount / "unified") if not controllers else (mount / controllers, mount / "cpu"):
            inner = root / path.strip("/")
            for folder in [inner, *inner.parents][: len(inner.parts) - len(root.parts) + 1]:
                with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no quota here
                    if controllers:
                        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                    else:
                        quota, period = (folder / "cpu.max").read_text().split()
                    if int(quota) > 0:
                        yield int(quota) / int(period)


def visible_gpus() -> int:
    """Return the number of this machine's GPUs. Counts the driver's entries, because importing torch is slow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return _present_gpus(DRIVER_GPUS)


def _present_gpus(entries: Path) -> int:
    return len(list(entries.iterdir())) if entries.is_dir() else 0


@contextlib.contextmanager
def logical_gpus(num_gpus: int, entries: Path = DRIVER_GPUS) -> Iterator[None]:
    """Let Ray start with `num_gpus` logical GPUs in the block, where CUDA_VISIBLE_DEVICES names fewer. `entries` are the driver's.

    On a machine without a GPU, the variable hides nothing, and CPU workers stand for the GPUs as without it.

    Raises:
        UserError: if the variable hides GPUs, which the workers would then use.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is None or num_gpus <= visible_gpus():
        yield
        return
    if _present_gpus(entries):
        raise UserError(
            f"--num-gpus {num_gpus} is more than the {visible_gpus()} GPU(s) in CUDA_VISIBLE_DEVICES={hidden}",
            "name more GPUs in CUDA_VISIBLE_DEVICES, unset it, or lower --num-gpus",
        )
    del os.environ["CUDA_VISIBLE_DEVICES"]
    try:
        yield
    finally:
        os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _ray_folder() -> Path:
    """Return the folder that Ray chooses for its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray").absolute()


def short_folder(fallback: str = "/tmp") -> str | None:
    """Return a folder for Ray's sessions if its own choice is too long for the path of a socket; None if it is not.

    Raises:
        OutsideError: if it is, and `fallback` can't be written.
    """
    longest = SOCKET_BYTES - len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")
    chosen = _ray_folder()
    if len(os.fsencode(chosen)) <= longest:
        return None
    if not os.access(fallback, os.W_OK | os.X_OK):
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        raise OutsideError(
            f"Ray can't put its sockets below {chosen}: their paths may have {SOCKET_BYTES} bytes",
            f"set RAY_TMPDIR to a folder that you can write, of at most {longest - len('/ray')} bytes; {name} is longer",
        )
    return f"{fallback}/ray"


@contextlib.contextmanager
def ray_cluster(address: str | None, num_gpus: int | None = None) -> Iterator[None]:
    """Join the cluster at `address`, or start a local cluster of this process's own, for the duration of the block.

    A process that is connected to Ray already, such as a notebook, stays on that cluster if no address is given.

    Raises:
        UserError: if a driver can't run at such an address, or `num_gpus` exceeds the GPUs in CUDA_VISIBLE_DEVICES.
        OutsideError: if no cluster answers, or a node has other package versions.
    """
    if address:
        check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    import ray

    if address is None and ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.tune", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the record and our own progress report errors
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            gpus = visible_gpus() if num_gpus is None else num_gpus
            with logical_gpus(gpus):
                ray.init(
                    address="local",
                    num_cpus=usable_cpus(),
                    num_gpus=gpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=short_folder(),
                    **common,
                )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        where = f"no Ray cluster answers at {address}" if address else "a local Ray cluster did not start"
        hint = "run `ray status` to see whether a cluster is up"
        if not address:
            hint = f"Ray's logs are in {short_folder() or _ray_folder()}/session_latest/logs"
        raise OutsideError(f"{where}: {str(error).splitlines()[0]}", hint) from None
    try:
        if address:
            _check_versions()
        yield
    finally:
        ray.shutdown()


def _last_cluster(processes: Path) -> str:
    """Return the address that `ray start` has left on this node; empty if it left none, or a head runs here."""
    for path in processes.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # the process has ended
            if path.read_text().startswith("gcs_server"):
                return ""
    last = _ray_folder() / "ray_current_cluster"
    return last.read_text().strip() if last.is_file() else ""


def check_address(address: str, processes: Path = Path("/proc")) -> None:
    """Check quickly that a cluster can answer at the address. Ray itself would try for minutes.

    For `auto`, Ray takes the address in RAY_ADDRESS if there is one, as in a Ray job.

    Raises:
        UserError: if a driver can't run at such an address.
        OutsideError: if nothing answers there.
    """
    named, hint = f"--address {address}", ""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        named, hint = f"RAY_ADDRESS={address}", "unset RAY_ADDRESS, so that 'auto' finds the cluster of this node"
        if address in ("", "auto"):
            address = _last_cluster(processes)
            named, hint = f"{address}, this node's last cluster", "start one with `ray start`, or leave --address out"
            if not address:
                return
    if address.startswith(("ray://", "http://", "https://")):
        hint = (
            hint
            or "use `scalesweep launch` or `resume`, which run the driver as a Ray job; on a node of the cluster, use 'auto'"
        )
        raise UserError(f"{named} is a client address, and the driver must run on the cluster", hint)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        hint = hint or "write 'auto' on a node of the cluster, or its head's HOST:6379"
        raise UserError(f"{named} is not HOST:PORT", hint)
    try:
        knock(host.strip("[]"), int(port))
    except OSError as error:
        hint = hint or "run `ray status` to see whether a cluster is up; without --address, a local cluster is started"
        raise OutsideError(f"no Ray cluster answers at {named.removeprefix('--address ')} ({error})", hint) from None


def knock(host: str, port: int) -> None:
    """Check quickly that a server listens at an address.

    Raises:
        OSError: none does.
    """
    socket.create_connection((host, port), timeout=10).close()


def _check_versions() -> None:
    """Compare the package versions of every node with those of this process.

    A node that does not answer in time is skipped; workers check it when they start there.

    Raises:
        OutsideError: if a node has other versions, or can't import scalesweep.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from scalesweep.workers.versions import difference, installed

    ask, asked = ray.remote(num_cpus=0, max_retries=0)(installed), {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ask.options(scheduling_strategy=there).remote()] = node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=VERSIONS_SECONDS)
    wrong = []
    for reference in ready:
        try:
            if found := difference(installed(), ray.get(reference)):
                wrong.append(f"node {asked[reference]} has {found}")
        except RayTaskError as error:
            wrong.append(f"node {asked[reference]} can't import scalesweep: {str(error.cause).strip().splitlines()[-1]}")
        except RayError:
            continue  # the node has just gone
    if wrong:
        hint = "install the same versions on every node (constraints.txt pins them), and start Ray from that environment"
        raise OutsideError("\n".join(wrong), hint)
