"""Which examples each optimizer step sees: a stream that depends on the seed alone, never on the number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def _permutation(n_examples: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(n_examples)
    order.setflags(write=False)  # shared by all callers
    return order


@dataclass(frozen=True)
class BatchPlan:
    """Global batches by step number (from 0), so that a resume can start at any step.

    Every epoch is a fresh permutation of all examples; its last batch holds what is left and may be short.
    """

    n_examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_examples < 1 or self.batch_size < 1:
            raise ValueError(f"needs at least one example and one per batch, got {self.n_examples} and {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_examples // self.batch_size)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Example numbers of one step, int64 [batch_size or fewer], read-only."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return _permutation(self.n_examples, self.seed, epoch)[start : start + self.batch_size]


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
    order = _permutation(plan.n_examples, plan.seed, epoch)
    starts = np.arange(0, plan.n_examples, plan.batch_size)
    seen = np.cumsum(np.add.reduceat(lengths[order].astype(np.int64), starts))
    return epoch * plan.steps_per_epoch + int(np.searchsorted(seen, max_tokens - epoch * per_epoch)) + 1
