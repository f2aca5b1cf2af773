"""The leased workers of one trial, called together, and the ways in which their work ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from scalesweep.errors import ScalesweepError, UserError
from scalesweep.training.job import TrialJob

DEATH_NOTICE_SECONDS = 15.0  # wait for Ray to report a dead rank after its peers lost the connection
COLORS = re.compile(r"\x1b\[[0-9;]*m")  # with which Ray marks its own lines of a traceback


class WorkerDied(Exception):
    """A worker's process is gone or hangs. The trial can continue from its last checkpoint on other workers."""


class TrialFailed(Exception):
    """Training raised an error that a retry would raise again. `kind` is `out_of_memory`; `user` for a UserError in the only
    worker of a trial, which can train another trial; or `error`. `traceback` is the whole text of the error in the worker. `user`
    is the UserError, on any number of workers."""

    def __init__(self, message: str, kind: str = "error", traceback: str = "", user: UserError | None = None) -> None:
        super().__init__(message)
        self.kind, self.traceback, self.user = kind, traceback, user


@dataclass(frozen=True)
class Lease:
    """The names of workers in order of rank, and the process group that they share."""

    workers: tuple[str, ...]
    group: str


class WorkerGroup:
    """The leased workers of one trial, called together."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        try:
            self.ranks = [ray.get_actor(name) for name in lease.workers]
        except ValueError as error:
            raise WorkerDied(str(error)) from None

    def begin(self, job: TrialJob) -> None:
        world, group = len(self.ranks), self.lease.group
        address = None
        if world > 1 and not all(self._all([actor.is_in.remote(group) for actor in self.ranks])):
            address = self._first(lambda rank: rank.open_meeting.remote())
        self._all([actor.begin.remote(job, rank, world, group, address) for rank, actor in enumerate(self.ranks)])

    def next(self) -> Any:
        """The next report of the trial (rank 0's; all ranks report the same), or None at its end.

        Raises:
            WorkerDied: a rank's process is gone or does not answer the others.
            TrialFailed: training raised an error.
        """
        return self._all([actor.next.remote() for actor in self.ranks])[0]

    def export(self, folder: Path) -> Any:
        """Have rank 0 write the trained model to `folder`. Returns its logits on validation examples."""
        return self._all([actor.export.remote(str(folder)) for actor in self.ranks])[0]

    def pids(self) -> list[int]:
        return list(self._all([actor.pid.remote() for actor in self.ranks]))

    def _first(self, call: Any) -> Any:
        return self._all([call(self.ranks[0])])[0]

    def _all(self, references: list[Any]) -> list[Any]:
        try:
            return list(ray.get(references))
        except RayActorError as error:
            raise WorkerDied(str(error)) from None
        except RayTaskError as error:
            # A dead rank breaks its peers' collectives: the death is the cause, and their errors are symptoms.
            self._raise_if_dead(references)
            cause = error.cause if isinstance(error.cause, Exception) else error
            text = str(cause) if isinstance(cause, ScalesweepError) else f"{type(cause).__name__}: {cause}"
            if type(cause).__name__ == "PeerLost":  # compared by name, because the module of the class imports torch
                raise WorkerDied(text) from None
            kind = "out_of_memory" if type(cause).__name__ == "OutOfMemoryError" else "error"
            if isinstance(cause, UserError) and len(self.ranks) == 1:  # with peers, one of them may wait in a sum
                kind = "user"
            user = cause if isinstance(cause, UserError) else None
            raise TrialFailed(text, kind, COLORS.sub("", str(error)), user) from None

    def _raise_if_dead(self, references: list[Any]) -> None:
        if len(references) == 1:
            return
        ready, _ = ray.wait(references, num_returns=len(references), timeout=DEATH_NOTICE_SECONDS)
        for reference in ready:
            try:
                ray.get(reference)
            except RayActorError as death:
                raise WorkerDied(str(death)) from None
            except RayTaskError:
                continue
