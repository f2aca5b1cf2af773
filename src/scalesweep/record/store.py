"""The run folder on disk: `sweep.json` (written once), `record.jsonl` (append-only), and a lease for the one writer.

A line is on disk (fsync) before its event has any effect, so recorded events survive the death of any process. The next writer
that opens the file removes a half-written last line. A writer waits for storage that is full or unavailable: a line is written
once, or the sweep ends and can be resumed.

Objects at a URL can't be appended to. There the record is a sequence of objects, `record/NUMBER-SESSION.jsonl`. Each line rewrites
the newest object until it is large enough, and a writer never replaces an object of another writer.

The numbers of each evaluation's rows (`record/evaluations.py`) are kept in the same way, in a file of their own. They are written
before the event that says where they are.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

from scalesweep.errors import OutsideError, UserError, command
from scalesweep.examples import Columns, Examples
from scalesweep.record.evaluations import Blocks
from scalesweep.record.lease import Lease
from scalesweep.record.manifest import SCHEMA_VERSION, Manifest, in_todays_words
from scalesweep.record.schema import Record
from scalesweep.storage import STORAGE_SECONDS, UrlPath, cannot_write, patiently, place, without_secrets

MANIFEST = "sweep.json"
EVENTS = "record.jsonl"
EXAMPLES = "examples.bin"
EXAMPLES_SEGMENTS = "examples"  # at a URL
SEGMENTS = "record"  # at a URL
TRACEBACKS = "errors"  # folder of the tracebacks, a file per failed attempt
SEGMENT_BYTES = 64 * 1024  # size of an object of the record, after which the next one begins
EXAMPLES_BYTES = 128 * 1024**2  # of the numbers of rows in one record
READERS = 16  # objects of the record fetched at once


def encode(value: Any) -> Any:
    """Convert a value to JSON. NaN and infinity, which JSON lacks, become text; reading a record converts them back."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _decode_metrics(event: dict[str, Any]) -> dict[str, Any]:
    if event.get("event") in ("report", "untrained"):
        event["metrics"] = {key: float(value) for key, value in event["metrics"].items()}
        if isinstance(event.get("cutoff"), str):
            event["cutoff"] = float(event["cutoff"])
        for mark in event.get("marks", ()):
            mark["value"] = float(mark["value"])
    return event


def read_record(run_dir: Path | UrlPath | str) -> Record:
    """Read a run folder: a path, or a URL.

    Raises:
        UserError: `run_dir` is not a run folder, has another record version, or contains a line that can't be read.
        OutsideError: the object store can't be read.
    """
    run_dir = place(run_dir)
    manifest = read_manifest(run_dir)
    record = rebuilt(run_dir, manifest, read_events(run_dir))
    record.folder = run_dir
    return record


def rebuilt(run_dir: Path | UrlPath, manifest: Manifest, events: Iterable[dict[str, Any]]) -> Record:
    """The record of a run folder's events.

    Raises:
        UserError: an event contradicts earlier ones.
    """
    record, number = Record(manifest), 0
    try:
        for number, event in enumerate(events, start=1):  # noqa: B007 - for the message
            record.apply(event)
    except (KeyError, TypeError, ValueError) as error:
        what = f"it refers to {error}, which is not there" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{events_path(run_dir)}:{number}  this event contradicts earlier ones: {what}",
            "restore the file from a copy if it was edited",
        ) from None
    return record


def events_path(run_dir: Path | UrlPath) -> Path | UrlPath:
    return run_dir / (EVENTS if isinstance(run_dir, Path) else SEGMENTS)


def read_events(run_dir: Path | UrlPath) -> list[dict[str, Any]]:
    """The events of a run folder's record, in order.

    Raises:
        UserError: the file is missing, or a line can't be read.
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
    elif path.exists():
        content = path.read_bytes()
    else:
        raise UserError(f"{path}, which holds the trials of the sweep, is missing", "restore it from a copy")
    events = []
    for number, line in enumerate(
        content.split(b"\n")[:-1], start=1
    ):  # the part after the last newline is half-written or empty
        try:
            events.append(_decode_metrics(json.loads(line)))
        except (ValueError, KeyError, AttributeError):
            hint = "restore the file from a copy, or delete the line, which loses its event"
            raise UserError(f"{path}:{number}  this line is damaged: it is not an event", hint) from None
    return events


def read_manifest(run_dir: Path | UrlPath) -> Manifest:
    """The manifest of a run folder.

    Raises:
        UserError: `run_dir` is not a run folder, has another record version, or can't be read.
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
            f"{path} has record version {version}, but this scalesweep reads version {SCHEMA_VERSION}",
            f"use the scalesweep version that wrote it ({manifest.get('versions', {}).get('scalesweep', 'unknown')})",
        )
    return Manifest(in_todays_words(manifest))


def began(run_dir: Path | UrlPath) -> bool:
    """Whether `run_dir` holds a sweep in which a trial has started. A damaged record counts as one.

    Raises:
        OutsideError: the object store can't be read.
    """
    if not (run_dir / MANIFEST).exists():
        return False
    try:
        return any(event.get("event") == "start" for event in read_events(run_dir))
    except UserError:
        return True


def clear_unless_began(run_dir: Path | UrlPath) -> None:
    """Remove a sweep in which no trial has started, so that another one can use the folder.

    Raises:
        UserError: another process uses the folder.
        OutsideError: the folder can't be written.
    """
    if not (run_dir / MANIFEST).exists():
        return
    lease = Lease(run_dir)
    try:
        if not began(run_dir):
            events = events_path(run_dir)
            for part in [events / name for name in events.names()] if isinstance(events, UrlPath) else [events]:
                if part.exists():
                    part.unlink()
            (run_dir / MANIFEST).unlink()
    except OSError as error:
        raise cannot_write(run_dir, error) from None
    finally:
        lease.close()


def _no_run_folder(run_dir: Path | UrlPath) -> UserError:
    made = "`scalesweep launch` creates one"
    if run_dir.name.endswith((".yaml", ".yml")):
        hint = "name the run folder of that sweep: runs/NAME by default, where NAME is the sweep's `name`"
        return UserError(f"{run_dir} is a sweep file, not a run folder", hint)
    if isinstance(run_dir, UrlPath):
        return UserError(f"{run_dir} is not a run folder ({MANIFEST} not found)", made)
    siblings = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{MANIFEST}")) if run_dir.parent.is_dir() else []
    hint = f"run folders in {run_dir.parent}/: {', '.join(siblings)}" if siblings else made
    missing = f"is not a run folder ({MANIFEST} not found)" if run_dir.is_dir() else "does not exist"
    return UserError(f"{run_dir} {'is a file, not a run folder' if run_dir.is_file() else missing}", hint)


def _cannot_read(path: Path | UrlPath, error: OSError) -> OutsideError:
    hint = "check that the bucket exists, that the credentials may read it, and that its endpoint answers"
    return OutsideError(f"{path} can't be read: {error.strerror}", hint)


class _Log(Protocol):
    """A log that lines, or blocks of bytes, are appended to."""

    def write(self, line: bytes) -> tuple[str, int]:
        """Append a line. Returns the file's name and the line's place in it. After an OSError it may be called again with the
        same line."""
        ...

    def close(self) -> None: ...


class RecordWriter:
    """The only writer of a run folder. It holds the folder's lease until closed, and keeps `record` equal to the file."""

    def __init__(
        self, run_dir: Path | UrlPath, manifest: Mapping[str, Any] | None = None, storage_seconds: float = STORAGE_SECONDS
    ) -> None:
        """Open a new folder (with `manifest`) or an existing one.

        Raises:
            UserError: another process uses the folder; with `manifest` it already contains a sweep, without it contains none.
            OutsideError: the folder can't be written.
        """
        self.run_dir, self.storage_seconds = run_dir, storage_seconds
        self._failed: OutsideError | None = None  # after a line that could not be written, nothing more is
        self._lease = Lease(run_dir)
        try:
            if manifest is not None:
                if (run_dir / MANIFEST).exists():
                    hint = f"continue it with `{command('resume', run_dir)}`"
                    if read_record(run_dir).status == "ended":
                        hint = f"it has ended; its results: `{command('leaderboard', run_dir)}`"
                    hint += ", or choose another --run-dir"
                    raise UserError(f"{run_dir} already contains a sweep", hint)
                if isinstance(run_dir, Path):
                    (run_dir / EVENTS).touch()  # before the manifest: a sweep without it has lost its trials
                write_atomic(run_dir / MANIFEST, json.dumps(encode(dict(manifest)), indent=2, ensure_ascii=False) + "\n")
            if isinstance(run_dir, Path):
                _cut_half_line(run_dir / EVENTS)
            self.record = read_record(run_dir)
            self._log: _Log = _File(run_dir / EVENTS) if isinstance(run_dir, Path) else _Segments(run_dir / SEGMENTS)
            self._examples: _Log | None = None  # opened at the first evaluation
            kept = self.record.examples
            data = {examples["data"]["crc32"]: examples["data"] for examples in kept}  # the same for many evaluations
            with contextlib.closing(Blocks(run_dir)) as blocks:
                self._data = {crc32: block for crc32, block in data.items() if blocks.read(block) is not None}
            self._examples_bytes = sum(block["bytes"] for block in (*data.values(), *(one["found"] for one in kept)))
        except BaseException:
            self._lease.close()
            raise

    def append(self, event: dict[str, Any]) -> None:
        """Write one event to the disk, then apply it to `record`. Waits while the storage is full or unavailable.

        The text of a `traceback` goes to a file of its own, and the event holds the path of that file. So do `examples`.

        Raises:
            OutsideError: the storage did not come back, or another driver has taken over the folder.
        """
        if event.get("error"):
            event = {**event, "error": without_secrets(event["error"])}
        if text := event.get("traceback"):
            kept = f"{TRACEBACKS}/{event['trial']}-{self.record.trials[event['trial']].attempts}.txt"
            self._patiently(lambda: write_atomic(self.run_dir / kept, without_secrets(text).rstrip() + "\n"))
            event = {**event, "traceback": kept}
        if (examples := event.get("examples")) is not None:
            event = {key: value for key, value in event.items() if key != "examples"}
            if (there := self._kept(examples)) is not None:
                event["examples"] = there
            else:
                full = f"the numbers of validation rows fill {EXAMPLES_BYTES / 1024**2:.0f} MiB: later trials have no standard errors"
                if full not in self.record.notes:
                    self.append({"event": "note", "time": event["time"], "text": full})
        line = (json.dumps(encode(event), ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._patiently(lambda: self._write(line))
        self.record.apply(_decode_metrics(json.loads(line)))  # as a reader sees it: numbers are Python's own

    def _kept(self, examples: Examples) -> dict[str, Any] | None:
        """Write the numbers of an evaluation. Returns where they are; None where the record holds too many already."""
        if self._examples_bytes + len(examples.found.content) + len(examples.data.content) > EXAMPLES_BYTES:
            return None
        data = self._data.get(zlib.crc32(examples.data.content)) or self._block(examples.data)
        self._data[data["crc32"]] = data
        return {"rows": examples.rows, "of": examples.of, "found": self._block(examples.found), "data": data}

    def _block(self, columns: Columns) -> dict[str, Any]:
        places: list[tuple[str, int]] = []

        def write() -> None:
            self._lease.check()
            if self._examples is None:
                there = self.run_dir
                self._examples = (
                    _File(there / EXAMPLES) if isinstance(there, Path) else _Segments(there / EXAMPLES_SEGMENTS, "bin")
                )
            places.append(self._examples.write(columns.content))

        self._patiently(write)
        self._examples_bytes += len(columns.content)
        (file, start), size = places[0], len(columns.content)
        return {"file": file, "start": start, "bytes": size, "crc32": zlib.crc32(columns.content), "columns": columns.dtypes}

    def _patiently(self, write: Callable[[], object]) -> None:
        if self._failed is not None:
            raise self._failed
        try:
            patiently(write, self.storage_seconds)
        except OutsideError as error:
            self._failed = error
            raise
        except OSError as error:
            what = f"{self.run_dir} could not be written: {error.strerror}"
            hint = f"make it writable, then run `{command('resume', self.run_dir)}`; no recorded event is lost"
            self._failed = OutsideError(what, hint)
            raise self._failed from None

    def _write(self, line: bytes) -> None:
        self._lease.check()
        self._log.write(line)

    def close(self) -> None:
        self._log.close()
        if self._examples is not None:
            self._examples.close()
        self._lease.close()


def _cut_half_line(path: Path) -> None:
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


class _File:
    """A log in one file, which is synced after each line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("ab")
        self._length = self._file.tell()

    def write(self, line: bytes) -> tuple[str, int]:
        """Append a line to the synced part of the file. The remains of a failed try are removed first."""
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
        start, self._length = self._length, self._length + len(line)
        return self.path.name, start

    def close(self) -> None:
        with contextlib.suppress(OSError):  # its buffer may contain data that the storage refuses; all valid lines are synced
            self._file.close()


class _Segments:
    """A log in a sequence of objects. Each line rewrites the last object, which belongs to this writer."""

    def __init__(self, folder: UrlPath, ending: str = "jsonl") -> None:
        self.folder, self.ending = folder, ending
        self._number = max((int(name.partition("-")[0]) for name in folder.names()), default=0) + 1
        self._session = uuid.uuid4().hex[:8]
        self._content = b""

    def write(self, line: bytes) -> tuple[str, int]:
        name, start, content = f"{self._number:06d}-{self._session}.{self.ending}", len(self._content), self._content + line
        (self.folder / name).write_bytes(content)
        self._content = content
        if len(content) >= SEGMENT_BYTES:
            self._number, self._content = self._number + 1, b""
        return f"{self.folder.name}/{name}", start

    def close(self) -> None: ...


def write_atomic(path: Path | UrlPath, text: str) -> None:
    """Replace the content of `path` with `text` in one step: a reader sees the old content or the new."""
    if isinstance(path, UrlPath):
        path.write_bytes(text.encode())
        return
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
