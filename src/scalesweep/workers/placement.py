"""Placement: the choice among free workers, by their nodes. It uses no Ray."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Node:
    """A node on which workers can be placed."""

    id: str
    workers: int  # capacity of the empty node
    accelerator_type: str | None


@dataclass
class Worker:
    name: str
    actor: Any
    ready: Any  # reference that resolves when the process is ready
    node: str | None = None  # None while it starts
    wanted: str | None = None  # requested accelerator type
    target: str | None = None  # node of the start; None if Ray chooses
    holder: str | None = None
    group: str | None = None  # its last process group
    world: int = 0  # number of workers in that group
    idle_since: float = field(default_factory=time.monotonic)
    share: float = 1.0  # of a GPU, or of the CPUs in its place
    gpu: Any = None  # reservation of the GPU whose share it has; None for a whole one
    spare: bool = False  # started in advance, and not yet asked for


def choose(free: Sequence[Worker], count: int, placement: str) -> list[Worker]:
    """`count` of the free workers, in order of rank; an empty list if there are too few.

    Workers of one node are preferred, on the fullest node with enough of them, so whole nodes stay free for large trials.
    With `spread`, each node gives as few as possible. On a node, workers that were last used together are preferred.
    """
    nodes = Counter(str(worker.node) for worker in free)
    enough = [node for node in nodes if nodes[node] >= count]
    if len(free) < count or (placement == "strict_pack" and not enough):
        return []
    order = sorted(nodes, key=lambda node: -nodes[node])
    if enough and placement != "spread":
        order = [min(enough, key=lambda node: nodes[node])]
    groups: Counter[tuple[str, str | None]] = Counter((str(worker.node), worker.group) for worker in free if worker.group)

    def preference(worker: Worker) -> tuple[int, bool, str]:
        whole = groups[(str(worker.node), worker.group)] == count  # its whole group is free and of this size
        # A single worker comes from outside such groups, so that a group can be used again.
        return order.index(str(worker.node)), whole == (count == 1), worker.name

    ordered = sorted((worker for worker in free if str(worker.node) in order), key=preference)
    if placement == "spread":
        by_node = [[worker for worker in ordered if str(worker.node) == node] for node in order]
        ordered = [worker for turn in itertools.zip_longest(*by_node) for worker in turn if worker is not None]
    return sorted(ordered[:count], key=lambda worker: worker.name)
