"""The ids, the group and the project of a sweep's runs."""

from __future__ import annotations

import re
from typing import Any

from scalesweep.record import Record
from scalesweep.report.wandb import plain

SWEEP = "sweep"  # the last part of the id of the sweep's run; trials have their names


def run_id(record: Record, name: str) -> str:
    """An id that is equal in all sessions of a sweep, so that each one continues the same runs."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{record.manifest.id[:16]}-{name}")


def group(record: Record) -> str:
    """The group of a sweep's runs. It names one sweep, also where two have one name."""
    return f"{plain.line(record.manifest.name, 100)} ({record.manifest.id[:8]})"


def settings(record: Record) -> dict[str, Any]:
    """The settings of `tracking.wandb`. `publish` also sends sweeps that had none."""
    return {
        "project": "scalesweep",
        "entity": None,
        "tags": [],
        **(record.manifest.spec.get("tracking", {}).get("wandb") or {}),
    }
