"""The table of tasks: what each one needs of the data and which metrics it has. `tasks/` has a file for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalesweep.spec.sweep import DataSpec


@dataclass(frozen=True)
class TaskRow:
    """One row of the table.

    `metrics` are names of `spec.metrics.METRICS`. `pipeline` is the name that transformers and the hub give to the exported
    model's use. `keys` are the keys of `data` that not every task has; some of them must be there.
    """

    help: str
    metrics: tuple[str, ...]
    pipeline: str
    keys: tuple[str, ...]
    required: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()  # metrics of generated answers, computed where the sweep's metric is one of them
    draws_head: bool = False  # whether the head is drawn anew, because a checkpoint's own may belong to another task
    own_metric: bool = True  # whether a function of the user's can compute a metric
    text_columns: int = 1  # at most
    rows: str = "rows"  # the word for them
    sample: str = '"…"'  # an input of the exported model's pipeline, in Python; `pipe` is the pipeline

    @property
    def label(self) -> bool:
        """Whether each row has a class."""
        return "label" in self.keys


TASKS: dict[str, TaskRow] = {  # each has a file of its name in tasks/, with _ for -
    "sequence-classification": TaskRow(
        "one label per row",
        ("eval_loss", "eval_accuracy", "eval_f1_macro", "eval_matthews"),
        pipeline="text-classification",
        keys=("text", "label", "labels"),
        required=("label",),
        draws_head=True,
        text_columns=2,
    ),
    "causal-lm": TaskRow(
        "the next token of a text",
        ("eval_loss", "eval_perplexity", "eval_bits_per_byte"),
        pipeline="text-generation",
        keys=("text",),
        own_metric=False,
        rows="documents",
    ),
    "instruction-tuning": TaskRow(
        "the assistant's answers in conversations",
        ("eval_loss", "eval_perplexity", "eval_token_accuracy", "eval_bits_per_byte"),
        pipeline="text-generation",
        keys=(
            "format", "messages", "conversations", "prompt", "completion", "instruction", "input", "output", "system",
            "chat_template", "learn", "truncate", "scorer", "max_new_tokens",
        ),
        generated=("eval_exact_match", "eval_score"),
        rows="conversations",
        sample='[{"role": "user", "content": "…"}]',
    ),
    "masked-lm": TaskRow(
        "hidden tokens of a text, to adapt an encoder to a domain",
        ("eval_loss", "eval_perplexity", "eval_token_accuracy"),
        pipeline="fill-mask",
        keys=("text",),
        own_metric=False,
        rows="documents",
        sample='f"… {pipe.tokenizer.mask_token} …"',
    ),
}  # fmt: skip


def misfits(task: str, data: DataSpec) -> Iterator[tuple[str, str, str]]:
    """The keys of `data` that the task lacks or has no use for, each with what is wrong and a hint."""
    row = TASKS[task]
    for key in row.required:
        if getattr(data, key) is None:
            yield key, "is missing", f"add it: {task} needs the {key} column's name"
    for key in dict.fromkeys(key for other in TASKS.values() for key in other.keys):
        if key not in row.keys and getattr(data, key) != type(data).model_fields[key].default:
            yield key, f"has no effect for {task}", "remove it"
    columns = 1 if isinstance(data.text, str) else len(data.text)
    if columns > 2 or not columns:
        yield "text", f"names {columns} columns", "name one column, or two for sentence pairs"
    elif columns > row.text_columns:
        yield "text", f"{task} takes one text column", "name one column"
