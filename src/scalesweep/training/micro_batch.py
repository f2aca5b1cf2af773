"""The micro-batch: the examples that a worker processes at once, as many as fit in memory.

The size is found once and stored on the node. It never changes a result, because the gradients of the pieces are summed,
each weighted by its share of the global batch.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from scalesweep.training.job import TrialJob

CPU_MICRO_BATCH = 32  # main memory rarely limits the size, and larger pieces are no faster on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that a device or the CPU's allocator had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


class MicroBatch:
    """The micro-batch sizes of one trial on this worker, one for each lowest trainable group."""

    def __init__(self, job: TrialJob, cache: Path, device: torch.device, share: int) -> None:
        """
        Args:
            share: examples of a global batch that this worker takes, which is the largest useful size.
        """
        self.job, self.device, self.share = job, device, share
        self.whole = 1 << (share - 1).bit_length()  # the smallest power of two that is not below the share
        self.file = cache / "micro-batches.json"
        self.sizes: dict[int, int] = {}
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        config = job.config
        self.kind = (
            f"{kind}, {job.size.model}@{job.size.revision}, {job.size.layers} layers, {job.task}, {job.data.max_length} tokens, "
            f"{config.mixed_precision}{', checkpointing' if config.gradient_checkpointing else ''}"
        )

    def size(self, lowest: int, try_out: Callable[[int], None]) -> int:
        """The micro-batch size while `lowest` is the lowest group that trains.

        Args:
            try_out: runs a pass over that many of the longest examples and discards it. Called only on a GPU without a
                stored size.
        """
        if lowest not in self.sizes:
            given = self.job.config.micro_batch_size
            if given is not None:
                self.sizes[lowest] = given
            elif self.device.type == "cpu":
                self.sizes[lowest] = self._remembered().get(self._key(lowest), CPU_MICRO_BATCH)
            else:
                self.sizes[lowest] = self._largest(lowest, try_out)
        return self.sizes[lowest]

    def _largest(self, lowest: int, try_out: Callable[[int], None]) -> int:
        found = self._remembered().get(self._key(lowest))
        if found is not None:
            return found
        self.sizes[lowest] = self.whole
        while True:
            try:
                try_out(self.sizes[lowest])
            except RuntimeError as error:
                self.halve(lowest, error)
                continue
            self._remember(lowest)
            return self.sizes[lowest]

    def halve(self, lowest: int, error: BaseException) -> None:
        """Halve the size after an out-of-memory `error`; any other error is raised again.

        Raises:
            torch.OutOfMemoryError: one example does not fit.
        """
        if not is_out_of_memory(error):
            raise error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size = min(self.sizes[lowest], self.whole)
        if size <= 1:
            raise torch.OutOfMemoryError(f"one example of {self.job.data.max_length} tokens does not fit in memory") from error
        self.sizes[lowest] = -(-size // 2)
        self._remember(lowest)

    def _key(self, lowest: int) -> str:
        return f"{self.kind}, group {lowest} and above, {self.share} at most"

    def _remembered(self) -> dict[str, int]:
        try:
            return dict(json.loads(self.file.read_text()))
        except (OSError, ValueError):
            return {}  # missing or unreadable: the size is searched again

    def _remember(self, lowest: int) -> None:
        try:
            with self.file.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
                temporary.write_text(json.dumps(self._remembered() | {self._key(lowest): self.sizes[lowest]}, indent=1))
                temporary.replace(self.file)
        except OSError:
            return  # if the node's cache can't be written, each process repeats the search
