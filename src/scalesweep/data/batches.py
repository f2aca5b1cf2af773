"""Which examples each optimizer step sees: a stream that depends on the seed alone, never on the number of workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

WINDOW = 50  # batches whose examples are sorted by length together: little padding, and still a random mixture


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Global batches by step number (from 0), so that a resume can start at any step.

    Every epoch is a fresh permutation of all examples; its last batch holds what is left and may be short. With
    `lengths` (tokens of every example, [n_examples]) a batch holds examples of like length: the permutation is sorted by
    length inside windows of `WINDOW` batches, cut into batches, and these are shuffled over the epoch. A short last batch
    is left out of that, so that it is as random as without.

    The order of batches depends on the seed and the epoch alone. Plans are compared by identity.
    """

    n_examples: int
    batch_size: int
    seed: int
    lengths: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.n_examples < 1 or self.batch_size < 1:
            raise ValueError(f"needs at least one example and one per batch, got {self.n_examples} and {self.batch_size}")
        if self.lengths is not None and self.lengths.shape != (self.n_examples,):
            raise ValueError(f"needs {self.n_examples} lengths, got an array of shape {self.lengths.shape}")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_examples // self.batch_size)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Example numbers of one step, int64 [batch_size or fewer], read-only."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return epoch_order(self, epoch)[start : start + self.batch_size]


@lru_cache(maxsize=4)
def epoch_order(plan: BatchPlan, epoch: int) -> np.ndarray:
    """All examples in the order in which an epoch sees them, int64 [n_examples], read-only."""
    rng = np.random.default_rng([plan.seed, epoch])
    order = rng.permutation(plan.n_examples)
    if plan.lengths is not None:
        batches = plan.n_examples // plan.batch_size
        whole = order[: batches * plan.batch_size]
        window = np.arange(len(whole)) // (WINDOW * plan.batch_size)
        whole = whole[np.lexsort((plan.lengths[whole], window))]  # by window, then by length; stable
        order[: len(whole)] = whole.reshape(batches, plan.batch_size)[rng.permutation(batches)].ravel()
    order.setflags(write=False)  # shared by all callers
    return order


def shard(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The part of a global batch that one of `world` workers takes; empty where the batch is shorter than `rank`."""
    return indices[rank::world]


def micro_batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """`indices` cut into pieces of at most `size`, in order; no piece for no indices."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def eval_order(lengths: np.ndarray) -> np.ndarray:
    """All examples by length, so that batches need little padding; the longest first, so that memory fails at once."""
    return np.argsort(-lengths.astype(np.int64), kind="stable")


def steps_for_tokens(plan: BatchPlan, lengths: np.ndarray, max_tokens: int) -> int:
    """The least number of steps after which at least `max_tokens` true tokens (no padding) were seen.

    lengths: tokens of every example, [n_examples].
    """
    if max_tokens <= 0:
        return 0
    per_epoch = int(lengths.sum(dtype=np.int64))
    if per_epoch < 1:
        raise ValueError("the examples hold no token, so no number of steps reaches max_tokens")
    # Every epoch sees all tokens, so only the last one, begun but perhaps not ended, needs its batches added up.
    epoch = (max_tokens - 1) // per_epoch
    order = epoch_order(plan, epoch)
    starts = np.arange(0, plan.n_examples, plan.batch_size)
    seen = np.cumsum(np.add.reduceat(lengths[order].astype(np.int64), starts))
    return epoch * plan.steps_per_epoch + int(np.searchsorted(seen, max_tokens - epoch * per_epoch)) + 1
