"""Makes the W&B runs of a run folder from its record: once, or as the record grows (in a process beside the driver)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.errors import OutsideError, UserError, command, counted
from scalesweep.record import Record
from scalesweep.record.schema import replay
from scalesweep.record.store import events_path, read_events, read_manifest
from scalesweep.report.wandb.publisher import Publisher
from scalesweep.report.wandb.server import ServerError
from scalesweep.report.wandb.uploader import clear, log_in
from scalesweep.storage import UrlPath, working_folder

LOCK = "publishing.lock"
POLL_SECONDS = 1.0  # between two looks at a record on a disk
POLL_URL_SECONDS = 15.0
SHARE = 0.05  # of one core's time that following may take
RETRY_SECONDS = 300.0  # after which a server that failed is tried again
CLOSE_SECONDS = 60.0  # in which the runs of a sweep are finished

Finish = Callable[[Record], Record]  # adds the forecasts, by which trials are ranked where they drive the sweep
Say = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """The outcome of `publish`: runs of the sweep, those that were opened because W&B lacked something, and where they are."""

    runs: int
    written: int
    place: str


def publish(run_dir: Path | UrlPath, offline: bool, finish: Finish, say: Say) -> Published:
    """Bring W&B up to the record of a sweep. A second call changes nothing.

    Args:
        offline: write the runs to files, replacing earlier ones.
        finish: completes the record that was read.
        say: gets remarks.

    Raises:
        UserError: no run folder, not logged in, or another process publishes it.
        OutsideError: the server failed.
    """
    record, events = _read(run_dir, finish)
    folder = working_folder(run_dir)
    with _alone(folder, 0.0) as held:
        if not held:
            hint = "a running sweep keeps its W&B runs up to date itself; publish it when it has ended"
            raise UserError(f"another process writes the W&B runs of {run_dir}", hint)
        server = log_in("offline" if offline else "auto", folder, say)
        if server is None and not offline:
            hint = f"run `wandb login`, or write files for `wandb sync` with `{command('publish', run_dir)} --offline`"
            raise UserError("not logged in to W&B", hint)
        publisher = Publisher(record, folder, server, say)
        try:
            publisher.update(record, events, over=True)
        except ServerError as error:
            hint = f"`{command('publish', run_dir)}` sends the rest when the server is back"
            raise OutsideError(f"W&B: {error}", hint) from None
        finally:
            publisher.close()
            clear()
    return Published(publisher.total + publisher.promotions, publisher.written, server.url if server else str(folder / "wandb"))


def follow(run_dir: Path | UrlPath, mode: str, finish: Finish, say: Say) -> None:
    """Keep W&B up to date with a record that grows, until stdin ends. Then finish all runs, within `CLOSE_SECONDS`.

    A server that fails is tried again. What it lacks at the end is said, with the command that sends it.
    """
    folder = working_folder(run_dir)
    with _alone(folder, CLOSE_SECONDS) as held:
        if not held:
            say(f"W&B: another process writes the runs of {run_dir}; `{command('publish', run_dir)}` sends what is missing")
            return
        server = log_in(mode, folder, say)
        follower = _Follower(run_dir, folder, server, finish, say)
        pause = 0.0
        while not _ended(pause):
            pause = follower.look()
        watch = threading.Timer(CLOSE_SECONDS, os._exit, (1,))
        watch.daemon = True
        watch.start()
        follower.close()
        clear()
        sys.stdout.flush()
        os._exit(0)  # threads may wait for a server that failed


def send_promotion(run_dir: Path | UrlPath, model: Path, mode: str, finish: Finish, say: Say) -> None:
    """Write the run of a promoted model, beside the sweep that chose it."""
    folder = working_folder(run_dir)
    record, _ = _read(run_dir, finish)
    again = command("publish", run_dir)
    with _alone(folder, CLOSE_SECONDS) as held:
        server = log_in(mode, folder, say) if held else None
        publisher = Publisher(record, folder, server, say)
        try:
            if held:
                publisher.promoted(record, model)
        except ServerError as error:
            say(f"W&B: {error}; `{again}` sends the promotion")
            clear()
            sys.stdout.flush()
            os._exit(0)  # threads may wait for a server that failed
        publisher.close()
        clear()


class _Follower:
    def __init__(self, run_dir: Path | UrlPath, folder: Path, server: Any, finish: Finish, say: Say) -> None:
        self._run_dir, self._folder, self._finish, self._say, self._server = run_dir, folder, finish, say, server
        self._publisher = Publisher(Record(read_manifest(run_dir)), folder, server, say)
        self._seen: object = None
        self._trouble = ""
        self._again = 0.0  # when a server that failed is tried again

    def look(self) -> float:
        """Send what is new. Returns the seconds until the next look."""
        poll, size = POLL_URL_SECONDS, None
        if isinstance(self._run_dir, Path):
            path = events_path(self._run_dir)
            poll, size = POLL_SECONDS, path.stat().st_size if isinstance(path, Path) and path.exists() else 0
        if time.monotonic() < self._again or (size is not None and size == self._seen):
            return poll
        begun = time.process_time()
        self._update(over=False)
        self._seen = size
        return max(poll, (time.process_time() - begun) / SHARE)

    def _update(self, over: bool) -> None:
        record, events = _read(self._run_dir, self._finish)
        try:
            self._publisher.update(record, events, over)
        except ServerError as error:
            if not over and not self._trouble:
                self._say(
                    f"W&B: {error}; the record is complete, and the server is tried again every {RETRY_SECONDS / 60:.0f} minutes"
                )
            self._trouble, self._again, self._seen = str(error), time.monotonic() + RETRY_SECONDS, None
            return
        if self._trouble:
            self._say("W&B: the server answers again")
        self._trouble, self._again = "", 0.0

    def close(self) -> None:
        self._update(over=True)
        if not self._trouble:
            self._publisher.close()
        again = command("publish", self._run_dir)
        if self._trouble:
            missing = f"{self._publisher.missing} of {counted(self._publisher.total, 'run')}"
            self._say(f"W&B: {self._trouble}; {missing} may be incomplete there, and `{again}` sends what is missing")
        elif self._server is None:
            self._say(f"W&B: offline runs in {self._folder / 'wandb'}; `{again}` uploads them and saves a workspace")


def _read(run_dir: Path | UrlPath, finish: Finish) -> tuple[Record, list[dict[str, Any]]]:
    manifest, events = read_manifest(run_dir), read_events(run_dir)
    record = replay(manifest, events)
    record.folder = run_dir
    return finish(record), events


def _ended(seconds: float) -> bool:
    """Wait for so long, or until stdin ends: its other end belongs to the driver."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


@contextlib.contextmanager
def _alone(folder: Path, seconds: float) -> Iterator[bool]:
    """Whether this process is the only one that writes the W&B runs of a folder; waits for another one to end."""
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    with (folder / "wandb" / LOCK).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield False
                    return
                time.sleep(0.2)
            else:
                yield True
                return
