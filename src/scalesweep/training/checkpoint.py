"""Checkpoints without pickle: weights and optimizer moments as safetensors, counters as JSON.

Only weights that have been trained are kept; those that never were come from the base checkpoint. A checkpoint is complete or
absent: on a file system it is written beside its place, synced to the disk, and renamed; at a URL its `state.json` is put last, and
without that there is none. The one before is dropped once the new one is complete. Storage that is away or full is waited for.
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

STATE = "state.json"
FILES = ("weights.safetensors", "optimizer.safetensors", STATE)  # in the order in which they are put at a URL


class Damaged(Exception):
    """A checkpoint that was complete once and can't be used: a file is gone, cut short or edited, or of another model."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read of one."""

    state: dict[str, Any]
    weights: Mapping[str, torch.Tensor]
    moments: Mapping[str, torch.Tensor]


def save(
    folder: Path | UrlPath,
    step: int,
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    storage_seconds: float = STORAGE_SECONDS,
) -> None:
    """Write `folder/step-N` with the weights that have been trained, and drop the older ones.

    Raises:
        OSError, SafetensorError: it could not be written for `storage_seconds`; the one before is still there.
    """

    def write() -> None:
        if isinstance(folder, UrlPath):
            _put(folder, step, trained, optimizer, state)
        else:
            _write(folder, step, trained, optimizer, state)

    # safetensors tells what the disk refuses as its own error.
    patiently(write, storage_seconds, (OSError, SafetensorError))


def _fill(
    folder: Path, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    save_file({name: parameter.detach().contiguous() for name, parameter in trained.items()}, folder / FILES[0])
    moments = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, folder / FILES[1])
    (folder / STATE).write_text(json.dumps(state))


def _write(
    folder: Path, step: int, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    folder.mkdir(exist_ok=True)  # not what it is in: where that is away, nothing may be begun beneath its name
    temporary = folder / f".step-{step:08d}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    _fill(temporary, trained, optimizer, state)
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    final = folder / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    _sync(folder)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def _put(
    folder: UrlPath, step: int, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    final = folder / f"step-{step:08d}"
    with tempfile.TemporaryDirectory(prefix="scalesweep-") as made:
        _fill(Path(made), trained, optimizer, state)
        (final / STATE).unlink()  # of an earlier attempt: while the rest is replaced, there is none
        for name in FILES:
            (final / name).upload(Path(made) / name)
    for old in folder.names():
        if old != final.name:
            (folder / old / STATE).unlink()
            (folder / old).remove()


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk: a machine that loses its power must not keep a name alone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def steps(folder: Path | UrlPath) -> list[int]:
    """The checkpoints that are there, by their step, the newest first.

    Raises:
        OSError: the object store could not be asked.
    """
    if isinstance(folder, UrlPath):
        names = [name.removesuffix(f"/{STATE}") for name in folder.names(inside=True) if name.endswith(f"/{STATE}")]
    else:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name)), reverse=True)


def read(folder: Path | UrlPath, step: int, fits: Callable[[Checkpoint], bool]) -> Checkpoint:
    """One of them, whole and checked before anything is done with it.

    Raises:
        Damaged: it can't be used.
        OSError: the storage did not answer.
    """
    name = f"step-{step:08d}"
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
        raise Damaged("it is of something else")
    return found


def _read(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text())
    return Checkpoint(state, load_file(folder / FILES[0]), load_file(folder / FILES[1]))


def apply(found: Checkpoint, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put weights and moments back in place."""
    with torch.no_grad():
        for name, value in found.weights.items():
            parameters[name].copy_(value)
    for key, value in found.moments.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless fused on CUDA; `load_state_dict` would move it just so.
        device = parameter.device if value.dim() or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][moment] = value.to(device)
