"""Forward passes of one trial's model, which begin at the cached output of the frozen groups where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.training.methods.method import Method
from scalesweep.training.precision import Precision
from scalesweep.training.prefix import PrefixCache


@dataclass(frozen=True)
class Output:
    """The result of a pass. `first` is the lowest layer group that was computed."""

    logits: torch.Tensor
    targets: torch.Tensor
    first: int


class Passes:
    """Runs examples through the model.

    Attributes:
        flops: FLOPs of this worker since the last report, counted by the callers.
    """

    def __init__(self, method: Method, precision: Precision, prefix: PrefixCache | None, pad_id: int) -> None:
        self.method, self.precision, self.prefix, self.pad_id = method, precision, prefix, pad_id
        self.flops = 0.0

    def forward(
        self, split: TokenizedSplit | JoinedSplit, indices: np.ndarray, lowest: int, reads_cache: bool = True
    ) -> Output:
        """Run these examples. `lowest` is the lowest group that needs a gradient: the number of groups if none does."""
        arrays = split.batch(indices, self.pad_id)
        batch = {name: self._to_device(array) for name, array in arrays.items()}
        targets = batch.pop("targets")
        cut = min(lowest, self.method.untouched, len(self.method.groups) - 1)
        prefix = self.prefix if reads_cache else None
        hidden = prefix.hidden(split, indices, cut, batch) if prefix is not None else None
        with self.precision.autocast():
            if hidden is None or prefix is None:
                return Output(self.method.model(**batch).logits, targets, 0)
            return Output(prefix.replay.forward(cut, hidden, batch).logits, targets, cut)

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.precision.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.precision.device, non_blocking=True)

    def collect_prefix(self) -> list[str]:
        """Count the FLOPs that filled the prefix cache since the last call, and return its notes."""
        if self.prefix is None:
            return []
        costs = self.method.costs
        for tokens, first, cut in self.prefix.computed:
            self.flops += costs.forward(1, tokens, first) - costs.forward(1, tokens, cut)
        notes = list(self.prefix.notes)
        self.prefix.computed, self.prefix.notes = [], []
        return notes
