"""Adapters by the names and shapes of a model's linear layers: which layers get one, and how many parameters train."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scalesweep.errors import UserError, did_you_mean
from scalesweep.spec.space import ADAPTERS, ALL_LINEAR

Shape = tuple[str, int, int, int]
"""The linear layers of one name within a block: the name; inputs plus outputs, and outputs, summed over the blocks; and the
highest rank that the weight of one of them can have. The records of older versions lack the last."""


def is_target(name: str, targets: str) -> bool:
    """Whether a layer of this name is one of `targets`: `all-linear`, or last parts of names with commas between."""
    return targets == ALL_LINEAR or any(f".{name}".endswith(f".{target.strip()}") for target in targets.split(","))


def check_targets(names: Iterable[str], targets: str) -> None:
    """Check that each of `targets` is a linear layer.

    Raises:
        UserError: with the first that is not.
    """
    names = list(names)
    for target in targets.split(","):
        if not any(is_target(name, target) for name in names):
            known = dict.fromkeys(name.rpartition(".")[2] for name in names)
            hint = did_you_mean(target.strip(), [*known, ALL_LINEAR])
            raise UserError(f"no linear layer of a block is named {target.strip()!r}", hint)


def adapter_params(linears: Sequence[Any], adapter: str, rank: int, targets: str) -> int:
    """The parameters of all adapters: two matrices per layer, and one magnitude per output with DoRA."""
    chosen = [(both, outputs) for name, both, outputs, *_ in linears if is_target(name, targets)]
    return sum(rank * both + (outputs if ADAPTERS[adapter].magnitudes else 0) for both, outputs in chosen)


def full_rank(linears: Sequence[Shape], targets: str) -> int:
    """The highest rank that the weight of a layer with an adapter can have. A higher one of the adapter adds nothing."""
    return max(most for name, _, _, most in linears if is_target(name, targets))


def trained_params(size: Any, mode: str, adapter: str, rank: int, targets: str, full_head: bool) -> int:
    """The parameters that have trained at the end of a trial.

    Args:
        size: the facts of a ladder size (`group_params`, `head_groups`, `n_layers`, `linears`).
        mode: of unfreezing. Every mode but `head` trains all groups in the end.
        full_head: whether the head trains in full beside adapters.
    """
    if adapter == "none":
        return sum(size.group_params[-size.head_groups :] if mode == "head" else size.group_params)
    adapters = adapter_params(size.linears, adapter, rank, targets)
    if mode == "head":
        return int(size.group_params[-1]) if full_head else adapters // size.n_layers
    return adapters + (size.group_params[-1] if full_head else 0)
