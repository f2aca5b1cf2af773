"""Who may write a run folder: one driver at a time, also when drivers are on several hosts that share the folder.

A file lock tells drivers of one host apart, and ends with its process. Between hosts it can't be relied on: not every file
server has locks, and one whose holder's host has gone may keep or lose it. So the writer also holds a lease, a file that it
touches every few seconds; the driver of another host waits until the file has not been touched for `LEASE_SECONDS`. Ages
are taken between two files of the folder, so they are the file server's own time and the hosts' clocks don't matter.

Leases are numbered. To take over is to create the next number, which only one of several drivers can; whoever finds its own
number gone, or a higher one, writes no more.

On an object store there is no exclusive create and no lock. There a lease's name ends with a random part; who has put his own looks
whether another has come meanwhile, and if so withdraws: of two at the same moment perhaps neither gets it, and never both. The lock
file is the node's own, and the lease names it, so that only drivers that share it trust it.
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

LEASE_SECONDS = 60.0  # how long a driver that doesn't answer is taken to live
RENEW_SECONDS = 10.0
NAME = re.compile(r"lease-(\d+)(-[0-9a-f]+)?\.json")
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class Lease:
    """Held from construction to `close`; a thread renews it.

    Raises:
        UserError: another driver holds the folder, or may do so.
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
        """Whether the folder is locked against this host's other processes; False where the file system has no locks."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            hint = "wait for it, or stop it first"
            raise UserError(f"{self.run_dir} is in use by another scalesweep process", hint) from None
        return True

    def _claim(self, locked: bool) -> str:
        before = self._files.leases()
        for name in before:
            holder = self._files.holder(name)
            if locked and holder.get("kernel") == self._kernel:
                continue  # it was a process of this host, and would have had the lock
            age = self._files.age(name)
            if age is not None and age < self.seconds:
                host = holder.get("host", "another host")
                raise UserError(
                    f"{self.run_dir} is in use by a scalesweep process on {host}, alive {age:.0f} s ago",
                    f"wait for it, or stop it first; if {host} is gone, try again in {self.seconds - age:.0f} s",
                )
        text = json.dumps({"host": socket.gethostname(), "kernel": self._kernel, "pid": os.getpid()})
        made = self._files.create(1 + max(map(_number, before), default=0), text + "\n", before)
        if made is None:
            raise UserError(f"{self.run_dir} was just taken by another scalesweep process", "wait for it, or try again")
        for older in before:
            self._files.remove(older)
        return made

    def _keep(self) -> None:
        while not self._closed.wait(self.renew_seconds):
            with contextlib.suppress(OSError):  # the storage is away for a while: `check` says so when it matters
                self._renew()

    def _renew(self) -> None:
        # One that took over and has ended by now leaves no lease, but ours is gone all the same.
        if self._files.leases()[-1:] != [self.path.name]:
            self._lost = True
            return
        self._files.renew(self.path.name)
        self._renewed = time.monotonic()

    def check(self) -> None:
        """Before every write: that nobody has taken over meanwhile. Looks at the disk only if the last renewal is long ago.

        Raises:
            OutsideError: another driver has the folder now.
            OSError: the storage does not answer.
        """
        if not self._lost and time.monotonic() - self._renewed > self.seconds / 2:
            self._renew()
        if self._lost:
            raise OutsideError(
                f"{self.run_dir}: another scalesweep process has taken this sweep over while this one did not answer",
                "nothing more is written here; the other process goes on with the sweep",
            )

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(OSError):
                self._files.remove(self.path.name)
        self._lock.close()


class _OnFiles:
    """Leases as files of a folder that hosts share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leases(self) -> list[str]:
        """By number. Raises OSError where the folder is away: that is no folder without leases."""
        return sorted((path.name for path in self.folder.iterdir() if NAME.fullmatch(path.name)), key=_number)

    def holder(self, name: str) -> dict[str, Any]:
        try:
            return _parsed((self.folder / name).read_bytes())
        except OSError:
            return {}

    def age(self, name: str) -> float | None:
        """Seconds since the lease was renewed, by the clock of whatever stores it; None if it is gone."""
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime - (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)

    def create(self, number: int, text: str, before: list[str]) -> str | None:  # noqa: ARG002
        """Returns the lease's name; None where another driver was faster."""
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
    """Leases as objects, on a store that shows to all at once what was put or deleted."""

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
    """Who holds it; nothing of one that was never written to its end."""
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _kernel() -> str:
    """Names the running kernel: processes under the same one see each other's file locks, whatever they call their host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def _kernel_and_file(handle: int) -> str:
    """Names the running kernel and a file under it: containers of one host have the kernel in common, and not the file."""
    info = os.fstat(handle)
    return f"{_kernel()}:{info.st_dev}:{info.st_ino}"
