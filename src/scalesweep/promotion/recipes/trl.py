"""The settings of `trl sft`. Facts are from TRL 1.16: `trl/scripts/sft.py`, `trainer/sft_config.py`, `trainer/model_config.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scalesweep.promotion.recipes.shared import OPTIMIZERS, Settings, base_dtype, targets
from scalesweep.promotion.recipes.winner import Rows, Winner
from scalesweep.spec.space import ADAPTERS, ALL_LINEAR

TITLE = "TRL"
_DTYPES = {"float32": "float32", "bf16": "bfloat16"}


def command(winner: Winner) -> str:
    """The command that trains with a file."""
    return (
        f"trl sft --config FILE --num_processes {winner.batches.gpus}" if winner.batches.gpus > 1 else "trl sft --config FILE"
    )


def settings(winner: Winner, template: str) -> Settings:
    """The settings, and what they can't express. `template` is the path of the file for the user's own chat template."""
    config, rows, size, lost = winner.config, winner.rows, winner.size, list[str]()
    values: dict[str, Any] = {"model_name_or_path": size.model}
    if size.revision:
        values["model_revision"] = size.revision
    if size.entry.get("trust_remote_code"):
        values["trust_remote_code"] = True
    values |= {
        "dtype": _DTYPES[base_dtype(config)],
        "datasets": [_dataset(source) for source in winner.sources],
        "max_length": rows.spec["max_length"],
        "packing": False,
    }
    lost += _lost_rows(winner)
    own = rows.spec.get("chat_template")
    if winner.task == "causal-lm":
        values["dataset_text_field"] = rows.columns["text"]
    else:
        learnt, remarks = _learnt(rows)
        values |= learnt
        lost += remarks
        if own:
            values["chat_template_path"] = template
    files = {template: own} if own else {}
    batches = winner.batches
    values |= {
        "per_device_train_batch_size": batches.per_device,
        "gradient_accumulation_steps": batches.accumulation,
        "max_steps": winner.steps,
        "learning_rate": winner.rate,
        "lr_scheduler_type": winner.schedule,
    }
    if winner.schedule_settings:
        values["lr_scheduler_kwargs"] = dict(winner.schedule_settings)
    values |= {
        "warmup_steps": winner.warmup_steps,
        "optim": OPTIMIZERS[config.optimizer],
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "label_smoothing_factor": config.label_smoothing_factor,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "seed": config.seed,
        "bf16": config.mixed_precision in ("auto", "bf16"),
        "fp16": config.mixed_precision == "fp16",
        "gradient_checkpointing": config.gradient_checkpointing is not False,  # they can't turn it on when memory runs out
    }
    if config.mixed_precision == "auto":
        lost.append(
            "mixed_precision was auto, which is bf16 on a GPU that has it; on another one write bf16: false, fp16: true"
        )
    if config.adapter != "none":
        values |= {
            "use_peft": True,
            "lora_r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "lora_target_modules": _targets(config.lora_target_modules),
            "use_rslora": config.use_rslora,
            "use_dora": ADAPTERS[config.adapter].magnitudes,
        }
    if ADAPTERS[config.adapter].four_bits:
        values |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    return Settings(values, lost, files)


def _targets(written: str) -> str | list[str]:
    """The layers with an adapter. TRL makes a list of one name a text, and peft takes a text for a regular expression."""
    if written == ALL_LINEAR:
        return written
    names = targets(written)
    return names if len(names) > 1 else [rf"(.*\.)?{re.escape(names[0])}"]


def _dataset(rows: Rows) -> dict[str, Any]:
    if rows.kind is not None:
        return {"path": rows.kind, "data_files": rows.path, "split": rows.split}
    named = {"name": rows.spec["name"]} if rows.spec.get("name") else {}
    return {"path": rows.path, **named, "split": rows.split}


def _learnt(rows: Rows) -> tuple[dict[str, Any], list[str]]:
    """The keys that choose the learnt tokens, and remarks."""
    learn, lost = rows.spec["learn"], list[str]()
    if rows.format in ("prompt-completion", "alpaca"):
        return {"completion_only_loss": learn != "all"}, lost
    if learn == "last":
        lost.append("the trial learnt the last answer alone; TRL learns every answer of a conversation")
    if learn != "all":
        lost.append(
            "assistant_only_loss needs a chat template with {% generation %}: TRL has one for the templates that it knows, and "
            "refuses others. Whether the token that ends an answer is learnt follows from that template"
        )
    return {"assistant_only_loss": learn != "all"}, lost


def _lost_rows(winner: Winner) -> Iterator[str]:
    rows = winner.rows
    if rows.kind is None and rows.spec.get("revision"):
        yield f"TRL takes no revision of a data set; the sweep read {rows.spec['revision']}"
    if rows.kind is None and rows.path.startswith("/"):
        yield "TRL reads no folder of save_to_disk: write its rows to a file of JSON lines"
    if winner.task == "causal-lm":
        yield "TRL cuts a document at max_length; the trial laid the rest out over further examples"
        yield "the trial put BOS before each document; TRL leaves that to the tokenizer"
        return
    if rows.format == "alpaca":
        yield (
            f"TRL reads no alpaca rows: write them as prompt ({rows.columns['instruction']}, and the input on a line below) and "
            "completion, each a list of one message {role, content}"
        )
    elif rows.format == "prompt-completion":
        yield (
            "TRL joins a prompt and completion that are texts without a chat template: write each as a list of messages. It "
            "learns no answer inside a prompt"
        )
    for key, column in rows.columns.items():
        if column != key and rows.format != "alpaca":
            yield f"TRL reads a column {key!r}: rename {column!r}"
    if "system" in rows.columns:
        yield f"TRL does not read the system prompts of the column {rows.columns['system']!r}: make them the first message"
    if rows.spec["truncate"] == "drop":
        yield "the trial left out conversations of more than max_length tokens; TRL cuts them"
