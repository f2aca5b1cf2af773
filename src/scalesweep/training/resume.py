"""The checkpoint that an interrupted trial continues from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from scalesweep.errors import OutsideError
from scalesweep.storage import STORAGE_SECONDS, UrlPath, patiently, place
from scalesweep.training import checkpoint
from scalesweep.training.clock import COUNTERS
from scalesweep.training.job import TrialJob
from scalesweep.training.peers import Peers

STATE = {*COUNTERS, "seconds", "agreed_seconds", "untouched", "cadence", "metrics"}  # what every checkpoint has


def newest_checkpoint(
    job: TrialJob, parameters: Mapping[str, torch.nn.Parameter], peers: Peers, device: torch.device
) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The newest checkpoint that all workers can read, and notes.

    A note reports a damaged checkpoint, or a missing one if the trial has recorded reports.
    """
    if job.checkpoint_dir is None:
        return None, []
    folder = place(job.checkpoint_dir)
    waiting: list[int] = []
    if peers.rank == 0:
        patiently(lambda: waiting.extend(checkpoint.steps(folder)), STORAGE_SECONDS)
    damaged: list[int] = []
    # All workers continue from the same checkpoint: rank 0 proposes it, and it is used if all workers can read it.
    while step := int(peers.sum_of(waiting.pop(0) if waiting else 0, device)):
        found = _read(folder, step, parameters)
        if peers.sum_of(found is not None, device) == peers.world and found is not None:
            break
        damaged.append(step)
    else:
        found = None
    if damaged:
        on = f"continues from step {step}" if found is not None else "starts again"
        steps = ", ".join(map(str, damaged))
        return found, [f"the checkpoint of {job.trial} at step {steps} is damaged; the trial {on}"]
    if found is None and job.reached > 0:
        return None, [f"{job.trial} had reached {job.reached:g} but has no checkpoint; the trial starts again"]
    return found, []


def kept_checkpoint(
    job: TrialJob, found: checkpoint.Checkpoint, parameters: Mapping[str, torch.nn.Parameter]
) -> checkpoint.Checkpoint:
    """The checkpoint that the job keeps, where `found` is the newest: itself, or an earlier one with a better value.

    Raises:
        OutsideError: it can't be read.
    """
    best = found.state.get("best")
    if best is None or best["step"] == found.state["step"]:
        return found
    assert job.checkpoint_dir is not None
    kept = _read(place(job.checkpoint_dir), best["step"], parameters)
    if kept is None:
        hint = "promote again with --force, which trains anew"
        raise OutsideError(f"the best checkpoint of {job.trial}, of step {best['step']}, is damaged", hint)
    return kept


def _read(folder: Path | UrlPath, step: int, parameters: Mapping[str, torch.nn.Parameter]) -> checkpoint.Checkpoint | None:
    """The checkpoint of `step`; None if it is damaged."""
    shapes = {name: parameter.shape for name, parameter in parameters.items()}

    def fits(found: checkpoint.Checkpoint) -> bool:
        """Whether the checkpoint belongs to this model and is complete."""
        weights = all(shapes.get(name) == value.shape for name, value in found.weights.items())
        moments = all(key.rpartition("/")[0] in shapes for key in found.moments)
        return weights and moments and found.state.keys() >= STATE

    found: list[checkpoint.Checkpoint] = []
    try:
        patiently(lambda: found.append(checkpoint.read(folder, step, fits)), STORAGE_SECONDS)
    except checkpoint.Damaged:
        return None
    return found[0]
