"""The lease of a run folder: one driver writes at a time, even if drivers on several hosts share the folder.

A file lock excludes other drivers on the same host, and ends with its process. It is not reliable between hosts: not every file
server has locks, and a lock may stay or vanish when its holder's host is gone. So the writer also holds a lease, a file that it
touches every few seconds. A driver on another host is refused until the file has not been touched for `LEASE_SECONDS`. An age is the
difference between the times of two files in the folder, so it uses the file server's clock and not those of the hosts.

Leases are numbered. A driver takes over by creating the next number, which only one driver can do. A driver stops writing if its
own number is gone or a higher one exists.

An object store has no exclusive create and no locks. There the name of a lease ends with a random part. After writing its lease, a
driver looks for others and withdraws if there is one. So of two drivers at the same moment, at most one gets the lease, perhaps
neither. The lock file is local to the node, and the lease names it, so only drivers with the same lock file rely on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from scalesweep.errors import OutsideError, UserError
from scalesweep.storage import UrlPath, cannot_write, working_folder

LEASE_SECONDS = 60.0  # a driver without a sign of life for this long counts as dead
RENEW_SECONDS = 10.0
NAME = re.compile(r"lease-(\d+)(-[0-9a-f]+)?\.json")
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class Lease:
    """The lease of a run folder, held from construction to `close` and renewed by a thread.

    Raises:
        UserError: another driver holds the folder, or may hold it.
        OutsideError: the folder can't be written.
    """

    def __init__(self, run_dir: Path | UrlPath, seconds: float = LEASE_SECONDS, renew_seconds: float = RENEW_SECONDS) -> None:
        self.run_dir, self.seconds, self.renew_seconds = run_dir, seconds, renew_seconds
        self._files = _OnObjects(run_dir) if isinstance(run_dir, UrlPath) else _OnFiles(run_dir)
        self._closed = threading.Event()
        self._lost = False
        try:
            folder = working_folder(run_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a+")
        except OSError as error:
            raise OutsideError(f"{folder} can't be written: {error.strerror}", "choose another --run-dir") from None
        try:
            locked = self._lock_file()
            self._kernel = _kernel() if isinstance(run_dir, Path) else _kernel_and_file(self._lock.fileno())
            try:
                self.path = run_dir / self._claim(locked)
            except OSError as error:
                raise cannot_write(run_dir, error) from None
        except BaseException:
            self._lock.close()
            raise
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _lock_file(self) -> bool:
        """Lock the folder against other processes of this host. Returns False if the file system has no locks."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            hint = "wait until it ends, or stop it"
            raise UserError(f"{self.run_dir} is in use by another scalesweep process", hint) from None
        return True

    def _claim(self, locked: bool) -> str:
        before = self._files.leases()
        for name in before:
            holder = self._files.holder(name)
            if locked and holder.get("kernel") == self._kernel:
                continue  # its process was on this host and would hold the lock if it were alive
            age = self._files.age(name)
            if age is not None and age < self.seconds:
                host = holder.get("host", "another host")
                raise UserError(
                    f"{self.run_dir} is in use by a scalesweep process on {host}, which was alive {age:.0f} s ago",
                    f"wait until it ends, or stop it; if {host} is gone, try again in {self.seconds - age:.0f} s",
                )
        text = json.dumps({"host": socket.gethostname(), "kernel": self._kernel, "pid": os.getpid()})
        made = self._files.create(1 + max(map(_number, before), default=0), text + "\n", before)
        if made is None:
            raise UserError(f"another scalesweep process has just taken {self.run_dir}", "wait until it ends, or stop it")
        for older in before:
            self._files.remove(older)
        return made

    def _keep(self) -> None:
        while not self._closed.wait(self.renew_seconds):
            with contextlib.suppress(OSError):  # the storage is unavailable; `check` reports it before a write
                self._renew()

    def _renew(self) -> None:
        # A driver that took over and has ended leaves no lease, but it has removed this one.
        if self._files.leases()[-1:] != [self.path.name]:
            self._lost = True
            return
        self._files.renew(self.path.name)
        self._renewed = time.monotonic()

    def check(self) -> None:
        """Check before a write that no driver has taken over. The disk is read only if the last renewal is long ago.

        Raises:
            OutsideError: another driver has taken over the folder.
            OSError: the storage does not answer.
        """
        if not self._lost and time.monotonic() - self._renewed > self.seconds / 2:
            self._renew()
        if self._lost:
            raise OutsideError(
                f"{self.run_dir}: another scalesweep process has taken over this sweep while this one did not respond",
                "this process stops writing, and the other one continues the sweep",
            )

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(OSError):
                self._files.remove(self.path.name)
        self._lock.close()


def driven(run_dir: Path | UrlPath) -> bool:
    """Whether a process runs the sweep of a run folder, as far as a reader can see.

    It has touched its lease within `LEASE_SECONDS`, by this host's clock. A driver that ends cleanly removes its lease.
    """
    files = _OnObjects(run_dir) if isinstance(run_dir, UrlPath) else _OnFiles(run_dir)
    try:
        leases = [run_dir / name for name in files.leases()]
        touched = [lease.mtime() if isinstance(lease, UrlPath) else lease.stat().st_mtime for lease in leases]
    except FileNotFoundError:  # the folder, or a lease that its driver removed just now
        return False
    return any(then is not None and time.time() - then < LEASE_SECONDS for then in touched)


class _OnFiles:
    """Leases as files in a folder that hosts share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leases(self) -> list[str]:
        """The names of all leases, by number. Raises OSError if the folder is unavailable."""
        return sorted((path.name for path in self.folder.iterdir() if NAME.fullmatch(path.name)), key=_number)

    def holder(self, name: str) -> dict[str, Any]:
        try:
            return _parsed((self.folder / name).read_bytes())
        except OSError:
            return {}

    def age(self, name: str) -> float | None:
        """Seconds since the last renewal of a lease, by the clock of the storage; None if the lease is gone."""
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime - (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)

    def create(self, number: int, text: str, before: list[str]) -> str | None:  # noqa: ARG002
        """Create a lease and return its name; None if another driver was faster."""
        path = self.folder / f"lease-{number:06d}.json"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return None
        return path.name

    def renew(self, name: str) -> None:
        os.utime(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class _OnObjects:
    """Leases as objects, on a store where writes and deletes are visible to all at once."""

    def __init__(self, folder: UrlPath) -> None:
        self.folder = folder
        self.content = b""

    def leases(self) -> list[str]:
        return sorted((name for name in self.folder.names() if NAME.fullmatch(name)), key=lambda name: (_number(name), name))

    def holder(self, name: str) -> dict[str, Any]:
        try:
            return _parsed((self.folder / name).read_bytes())
        except FileNotFoundError:
            return {}

    def age(self, name: str) -> float | None:
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        now, then = probe.mtime(), (self.folder / name).mtime()
        probe.unlink()
        return None if now is None or then is None else now - then

    def create(self, number: int, text: str, before: list[str]) -> str | None:
        name = f"lease-{number:06d}-{uuid.uuid4().hex[:8]}.json"
        self.content = text.encode()
        self.renew(name)
        if set(self.leases()) - {*before, name}:
            self.remove(name)
            return None
        return name

    def renew(self, name: str) -> None:
        (self.folder / name).write_bytes(self.content)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()


def _number(name: str) -> int:
    return int(re.split(r"[-.]", name)[1])


def _parsed(content: bytes) -> dict[str, Any]:
    """The holder in a lease; empty if the lease is incomplete."""
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _kernel() -> str:
    """An id of the running kernel. Processes with the same kernel see each other's file locks, whatever their host name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def _kernel_and_file(handle: int) -> str:
    """An id of the running kernel and a file. Containers of one host share the kernel, but not the file."""
    info = os.fstat(handle)
    return f"{_kernel()}:{info.st_dev}:{info.st_ino}"
