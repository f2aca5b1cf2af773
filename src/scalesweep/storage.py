"""Storage of a sweep: a folder of a file system (`Path`), or a URL of an object store (`UrlPath`).

An object store has no append, no rename and no locks. It writes a whole object in one step; the object is then durable and all
readers see it. The record, the lease and the checkpoints handle these differences themselves.
Storage may be unavailable or full for a while, so writes are retried.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from scalesweep.errors import OutsideError, UserError, first_line, nearest

STORAGE_SECONDS = 300.0  # time for which a write is retried; shorter than the timeout of a collective
RETRY_SECONDS = 1.0
LASTING = {errno.EACCES, errno.EPERM, errno.EROFS}  # errors that waiting does not remove
REFUSALS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT")
COPY_BYTES = 8 * 1024**2  # per read of a copy
SECRETS = re.compile(r"key|secret|token|password|sig", re.IGNORECASE)
SECRET_LENGTH = 8  # shortest value of an environment variable that is taken for a secret; `true` is none


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file of this node. The system releases it when the process ends, even by a kill.

    Raises:
        OSError: the file can't be made.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def patiently(write: Callable[[], object], seconds: float, refused: tuple[type[Exception], ...] = (OSError,)) -> None:
    """Retry `write` until it succeeds. Each try begins from the start. The first failure is logged as a warning.

    Raises:
        The last error of `write`, after `seconds`, or at once for an error that waiting does not remove.
    """
    until, announced = time.monotonic() + seconds, False
    while True:
        try:
            write()
        except refused as error:
            if time.monotonic() >= until or getattr(error, "errno", None) in LASTING:
                raise
            if not announced:
                logging.getLogger(__name__).warning("waiting up to %.0f s for the storage: %s", seconds, error)
            announced = True
            time.sleep(RETRY_SECONDS)
        else:
            return


def without_secrets(text: str) -> str:
    """Replace credentials in a text with `***`: those in URLs, and the values of environment variables with such names."""
    text = re.sub(r"(\w://)[^\s/@'\"]+@", r"\1***@", text)
    text = re.sub(rf"([?&][^\s=&]*(?:{SECRETS.pattern})[^\s=&]*=)[^\s&'\"]+", r"\1***", text, flags=re.IGNORECASE)
    for name, value in os.environ.items():
        if SECRETS.search(name) and len(value) >= SECRET_LENGTH:
            text = text.replace(value, "***")
    return text


def cache_dir() -> Path:
    """Return the node's own cache folder: `$SCALESWEEP_CACHE`, or `~/.cache/scalesweep`."""
    return Path(os.environ.get("SCALESWEEP_CACHE") or Path.home() / ".cache" / "scalesweep")


def check_cache() -> None:
    """Check that this node's cache folder can be written.

    Raises:
        UserError: if it can't.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        named = (
            f"SCALESWEEP_CACHE names {folder}, which" if os.environ.get("SCALESWEEP_CACHE") else f"the cache folder {folder}"
        )
        why = "is a file" if folder.is_file() else f"can't be written: {error.strerror}"
        hint = "set SCALESWEEP_CACHE to a folder on a local disk that you may write"
        raise UserError(f"{named} {why}", hint) from None


def place(written: str | Path | UrlPath) -> Path | UrlPath:
    """Parse a run folder as the user wrote it: a path, or a URL that `pyarrow.fs.FileSystem.from_uri` accepts.

    Raises:
        UserError: if the URL holds credentials, or was turned into a Path before.
    """
    if isinstance(written, UrlPath):
        return written
    text = str(written)
    if "://" not in text:
        if isinstance(written, Path) and re.match(r"(s3|gs|gcs|abfss?|hdfs):/", text):
            raise UserError(f"{text} is a URL that was made a Path, which drops a slash", "pass the URL as a string")
        return Path(written)
    parts = urlsplit(text)
    secret = [name for name, _ in parse_qsl(parts.query) if SECRETS.search(name)]
    if secret or parts.password or (parts.scheme == "s3" and parts.username):
        raise UserError(
            f"this {parts.scheme}:// URL contains credentials, which would appear in the record and the logs",
            "remove them; use the environment (AWS_ACCESS_KEY_ID …), a credentials file, or the role of the machine",
        )
    if parts.scheme == "file":
        return Path(parts.path)
    return UrlPath(urlunsplit(parts._replace(path=parts.path.rstrip("/"))))


def near_folder(path: Path) -> str:
    """The beginning of a hint for a folder that does not exist: the folder that may be meant, where one part is spelt otherwise."""
    with contextlib.suppress(OSError):  # of folders that this user may not see
        wrong = next((part for part in (path, *path.parents) if part.parent.is_dir()), path)
        beside = [one.name for one in wrong.parent.glob("*") if (one / path.relative_to(wrong)).is_dir()]
        if near := nearest(wrong.name, beside):
            return f"did you mean {wrong.parent / near / path.relative_to(wrong)}? Otherwise "
    return ""


def working_folder(run_dir: Path | UrlPath) -> Path:
    """Return the driver's folder for local files: the run folder itself, or for a URL a folder in this node's cache."""
    if isinstance(run_dir, Path):
        return run_dir.resolve()
    return cache_dir() / "runs" / f"{run_dir.name}-{hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]}"


def check_writable(run_dir: Path | UrlPath) -> None:
    """Check that a URL is writable: write an object and delete it. Does not retry. A Path is not checked.

    Raises:
        OutsideError: if the write fails.
    """
    if isinstance(run_dir, UrlPath):
        probe = run_dir / f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise cannot_write(run_dir, error) from None


def cannot_write(run_dir: Path | UrlPath, error: OSError) -> OutsideError:
    """Return the error for a run folder that can't be written at the start."""
    hint = "choose another --run-dir"
    if isinstance(run_dir, UrlPath):
        hint = "check that the bucket exists, its endpoint answers, and these credentials may write there"
    return OutsideError(f"{run_dir} can't be written: {error.strerror}", hint)


@dataclass(frozen=True)
class UrlPath:
    """A place on an object store. Methods that `Path` also has share its names. Every failure is an OSError."""

    root: str  # as the user wrote it
    key: str = ""  # below that

    def __truediv__(self, part: str) -> UrlPath:
        return UrlPath(self.root, f"{self.key}/{part}" if self.key else part)

    def __str__(self) -> str:
        parts = urlsplit(self.root)
        return urlunsplit(parts._replace(path="/".join(part for part in (parts.path, self.key) if part)))

    @property
    def name(self) -> str:
        parts = urlsplit(str(self))
        return PurePosixPath(parts.path).name or parts.netloc

    def _open(self) -> tuple[Any, str]:
        """Return the file system, and the path on it."""
        with _one_line_errors():
            files, base = _file_system(self.root)
        return files, f"{base}/{self.key}" if self.key else base

    def write_bytes(self, content: bytes) -> None:
        """Write or replace the whole object in one step."""
        files, path = self._open()
        with _one_line_errors(), files.open_output_stream(path) as stream:
            stream.write(content)

    def read_bytes(self) -> bytes:
        files, path = self._open()
        with _one_line_errors(), files.open_input_stream(path) as stream:
            return bytes(stream.read())

    def mtime(self) -> float | None:
        """Return the time of the last write by the server's clock, in unix seconds (whole ones on S3); None if there is no object."""
        files, path = self._open()
        with _one_line_errors():
            info = files.get_file_info(path)
        return None if not info.is_file or info.mtime_ns is None else info.mtime_ns / 1e9

    def exists(self) -> bool:
        return self.mtime() is not None

    def names(self, inside: bool = False) -> list[str]:
        """Return the sorted names in this folder; with `inside`, the relative paths of all objects below it. Empty for no such folder."""
        from pyarrow.fs import FileSelector, FileType

        files, path = self._open()
        with _one_line_errors():
            found = files.get_file_info(FileSelector(path, allow_not_found=True, recursive=inside))
        kept = [info for info in found if not inside or info.type == FileType.File]
        return sorted(info.path.removeprefix(f"{path}/") for info in kept)

    def unlink(self) -> None:
        """Delete the object if it exists."""
        files, path = self._open()
        with _one_line_errors(), contextlib.suppress(FileNotFoundError):
            files.delete_file(path)

    def remove(self) -> None:
        """Delete the folder and everything in it, if it exists."""
        files, path = self._open()
        with _one_line_errors(), contextlib.suppress(FileNotFoundError):
            files.delete_dir(path)

    def upload(self, source: Path) -> None:
        """Write a file's content to this object. The content is streamed, and the object appears in one step."""
        files, path = self._open()
        # pyarrow's copy_files loses the errors that a store reports only when an object is closed.
        with _one_line_errors(), source.open("rb") as content, files.open_output_stream(path) as stream:
            shutil.copyfileobj(content, stream, COPY_BYTES)

    def download(self, target: Path) -> None:
        files, path = self._open()
        with _one_line_errors(), files.open_input_stream(path) as content, target.open("wb") as stream:
            shutil.copyfileobj(content, stream, COPY_BYTES)


@functools.lru_cache(maxsize=8)
def _file_system(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem
    from pyarrow.lib import ArrowException

    if url.startswith("s3:") and "allow_delayed_open" not in url:
        url += ("&" if "?" in url else "?") + "allow_delayed_open=true"  # a small object takes one request instead of three
    try:
        files, path = FileSystem.from_uri(url)
    except OSError:  # some ArrowExceptions are OSErrors too
        raise
    except ArrowException as error:
        hint = "https://arrow.apache.org/docs/python/filesystems.html describes the supported URLs"
        raise UserError(f"{url}: {first_line(error)}", hint) from None
    return files, path.rstrip("/")


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Give pyarrow's OSErrors an errno and a message of one line."""
    try:
        yield
    except OSError as error:
        text = first_line(error).split(" (Request ID")[0]
        if error.errno is not None:
            raise
        refused = any(f"AWS Error {name} " in text for name in REFUSALS) or "PermissionDenied" in text
        raise OSError(errno.EACCES if refused else errno.EIO, text) from None
