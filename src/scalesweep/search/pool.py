"""What the conductor needs of whoever leases workers to trials: a live cluster's pool, or a simulation's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from scalesweep.record import Trial


class Pool(Protocol):
    """Where workers are leased, held by a trial's name."""

    def take(self, trial: Trial) -> bool:
        """Lease the trial's workers; False while they are not there."""
        ...

    def could_hold(self, trial: Trial, given_back: Collection[str] = ()) -> bool:
        """Whether the trial's workers are free, or would be if those trials gave theirs back, or can still be started."""
        ...

    def idle(self) -> float:
        """Workers that are up and that nobody holds."""
        ...

    booted: list[float]
    """Seconds that workers took to start, emptied by who books them."""

    remarks: list[str]
    """What befell the pool and belongs into the record, emptied likewise."""

    drained: Collection[str]
    """Nodes on which nothing is placed any more."""

    def nodes(self, holder: str) -> set[str]:
        """The nodes that a trial's workers are on."""
        ...

    def drain(self, node: str) -> str | None:
        """Place nothing on a node any more. Returns its address; None if it has gone anyway, or can't be done without."""
        ...

    def gone(self, holder: str) -> bool:
        """Whether a node that a trial has workers on is no more."""
        ...

    def leaving(self, holder: str) -> bool:
        """Whether a node that a trial has workers on will be taken away soon, or was."""
        ...

    def names(self, holder: str) -> list[str]: ...

    def tend(self) -> None:
        """Let workers go that have long been idle."""
        ...

    def release(self, holder: str) -> None: ...

    def discard(self, holder: str) -> None: ...
