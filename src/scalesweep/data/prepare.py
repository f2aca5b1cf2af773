"""Preparation of the data: clean texts in disjoint splits, with class numbers, a fingerprint and a summary."""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.data.earlier import Known, with_earlier
from scalesweep.data.files import NO_NUMBER
from scalesweep.data.problems import DataProblem
from scalesweep.data.sources import load_rows
from scalesweep.data.splits import dropped_words, normalise, split_rows
from scalesweep.errors import counted, did_you_mean
from scalesweep.spec.sweep import SPLITS, DataSpec, EarlierData
from scalesweep.spec.tasks import misfits
from scalesweep.tasks import BaseTask, task_of
from scalesweep.tasks.conversations import RowProblem

if TYPE_CHECKING:
    import datasets
    import pyarrow

LABEL, LABELS, TEXT = ("data", "label"), ("data", "labels"), ("data", "text")
MAX_CLASSES = 1000
# Words that programs write for a missing value, as `_plain` gives them.
WORDS_FOR_NOTHING = {"", "<na>", "nat", "nil", "none", *(word.casefold() for word in NO_NUMBER)}
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))  # soft hyphen, zero-width characters


@dataclass(frozen=True)
class PreparedText:
    """The data before tokenization, in memory.

    texts: per split, in the order train, validation, test.
    pairs: the second texts of sentence pairs, beside `texts`; None for single texts.
    labels: per split the class numbers, int64; empty arrays without classes.
    classes: names of the classes, by number; empty for a task without classes.
    fingerprint: SHA-256 of the texts, labels and classes of all splits, in order.
    summary: rows and classes per split and rows dropped per reason, as JSON values.
    notes: remarks for the user, one sentence each.
    groups: per split the group number of each row, int64; None without groups.
    group_names: the names of these groups as the data have them, None where a row has none.
    earlier_fingerprint: the fingerprint of `data.earlier`; None without.
    known: all that `data.earlier` hold, also what is in no split of them any more; None without.
    """

    texts: dict[str, list[str]]
    pairs: dict[str, list[str]] | None
    labels: dict[str, np.ndarray]
    classes: list[str]
    fingerprint: str
    summary: dict[str, Any]
    notes: list[str]
    groups: dict[str, np.ndarray] | None = None
    group_names: dict[str, list[str | None]] | None = None
    earlier_fingerprint: str | None = None
    known: Known | None = None


def prepare(spec: DataSpec, task: str, base: Path) -> PreparedText:
    """Read, clean and split the data of a sweep. Relative paths start from the folder `base`.

    Raises:
        DataProblem: the data don't provide what `spec` asks for; `key` names the part of the spec.
        OutsideError: the hub or the disk failed.
    """
    _check_task(spec, task)
    rule = task_of(task)
    earlier = None if spec.earlier is None else _prepare_earlier(spec.earlier, task, base)
    known = None if earlier is None else Known.of(earlier, rule)
    reading: list[str] = []  # notes
    loaded = load_rows(spec, base, reading, rule)
    cells = _cells(spec, rule, loaded)
    reading += _problem_notes(cells)
    usable = np.array([None not in row for row in zip(*cells.texts, strict=True)], dtype=bool)
    unusable = sum(map(len, cells.problems.values()))
    dropped = {"missing_text": int((~usable).sum()) - unusable, "unusable": unusable}
    labels, classes, notes = np.zeros(usable.size, dtype=np.int64), list[str](), list[str]()
    if spec.label is not None:
        labels, classes, notes = _number_classes(spec, cells, usable, dropped, earlier)
        usable &= labels >= 0

    rows_left = np.flatnonzero(usable)
    keys = [normalise(*(rule.words(texts[row] or "") for texts in cells.texts)) for row in rows_left]
    if known is not None:
        fresh = np.array([key not in known.texts for key in keys], dtype=bool)
        dropped["earlier"] = int((~fresh).sum())
        rows_left, keys = rows_left[fresh], [key for key, keep in zip(keys, fresh, strict=True) if keep]
        _check_new_classes(spec, labels[rows_left], classes, dropped["earlier"])
    groups, ungrouped, group_notes = _number_groups(spec, cells, rows_left)
    with _naming_the_unusable(cells):
        splits = split_rows(
            keys=keys,
            labels=labels[rows_left],
            groups=groups,
            sources=[cells.sources[row] for row in rows_left],
            wanted=spec.splits,
            seed=spec.split_seed,
            dropped=dropped,
            available=list(loaded),
            placed=None if known is None or spec.group is None else known.placed([cells.groups[row] for row in rows_left]),
        )
    chosen = {split: rows_left[rows] for split, rows in splits.rows.items()}
    first, *second = [{split: [texts[row] or "" for row in rows] for split, rows in chosen.items()} for texts in cells.texts]
    label_arrays = {split: labels[rows] if classes else labels[:0] for split, rows in chosen.items()}
    columns = [first, *second]
    marks = {split: _fingerprint(columns, {split: label_arrays[split]}, classes) for split in chosen}
    summary: dict[str, Any] = {
        "columns": _columns(spec, rule, loaded),
        "rows": {source: len(rows) for source, rows in loaded.items()},
        "splits": {split: {"rows": len(rows), "fingerprint": marks[split]} for split, rows in chosen.items()},
        "dropped": splits.dropped,
        "unused": splits.unused,
    }
    if spec.group is not None:
        summary["ungrouped"] = ungrouped
    notes += group_notes + _text_notes(cells, rows_left, rule)
    if classes:
        notes += _count_classes(summary, label_arrays, classes)
    made = PreparedText(
        texts=first,
        pairs=second[0] if second else None,
        labels=label_arrays,
        classes=classes,
        fingerprint=_fingerprint(columns, label_arrays, classes),
        summary=summary,
        notes=reading + [f"dropped {words}" for words in dropped_words(splits.dropped)] + notes + splits.notes,
        groups=None if groups is None else {split: groups[rows] for split, rows in splits.rows.items()},
        group_names=None if groups is None else {split: [cells.groups[row] for row in rows] for split, rows in chosen.items()},
    )
    if earlier is None or known is None or spec.earlier is None:
        return made
    return with_earlier(made, earlier, known, spec.earlier, summary)


def _prepare_earlier(spec: EarlierData, task: str, base: Path) -> PreparedText:
    """The data that the model has learnt before. Raises DataProblem, with the keys of `data.earlier`."""
    if "test" not in spec.splits:
        raise DataProblem(
            ("data", "earlier", "splits"), "the test split is missing", "add test: it judges what was learnt before"
        )
    try:
        return prepare(spec, task, base)
    except DataProblem as error:
        error.key = ("data", "earlier", *error.key[1:])
        raise


def _columns(spec: DataSpec, rule: BaseTask, loaded: Mapping[str, datasets.Dataset]) -> dict[str, str]:
    """The columns that the task reads, each with its key of `data`. A split may lack those that are optional.

    Raises:
        DataProblem: two splits have columns of different formats.
    """
    found = {name: rule.columns(spec, rows.column_names) for name, rows in loaded.items()}
    most = max(found, key=lambda name: len(found[name]))
    for name, columns in found.items():
        if not columns.items() <= found[most].items():
            one, other = (", ".join(found[split]) for split in (name, most))
            message = f"split {name!r} has the columns {one}, and {most!r} has {other}"
            raise DataProblem(("data", "path"), message, "bring all splits into one format")
    return found[most]


def _count_classes(summary: dict[str, Any], labels: dict[str, np.ndarray], classes: Sequence[str]) -> list[str]:
    """Add the rows of each class to the splits of `summary`. Return a note for each split that lacks a class."""
    notes = []
    for split, array in labels.items():
        per_class = dict(zip(classes, np.bincount(array, minlength=len(classes)).tolist(), strict=True))
        summary["splits"][split]["classes"] = per_class
        if missing := [name for name, count in per_class.items() if not count]:
            notes.append(f"split {split!r} has no rows of class {_listed(missing)}")
    return notes


def _word_notes(column: str, counts: Counter[str], what: str, known: Sequence[str | int] = ()) -> list[str]:
    """Notes on labels or groups that may be mistakes: words for nothing, and words that are nearly equal.

    `known`: words that the user has listed, so a word for nothing among them is meant.
    """
    notes = [
        f"{counted(counts[word], 'row')} with the word {word!r} as {what} in {column!r}; empty the cell if it stands for a missing value"
        for word in counts
        if _plain(word) in WORDS_FOR_NOTHING and word not in known
    ]
    alike: dict[str, list[str]] = {}
    for word in counts:
        alike.setdefault(_plain(word), []).append(word)
    pairs = [
        " and ".join(f"{_shown(word)} ({counts[word]:,})" for word in sorted(words))
        for words in alike.values()
        if len(words) > 1
    ]
    if pairs:
        listed = _listed(pairs, "; ")
        notes.append(f"{what} names that differ by case, blanks, Unicode form or invisible characters alone: {listed}")
    return notes


def _text_notes(cells: _Cells, rows: np.ndarray, rule: BaseTask) -> list[str]:
    """A note for each text column with texts that are a word for nothing. `rows`: the rows to look at."""
    notes = []
    longest = 2 * max(map(len, WORDS_FOR_NOTHING))  # with blanks around it; longer texts are not worth the time
    for column, texts in zip(cells.columns, cells.texts, strict=True):
        found: dict[int, str] = {}
        for row in rows.tolist():
            for part in rule.parts(texts[row] or ""):
                if len(part) <= longest and _plain(part) in WORDS_FOR_NOTHING:
                    found.setdefault(row, part)
        if found:
            row, text = next(iter(found.items()))
            notes.append(
                f"texts {f'in {column!r} ' if column else ''}that are a word for nothing are kept: {len(found):,}, such as {text!r} "
                f"({_place(cells, row)}); empty the cells if they stand for missing values"
            )
    return notes


def _problem_notes(cells: _Cells) -> list[str]:
    """A note for each kind of row that can't be used. Raises DataProblem if no row can."""
    found = {kind: (len(rows), *rows[0]) for kind, rows in cells.problems.items()}
    if cells.sources and sum(count for count, _, _ in found.values()) == len(cells.sources):
        _, row, problem = next(iter(found.values()))
        raise DataProblem(("data", "format"), f"no row can be used; {_place(cells, row)}: {problem.message}", problem.hint)
    return [
        f"{counted(count, 'row')} left out: {kind}, such as {_place(cells, row)}: {problem.message}"
        for kind, (count, row, problem) in found.items()
    ]


@contextlib.contextmanager
def _naming_the_unusable(cells: _Cells) -> Iterator[None]:
    """Add the kinds of rows that can't be used to the hint of a DataProblem, because the notes are not shown beside it."""
    try:
        yield
    except DataProblem as error:
        error.hint = "; ".join([error.hint, *_problem_notes(cells)])
        raise


def _place(cells: _Cells, row: int) -> str:
    """The words for a row: its number in its split of the source."""
    source = cells.sources[row]
    place = f"row {row - cells.sources.index(source) + 1:,}"
    return place + (f" of split {source!r}" if len(set(cells.sources)) > 1 else "")


def _plain(word: str) -> str:
    """The form by which names are compared: as texts are, and without invisible characters."""
    return normalise(word.translate(INVISIBLE))


def _shown(word: str) -> str:
    """A name in quotes. Escapes show a letter and its accent that are two characters, which look like one."""
    return repr(word) if unicodedata.is_normalized("NFC", word) else ascii(word)


def _listed(names: Sequence[str], between: str = ", ") -> str:
    return f"{between.join(names[:10])}{' …' if len(names) > 10 else ''}"


def _check_task(spec: DataSpec, task: str) -> None:
    for key, message, hint in misfits(task, spec):
        raise DataProblem(("data", key), f"data.{key} {message}", hint)
    for split in ("train", "validation"):
        if split not in spec.splits:
            raise DataProblem(
                ("data", "splits"),
                f"the {split} split is missing",
                f"add {split}: a count, a fraction or a split of the source",
            )


@dataclass
class _Cells:
    """The cells of all source splits, one after the other. None: missing."""

    columns: list[str]  # names of the text columns; empty for the text of a whole row
    texts: list[list[str | None]]  # per text column
    labels: list[str | None]
    groups: list[str | None]
    sources: list[str]  # split of each row
    declared: list[str]  # class names in order, if the data set declares them
    whole: bool  # the labels are whole numbers and sort as such
    problems: dict[str, list[tuple[int, RowProblem]]]  # rows that the task can't read, by kind


def _cells(spec: DataSpec, task: BaseTask, loaded: dict[str, datasets.Dataset]) -> _Cells:
    names = next(iter(loaded.values())).column_names
    several = task.row_reader(spec, names) is not None
    columns = [""] if several else [name for name, key in task.columns(spec, names).items() if key == "text"]
    cells = _Cells(columns, [[] for _ in columns], [], [], [], [], whole=True, problems={})
    declared: dict[str, None] = {}
    for source, rows in loaded.items():
        table = rows.with_format("arrow")[:]
        if (reader := task.row_reader(spec, rows.column_names)) is not None:
            cells.texts[0] += _read_rows(reader, table, len(cells.texts[0]), cells.problems)
        else:
            for column, texts in zip(columns, cells.texts, strict=True):
                texts += _text_cells(table, column)
        if spec.label is not None:
            labels, names, whole = _label_cells(rows, table, spec.label)
            cells.labels += labels
            declared |= dict.fromkeys(names)
            cells.whole &= whole
        if spec.group is not None:
            cells.groups += [None if is_missing(group) else _word(group) for group in table.column(spec.group).to_pylist()]
        cells.sources += [source] * len(rows)
    cells.declared = list(declared)
    return cells


def _read_rows(
    reader: Callable[[Mapping[str, Any]], str],
    table: pyarrow.Table,
    start: int,
    problems: dict[str, list[tuple[int, RowProblem]]],
) -> list[str | None]:
    """The text of each row, or None where it is added to `problems`. `start`: number of the first row."""
    texts: list[str | None] = []
    for number, row in enumerate(table.to_pylist(), start):
        try:
            texts.append(reader(row))
        except RowProblem as problem:
            texts.append(None)
            problems.setdefault(problem.kind, []).append((number, problem))
    return texts


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: none, NaN, or a text that is empty or blank. It holds for every column and format."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _word(value: Any) -> str:
    """A label or group as a word. Numbers that are equal give equal words, whatever their types."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (float, Decimal)) and value == value // 1:
        return str(int(value))
    return str(value)


def _is_text(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _text_cells(table: pyarrow.Table, column: str) -> list[str | None]:
    cells = table.column(column)
    if not _is_text(cells.type):
        texts = [field.name for field in table.schema if _is_text(field.type)]
        hint = f"text columns: {', '.join(texts)}" if texts else "name a text column"
        raise DataProblem(TEXT, f"column {column!r} holds {cells.type}, not text", hint)
    return [None if is_missing(cell) else cell for cell in cells.to_pylist()]


def _label_cells(rows: datasets.Dataset, table: pyarrow.Table, column: str) -> tuple[list[str | None], list[str], bool]:
    """The class of each row, all class names in order if the data set declares them, and whether they are whole numbers."""
    import datasets
    import pyarrow.types as types

    cells = table.column(column)
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        # Data sets on the hub mark hidden labels of a test split by -1.
        names = list(feature.names)
        return [None if cell is None or cell < 0 else names[cell] for cell in cells.to_pylist()], names, False
    number = types.is_integer(cells.type) or types.is_floating(cells.type) or types.is_decimal(cells.type)
    word = _is_text(cells.type) or types.is_boolean(cells.type) or types.is_temporal(cells.type)
    message = f"column {column!r} holds {cells.type}, but a class is a whole number or text"
    if not (number or word or types.is_null(cells.type)):
        several = types.is_nested(cells.type)
        hint = "give each row one class; several labels per row are not supported" if several else "write it as text"
        raise DataProblem(LABEL, message, hint)
    values = [None if is_missing(cell) else cell for cell in cells.to_pylist()]
    broken = next((value for value in values if number and value is not None and value != value // 1), None)
    if broken is not None:
        hint = "write classes as whole numbers or words; regression is not supported"
        raise DataProblem(LABEL, f"{message}: {broken}", hint)
    return [None if value is None else _word(value) for value in values], [], not word


def _number_classes(
    spec: DataSpec, cells: _Cells, usable: np.ndarray, dropped: dict[str, int], earlier: PreparedText | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """The class number of each row (-1: none), the classes and notes. Adds the rows that it leaves out to `dropped`."""
    values = [value if keep else None for value, keep in zip(cells.labels, usable, strict=True)]
    counts = Counter(value for value in values if value is not None)
    classes = (
        _choose_classes(spec, counts, cells.declared, cells.whole) if earlier is None else _classes_of(earlier, spec, counts)
    )
    number = {value: index for index, value in enumerate(classes)}
    labels = np.array([-1 if value is None else number.get(value, -1) for value in values], dtype=np.int64)
    others = Counter({value: count for value, count in counts.items() if value not in number})
    dropped["missing_label"] = int(usable.sum()) - counts.total()
    dropped["other_classes"] = others.total()
    notes = []
    if others:
        listed = _listed([f"{value} {count:,}" for value, count in others.most_common(11)])
        notes.append(f"rows of the other classes: {listed}")
    notes += _word_notes(str(spec.label), counts, "class", spec.labels or ())
    return labels, classes, notes


def _classes_of(earlier: PreparedText, spec: DataSpec, counts: Counter[str]) -> list[str]:
    """The classes of the earlier data, which the model has outputs for. `counts`: usable rows per class in the new data."""
    new = [value for value in counts if value not in earlier.classes]
    listed = ", ".join(f"{value!r} ({counts[value]:,})" for value in new[:10])
    if new and spec.labels is None:
        hint = f"the classes are {', '.join(earlier.classes)}; write them as data.labels to leave the others out, or run a new sweep"
        raise DataProblem(LABEL, f"the model has no output for these classes of the new data: {listed}", hint)
    if spec.labels is not None and (unknown := [str(name) for name in spec.labels if str(name) not in earlier.classes]):
        raise DataProblem(
            LABELS, f"{unknown[0]!r} is no class of the earlier data", f"its classes: {', '.join(earlier.classes)}"
        )
    return earlier.classes


def _check_new_classes(spec: DataSpec, labels: np.ndarray, classes: Sequence[str], known: int) -> None:
    """Refuse new rows that all have one class. `known`: rows left out, because the earlier data have them.

    A model that always answers with this class would be right on each of them, so their test split could not judge it.
    """
    if not classes or len(labels) < 2 or len(found := np.unique(labels)) > 1:
        return
    file = spec.path if isinstance(spec.path, str) else ", ".join(spec.path.values())
    which = f"all {len(labels):,} rows{' that the earlier data lack' if known else ''}"
    others = ", ".join(name for name in classes if name != classes[found[0]])
    hint = (
        f"add rows of other classes ({others}): a model that always answers {classes[found[0]]!r} would pass the new test split"
    )
    raise DataProblem(LABEL, f"{file}: {which} have the class {classes[found[0]]!r} in column {spec.label!r}", hint)


def _choose_classes(spec: DataSpec, counts: Counter[str], declared: Sequence[str], whole: bool) -> list[str]:
    """The classes in order of their numbers. `counts`: usable rows per class in the data."""
    listed = ", ".join(f"{value!r} ({count:,})" for value, count in counts.most_common(20))
    if spec.labels is not None:
        classes = [str(label) for label in spec.labels]
        if len(set(classes)) < len(classes):
            raise DataProblem(LABELS, "data.labels lists a class twice", "list each class once")
        for position, label in enumerate(classes):
            if label in counts:
                continue
            # YAML reads 001 and +1 without quotes as the number 1.
            twins = [value for value in counts if _same_number(value, label)]
            hint = f'a class is a word as the data have it: write "{twins[0]}" with quotes' if twins else ""
            alike = [value for value in counts if _plain(value) == _plain(label)]
            if not hint and alike:
                hint = f"did you mean {_shown(alike[0])}? data.labels has {_shown(label)}"
            elif not hint and len(counts) <= 20:
                hint = did_you_mean(label, list(counts))
            raise DataProblem(
                (*LABELS, position), f"no usable row has the class {label!r}; classes in the data: {listed}", hint
            )
    elif declared:
        classes = list(declared)
    else:
        if len(counts) > MAX_CLASSES:
            message = f"column {spec.label!r} has {len(counts):,} different values; a class column has at most {MAX_CLASSES:,}"
            raise DataProblem(LABEL, message, "name another column, or list the classes in data.labels")
        classes = sorted(counts, key=int if whole else str)
    if sum(value in counts for value in classes) < 2:
        key = LABEL if spec.labels is None else LABELS
        raise DataProblem(key, "fewer than two classes have rows", f"classes in the data: {listed or 'none'}")
    return classes


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _number_groups(spec: DataSpec, cells: _Cells, rows: np.ndarray) -> tuple[np.ndarray | None, int, list[str]]:
    """The group number of each of `rows`, the count of those without a group (each is a group of its own), and notes."""
    if spec.group is None:
        return None, 0, []
    groups = [cells.groups[row] for row in rows]
    number: dict[str, int] = {}
    ids = np.array([-1 if group is None else number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    alone = np.flatnonzero(ids < 0)
    ids[alone] = len(number) + np.arange(alone.size)
    notes = (
        [f"{counted(alone.size, 'row')} without a value in {spec.group!r}; each is a group of its own"] if alone.size else []
    )
    named = Counter(group for group in groups if group is not None)
    return ids, alone.size, notes + _word_notes(spec.group, named, "group")


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
