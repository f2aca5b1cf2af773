"""The command line in this process: `main` as the `scalesweep` command calls it, with its two streams and its exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from scalesweep.cli import main


@dataclass(frozen=True)
class Done:
    """The names are those of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Run `scalesweep ARGUMENTS` in the folder `cwd`, 100 columns wide. An error that no user should see is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, COLUMNS="100"),
        mock.patch.object(sys, "argv", ["scalesweep", *map(str, arguments)]),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def refused(*arguments: str | Path, cwd: Path | None = None, code: int = 2) -> str:
    """Run what must end with exit code `code`, nothing on stdout and one screen on stderr; returns that."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert 0 < len(done.stderr.splitlines()) <= 24
    return done.stderr
