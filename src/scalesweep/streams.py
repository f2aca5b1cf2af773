"""The standard streams of a command: closed ones, and those of another encoding than UTF-8."""

from __future__ import annotations

import io
import os
import sys


def usable_streams() -> None:
    """Give a closed stream (`2>&-`) the null device, and print `?` for a letter that a stream's encoding lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:  # otherwise the next file that is opened takes the stream's place
                os.dup2(null, number)
            setattr(sys, name, open(number, "r+" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up_stdout() -> None:
    """Send the rest of stdout nowhere, after its reader has left. Python flushes it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
