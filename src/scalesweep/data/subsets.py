"""A share of a split, for training on less data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalesweep.data.tokens import JoinedSplit, TokenizedData, TokenizedSplit
from scalesweep.spec.config import rows_of_share


class PartOfSplit:
    """Some examples of a split, in its order. It reads as `TokenizedSplit` does."""

    def __init__(self, whole: TokenizedSplit, chosen: np.ndarray) -> None:
        """
        Args:
            chosen: numbers of the examples, ascending, int64 [examples].
        """
        self.whole, self.chosen = whole, chosen
        self.lengths = whole.lengths[chosen]
        self.predictions = whole.predictions[chosen]
        self.labels = None if whole.labels is None else whole.labels[chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def owners(self, indices: np.ndarray) -> list[tuple[TokenizedSplit, np.ndarray, np.ndarray]]:
        """One triple: the whole split, example numbers within it, and their rows in `indices`."""
        return self.whole.owners(self.chosen[indices])

    def batch(self, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """The same arrays as `TokenizedSplit.batch`."""
        return self.whole.batch(self.chosen[indices], pad_id)


Split = TokenizedSplit | JoinedSplit | PartOfSplit


def part_of(data: TokenizedData, names: Sequence[str], share: float, seed: int) -> Split:
    """Several splits as one, or a share of one split's rows.

    The rows depend on the seed alone: a smaller share is part of a larger one, and every tokenizer gets the same rows, with all
    examples that it makes of them.

    Raises:
        ValueError: a share of several splits.
    """
    if share == 1:
        return data.joined(names)
    (name,) = names
    split, rows = data.split(name), int(data.meta["splits"][name]["rows"])
    order = np.random.default_rng(seed).permutation(rows)
    chosen = np.zeros(rows, dtype=bool)
    chosen[order[: rows_of_share(rows, share)]] = True
    places = np.flatnonzero(chosen[split.rows])
    if not len(places):  # none of the rows has an example: then the first that has one
        rank = np.empty(rows, dtype=np.int64)
        rank[order] = np.arange(rows)
        places = np.flatnonzero(split.rows == split.rows[np.argmin(rank[split.rows])])
    return PartOfSplit(split, places)
