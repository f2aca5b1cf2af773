"""From a data specification to clean texts in disjoint splits, with class numbers, a fingerprint and a summary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.data.problems import DataProblem
from scalesweep.data.sources import load_rows, text_columns
from scalesweep.data.splits import dropped_words, normalise, split_rows
from scalesweep.errors import did_you_mean
from scalesweep.spec.sweep import SPLITS, DataSpec

if TYPE_CHECKING:
    import datasets
    import pyarrow

LABEL, LABELS, TEXT = ("data", "label"), ("data", "labels"), ("data", "text")
MAX_CLASSES = 1000


@dataclass(frozen=True)
class PreparedText:
    """Everything about the data that precedes the tokenizer, in memory.

    texts: per split, in the order train, validation, test.
    pairs: the second texts of sentence pairs, beside `texts`; None for single texts.
    labels: per split the class numbers, int64; empty arrays for causal-lm.
    classes: names of the classes, by number; empty for causal-lm.
    fingerprint: SHA-256 over texts, labels and classes of all splits, in order.
    summary: rows and classes per split and rows dropped per reason, fit for JSON.
    notes: the same for people, a sentence each.
    """

    texts: dict[str, list[str]]
    pairs: dict[str, list[str]] | None
    labels: dict[str, np.ndarray]
    classes: list[str]
    fingerprint: str
    summary: dict[str, Any]
    notes: list[str]


def prepare(spec: DataSpec, task: str, base: Path) -> PreparedText:
    """Read, clean and split the data of a sweep. `base` is the folder that relative paths start from.

    Raises:
        DataProblem: the data don't hold what `spec` asks for; its `key` says which part of the spec.
        OutsideError: the hub or the disk failed.
    """
    columns = text_columns(spec)
    _check_task(spec, task, columns)
    loaded = load_rows(spec, base)

    texts: list[list[str | None]] = [[] for _ in columns]
    values: list[str | int | None] = []
    groups: list[Any] = []
    sources: list[str] = []
    declared: dict[str | int, None] = {}
    for source, rows in loaded.items():
        table = rows.with_format("arrow")[:]
        for column, cells in zip(columns, texts, strict=True):
            cells += _text_cells(table, column)
        if spec.label is not None:
            column_values, names = _label_cells(rows, table, spec.label)
            values += column_values
            declared |= dict.fromkeys(names)
        if spec.group is not None:
            groups += table.column(spec.group).to_pylist()
        sources += [source] * len(rows)

    usable = np.array([all(cell and not cell.isspace() for cell in row) for row in zip(*texts, strict=True)], dtype=bool)
    dropped = {"missing_text": int((~usable).sum())}
    classes: list[str] = []
    labels = np.zeros(len(sources), dtype=np.int64)
    others: Counter[str | int] = Counter()
    if spec.label is not None:
        labelled = np.array([value is not None for value in values], dtype=bool)
        dropped["missing_label"] = int((usable & ~labelled).sum())
        usable &= labelled
        counts = Counter(value for value, keep in zip(values, usable, strict=True) if keep and value is not None)
        kept = _choose_classes(spec, counts, list(declared))
        number = {value: index for index, value in enumerate(kept)}
        labels = np.array([-1 if value is None else number.get(value, -1) for value in values], dtype=np.int64)
        others = Counter({value: count for value, count in counts.items() if value not in number})
        dropped["other_classes"] = others.total()
        usable &= labels >= 0
        classes = [str(value) for value in kept]

    rows_left = np.flatnonzero(usable)
    group_ids, ungrouped = _group_ids([groups[row] for row in rows_left]) if spec.group is not None else (None, 0)
    splits = split_rows(
        keys=[normalise(*(cells[row] or "" for cells in texts)) for row in rows_left],
        labels=labels[rows_left],
        groups=group_ids,
        sources=[sources[row] for row in rows_left],
        wanted=spec.splits,
        seed=spec.split_seed,
        dropped=dropped,
        available=list(loaded),
    )
    chosen = {split: rows_left[rows] for split, rows in splits.rows.items()}
    first, *second = [{split: [cells[row] or "" for row in rows] for split, rows in chosen.items()} for cells in texts]
    label_arrays = {split: labels[rows] if classes else labels[:0] for split, rows in chosen.items()}

    summary: dict[str, Any] = {
        "rows": {source: len(rows) for source, rows in loaded.items()},
        "splits": {split: {"rows": len(rows)} for split, rows in chosen.items()},
        "dropped": splits.dropped,
        "unused": splits.unused,
    }
    notes = [f"dropped {words}" for words in dropped_words(splits.dropped)]
    if others:
        listed = ", ".join(f"{value} {count:,}" for value, count in others.most_common(10))
        notes.append(f"other classes: {listed}{' …' if len(others) > 10 else ''}")
    if ungrouped:
        notes.append(f"{ungrouped:,} rows without a value in {spec.group!r} count as a group of their own each")
    for split, array in label_arrays.items():
        if classes:
            per_class = dict(zip(classes, np.bincount(array, minlength=len(classes)).tolist(), strict=True))
            summary["splits"][split]["classes"] = per_class
            if missing := [name for name, count in per_class.items() if not count]:
                notes.append(f"{split} has no row of {', '.join(missing[:10])}{' …' if len(missing) > 10 else ''}")
    return PreparedText(
        texts=first,
        pairs=second[0] if second else None,
        labels=label_arrays,
        classes=classes,
        fingerprint=_fingerprint([first, *second], label_arrays, classes),
        summary=summary,
        notes=notes + splits.notes,
    )


def _check_task(spec: DataSpec, task: str, columns: Sequence[str]) -> None:
    if task == "sequence-classification" and spec.label is None:
        raise DataProblem(LABEL, "sequence-classification needs a label column", "name it as data.label")
    if task == "causal-lm" and spec.label is not None:
        raise DataProblem(LABEL, "causal-lm learns from text alone", "leave out data.label and data.labels")
    if task == "causal-lm" and len(columns) != 1:
        raise DataProblem(TEXT, "causal-lm takes one text column", "join the two columns into one beforehand")
    for split in ("train", "validation"):
        if split not in spec.splits:
            raise DataProblem(("data", "splits"), f"there is no {split} split", f"add {split}: a count, a fraction or a name")


def _text_cells(table: pyarrow.Table, column: str) -> list[str | None]:
    import pyarrow.types as types

    cells = table.column(column)
    if not (types.is_string(cells.type) or types.is_large_string(cells.type) or types.is_string_view(cells.type)):
        texts = [field.name for field in table.schema if types.is_string(field.type) or types.is_large_string(field.type)]
        hint = f"columns of text: {', '.join(texts)}" if texts else "name a column of text"
        raise DataProblem(TEXT, f"column {column!r} holds {cells.type}, not text", hint)
    return cells.to_pylist()


def _label_cells(rows: datasets.Dataset, table: pyarrow.Table, column: str) -> tuple[list[str | int | None], list[str]]:
    """The classes of all rows (None: no label) and, where the data set declares them, all names in order."""
    import datasets
    import pyarrow.types as types

    cells = table.column(column)
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        # Hub data sets mark the hidden labels of a test split by -1.
        return [None if cell is None or cell < 0 else feature.names[cell] for cell in cells.to_pylist()], list(feature.names)
    if types.is_boolean(cells.type):
        return [None if cell is None else str(cell).lower() for cell in cells.to_pylist()], []
    if types.is_integer(cells.type) or types.is_null(cells.type):
        return cells.to_pylist(), []
    if types.is_string(cells.type) or types.is_large_string(cells.type):
        return [cell if cell and not cell.isspace() else None for cell in cells.to_pylist()], []
    message = f"column {column!r} holds {cells.type}; classes are whole numbers or words"
    if types.is_floating(cells.type):
        raise DataProblem(LABEL, message, "regression is not offered; store classes as whole numbers")
    raise DataProblem(LABEL, message, "one class per row; several labels per row are not offered")


def _choose_classes(spec: DataSpec, counts: Counter[str | int], declared: Sequence[str | int]) -> list[str | int]:
    """Classes in order of their numbers. `counts`: rows per class that the data hold."""
    listed = ", ".join(f"{value!r} ({count:,})" for value, count in counts.most_common(20))
    if spec.labels is not None:
        if len(set(spec.labels)) < len(spec.labels):
            raise DataProblem(LABELS, "a class is listed twice", "list each class once")
        for position, label in enumerate(spec.labels):
            if label in counts:
                continue
            twin = next((value for value in counts if str(value) == str(label)), None)
            if twin is not None:
                hint = f"write {twin} without quotes" if isinstance(twin, int) else f'write "{twin}", in quotes'
                raise DataProblem((*LABELS, position), f"{label!r} is of another type than the classes: {listed}", hint)
            hint = did_you_mean(str(label), [str(value) for value in counts]) if len(counts) <= 20 else ""
            raise DataProblem((*LABELS, position), f"no usable row has the class {label!r}; the data hold {listed}", hint)
        classes = list(spec.labels)
    elif declared:
        classes = list(declared)
    else:
        if len(counts) > MAX_CLASSES:
            message = f"column {spec.label!r} has {len(counts):,} different values, so it is hardly a class column"
            raise DataProblem(LABEL, message, "name another column, or list the classes as data.labels")
        classes = sorted(counts, key=lambda value: (isinstance(value, str), value))
    if sum(value in counts for value in classes) < 2:
        key = LABEL if spec.labels is None else LABELS
        raise DataProblem(key, "fewer than two classes are left to tell apart", f"the data hold {listed or 'no labelled row'}")
    return classes


def _group_ids(groups: Sequence[Any]) -> tuple[np.ndarray, int]:
    """A number per group; a row without a group is one by itself. Also: how many such rows there are."""
    number: dict[str, int] = {}
    ids = np.array([-1 if group is None else number.setdefault(str(group), len(number)) for group in groups], dtype=np.int64)
    alone = np.flatnonzero(ids < 0)
    ids[alone] = len(number) + np.arange(alone.size)
    return ids, alone.size


def _fingerprint(columns: Sequence[dict[str, list[str]]], labels: dict[str, np.ndarray], classes: Sequence[str]) -> str:
    digest = hashlib.sha256()

    def add(content: bytes) -> None:
        # The length before each part keeps ['ab', 'c'] apart from ['a', 'bc'].
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)

    for name in classes:
        add(name.encode())
    for split in (name for name in SPLITS if name in labels):
        add(split.encode())
        for texts in columns:
            add(len(texts[split]).to_bytes(8, "little"))
            for text in texts[split]:
                add(text.encode())
        add(labels[split].astype("<i8").tobytes())
    return digest.hexdigest()
