"""Checkpoints without pickle: weights and optimizer moments as safetensors, counters as JSON.

Only weights that have been trained are kept; those that never were come from the base checkpoint. A checkpoint is complete or
absent: it is written beside its place and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def save(
    folder: Path, step: int, trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write `folder/step-N` with the weights that have been trained, and drop the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{step:08d}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({name: parameter.detach().contiguous() for name, parameter in trained.items()}, temporary / "weights.safetensors")
    moments = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps(state))
    final = folder / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    return found[-1] if found else None


def load(checkpoint: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights and moments back in place and return the counters."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(checkpoint / "weights.safetensors").items():
            parameters[name].copy_(value)
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless fused on CUDA; `load_state_dict` would move it just so.
        device = parameter.device if value.dim() or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][moment] = value.to(device)
    return state
