"""The trackers that a sweep can report to. A new tracker is a folder beside `wandb/` and a row here.

A tracker's `make` returns a sink, or None if the user switched it off. Its module imports heavy libraries inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scalesweep.record import Record, Sink
from scalesweep.report.wandb import tracker

# The key under `tracking:` in the sweep file → the function that makes its sink.
TRACKERS: dict[str, Callable[[Record, Path], Sink | None]] = {
    "wandb": tracker.make,
}


def make_trackers(record: Record, run_dir: Path) -> list[Sink]:
    """Return the sinks that the sweep's `tracking:` enables."""
    wanted = record.manifest.spec["tracking"]
    sinks = (make(record, run_dir) for name, make in TRACKERS.items() if name in wanted)
    return [sink for sink in sinks if sink is not None]
