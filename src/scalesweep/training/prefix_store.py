"""A store of bytes per example on a node's disk, shared by all processes of the node: the outputs of frozen prefixes.

`root/prefix-KEY/` contains

    values.bin  the examples one after the other; a sparse file with its full size from the start
    index.bin   uint32 [examples]  CRC-32 of the example's bytes; 0: absent (a CRC-32 of 0 is stored as 1)
    meta.json   the properties of the store
    lock        locked (shared) by every process that has the store open; its time is that of the last use

Guarantees if a process dies at any time:

- A folder has its name only when it is complete. It is created, opened and evicted under one lock of the root, so no process
  opens a store that another deletes. The next process deletes what a dead one left unfinished or partly deleted.
- One process at a time writes a row, under a lock on the row's place in the index that ends with the process. It writes the
  bytes before the checksum, and never writes a complete row again. So a killed writer leaves the row absent.
- A process compares the checksum when it first reads a row. A row that fails counts as absent and may be written again. This
  also covers a power cut, after which any part may have reached the disk without the others, because nothing is synced.

No function raises for a disk that is full, read-only or broken: rows are absent, and writing reports that there is no room.
CRC-32 is the fastest checksum of the standard library (3.6 GB/s; Adler-32 3.1, hashes at most 1.6).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import secrets
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from scalesweep.costs import GIB

FORMAT = 1
DISK_SHARE = 0.25  # default limit of all stores, as a share of the disk that is free or used by them
LEAST_FREE_BYTES, LEAST_FREE_SHARE = GIB, 0.02  # the larger of the two stays free on the disk
GRANT_BYTES = 16 * 1024**2  # a writer requests room once per this many bytes, and may exceed the budget by as many
TOUCH_SECONDS = 60.0
SUM_BYTES = 4


class CacheBudget:
    """The disk budget of all prefix stores of a node together."""

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        """
        Args:
            root: the node's cache folder.
            max_bytes: by default `DISK_SHARE` of the disk that is free or used by the stores at the time of the request.
        """
        self.root, self._max_bytes = Path(root), max_bytes

    def used(self) -> int:
        """Bytes allocated on disk by all stores, including those being deleted."""
        return sum(map(_allocated, [*self._folders("prefix-*"), *self.leftovers()]))

    def fits(self, n_bytes: int) -> bool:
        """Whether `n_bytes` would fit if everything else were evicted."""
        try:
            used = self.used()
            return self._lacking(n_bytes, used) <= used
        except OSError:
            return False

    def make_room(self, n_bytes: int) -> bool:
        """Evict stores that no process has open, the longest unused first, until `n_bytes` more fit.

        Returns False if they can't fit, or if the disk would have too little free space. Then no store is evicted.
        """
        try:
            if self._lacking(n_bytes) <= 0:
                return True
            with self.alone():
                doomed = self.leftovers()
                chosen: list[Path] = []
                lacking = self._lacking(n_bytes) - sum(map(_allocated, doomed))
                for folder in sorted(self._folders("prefix-*"), key=_last_used):
                    if lacking <= 0:
                        break
                    if not _in_use(folder):
                        chosen.append(folder)
                        lacking -= _allocated(folder)
                if lacking <= 0:
                    doomed += [self.condemn(folder) for folder in chosen]
            _delete(doomed)
            return self._lacking(n_bytes) <= 0
        except OSError:
            return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock for creating, opening and evicting stores. Deleting is slow and happens without it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".prefix-stores.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def condemn(self, folder: Path) -> Path:
        """Rename a store so that it can be deleted. Call it only within `alone`."""
        return folder.rename(self.root / f".evicted-{folder.name}-{secrets.token_hex(4)}")

    def leftovers(self) -> list[Path]:
        """Unfinished and partly deleted folders. Within `alone` no process is creating one, so all may be deleted."""
        return [*self._folders(".evicted-prefix-*"), *self._folders(".unfinished-prefix-*")]

    def _lacking(self, n_bytes: int, used: int | None = None) -> int:
        """Bytes to free before `n_bytes` more are within the budget and leave enough free disk."""
        used = self.used() if used is None else used
        disk = shutil.disk_usage(_nearest_existing(self.root))
        max_bytes = int(DISK_SHARE * (disk.free + used)) if self._max_bytes is None else self._max_bytes
        least_free = max(LEAST_FREE_BYTES, int(LEAST_FREE_SHARE * disk.total))
        return n_bytes + max(used - max_bytes, least_free - disk.free)

    def _folders(self, pattern: str) -> list[Path]:
        return [path for path in self.root.glob(pattern) if path.is_dir()]


class PrefixStore:
    """The store of one key: a row of `lengths[i] * bytes_per_token` bytes for each example i.

    Any number of processes can read and write at once. An instance belongs to one thread. A store that is closed or can't be
    opened has no rows and accepts none.
    """

    def __init__(self, budget: CacheBudget, files: _Files | None, lengths: np.ndarray, bytes_per_token: int) -> None:
        self._budget, self._files, self._bytes_per_token = budget, files, bytes_per_token
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)]) * bytes_per_token
        self._verified = np.zeros(len(self._lengths), dtype=bool)
        self._granted = 0  # bytes that may be written before the next request for room
        self._touch_at = 0.0

    @classmethod
    def open(cls, budget: CacheBudget, key: str, lengths: np.ndarray, bytes_per_token: int) -> PrefixStore:
        """The store of `key`, created if missing. A store that is damaged or has other lengths is replaced."""
        meta = {
            "format": FORMAT,
            "bytes_per_token": bytes_per_token,
            "examples": len(lengths),
            "tokens": int(np.sum(lengths, dtype=np.int64)),
            "lengths": hashlib.sha256(np.asarray(lengths, dtype=np.int64).tobytes()).hexdigest(),
        }
        try:
            files = _open_files(budget, budget.root / f"prefix-{key}", meta)
        except OSError:
            files = None
        store = cls(budget, files, lengths, bytes_per_token)
        store._touch()
        return store

    def __enter__(self) -> PrefixStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; afterwards the store may be evicted."""
        if self._files is not None:
            self._files.close()
            self._files = None

    @property
    def total_bytes(self) -> int:
        """The bytes of all rows of a complete store."""
        return int(self._offsets[-1])

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Whether each row is present, bool [n]. Checksums are compared only by `read`, whose answer is final."""
        indices = np.asarray(indices, dtype=np.int64)
        return np.zeros(len(indices), dtype=bool) if self._files is None else self._files.sums[indices] != 0

    def read(self, indices: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows padded with zeros, uint8 [n, `width` or the longest, bytes_per_token], and whether each is present, bool [n].

        Raises:
            ValueError: a row is longer than `width`.
        """
        indices = np.asarray(indices, dtype=np.int64)
        lengths = self._lengths[indices]
        longest = int(lengths.max(initial=0))
        width = longest if width is None else width
        if width < longest:
            raise ValueError(f"rows of up to {longest} tokens don't fit a width of {width}")
        flat = np.empty((len(indices), width * self._bytes_per_token), dtype=np.uint8)
        present = np.zeros(len(indices), dtype=bool)
        sizes = (lengths * self._bytes_per_token).tolist()
        for row, (index, size) in enumerate(zip(indices.tolist(), sizes, strict=True)):
            if self._files is not None and self._load(self._files, index, flat[row, :size]):
                present[row] = True
                flat[row, size:] = 0
            else:
                flat[row] = 0
        self._touch()
        return flat.reshape(len(indices), width, self._bytes_per_token), present

    def write(self, indices: np.ndarray, values: Sequence[np.ndarray]) -> bool:
        """Store rows, each uint8 [length, bytes_per_token]. Returns False if there is no room.

        Existing rows are not changed, and a row that another process is writing is left to that process.
        """
        indices = np.asarray(indices, dtype=np.int64)
        for index, value in zip(indices.tolist(), values, strict=True):
            shape = (int(self._lengths[index]), self._bytes_per_token)
            if value.shape != shape or value.dtype != np.uint8:
                raise ValueError(f"row {index} is {value.dtype} {list(value.shape)}, not uint8 {list(shape)}")
        files, n_bytes = self._files, int(self._lengths[indices].sum()) * self._bytes_per_token
        if files is None or files.failed or not self._afford(n_bytes):
            return False
        self._granted -= n_bytes
        self._touch()
        try:
            for index, value in zip(indices.tolist(), values, strict=True):
                with files.claim(index) as mine:
                    if mine and not self._is_whole(files, index):
                        data = np.ascontiguousarray(value)
                        if files.sums[index]:
                            files.set_sum(index, 0)
                        files.set_bytes(int(self._offsets[index]), data)
                        files.set_sum(index, _sum(data))
        except OSError:
            files.failed = True  # the disk is full, over quota or broken; existing rows can still be read
            return False
        return True

    def _load(self, files: _Files, index: int, into: np.ndarray) -> bool:
        """Read a row. Returns False if it is absent. A row whose checksum fails is removed from the index."""
        if not files.sums[index]:
            return False
        if self._matches(files, index, into):
            return True
        with suppress(OSError), files.claim(index) as mine:
            # Check again under the lock: another process may have been rewriting the row.
            if mine and not self._matches(files, index, into):
                files.set_sum(index, 0)
        return False

    def _is_whole(self, files: _Files, index: int) -> bool:
        size = int(self._lengths[index]) * self._bytes_per_token
        return bool(files.sums[index]) and self._matches(files, index, np.empty(size, dtype=np.uint8))

    def _matches(self, files: _Files, index: int, into: np.ndarray) -> bool:
        """Read a row's bytes, and compare their checksum the first time. A valid row is never written again."""
        expected = int(files.sums[index])
        # A read is as fast as a memory map, and a failing disk raises an error instead of killing the process.
        try:
            complete = os.preadv(files.values.fileno(), [into.data], int(self._offsets[index])) == into.nbytes
        except OSError:
            return False
        if complete and not self._verified[index]:
            complete = self._verified[index] = _sum(into) == expected
        return complete

    def _afford(self, n_bytes: int) -> bool:
        """Obtain room for `n_bytes`. Room is requested in large amounts, because a look at the disk takes longer than a row."""
        if n_bytes <= self._granted:
            return True
        for amount in (max(n_bytes, min(GRANT_BYTES, self.total_bytes)), n_bytes):
            if self._budget.make_room(amount):
                self._granted = amount
                return True
        return False

    def _touch(self) -> None:
        now = time.monotonic()
        if self._files is not None and now >= self._touch_at:
            self._touch_at = now + TOUCH_SECONDS
            with suppress(OSError):
                os.utime(self._files.lock.fileno())


class _Files:
    """The open files of a store."""

    def __init__(self, folder: Path) -> None:
        with ExitStack() as opened:
            self.lock = opened.enter_context((folder / "lock").open("r+b", buffering=0))
            fcntl.flock(self.lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self.values = opened.enter_context((folder / "values.bin").open("r+b", buffering=0))
            self._index = opened.enter_context((folder / "index.bin").open("r+b", buffering=0))
            mapped = opened.enter_context(mmap.mmap(self._index.fileno(), 0, access=mmap.ACCESS_READ))
            self.sums = np.frombuffer(mapped, dtype=np.uint32)
            self._opened = opened.pop_all()
        self.failed = False

    def close(self) -> None:
        # The files are closed without unlocking, which would also release the lock shared with a forked process.
        del self.sums  # a map with a view can't be closed
        self._opened.close()

    def set_bytes(self, offset: int, data: np.ndarray) -> None:
        rest = data.reshape(-1).data
        while rest:
            written = os.pwrite(self.values.fileno(), rest, offset)
            rest, offset = rest[written:], offset + written

    def set_sum(self, index: int, value: int) -> None:
        os.pwrite(self._index.fileno(), struct.pack("=I", value), index * SUM_BYTES)

    @contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """Lock a row for writing without waiting. Yields whether this process holds it. The lock ends with the process."""
        try:
            self._set_lock(index, fcntl.F_WRLCK)
        except (BlockingIOError, PermissionError):  # the system reports a held lock by either error
            yield False
            return
        try:
            yield True
        finally:
            self._set_lock(index, fcntl.F_UNLCK)

    def _set_lock(self, index: int, kind: int) -> None:
        # The lock belongs to the open file, not to the process as with `fcntl.lockf`: two stores of one process exclude each other.
        place = struct.pack("hhqqi4x", kind, os.SEEK_SET, index * SUM_BYTES, SUM_BYTES, 0)
        fcntl.fcntl(self._index, fcntl.F_OFD_SETLK, place)


def _open_files(budget: CacheBudget, folder: Path, meta: dict[str, Any]) -> _Files | None:
    """Open a store's folder, created or replaced if needed; None if it is damaged and another process has it open."""
    with budget.alone():
        doomed = budget.leftovers()
        if folder.exists() and not _is_as_described(folder, meta):
            if _in_use(folder):
                return None
            doomed.append(budget.condemn(folder))
        if not folder.exists():
            _make(folder, meta)
        files = _Files(folder)
    _delete(doomed)
    return files


def _make(folder: Path, meta: dict[str, Any]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f".unfinished-{folder.name}-", dir=folder.parent))
    try:
        for name, size in _sizes(meta).items():
            with (unfinished / name).open("wb") as file:
                file.truncate(size)
        (unfinished / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        (unfinished / "lock").touch()
        unfinished.rename(folder)
    finally:
        _delete([unfinished])


def _sizes(meta: dict[str, Any]) -> dict[str, int]:
    # An empty file can't be mapped, so the index has at least one place.
    return {"values.bin": meta["tokens"] * meta["bytes_per_token"], "index.bin": max(meta["examples"], 1) * SUM_BYTES}


def _is_as_described(folder: Path, meta: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        same_size = all((folder / name).stat().st_size == size for name, size in _sizes(meta).items())
        return found == meta and same_size and (folder / "lock").is_file()
    except (OSError, ValueError):
        return False


def _in_use(folder: Path) -> bool:
    """Whether any process has the store open. The answer stays valid while the root's lock is held."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is locked, or it belongs to another user
        return True
    return False


def _last_used(folder: Path) -> int:
    with suppress(OSError):
        return (folder / "lock").stat().st_mtime_ns
    return 0  # damaged stores are evicted first


def _allocated(folder: Path) -> int:
    total = 0
    with suppress(OSError):  # another process may be deleting it
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_blocks * 512  # st_blocks counts units of 512 bytes on every file system
    return total


def _delete(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _nearest_existing(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _sum(data: np.ndarray) -> int:
    return zlib.crc32(data.data) or 1
