"""Runs a sweep's driver as a Ray job: submits it, follows its log, finds it again and stops it.

The driver runs on the cluster and writes the run folder there; this process only reads the log. It passes on nothing of its
environment, because Ray shows a job's variables and metadata to everyone who can open the dashboard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scalesweep.errors import OutsideError, Problem, SpecError, UserError, command, did_you_mean
from scalesweep.spec import SweepSpec
from scalesweep.spec.functions import placed
from scalesweep.spec.loading import KeyPath
from scalesweep.storage import UrlPath
from scalesweep.workers.session import check_address, knock

PORTS = {"http": 80, "https": 443, "ray": 10001}  # scheme of an address → its default port
RUN_DIR = "scalesweep_run_dir"  # key of the job's metadata that holds the run folder
STOP_SECONDS = 120  # time for a driver to stop cleanly; Ray's default is 3
SILENT_SECONDS = 120.0  # without a line of the log; then the connection may be dead, and a new one is opened
CLIENT_TRIES = 5  # to start the server behind a ray:// address; some die at their start (ray-project/ray issue 63202)
AGENT_SECONDS = 60.0  # for the job agent of a cluster that has just started
LOST_SECONDS = 120.0  # without an answer of the cluster, before `follow` gives up
PASSED_ON = (2, 3, 4, 130)  # exit codes of a driver that has printed its own error


def is_job_address(address: str | None) -> bool:
    """Return whether a driver at this address must run as a Ray job."""
    return address is not None and address.partition("://")[0] in PORTS and "://" in address


def shared_folder(run_dir: Path | UrlPath | None) -> str:
    """Return the run folder as a path that means the same on every node.

    Raises UserError if it is missing or relative.
    """
    if isinstance(run_dir, UrlPath):
        return str(run_dir)
    if run_dir is None or not run_dir.is_absolute():
        what = "is missing" if run_dir is None else f"{run_dir} is relative to a folder of this machine"
        hint = "give --run-dir a place that all nodes share, with its full path: /shared/runs/NAME, or s3://BUCKET/NAME"
        raise UserError(f"the run folder of a job {what}", hint)
    return os.path.normpath(run_dir)


def check_paths(spec: SweepSpec, base: Path) -> None:
    """Raise SpecError if the sweep names files of this machine, which the cluster's nodes can't read."""
    models: list[tuple[KeyPath, str]] = (
        [(("ladder", index, "model"), size.model) for index, size in enumerate(spec.ladder)]
        if isinstance(spec.ladder, list)
        else [(("ladder", "model"), spec.ladder.model)]
    )
    past: list[tuple[KeyPath, str]] = [(("search", "warm_start", i), path) for i, path in enumerate(spec.search.warm_start)]
    problems: list[Problem] = []
    data: list[tuple[KeyPath, str]] = [(("data", "path", name), path) for name, path in spec.data.files.items()]
    for key, written in [*(data or [(("data", "path"), spec.data.shown)]), *models, *past]:
        path = Path(written)
        if not path.is_absolute() and ((base / path).exists() or path.exists()):
            hint = "copy it to storage that all nodes share, and write its absolute path"
            problems.append(
                spec.problem(key, f"{written} is on this machine, and the nodes of the cluster can't read it", hint)
            )
    own: list[tuple[KeyPath, str | None]] = [
        (("data", "scorer"), spec.data.scorer),
        (("metric", "function"), spec.metric.function),
    ]
    for key, function in own:
        if function is not None and (found := placed(function, (base, Path.cwd()))) != function:
            file = found.rpartition(":")[0]
            hint = "install the module as a package on every node of the cluster, and name that one"
            problems.append(spec.problem(key, f"{file} is on this machine, and the nodes of the cluster can't read it", hint))
    if problems:
        raise SpecError(problems)


class Jobs:
    """A client of a cluster's job server.

    Raises:
        UserError: if the address is invalid.
        OutsideError: if no job server answers, or it refuses this client. All methods raise it too.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if is_job_address(address):
            _knock(address)
            for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would take these instead of the address
                os.environ.pop(name, None)
        elif address == "auto" and not is_job_address(os.environ.get("RAY_ADDRESS")):
            check_address(address)
        with self._answers():
            try:
                from ray.job_submission import JobSubmissionClient

                for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "client_builder"):
                    logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
                self._client: Any = _connected(lambda: JobSubmissionClient(address))
            except (ImportError, RuntimeError) as error:
                if isinstance(error, ImportError) or "ray[default]" in str(error):
                    hint = "run pip install '.[cluster]' in the clone of scalesweep, here and on the cluster's nodes"
                    raise UserError("Ray's job client is not installed on this machine", hint) from None
                raise

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            hint = "set RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN_PATH to a copy of the cluster's token file"
            raise OutsideError(f"the cluster at {self.address} refuses this client's token", hint) from None
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # requests' errors are OSErrors
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            said = lines[-1 if self.address.startswith("ray://") else 0].strip()
            hint = "check that this is the dashboard's address (http://HEAD:8265) and that this machine can reach it"
            raise OutsideError(f"no Ray job server answers at {self.address}: {said[:300]}", hint) from None

    def submit(self, run_dir: str, arguments: Sequence[str], files: dict[str, str] | None = None) -> str:
        """Run `scalesweep ARGUMENTS` on the cluster, in a folder that holds only `files` (name there → path here).

        Returns:
            The job's id.

        Raises:
            UserError: if a job already drives this run folder.
        """
        for job in self._of_sweeps():
            if job.metadata[RUN_DIR] == run_dir and not job.status.is_terminal():
                line = command("attach", run_dir, "--address", self.address)
                hint = f"follow it:  {line}\n      stop it:    {line} --stop"
                raise UserError(f"job {job.submission_id} of this cluster already drives {run_dir}", hint)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.partition("?")[0].rstrip("/").rpartition("/")[2])
        # Ray runs the line in a shell.
        entrypoint = "exec " + shlex.join(["python", "-m", "scalesweep.cli", *arguments])
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
        with tempfile.TemporaryDirectory() as folder, self._answers():
            for there, here in (files or {}).items():
                path = Path(folder) / there
                path.parent.mkdir(exist_ok=True)
                shutil.copyfile(here, path)
            if files:
                environment["working_dir"] = folder
            submission = f"{name}-{uuid.uuid4().hex[:6]}"
            return _accepted(
                lambda: self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission,
                    runtime_env=environment,
                    metadata={RUN_DIR: run_dir},
                )
            )

    def find(self, target: str) -> tuple[str, str]:
        """Find the job with this id, or the last job that drove this run folder.

        Returns the job's id and its run folder. Raises UserError if there is none.
        """
        jobs = self._of_sweeps()
        folder = os.path.normpath(target) if "://" not in target else target.rstrip("/")
        found = [job for job in jobs if target == job.submission_id or folder == job.metadata[RUN_DIR]]
        if not found:
            known = {job.submission_id for job in jobs} | {job.metadata[RUN_DIR] for job in jobs}
            hint = did_you_mean(target, known) if known else "no sweep has run as a job since the cluster started"
            raise UserError(f"the cluster at {self.address} has no job {target!r}, and no job with that run folder", hint)
        job = max(found, key=lambda job: job.start_time or 0)
        return job.submission_id, job.metadata[RUN_DIR]

    def _of_sweeps(self) -> list[Any]:
        with self._answers():
            return [job for job in self._client.list_jobs() if job.submission_id and RUN_DIR in (job.metadata or {})]

    def stop(self, job: str) -> None:
        """Stop the driver cleanly with SIGTERM; Ray kills it after `STOP_SECONDS`. Raises UserError if the job has ended."""
        with self._answers():
            stopped = self._client.stop_job(job)
        if not stopped:
            line = command("attach", job, "--address", self.address)
            raise UserError(f"job {job} has ended already", f"see how: {line}")

    def follow(self, job: str, show: Callable[[str], None]) -> tuple[str, int]:
        """Pass the job's whole log to `show`, and wait for the job to end.

        Returns:
            The job's status in Ray's words (`SUCCEEDED`, `STOPPED`, `FAILED`), and the exit code for it.

        Raises:
            OutsideError: if the cluster stops answering, or the driver died without printing its own error.
        """
        with _kept_ctrl_c() as raise_if_lost:
            return self._follow(job, show, raise_if_lost)

    def _follow(self, job: str, show: Callable[[str], None], raise_if_lost: Callable[[], None]) -> tuple[str, int]:
        import aiohttp

        shown = 0

        async def tail() -> None:
            nonlocal shown
            passed, lines = 0, self._client.tail_job_logs(job)  # Ray always begins at the first line
            with contextlib.suppress(StopAsyncIteration, TimeoutError):
                while True:
                    async with asyncio.timeout(SILENT_SECONDS):
                        text = await anext(lines)
                    raise_if_lost()
                    show(text[max(0, shown - passed) :])
                    passed += len(text)
                    shown = max(shown, passed)

        until = None
        while True:
            raise_if_lost()
            # A broken connection is opened again. The next call shows whether the cluster still answers.
            with contextlib.suppress(OSError, RuntimeError, aiohttp.ClientError):
                asyncio.run(tail())
            try:
                with self._answers():
                    found = self._client.get_job_info(job)
            except OutsideError as error:
                until = until or time.monotonic() + LOST_SECONDS
                if time.monotonic() >= until:
                    hint = "the sweep may continue without this terminal: attach again. If the cluster is gone, resume on a new one"
                    raise OutsideError(error.message, hint) from None
            else:
                until = None
                if found.status.is_terminal():
                    return found.status.value, self._exit_code(found)
            time.sleep(1)

    def _exit_code(self, found: Any) -> int:
        if found.status.value == "STOPPED":
            return 130
        if found.status.value == "SUCCEEDED":
            return 0
        if found.driver_exit_code in PASSED_ON:
            return int(found.driver_exit_code)
        what = (found.message or "").strip().partition("\n")[0][:300] or "Ray gave no reason"
        if found.driver_exit_code is not None:
            what = f"exit code {found.driver_exit_code}"
        hint = f"read the log above; `{command('resume', found.metadata[RUN_DIR], '--address', self.address)}` continues a sweep that had started"
        if found.driver_exit_code in (1, 127):
            hint += "; check that `ray start` ran on the head in an environment that has scalesweep"
        raise OutsideError(f"job {found.submission_id} failed: {what}", hint)


def _accepted(submit: Callable[[], str]) -> str:
    """Return the id of a submitted job. Retry while the cluster has no job agent yet, as in its first seconds."""
    until = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return str(submit())
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(1)


def _connected(connect: Callable[[], Any]) -> Any:
    """Return the result of `connect`. Retry if Ray's server for a ray:// client died at its start."""
    for _ in range(CLIENT_TRIES - 1):
        try:
            return connect()
        except (RuntimeError, ConnectionError) as error:
            if "Starting Ray client server failed" not in str(error):
                raise
    return connect()


def _knock(address: str) -> None:
    """Check quickly that the address answers. Ray itself would wait for minutes."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or PORTS[parts.scheme]
    except ValueError:
        host = None
    if not host:
        raise UserError(f"--address {address} has no host", "write for example http://HEAD:8265 or ray://HEAD:10001")
    try:
        knock(host, port)
    except OSError as error:
        hint = "run `ray status` on the head to see whether the cluster is up. Its dashboard listens on 127.0.0.1 unless --dashboard-host is set"
        raise OutsideError(f"no server answers at {address} ({error})", hint) from None


@contextlib.contextmanager
def _kept_ctrl_c() -> Iterator[Callable[[], None]]:
    """Handle Ctrl-C as usual, and yield a function that raises KeyboardInterrupt again if a library has swallowed it."""
    pressed = False

    def handler(signum: int, frame: Any) -> None:  # noqa: ARG001
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def raise_if_lost() -> None:
        if pressed:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield raise_if_lost
    finally:
        signal.signal(signal.SIGINT, previous)
