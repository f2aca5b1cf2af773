"""The folder of a promotion that has not ended: one process at a time works in it, and a later one continues from it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from scalesweep.costs import GIB
from scalesweep.errors import OutsideError, UserError
from scalesweep.record.lease import Lease
from scalesweep.record.store import write_atomic
from scalesweep.storage import without_secrets

SETTINGS = "settings.json"
SESSIONS = "sessions.json"
CHECKPOINT = "checkpoint"
MODEL = "model"
KEPT_SECONDS = 10.0  # between two writes of the sessions' total


class Unfinished:
    """The folder beside `output` in which a promotion trains, held by a lease until `close`.

    Raises:
        UserError: if another process promotes into `output`, or the folder holds a checkpoint of other settings.
        OutsideError: if the folder can't be written.
    """

    def __init__(self, output: Path, settings: dict[str, Any], discard: bool) -> None:
        self.output, self.folder = output, output.with_name(f".{output.name}.unfinished")
        try:
            self._lease = Lease(self.folder)
        except UserError as error:
            raise UserError(f"another promote writes to {output}: {error.message}", error.hint) from None
        except OutsideError as error:
            raise OutsideError(error.message, "choose another --output") from None
        try:
            self._open(settings, discard)
        except BaseException:
            self._lease.close()
            raise
        shutil.rmtree(self.model, ignore_errors=True)
        (self.folder / "error.txt").unlink(missing_ok=True)
        before = _read(self.folder / SESSIONS)
        self.sessions, self._seconds = 1 + before.get("sessions", 0), before.get("seconds", 0.0)
        self._trained = bool(before.get("trained"))
        self._began = self._kept = time.monotonic()
        self._keep()  # a process that is killed counts too

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def seconds(self) -> float:
        """Seconds of all sessions so far."""
        return self._seconds + time.monotonic() - self._began

    def _open(self, settings: dict[str, Any], discard: bool) -> None:
        found = _read(self.folder / SETTINGS)
        if found == settings:
            return
        if any((self.folder / CHECKPOINT).glob("step-*")) and not discard:
            raise UserError(
                f"{self.folder} holds an unfinished promotion with other settings: {_changes(found, settings)}",
                "continue it with its own settings, choose another --output, or discard it with --force",
            )
        self._empty()
        write_atomic(self.folder / SETTINGS, json.dumps(settings))

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(("lock", "lease-", ".probe-")):
                path.unlink()

    def check_space(self, n_params: int, trained_params: int, checkpoints: int = 2) -> None:
        """Check that the disk holds the exported model and the checkpoints, of which `checkpoints` exist while one is replaced.

        Raises:
            OutsideError: if it does not.
        """
        export, checkpoint = 4 * n_params, 12 * trained_params  # float32; weights and two moments
        if self._trained:
            needed = export
        elif any((self.folder / CHECKPOINT).glob("step-*")):
            needed = max(export, checkpoint * (checkpoints - 1))
        else:
            needed = checkpoint + max(export, checkpoint * (checkpoints - 1))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OutsideError(
                f"{self.output.parent} has {free / GIB:.3g} GiB free, and the final run needs {needed / GIB:.3g} GiB for "
                "the model and its checkpoints",
                "free some space and run promote again, or choose an --output on another disk",
            )

    def reached(self, step: int, total: int) -> None:
        """Keep the time spent, and whether the training has ended."""
        ended = step >= total
        if (ended and not self._trained) or time.monotonic() - self._kept > KEPT_SECONDS:
            self._trained = ended
            self._keep()

    def _keep(self) -> None:
        self._kept = time.monotonic()
        content = {"sessions": self.sessions, "seconds": self.seconds, "trained": self._trained}
        with contextlib.suppress(OSError):  # the storage is full or unavailable; the checkpoint waits for it and reports it
            write_atomic(self.folder / SESSIONS, json.dumps(content))

    def failed(self, message: str, traceback: str) -> OutsideError:
        """Keep the traceback of an error, and return the error for the user."""
        path = self.folder / "error.txt"
        hint = "run promote again: it continues from the last checkpoint"
        with contextlib.suppress(OSError):
            write_atomic(path, without_secrets(traceback))
            hint = f"the traceback is in {path}. When its cause is removed, {hint}"
        return OutsideError(f"the final run failed: {message}", hint)

    def finish(self) -> None:
        """Move the model to its place and remove the folder.

        Raises:
            OutsideError: if another process has taken over the folder.
        """
        self._lease.check()
        if self.output.exists():
            shutil.rmtree(self.output)
        self.model.replace(self.output)
        self._empty()

    def discard(self) -> None:
        """Remove the checkpoint and all else, so that `close` removes the folder.

        Raises:
            OutsideError: if another process has taken over the folder.
        """
        self._lease.check()
        self._empty()

    def close(self) -> None:
        done = not (self.folder / SETTINGS).exists()
        if not done:
            self._keep()
        self._lease.close()
        if done:
            with contextlib.suppress(OSError):  # another process has opened it meanwhile
                (self.folder / "lock").unlink()
                self.folder.rmdir()


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """'max_t 240 instead of 60': the settings of an unfinished promotion that differ from those now."""
    first, second = ({**settings, **settings.get("config", {}), "config": None} for settings in (before, now))
    changed = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)} instead of {second.get(name)}" for name in changed)
