"""Arithmetic of FLOPs, memory, GPU seconds, dollars and workers. Uses no library, no clock and no file.

FLOPs come from a profile that `models/flops.py` measures on the model itself, not from the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 1024**3
FLOPS_PER_GPU_SECOND = 1e14  # of curves that state no seconds: a third of an A100's bf16 peak


Growth = tuple[float, ...]
"""FLOPs as a polynomial in a batch's rows and width: the coefficients of 1, width, width², rows, rows·width and rows·width²."""


def _at(growth: Growth, rows: float, width: float) -> float:
    batch, row = growth[:3], growth[3:]
    powers = (1.0, width, width * width)
    return sum((b + rows * r) * power for b, r, power in zip(batch, row, powers, strict=True))


@dataclass(frozen=True)
class Gradient:
    """The FLOPs of the derivatives with respect to one kind of operand.

    They are needed if a trained group lies in one of the `needed_by` ranges (first, last + 1). Its own group needs a weight;
    every group that a hidden state depends on needs the hidden state.
    """

    needed_by: tuple[tuple[int, int], ...]
    growth: Growth


@dataclass(frozen=True)
class FlopProfile:
    """Measured FLOPs of a model for any batch and any set of trained layer groups (`models/flops.py`).

    Only matrix multiplications count, as in torch's flop counter. All values are plain and serializable as JSON.
    """

    forwards: tuple[Growth, ...]  # per layer group, bottom to top
    recomputed: tuple[Growth, ...]  # repeated by gradient checkpointing, per layer group
    gradients: tuple[Gradient, ...]
    estimated: bool  # parts are estimated from the number of parameters, because the model does not run without weights

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlopProfile:
        """Rebuild a profile from `dataclasses.asdict`, with or without a passage through JSON."""
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
        """Return the FLOPs of a forward pass over `rows` examples padded to `width` tokens, through groups `first` and above."""
        return sum(_at(growth, rows, width) for growth in self.forwards[first:]) if rows else 0.0

    def backward(self, rows: float, width: float, trained: Sequence[bool], checkpointing: bool = False) -> float:
        """Return the FLOPs of a backward pass in which the `trained` groups (bottom to top) get gradients.

        With gradient checkpointing, the blocks from the lowest trained group upwards run forward a second time.
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


# Per weight; in 4 bits with a scale of 8 bits per 64, and a float32 scale of these per 256 (double quantization).
WEIGHT_BYTES = {"float32": 4.0, "bf16": 2.0, "nf4": 0.5 + (1 + 4 / 256) / 64}
MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}  # per parameter; in 8 bits with a float32 scale per 256


def training_memory_bytes(
    weight_bytes: float, trainable_params: float, optimizer: str = "adamw", trainable_embeddings: float = 0
) -> float:
    """Return the least memory of one worker: weights, plus gradients and two AdamW moments of the trained parameters.

    Activations need more memory, which depends on the batch. A model above this bound can never fit.

    Args:
        weight_bytes: of all weights, by WEIGHT_BYTES.
        optimizer: a name of MOMENT_BYTES.
        trainable_embeddings: those of the trained parameters whose moments stay in float32.
    """
    moments = MOMENT_BYTES[optimizer] * (trainable_params - trainable_embeddings) + MOMENT_BYTES["adamw"] * trainable_embeddings
    return weight_bytes + 4 * trainable_params + moments


def dollars(gpu_seconds: float, dollars_per_gpu_hour: float | None) -> float | None:
    """Return the price of `gpu_seconds`, or None without a price per hour."""
    return None if dollars_per_gpu_hour is None else gpu_seconds / 3600 * dollars_per_gpu_hour


def bill(
    start_gpu_seconds: float, start_price: float | None, by_size: Mapping[str, float], price: Callable[[str], float | None]
) -> float | None:
    """Return the dollars of a sweep; None without any price.

    Args:
        start_gpu_seconds: of the start of workers, which belongs to no trial.
        start_price: dollars per GPU hour for them.
        by_size: GPU seconds of trials, by model size.
        price: returns the dollars per GPU hour of a size.
    """
    parts = [dollars(start_gpu_seconds, start_price), *(dollars(seconds, price(name)) for name, seconds in by_size.items())]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def workers_of(num_gpus: float) -> int:
    """Return the number of workers of a trial: one for each GPU, and one on a share of a GPU."""
    return max(1, int(num_gpus))


def share_of(num_gpus: float) -> float:
    """Return the share of a GPU that each worker of a trial has: 1 is a whole one."""
    return min(1.0, num_gpus)


def workers_of_node(gpus: float, cpus: float, cpus_per_worker: int, on_gpus: bool) -> int:
    """Return the number of workers that fit on a node. Each needs `cpus_per_worker` CPUs and, with `on_gpus`, one GPU."""
    by_cpu = int(cpus) // cpus_per_worker
    return min(int(gpus), by_cpu) if on_gpus else by_cpu


def accelerator_type_of(resources: Mapping[str, Any]) -> str | None:
    """Return a node's accelerator type from its Ray resources, or None."""
    kinds = [key for key in resources if key.startswith("accelerator_type:")]
    return kinds[0].removeprefix("accelerator_type:") if kinds else None
