"""Which node is at fault when trials fail. A broken GPU or disk fails every trial that is put on it, and fast, so that it gets
ever more of them: one such node can use a sweep up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from scipy.special import bdtrc

WINDOW_SECONDS = 3600.0
TRIALS_THAT_MAY_FAIL = 3  # on a node before it can be at fault
CHANCE = 0.01  # of failing so often by chance, below which it is the node


class NodeWatch:
    """Counts, for each node, the trials that have failed there and those that did well, in the last hour.

    A node is at fault when so many of its trials would hardly fail if they failed as often as on the other nodes: the
    binomial tail, with the others' rate by Laplace's rule, (failed + 1) / (trials + 2), is at most `CHANCE`. So settings that
    fail everywhere are no node's fault. Nor is a node while no trial does well elsewhere: the last that works is never given up.
    """

    def __init__(self) -> None:
        self._last: defaultdict[str, dict[str, tuple[float, bool]]] = defaultdict(dict)  # node → trial → when, and if it failed

    def reported(self, trial: str, nodes: Iterable[str], now: float) -> None:
        for node in nodes:
            self._last[node][trial] = now, False

    def failed(self, trial: str, nodes: Iterable[str], drained: Collection[str], now: float) -> dict[str, list[str]]:
        """Take a failure in. Returns the nodes that are to be drained, each with the trials that failed there."""
        nodes = set(nodes) - set(drained)
        for node in nodes:
            self._last[node][trial] = now, True
        others = [self._recent(node, now) for node in self._last.keys() - nodes - set(drained)]
        elsewhere = [failed for trials in others for failed in trials.values()]
        rate = (sum(elsewhere) + 1) / (len(elsewhere) + 2)
        bad = {}
        for node in nodes:
            here = self._recent(node, now)
            failed = [name for name, failed in here.items() if failed]
            chance = float(bdtrc(len(failed) - 1, len(here), rate))  # of as many failures or more
            if len(failed) >= TRIALS_THAT_MAY_FAIL and chance <= CHANCE and not all(elsewhere):
                bad[node] = failed
                del self._last[node]
        return bad

    def _recent(self, node: str, now: float) -> dict[str, bool]:
        """The node's trials of the last hour, and whether each failed."""
        told = self._last[node]
        for name in [name for name, (when, _) in told.items() if now - when > WINDOW_SECONDS]:
            del told[name]
        return {name: failed for name, (_, failed) in told.items()}
