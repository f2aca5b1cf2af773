"""Forward passes of one trial's model, which begin at the cached output of the frozen groups where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from scalesweep.data.subsets import Split
from scalesweep.models.replay import FIRST_CUT, prefix_signature
from scalesweep.tasks import IGNORED, BaseTask
from scalesweep.training.head import Head, Predictions
from scalesweep.training.methods.method import Method
from scalesweep.training.packing import Piece, pack, reads_padding, refusal
from scalesweep.training.precision import Precision
from scalesweep.training.prefix import PrefixCache

_findings: dict[str, Any] = {}  # of the probes, by all that a model's computation depends on but its weights


class Passes:
    """Runs examples through the model.

    Attributes:
        notes: remarks for the record.
        head: the output layer, where targets belong to tokens; else None.
        first: the lowest layer group that the last pass computed.
        flops: FLOPs of this worker since the last report, counted by the callers.
    """

    def __init__(self, method: Method, task: BaseTask, precision: Precision, prefix: PrefixCache | None, pad_id: int) -> None:
        self.method, self.precision, self.prefix, self.pad_id = method, precision, prefix, pad_id
        self.head = Head(method.model) if task.per_token else None
        self.may_pack = task.packs and method.config.packing == "auto"
        self.first = 0
        self.flops = 0.0
        self.notes: list[str] = []
        self._packing_noted = False

    def _cut(self, lowest: int) -> int:
        """The highest cut below which nothing changes."""
        return min(lowest, self.method.untouched, len(self.method.groups) - 1)

    def packs(self, lowest: int) -> bool:
        """Whether the model may get packed rows while `lowest` is the lowest group that trains.

        Not where the prefix cache holds the lower groups' output: it is laid out by example.
        """
        if not self.may_pack:
            return False
        if self.prefix is not None and self._cut(lowest) >= FIRST_CUT:
            return False
        found = self._probed(refusal)
        if found and not self._packing_noted:
            self._packing_noted = True
            self.notes.append(f"{self.method.config.model_size}: examples are padded, not packed, because {found}")
        return not found

    def _probed(self, probe: Callable[[Any, int], Any]) -> Any:
        """The finding of a probe of the model."""
        model, groups = self.method.model, self.method.groups
        key = f"{probe.__name__} {prefix_signature(model, len(groups) - 1, groups)} {self.precision.device}"
        if key not in _findings:
            _findings[key] = probe(model, self.pad_id)
        return _findings[key]

    def _needs_mask(self, mask: np.ndarray) -> bool:
        """Whether a pass needs its attention mask. transformers waits for the device to look for padding in one."""
        hides = (
            self._probed(reads_padding) if self.head is not None else True
        )  # in the first pass, in which all workers take part
        return bool(hides) and not mask.all()

    def forward(self, split: Split, piece: Piece, lowest: int, reads_cache: bool = True) -> Predictions:
        """Run these examples. `lowest` is the lowest group that needs a gradient: the number of groups if none does."""
        if self.head is not None:
            self.head.computed = 0  # those of a pass that ran out of memory are not this pass's
        arrays = split.batch(piece.indices, self.pad_id)
        if piece.counts is not None:
            arrays = pack(arrays, piece, self.pad_id)
        elif not self._needs_mask(arrays["attention_mask"]):
            del arrays["attention_mask"]
        targets = arrays.pop("targets")
        batch = {name: self.to_device(array) for name, array in arrays.items()}
        cut = self._cut(lowest)
        prefix = self.prefix if reads_cache and piece.counts is None else None
        hidden = prefix.hidden(split, piece.indices, cut, batch) if prefix is not None else None
        self.first = 0 if hidden is None else cut

        def logits() -> torch.Tensor:
            if hidden is None or prefix is None:
                return self.method.model(**batch).logits
            return prefix.replay.forward(cut, hidden, batch).logits

        with self.precision.autocast():
            if self.head is None:
                return Predictions(None, logits(), self.to_device(targets))
            places = np.flatnonzero(targets != IGNORED)  # found here, because a device would have to be waited for
            at, learnt = self.to_device(places), self.to_device(targets.ravel()[places])
            while True:
                with self.head.at(at, targets.shape):
                    made = logits()
                if (found := self.head.predictions(made, at, learnt)) is not None:
                    return found

    def expect(self, ahead: Callable[[], np.ndarray]) -> None:
        """Set the examples of the split in use that come next. They fill up the passes that fill the prefix cache."""
        if self.prefix is not None:
            self.prefix.ahead = ahead

    def outputs(self) -> int:
        """The logits that a pass makes for each token at once; 0 if the first pass has shown that it makes them in chunks."""
        return 0 if self.head is None or self.head.plain else int(self.method.model.config.get_text_config().vocab_size)

    def head_flops(self, shape: tuple[int, int], found: Predictions | None = None) -> float:
        """The output layer's FLOPs in the last pass, less those of all positions of a batch of `shape`.

        `found`: the predictions whose backward pass has run, too.
        """
        if self.head is None or self.head.whole:
            return 0.0
        weight, whole = self.head.layer.weight, shape[0] * shape[1]
        positions = self.head.computed - whole
        if found is not None:
            made = found.logits if found.states is None else found.states
            backward = int(weight.requires_grad) + int(made is not None and made.requires_grad)
            positions += (len(found.targets) - whole) * backward
        return 2.0 * weight.numel() * positions

    def chunks(self, found: Predictions, states: torch.Tensor | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Logits and targets of a pass, a part at a time; at least one. `states`: used in place of those of the pass."""
        states = found.states if states is None else states
        if states is None or self.head is None:
            assert found.logits is not None
            yield found.logits, found.targets
            return
        rows = self.head.rows
        for start in range(0, max(len(found.targets), 1), rows):
            with self.precision.autocast():
                logits = self.head.logits(states[start : start + rows])
            yield logits, found.targets[start : start + rows]

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        """A copy on the device, for which the host does not wait."""
        tensor = torch.from_numpy(array)
        if self.precision.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.precision.device, non_blocking=True)

    def collect_notes(self) -> list[str]:
        """Count the FLOPs that filled the prefix cache since the last call, and return the notes since then."""
        own, self.notes = self.notes, []
        if self.prefix is None:
            return own
        costs = self.method.job.flops  # of the base model, which the frozen groups are
        for tokens, first, cut in self.prefix.computed:
            self.flops += costs.forward(1, tokens, first) - costs.forward(1, tokens, cut)
        notes = own + self.prefix.notes
        self.prefix.computed, self.prefix.notes = [], []
        return notes
