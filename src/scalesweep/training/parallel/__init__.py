"""Parallel strategies: how the workers of one trial share a model. A file per name of `STRATEGIES`.

The file's class `Strategy` has the methods of `Parallel`. The workers call each method at the same time. What one worker alone
would decide, such as smaller pieces after a lack of memory, all workers decide together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from scalesweep.models.groups import LayerGroup
    from scalesweep.training.peers import Peers

STRATEGIES: dict[str, str] = {  # name → module
    "replicated": "scalesweep.training.parallel.replicated",
}


class Parallel(Protocol):
    """A parallel strategy of one trial, on one of its workers."""

    equal_passes: bool
    """Whether all workers must run the same passes, because a pass exchanges parts of the model.

    A worker with fewer examples then runs passes that weigh nothing, and each pass ends with the exchange of whether one ran
    out of memory. A strategy whose pass can fail on one worker alone must see to it that the others' passes end.
    """

    def __init__(self, peers: Peers, device: torch.device) -> None: ...

    def place(self, make: Callable[[torch.device], Any], groups: Sequence[LayerGroup]) -> Any:
        """The model, on this worker's device as the strategy needs it. Names of parameters stay.

        Args:
            make: builds the whole model on a device.
        """

    def before_thaw(self, model: Any) -> None:
        """Prepare the model for `requires_grad` flags that change."""

    def reduce(self, trained: Sequence[torch.nn.Parameter], ran_out: bool) -> bool:
        """Sum gradients over the workers. A worker without examples adds zeros.

        Returns whether any worker ran out of memory (`ran_out`): the gradients are then incomplete.
        """

    def clip(self, trained: Sequence[torch.nn.Parameter], max_norm: float) -> None:
        """Clip the norm of the summed gradients."""

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The whole of each tensor, of which workers hold parts. Only the first worker's result is used."""

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The part of `whole` that this worker holds, in the form of `like`; the inverse of `gather`."""


def strategy(name: str, peers: Peers, device: torch.device) -> Parallel:
    """The strategy of a name."""
    made: Parallel = import_module(STRATEGIES[name]).Strategy(peers, device)
    return made
