"""The survival rule `forecast`: by the expected value at `max_t`, however a trial stands at the rung."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from scalesweep.search.outlook import UNKNOWN
from scalesweep.search.survival import BaseRule, Point


class Rule(BaseRule):
    """Compares trials by their expected loss at `max_t` minus one standard deviation, so that what is uncertain gets its chance.

    With `variant: stopping` a trial is judged before others like it were seen further on. There the metric decides.
    """

    strict = True

    def first(
        self,
        names: Collection[str],
        points: Mapping[str, Point],
        order: Sequence[tuple[float, str]],  # noqa: ARG002
    ) -> tuple[str, int]:
        assert self.outlook is not None
        expected = self.outlook.expected()
        found = ((name, expected.get(name, UNKNOWN)) for name in points)
        scores = {name: (forecast.mean - forecast.sd, name) for name, forecast in found}
        best = min(scores[name] for name in names)
        return best[1], sum(score < best for score in scores.values())
