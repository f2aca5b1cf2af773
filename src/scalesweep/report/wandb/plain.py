"""Values made fit for W&B: text without control characters, secrets, hosts and machine paths, and bounded in length."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from scalesweep.storage import without_secrets

NAME_LENGTH = 128  # W&B refuses longer names and groups
TAG_LENGTH = 64
TEXT_LENGTH = 1024
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_PATH = re.compile(r"(?<![\w/.:<])~?/(?:[^\s/'\":,;]+/)+(?=[^\s/'\":,;]|)|(?<![\w\\])[A-Za-z]:\\(?:[^\s\\]+\\)*")
_HOST = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\bip-\d+-\d+-\d+-\d+[\w.-]*")


def line(text: object, length: int = TEXT_LENGTH) -> str:
    """One line of visible text: of a path only the last part, and no address of a host."""
    return _line(str(text), length)


@functools.lru_cache(maxsize=100_000)  # the keys and words of a record return in every event
def _line(text: str, length: int) -> str:
    shown = _HOST.sub("<host>", _PATH.sub("", without_secrets(_ANSI.sub("", text))))
    shown = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in shown)
    shown = " ".join("".join(letter for letter in shown if unicodedata.category(letter) not in ("Cf", "Cs")).split())
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def value(given: Any) -> Any:
    """The value as JSON can say it: text cleaned, what is not finite as None."""
    if isinstance(given, str):
        return line(given)
    if isinstance(given, float):
        return given if math.isfinite(given) else None
    if isinstance(given, Mapping):
        return {line(key, NAME_LENGTH): value(one) for key, one in given.items()}
    if isinstance(given, list | tuple):
        return [value(one) for one in given]
    return given
