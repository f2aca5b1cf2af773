"""Preparation of the data: clean texts in disjoint splits, with class numbers, a fingerprint and a summary."""

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
    """The data before tokenization, in memory.

    texts: per split, in the order train, validation, test.
    pairs: the second texts of sentence pairs, beside `texts`; None for single texts.
    labels: per split the class numbers, int64; empty arrays for causal-lm.
    classes: names of the classes, by number; empty for causal-lm.
    fingerprint: SHA-256 of the texts, labels and classes of all splits, in order.
    summary: rows and classes per split and rows dropped per reason, as JSON values.
    notes: remarks for the user, one sentence each.
    """

    texts: dict[str, list[str]]
    pairs: dict[str, list[str]] | None
    labels: dict[str, np.ndarray]
    classes: list[str]
    fingerprint: str
    summary: dict[str, Any]
    notes: list[str]


def prepare(spec: DataSpec, task: str, base: Path) -> PreparedText:
    """Read, clean and split the data of a sweep. Relative paths start from the folder `base`.

    Raises:
        DataProblem: the data don't provide what `spec` asks for; `key` names the part of the spec.
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
        notes.append(f"rows of the other classes: {listed}{' …' if len(others) > 10 else ''}")
    if ungrouped:
        notes.append(f"{ungrouped:,} rows have no value in {spec.group!r}; each is a group of its own")
    for split, array in label_arrays.items():
        if classes:
            per_class = dict(zip(classes, np.bincount(array, minlength=len(classes)).tolist(), strict=True))
            summary["splits"][split]["classes"] = per_class
            if missing := [name for name, count in per_class.items() if not count]:
                notes.append(
                    f"split {split!r} has no rows of class {', '.join(missing[:10])}{' …' if len(missing) > 10 else ''}"
                )
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
        raise DataProblem(LABEL, "sequence-classification needs a label column", "set data.label to its name")
    if task == "causal-lm" and spec.label is not None:
        raise DataProblem(LABEL, "causal-lm uses no labels", "remove data.label and data.labels")
    if task == "causal-lm" and len(columns) != 1:
        raise DataProblem(TEXT, "causal-lm uses one text column", "join the columns into one before the sweep")
    for split in ("train", "validation"):
        if split not in spec.splits:
            raise DataProblem(
                ("data", "splits"),
                f"the {split} split is missing",
                f"add {split}: a count, a fraction or a split of the source",
            )


def _text_cells(table: pyarrow.Table, column: str) -> list[str | None]:
    import pyarrow.types as types

    cells = table.column(column)
    if not (types.is_string(cells.type) or types.is_large_string(cells.type) or types.is_string_view(cells.type)):
        texts = [field.name for field in table.schema if types.is_string(field.type) or types.is_large_string(field.type)]
        hint = f"text columns: {', '.join(texts)}" if texts else "name a text column"
        raise DataProblem(TEXT, f"column {column!r} holds {cells.type}, not text", hint)
    return cells.to_pylist()


def _label_cells(rows: datasets.Dataset, table: pyarrow.Table, column: str) -> tuple[list[str | int | None], list[str]]:
    """The class of each row (None: no label) and all class names in order, if the data set declares them."""
    import datasets
    import pyarrow.types as types

    cells = table.column(column)
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        # Data sets on the hub mark hidden labels of a test split by -1.
        return [None if cell is None or cell < 0 else feature.names[cell] for cell in cells.to_pylist()], list(feature.names)
    if types.is_boolean(cells.type):
        return [None if cell is None else str(cell).lower() for cell in cells.to_pylist()], []
    if types.is_integer(cells.type) or types.is_null(cells.type):
        return cells.to_pylist(), []
    if types.is_string(cells.type) or types.is_large_string(cells.type):
        return [cell if cell and not cell.isspace() else None for cell in cells.to_pylist()], []
    message = f"column {column!r} holds {cells.type}, but classes must be integers or text"
    if types.is_floating(cells.type):
        raise DataProblem(LABEL, message, "store classes as integers; regression is not supported")
    raise DataProblem(LABEL, message, "give each row one class; several labels per row are not supported")


def _choose_classes(spec: DataSpec, counts: Counter[str | int], declared: Sequence[str | int]) -> list[str | int]:
    """The classes in order of their numbers. `counts`: usable rows per class in the data."""
    listed = ", ".join(f"{value!r} ({count:,})" for value, count in counts.most_common(20))
    if spec.labels is not None:
        if len(set(spec.labels)) < len(spec.labels):
            raise DataProblem(LABELS, "data.labels lists a class twice", "list each class once")
        for position, label in enumerate(spec.labels):
            if label in counts:
                continue
            twin = next((value for value in counts if str(value) == str(label)), None)
            if twin is not None:
                hint = f"write {twin} without quotes" if isinstance(twin, int) else f'write "{twin}" with quotes'
                raise DataProblem(
                    (*LABELS, position), f"{label!r} has a different type from the classes in the data: {listed}", hint
                )
            hint = did_you_mean(str(label), [str(value) for value in counts]) if len(counts) <= 20 else ""
            raise DataProblem(
                (*LABELS, position), f"no usable row has the class {label!r}; classes in the data: {listed}", hint
            )
        classes = list(spec.labels)
    elif declared:
        classes = list(declared)
    else:
        if len(counts) > MAX_CLASSES:
            message = f"column {spec.label!r} has {len(counts):,} different values; a class column has at most {MAX_CLASSES:,}"
            raise DataProblem(LABEL, message, "name another column, or list the classes in data.labels")
        classes = sorted(counts, key=lambda value: (isinstance(value, str), value))
    if sum(value in counts for value in classes) < 2:
        key = LABEL if spec.labels is None else LABELS
        raise DataProblem(key, "fewer than two classes have rows", f"classes in the data: {listed or 'none'}")
    return classes


def _group_ids(groups: Sequence[Any]) -> tuple[np.ndarray, int]:
    """The group number of each row, and the count of rows without a group, each of which is a group of its own."""
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
