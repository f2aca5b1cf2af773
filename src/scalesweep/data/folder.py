"""A folder that data files are added to: which of them are complete, and a copy of their rows that does not grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scalesweep.data.files import FORMATS, PATH, named_columns, read_file, suffixes
from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.errors import OutsideError, counted
from scalesweep.spec.sweep import DataSpec
from scalesweep.tasks import task_of

Seen = Mapping[str, tuple[int, int]]  # file → its bytes and its time of change, in nanoseconds


def data_files(folder: Path) -> dict[str, tuple[int, int]]:
    """The data files of a folder, by name. Hidden files, and others whose names end in no known format, do not count.

    Raises:
        DataProblem: the folder does not exist.
        OutsideError: it can't be read.
    """
    if not folder.is_dir():
        raise DataProblem(PATH, f"{folder} is no folder", "name the folder that data files are added to")
    found = {}
    try:
        for path in sorted(folder.iterdir()):
            if not path.name.startswith((".", "_")) and suffixes(path)[1] and path.is_file():
                state = path.stat()
                found[path.name] = state.st_size, state.st_mtime_ns
    except FileNotFoundError:  # a file was renamed or removed meanwhile; the next look will tell
        return {}
    except OSError as error:
        raise OutsideError(f"{folder} can't be read: {error.strerror}") from None
    return found


def settled(now: Seen, before: Seen) -> dict[str, tuple[int, int]]:
    """The files that have not changed between two looks, so that nobody is writing them."""
    return {name: state for name, state in now.items() if before.get(name) == state and state[0]}


def copy_rows(folder: Path, names: Sequence[str], spec: DataSpec, task: str, to: Path) -> int:
    """Write the rows of some files of a folder to one Parquet file, and return how many there are.

    Raises:
        DataProblem: there is no file, or one can't be read, or lacks a column.
        OutsideError: the file can't be written.
    """
    import pyarrow
    from pyarrow import parquet

    if not names:
        raise DataProblem(PATH, f"{folder} holds no data file", f"supported formats: {FORMATS}")
    columns = named_columns(spec, task_of(task))
    tables = []
    for name in names:
        table = read_file(folder / name, spec, columns, [])
        tables.append(table.select([column for column in columns(table.column_names) if column in table.column_names]))
    try:
        whole = pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise DataProblem(
            PATH, f"the files of {folder} don't fit together: {error}", "give all of them the same columns"
        ) from None
    partial = to.with_name(f".{to.name}.unfinished")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(whole, partial)
        partial.replace(to)
    except OSError as error:
        raise OutsideError(f"{to} can't be written: {error.strerror}", "check the free space and the permissions") from None
    return int(whole.num_rows)


def new_rows(spec: DataSpec, task: str) -> tuple[int, int]:
    """The usable rows of `spec` that its earlier data lack, and the rows that those have.

    Raises:
        DataProblem: the data can't be read or split, as they can't with too few new rows.
    """
    summary = prepare(spec, task, Path.cwd()).summary
    rows = {split: int(one["rows"]) for split, one in summary["splits"].items()}
    earlier = sum(count for split, count in rows.items() if split.startswith("earlier_"))
    return sum(rows.values()) - earlier + int(summary["unused"]), earlier


def described(seen: Seen) -> str:
    """'3 files, 1.2 MB'."""
    return f"{counted(len(seen), 'file')}, {sum(size for size, _ in seen.values()) / 1e6:.1f} MB"
