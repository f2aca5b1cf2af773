"""Arithmetic of tokens, FLOPs, memory, GPU seconds and dollars. Pure numbers: no library, no clock, no file.

FLOPs are those of a profile measured on the model itself (`models/flops.py`), no rule over parameter counts.
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


def training_memory_bytes(n_params: float, trainable_params: float) -> float:
    """Least memory of one worker: float32 weights, and gradients and two AdamW moments of what is trained.

    Activations come on top and depend on the batch, so this refuses only what can never fit.
    """
    return 4 * n_params + 12 * trainable_params


def dollars(gpu_seconds: float, dollars_per_gpu_hour: float | None) -> float | None:
    """What `gpu_seconds` cost, or None without a price."""
    return None if dollars_per_gpu_hour is None else gpu_seconds / 3600 * dollars_per_gpu_hour


def workers_of_node(gpus: float, cpus: float, cpus_per_worker: int, on_gpus: bool) -> int:
    """Workers that fit on a node: each takes a GPU, where workers run on GPUs, and its CPUs."""
    by_cpu = int(cpus) // cpus_per_worker
    return min(int(gpus), by_cpu) if on_gpus else by_cpu


def accelerator_type_of(resources: Mapping[str, Any]) -> str | None:
    """A node's accelerator type, by its resources in Ray's words."""
    kinds = [key for key in resources if key.startswith("accelerator_type:")]
    return kinds[0].removeprefix("accelerator_type:") if kinds else None
