"""The sweep's side of W&B: it starts the process that follows the record, passes its messages on, and ends it in time.

W&B's client runs in a process of its own, so whatever it and its server do, the sweep does not wait, and nothing is lost: that
process reads the record from the run folder, as `scalesweep publish` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, TextIO

import scalesweep
from scalesweep.errors import command
from scalesweep.record import Record
from scalesweep.storage import UrlPath, working_folder

CLOSE_SECONDS = 60.0  # that `close` waits
MODEL_SECONDS = 3600.0  # the same where a model is uploaded
PATIENCE = 2.0  # seconds before `close` prints that it waits
LOG = "publish.log"  # what W&B's client prints


def make(record: Record, run_dir: Path) -> WandbTracker | None:
    """Return the tracker that `tracking.wandb` describes, or None if it is disabled."""
    mode = _mode(record)
    return None if mode == "disabled" else WandbTracker(record, run_dir, mode)


def send_promotion(record: Record, model: Path) -> None:
    """Write the run of a promoted model, if the sweep was tracked. A failure is printed, with the command that repairs it."""
    mode, spec = _mode(record), record.manifest.spec.get("tracking", {}).get("wandb") or {}
    if mode != "disabled":
        seconds = MODEL_SECONDS if spec.get("log_model") else CLOSE_SECONDS
        folder = working_folder(record.folder) if record.folder is not None else model
        WandbTracker(record, folder, mode, str(model.resolve()), close_seconds=seconds).close(record)


def _mode(record: Record) -> str:
    mode = (record.manifest.spec.get("tracking", {}).get("wandb") or {}).get("mode", "disabled")
    if mode == "auto":
        # W&B's own environment variable applies too.
        mode = {"dryrun": "offline", "run": "online"}.get(asked := os.environ.get("WANDB_MODE", ""), asked) or "auto"
    return str(mode)


class WandbTracker:
    """A sink. `mode` is online, offline or auto (online where the user is logged in). `run_dir` gets W&B's files. `more` are
    further arguments of the other process."""

    def __init__(
        self,
        record: Record,
        run_dir: Path,
        mode: str,
        *more: str,
        close_seconds: float = CLOSE_SECONDS,
        stream: TextIO | None = None,
    ) -> None:
        self._place: Path | UrlPath = record.folder if record.folder is not None else run_dir
        self._close_seconds, self._stream = close_seconds, stream
        self._told = False
        folder = run_dir / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "scalesweep.commands.follow", str(self._place), mode, *more]
        path = os.pathsep.join([str(Path(scalesweep.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (folder / LOG).open("ab") as log:
            # In a session of its own: Ctrl-C is for the sweep, which then closes its trackers.
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stdout,), name="wandb", daemon=True)
        self._reader.start()

    def handle(self, event: dict[str, Any], record: Record) -> None:
        """The other process reads the record itself."""

    def close(self, record: Record) -> None:  # noqa: ARG002
        """Let the other process finish all runs, and wait for at most `close_seconds`."""
        with contextlib.suppress(OSError):  # it has ended already
            if self._process.stdin is not None:
                self._process.stdin.close()
        again = command("publish", self._place)
        try:
            try:
                code = self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._say(f"W&B: finishing (waits at most {self._close_seconds:.0f} s)")
                code = self._process.wait(max(0.0, self._close_seconds - PATIENCE))
        except subprocess.TimeoutExpired:
            self._say(f"W&B: not finished after {self._close_seconds:.0f} s; `{again}` sends what is missing")
        else:
            self._reader.join(PATIENCE)
            if code:
                self._say(f"W&B: the uploading process ended with code {code}; `{again}` sends what is missing")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _pass_on(self, lines: IO[bytes]) -> None:
        for line in lines:
            self._say(line.decode(errors="replace").rstrip("\n"))

    def _say(self, text: str) -> None:
        print(text, file=self._stream if self._stream is not None else sys.stderr, flush=True)
