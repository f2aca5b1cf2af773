"""Reading a data file (CSV, TSV, JSON or Parquet) into a table. An error names the file and the line.

Nothing is guessed about names: labels and groups of a CSV are the words that the file holds, so 001 and 1 differ.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from scalesweep.data.problems import DataProblem
from scalesweep.errors import UserError, did_you_mean
from scalesweep.spec.sweep import DataSpec
from scalesweep.tasks import BaseTask
from scalesweep.tasks.conversations import ColumnProblem

if TYPE_CHECKING:
    import pyarrow

PATH = ("data", "path")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Words for a missing number; pyarrow and pandas read them so.
NO_NUMBER = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
NO_NUMBER |= {"N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
SEP = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=([^\w\"\r\n\x80-\xff])\"?[\r\n]", re.I)  # Excel's line for the delimiter
SURROGATE = re.compile("[\ud800-\udfff]")  # a Python text holds one only without its other half
OBJECTS = "write one JSON object a line, or an array of objects"
CUT_SHORT = "copy or download the file again: its end is missing"
BETWEEN = re.compile(r"[\s,]*")  # the values of a JSON array
BLANKS = re.compile(r"\s*")
PLAIN_WHOLE = re.compile(r"0|-?[1-9]\d{,17}", re.ASCII)  # as Python prints it, and within 64 bits

Columns = Callable[[Sequence[str]], dict[str, tuple[str, str]]]  # columns of the data → those that are read, the key of each
Hints = Callable[[str], str]  # a missing column → the remedy, or nothing


class BadLine(ValueError):
    """A fault on one line of a file, with its remedy."""

    def __init__(self, line: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.line, self.message, self.hint = line, message, hint


def named_columns(spec: DataSpec, task: BaseTask) -> Columns:
    """The columns that a task reads of those that there are. Raises DataProblem where they do not fit it."""

    def columns(names: Sequence[str]) -> dict[str, tuple[str, str]]:
        try:
            return {column: ("data", key) for column, key in task.columns(spec, names).items()}
        except UserError as error:
            key = error.key if isinstance(error, ColumnProblem) else "format"
            raise DataProblem(("data", key), error.message, error.hint) from error

    return columns


def text_columns(wanted: Mapping[str, tuple[str, str]]) -> list[str]:
    """The wanted columns that hold texts, or what a task makes texts of."""
    return [column for column, (_, key) in wanted.items() if key not in ("label", "group")]


def missing_column(column: str, key: tuple[str, str], names: Sequence[str], where: str, hint: str = "") -> DataProblem:
    """The error for a column that a source lacks."""
    return DataProblem(key, f"{where} has no column {column!r}", hint or did_you_mean(column, names))


def suffixes(path: Path) -> tuple[str, str]:
    """The known suffixes of a file: ('.bz2', '.csv') for reviews.csv.bz2; '' in place of an unknown one."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = (path.with_suffix("") if compression else path).suffix.lower()
    return compression, inner if inner in READERS else ""


@dataclass(frozen=True)
class _File:
    open: Callable[[], BinaryIO]  # decompressed
    name: str
    spec: DataSpec
    columns: Columns
    notes: list[str]

    def wanted(self, names: Sequence[str], hints: Hints | None = None) -> dict[str, tuple[str, str]]:
        """The columns to read, and the key that names each. Each must be among `names`, and once."""
        wanted = self.columns(names)
        for column, key in wanted.items():
            if column not in names:
                raise missing_column(column, key, names, self.name, hints(column) if hints else "")
            if list(names).count(column) > 1:
                raise DataProblem(key, f"{self.name} has several columns named {column!r}", "rename all but one")
        return wanted


def read_file(path: Path, spec: DataSpec, columns: Columns, notes: list[str]) -> pyarrow.Table:
    """The columns of a file that are wanted. Remarks for the user are added to `notes`.

    Raises DataProblem for every fault of the file.
    """
    import pyarrow

    compression, kind = suffixes(path)
    if not kind:
        raise DataProblem(PATH, f"{path.name} has an unsupported format", f"supported formats: {FORMATS}")

    def stream() -> BinaryIO:
        return COMPRESSIONS[compression](path) if compression else path.open("rb")

    try:
        _check_content(path, compression or kind)
        return READERS[kind](_File(stream, path.name, spec, columns, notes))
    except BadLine as error:
        raise DataProblem(PATH, f"{path}:{error.line}: {error.message}", error.hint) from error
    except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, pyarrow.ArrowException) as error:
        # gzip, bz2 and zstd report damaged content as an OSError without errno; a failing disk sets errno.
        if isinstance(error, OSError) and error.errno:
            raise
        hint = f"check that it is {kind[1:]} in UTF-8{', compressed as ' + compression[1:] if compression else ''}"
        if kind == ".parquet":
            hint = "check that the file is intact and its texts are UTF-8"
        if isinstance(error, EOFError) or str(error) == "Truncated compressed stream":  # pyarrow's words, of zstd
            hint = CUT_SHORT
        raise DataProblem(PATH, f"{path} can't be read: {error}", hint) from error


def _check_content(path: Path, suffix: str) -> None:
    """Refuse a file whose first bytes are those of another format than its last known suffix says."""
    with path.open("rb") as raw:
        start = raw.read(10)
    for mark, (found, words) in CONTENTS.items():
        if mark.match(start) and found != suffix:
            beside = found in COMPRESSIONS and suffix not in COMPRESSIONS
            hint = f"rename it to {path.name + found if beside else path.with_suffix(found).name}"
            if found == ".zip":
                hint = "unpack it, or save the sheet of the workbook as CSV"
            raise DataProblem(PATH, f"{path} holds {words}, though its name ends in {suffix}", hint)


# ---- CSV and TSV --------------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    line: int  # number of its first line
    cells: list[str]
    lines: list[str]  # as the file holds them


def _read_tsv(file: _File) -> pyarrow.Table:
    """Read without quoting, or with it where the file shows that it is quoted and the user has not decided."""
    try:
        table = _read_csv(file, "\t", "none")
        if file.spec.quoting is None and (
            count := _beginning_with_a_quote(table, text_columns(file.columns(table.column_names)))
        ):
            note = f"{file.name}: {count:,} texts begin with a quote mark, which is read as part of the text"
            file.notes.append(f"{note}; data.quoting: minimal reads it as quoting")
        return table
    except (BadLine, DataProblem) as error:
        if file.spec.quoting is not None:
            raise
        try:
            table = _read_csv(file, "\t", "minimal")
        except (BadLine, DataProblem):
            raise error from None
        where = f"line {error.line}" if isinstance(error, BadLine) else "its header"
        note = f"{file.name} is quoted ({where}), so quote marks around cells are no part of the texts"
        file.notes.append(f"{note}; data.quoting: minimal or none decides it")
        return table


def _beginning_with_a_quote(table: pyarrow.Table, columns: Sequence[str]) -> int:
    """The number of cells that begin with a quote mark."""
    return sum((cell or "").startswith('"') for column in columns for cell in table.column(column).to_pylist())


def _read_csv(file: _File, delimiter: str, quoting: str) -> pyarrow.Table:
    import pyarrow

    spec = file.spec
    with file.open() as raw:
        declared = SEP.match(raw.read(20)) if spec.delimiter is None else None
    delimiter = spec.delimiter or (declared[1].decode("ascii") if declared else delimiter)
    quoting = spec.quoting or quoting
    cells: dict[str, list[str]] = {}
    suspects: list[tuple[int, list[list[str]]]] = []
    known: set[str] = set()  # labels
    with file.open() as raw:
        records = _records(raw, delimiter, quoting)
        names = next(records, _Record(1, [], [])).cells
        if not names:
            raise ValueError("the file is empty")
        wanted = file.wanted(names, partial(_dialect_hint, names=names, delimiter=delimiter))
        places = {column: names.index(column) for column in wanted}
        cells = {column: [] for column in places}
        label = places[spec.label] if spec.label is not None else None
        for record in records:
            if len(record.cells) != len(names):
                raise _wrong_width(record, len(names), quoting)
            for column, place in places.items():
                cells[column].append(record.cells[place])
            if spec.quoting is None and quoting == "none":
                _refuse_quoting(record, places)
            elif spec.quoting is None and (rows := _swallowed_rows(record, delimiter, len(names))):
                suspects.append((record.line, rows))
            elif label is not None and len(record.lines) == 1:
                known.add(record.cells[label])
    _refuse_swallowed(suspects, label, known)
    if declared:
        file.notes.append(f"{file.name}: its first line (sep=) sets the delimiter {delimiter!r}")
    texts, columns = text_columns(wanted), {}
    for column in cells:
        listed = spec.labels if column == spec.label else None
        words = _words(cells[column], column in texts, {str(label) for label in listed or ()})
        as_classes = column == spec.label and spec.labels is None  # classes that the user lists are words in any case
        columns[column] = _class_column(words) if as_classes else pyarrow.array(words, pyarrow.large_string())
    return pyarrow.table(columns)


def _records(raw: BinaryIO, delimiter: str, quoting: str) -> Iterator[_Record]:
    """The rows of a CSV file, blank lines left out.

    Python's parser rather than pyarrow's: in its strict mode it refuses a quoted cell with something behind it, which is
    how a stray quote mark that has swallowed other rows ends.
    """
    held: list[str] = []  # lines since the last record

    def lines() -> Iterator[str]:
        number = 0
        for part in raw:
            for line in part.splitlines(keepends=True):  # also at a lone carriage return
                number += 1
                line = b"\n" if number == 1 and SEP.match(line) else line  # no row
                held.append(_decoded(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line, number))
                yield held[-1]

    csv.field_size_limit(sys.maxsize)  # a text may be longer than the 128 KiB that Python allows by default
    reader = csv.reader(
        lines(), delimiter=delimiter, quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL, strict=True
    )
    while True:
        held.clear()
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "if quote marks are part of the texts, set data.quoting: none; else double each quote mark inside a cell"
            raise BadLine(first, f"a quoted cell of the row that begins here does not end properly ({error})", hint) from None
        if cells:
            yield _Record(first, cells, list(held))


def _decoded(content: bytes, line: int) -> str:
    """`content`, which begins on `line`, as text."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        at = line + content.count(b"\n", 0, error.start)
        raise BadLine(at, f"the byte 0x{content[error.start]:02x} is not UTF-8", "save the file in UTF-8") from None


def _dialect_hint(column: str, names: Sequence[str], delimiter: str) -> str:
    """A hint for a missing column whose name shows that the file has another dialect."""
    if f'"{column}"' in names:
        return "the names in its header are quoted: set data.quoting: minimal"
    others = [mark for mark in (",", ";", "\t", "|") if mark != delimiter and mark in names[0]]
    if len(names) == 1 and others:
        written = '"\\t"' if others[0] == "\t" else f'"{others[0]}"'
        return f"its header is one cell, {names[0]!r}: set data.delimiter: {written}"
    return ""


def _wrong_width(record: _Record, width: int, quoting: str) -> BadLine:
    count, rows = len(record.cells), "the row that begins here has" if len(record.lines) > 1 else "the row has"
    message = f"{rows} {count} cell{'s' * (count > 1)}, but the header names {width} column{'s' * (width > 1)}"
    if quoting == "none":
        hint = "a cell can't hold a delimiter or a line break; if such cells are quoted, set data.quoting: minimal"
    else:
        hint = 'put a cell that holds a delimiter in quotes ("so, here"), or set data.delimiter to the file\'s'
    return BadLine(record.line, message, hint)


def _refuse_quoting(record: _Record, places: dict[str, int]) -> None:
    """Refuse a cell that only a writer with quoting has written: in quotes, and each quote mark inside it doubled."""
    for column, place in places.items():
        cell = record.cells[place]
        inside = cell[1:-1]
        if cell[:1] == cell[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', ""):
            message = f"the cell in {column!r} is quoted, but a tab-separated file is read without quoting"
            raise BadLine(record.line, message, "set data.quoting: minimal; or none, if quote marks are part of the texts")


def _swallowed_rows(record: _Record, delimiter: str, width: int) -> list[list[str]]:
    """The rows that the lines of a record would be, were it not for its quote marks; [] if one is no row."""
    rows = [line.rstrip("\r\n").split(delimiter) for line in record.lines]
    return rows if len(rows) > 1 and all(len(row) == width for row in rows) else []


def _refuse_swallowed(suspects: Sequence[tuple[int, list[list[str]]]], label: int | None, known: set[str]) -> None:
    """Refuse a record whose lines are rows of their own, each with a label (in column `label`) that other rows have.

    `suspects`: first line and rows of each. `known`: labels of the records of one line. Without a label column, four lines
    of the right width are evidence enough, because in a text each would hold the same number of delimiters by chance.
    """
    for line, rows in suspects:
        if len(rows) > 3 and len(rows[0]) > 1 if label is None else all(row[label] in known for row in rows):
            message = f"a quoted cell begins in this row and holds {len(rows) - 1} line breaks, and each line looks like a row"
            hint = "if quote marks are part of the texts, set data.quoting: none; if the cell is right, minimal"
            raise BadLine(line, message, hint)


def _words(words: Sequence[str], is_text: bool, listed: set[str]) -> list[str | None]:
    """The cells of a column as written; in a column of numbers None for a word that stands for no number.

    `listed`: the classes that the user names, which are meant as written.
    """
    absent = NO_NUMBER - listed if not is_text and _all_numbers(words) else set()
    return [None if word in absent else word for word in words]


def _all_numbers(words: Sequence[str | None]) -> bool:
    """Whether the words are numbers, at least one, where they are neither blank nor stand for no number."""
    given = {word for word in words if word and not word.isspace()} - NO_NUMBER
    return bool(given) and all(NUMBER.fullmatch(word) for word in given)


def _class_column(words: Sequence[str | None]) -> pyarrow.Array:
    """A label column of a CSV: numbers where that loses nothing or where they are no classes, else words."""
    import pyarrow

    if _all_numbers(words):
        given = [word if word and not word.isspace() else None for word in words]
        if all(word is None or PLAIN_WHOLE.fullmatch(word) for word in given):
            return pyarrow.array([None if word is None else int(word) for word in given], pyarrow.int64())
        if not all(word is None or float(word).is_integer() for word in given):
            return pyarrow.array([None if word is None else float(word) for word in given])
    return pyarrow.array(words, pyarrow.large_string())


# ---- JSON -----------------------------------------------------------------------------------------------------------------


def _read_json(file: _File) -> pyarrow.Table:
    """Read JSON lines or one array of objects, whichever the file holds."""
    import pyarrow

    with file.open() as raw:
        text = _decoded(raw.read().removeprefix(BYTE_ORDER_MARK), 1)
    is_array = text.lstrip().startswith("[")
    if not is_array:
        _refuse_one_object(text, file)
    rows, lines = _json_array(text) if is_array else _json_lines(text)
    if not rows:
        raise ValueError("the file holds no rows")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadLine(lines(number), f"expected an object, found {_kind(row)}", OBJECTS)
    wanted = file.wanted(list(dict.fromkeys(name for row in rows for name in row)))
    for column in wanted:
        _refuse_spellings(column, rows, lines)
    texts, made = text_columns(wanted), {}
    for column, (_, key) in wanted.items():
        values = [row.get(column) for row in rows]
        if column in texts and key != "text":  # cells of any kind, which the task reads
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        made[column] = _json_column(column, values, lines, column in texts)
    return pyarrow.table(made)


def _refuse_one_object(text: str, file: _File) -> None:
    """Refuse a file that is one object with the rows inside it, such as {"data": [rows]} or {"text": [cells]}."""
    begin = BLANKS.match(text).end()  # type: ignore[union-attr]  # it matches nothing, too
    try:
        value, end = json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return  # the reader of the rows reports it with its line
    if not isinstance(value, dict) or not BLANKS.fullmatch(text, end):
        return
    with contextlib.suppress(DataProblem):  # the columns fit no format of conversations
        if all(column in value and not isinstance(value[column], (list, dict)) for column in file.columns(list(value))):
            return  # one row
    message = f"{file.name} is one object with the keys {', '.join(map(repr, list(value)[:10]))}, not rows"
    inside = [key for key, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if not inside:
        raise DataProblem(PATH, message, OBJECTS)
    lists = " and ".join(f"{key!r} holds a list of {len(value[key]):,} objects" for key in inside)
    convert = f"json.dump(json.load(open({file.name!r}))[{inside[0]!r}], open('rows.json', 'w'))"
    raise DataProblem(PATH, f"{message}; {lists}", f"write the list alone to a file, in Python: {convert}")


def _refuse_spellings(column: str, rows: list[dict[str, Any]], lines: Callable[[int], int]) -> None:
    """Refuse a row that has its value of `column` under a name which differs by case or blanks alone."""
    having = [number for number, row in enumerate(rows) if row.get(column) is not None]
    if not having or len(having) == len(rows):
        return
    beside = {name for number in having for name, value in rows[number].items() if value is not None}  # columns of their own
    for number, row in enumerate(rows):
        for name in row.keys() - beside:
            if row[name] is not None and name.strip().casefold() == column.strip().casefold():
                message = f"the row has {name!r}, but the row on line {lines(having[0])} has {column!r}"
                raise BadLine(lines(number), message, "give the key one spelling")


def _json_lines(text: str) -> tuple[list[Any], Callable[[int], int]]:
    """The values of a file with one on each line, and the line of each value by its number."""
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_parsed(line, number))
            numbers.append(number)
    return rows, numbers.__getitem__


def _json_array(text: str) -> tuple[list[Any], Callable[[int], int]]:
    """The values of an array, and the line on which each begins by its number."""

    def line_of(number: int) -> int:
        decode, at, begin = json.JSONDecoder().raw_decode, text.index("[") + 1, 0
        for _ in range(number + 1):
            begin = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            at = decode(text, begin)[1]
        return text.count("\n", 0, begin) + 1

    return list(_parsed(text, 1)), line_of


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A key that it has twice would lose its first value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return made


def _parsed(text: str, line: int) -> Any:
    """`text`, which begins on `line`, as JSON."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadLine(line + error.lineno - 1, f"not JSON: {error.msg} (column {error.colno})", OBJECTS) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested too deep
        raise BadLine(line, f"not readable as JSON: {error}", OBJECTS) from None


def _json_column(column: str, values: list[Any], lines: Callable[[int], int], is_text: bool) -> pyarrow.Array:
    import pyarrow

    values = [None if isinstance(value, float) and value != value else value for value in values]
    kinds = {_kind(value): number for number, value in reversed(list(enumerate(values))) if value is not None}
    if len(kinds) > 1:
        # Of a text column, the cell that is no text is at fault; else the one whose kind occurs later.
        usual = "text" if is_text and "text" in kinds else min(kinds, key=kinds.__getitem__)
        kind, number = min(((kind, number) for kind, number in kinds.items() if kind != usual), key=lambda found: found[1])
        raise BadLine(
            lines(number),
            f"column {column!r} holds {kind}, but {usual} on line {lines(kinds[usual])}",
            "give a column one type",
        )
    try:
        return pyarrow.array(values)
    except UnicodeEncodeError:
        number = next(number for number, value in enumerate(values) if isinstance(value, str) and SURROGATE.search(value))
        hint = "write the character itself, or both halves of its \\uD8xx\\uDCxx pair"
        raise BadLine(lines(number), f"column {column!r} holds half a surrogate pair, which is no character", hint) from None
    except (OverflowError, pyarrow.ArrowException) as error:
        if "a number" in kinds:  # wider than 64 bits, or whole and broken numbers that no type holds exactly
            return pyarrow.array([None if value is None else str(value) for value in values])
        raise ValueError(f"column {column!r} mixes types ({error})") from None


def _kind(value: Any) -> str:
    """The type of a JSON value in words."""
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


# ---- Parquet --------------------------------------------------------------------------------------------------------------


def _read_parquet(file: _File) -> pyarrow.Table:
    import pyarrow
    from pyarrow import parquet

    with file.open() as raw:
        data = raw.read()
    if not data.startswith(b"PAR1"):
        raise DataProblem(
            PATH, f"{file.name} is no Parquet file: it does not begin with PAR1", "check that it is the right file"
        )
    if not data.endswith(b"PAR1"):
        raise DataProblem(PATH, f"{file.name} is cut short: a Parquet file ends with PAR1", CUT_SHORT)
    content = parquet.ParquetFile(pyarrow.BufferReader(data))
    table = content.read(columns=list(file.wanted(content.schema_arrow.names)))
    table.validate(full=True)  # finds bytes that are not UTF-8
    for number, field in enumerate(table.schema):
        if pyarrow.types.is_dictionary(field.type):  # a pandas category, which `datasets` does not take
            table = table.set_column(number, field.name, table.column(number).cast(field.type.value_type))
    return table


def _open_zstd(path: Path) -> BinaryIO:
    # Python 3.11 has no zstandard module, but pyarrow brings the codec.
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}
READERS: dict[str, Callable[[_File], pyarrow.Table]] = {
    ".csv": partial(_read_csv, delimiter=",", quoting="minimal"),
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
# The first bytes of a file → the suffix that belongs to it, and its content in words.
CONTENTS = {
    re.compile(rb"\x1f\x8b"): (".gz", "bytes compressed by gzip"),
    re.compile(rb"BZh[1-9]1AY&SY"): (".bz2", "bytes compressed by bzip2"),
    re.compile(rb"\xfd7zXZ\x00"): (".xz", "bytes compressed by xz"),
    re.compile(rb"\x28\xb5\x2f\xfd"): (".zst", "bytes compressed by Zstandard"),
    re.compile(rb"PK\x03\x04"): (".zip", "a ZIP archive or a workbook (xlsx, ods)"),
    re.compile(rb"PAR1\x15"): (".parquet", "a Parquet table"),
}
FORMATS = f"{', '.join(READERS)}, each optionally compressed ({', '.join(COMPRESSIONS)})"
