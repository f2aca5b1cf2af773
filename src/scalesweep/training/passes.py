"""Forward passes of one trial's model, which begin at the cached output of the frozen groups where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scalesweep.costs import FlopProfile
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.models.groups import LayerGroup
from scalesweep.training.precision import Precision
from scalesweep.training.prefix import PrefixCache


@dataclass(frozen=True)
class Output:
    """The result of a pass. `first` is the lowest layer group that was computed."""

    logits: torch.Tensor
    labels: torch.Tensor
    first: int


class Passes:
    """Runs examples through the model.

    Attributes:
        untouched: groups below this one have the weights of the checkpoint.
        flops: FLOPs of this worker since the last report, counted by the callers.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        groups: Sequence[LayerGroup],
        costs: FlopProfile,
        precision: Precision,
        prefix: PrefixCache | None,
        pad_id: int,
    ) -> None:
        self.model, self.groups, self.costs, self.precision = model, groups, costs, precision
        self.prefix, self.pad_id = prefix, pad_id
        self.untouched = len(groups)
        self.flops = 0.0

    def forward(
        self, split: TokenizedSplit | JoinedSplit, indices: np.ndarray, lowest: int, reads_cache: bool = True
    ) -> Output:
        """Run these examples. `lowest` is the lowest group that needs a gradient: the number of groups if none does."""
        arrays = split.batch(indices, self.pad_id)
        batch = {name: self._to_device(array) for name, array in arrays.items()}
        labels = batch.pop("labels")
        cut = min(lowest, self.untouched, len(self.groups) - 1)
        prefix = self.prefix if reads_cache else None
        hidden = prefix.hidden(split, indices, cut, batch) if prefix is not None else None
        with self.precision.autocast():
            if hidden is None or prefix is None:
                return Output(self.model(**batch).logits, labels, 0)
            return Output(prefix.replay.forward(cut, hidden, batch).logits, labels, cut)

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.precision.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.precision.device, non_blocking=True)

    def collect_prefix(self) -> list[str]:
        """Count the FLOPs that filled the prefix cache since the last call, and return its notes."""
        if self.prefix is None:
            return []
        for tokens, first, cut in self.prefix.computed:
            self.flops += self.costs.forward(1, tokens, first) - self.costs.forward(1, tokens, cut)
        notes = list(self.prefix.notes)
        self.prefix.computed, self.prefix.notes = [], []
        return notes
