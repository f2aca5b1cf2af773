"""The examples of each optimizer step: a stream that depends on the seed alone, never on the number of workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

WINDOW = 50  # batches per window of sorting by length: large enough to save padding, small enough to mix at random


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Global batches by step number (from 0), so that a resumed trial can start at any step.

    Every epoch is a fresh permutation of all examples. Its last batch may be short. With `lengths` (tokens of each
    example, [n_examples]), a batch holds examples of similar length: the permutation is sorted by length within windows of
    `WINDOW` batches and cut into batches, and the batches are shuffled over the epoch. A short last batch stays out of the
    sorting, so its examples are a random sample.

    With a `share`, examples of earlier data are rehearsed: numbered after the others, they make up that share of each epoch. All
    of them have had a turn before one comes again.

    The order of batches depends on the seed and the epoch alone. Plans are compared by identity.
    """

    n_examples: int  # without those of earlier data
    batch_size: int
    seed: int
    lengths: np.ndarray | None = field(default=None, repr=False)  # with those of earlier data
    earlier: int = 0  # examples of earlier data
    share: float = 0.0  # of an epoch's examples that are of earlier data

    def __post_init__(self) -> None:
        if self.n_examples < 1 or self.batch_size < 1:
            raise ValueError(f"n_examples and batch_size must be at least 1, got {self.n_examples} and {self.batch_size}")
        if self.lengths is not None and self.lengths.shape != (self.n_examples + self.earlier,):
            raise ValueError(f"lengths must have shape ({self.n_examples + self.earlier},), got {self.lengths.shape}")

    @property
    def rehearsed(self) -> int:
        """The examples of earlier data in an epoch."""
        return round(self.n_examples * self.share / (1 - self.share)) if self.earlier else 0

    @property
    def epoch_size(self) -> int:
        """The examples of an epoch."""
        return self.n_examples + self.rehearsed

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch_size // self.batch_size)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Example numbers of one step, int64 [batch_size or fewer], read-only."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return epoch_order(self, epoch)[start : start + self.batch_size]


@lru_cache(maxsize=4)
def epoch_order(plan: BatchPlan, epoch: int) -> np.ndarray:
    """All example numbers in the order of one epoch, int64 [epoch_size], read-only."""
    rng = np.random.default_rng([plan.seed, epoch])
    order = rng.permutation(plan.epoch_size)
    if plan.rehearsed:
        order = np.concatenate([np.arange(plan.n_examples), plan.n_examples + _rehearsed(plan, epoch)])[order]
    if plan.lengths is not None:
        batches = plan.epoch_size // plan.batch_size
        whole = order[: batches * plan.batch_size]
        window = np.arange(len(whole)) // (WINDOW * plan.batch_size)
        whole = whole[np.lexsort((plan.lengths[whole], window))]  # by window, then by length; stable
        order[: len(whole)] = whole.reshape(batches, plan.batch_size)[rng.permutation(batches)].ravel()
    order.setflags(write=False)  # shared by all callers
    return order


def _rehearsed(plan: BatchPlan, epoch: int) -> np.ndarray:
    """The earlier examples of one epoch, from 0: a section of permutations of all of them, one after the other."""
    start, end = epoch * plan.rehearsed, (epoch + 1) * plan.rehearsed
    first, last = start // plan.earlier, (end - 1) // plan.earlier
    turns = [np.random.default_rng([plan.seed, 0, turn]).permutation(plan.earlier) for turn in range(first, last + 1)]
    return np.concatenate(turns)[start - first * plan.earlier : end - first * plan.earlier]


def shard(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The examples of a global batch that worker `rank` of `world` takes; empty if the batch has no more than `rank`."""
    return indices[rank::world]


def micro_batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """`indices` in order, cut into pieces of at most `size`; an empty list if there are none."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def eval_order(lengths: np.ndarray) -> np.ndarray:
    """All examples by length, which saves padding; the longest first, so that a lack of memory shows at once."""
    return np.argsort(-lengths.astype(np.int64), kind="stable")


def steps_for_tokens(plan: BatchPlan, lengths: np.ndarray, max_tokens: int) -> int:
    """The smallest number of steps that covers at least `max_tokens` tokens, padding not counted.

    lengths: tokens of each example, those of earlier data included.

    Raises:
        ValueError: the examples hold no token.
    """
    if max_tokens <= 0:
        return 0
    per_epoch = int(lengths[: plan.n_examples].sum(dtype=np.int64))
    if per_epoch < 1:
        raise ValueError("the examples hold no tokens, so no number of steps reaches max_tokens")
    # Without rehearsal, every full epoch covers the same tokens, so only the batches of the last, perhaps partial, epoch count.
    epoch, left = (0, max_tokens) if plan.rehearsed else ((max_tokens - 1) // per_epoch, (max_tokens - 1) % per_epoch + 1)
    starts = np.arange(0, plan.epoch_size, plan.batch_size)
    while True:
        seen = np.cumsum(np.add.reduceat(lengths[epoch_order(plan, epoch)].astype(np.int64), starts))
        if left <= seen[-1]:
            return epoch * plan.steps_per_epoch + int(np.searchsorted(seen, left)) + 1
        epoch, left = epoch + 1, left - int(seen[-1])
