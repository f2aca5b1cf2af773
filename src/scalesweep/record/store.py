"""The run folder on disk: `sweep.json` (written once), `record.jsonl` (append-only), and a lease for the one writer.

A line is on disk (fsync) before the event it tells has any effect, so what was recorded survives the death of any
process. A line that a dying process left half-written is cut off when the next writer opens the file. Storage that is away
or full for a while is waited for: a line is in the file once, or the sweep ends and can be resumed.

At a URL, where nothing can be appended to, the record is a row of objects, `record/NUMBER-SESSION.jsonl`. Each line puts the newest
one anew until it is large enough, and a writer replaces no object that another one has begun.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

from scalesweep.errors import OutsideError, UserError
from scalesweep.record.lease import Lease
from scalesweep.record.schema import SCHEMA_VERSION, Record, replay
from scalesweep.storage import STORAGE_SECONDS, UrlPath, patiently, place

MANIFEST = "sweep.json"
EVENTS = "record.jsonl"
SEGMENTS = "record"  # at a URL
SEGMENT_BYTES = 64 * 1024  # of an object of the record, after which the next one is begun
READERS = 16  # objects of the record that are fetched at once


def encode(value: Any) -> Any:
    """JSON has no NaN and no infinity; the record spells them as text, and `decode` reads them back."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _decode_metrics(event: dict[str, Any]) -> dict[str, Any]:
    if event.get("event") == "report":
        event["metrics"] = {key: float(value) for key, value in event["metrics"].items()}
        if isinstance(event.get("cutoff"), str):
            event["cutoff"] = float(event["cutoff"])
    return event


def read_record(run_dir: Path | UrlPath | str) -> Record:
    """Read a run folder: a path, or a URL.

    Raises:
        UserError: `run_dir` is no run folder, was written by another version, or holds a line that can't be read.
        OutsideError: the object store can't be read.
    """
    run_dir = place(run_dir)
    manifest = read_manifest(run_dir)
    try:
        return replay(manifest, read_events(run_dir))
    except (KeyError, TypeError, ValueError) as error:
        path = events_path(run_dir)
        raise UserError(f"{path}: an event does not fit the ones before it ({error!r})", "was the file edited?") from None


def events_path(run_dir: Path | UrlPath) -> Path | UrlPath:
    return run_dir / (EVENTS if isinstance(run_dir, Path) else SEGMENTS)


def read_events(run_dir: Path | UrlPath) -> list[dict[str, Any]]:
    """The events of a run folder's record, as they were written.

    Raises:
        UserError: a line can't be read.
        OutsideError: the object store can't be read.
    """
    path = events_path(run_dir)
    if isinstance(path, UrlPath):
        try:
            segments = [path / name for name in path.names()]
            with ThreadPoolExecutor(READERS) as pool:
                content = b"".join(pool.map(UrlPath.read_bytes, segments))
        except OSError as error:
            raise _cannot_read(path, error) from None
    else:
        content = path.read_bytes() if path.exists() else b""
    events = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):  # what follows the last newline is half-written or empty
        try:
            events.append(_decode_metrics(json.loads(line)))
        except (ValueError, KeyError, AttributeError):
            hint = "a writer never leaves this; restore the file from a copy, or delete the damaged line to lose that event"
            raise UserError(f"{path}:{number}  this line is no event", hint) from None
    return events


def read_manifest(run_dir: Path | UrlPath) -> dict[str, Any]:
    """What a run folder is of.

    Raises:
        UserError: no run folder, one of another version, or one that can't be read.
        OutsideError: the object store can't be read.
    """
    path = run_dir / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_run_folder(run_dir) from None
    except OSError as error:
        if isinstance(run_dir, Path):
            raise
        raise _cannot_read(path, error) from None
    try:
        manifest = json.loads(content)
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} can't be read", "restore it from a copy") from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has record version {version}; this scalesweep reads version {SCHEMA_VERSION}",
            f"use the scalesweep that wrote it ({manifest.get('versions', {}).get('scalesweep', 'unknown')})",
        )
    return dict(manifest)


def _no_run_folder(run_dir: Path | UrlPath) -> UserError:
    made = "`scalesweep launch` makes one"
    if isinstance(run_dir, UrlPath):
        return UserError(f"{run_dir} is no run folder ({MANIFEST} not found)", made)
    siblings = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{MANIFEST}")) if run_dir.parent.is_dir() else []
    hint = f"run folders in {run_dir.parent}/: {', '.join(siblings)}" if siblings else made
    what = f"is no run folder ({MANIFEST} not found)" if run_dir.is_dir() else "does not exist"
    return UserError(f"{run_dir} {what}", hint)


def _cannot_read(path: Path | UrlPath, error: OSError) -> OutsideError:
    hint = "does the bucket exist, may these credentials read there, and does its endpoint answer?"
    return OutsideError(f"{path} can't be read: {error.strerror}", hint)


class _Log(Protocol):
    """Where lines are put, each behind what is known to be kept."""

    def write(self, line: bytes) -> None:
        """May be called again with the same line after an OSError."""
        ...

    def close(self) -> None: ...


class RecordWriter:
    """The one writer of a run folder. Holds the folder's lease until closed; keeps `record` in step with the file."""

    def __init__(
        self, run_dir: Path | UrlPath, manifest: dict[str, Any] | None = None, storage_seconds: float = STORAGE_SECONDS
    ) -> None:
        """Open a new folder (`manifest` given) or an existing one.

        Raises:
            UserError: the folder is in use by another process, or there is (not) a sweep in it already.
            OutsideError: the folder can't be written.
        """
        self.run_dir, self.storage_seconds = run_dir, storage_seconds
        self._failed: OutsideError | None = None  # nothing is written after a line that could not be
        self._lease = Lease(run_dir)
        try:
            if manifest is not None:
                if (run_dir / MANIFEST).exists():
                    hint = f"continue it with `scalesweep resume {shlex.quote(str(run_dir))}`, or choose another --run-dir"
                    raise UserError(f"{run_dir} holds a sweep already", hint)
                write_atomic(run_dir / MANIFEST, json.dumps(encode(manifest), indent=2, ensure_ascii=False) + "\n")
            if isinstance(run_dir, Path):
                _cut_half_line(run_dir / EVENTS)
            self.record = read_record(run_dir)
            self._log: _Log = _File(run_dir / EVENTS) if isinstance(run_dir, Path) else _Segments(run_dir / SEGMENTS)
        except BaseException:
            self._lease.close()
            raise

    def append(self, event: dict[str, Any]) -> None:
        """Write one event through to the disk, then take it into `record`. Waits while the storage is away or full.

        Raises:
            OutsideError: the storage did not come back, or another driver has taken the folder over.
        """
        if self._failed is not None:
            raise self._failed
        line = (json.dumps(encode(event), ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            patiently(lambda: self._write(line), self.storage_seconds)
        except OutsideError as error:
            self._failed = error
            raise
        except OSError as error:
            what = f"{self.run_dir} could not be written: {error.strerror}"
            hint = f"once it can be, `scalesweep resume {shlex.quote(str(self.run_dir))}` goes on; nothing recorded is lost"
            self._failed = OutsideError(what, hint)
            raise self._failed from None
        self.record.apply(event)

    def _write(self, line: bytes) -> None:
        self._lease.check()
        self._log.write(line)

    def close(self) -> None:
        self._log.close()
        self._lease.close()


def _cut_half_line(path: Path) -> None:
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


class _File:
    """One file, appended to and synced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("ab")
        self._length = self._file.tell()

    def write(self, line: bytes) -> None:
        """Put a line at the end of what is known to be on disk; what an earlier try left there is cut off first."""
        if self._file.closed:
            self._file = self.path.open("r+b")
            self._file.truncate(self._length)
            self._file.seek(self._length)
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self.close()
            raise
        self._length += len(line)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # its buffer may hold what the storage refuses; all that counts was synced before
            self._file.close()


class _Segments:
    """A row of objects. The last one, which is this writer's own, is put anew with every line."""

    def __init__(self, folder: UrlPath) -> None:
        self.folder = folder
        self._number = max((int(name.partition("-")[0]) for name in folder.names()), default=0) + 1
        self._session = uuid.uuid4().hex[:8]
        self._content = b""

    def write(self, line: bytes) -> None:
        content = self._content + line
        (self.folder / f"{self._number:06d}-{self._session}.jsonl").write_bytes(content)
        self._content = content
        if len(content) >= SEGMENT_BYTES:
            self._number, self._content = self._number + 1, b""

    def close(self) -> None: ...


def write_atomic(path: Path | UrlPath, text: str) -> None:
    """Replace `path` by `text` in one step: a reader sees the old content or the new."""
    if isinstance(path, UrlPath):
        path.write_bytes(text.encode())
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
