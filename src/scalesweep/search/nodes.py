"""Which node is at fault when trials fail. A broken GPU or disk fails every trial that is put on it, and fast, so that it gets
ever more of them: one such node can use a sweep up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

WINDOW_SECONDS = 600.0
TRIALS_THAT_MAY_FAIL = 3  # on one node, one after another, before it is drained


class NodeWatch:
    """Counts the trials that fail on a node since a trial last reported there.

    A node is bad when `TRIALS_THAT_MAY_FAIL` different trials have failed on it within `WINDOW_SECONDS`, none has reported on it
    in between, and one has on another node within that time: settings that fail everywhere are no node's fault, and the
    last node that works is never given up.
    """

    def __init__(self) -> None:
        self._failures: defaultdict[str, dict[str, float]] = defaultdict(dict)  # node → trial → when
        self._good: dict[str, float] = {}  # node → when a trial last reported there

    def reported(self, nodes: Iterable[str], now: float) -> None:
        for node in nodes:
            self._good[node] = now
            self._failures.pop(node, None)

    def failed(self, trial: str, nodes: Iterable[str], drained: Collection[str], now: float) -> dict[str, list[str]]:
        """Take a failure in. Returns the nodes that are to be drained, each with the trials that failed there."""
        nodes = set(nodes) - set(drained)
        others = [when for node, when in self._good.items() if node not in nodes and node not in drained]
        elsewhere = max(others, default=-math.inf)
        for node in nodes:
            self._failures[node][trial] = now
        bad = {}
        for node in nodes:
            recent = [name for name, when in self._failures[node].items() if now - when <= WINDOW_SECONDS]
            if len(recent) >= TRIALS_THAT_MAY_FAIL and now - elsewhere <= WINDOW_SECONDS:
                bad[node] = recent
                del self._failures[node]
        return bad
