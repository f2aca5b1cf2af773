"""The workers of one trial as seen by one of them: its rank, and sums over all workers.

The process group is torch's default group. It outlives trials: a worker that trains alone for a while keeps its group, which
is used again when the same workers train together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class PeerLost(Exception):
    """A sum over the workers failed or timed out, because one of them is gone or hangs. This worker's state is valid."""


@dataclass(frozen=True)
class Peers:
    """The rank (from 0) of this worker and the number of workers, `world`. For one worker, a sum changes nothing."""

    rank: int = 0
    world: int = 1

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all workers, in place.

        Raises:
            PeerLost: a worker is gone or did not answer within the group's timeout.
        """
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def _reduce(self, tensor: torch.Tensor, how: Any) -> torch.Tensor:
        if self.world > 1:
            try:
                dist.all_reduce(tensor, how)
            except RuntimeError as error:  # gloo and NCCL raise nothing more specific
                raise PeerLost(str(error).strip().splitlines()[0]) from error
        return tensor

    def sum_of(self, number: float, device: torch.device) -> float:
        """The sum of each worker's `number`. Raises PeerLost like `sum_`."""
        return float(self.sum_(torch.tensor(float(number), dtype=torch.float64, device=device)))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any worker has the flag. Raises PeerLost like `sum_`."""
        return flag if self.world == 1 else self.sum_of(flag, device) > 0

    def least(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """The least of all workers' values of each number. Raises PeerLost like `sum_`."""
        if self.world == 1:
            return list(numbers)
        return self._reduce(torch.tensor(numbers, dtype=torch.float64, device=device), dist.ReduceOp.MIN).tolist()

    def gathered(self, value: Any) -> list[Any]:
        """Each worker's `value`, a plain one, by rank. Raises PeerLost like `sum_`."""
        found = [value] * self.world
        if self.world > 1:
            try:
                dist.all_gather_object(found, value)
            except RuntimeError as error:
                raise PeerLost(str(error).strip().splitlines()[0]) from error
        return found


ALONE = Peers()


class Meeting:
    """Creates process groups and keeps the last one."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout = timedelta(seconds=timeout_seconds)
        self.group: str | None = None
        self._store: dist.TCPStore | None = None

    def open(self, host: str) -> int:
        """Listen for the workers of a new group and return the port. The first worker calls this."""
        self.leave()
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=self.timeout)
        return int(self._store.port)

    def join(self, group: str, rank: int, world: int, address: tuple[str, int]) -> Peers:
        """Join a new `group` as worker `rank`. The first worker listens at `address` (host, port)."""
        if rank:
            self.leave()
            self._store = dist.TCPStore(address[0], address[1], is_master=False, timeout=self.timeout)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=world, timeout=self.timeout)
        self.group = group
        return Peers(rank, world)

    def leave(self) -> None:
        """Leave the current group."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self.group = self._store = None
