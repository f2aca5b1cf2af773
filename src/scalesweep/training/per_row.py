"""The numbers that an evaluation keeps for each row of a split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.examples import MOST_ROWS, Columns, Examples

SEED = 0  # of the sample of rows: the same one for all trials


class Rows:
    """The rows of a split, and those of them that are kept."""

    def __init__(self, split: TokenizedSplit | JoinedSplit, classes: int) -> None:
        self.starts = np.flatnonzero(np.diff(split.rows, prepend=-1))  # a row that is too long is several examples
        self.of = len(self.starts)
        groups = split.rows if split.groups is None else split.groups
        drawn = np.unique(groups[self.starts], return_inverse=True)[1]
        self.kept = np.arange(self.of)
        if self.of > MOST_ROWS:  # whole groups, in random order, as many as fit
            sizes = np.bincount(drawn)
            order = np.random.default_rng(SEED).permutation(len(sizes))
            chosen = order[np.cumsum(sizes[order]) <= MOST_ROWS]
            self.kept = np.flatnonzero(np.isin(drawn, chosen))
        self.predictions = self._sums(split.predictions)
        self.classes = np.uint8 if classes <= 2**8 else np.uint16
        data: dict[str, np.ndarray]
        if split.labels is not None:
            data = {"label": np.asarray(split.labels)[self.kept].astype(self.classes)}
        else:
            counted = {"predictions": self.predictions, "bytes": self._sums(split.bytes)}
            data = {name: sums.astype(np.uint32) for name, sums in counted.items()}
        if isinstance(split, JoinedSplit):
            of_part = np.repeat(np.arange(len(split.parts), dtype=np.uint8), [len(part) for part in split.parts])
            data["part"] = of_part[self.starts][self.kept]
        if split.groups is not None:
            data["group"] = drawn[self.kept].astype(np.uint32)
        self.data = Columns.of(data)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """The sum over each kept row's examples, [kept]."""
        return np.add.reduceat(np.asarray(values, dtype=np.float64), self.starts)[self.kept]

    def examples(self, measures: Mapping[str, np.ndarray], answers: Mapping[str, Mapping[int, float]]) -> Examples:
        """The numbers of one evaluation.

        Args:
            measures: of each example, summed over its predictions, [examples].
            answers: the scores of generated answers by metric: the example of each, and its score.
        """
        found: dict[str, np.ndarray] = {}
        with np.errstate(over="ignore"):  # a loss beyond float16 is infinite, and gives no error bar
            for name, values in measures.items():
                if name == "class":
                    found[name] = values[self.kept].astype(self.classes)
                else:
                    found[name] = (self._sums(values) / np.maximum(self.predictions, 1)).astype(np.float16)
        for name, scores in answers.items():  # a conversation is one example
            whole = np.full(self.of, np.nan, dtype=np.float32)
            whole[list(scores)] = list(scores.values())
            found[name] = whole[self.kept]
        return self.with_data(Columns.of(found))

    def with_data(self, found: Columns) -> Examples:
        return Examples(len(self.kept), self.of, found, self.data)
