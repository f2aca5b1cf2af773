"""The speed of a worker: measured in earlier trials or by a matrix product, or assumed. `plan` turns FLOPs into hours with it."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scalesweep.spec import SweepSpec

GPU_FLOPS = 4e13  # assumed of a GPU: mixed precision on a data-centre GPU at a usual utilization
SHARE = 0.5  # of a matrix product's speed that training on a CPU reaches
SIDE = 512  # of that product's matrices


@dataclass(frozen=True)
class Speed:
    """FLOPs per second of one worker in training, and in words where the figure comes from."""

    flops_per_second: float
    source: str


def speed_of_worker(spec: SweepSpec, measured: Sequence[float] = ()) -> Speed:
    """The median of `measured`, the FLOPs per GPU second of earlier trials. Without them, a CPU's speed follows from a short
    matrix product, and a GPU's is assumed."""
    if measured:
        return Speed(median(measured), "measured in the trials of search.warm_start")
    import torch

    on_gpus = torch.cuda.device_count() or spec.resources.gpu_memory_gib or spec.resources.max_gpus
    if on_gpus or any(size.accelerator_type for size in spec.sizes()):
        return Speed(GPU_FLOPS, "assumed of a GPU")
    return Speed(
        SHARE * _product() * spec.resources.cpus_per_worker, f"{SHARE:.0%} of a matrix product measured on this machine's CPU"
    )


@functools.cache
def _product() -> float:
    """FLOPs per second and thread of a float32 matrix product, the best of five."""
    import torch

    one, seconds = torch.ones(SIDE, SIDE), []
    for _ in range(5):
        began = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(seconds) / torch.get_num_threads()
