"""Rows of a table that one run uses at most once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesweep.simulation.source import Curve
from scalesweep.simulation.tables import TableSource


class UnusedRows:
    """A `Source` for one run on a table: new parameters take the nearest row that the run has not used yet.

    Otherwise a search that concentrates on good places would train the same few rows over and over, and learn nothing from
    it, which real training would not do. Equal parameters keep their row, and so do parameters that differ in the GPU count
    alone. When every row is used, the nearest one answers again.
    """

    def __init__(self, table: TableSource) -> None:
        self.table = table
        self.n_params, self.best, self.median, self.notes = table.n_params, table.best, table.median, table.notes
        self.true_rank = table.true_rank
        self._rows: dict[Any, int] = {}
        self._used: set[int] = set()

    def _recorded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of the parameters' row, with their GPU count."""
        key = self.table.key(params)
        if key not in self._rows:
            used = self._used if len(self._used) < len(self.table.configs) else set()
            self._rows[key] = self.table.lookup(params, used)
            self._used.add(self._rows[key])
        gpus = {"num_gpus": params["num_gpus"]} if "num_gpus" in params else {}
        return {**gpus, **self.table.configs[self._rows[key]]}

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        return self.table.curve(self._recorded(params), seed)

    def final(self, params: Mapping[str, Any]) -> float:
        return self.table.final(self._recorded(params))
