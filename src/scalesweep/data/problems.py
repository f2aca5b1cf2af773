"""The one error this room adds: the user's data or data specification is at fault."""

from __future__ import annotations

from scalesweep.errors import UserError


class DataProblem(UserError):
    """A problem with the data, and the key of the sweep file that can mend it.

    `key` is a path such as ('data', 'label') or ('data', 'splits', 'train'); a caller that holds the sweep file turns
    it into a file and a line.
    """

    def __init__(self, key: tuple[str | int, ...], message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.key = key

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.key, self.message, self.hint)
