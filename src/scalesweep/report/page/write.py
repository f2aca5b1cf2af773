"""The page as one HTML file: a template with the style, the data and the scripts in their places.

Nothing in the file is fetched: the policy in its head allows no request, and no script but its own. The data stand in it as JSON in
which `<` is escaped, so that no name can end the element. The scripts show every text as text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.record.store import encode, write_atomic
from scalesweep.report.board import unlike
from scalesweep.report.law import law_json, law_of
from scalesweep.report.page.data import page_data
from scalesweep.storage import UrlPath

SCRIPTS = ("text.js", "charts.js", "figures.js", "law.js", "table.js", "page.js")
ENDINGS = (".html", ".htm")
PAGE = "report.html"  # in the run folder, written when a sweep ends
TITLE_LENGTH = 100
HEAD_BYTES = 64  # of a file, by which its kind is told
PLAIN_BYTES = 400_000  # of the data; more are compressed


def page(records: Sequence[Record]) -> str:
    """The page of these sweeps."""
    return document(page_json(records), title_of(records))


def write_page(records: Sequence[Record], path: Path | UrlPath) -> None:
    """Write the page of these sweeps.

    Raises:
        UserError: `path` has another ending or is a folder, lies in none, or is a file of another kind.
        OSError: the file can't be written.
    """
    if not path.name.lower().endswith(ENDINGS) and not (isinstance(path, Path) and path.is_dir()):
        hint = f"write a name that ends in {' or '.join(ENDINGS)}, for example {PAGE}"
        raise UserError(f"{path}: the page is an HTML file", hint)
    if isinstance(path, Path) and path.is_dir():
        raise UserError(f"{path} is a folder", f"name the file too, for example {path / PAGE}")
    if isinstance(path, Path) and not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder", "create it first")
    if isinstance(path, Path) and path.is_file() and not _may_replace(path):
        raise UserError(f"{path} exists and is no page", f"name another file, for example {path.with_name(PAGE)}")
    write_atomic(path, page(records))


def _may_replace(path: Path) -> bool:
    """Whether a file is empty or begins as HTML does. Any other may be a sweep's record, which nothing brings back."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lstrip().lower()
    return not head or head.startswith((b"<!doctype html", b"<html"))


def title_of(records: Sequence[Record]) -> str:
    return ", ".join(str(record.manifest.name) for record in records)


def page_json(records: Sequence[Record], refresh_seconds: float | None = None) -> str:
    """The data of the page, as JSON. With `refresh_seconds`, the page asks its server for newer data."""
    data: dict[str, Any] = {
        "written": time.time(),
        "refresh_seconds": refresh_seconds,
        "unlike": list(unlike(records)),
        "law": law_json(law_of(records)),
        "sweeps": [page_data(record) for record in records],
    }
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a number that is not finite; to look for one beforehand takes longer
        return json.dumps(encode(data), separators=(",", ":"), allow_nan=False)


def document(data: str, title: str, served: bool = False) -> str:
    """The HTML around the data. A page that is `served` may ask its server for data."""
    script, style = "\n".join(_file(name) for name in SCRIPTS), _file("page.css")
    parts = {
        "title": escape("".join(one if one.isprintable() else "\ufffd" for one in title[:TITLE_LENGTH])),
        "policy": _policy(style, script, served),
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _file("page.html"))


def embedded(text: str) -> str:
    """JSON for a script element: as it is, or an object whose `gzip` is the compressed JSON in base64."""
    if len(text) > PLAIN_BYTES:
        text = json.dumps({"gzip": base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()})
    return text.replace("<", "\\u003c")


def _policy(style: str, script: str, served: bool) -> str:
    """The content security policy: this style and these scripts, by their hashes, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    rules = [f"style-src 'sha256-{hashes[0]}'", f"script-src 'sha256-{hashes[1]}'", "base-uri 'none'", "form-action 'none'"]
    return "; ".join(["default-src 'none'", *rules, *(["connect-src 'self'"] if served else [])])


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()
