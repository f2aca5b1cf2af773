"""The run folder on disk: `sweep.json` (written once), `record.jsonl` (append-only), and a lock for the one writer.

A line is on disk (fsync) before the event it tells has any effect, so what was recorded survives the death of any
process. A line that a dying process left half-written is cut off when the next writer opens the file.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path
from typing import IO, Any

from scalesweep.errors import OutsideError, UserError
from scalesweep.record.schema import SCHEMA_VERSION, Record, replay

MANIFEST = "sweep.json"
EVENTS = "record.jsonl"


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


def read_record(run_dir: Path | str) -> Record:
    """Read a run folder.

    Raises:
        UserError: `run_dir` is no run folder, was written by another version, or holds a line that can't be read.
    """
    run_dir = Path(run_dir)
    manifest = read_manifest(run_dir)
    try:
        return replay(manifest, read_events(run_dir))
    except (KeyError, TypeError, ValueError) as error:
        path = run_dir / EVENTS
        raise UserError(f"{path}: an event does not fit the ones before it ({error!r})", "was the file edited?") from None


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run folder's record, as they were written.

    Raises:
        UserError: a line can't be read.
    """
    path = run_dir / EVENTS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is half-written or empty
        try:
            events.append(_decode_metrics(json.loads(line)))
        except (ValueError, KeyError, AttributeError):
            hint = "a writer never leaves this; restore the file from a copy, or delete the damaged line to lose that event"
            raise UserError(f"{path}:{number}  this line is no event", hint) from None
    return events


def read_manifest(run_dir: Path) -> dict[str, Any]:
    path = run_dir / MANIFEST
    if not path.is_file():
        what = "is no run folder" if run_dir.is_dir() else "does not exist"
        siblings = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{MANIFEST}")) if run_dir.parent.is_dir() else []
        hint = f"run folders in {run_dir.parent}/: {', '.join(siblings)}" if siblings else "`scalesweep launch` makes one"
        raise UserError(f"{run_dir} {what} ({MANIFEST} not found)" if run_dir.is_dir() else f"{run_dir} {what}", hint)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} can't be read", "restore it from a copy") from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has record version {version}; this scalesweep reads version {SCHEMA_VERSION}",
            f"use the scalesweep that wrote it ({manifest.get('versions', {}).get('scalesweep', 'unknown')})",
        )
    return dict(manifest)


class RecordWriter:
    """The one writer of a run folder. Holds the folder's lock until closed; keeps `record` in step with the file."""

    def __init__(self, run_dir: Path, manifest: dict[str, Any] | None = None) -> None:
        """Open a new folder (`manifest` given) or an existing one.

        Raises:
            UserError: the folder is in use by another process, or there is (not) a sweep in it already.
            OutsideError: the folder can't be written.
        """
        self.run_dir = run_dir
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (run_dir / "lock").open("a+")
        except OSError as error:
            raise OutsideError(f"{run_dir} can't be written: {error.strerror}", "choose another --run-dir") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"{run_dir} is in use by another scalesweep process", "wait for it, or stop it first") from None
        if manifest is not None:
            if (run_dir / MANIFEST).exists():
                self._lock.close()
                hint = f"continue it with `scalesweep resume {run_dir}`, or choose another --run-dir"
                raise UserError(f"{run_dir} holds a sweep already", hint)
            write_atomic(run_dir / MANIFEST, json.dumps(encode(manifest), indent=2, ensure_ascii=False) + "\n")
        self._cut_half_line()
        self.record = read_record(run_dir)
        self._file: IO[str] = (run_dir / EVENTS).open("a", encoding="utf-8")

    def _cut_half_line(self) -> None:
        path = self.run_dir / EVENTS
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def append(self, event: dict[str, Any]) -> None:
        """Write one event through to the disk, then take it into `record`."""
        self._file.write(json.dumps(encode(event), ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.record.apply(event)

    def close(self) -> None:
        self._file.close()
        self._lock.close()


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
