"""Checkpoints without pickle: weights and optimizer moments as safetensors, counters as JSON.

A checkpoint stores only weights that have been trained; the others come from the base checkpoint. A checkpoint is complete
or absent. On a file system it is written under a temporary name, synced to the disk and renamed. At a URL its `state.json` is
written last, and the checkpoint does not exist without it. The previous checkpoint is deleted once the new one is complete.
Saving waits for storage that is full or unavailable.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scalesweep.storage import STORAGE_SECONDS, UrlPath, patiently
from scalesweep.training.optimizer import set_state, state_of

STATE = "state.json"
FILES = ("weights.safetensors", "optimizer.safetensors", STATE)  # in the order of the upload to a URL


class Damaged(Exception):
    """An unusable checkpoint that was once complete: a file is missing, truncated or edited, or belongs to another model."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint."""

    state: dict[str, Any]
    weights: Mapping[str, torch.Tensor]
    moments: Mapping[str, torch.Tensor]


def save(
    folder: Path | UrlPath,
    step: int,
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    storage_seconds: float = STORAGE_SECONDS,
    kept: int | None = None,
) -> None:
    """Write `folder/step-N` with trained weights and moments (`moments_of`), and delete older checkpoints but that of step `kept`.

    Raises:
        OSError, SafetensorError: writing failed for `storage_seconds`; the previous checkpoint still exists.
    """

    def write() -> None:
        if isinstance(folder, UrlPath):
            _put(folder, step, weights, moments, state, kept)
        else:
            _write(folder, step, weights, moments, state, kept)

    # safetensors reports disk errors as its own error type.
    patiently(write, storage_seconds, (OSError, SafetensorError))


def moments_of(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """The optimizer's state of these parameters, by `NAME/KEY`."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in state_of(optimizer, parameter).items()
    }


def _fill(
    folder: Path, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor], state: dict[str, Any]
) -> None:
    for tensors, file in ((weights, FILES[0]), (moments, FILES[1])):
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / file)
    (folder / STATE).write_text(json.dumps(state))


def _write(
    folder: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    kept: int | None,
) -> None:
    folder.mkdir(exist_ok=True)  # without parents: if the storage is unmounted, nothing may be created under its mount point
    temporary = folder / f".step-{step:08d}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    _fill(temporary, weights, moments, state)
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    final = folder / name_of(step)
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    _sync(folder)
    for old in folder.iterdir():
        if old.name not in (final.name, name_of(kept)):
            shutil.rmtree(old, ignore_errors=True)


def _put(
    folder: UrlPath,
    step: int,
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    kept: int | None,
) -> None:
    final = folder / name_of(step)
    with tempfile.TemporaryDirectory(prefix="scalesweep-") as made:
        _fill(Path(made), weights, moments, state)
        (final / STATE).unlink()  # removes an earlier attempt's state: while the files are replaced, there is no checkpoint
        for name in FILES:
            (final / name).upload(Path(made) / name)
    for old in folder.names():
        if old not in (final.name, name_of(kept)):
            (folder / old / STATE).unlink()
            (folder / old).remove()


def _sync(path: Path) -> None:
    """Sync a file's content or a folder's names to the disk, so a power cut does not leave a name without content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_of(step: int | None) -> str:
    """The name of a step's checkpoint; empty without one."""
    return "" if step is None else f"step-{step:08d}"


def steps(folder: Path | UrlPath) -> list[int]:
    """The steps of the existing checkpoints, newest first.

    Raises:
        OSError: the object store does not answer.
    """
    if isinstance(folder, UrlPath):
        names = [name.removesuffix(f"/{STATE}") for name in folder.names(inside=True) if name.endswith(f"/{STATE}")]
    else:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name)), reverse=True)


def read(folder: Path | UrlPath, step: int, fits: Callable[[Checkpoint], bool]) -> Checkpoint:
    """The checkpoint of `step`, read completely and checked with `fits`.

    Raises:
        Damaged: the checkpoint is unusable.
        OSError: the storage does not answer.
    """
    name = name_of(step)
    try:
        if isinstance(folder, UrlPath):
            with tempfile.TemporaryDirectory(prefix="scalesweep-") as made:
                for file in FILES:
                    (folder / name / file).download(Path(made) / file)
                found = _read(Path(made))
        else:
            found = _read(folder / name)
    except (FileNotFoundError, SafetensorError, ValueError) as error:
        raise Damaged(str(error)) from None
    if not isinstance(found.state, dict) or not fits(found):
        raise Damaged("it belongs to another model or lacks state")
    return found


def _read(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text())
    return Checkpoint(state, load_file(folder / FILES[0]), load_file(folder / FILES[1]))


def apply(
    found: Checkpoint,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    part: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda whole, like: whole,  # noqa: ARG005
) -> None:
    """Restore weights and optimizer moments.

    Args:
        part: the part of a whole tensor that this worker holds, as it holds a given parameter.
    """
    with torch.no_grad():
        for name, value in found.weights.items():
            parameters[name].copy_(part(value, parameters[name]))
    for key, value in found.moments.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        set_state(optimizer, parameter, moment, part(value, parameter) if value.dim() else value)
