"""The error for mistakes in the user's data or data specification."""

from __future__ import annotations

from scalesweep.errors import UserError


class DataProblem(UserError):
    """A problem with the data, and the key of the sweep file that can fix it.

    `key` is a path such as ('data', 'label') or ('data', 'splits', 'train'). A caller with the sweep file resolves it to a
    file and a line.
    """

    def __init__(self, key: tuple[str | int, ...], message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.key = key

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.key, self.message, self.hint)
