"""Reading a data source: a file, a saved data set, a file inside an installed package, or a hub data set."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from scalesweep.data.files import FORMATS, PATH, Columns, missing_column, named_columns, read_file, suffixes
from scalesweep.data.problems import DataProblem
from scalesweep.data.splits import resolve
from scalesweep.errors import OutsideError, nearest, shell
from scalesweep.spec.sweep import DataSpec
from scalesweep.tasks import BaseTask

if TYPE_CHECKING:
    import datasets


def load_rows(
    spec: DataSpec, base: Path, notes: list[str] | None = None, task: BaseTask | None = None
) -> dict[str, datasets.Dataset]:
    """The source splits that `spec.splits` needs, with only the columns that `task` reads.

    A single file becomes {'train': …}; the files of a mapping keep their names. A relative path starts from `base` if it
    exists there, otherwise from the working folder. A path that is neither a file nor a folder is a hub id. Local files are
    read into memory without a cache. Remarks for the user are added to `notes`.

    Raises:
        DataProblem: a file, folder, hub data set, split or column is missing, unreadable or of an unsupported type.
        OutsideError: the hub can't be reached, or the disk fails.
    """
    columns, load = named_columns(spec, task or BaseTask()), _load_files if spec.files else _load_one
    loaded = load(spec, base, columns, [] if notes is None else notes)
    if not any(rows.num_rows for rows in loaded.values()):
        raise DataProblem(PATH, f"{spec.shown} can't be read: it holds no rows", "check that it is the right file")
    needed = set(resolve(spec.splits, list(loaded)).values())
    return {name: _select(rows, columns, name) for name, rows in loaded.items() if name in needed}


def _load_one(spec: DataSpec, base: Path, columns: Columns, notes: list[str]) -> dict[str, datasets.Dataset]:
    import datasets

    path = _local_path(spec.shown, base)
    _check_keys(spec, [] if path is None else [path])
    try:
        if path is None:
            return _load_hub(spec)
        if path.is_dir():
            return _load_saved(path)
        return {"train": datasets.Dataset(read_file(path, spec, columns, notes))}
    except OSError as error:
        raise OutsideError(f"{spec.shown} can't be read: {error}") from error


def _load_files(spec: DataSpec, base: Path, columns: Columns, notes: list[str]) -> dict[str, datasets.Dataset]:
    """The file of each split. An error names the file's key."""
    import datasets

    loaded, paths = {}, dict[str, Path]()
    for name, written in spec.files.items():
        try:
            path = _local_path(written, base)
            if path is None or path.is_dir():
                what = "a folder" if path else "no file of this machine"
                raise DataProblem(
                    PATH, f"{written} is {what}", "a mapping names a file for each split; write any other source alone"
                )
            paths[name] = path
        except DataProblem as error:
            raise _at_file(error, name) from None
    _check_keys(spec, paths.values())
    for name, path in paths.items():
        try:
            loaded[name] = datasets.Dataset(read_file(path, spec, columns, notes))
        except DataProblem as error:
            raise _at_file(error, name) from None
        except OSError as error:
            raise OutsideError(f"{path} can't be read: {error}") from error
    return loaded


def _at_file(error: DataProblem, name: str) -> DataProblem:
    """The error, at the key of the file that it is about."""
    if error.key == PATH:
        error.key = (*PATH, name)
    return error


def _check_keys(spec: DataSpec, paths: Collection[Path]) -> None:
    """Refuse keys that have no effect: of a CSV dialect where no file is a .csv or .tsv, of the hub beside local `paths`."""
    tables = any(suffixes(path)[1] in (".csv", ".tsv") for path in paths)
    for key, what, found in (
        ("delimiter", ".csv or .tsv file", tables),
        ("quoting", ".csv or .tsv file", tables),
        ("name", "hub data set", not paths),
        ("revision", "hub data set", not paths),
    ):
        if getattr(spec, key) is not None and not found:
            raise DataProblem(("data", key), f"{spec.shown} is no {what}, so it has no {key}", "remove the key")


def _select(rows: datasets.Dataset, columns: Columns, split: str) -> datasets.Dataset:
    wanted = columns(rows.column_names)
    for column, key in wanted.items():
        if column not in rows.column_names:
            raise missing_column(column, key, rows.column_names, f"split {split!r}")
    return rows.select_columns(list(wanted))


def _local_path(path: str, base: Path) -> Path | None:
    """The file or folder that `path` names; None for a hub id."""
    if path.startswith("package:"):
        return _package_path(path)
    asked = Path(path).expanduser()
    for candidate in (base / asked, asked):
        if candidate.exists():
            return candidate
    # A hub id is NAME or OWNER/NAME; a name with a known file suffix was meant as a file.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path) and not suffixes(asked)[1]:
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


def _load_saved(path: Path) -> dict[str, datasets.Dataset]:
    import datasets

    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        files = sorted(entry.name for entry in path.iterdir() if suffixes(entry)[1])
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
        return dict(datasets.load_dataset(spec.shown, spec.name, revision=spec.revision))
    except FileNotFoundDatasetsError as error:
        if spec.revision is not None and "evision" in str(error):
            raise DataProblem(("data", "revision"), str(error), "see its branches and tags on the hub") from error
        hint = "no local file, local folder or hub data set has this name; a private data set needs `hf auth login`"
        raise DataProblem(PATH, f"{spec.shown} not found: {error}", hint) from error
    except ValueError as error:
        # The configuration is unknown or missing; the message lists the existing ones.
        raise DataProblem(("data", "name"), f"{spec.shown}: {error}", "set data.name to one of its configurations") from error
    except RuntimeError as error:
        # The data set is a script, and scalesweep runs no code from the hub.
        raise DataProblem(PATH, f"{spec.shown}: {error}", "use a data set stored as parquet, csv or jsonl") from error
    except Exception as error:
        raise OutsideError(
            f"hub data set {spec.shown} can't be loaded: {error}", "check the network, or use a local file"
        ) from error
