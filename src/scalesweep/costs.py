"""Arithmetic of tokens, FLOPs, memory, GPU seconds and dollars. Pure numbers: no library, no clock, no file.

FLOPs are those of a model's own profile, which is measured (`FlopProfile`). The older functions follow the usual count of
dense transformers (Kaplan et al., 2020, table 1): a forward pass costs 2 per weight and token, plus attention over the
sequence; a backward pass costs 2 per weight and token for the gradient of the activations and as much again for that of the
weights. Frozen groups at the bottom cost the forward pass alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 1024**3


Growth = tuple[float, ...]
"""FLOPs as a function of a batch's rows and width: the weights of 1, width, width², rows, rows·width and rows·width²."""


def _at(growth: Growth, rows: float, width: float) -> float:
    batch, row = growth[:3], growth[3:]
    powers = (1.0, width, width * width)
    return sum((b + rows * r) * power for b, r, power in zip(batch, row, powers, strict=True))


@dataclass(frozen=True)
class Gradient:
    """What it costs to differentiate with respect to one kind of operand.

    Needed if any trained group lies in one of the `needed_by` ranges (first, last + 1): a weight is needed by its own
    group, a hidden state by every group that it depends on.
    """

    needed_by: tuple[tuple[int, int], ...]
    growth: Growth


@dataclass(frozen=True)
class FlopProfile:
    """FLOPs of a model for any batch and any set of trained layer groups, as measured (`models/flops.py`).

    Counted is what multiplies matrices, as torch's flop counter does. Plain values: it goes into JSON as it is.
    """

    forwards: tuple[Growth, ...]  # per layer group, bottom to top
    recomputed: tuple[Growth, ...]  # what gradient checkpointing computes again, per layer group
    gradients: tuple[Gradient, ...]
    estimated: bool  # some of it follows from the number of parameters, since the model could not be run without weights

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlopProfile:
        """Back from `dataclasses.asdict`, through JSON or not."""
        return cls(
            forwards=tuple(tuple(growth) for growth in values["forwards"]),
            recomputed=tuple(tuple(growth) for growth in values["recomputed"]),
            gradients=tuple(
                Gradient(tuple((first, end) for first, end in gradient["needed_by"]), tuple(gradient["growth"]))
                for gradient in values["gradients"]
            ),
            estimated=values["estimated"],
        )

    def forward(self, rows: float, width: float, first: int = 0) -> float:
        """A forward pass over `rows` examples padded to `width` tokens, through groups `first` and above."""
        return sum(_at(growth, rows, width) for growth in self.forwards[first:]) if rows else 0.0

    def backward(self, rows: float, width: float, trained: Sequence[bool], checkpointing: bool = False) -> float:
        """The backward pass where the groups that are `trained` (bottom to top) get gradients.

        With gradient checkpointing the blocks from the lowest trained group up run forward once more.
        """
        if not rows or not any(trained):
            return 0.0
        total = sum(
            _at(gradient.growth, rows, width)
            for gradient in self.gradients
            if any(any(trained[first:end]) for first, end in gradient.needed_by)
        )
        if checkpointing:
            total += sum(_at(growth, rows, width) for growth in self.recomputed[list(trained).index(True) :])
        return total


def forward_flops(matmul_params: float, tokens: float, blocks: int, hidden: int, sequence: float) -> float:
    """FLOPs of a forward pass over `tokens` tokens in sequences of `sequence` tokens.

    `matmul_params` counts weights that multiply activations (no embedding tables). Attention adds, per block and
    token, 2·sequence·hidden for the scores and as much for the weighted sum.
    """
    return 2 * matmul_params * tokens + 4 * blocks * hidden * sequence * tokens


def training_flops(
    group_params: Sequence[int], lowest_trainable: int, tokens: float, blocks: int, hidden: int, sequence: float
) -> float:
    """FLOPs of training on `tokens` tokens (forward and backward).

    Args:
        group_params: weights per layer group, bottom to top: embeddings, each block, head (`matmul_params`).
        lowest_trainable: index of the lowest trainable group; below it nothing is differentiated.
        blocks: number of transformer blocks (`len(group_params) - 2`).
    """
    body = group_params[1:]  # looking an embedding up costs no multiplication
    forward = forward_flops(sum(body), tokens, blocks, hidden, sequence)
    first = max(lowest_trainable, 1)
    trained_blocks = max(blocks - (first - 1), 0)
    # Weight and activation gradients each cost what the forward pass does; the lowest trainable group's input needs none,
    # a saving that is left out here.
    backward = 2 * forward_flops(sum(group_params[first:]), tokens, trained_blocks, hidden, sequence)
    return forward + backward


def matmul_params(group_params: Sequence[int], output_weights: int) -> tuple[int, ...]:
    """Weights per layer group as FLOPs count them: the head multiplies by at least `output_weights` weights.

    A language model's output layer that is tied to its embeddings is stored there, in the lowest group, but works on top.
    """
    return (*group_params[:-1], max(group_params[-1], output_weights))


def training_memory_bytes(n_params: float, trainable_params: float) -> float:
    """Least memory of one worker: float32 weights, and gradients and two AdamW moments of what is trained.

    Activations come on top and depend on the batch, so this refuses only what can never fit.
    """
    return 4 * n_params + 12 * trainable_params


def dollars(gpu_seconds: float, dollars_per_gpu_hour: float | None) -> float | None:
    """What `gpu_seconds` cost, or None without a price."""
    return None if dollars_per_gpu_hour is None else gpu_seconds / 3600 * dollars_per_gpu_hour
