"""A Ray cluster of several nodes on one machine, each of which can be killed, started again, and cut off.

Where the machine allows it (Linux, root, `ip`) each node is in a network namespace of its own with an address of its own, and
has a temporary folder of its own; else all share the host's address, as with `ray.cluster_utils.Cluster`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RAY = str(Path(sys.executable).parent / "ray")
PORT = 6379
NOTICE = "/tmp/ray/will-be-taken-away"  # each node's own /tmp/ray
MARK = "SCALESWEEP_TEST_NODE"  # in the environment of every process of a node
SETTINGS = {
    # A node that is gone is known to be gone after some ten seconds, also where nothing says so.
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
    # Two cores are shared by all nodes.
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}


@functools.cache
def has_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    name = f"ssp{secrets.token_hex(3)}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        works = subprocess.run(
            ["ip", "netns", "exec", name, "unshare", "-m", "mount", "--bind", "/tmp", "/mnt"], capture_output=True, check=False
        )
        bridge = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False)
        return made.returncode == works.returncode == bridge.returncode == 0
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Node:
    """`index` 0 is the head. A node that is killed and started again is the same machine: it keeps its cache folder."""

    index: int
    address: str
    mark: str
    cpus: int
    gpus: int
    starter: subprocess.Popen[bytes] | None = None

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on the node."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


class Cluster:
    """A head without GPUs and `workers` nodes of `gpus` logical ones. Use it as a context."""

    def __init__(self, workers: int = 3, gpus: int = 1, cpus: int | None = None, **settings: str) -> None:
        self.apart = has_namespaces()
        self._tag = f"ss{secrets.token_hex(3)}"
        self.folder = Path(tempfile.mkdtemp(prefix="ssn", dir="/tmp"))  # short: paths of Unix sockets are bounded
        self._subnet = f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self._settings = {**SETTINGS, **settings}
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self._settings["RAY_AUTH_TOKEN_PATH"] = str(token)
        self._gpus, self._cpus = gpus, cpus or gpus
        self.port = PORT if self.apart else 20000 + secrets.randbelow(20000)
        self.nodes: dict[int, Node] = {}
        self._made = 0
        try:
            if self.apart:
                _ip("link", "add", self._tag, "type", "bridge")
                _ip("link", "set", self._tag, "up")
            self.add_node(cpus=1, gpus=0)
            for _ in range(workers):
                self.add_node(wait=False)
            self.wait_for_nodes(workers + 1)
        except BaseException:
            self.shutdown()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def address(self) -> str:
        return f"{self.nodes[0].address}:{self.port}"

    # ---- nodes ----------------------------------------------------------------------------------------------------------

    def add_node(self, cpus: int | None = None, gpus: int | None = None, wait: bool = True, **settings: str) -> Node:
        """A further machine; the first one is the head."""
        index = self._made
        self._made += 1
        if self.apart:
            space, outer = self._space(index), f"{self._tag}v{index}"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outer, "master", self._tag, "up")
            inside = ["netns", "exec", space, "ip"]
            _ip(*inside, "addr", "add", f"{self._subnet}.{index + 1}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip(*inside, "link", "set", device, "up")
        node = Node(
            index,
            f"{self._subnet}.{index + 1}" if self.apart else "127.0.0.1",
            f"{self._tag}-{index}",
            self._cpus if cpus is None else cpus,
            self._gpus if gpus is None else gpus,
        )
        self.nodes[index] = node
        self.start_node(index, wait, **settings)
        return node

    def start_node(self, index: int, wait: bool = True, **settings: str) -> None:
        """Switch a machine on (again)."""
        node = self.nodes[index]
        if self.apart:
            _ip("link", "set", f"{self._tag}v{index}", "up")
            (self._ray_folder(index) / Path(NOTICE).name).unlink(missing_ok=True)
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"] if index == 0 else [f"--address={self.address}"]
        command = [
            RAY, "start", *head, f"--node-ip-address={node.address}", f"--num-cpus={node.cpus}", f"--num-gpus={node.gpus}",
            "--object-store-memory=80000000", "--disable-usage-stats", "--block",
        ]  # fmt: skip
        if not self.apart:
            command += [f"--temp-dir={self._ray_folder(index)}"] if index == 0 else []
        environment = self.environment(index) | {MARK: node.mark} | settings
        with (self.folder / f"node-{index}.log").open("ab") as log:
            node.starter = subprocess.Popen(
                self.inside(command, index), env=environment, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_for_nodes(sum(self._runs(other) for other in self.nodes.values()))

    @staticmethod
    def _runs(node: Node) -> bool:
        return node.starter is not None and node.starter.poll() is None

    def kill_node(self, index: int) -> None:
        """Power off: the network goes first, so that no peer is told, then everything dies at once."""
        node = self.nodes[index]
        if self.apart:
            _ip("link", "set", f"{self._tag}v{index}", "down")
        self._kill_processes(node)
        if node.starter is not None:
            node.starter.wait()
            node.starter = None

    @staticmethod
    def _kill_processes(node: Node) -> None:
        while processes := node.processes():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=1)

    def restart_head(self) -> None:
        """As a new head of the same address comes up, with nothing of the old one's; the nodes join it anew."""
        for index in self.nodes:
            if index:
                self.kill_node(index)
        self.start_node(0)
        for index in self.nodes:
            if index:
                self.start_node(index, wait=False)
        self.wait_for_nodes(len(self.nodes))

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of any node whose command line has `word` in it."""
        found = []
        for node in self.nodes.values():
            for process in node.processes():
                with contextlib.suppress(psutil.Error):
                    if word in " ".join(process.cmdline()):
                        found.append(process)
        return found

    # ---- what Ray says ---------------------------------------------------------------------------------------------------

    def alive(self) -> list[dict[str, Any]]:
        """Those that live, as the head's store has them, with the names of `ray.nodes()`."""
        script = (  # without `ray.init`, which takes seconds
            "import json; from ray._raylet import GcsClient; from ray.core.generated.gcs_pb2 import GcsNodeInfo\n"
            f"found = GcsClient(address='{self.address}').get_all_node_info(timeout=20).values()\n"
            "told = [{'NodeID': node.node_id.hex(), 'NodeManagerAddress': node.node_manager_address,\n"
            "  'Resources': dict(node.resources_total)} for node in found if node.state == GcsNodeInfo.ALIVE]\n"
            "print('nodes:' + json.dumps(told))"
        )
        done = self.run([sys.executable, "-c", script], timeout=60)
        told = [line.removeprefix("nodes:") for line in done.stdout.splitlines() if line.startswith("nodes:")]
        return list(json.loads(told[0])) if told else []

    def wait_for_nodes(self, count: int, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while len(self.alive()) != count:
            logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("node-*.log"))
            assert time.monotonic() < until, f"there are not {count} nodes:\n{logs}"
            time.sleep(0.5)

    def announce_end(self, index: int) -> None:
        """Announce that a spot machine will be taken away: `NOTICE` appears on it."""
        assert self.apart, "all nodes would see it"
        (self._ray_folder(index) / Path(NOTICE).name).touch()

    # ---- processes on a node ---------------------------------------------------------------------------------------------

    def environment(self, index: int = 0) -> dict[str, str]:
        """The environment of every process on a machine."""
        cache = self.folder / f"cache-{index}"
        own = {"SCALESWEEP_CACHE": str(cache), "TMPDIR": "/tmp"}
        if self.apart:
            own["GLOO_SOCKET_IFNAME"] = "eth0"  # this host's name resolves to 127.0.0.1, also in there
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != MARK}
        return {**inherited, **self._settings, **own}

    def inside(self, command: list[str], index: int = 0) -> list[str]:
        """The command, to be run on a machine: its network, and its own /tmp/ray. It is exec'd: the process is the command."""
        if not self.apart:
            return command
        folder = self._ray_folder(index)
        mount = f'mkdir -p /tmp/ray && mount --bind {folder} /tmp/ray && exec "$@"'
        return ["ip", "netns", "exec", self._space(index), "unshare", "-m", "sh", "-c", mount, "sh", *command]

    def popen(self, command: list[str], index: int = 0, **options: Any) -> subprocess.Popen[str]:
        environment = self.environment(index) | options.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(self.inside(command, index), env=environment, text=True, **pipes)

    def run(self, command: list[str], index: int = 0, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        process = self.popen(command, index)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return subprocess.CompletedProcess(command, -1, out, err)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def _space(self, index: int) -> str:
        return f"{self._tag}-{index}"

    def _ray_folder(self, index: int) -> Path:
        folder = self.folder / f"r{index}"
        folder.mkdir(exist_ok=True)
        return folder

    def session_logs(self) -> Iterator[Path]:
        """Everything that Ray wrote down on any node."""
        for path in self.folder.rglob("*"):
            if path.is_file() and "cache-" not in str(path):
                yield path

    def shutdown(self) -> None:
        for node in self.nodes.values():
            self._kill_processes(node)
            if node.starter is not None:
                node.starter.wait()
        if self.apart:
            devices = [self._tag, *(f"{self._tag}v{index}" for index in range(self._made))]
            for device in devices:
                subprocess.run(["ip", "link", "del", device], capture_output=True, check=False)
            for index in range(self._made):
                subprocess.run(["ip", "netns", "del", self._space(index)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
    return found


def kill_family(process: subprocess.Popen[str]) -> None:
    """A driver's machine is gone: the driver and what it started itself."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
