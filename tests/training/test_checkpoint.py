"""Checkpoints on storage that fails: the newest whole one stays, and what is away for a while is waited for."""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from processes import READY
from scalesweep.training import checkpoint


def _model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    return model, optimizer


def _save_on_a_full_disk(folder: str, lift_after: float, storage_seconds: float, answer: Any) -> None:
    """The second checkpoint meets a disk on which only a part of it fits, until the limit is lifted."""
    model, optimizer = _model()
    weights = dict(model.named_parameters())
    moments = checkpoint.moments_of(optimizer, weights)
    checkpoint.save(Path(folder), 1, weights, moments, {"step": 1})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    lift = threading.Timer(lift_after, resource.setrlimit, (resource.RLIMIT_FSIZE, (hard, hard)))
    lift.daemon = True
    lift.start()
    try:
        checkpoint.save(Path(folder), 2, weights, moments, {"step": 2}, storage_seconds)
        answer.put(2)
    except (OSError, SafetensorError):
        answer.put(1)


@pytest.mark.parametrize(("lift_after", "storage_seconds", "newest"), [(1.0, 60.0, 2), (100.0, 0.5, 1)])
def test_a_full_disk_is_waited_for_and_the_older_checkpoint_stays(
    tmp_path: Path, lift_after: float, storage_seconds: float, newest: int
) -> None:
    answer = READY.Queue()
    process = READY.Process(target=_save_on_a_full_disk, args=(str(tmp_path), lift_after, storage_seconds, answer))
    process.start()
    assert answer.get(timeout=120) == newest
    process.join()
    assert checkpoint.steps(tmp_path)[0] == newest
    model, optimizer = _model()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for value in model.parameters():
        value.data.zero_()
    found = checkpoint.read(tmp_path, newest, lambda _: True)
    checkpoint.apply(found, dict(model.named_parameters()), optimizer)
    assert found.state == {"step": newest}
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
