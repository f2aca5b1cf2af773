"""The survival rule `by_size`."""

from __future__ import annotations

from scalesweep.search.survival import BaseRule


class Rule(BaseRule):
    """Compares only trials of the same model size at every rung except the last, where all are compared.

    Early values of different sizes differ by their speed of starting, so the order within a size is more predictive.
    """

    def group(self, size: str, last: bool) -> str:
        return "" if last else size
