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

    def reduce(self, trained: Sequence[torch.nn.Parameter]) -> None:
        if self.peers.world == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        size = 0
        for parameter in [*trained, None]:
            if bucket and (parameter is None or size + parameter.numel() > BUCKET_ELEMENTS):
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
                self.peers.sum_(flat)
                for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                    p.grad = part.view_as(p)
                bucket, size = [], 0
            if parameter is not None:
                bucket.append(parameter)
                size += parameter.numel()

    def clip(self, trained: Sequence[torch.nn.Parameter], max_norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(trained, max_norm)

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return tensors

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return whole
