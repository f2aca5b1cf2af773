"""What a sweep may learn from earlier ones: the trials of their records that lie in its space (`search.warm_start`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from scalesweep.errors import Problem, SpecError, UserError
from scalesweep.spec.checks import allowed_gpus
from scalesweep.spec.sweep import SweepSpec


class Earlier(Protocol):
    """What has to be known of an earlier sweep. It is a `Record`, which this room knows nothing of."""

    manifest: dict[str, Any]

    def by_number(self) -> list[Any]: ...


def earlier_trials(
    spec: SweepSpec, goal: str, base: Path, read: Callable[[Path | str], Earlier]
) -> tuple[list[tuple[str, Any]], str]:
    """The trials to start from, each with a name that is its own, and a sentence that counts them; nothing, and no words, without any.

    Args:
        goal: of the sweep's metric.
        base: folder that relative paths start from; the working directory is looked at next, as for data.
        read: a run folder's record.

    Raises:
        SpecError: a folder that can't be read, or whose trials can't be compared with this sweep's; or no trial fits.
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
        if problem := _incomparable(spec, goal, record.manifest, written, index):
            problems.append(problem)
            continue
        name = PurePosixPath(folder.partition("?")[0]).name
        prefixes[name] += 1
        prefix = name if prefixes[name] == 1 else f"{name} ({prefixes[name]})"
        for trial in record.by_number():
            reason = misfit(spec, trial.params) if trial.reports else "nothing was reported"
            if reason is None:
                used.append((f"{prefix}/{trial.name}", trial))
            else:
                left_out[reason] += 1
    total = len(used) + left_out.total()
    if folders and not used and not problems:
        message = f"none of the {total} trials can be used" if total else "there is no trial in it"
        hint = "name sweeps over this search space" + (f"; most often: {left_out.most_common(1)[0][0]}" if left_out else "")
        problems.append(spec.problem(("search", "warm_start"), message, hint))
    if problems:
        raise SpecError(problems)
    if not folders:
        return [], ""
    why = f"; left out most often because: {left_out.most_common(1)[0][0]}" if left_out else ""
    return used, f"warm start: {len(used)} of {total} trials of {', '.join(spec.search.warm_start)} are used{why}"


def _folder(written: str, base: Path) -> str:
    """Where it is: its absolute path, or a URL as it is written; one that is not there, where its neighbours are, for the error to list them."""
    if "://" in written:
        return written
    paths = [root / Path(written).expanduser() for root in (base, Path())]
    there = [path for path in paths if path.exists()] or [path for path in paths if path.parent.is_dir()]
    return str((there[0] if there else Path(written)).resolve())


def _incomparable(spec: SweepSpec, goal: str, manifest: Mapping[str, Any], written: str, index: int) -> Problem | None:
    """Why values of a record mean something else than this sweep's, if they do."""
    metric = manifest.get("metric", {})
    theirs, ours = f"{metric.get('goal')} {metric.get('name')}", f"{goal} {spec.metric.name}"
    if theirs != ours:
        message = f"{written} is to {theirs}, this sweep to {ours}"
        hint = f"leave it out, or set metric.name: {metric.get('name')}"
        if metric.get("name") == spec.metric.name:
            hint = "leave it out: what was good there is bad here"
        return spec.problem(("search", "warm_start", index), message, hint)
    counted, time_attr = manifest.get("time_attr"), spec.early_terminate.time_attr
    if counted != time_attr:
        hint = f"leave it out, or set early_terminate.time_attr: {counted}"
        return spec.problem(("search", "warm_start", index), f"{written} counts {counted}, this sweep {time_attr}", hint)
    return None


def misfit(spec: SweepSpec, params: Mapping[str, Any]) -> str | None:
    """Why these parameters could not be drawn from the sweep's space; None where they could."""
    known: dict[str, Any] = {}
    for name, parameter in spec.search_space.ordered():
        if not parameter.holds(known):
            if name in params:
                return f"{name} does not exist beside {', '.join(parameter.when)} as they are"
            continue
        if name not in params:
            return f"{name} is missing"
        value, choices = params[name], parameter.choices()
        if choices is not None:
            # true is no 1, though Python takes it for one
            fits = any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)
        else:
            kind = int if parameter.kind == "int_uniform" else (int, float)
            fits = isinstance(value, kind) and not isinstance(value, bool) and parameter.min <= value <= parameter.max  # type: ignore[operator]
        if not fits:
            return f"{name} is not in {parameter.describe()}"
        known[name] = value
        if name == "num_gpus":
            size = spec.size(known.get("model_size", spec.sizes()[0].name))
            if value not in allowed_gpus(spec, size):
                return f"{name} is below the {size.min_gpus} that {size.name} needs"
    unknown = sorted(params.keys() - known.keys())
    return f"{unknown[0]} is no parameter of this space" if unknown else None
