"""The examples that a worker processes at once, as many as fit in memory: the micro-batch, and the pieces of an evaluation.

The sizes are found once and stored on the node. All workers of a trial use the smallest one of theirs. A size never changes a
result, because the gradients of the pieces are summed, each weighted by its share of the global batch.
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
from scalesweep.training.peers import ALONE, Peers
from scalesweep.training.precision import device_name

CPU_MICRO_BATCH = 32  # main memory rarely limits the size, and larger pieces are no faster on a CPU
EVAL_TOKENS = 2**15  # padded tokens in a piece of an evaluation: more are no faster
EVAL_OUTPUTS = {"cpu": 2**25, "cuda": 2**28}  # outputs (tokens × vocabulary) in a piece: 128 MiB and 1 GiB in float32
CPU_EVAL_EXAMPLES = 64


def ran_out(run: Callable[..., object], *arguments: object) -> BaseException | None:
    """Call `run(*arguments)`; return the error if a device or the CPU's allocator had too little memory, otherwise None.

    The error comes without its traceback, whose frames would hold the memory.
    """
    try:
        run(*arguments)
        return None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise
        lacked = error.with_traceback(None)
    torch.cuda.empty_cache()  # does nothing without a GPU
    return lacked


class NodeSizes:
    """Sizes by key, in a file of the node's cache."""

    def __init__(self, cache: Path) -> None:
        self.file = cache / "micro-batches.json"

    def read(self, key: str) -> int | None:
        return self._all().get(key)

    def write(self, key: str, size: int) -> None:
        try:
            with self.file.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
                temporary.write_text(json.dumps(self._all() | {key: size}, indent=1))
                temporary.replace(self.file)
        except OSError:
            return  # if the node's cache can't be written, each process repeats the search

    def _all(self) -> dict[str, int]:
        try:
            return dict(json.loads(self.file.read_text()))
        except (OSError, ValueError):
            return {}  # missing or unreadable: the size is searched again


def _kind(job: TrialJob, device: torch.device, checkpointing: bool | str) -> str:
    """The part of a key that says what runs where."""
    recomputed = {True: ", checkpointing", "auto": ", checkpointing if needed"}.get(checkpointing, "")
    kind = device_name(device)
    config = job.config
    kind += f", {config.num_gpus} of it" if config.num_gpus < 1 else ""
    adapter = "" if config.adapter == "none" else f", {config.adapter} of rank {config.lora_rank} on {config.base_dtype}"
    moments = "" if config.optimizer == "adamw" else f", {config.optimizer}"
    return (
        f"{kind}, {job.size.model}@{job.size.revision}, {job.size.layers} layers, {job.task}, {job.data.max_length} tokens, "
        f"{config.mixed_precision}{recomputed}{adapter}{moments}"
    )


def _too_large(job: TrialJob, error: BaseException | None) -> torch.OutOfMemoryError:
    refusal = torch.OutOfMemoryError(f"one example of {job.data.max_length} tokens does not fit in memory")
    refusal.__cause__ = error
    return refusal


class MicroBatch:
    """The micro-batch sizes of one trial, one for each lowest trainable group. All workers call its methods together.

    Attributes:
        checkpointing: whether the model recomputes activations; `auto`: only once a single example did not fit without it.
    """

    def __init__(
        self,
        job: TrialJob,
        cache: Path,
        device: torch.device,
        share: int,
        peers: Peers = ALONE,
        checkpoint: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            share: most examples of a global batch that a worker takes, which is the largest useful size.
            checkpoint: turns gradient checkpointing on. Returns whether the model has it.
        """
        self.checkpoint = checkpoint
        self.job, self.device, self.share, self.peers = job, device, share, peers
        self.whole = 1 << (share - 1).bit_length()  # the smallest power of two that is not below the share
        self.unsearched = CPU_MICRO_BATCH if device.type == "cpu" else None  # used without a search
        self.node = NodeSizes(cache)
        self.sizes: dict[int, int] = {}
        self.checkpointing: bool | str = job.config.gradient_checkpointing
        if self.checkpointing is True:
            checkpoint()

    def size(self, lowest: int, try_out: Callable[[int], None]) -> int:
        """The micro-batch size while `lowest` is the lowest group that trains.

        Args:
            try_out: runs a pass over that many of the longest examples and discards it. Called only on GPUs, unless all
                workers' nodes have stored a size.
        """
        if lowest not in self.sizes:
            self.sizes[lowest] = self.job.config.micro_batch_size or self._agreed(lowest, try_out)
        return self.sizes[lowest]

    def rows(self, lowest: int, width: int, longest: int) -> int:
        """The rows of `width` tokens in a piece, once the size is known.

        A size that a search found holds for examples of `longest` tokens, so it is a number of tokens.
        """
        size, given = self.sizes[lowest], self.job.config.micro_batch_size or self.unsearched
        return size if given or size == 1 else size * longest // width

    def _agreed(self, lowest: int, try_out: Callable[[int], None]) -> int:
        stored = self.node.read(self._key(lowest))
        stored = self.unsearched if stored is None else stored
        size, all_stored = self.peers.least([self.whole if stored is None else stored, stored is not None], self.device)
        if size == 0 and self.switched(lowest):
            return self._agreed(lowest, try_out)
        self.sizes[lowest] = max(1, int(size))
        while not all_stored:
            error = ran_out(try_out, self.sizes[lowest])
            if not self.peers.any(error is not None, self.device):
                self.node.write(self._key(lowest), self.sizes[lowest])
                break
            self.halve(lowest, error)
            if lowest not in self.sizes:
                return self._agreed(lowest, try_out)
        return self.sizes[lowest]

    def switched(self, lowest: int | None = None) -> bool:
        """Turn gradient checkpointing on where it may be and is not. Returns whether it was turned on.

        All sizes are then to be found anew. The node keeps a size of 0 for `lowest`: with checkpointing alone.
        """
        if self.checkpointing != "auto" or not self.checkpoint():
            return False
        if lowest is not None:
            self.node.write(self._key(lowest), 0)
        self.checkpointing = True
        self.sizes.clear()
        return True

    def halve(self, lowest: int, error: BaseException | None) -> None:
        """Halve the size after this worker (`error`) or another one ran out of memory. From 1, turn checkpointing on instead.

        Raises:
            torch.OutOfMemoryError: one example does not fit.
        """
        size = min(self.sizes[lowest], self.whole)
        if size <= 1:
            if self.switched(lowest):
                return
            raise _too_large(self.job, error)
        self.sizes[lowest] = -(-size // 2)
        self.node.write(self._key(lowest), self.sizes[lowest])

    def _key(self, lowest: int) -> str:
        return f"{_kind(self.job, self.device, self.checkpointing)}, group {lowest} and above, {self.share} at most"


class EvaluationSize:
    """The size of an evaluation's pieces, in padded tokens. It starts at a bound that suits the device."""

    def __init__(
        self, job: TrialJob, cache: Path, device: torch.device, outputs: Callable[[], int], peers: Peers = ALONE
    ) -> None:
        """
        Args:
            outputs: returns the outputs that a pass makes for each token at once, such as the size of the vocabulary; 0 if
                they are few. Called when the size is first needed.
        """
        self.job, self.device, self.peers, self.outputs = job, device, peers, outputs
        self.node, self.key = NodeSizes(cache), f"{_kind(job, device, False)}, evaluation, padded tokens"
        self.most = CPU_EVAL_EXAMPLES if device.type == "cpu" else EVAL_TOKENS
        self.tokens: int | None = None

    @property
    def bound(self) -> int:
        outputs = self.outputs()
        return min(EVAL_TOKENS, EVAL_OUTPUTS[self.device.type] // outputs) if outputs else EVAL_TOKENS

    def agree(self) -> None:
        """Use the smallest size of all workers. All call it together."""
        own = min(self.bound, self.node.read(self.key) or self.bound, self.tokens or self.bound)
        (least,) = self.peers.least([own], self.device)
        self.tokens = int(least)

    def examples(self, width: int) -> int:
        """The number of examples in a piece whose longest example has `width` tokens."""
        if self.tokens is None:
            self.agree()
        assert self.tokens is not None
        return max(1, min(self.most, self.tokens // max(width, 1)))

    def halve(self, examples: int, width: int, error: BaseException | None) -> None:
        """Halve the size after a piece of so many examples ran out of memory, here (`error`) or on another worker.

        Raises:
            torch.OutOfMemoryError: one example does not fit.
        """
        if examples <= 1:
            raise _too_large(self.job, error)
        self.tokens = -(-examples // 2) * width
        self.node.write(self.key, self.tokens)
