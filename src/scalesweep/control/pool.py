"""The conductor's interface to a pool of workers, in a live cluster or in a simulation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from scalesweep.record import Trial


class Pool(Protocol):
    """A pool that leases workers to trials, by the trial's name."""

    def take(self, trial: Trial) -> bool:
        """Lease the trial's workers. Returns False while they are not ready."""
        ...

    def could_hold(self, trial: Trial, given_back: Collection[str] = ()) -> bool:
        """Whether enough workers are free, become free when the trials in `given_back` return theirs, or can be started."""
        ...

    def room(self) -> float:
        """The most GPUs that one more trial could have: all that are unleased, or else the largest share that is left of one."""
        ...

    def idle(self) -> float:
        """The most GPUs that one trial could have of the running workers without a lease."""
        ...

    booted: list[float]
    """Start-up seconds of workers. The caller that books them empties the list."""

    remarks: list[str]
    """Remarks on the pool for the record. The caller that records them empties the list."""

    drained: Collection[str]
    """Nodes without new placements."""

    def nodes(self, holder: str) -> set[str]:
        """The nodes of a trial's workers."""
        ...

    def drain(self, node: str) -> str | None:
        """Stop placing workers on a node. Returns its address; None if it is gone or no other node is left."""
        ...

    def gone(self, holder: str) -> bool:
        """Whether a node with workers of the trial is gone."""
        ...

    def leaving(self, holder: str) -> bool:
        """Whether a node with workers of the trial will be taken away soon, or was."""
        ...

    def names(self, holder: str) -> list[str]: ...

    def tend(self) -> None:
        """End workers that have been idle for long."""
        ...

    def release(self, holder: str) -> None: ...

    def discard(self, holder: str) -> None: ...
