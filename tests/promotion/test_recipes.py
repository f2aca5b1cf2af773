"""Recipes, read by the trainer that they are for: TRL's own parser; of axolotl, which is not installed, the names of its keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from command_line import refused, run
from scalesweep.promotion.recipes import FORMATS
from scalesweep.record.manifest import new_manifest
from scalesweep.spec import sweep_from_dict, trial_config
from scalesweep.training.schedules import SCHEDULES, schedule
from sweeps import sweep_dict

SPLITS = {"train": 60, "validation": 20, "test": 20}
TALKS = {"path": "/data/talks.jsonl", "format": "messages", "max_length": 48, "splits": SPLITS}
COLUMNS = {  # as `prepare` records them: column → key
    "messages": {"messages": "messages"},
    "sharegpt": {"chat": "conversations"},
    "prompt-completion": {"prompt": "prompt", "answer": "completion"},
    "alpaca": {"instruction": "instruction", "input": "input", "output": "output"},
}


def run_folder(
    folder: Path,
    drawn: dict[str, Any],
    data: dict[str, Any] | None = None,
    task: str = "instruction-tuning",
    size: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A run folder whose one trial drew `drawn`, ran to max_t of 12 and has ended. `changes` are those of `sweep_dict`."""
    data = {**TALKS, **(data or {})} if task == "instruction-tuning" else (data or {})
    entry = {"name": "small", "model": "/models/llama", **(size or {})}
    drawn = {"learning_rate": 2e-5, **drawn}
    space = {name: {"value": value} for name, value in drawn.items()}
    spec = sweep_from_dict(
        sweep_dict(
            task=task, data=data, ladder=[entry], search_space={"parameters": space}, metric={"name": "eval_loss"}, **changes
        )
    )
    columns = COLUMNS[data["format"]] if task == "instruction-tuning" else {"body": "text"}
    row = {
        "name": "small",
        "layers": entry.get("layers"),
        "model": entry["model"],
        "entry": entry,
        "min_gpus": 1,
        "n_params": 1000,
    }
    manifest = new_manifest(
        spec, [row], launched={"id": "0" * 32, "data": {"source": spec.data.model_dump(), "columns": columns}, "git": None}
    )
    max_t = spec.early_terminate.max_t
    events: list[dict[str, Any]] = [
        {"event": "session", "resumed": False},
        {"event": "trial", "trial": "t0000", "number": 0, "params": drawn, "config": trial_config(spec, drawn).model_dump()},
        {"event": "start", "trial": "t0000", "attempt": 1},
        {
            **{"event": "report", "trial": "t0000", "fidelity": max_t, "step": 12, "tokens": 1200, "flops": 1e6},
            **{"wall_seconds": 2.0, "gpu_seconds": 2.0, "rungs": [1], "action": "complete", "reason": "max_t", "cutoff": None},
            "metrics": {"eval_loss": 0.6, "epoch": 3.0},
        },
        {"event": "end", "trial": "t0000", "state": "COMPLETE", "reason": "max_t", "error": None},
        {"event": "sweep_ended", "reason": "budget: run_cap"},
    ]
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(dict(manifest)))
    (folder / "record.jsonl").write_text("".join(json.dumps({"time": 1e9 + i, **e}) + "\n" for i, e in enumerate(events)))
    return folder


def written(folder: Path, trainer: str, *options: str) -> tuple[dict[str, Any], str]:
    """The keys of a recipe and what is lost. The comments at the top and stderr name the same."""
    file = folder.with_suffix(f".{trainer}.yaml")
    done = run("recipe", folder, "--format", trainer, "--output", file, "--max-t", "12", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = file.read_text()
    comments = [line.removeprefix("# - ") for line in text.splitlines() if line.startswith("# - ")]
    assert comments == [line.removeprefix("other than in the trial: ") for line in done.stderr.splitlines()]
    return yaml.safe_load(text), done.stderr


def parsed(file: Path, tmp_path: Path) -> SimpleNamespace:
    """A file as `trl sft --config` reads it: all fields of its four dataclasses. No unknown key passes."""
    from trl.scripts.sft import make_parser

    fields: dict[str, Any] = {}
    for part in make_parser().parse_args_and_config(["--config", str(file), "--output_dir", str(tmp_path / "o"), "--use_cpu"]):
        fields |= vars(part)
    return SimpleNamespace(**fields)


ADAPTERS: dict[str, dict[str, Any]] = {
    "none": {"learning_rate": 2e-5},
    "lora": {"learning_rate": 2e-5, "lora_rank": 16, "lora_dropout": 0.05, "use_rslora": True},
    "qlora": {"learning_rate": 2e-5, "lora_rank": 16},
    "dora": {"learning_rate": 2e-5, "lora_rank": 4, "lora_alpha": 8, "adapter_lr_ratio": 5.0, "lora_target_modules": "q_proj"},
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("format", COLUMNS)
def test_trl_reads_each_format_and_adapter(format: str, adapter: str, tmp_path: Path) -> None:
    drawn = {"adapter": adapter, "weight_decay": 0.1, "warmup_ratio": 0.25, "num_gpus": 2, **ADAPTERS[adapter]}
    drawn |= {"lr_scheduler_type": "cosine_with_min_lr", "min_lr_ratio": 0.2, "adam_epsilon": 1e-6, "max_grad_norm": 0.0}
    data = {"format": format} | {key: column for column, key in COLUMNS[format].items() if column != key}
    training = {"global_batch_size": 24, "micro_batch_size": 5, "mixed_precision": "no", "seed": 7}
    training |= {"dora": {"optimizer": "adamw_8bit"}, "qlora": {"base_dtype": "bf16"}}.get(adapter, {})
    folder = run_folder(tmp_path / "run", drawn, data, training=training)
    _, lost = written(folder, "trl")
    got = parsed(folder.with_suffix(".trl.yaml"), tmp_path)
    (rows,) = got.datasets
    assert (got.model_name_or_path, rows.path, rows.data_files, rows.split) == ("/models/llama", "json", TALKS["path"], "train")
    assert (got.max_length, got.packing, got.max_steps, got.warmup_steps, got.seed) == (48, False, 12, 3, 7)
    assert got.per_device_train_batch_size * got.gradient_accumulation_steps * 2 == 24
    assert got.per_device_train_batch_size == 4  # the largest divisor of 12 that is at most micro_batch_size
    assert got.learning_rate == pytest.approx(2e-5 * {"none": 1, "dora": 5}.get(adapter, 10))
    assert (got.lr_scheduler_type, got.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.2})
    assert (got.adam_beta1, got.adam_beta2, got.adam_epsilon, got.weight_decay) == (0.9, 0.999, 1e-6, 0.1)
    assert (got.max_grad_norm, got.bf16, got.fp16, got.gradient_checkpointing, got.dtype) == (
        0.0,
        False,
        False,
        True,  # of `auto`
        "bfloat16" if adapter == "qlora" else "float32",
    )
    in_4_bits = (got.load_in_4bit, got.bnb_4bit_quant_type, got.use_bnb_nested_quant)
    assert in_4_bits == ((True, "nf4", True) if adapter == "qlora" else (False, "nf4", False))
    assert got.optim == ("adamw_8bit" if adapter == "dora" else "adamw_torch_fused")
    taught = format in ("messages", "sharegpt")
    assert (got.assistant_only_loss, got.completion_only_loss) == ((True, None) if taught else (False, True))
    assert got.use_peft == (adapter != "none")
    if adapter == "lora":
        assert (got.lora_r, got.lora_alpha, got.lora_dropout, got.use_rslora, got.use_dora) == (16, 32, 0.05, True, False)
        assert got.lora_target_modules == "all-linear"
    elif adapter == "dora":
        assert (got.lora_r, got.lora_alpha, got.lora_dropout, got.use_rslora, got.use_dora) == (4, 8, 0.0, False, True)
        # peft matches a text with the whole name, and TRL makes a list of one name a text.
        assert re.fullmatch(got.lora_target_modules, "model.layers.0.self_attn.q_proj")
        assert not re.fullmatch(got.lora_target_modules, "model.layers.0.mlp.up_proj")
    assert ("alpaca" in lost) == (format == "alpaca")
    assert ("rename 'answer'" in lost) == (format == "prompt-completion")
    assert ("{% generation %}" in lost) == taught
    assert ("magnitudes" in lost) == (adapter == "dora")


def test_a_file_for_each_split_is_trained_on_by_itself(tmp_path: Path) -> None:
    files = {"train": "/data/a.jsonl", "validation": "/data/b.csv", "test": "/data/c.jsonl"}
    folder = run_folder(tmp_path / "run", {}, {"path": files, "splits": {name: name for name in files}})
    trl, lost = written(folder, "trl")
    assert trl["datasets"] == [
        {"path": "json", "data_files": files["train"], "split": "train"},
        {"path": "csv", "data_files": files["validation"], "split": "train"},
    ]
    assert "rewrite them as lists" in lost
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["data"]["dropped"] = {"overlap": 3, "duplicates": 4}
    (folder / "sweep.json").write_text(json.dumps(manifest))
    assert "left out 3 rows whose text or group is in another split too" in written(folder, "axolotl")[1]
    axolotl, _ = written(folder, "axolotl")
    assert [(rows["path"], rows["ds_type"]) for rows in axolotl["datasets"]] == [
        (files["train"], "json"),
        (files["validation"], "csv"),
    ]


# The keys of axolotl that a recipe uses, by the class that declares them. Read from its source of 24 July 2026 (version 0.19):
# src/axolotl/utils/schemas/config.py, datasets.py, deprecated.py, model.py, peft.py and training.py.
AXOLOTL = {
    "config.py AxolotlInputConfig": "bf16 fp16 chat_template chat_template_jinja datasets excess_length_strategy "
    "gradient_checkpointing max_steps sample_packing seed sequence_len warmup_steps",
    "deprecated.py RemappedParameters": "revision_of_model",
    "model.py ModelInputConfig": "base_model trust_remote_code",
    "peft.py LoraConfig": "adapter lora_r lora_alpha lora_dropout lora_target_linear lora_target_modules peft_use_dora "
    "peft_use_rslora load_in_4bit",
    "training.py HyperparametersConfig": "adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps group_by_length "
    "learning_rate lr_scheduler lr_scheduler_kwargs max_grad_norm micro_batch_size optimizer train_on_inputs weight_decay",
}
AXOLOTL_ROWS = {
    "datasets.py SFTDataset": "path name revision split ds_type type field field_messages message_property_mappings roles_to_train "
    "train_on_eos chat_template chat_template_jinja",
}
AXOLOTL_TYPE = {
    "datasets.py UserDefinedPrompterType": "field_system field_instruction field_input field_output format no_input_format system_format"
}


def names(table: dict[str, str]) -> set[str]:
    return set(" ".join(table.values()).split())


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("format", COLUMNS)
def test_axolotl_knows_every_key(format: str, adapter: str, tmp_path: Path) -> None:
    drawn = {"adapter": adapter, "num_gpus": 2, "warmup_ratio": 0.1, "label_smoothing_factor": 0.1, **ADAPTERS[adapter]}
    data = {"format": format} | {key: column for column, key in COLUMNS[format].items() if column != key}
    size = {"model": "org/model", "revision": "abc", "trust_remote_code": True}
    folder = run_folder(tmp_path / "run", drawn, {**data, "truncate": "drop"}, size=size, training={"global_batch_size": 24})
    got, lost = written(folder, "axolotl")
    (rows,) = got["datasets"]
    assert set(got) <= names(AXOLOTL)
    assert set(rows) <= names(AXOLOTL_ROWS)
    assert (got["base_model"], got["revision_of_model"], got["trust_remote_code"]) == ("org/model", "abc", True)
    assert (rows["path"], rows["ds_type"], got["sequence_len"], got["excess_length_strategy"]) == (
        TALKS["path"],
        "json",
        48,
        "drop",
    )
    assert got["micro_batch_size"] * got["gradient_accumulation_steps"] * 2 == 24
    assert (got["warmup_steps"], got["max_steps"], got["bf16"], got["fp16"]) == (1, 12, "auto", False)
    rate = got["learning_rate"]
    assert isinstance(rate, float)
    assert rate == pytest.approx(2e-5 * {"none": 1, "dora": 5}.get(adapter, 10))
    if format in ("messages", "sharegpt"):
        assert (rows["type"], rows["roles_to_train"], got["train_on_inputs"]) == ("chat_template", ["assistant"], False)
        assert rows["field_messages"] == next(iter(COLUMNS[format]))
        assert ("message_property_mappings" in rows) == (format == "sharegpt")
    else:
        assert set(rows["type"]) <= names(AXOLOTL_TYPE)
        assert "write them as messages" in lost
    assert (got.get("adapter"), got.get("peft_use_dora"), got.get("load_in_4bit")) == {
        "none": (None, None, None),
        "lora": ("lora", False, None),
        "qlora": ("qlora", False, True),
        "dora": ("lora", True, None),
    }[adapter]
    assert (got.get("lora_target_linear"), got.get("lora_target_modules")) == {
        "none": (None, None),
        "lora": (True, None),
        "qlora": (True, None),
        "dora": (None, ["q_proj"]),
    }[adapter]
    for words in ("label_smoothing_factor was 0.1", "warm-up of 1 step", "own tokens", "half precision"):
        assert words in lost


LOST: list[tuple[dict[str, Any], str]] = [
    ({"unfreezing": "gradual", "unfreeze_interval": 3, "thaw_warmup_steps": 2}, "unfreezing was gradual (cadence steps)"),
    ({"unfreezing": "gradual", "thaw_warmup_steps": 2}, "warmed up over 2 steps"),
    ({"unfreezing": "head"}, "the head alone"),
    ({"layerwise_lr_decay": 0.9}, "layerwise_lr_decay was 0.9"),
    ({"dropout": 0.1}, "dropout was 0.1"),
    ({"attention_dropout": 0.2}, "attention_dropout was 0.2"),
    ({"lr_scheduler_type": "slanted_triangular"}, "slanted_triangular"),
    ({"num_gpus": 3}, "2 GPUs share it"),
    ({"weight_decay": 0.1}, "biases and norms"),
]


@pytest.mark.parametrize("trainer", FORMATS)
def test_what_a_trainer_lacks_is_named(trainer: str, tmp_path: Path) -> None:
    """One line for each such setting, and none where the trial has the plain value."""
    plain = {"weight_decay": 0.0, "adapter": "none"}
    for number, (drawn, words) in enumerate([*LOST, ({}, "")]):
        folder = run_folder(tmp_path / str(number), {**plain, **drawn})
        got, lost = written(folder, trainer)
        found = [other for _, other in LOST if other in lost]
        assert words in lost
        assert len(found) <= (2 if words in ("warmed up over 2 steps", LOST[0][1]) else 1)
    size = {"layers": 2}
    assert "lowest 2 blocks" in written(run_folder(tmp_path / "cut", plain, size=size), trainer)[1]
    tokens = {"type": "none", "time_attr": "tokens", "max_t": 1200}
    got, lost = written(run_folder(tmp_path / "tokens", plain, early_terminate=tokens), trainer, "--max-t", "2400")
    assert got["max_steps"] == 24
    assert "an estimate" in lost
    got, lost = written(run_folder(tmp_path / "last", plain, {"learn": "last"}), trainer)
    assert "the last answer alone" in lost


@pytest.mark.parametrize("trainer", FORMATS)
def test_the_splits_and_the_revision_of_a_hub_data_set_are_kept(trainer: str, tmp_path: Path) -> None:
    data = {
        "path": "org/talks",
        "name": "en",
        "revision": "v1",
        "splits": {"train": "train", "validation": "dev", "test": "test"},
    }
    got, lost = written(run_folder(tmp_path / "run", {}, data), trainer)
    rows = got["datasets"][0]
    assert (rows["path"], rows["name"], rows["split"]) == ("org/talks", "en", "train+dev")
    assert ("v1" in lost) == (trainer == "trl")
    assert rows.get("revision") == ("v1" if trainer == "axolotl" else None)
    assert "validation and test rows" not in lost


@pytest.mark.parametrize("trainer", FORMATS)
def test_plain_texts_and_an_own_chat_template(trainer: str, tmp_path: Path) -> None:
    texts = {"path": "/data/texts.csv.gz", "text": "body", "max_length": 32, "splits": SPLITS}
    got, lost = written(run_folder(tmp_path / "texts", {}, texts, task="causal-lm"), trainer)
    rows = got["datasets"][0]
    if trainer == "trl":
        assert (rows["path"], got["dataset_text_field"]) == ("csv", "body")
        assert "further examples" in lost
    else:
        assert (rows["ds_type"], rows["type"], rows["field"]) == ("csv", "completion", "body")
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    folder = run_folder(tmp_path / "own", {}, {"chat_template": template, "learn": "all"})
    got, _ = written(folder, trainer)
    if trainer == "trl":
        assert Path(got["chat_template_path"]).read_text() == template
        assert got["assistant_only_loss"] is False
        assert "--output FILE" in refused("recipe", folder, "--format", "trl")
    else:
        assert got["chat_template_jinja"] == got["datasets"][0]["chat_template_jinja"] == template
        assert run("recipe", folder, "--format", "axolotl").stdout.startswith("# tiny, trial t0000, for axolotl: axolotl train")


def test_schedules_are_those_of_the_trial(tmp_path: Path) -> None:
    """transformers' own schedule, from the keys of the file, has the trial's rate at each step."""
    import torch
    from transformers import get_scheduler

    own = {"polynomial": {"lr_power": 3.0}, "warmup_stable_decay": {"decay_ratio": 0.5}}
    for number, name in enumerate(SCHEDULES):
        drawn = {"lr_scheduler_type": name, "warmup_ratio": 0.25, "learning_rate": 1e-5, **own.get(name, {})}
        folder = run_folder(tmp_path / str(number), drawn)
        got, _ = written(folder, "axolotl" if number % 2 else "trl")
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        kind, settings = got.get("lr_scheduler_type") or got["lr_scheduler"], got.get("lr_scheduler_kwargs")
        theirs: Any = get_scheduler(kind, optimizer, got["warmup_steps"], got["max_steps"], settings)
        config = json.loads((folder / "record.jsonl").read_text().splitlines()[1])["config"]
        ours = schedule(SimpleNamespace(**config), 12)  # type: ignore[arg-type]
        near = 1 / 32 if name == "slanted_triangular" else 1e-9
        assert [theirs.lr_lambdas[0](step) for step in range(12)] == pytest.approx([ours(step) for step in range(12)], abs=near)


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    data = {"path": "/data/rows.csv", "text": "body", "label": "stars", "splits": SPLITS}
    folder = run_folder(tmp_path / "run", {}, data, task="sequence-classification")
    assert "language models that write text" in refused("recipe", folder, "--format", "trl")
