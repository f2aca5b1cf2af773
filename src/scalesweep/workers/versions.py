"""Versions of the packages in this process, for comparison between the nodes of a cluster."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import scalesweep

# Packages that affect a trial's result or its start.
PACKAGES = ("ray", "torch", "transformers", "tokenizers", "datasets", "peft", "bitsandbytes")


def installed() -> dict[str, str]:
    """Versions of Python (without the patch level), of `PACKAGES`, and of scalesweep with a hash of its sources."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in PACKAGES:
        try:
            # Builds for CUDA and for CPU count as the same version (2.9.0+cu128 and 2.9.0+cpu): the head may have no GPU.
            versions[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    root = Path(scalesweep.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    versions["scalesweep"] = f"{scalesweep.__version__} (sources {digest.hexdigest()[:8]})"
    return versions


def difference(here: dict[str, str], there: dict[str, str]) -> str:
    """The differing versions in words; an empty string if all are equal."""
    return ", ".join(
        f"{package} {there.get(package)} instead of {version}"
        for package, version in here.items()
        if there.get(package) != version
    )
