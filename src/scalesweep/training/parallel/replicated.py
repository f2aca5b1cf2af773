"""Every worker holds the whole model, and gradients are summed (data parallelism)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from scalesweep.models.groups import LayerGroup
from scalesweep.training.peers import Peers

BUCKET_ELEMENTS = 2**25  # gradients are summed in buckets of 128 MiB: few calls, bounded extra memory


class Strategy:
    """Sums the gradients of the parameters that train; the others are not sent."""

    equal_passes = False

    def __init__(self, peers: Peers, device: torch.device) -> None:
        self.peers, self.device = peers, device

    def place(self, make: Callable[[torch.device], Any], groups: Sequence[LayerGroup]) -> Any:  # noqa: ARG002
        return make(self.device)

    def before_thaw(self, model: Any) -> None:
        pass

    def reduce(self, trained: Sequence[torch.nn.Parameter], ran_out: bool) -> bool:
        if self.peers.world == 1:
            return ran_out
        flag = trained[0].new_full((1,), ran_out)  # travels with the last gradients, so that a step needs no further exchange
        buckets: list[list[torch.nn.Parameter]] = [[]]
        size = 0
        for parameter in trained:
            size += parameter.numel()
            if buckets[-1] and size > BUCKET_ELEMENTS:
                buckets.append([])
                size = parameter.numel()
            buckets[-1].append(parameter)
        for bucket in buckets:
            flags = [flag] if bucket is buckets[-1] else []
            sizes = [p.numel() for p in bucket] + [1] * len(flags)
            flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket), *flags])
            summed = self.peers.sum_(flat).split(sizes)
            for p, part in zip(bucket, summed, strict=False):
                p.grad = part.view_as(p)
        return bool(summed[-1])

    def clip(self, trained: Sequence[torch.nn.Parameter], max_norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(trained, max_norm)

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return tensors

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return whole
