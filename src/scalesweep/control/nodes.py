"""Detection of broken nodes. A broken GPU or disk fails every trial on its node, and fails it fast, so the node gets ever more
trials: one such node can use up a sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from scipy.special import bdtrc

WINDOW_SECONDS = 3600.0
TRIALS_THAT_MAY_FAIL = 3  # fewest failed trials before a node can be at fault
CHANCE = 0.01  # largest probability of as many failures by chance at which the node is at fault


class NodeWatch:
    """Counts of failed and successful trials per node, over the last hour.

    A node is at fault if as many failures are improbable at the failure rate of the other nodes: the binomial tail is at most
    `CHANCE`. The others' rate is estimated by Laplace's rule, (failed + 1) / (trials + 2). So settings that fail everywhere
    are not blamed on a node. No node is at fault while no trial succeeds elsewhere, so the last working node always stays.
    """

    def __init__(self) -> None:
        self._last: defaultdict[str, dict[str, tuple[float, bool]]] = defaultdict(dict)  # node → trial → (time, failed)

    def reported(self, trial: str, nodes: Iterable[str], now: float) -> None:
        for node in nodes:
            self._last[node][trial] = now, False

    def failed(self, trial: str, nodes: Iterable[str], drained: Collection[str], now: float) -> dict[str, list[str]]:
        """Record a failure. Returns the nodes to drain, each with the trials that failed there."""
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
            chance = float(bdtrc(len(failed) - 1, len(here), rate))  # probability of at least as many failures
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
