"""Provenance of a run besides its config: package versions and the git revision of the working folder."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import shutil
import subprocess

PACKAGES = (
    "scalesweep",
    "ray",
    "optuna",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "peft",
    "bitsandbytes",
    "wandb",
    "numpy",
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a run's results."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def who() -> str:
    """This process's user and host: `ada@login1`. A user without a name is a number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that its system doesn't list
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def git_revision() -> str | None:
    """The current commit of the working folder, or None outside a repository."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return (done.stdout.strip() or None) if done.returncode == 0 else None
