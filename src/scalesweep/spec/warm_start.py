"""Warm start (`search.warm_start`): the trials of earlier sweeps that lie in this sweep's search space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from scalesweep.errors import Problem, SpecError, UserError
from scalesweep.spec.checks import allowed_gpus
from scalesweep.spec.sweep import SweepSpec


class Earlier(Protocol):
    """The part of a `Record` that this module needs; it may not import the record itself."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    def configurations(self) -> list[Any]: ...


def earlier_trials(spec: SweepSpec, base: Path, read: Callable[[Path | str], Earlier]) -> tuple[list[tuple[str, Any]], str]:
    """Return the trials to start from, each with a unique name, and a sentence that counts them.

    Both are empty without `search.warm_start`.

    Args:
        base: folder that relative paths start from. A path that is not there starts from the working directory, as for data.
        read: a function that reads the record of a run folder.

    Raises:
        SpecError: if a folder can't be read, its trials can't be compared with this sweep's, or no trial fits the space.
    """
    problems: list[Problem] = []
    folders: dict[str, int] = {}
    prefixes: Counter[str] = Counter()
    used: list[tuple[str, Any]] = []
    left_out: Counter[str] = Counter()
    for index, written in enumerate(spec.search.warm_start):
        at, folder = ("search", "warm_start", index), _folder(written, base)
        if folder in folders:
            message = f"{written} is the same folder as warm_start[{folders[folder]}]"
            problems.append(spec.problem(at, message, "name each folder once"))
            continue
        folders[folder] = index
        try:
            record = read(folder)
        except UserError as error:
            problems.append(spec.problem(at, error.message, error.hint))
            continue
        if problem := _incomparable(spec, record.manifest, written, index):
            problems.append(problem)
            continue
        name = PurePosixPath(folder.partition("?")[0]).name
        prefixes[name] += 1
        prefix = name if prefixes[name] == 1 else f"{name} ({prefixes[name]})"
        for trial in record.configurations():
            reason = misfit(spec, trial.params) if trial.reports else "the trial reported nothing"
            if reason is None:
                used.append((f"{prefix}/{trial.name}", trial))
            else:
                left_out[reason] += 1
    total = len(used) + left_out.total()
    if folders and not used and not problems:
        message = f"none of the {total} trials can be used" if total else "the folders hold no trial"
        hint = "name sweeps over this search space" + (
            f"; most frequent reason: {left_out.most_common(1)[0][0]}" if left_out else ""
        )
        problems.append(spec.problem(("search", "warm_start"), message, hint))
    if problems:
        raise SpecError(problems)
    if not folders:
        return [], ""
    why = f"; most frequent reason for leaving one out: {left_out.most_common(1)[0][0]}" if left_out else ""
    return used, f"warm start: the search uses {len(used)} of {total} trials of {', '.join(spec.search.warm_start)}{why}"


def _folder(written: str, base: Path) -> str:
    """Return a URL unchanged and a path as absolute. For a missing folder, prefer a parent that exists: the error lists its contents."""
    if "://" in written:
        return written
    paths = [root / Path(written).expanduser() for root in (base, Path())]
    there = [path for path in paths if path.exists()] or [path for path in paths if path.parent.is_dir()]
    return str((there[0] if there else Path(written)).resolve())


def _incomparable(spec: SweepSpec, manifest: Mapping[str, Any], written: str, index: int) -> Problem | None:
    """Return the problem if a record's values can't be compared with this sweep's, else None."""
    metric = manifest.get("metric", {})
    theirs, ours = f"{metric.get('goal')} {metric.get('name')}", f"{spec.goal} {spec.metric.name}"
    if theirs != ours:
        message = f"{written} is a sweep to {theirs}, and this one is to {ours}"
        hint = f"remove it, or set metric.name: {metric.get('name')}"
        if metric.get("name") == spec.metric.name:
            hint = "remove it: its best trials would be the worst here"
        return spec.problem(("search", "warm_start", index), message, hint)
    counted, time_attr = manifest.get("time_attr"), spec.early_terminate.time_attr
    if counted != time_attr:
        hint = f"remove it, or set early_terminate.time_attr: {counted}"
        return spec.problem(
            ("search", "warm_start", index), f"{written} counts {counted}, and this sweep counts {time_attr}", hint
        )
    return None


def misfit(spec: SweepSpec, params: Mapping[str, Any]) -> str | None:
    """Return the reason why the sweep's space could not draw these parameters, or None if it could."""
    known: dict[str, Any] = {}
    for name, parameter in spec.search_space.ordered():
        if not parameter.holds(known):
            if name in params:
                return f"{name} does not apply with that {' and '.join(parameter.when)}"
            continue
        if name not in params:
            return f"{name} is missing"
        value = params[name]
        if not parameter.takes(value):
            return f"{name} is not in {parameter.describe()}"
        known[name] = value
        if name == "num_gpus":
            size = spec.size(known.get("model_size", spec.sizes()[0].name))
            if value not in allowed_gpus(spec, size):
                return f"{name} is below the min_gpus of {size.name} ({size.min_gpus})"
    unknown = sorted(params.keys() - known.keys())
    return f"{unknown[0]} is not a parameter of this space" if unknown else None
