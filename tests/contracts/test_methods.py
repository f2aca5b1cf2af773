"""Properties of every method of adaptation, over whole runs of tiny models: every mode of unfreezing, adapters beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from jobs import job, needs_bitsandbytes, reports
from scalesweep.spec.space import UNFREEZING_MODES
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer, train
from tiny_models import WIDE, tiny_checkpoint
from tiny_sweeps import tiny_sweep

BERT, LLAMA, GPT2 = (
    ("bert", "sequence-classification"),
    ("llama", "instruction-tuning"),
    ("gpt2", "causal-lm"),
)  # GPT-2's head is tied
METHODS: list[Any] = [
    *((BERT, {"unfreezing": mode}) for mode in UNFREEZING_MODES),
    *((BERT, {"unfreezing": mode, "adapter": "lora"}) for mode in ("head", "gradual")),
    (BERT, {"unfreezing": "chain_thaw", "adapter": "lora", "base_dtype": "bf16"}),
    (LLAMA, {"unfreezing": "full", "adapter": "lora", "base_dtype": "bf16", "gradient_checkpointing": True}),
    pytest.param((LLAMA, {"unfreezing": "gradual", "adapter": "qlora"}), marks=needs_bitsandbytes),
    pytest.param((LLAMA, {"unfreezing": "gradual", "optimizer": "adamw_8bit"}), marks=needs_bitsandbytes),
    (LLAMA, {"unfreezing": "chain_thaw", "adapter": "lora", "lora_target_modules": "q_proj, v_proj"}),
    (GPT2, {"unfreezing": "gradual", "adapter": "lora", "mixed_precision": "bf16"}),
    (GPT2, {"unfreezing": "lp_ft", "adapter": "dora", "use_rslora": True}),
]


@pytest.fixture(params=METHODS, ids=lambda method: " ".join([method[0][0], *map(str, method[1].values())]))
def variant(request: pytest.FixtureRequest) -> tuple[tuple[str, str], dict[str, Any]]:
    """Kind and task of the model, and the config of a method."""
    (kind, task), method = request.param
    config = {
        "unfreeze_interval": 3, "thaw_warmup_steps": 2, "eval_interval": 4, "max_t": 16, "rungs": [], "learning_rate": 1e-3,
        "lora_rank": 4, "lora_dropout": 0.1, **({"dropout": 0.1} if kind == "bert" else {}), **method,
    }  # fmt: skip
    return (kind, task), config


@pytest.fixture
def made(variant: tuple[tuple[str, str], dict[str, Any]], tmp_path: Path) -> TrialJob:
    (kind, task), config = variant
    model = tiny_checkpoint(kind, task, **WIDE) if config.get("optimizer") == "adamw_8bit" else None
    return job(config, tmp_path, sweep=tiny_sweep(kind, task, model, layers=(1, 2)))


def weights(folder: Path) -> set[str]:
    """The names of the weights in a checkpoint, which holds the moments of no others."""
    with safe_open(next(folder.glob("step-*")) / "weights.safetensors", "pt") as file:
        names = set(file.keys())
    with safe_open(next(folder.glob("step-*")) / "optimizer.safetensors", "pt") as file:
        assert {name.rpartition("/")[0] for name in file.keys()} <= names  # noqa: SIM118 - it is no mapping
    return names


def test_an_interrupted_run_ends_as_an_undisturbed_one(made: TrialJob, tmp_path: Path) -> None:
    undisturbed = list(reports(replace(made, checkpoint_dir=None)))
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
