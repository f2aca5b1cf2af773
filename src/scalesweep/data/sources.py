"""Reading a data source: a file, a saved data set, a file inside an installed package, or a hub data set."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from scalesweep.data.problems import DataProblem
from scalesweep.data.splits import resolve
from scalesweep.errors import OutsideError, did_you_mean, nearest, shell
from scalesweep.spec.sweep import DataSpec

if TYPE_CHECKING:
    import datasets
    import pyarrow

PATH = ("data", "path")
Open = Callable[[], BinaryIO]


def _open_zstd(path: Path) -> BinaryIO:
    # Python 3.11 has no zstandard module, but pyarrow brings the codec.
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


COMPRESSIONS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}


def _read_csv(stream: Open, columns: Sequence[str], texts: Sequence[str], delimiter: str) -> tuple[list[str], pyarrow.Table]:
    import pyarrow
    from pyarrow import csv as arrow_csv

    with stream() as raw:
        names = next(csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), delimiter=delimiter), [])
    known = [column for column in columns if column in names]
    with stream() as raw:
        # pyarrow rather than pandas, because it rejects a row with a stray comma instead of shifting the label. Only the
        # text columns get a type: '3.14' and 'NA' are texts, while classes may be integers.
        table = arrow_csv.read_csv(
            raw,
            read_options=arrow_csv.ReadOptions(block_size=64 << 20),  # a row may be this long
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=known or None, column_types={name: pyarrow.large_string() for name in texts}
            ),
        )
    return names, table


def _read_json(stream: Open, columns: Sequence[str], texts: Sequence[str]) -> tuple[list[str], pyarrow.Table]:  # noqa: ARG001
    """Read JSON lines or one array of objects, whichever the file holds."""
    import pyarrow

    with stream() as raw:
        text = raw.read().decode("utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected one object per line, or an array of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {}
    for column in columns:
        if column in names:
            try:
                arrays[column] = pyarrow.array([row.get(column) for row in rows])
            except pyarrow.ArrowException as error:
                raise ValueError(f"column {column!r} mixes types ({error})") from None
    return names, pyarrow.table(arrays)


def _read_parquet(stream: Open, columns: Sequence[str], texts: Sequence[str]) -> tuple[list[str], pyarrow.Table]:  # noqa: ARG001
    import pyarrow
    from pyarrow import parquet

    with stream() as raw:
        file = parquet.ParquetFile(pyarrow.BufferReader(raw.read()))
        names = file.schema_arrow.names
        return names, file.read(columns=[column for column in columns if column in names])


READERS: dict[str, Callable[[Open, Sequence[str], Sequence[str]], tuple[list[str], pyarrow.Table]]] = {
    ".csv": partial(_read_csv, delimiter=","),
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
FORMATS = f"{', '.join(READERS)}, each optionally compressed ({', '.join(COMPRESSIONS)})"


def text_columns(spec: DataSpec) -> list[str]:
    """The one or two text columns. Raises DataProblem on any other number."""
    columns = [spec.text] if isinstance(spec.text, str) else list(spec.text)
    if len(columns) not in (1, 2):
        raise DataProblem(
            ("data", "text"), f"data.text names {len(columns)} columns", "name one column, or two for sentence pairs"
        )
    return columns


def load_rows(spec: DataSpec, base: Path) -> dict[str, datasets.Dataset]:
    """The source splits that `spec.splits` needs, with only the columns that `spec` names.

    A single file becomes {'train': …}. A relative path starts from `base` if it exists there, otherwise from the working
    folder. A path that is neither a file nor a folder is a hub id. Local files are read into memory without a cache.

    Raises:
        DataProblem: a file, folder, hub data set, split or column is missing, unreadable or of an unsupported type.
        OutsideError: the hub can't be reached, or the disk fails.
    """
    wanted: dict[str, tuple[str, str]] = dict.fromkeys(text_columns(spec), ("data", "text"))
    wanted |= {column: ("data", key) for key, column in (("label", spec.label), ("group", spec.group)) if column is not None}
    path = _local_path(spec.path, base)
    try:
        if path is None:
            loaded = _load_hub(spec)
        elif path.is_dir():
            loaded = _load_saved(path)
        else:
            loaded = {"train": _load_file(path, wanted, text_columns(spec))}
    except OSError as error:
        raise OutsideError(f"{spec.path} can't be read: {error}") from error
    needed = set(resolve(spec.splits, list(loaded)).values())
    return {name: _select(rows, wanted, name) for name, rows in loaded.items() if name in needed}


def _select(rows: datasets.Dataset, wanted: dict[str, tuple[str, str]], split: str) -> datasets.Dataset:
    for column, key in wanted.items():
        if column not in rows.column_names:
            raise _missing_column(column, key, rows.column_names, f"split {split!r}")
    return rows.select_columns(list(wanted))


def _missing_column(column: str, key: tuple[str, str], names: Sequence[str], where: str) -> DataProblem:
    return DataProblem(key, f"{where} has no column {column!r}", did_you_mean(column, names))


def _local_path(path: str, base: Path) -> Path | None:
    """The file or folder that `path` names; None for a hub id."""
    if path.startswith("package:"):
        return _package_path(path)
    asked = Path(path).expanduser()
    for candidate in (base / asked, asked):
        if candidate.exists():
            return candidate
    # A hub id is NAME or OWNER/NAME; a name with a known file suffix was meant as a file.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path) and not _suffix(asked)[1]:
        return None
    if "://" in path:
        raise DataProblem(
            PATH, f"{path} is a URL, and data can't be read from one", f"download the file; supported formats: {FORMATS}"
        )
    raise _not_found(base / asked)


def _package_path(path: str) -> Path:
    package, _, inside = path.removeprefix("package:").partition("/")
    # find_spec does not import a top-level package: some packages carry data but need dependencies to be imported.
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not (folders := list(found.submodule_search_locations or [])):
        raise DataProblem(
            PATH,
            f"the package {package!r} is not installed",
            f"install it, for example with `{shell('pip', 'install', package.replace('_', '-'))}`",
        )
    target = Path(folders[0]) / inside
    if not inside or not target.exists():
        raise _not_found(target)
    return target


def _not_found(path: Path) -> DataProblem:
    folder = path.parent
    if not folder.is_dir():
        return DataProblem(PATH, f"{path} not found", f"the folder {folder} does not exist")
    near = nearest(path.name, [entry.name for entry in folder.iterdir()])
    return DataProblem(PATH, f"{path} not found", f"did you mean {folder / near}?" if near else f"{folder} has no such file")


def _suffix(path: Path) -> tuple[str, str]:
    """The known suffixes of a file: ('.bz2', '.csv') for reviews.csv.bz2; '' in place of an unknown one."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = (path.with_suffix("") if compression else path).suffix.lower()
    return compression, inner if inner in READERS else ""


def _load_file(path: Path, wanted: dict[str, tuple[str, str]], texts: Sequence[str]) -> datasets.Dataset:
    import datasets
    import pyarrow

    compression, kind = _suffix(path)
    if not kind:
        raise DataProblem(PATH, f"{path.name} has an unsupported format", f"supported formats: {FORMATS}")

    def stream() -> BinaryIO:
        return COMPRESSIONS[compression](path) if compression else path.open("rb")

    try:
        names, table = READERS[kind](stream, list(wanted), texts)
    except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, csv.Error, pyarrow.ArrowException) as error:
        # gzip, bz2 and zstd report damaged content as an OSError without errno; a failing disk sets errno.
        if isinstance(error, OSError) and error.errno:
            raise
        hint = f"check that it is {kind[1:]} in UTF-8{', compressed as ' + compression[1:] if compression else ''}"
        raise DataProblem(PATH, f"{path} can't be read: {error}", hint) from error
    for column, key in wanted.items():
        if column not in names:
            raise _missing_column(column, key, names, path.name)
    return datasets.Dataset(table.select(list(wanted)))


def _load_saved(path: Path) -> dict[str, datasets.Dataset]:
    import datasets

    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        files = sorted(entry.name for entry in path.iterdir() if _suffix(entry)[1])
        hint = (
            f"name one of its files: {', '.join(files)}"
            if files
            else "name a data file, or a folder that save_to_disk of `datasets` wrote"
        )
        raise DataProblem(PATH, f"{path} is a folder, but not a saved data set", hint)
    try:
        loaded = datasets.load_from_disk(str(path))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise DataProblem(PATH, f"the saved data set {path} is damaged: {error}", "save it again") from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def _load_hub(spec: DataSpec) -> dict[str, datasets.Dataset]:
    import datasets
    from datasets.exceptions import FileNotFoundDatasetsError

    try:
        return dict(datasets.load_dataset(spec.path, spec.name, revision=spec.revision))
    except FileNotFoundDatasetsError as error:
        if spec.revision is not None and "evision" in str(error):
            raise DataProblem(("data", "revision"), str(error), "see its branches and tags on the hub") from error
        hint = "no local file, local folder or hub data set has this name; a private data set needs `hf auth login`"
        raise DataProblem(PATH, f"{spec.path} not found: {error}", hint) from error
    except ValueError as error:
        # The configuration is unknown or missing; the message lists the existing ones.
        raise DataProblem(("data", "name"), f"{spec.path}: {error}", "set data.name to one of its configurations") from error
    except RuntimeError as error:
        # The data set is a script, and scalesweep runs no code from the hub.
        raise DataProblem(PATH, f"{spec.path}: {error}", "use a data set stored as parquet, csv or jsonl") from error
    except Exception as error:
        raise OutsideError(
            f"hub data set {spec.path} can't be loaded: {error}", "check the network, or use a local file"
        ) from error
