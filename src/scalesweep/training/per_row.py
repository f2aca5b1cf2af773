"""The numbers that an evaluation keeps for each row of a split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scalesweep.data.tokens import TokenizedSplit
from scalesweep.examples import MOST_ROWS, Columns, Examples
from scalesweep.tasks import BaseTask

SEED = 0  # of the sample of rows: the same one for all trials


class Rows:
    """The rows of a split, and those of them that are kept."""

    def __init__(self, split: TokenizedSplit, task: BaseTask, classes: int) -> None:
        # The bytes of a row that became several examples count in the first of them.
        starts = np.asarray(split.bytes) > 0 if task.divides else np.ones(len(split), dtype=bool)
        starts[:1] = True
        self.starts = np.flatnonzero(starts)
        self.of = len(self.starts)
        self.kept = np.arange(self.of)
        if self.of > MOST_ROWS:
            self.kept = np.sort(np.random.default_rng(SEED).choice(self.of, MOST_ROWS, replace=False))
        self.predictions = self._sums(split.predictions)
        self.classes = np.uint8 if classes <= 2**8 else np.uint16
        if split.labels is not None:
            data = {"label": np.asarray(split.labels)[self.kept].astype(self.classes)}
        else:
            counted = {"predictions": self.predictions, "bytes": self._sums(split.bytes)}
            data = {name: sums.astype(np.uint32) for name, sums in counted.items()}
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
