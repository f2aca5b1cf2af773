"""The workers of one trial as seen by one of them: who it is, and sums over all.

The process group is torch's own default one. It outlives trials: a worker that trains alone for a while leaves its group
as it is, and finds it again when the same workers meet next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


class PeerLost(Exception):
    """A sum over the workers failed or took too long: one of them is gone or hangs. This worker's own state is sound."""


@dataclass(frozen=True)
class Peers:
    """`rank` counts from 0; `world` is the number of workers. Alone, every sum is what it was."""

    rank: int = 0
    world: int = 1

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add `tensor` up over all workers, in place.

        Raises:
            PeerLost: a worker is gone, or did not answer within the group's timeout.
        """
        if self.world > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:  # gloo and NCCL raise nothing more special
                raise PeerLost(str(error).strip().splitlines()[0]) from error
        return tensor


ALONE = Peers()


class Meeting:
    """Makes process groups and keeps the last one."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout = timedelta(seconds=timeout_seconds)
        self.group: str | None = None
        self._store: dist.TCPStore | None = None

    def open(self, host: str) -> int:
        """Listen for the workers of a new group; returns the port. The first worker does this."""
        self.leave()
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=self.timeout)
        return int(self._store.port)

    def join(self, group: str, rank: int, world: int, address: tuple[str, int]) -> Peers:
        """Be worker `rank` of a new `group`, whose first worker listens at `address`."""
        if rank:
            self.leave()
            self._store = dist.TCPStore(address[0], address[1], is_master=False, timeout=self.timeout)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=world, timeout=self.timeout)
        self.group = group
        return Peers(rank, world)

    def leave(self) -> None:
        """Give the present group up."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self.group = self._store = None
