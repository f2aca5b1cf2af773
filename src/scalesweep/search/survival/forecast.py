"""The survival rule `forecast`: by the expected value at `max_t`, however a trial stands at the rung."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from scalesweep.search.outlook import UNKNOWN
from scalesweep.search.survival import BaseRule, Point

CERTAIN = 2.0  # standard deviations of both, by which a trial must be expected to end worse than the pick to end now
EXTRA = 1  # trials that continue from each rung beyond the share, so that the first ones soon show what the rungs are worth
SURE = 0.8  # agreement of a rung with the end, from which the share is 1 ÷ reduction_factor; at 0 or below, it is all


class Rule(BaseRule):
    """Compares trials by their expected loss at `max_t`.

    The share that continues from a rung depends on the rung's agreement with the end. Where the two orders have little in common,
    stopping there would be guessing, and more trials continue.

    With `variant: stopping` a trial is judged before others like it were seen further on. There the metric decides.
    """

    strict = compares_rungs = True

    def hopeless(self, names: Collection[str], points: Mapping[str, Point], kept: int) -> list[str]:
        assert self.outlook is not None
        expected, best = self.outlook.expected(), self.outlook.pick()
        if best is None:
            return []
        bar = expected[best].mean + CERTAIN * expected[best].sd
        found = [name for name in names if name in expected and expected[name].mean - CERTAIN * expected[name].sd > bar]
        if not found:
            return []
        scores = self._scores(points)
        far = set(sorted(points, key=scores.__getitem__)[kept:])
        return sorted(name for name in found if name in far)

    def quota(self, index: int, count: int, reduction_factor: float) -> int:
        assert self.outlook is not None
        least = 1 / reduction_factor
        doubt = min(max(1 - self.outlook.agreement(index) / SURE, 0.0), 1.0)
        return math.ceil(count * (least + (1 - least) * doubt)) + EXTRA

    def first(
        self,
        names: Collection[str],
        points: Mapping[str, Point],
        order: Sequence[tuple[float, str]],  # noqa: ARG002
    ) -> tuple[str, int]:
        scores = self._scores(points)
        best = min(scores[name] for name in names)
        return best[1], sum(score < best for score in scores.values())

    def _scores(self, points: Mapping[str, Point]) -> dict[str, tuple[float, str]]:
        """The forecast of each trial at a rung, and its name."""
        assert self.outlook is not None
        expected = self.outlook.expected()
        return {name: (expected.get(name, UNKNOWN).mean, name) for name in points}
