"""Properties of every method of adaptation, over whole runs: a tiny model, every mode of unfreezing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from jobs import job, reports
from scalesweep.spec.space import UNFREEZING_MODES
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer, train
from tiny_sweeps import tiny_sweep

METHODS = [{"unfreezing": mode} for mode in UNFREEZING_MODES]


@pytest.fixture(params=METHODS, ids=lambda method: " ".join(method.values()))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> TrialJob:
    config = {
        "unfreeze_interval": 3, "thaw_warmup_steps": 2, "eval_interval": 4, "max_t": 16, "rungs": [], "learning_rate": 1e-3,
        "dropout": 0.1, **request.param,
    }  # fmt: skip
    return job(config, tmp_path, sweep=tiny_sweep(layers=(1, 2)))


def weights(folder: Path) -> set[str]:
    """The names of the weights in a checkpoint."""
    with safe_open(next(folder.glob("step-*")) / "weights.safetensors", "pt") as file:
        return set(file.keys())


def test_an_interrupted_run_ends_as_an_undisturbed_one(made: TrialJob, tmp_path: Path) -> None:
    config: dict[str, Any] = made.config.model_dump()
    undisturbed = list(reports(job(config, sweep=tiny_sweep(layers=(1, 2)))))
    for report in reports(made):
        if report.step == 12:
            break
    assert list(reports(made)) == undisturbed[1:]
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_what_a_checkpoint_leaves_out_is_constant_and_so_is_all_below_the_cut(made: TrialJob, tmp_path: Path) -> None:
    trainer = Trainer(made)
    method = trainer.method
    base = {name: parameter.detach().clone() for name, parameter in method.parameters.items()}
    cuts, moved = set(), set[str]()
    for _ in train(trainer):
        moved = {name for name, parameter in method.parameters.items() if not torch.equal(base[name], parameter)}
        assert moved <= set(method.kept())
        assert all(name not in moved for group in method.groups[: method.untouched] for name in group.parameter_names)
        cuts.add(method.untouched)
    assert weights(tmp_path) == set(method.kept()) == moved, "and nothing is kept that did not train"
    assert {cut for cut in cuts if cut >= 2} <= set(method.cuts()) <= set(method.cuts(*UNFREEZING_MODES))
    trainer.close()
