"""The numbers that an evaluation keeps for each row of its split, as bytes: from a worker to the record, and back from there.

A row is a text with a class, a document or a conversation: what is drawn from the population at once. A document that was cut
into several examples is one row.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MOST_ROWS = 4096  # of a split: from more, a fixed sample is kept


@dataclass(frozen=True)
class Columns:
    """Columns of equal length, one behind the other. `dtypes`: numpy's name of each column's type, in order."""

    dtypes: dict[str, str]
    content: bytes

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Columns:
        """The columns of these arrays, each [rows]."""
        dtypes = {name: array.dtype.newbyteorder("<").str for name, array in arrays.items()}
        return cls(dtypes, b"".join(array.astype(dtypes[name]).tobytes() for name, array in arrays.items()))

    def as_json(self) -> list[Any]:
        return [self.dtypes, base64.b85encode(self.content).decode()]

    @classmethod
    def from_json(cls, written: list[Any]) -> Columns:
        return cls(written[0], base64.b85decode(written[1]))

    def arrays(self, rows: int) -> dict[str, np.ndarray]:
        """The columns as arrays.

        Raises:
            ValueError: the content is not as long as `rows` rows of these columns.
        """
        import numpy as np

        types = {name: np.dtype(dtype) for name, dtype in self.dtypes.items()}
        if sum(dtype.itemsize for dtype in types.values()) * rows != len(self.content):
            raise ValueError(f"{len(self.content)} bytes are not {rows} rows of {self.dtypes}")
        found, start = {}, 0
        for name, dtype in types.items():
            found[name] = np.frombuffer(self.content, dtype, rows, start)
            start += rows * dtype.itemsize
        return found


@dataclass(frozen=True)
class Examples:
    """The numbers of one evaluation, in the order of the split.

    Attributes:
        rows: the rows that are kept.
        of: the rows of the split.
        found: of this evaluation: `loss` (mean over the row's predictions, in nats), `right` (share of its tokens predicted
            right), `class` (the predicted one), and the score of the generated answer by the name of its metric (NaN without).
        data: of the data alone: `predictions` and `bytes` of the row, `label` (its class).
    """

    rows: int
    of: int
    found: Columns
    data: Columns
