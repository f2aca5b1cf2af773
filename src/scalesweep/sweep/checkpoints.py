"""Deletes the checkpoints of trials that are out for good, as they end."""

from __future__ import annotations

import queue
import shutil
import threading
from pathlib import Path
from typing import Any

from scalesweep.record import Record
from scalesweep.storage import UrlPath

CLOSE_SECONDS = 60.0  # that the end of a session waits for deletions; what is left then goes when it is resumed


class CheckpointSweeper:
    """A sink. Deletes in a thread of its own, for the storage may be slow, or away."""

    def __init__(self, folder: Path | UrlPath, record: Record) -> None:
        """`folder` has one of each trial. What an earlier session left of trials that have ended goes first."""
        self._folder = folder
        self._queue: queue.SimpleQueue[frozenset[str] | None] = queue.SimpleQueue()
        self._queue.put(_ended(record))
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def handle(self, event: dict[str, Any], record: Record) -> None:  # noqa: ARG002
        if event["event"] == "end":
            self._queue.put(frozenset([event["trial"]]))

    def close(self, record: Record) -> None:
        """Look once more, now that no worker is left that could still have been writing."""
        self._queue.put(_ended(record))
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (trials := self._queue.get()) is not None:
            try:
                self._remove(trials)
            except OSError:  # the storage is away: all that is left is looked for again at the end, and at a resume
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
