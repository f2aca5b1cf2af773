"""The output layer of a language model, computed at learnt positions alone and in chunks, so that full logits never exist.

A hook in front of the output layer takes the hidden states of the learnt positions and passes a few of them on, so the
model's own forward pass makes almost no logits. The layer is then applied to chunks of the states taken. Where the model
does more to its logits than the layer (Gemma 2 bounds them, Cohere and Granite scale them), the first pass shows it. The hook
then passes all learnt positions on, and the logits are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**27}  # 32 and 512 MiB in float32
# Positions of a chunk. Every chunk adds to the gradient of the whole layer: with a vocabulary of 128k, chunks of 64 positions
# took 24 % more CPU seconds.
LEAST_ROWS = 256
COMPARED = 8  # positions in the first pass, to learn whether the logits are those of the layer


@dataclass(frozen=True)
class Predictions:
    """The predictions of a pass, at learnt positions alone.

    states: hidden states in front of the output layer, [predictions, hidden]; None if the logits are whole.
    logits: [predictions, outcomes]; None where there are states.
    targets: [predictions].
    """

    states: torch.Tensor | None
    logits: torch.Tensor | None
    targets: torch.Tensor


class Head:
    """The output layer of one model.

    Attributes:
        whole: whether the model makes all logits, because it has no output layer or calls it in another way.
    """

    def __init__(self, model: Any) -> None:
        self.layer: Any = getattr(model, "get_output_embeddings", lambda: None)()
        self.whole = self.layer is None
        self.plain: bool | None = None  # whether the model's logits are those of the layer; None before the first pass
        self.computed = 0  # positions at which the layer was applied in this pass
        self._places: torch.Tensor | None = None  # of the learnt positions in a batch, flat; None outside a pass
        self._shape: tuple[int, int] = (0, 0)
        self._taken: torch.Tensor | None = None
        if self.layer is not None:
            self.layer.register_forward_pre_hook(self._take)

    @property
    def rows(self) -> int:
        """The positions of a chunk."""
        weight = self.layer.weight
        return max(LEAST_ROWS, CHUNK_LOGITS["cpu" if weight.device.type == "cpu" else "cuda"] // weight.shape[0])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """The layer's output, past the hook."""
        out: torch.Tensor = self.layer.forward(states)
        self.computed += len(states)
        return out

    def _take(self, _layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._places is None or not inputs or tuple(inputs[0].shape[:2]) != self._shape:
            return None
        self._taken = inputs[0].flatten(0, 1).index_select(0, self._places)
        passed = self._taken if self.plain is False else self._taken[: 1 if self.plain else COMPARED].detach()
        self.computed += len(passed)
        return (passed, *inputs[1:])

    @contextmanager
    def at(self, places: torch.Tensor, shape: tuple[int, int]) -> Iterator[None]:
        """Within it, a pass computes its output layer at these places of a batch of `shape` (examples, width)."""
        if not self.whole:
            self._places, self._shape, self._taken = places, shape, None
        try:
            yield
        finally:
            self._places = None

    def predictions(self, logits: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> Predictions | None:
        """The predictions of a pass within `at`, from the model's `logits`; None if the pass must run again."""
        taken, self._taken = self._taken, None
        if taken is None:
            self.whole = True
            self.computed += logits.shape[0] * logits.shape[1]
            return Predictions(None, logits.flatten(0, 1).index_select(0, places), targets)
        if self.plain is None:
            if not len(taken):  # nothing to compare
                return Predictions(taken, None, targets)
            self.plain = torch.equal(self.logits(taken[:COMPARED].detach()).to(logits.dtype), logits)
            if not self.plain:
                return None
        return Predictions(taken, None, targets) if self.plain else Predictions(None, logits, targets)
