"""Reading the numbers of validation rows that a record keeps beside its events.

An event says where a block of bytes is, how long it is, and its checksum. A block that is absent or damaged is as if it had never
been kept: the evaluation has no error bar, and nothing else depends on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from scalesweep.examples import Columns, Examples
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    import numpy as np

READERS = 16  # objects fetched at once


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers of one evaluation (`scalesweep.examples.Examples`), by column: each [rows]. `of`: the rows of the split."""

    rows: int
    of: int
    columns: Mapping[str, np.ndarray]

    @classmethod
    def of_examples(cls, examples: Examples) -> Evaluation:
        """The numbers of an evaluation that was not recorded."""
        rows = examples.rows
        return cls(rows, examples.of, examples.found.arrays(rows) | examples.data.arrays(rows))

    @property
    def kept(self) -> float:
        """The share of the split whose numbers these are."""
        return self.rows / self.of

    @cached_property
    def floats(self) -> dict[str, np.ndarray]:
        """The columns as float64, made once for all metrics."""
        return {name: array.astype(float) for name, array in self.columns.items()}

    def part(self, number: int) -> Evaluation:
        """The rows of one of the splits that the evaluation was of together, as if they had been evaluated alone."""
        here = self.columns["part"] == number
        return Evaluation(
            int(here.sum()), round(int(here.sum()) / self.kept), {name: one[here] for name, one in self.columns.items()}
        )

    def alike(self, other: Evaluation) -> bool:
        """Whether both are of the same rows. All trials of a sweep are evaluated on one split. Only a tokenizer that leaves rows
        out makes a difference."""
        if (self.rows, self.of) != (other.rows, other.of):
            return False
        groups, others = self.columns.get("group"), other.columns.get("group")
        if groups is None or others is None or groups is others:
            return groups is others
        return bool(groups.tolist() == others.tolist())


class Blocks:
    """The blocks of a run folder. Files stay open until `close`; objects at a URL are fetched whole, and once."""

    def __init__(self, folder: Path | UrlPath) -> None:
        self.folder = folder
        self._objects: dict[str, bytes] = {}
        self._files: dict[str, IO[bytes]] = {}

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch these objects side by side."""
        if isinstance(self.folder, UrlPath):
            missing = sorted(set(names) - self._objects.keys())
            with ThreadPoolExecutor(READERS) as pool:
                self._objects |= zip(missing, pool.map(self._object, missing), strict=True)

    def _object(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def read(self, place: Mapping[str, Any]) -> bytes | None:
        """The bytes of a block; None if they are absent or damaged."""
        start, size = int(place["start"]), int(place["bytes"])
        if isinstance(self.folder, UrlPath):
            self.fetch([place["file"]])
            content = self._objects[place["file"]][start : start + size]
        else:
            try:
                if place["file"] not in self._files:
                    self._files[place["file"]] = (self.folder / place["file"]).open("rb")
                file = self._files[place["file"]]
                file.seek(start)
                content = file.read(size)
            except OSError:
                return None
        return content if zlib.crc32(content) == place["crc32"] else None

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def absent(folder: Path | UrlPath, places: Iterable[Mapping[str, Any]]) -> list[str]:
    """The files that `places` name and that are not in the run folder."""
    files = {place[part]["file"] for place in places for part in ("found", "data")}
    if not isinstance(folder, UrlPath):
        return sorted(file for file in files if not (folder / file).exists())
    parents = {str(PurePosixPath(file).parent) for file in files}  # one listing is faster than a request for each object
    return sorted(files - {f"{parent}/{name}" for parent in parents for name in (folder / parent).names()})


def read_evaluations(folder: Path | UrlPath, places: Mapping[str, Mapping[str, Any]]) -> dict[str, Evaluation]:
    """The evaluations whose numbers can be read, by the names that `places` gives them. Their places are those of the events."""
    found: dict[str, Evaluation] = {}
    data: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}  # the same for many evaluations
    with closing(Blocks(folder)) as blocks:
        blocks.fetch(place[part]["file"] for place in places.values() for part in ("found", "data"))
        for name, place in places.items():
            try:
                block, rows = place["data"], place["rows"]
                key = block["file"], block["start"], block["bytes"], block["crc32"], rows
                if key not in data:
                    data[key] = _columns(blocks, block, rows)
                found[name] = Evaluation(rows, place["of"], _columns(blocks, place["found"], rows) | data[key])
            except (KeyError, TypeError, ValueError):  # of another version, absent or damaged
                continue
    return found


def _columns(blocks: Blocks, place: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
    """The columns of a block.

    Raises:
        ValueError: the block is absent or damaged, or does not hold so many rows.
    """
    content = blocks.read(place)
    if content is None:
        raise ValueError(f"{place['file']} has no sound block at byte {place['start']}")
    return Columns(place["columns"], content).arrays(rows)
