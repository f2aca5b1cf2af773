"""The stages of unfreezing: which layer groups train, one after another, by mode.

Gradual unfreezing (Howard and Ruder, 2018) starts with the head and thaws one more group, from the top, per stage.
Chain-thaw (Felbo et al., 2017) trains the head, then every other group alone from the bottom up, then all together.
LP-FT (Kumar et al., 2022) trains the head, then everything. `cadence.py` decides when a stage ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Stage = tuple[bool, ...]
"""Whether each layer group trains, bottom to top."""

# The groups of each stage, by the modes of `spec.space.UNFREEZING_MODES`. Arguments: the groups below the head that have
# something to train, bottom to top; the head; all groups.
MODES: dict[str, Callable[[list[int], set[int], set[int]], list[set[int]]]] = {
    "full": lambda lower, head, everything: [everything],  # noqa: ARG005
    "head": lambda lower, head, everything: [head],  # noqa: ARG005
    "gradual": lambda lower, head, everything: [head, *(head | set(lower[-n:]) for n in range(1, len(lower))), everything],
    "chain_thaw": lambda lower, head, everything: [head, *({group} for group in lower), everything],
    "lp_ft": lambda lower, head, everything: [head, everything],  # noqa: ARG005
}


def stages(mode: str, n_groups: int, heads: int = 1, idle: Collection[int] = ()) -> list[Stage]:
    """The stages of a mode, in order. A thaw leads from each stage to the next.

    Args:
        heads: groups, from the top, that train as the head.
        idle: groups that have nothing to train. No stage is begun for them.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"unknown unfreezing mode {mode!r}")
    everything, head = set(range(n_groups)), set(range(n_groups - heads, n_groups))
    found = MODES[mode](sorted(everything - head - set(idle)), head, everything)
    return [tuple(group in trained for group in range(n_groups)) for trained in found]


def cuts_of(passed: Sequence[Stage]) -> list[int]:
    """The cuts that occur in a trial of these stages: below a cut, no group has trained in any stage so far.

    Below cut 2 there is no block, so nothing is worth caching.
    """
    lowest = [stage.index(True) for stage in passed]
    return sorted({cut for n in range(1, len(lowest) + 1) if (cut := min(lowest[:n])) >= 2})
