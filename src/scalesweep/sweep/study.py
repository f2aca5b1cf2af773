"""Optuna's study as a file that others can open: a view of the record, written as far as the disk lets it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState


class StudyFile(BaseJournalBackend):
    """Optuna's journal, in the format of its `JournalFileBackend`, for one writer that never reads it back.

    What the disk refuses is kept and written with what comes next: the sweep does not stop for it, as the record holds it all.
    Nor is each line synced, as the record's are.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file can't be made anew."""
        self._path = path
        self._unwritten = b""
        self._length = 0  # of the file, when it was last written
        self._torn = False  # the last try to write may have left a part
        self._logs: list[dict[str, Any]] = []  # those that Optuna has not taken in yet
        self._first = 0  # the number of the first of them
        for stale in (path, path.with_name(path.name + ".lock")):
            stale.unlink(missing_ok=True)
        path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        del self._logs[: log_number_from - self._first]
        self._first = log_number_from
        yield from list(self._logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._logs += [json.loads(line) for line in lines]
        self._unwritten += "".join(line + "\n" for line in lines).encode()
        self.flush()

    def flush(self) -> None:
        """Write what has not been; leave it for later where that fails."""
        with contextlib.suppress(OSError):
            with self._path.open("ab") as file:
                if self._torn:
                    file.truncate(self._length)
                self._length = file.seek(0, 2)
                self._torn = True
                file.write(self._unwritten)
            self._unwritten, self._torn = b"", False


class StudyStorage(JournalStorage):
    """Optuna's journal storage, asked for trials by one process that runs at once what it enqueues.

    Then no trial but the newest can wait to be run. Optuna looks through all of them at every `ask`: with 3,000, 3 ms of each.
    """

    _newest: int | None = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._newest = super().create_new_trial(study_id, template_trial)
        return self._newest

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        newest = [] if self._newest is None else [self.get_trial(self._newest)]
        return [trial for trial in newest if trial.state == TrialState.WAITING]


def new_study_storage(path: Path) -> JournalStorage:
    """A fresh journal file for the Optuna study, which is filled from the record anew."""
    return StudyStorage(StudyFile(path))
