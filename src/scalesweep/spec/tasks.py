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
    model's use.
    """

    help: str
    metrics: tuple[str, ...]
    pipeline: str
    label: bool = False  # whether each row has a class
    text_columns: int = 1  # at most


TASKS: dict[str, TaskRow] = {  # each has a file of its name in tasks/, with _ for -
    "sequence-classification": TaskRow(
        "one label per row",
        ("eval_loss", "eval_accuracy", "eval_f1_macro", "eval_matthews"),
        pipeline="text-classification",
        label=True,
        text_columns=2,
    ),
    "causal-lm": TaskRow(
        "the next token of a text",
        ("eval_loss", "eval_perplexity", "eval_bits_per_byte"),
        pipeline="text-generation",
    ),
}


def misfits(task: str, data: DataSpec) -> Iterator[tuple[str, str, str]]:
    """The keys of `data` that the task lacks or has no use for, each with what is wrong and a hint."""
    row = TASKS[task]
    if row.label and data.label is None:
        yield "label", "is missing", f"add it: {task} needs the label column's name"
    for key in () if row.label else ("label", "labels"):
        if getattr(data, key) is not None:
            yield key, f"has no effect for {task}", "remove it"
    if isinstance(data.text, list) and row.text_columns < len(data.text) == 2:
        yield "text", f"{task} takes one text column", "name one column"
