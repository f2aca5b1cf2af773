"""Files of this machine that a sweep names, found from the sweep file's folder, for workers in other folders."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from scalesweep.errors import UserError
from scalesweep.spec import LadderSize, SweepSpec, functions
from scalesweep.spec.sweep import DataSpec


def absolute(size: LadderSize, base: Path | None = None) -> LadderSize:
    """Make the path of a local model folder absolute, because workers run in other directories.

    A relative path starts at `base` (the sweep file's folder) if it exists there, else at the working folder.
    """
    for path in (folder / Path(size.model).expanduser() for folder in (base or Path(), Path())):
        with contextlib.suppress(OSError):  # of a folder that this user may not see; it is refused by its name
            if path.is_dir():
                return size.model_copy(update={"model": str(path.resolve())})
            if not path.is_symlink():
                continue
        return size.model_copy(update={"model": str(path.absolute())})
    from scalesweep.models.ladder import is_lost

    with contextlib.suppress(OSError):
        if base is not None and is_lost(size.model, base):  # it is refused as a folder, with those that are there
            return size.model_copy(update={"model": str((base / size.model).absolute())})
    return size


def placed_data(spec: SweepSpec, base: Path) -> DataSpec:
    """Return the data of the spec for other folders and nodes: with absolute paths, and with the text of a chat template.

    Raises:
        DataProblem: the chat template is empty or its file can't be read, or the scorer can't be imported.
    """
    from scalesweep.data.problems import DataProblem

    data = spec.data
    changes: dict[str, Any] = _placed_sources(data, base)
    if data.chat_template is not None and not data.chat_template.strip():
        raise DataProblem(("data", "chat_template"), "is empty", "name a file with a template, or remove the key")
    if data.chat_template is not None and "{%" not in data.chat_template and "{{" not in data.chat_template:
        named = Path(data.chat_template).expanduser()
        file = next((folder / named for folder in (base, Path.cwd()) if (folder / named).exists()), base / named)
        try:
            changes["chat_template"] = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise DataProblem(
                ("data", "chat_template"), f"{file} can't be read: {reason}", "name a file with a template"
            ) from None
    if data.scorer is not None:
        changes["scorer"] = functions.placed(data.scorer, (base, Path.cwd()))
        try:
            functions.load(changes["scorer"])
        except UserError as error:
            raise DataProblem(("data", "scorer"), error.message, error.hint) from None
    return data.model_copy(update=changes)


def _placed_sources(data: DataSpec, base: Path) -> dict[str, Any]:
    """Return the keys of the data that name their source, with absolute paths."""
    path: Any = {name: _placed(path, base) for name, path in data.files.items()} or _placed(data.shown, base)
    earlier = data.earlier
    return {"path": path} | ({} if earlier is None else {"earlier": earlier.model_copy(update=_placed_sources(earlier, base))})


def _placed(written: str, base: Path) -> str:
    """Return the absolute path of a file or folder, or what is written where there is none."""
    found = next((path for folder in (base, Path.cwd()) if (path := folder / written).exists()), None)
    return written if found is None else str(found.resolve())
