"""Deletes the checkpoints of trials that have ended."""

from __future__ import annotations

import queue
import shutil
import threading
from pathlib import Path
from typing import Any

from scalesweep.record import Record
from scalesweep.storage import UrlPath

CLOSE_SECONDS = 60.0  # that the end of a session waits for deletions; `resume` deletes the rest


class CheckpointSweeper:
    """A sink that deletes in its own thread, because the storage may be slow or unavailable."""

    def __init__(self, folder: Path | UrlPath, record: Record) -> None:
        """Start with the ended trials of earlier sessions. `folder` holds one folder per trial."""
        self._folder = folder
        self._queue: queue.SimpleQueue[frozenset[str] | None] = queue.SimpleQueue()
        self._queue.put(_ended(record))
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def handle(self, event: dict[str, Any], record: Record) -> None:  # noqa: ARG002
        if event["event"] == "end":
            self._queue.put(frozenset([event["trial"]]))

    def close(self, record: Record) -> None:
        """Delete once more what ended trials left, now that no worker writes any more."""
        self._queue.put(_ended(record))
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (trials := self._queue.get()) is not None:
            try:
                self._remove(trials)
            except OSError:  # the storage is unavailable; `close` and a resume try again
                continue

    def _remove(self, trials: frozenset[str]) -> None:
        if isinstance(self._folder, UrlPath):
            for name in trials if len(trials) == 1 else trials & set(self._folder.names()):
                (self._folder / name).remove()
        else:
            for name in trials:
                shutil.rmtree(self._folder / name, ignore_errors=True)


def _ended(record: Record) -> frozenset[str]:
    return frozenset(trial.name for trial in record.trials.values() if trial.state.ended)
