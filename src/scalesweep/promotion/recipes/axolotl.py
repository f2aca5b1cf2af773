"""The settings of `axolotl train`. Facts are from axolotl's `src/axolotl/utils/schemas/` and `core/builders/base.py`, July 2026."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scalesweep.promotion.recipes.shared import OPTIMIZERS, Settings, base_dtype, targets
from scalesweep.promotion.recipes.winner import Rows, Winner
from scalesweep.spec.space import ADAPTERS, ALL_LINEAR

TITLE = "axolotl"


def command(winner: Winner) -> str:
    """The command that trains with a file."""
    gpus = winner.batches.gpus
    return f"axolotl train FILE --launcher accelerate -- --num_processes={gpus}" if gpus > 1 else "axolotl train FILE"


def settings(winner: Winner, template: str) -> Settings:  # noqa: ARG001 - axolotl takes a template's text
    """The settings, and what they can't express."""
    config, rows, size = winner.config, winner.rows, winner.size
    values: dict[str, Any] = {"base_model": size.model}
    if size.revision:
        values["revision_of_model"] = size.revision
    if size.entry.get("trust_remote_code"):
        values["trust_remote_code"] = True
    if own := rows.spec.get("chat_template"):
        values |= {"chat_template": "jinja", "chat_template_jinja": own}
    values |= {
        "datasets": [_dataset(winner.task, source) for source in winner.sources],
        "sequence_len": rows.spec["max_length"],
        "sample_packing": False,
    }
    if winner.task == "instruction-tuning":
        values["train_on_inputs"] = rows.spec["learn"] == "all"
        values["excess_length_strategy"] = "drop" if rows.spec["truncate"] == "drop" else "truncate"
    values |= {
        "micro_batch_size": winner.batches.per_device,
        "gradient_accumulation_steps": winner.batches.accumulation,
        "max_steps": winner.steps,
        "learning_rate": winner.rate,
        "lr_scheduler": winner.schedule,
    }
    if winner.schedule_settings:
        values["lr_scheduler_kwargs"] = dict(winner.schedule_settings)
    values |= {
        "warmup_steps": winner.warmup_steps,
        "optimizer": OPTIMIZERS[config.optimizer],
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "group_by_length": config.group_by_length,
        "seed": config.seed,
        "bf16": {"auto": "auto", "bf16": True}.get(config.mixed_precision, False),
        "fp16": config.mixed_precision == "fp16",
        "gradient_checkpointing": config.gradient_checkpointing is not False,  # they can't turn it on when memory runs out
    }
    if config.adapter != "none":
        in_4_bits = ADAPTERS[config.adapter].four_bits
        values |= {"adapter": "qlora", "load_in_4bit": True} if in_4_bits else {"adapter": "lora"}
        values |= {"lora_r": config.lora_rank, "lora_alpha": config.lora_alpha}
        values["lora_dropout"] = config.lora_dropout
        if config.lora_target_modules == ALL_LINEAR:
            values["lora_target_linear"] = True
        else:
            values["lora_target_modules"] = targets(config.lora_target_modules)
        values |= {"peft_use_dora": ADAPTERS[config.adapter].magnitudes, "peft_use_rslora": config.use_rslora}
    return Settings(values, [*_lost_rows(winner), *_lost_training(winner)])


def _dataset(task: str, rows: Rows) -> dict[str, Any]:
    columns = rows.columns
    made: dict[str, Any] = {"path": rows.path}
    if rows.kind is not None:
        made["ds_type"] = rows.kind
    for key in ("name", "revision"):
        if rows.kind is None and rows.spec.get(key):
            made[key] = rows.spec[key]
    made["split"] = rows.split
    if task == "causal-lm":
        return {**made, "type": "completion", "field": columns["text"]}
    if rows.format in ("alpaca", "prompt-completion"):
        asked, answer = ("instruction", "output") if rows.format == "alpaca" else ("prompt", "completion")
        shape = {"field_instruction": columns[asked], "field_output": columns[answer]}
        if "input" in columns:
            shape["field_input"] = columns["input"]
        if "system" in columns:
            shape |= {"field_system": columns["system"], "system_format": "{system}\n"}
        return {**made, "type": {**shape, "format": "{instruction}\n{input}\n", "no_input_format": "{instruction}\n"}}
    made |= {
        "type": "chat_template",
        "field_messages": columns[rows.format or "messages"] if rows.format == "messages" else columns["conversations"],
    }
    if rows.format == "sharegpt":
        made["message_property_mappings"] = {"role": "from", "content": "value"}
    learnt = ["system", "user", "assistant"] if rows.spec["learn"] == "all" else ["assistant"]
    made |= {"roles_to_train": learnt, "train_on_eos": "all" if rows.spec["learn"] == "all" else "turn"}
    if own := rows.spec.get("chat_template"):
        made |= {"chat_template": "jinja", "chat_template_jinja": own}
    return made


def _lost_rows(winner: Winner) -> Iterator[str]:
    rows = winner.rows
    if winner.task == "causal-lm":
        yield "the trial put BOS before each document; axolotl leaves that to the tokenizer"
        return
    if rows.format in ("alpaca", "prompt-completion"):
        yield (
            f"axolotl renders rows of {rows.format} without the chat template: write them as messages, with type: chat_template "
            "and roles_to_train: [assistant]"
        )
    elif rows.spec["learn"] == "last":
        yield "the trial learnt the last answer alone; axolotl learns every answer of a conversation"
    elif rows.spec["learn"] == "all":
        yield "axolotl learns the texts of all turns, and the trial also the words of the chat template between them"
    if "system" in rows.columns and rows.format in ("messages", "sharegpt"):
        yield f"axolotl does not read the system prompts of the column {rows.columns['system']!r}: make them the first message"


def _lost_training(winner: Winner) -> Iterator[str]:
    config = winner.config
    if config.label_smoothing_factor:
        yield f"label_smoothing_factor was {config.label_smoothing_factor:g}; axolotl has no such key"
    if config.mixed_precision != "no" and base_dtype(config) == "float32":
        yield "axolotl loads the weights in half precision; the trial kept them in float32 (for LoRA: the base weights too)"
    if winner.batches.gpus > 1:
        yield "axolotl averages the loss of each GPU over its own tokens; the trial averaged over those of the whole batch"
    if winner.warmup_steps == 1:
        yield "axolotl makes a warm-up of 1 step one of 2"
    if not config.adam_beta1 or not config.adam_beta2 or not config.adam_epsilon:
        yield "axolotl takes its default for an adam_beta1, adam_beta2 or adam_epsilon of 0"
