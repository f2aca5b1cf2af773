"""Files → checked specification. Every problem is found and shown at once, with file, line and key."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalesweep.errors import Problem, SpecError, UserError, did_you_mean, nearest
from scalesweep.spec.loading import Document, KeyPath, neighbours, parse_yaml, read_yaml
from scalesweep.spec.space import ALIASES, PARAMETERS, Parameter, ParameterInfo
from scalesweep.spec.sweep import SPLITS, DepthLadder, LadderSize, SweepSpec

_WANTED = {  # pydantic's words for a wrong type → ours
    "float_type": "a number",
    "int_type": "a whole number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "a list of at least one",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file and the search space it names.

    Args:
        path: the sweep file.
        overrides: `KEY=VALUE` strings, the key dotted (`budget.gpu_hours=40`), the value YAML.

    Raises:
        SpecError: naming file, line, key and remedy of everything that is wrong.
    """
    path = Path(path)
    document = read_yaml(path, "sweep file")
    if not isinstance(document.data, dict):
        hint = "see sweeps/quickstart.yaml for one that works"
        raise SpecError([Problem("a sweep file must be a mapping of keys", file=str(path), line=1, hint=hint)])
    for override in overrides:
        _override(document, override)
    space_document = None
    if isinstance(reference := document.data.get("search_space"), str):
        file, shown = path.parent / reference, os.path.normpath(path.parent / reference)
        if not file.exists():
            raise SpecError([document.problem(("search_space",), f"{shown} not found", neighbours(Path(shown)))])
        space_document = read_yaml(file, "search space", shown)
    return _build(document, space_document)


def sweep_from_dict(data: dict[str, Any]) -> SweepSpec:
    """The same from Python: `data` has the keys of a sweep file, with the space given in place (or by path)."""
    document = Document(file="", data=data)
    space_document = None
    if isinstance(reference := data.get("search_space"), str):
        space_document = read_yaml(Path(reference), "search space")
    return _build(document, space_document)


def _override(document: Document, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"--set {override}: this is not KEY=VALUE", hint="for example --set budget.gpu_hours=40")
    try:
        value = parse_yaml(text, f"--set {override}").data
    except SpecError as error:  # the line is always 1
        raise SpecError([replace(problem, line=None) for problem in error.problems]) from None
    target = document.data
    *parents, last = path = tuple(key.split("."))
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            hint = "--set reaches keys of mappings only; set the whole of it instead"
            if parents[0] == "search_space":
                hint = "edit that file, or name another one: --set search_space=FILE"
            raise UserError(f"--set {override}: {parent} is {_shown(target)}, not a mapping", hint=hint)
    target[last] = value
    document.overrides[path] = override


def _build(document: Document, space_document: Document | None) -> SweepSpec:
    data = dict(document.data)
    problems: list[Problem] = []
    if space_document is not None:
        data["search_space"] = space_document.data

    def located(path: KeyPath, message: str, hint: str = "") -> Problem:
        if space_document is not None and path[:1] == ("search_space",):
            return space_document.problem(path[1:], message, hint)
        return document.problem(path, message, hint)

    if space_document is not None and not isinstance(space_document.data, dict):
        what = f"must be a mapping of parameters, not {_shown(space_document.data)}"
        raise SpecError([located(("search_space", "parameters"), what, "the file begins with 'parameters:'")])
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as error:
        wrong = _by_path(error, data)
        problems = [_from_pydantic(path, items, located, space_document is not None) for path, items in wrong.items()]
        raise SpecError([*problems, *_beyond(problems, list(wrong), data, (document, space_document))]) from None
    spec._documents = (document, space_document)
    problems = check(spec)
    if problems:
        raise SpecError(problems)
    return spec


def _beyond(
    problems: list[Problem], wrong: list[KeyPath], data: dict[str, Any], documents: tuple[Document, Document | None]
) -> list[Problem]:
    """What `check` finds in the rest of a sweep some of whose keys are wrong, so that one run shows as much as it can.

    Looks where the sweep is whole without the keys at fault, and leaves out what may follow from these alone.
    """
    rest = copy.deepcopy(data)
    for path in wrong:
        target: Any = rest
        for part in path[:-1]:
            target = target.get(part) if isinstance(target, dict) else None
        if not isinstance(target, dict) or path[-1] not in target:
            return []
        del target[path[-1]]
    try:
        spec = SweepSpec.model_validate(rest)
    except ValidationError:
        return []
    spec._documents = documents
    keys = [problem.key for problem in problems]
    names = {key.rpartition(".")[2] for key in keys}
    return [p for p in check(spec) if p.key.rpartition(".")[2] not in names and not any(k.startswith(p.key) for k in keys)]


def _by_path(error: ValidationError, data: dict[str, Any]) -> dict[KeyPath, list[Any]]:
    """What pydantic found, by key. A union complains once per branch: branches that the user did not mean are dropped."""
    ladder_is_list = isinstance(data.get("ladder"), list)
    found: dict[KeyPath, list[Any]] = {}
    for item in error.errors(include_url=False, include_context=True):
        path = item["loc"]
        if path[0] == "ladder" and len(path) > 1 and path[1] in ("DepthLadder", "list[LadderSize]"):
            if (path[1] == "DepthLadder") == ladder_is_list:
                continue
            path = (path[0], *path[2:])
        path = tuple(part for part in path if not (isinstance(part, str) and _is_branch(part)))
        found.setdefault(path, []).append(item)
    return {
        path: items for path, items in found.items() if not any(len(p) > len(path) and p[: len(path)] == path for p in found)
    }


def _is_branch(part: str) -> bool:
    """Whether pydantic put `part` into a path to name a branch of a union (`int`, `list[str]`), not a key."""
    return part in {"int", "float", "str", "bool"} or "[" in part


def _from_pydantic(path: KeyPath, items: list[Any], located: Any, space_in_file: bool) -> Problem:
    item = items[0]
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    said = _help(path)
    about = f": {said}" if said else ""
    if kind == "extra_forbidden":
        message = "unknown key"
        known = _known_keys(path[:-1])
        hint = did_you_mean(str(path[-1]), known) if known else "leave it out"
    elif kind == "missing":
        message = "is missing"
        hint = f"add '{path[-1]}'{about or '; sweeps/quickstart.yaml shows one'}"
        if path == ("search_space", "parameters") and space_in_file:
            hint = "the file begins with 'parameters:', and the parameters stand indented below it"
        elif path[:1] == ("search_space",):
            hint = "name a file (search_space: ../search_spaces/NAME.yaml) or write 'parameters:' in place"
    elif kind == "literal_error":
        expected = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        begun = [word for word in expected if value and word.startswith(str(value))]  # log_uniform is log_uniform_values
        message, hint = f"{_shown(value)} is not allowed", did_you_mean(begun[0] if begun else str(value), expected)
    elif kind in _BOUNDS:
        bound = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
        message = f"{value} is not {_BOUNDS[kind]} {bound:g}"
        hint = f"give a value {_BOUNDS[kind]} {bound:g}{about}"
    elif kind == "string_pattern_mismatch":
        message = f"{value!r} must begin with a letter or digit and hold only letters, digits, '.', '_' and '-'"
        hint = "it names the run folder"
    elif kind == "value_error":
        message, _, hint = str(context.get("error", item["msg"])).partition("; ")
    elif value is None:
        message, hint = "has no value", f"write one behind the colon, or delete the key{about}"
    elif len(path) == 3 and path[:2] == ("search_space", "parameters"):
        message = f"must be a mapping, not {_shown(value)}"
        hint = f"write {path[2]}: {{{'values' if isinstance(value, list) else 'value'}: {_shown(value)}}}"
    else:
        types = {item["type"] for item in items}
        wanted = [
            words for kind, words in _WANTED.items() if kind in types and (kind != "int_type" or "float_type" not in types)
        ]
        message = f"must be {' or '.join(wanted)}, not {_shown(value)}" if wanted else item["msg"]
        hint = f"write {' or '.join(wanted)}{about}"
        if wanted == ["text"] and not isinstance(value, list | dict):
            hint = f"quote it: '{value}'"
        elif wanted == ["a mapping"]:
            hint = f"write its keys below it, indented: {', '.join(_known_keys(path)) or 'KEY: VALUE'}"
        elif isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d+)?", value):
            hint = f"write {value} without quotes{about}"
    return located(path, message, hint)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _help(path: KeyPath) -> str:
    """What the typed model says of the key at `path`, or of the one that holds it."""
    for depth in range(len(path), 0, -1):
        fields = getattr(_model_at(path[: depth - 1]), "model_fields", {})
        if (field := fields.get(path[depth - 1])) is not None:
            return field.description or ""
    return ""


def _known_keys(path: KeyPath) -> list[str]:
    """Keys that may stand at `path` of a sweep."""
    return list(getattr(_model_at(path), "model_fields", {}))


def _model_at(path: KeyPath) -> Any:
    """The typed model that reads the mapping at `path` of a sweep; None where there is none."""
    if path[:2] == ("search_space", "parameters"):
        return Parameter if len(path) == 3 else None
    if path[:1] == ("ladder",):
        return LadderSize if len(path) == 2 else DepthLadder if len(path) == 1 else None
    model: Any = SweepSpec
    for part in path:
        field = getattr(model, "model_fields", {}).get(str(part))
        model = field.annotation if field else None
    return model


def check(spec: SweepSpec) -> list[Problem]:
    """Problems across fields that types alone can't tell; needs no library and no data."""
    return [*_check_space(spec), *_check_sweep(spec)]


# ---- the space --------------------------------------------------------------------------------------------------------


def _check_space(spec: SweepSpec) -> list[Problem]:
    problems: list[Problem] = []
    parameters = spec.search_space.parameters
    at: KeyPath = ("search_space", "parameters")
    if not parameters:
        problems.append(spec.problem(at, "the space is empty", "list at least one parameter, e.g. learning_rate"))
    for name, parameter in parameters.items():
        info = PARAMETERS.get(name)
        if info is None:
            hint = f"it is called {ALIASES[name]!r} here" if name in ALIASES else did_you_mean(name, PARAMETERS)
            problems.append(spec.problem((*at, name), "unknown parameter", hint))
            continue
        found = _check_shape(spec, (*at, name), parameter) or _check_values(spec, (*at, name), parameter, info)
        problems += found or _check_when(spec, (*at, name), parameter)
    if not problems:
        try:
            spec.search_space.ordered()
        except ValueError:
            cycle = [name for name in parameters if _reaches_itself(name, spec)]
            path = (*at, next(name for name in cycle if parameters[name].when), "when")
            circle = " → ".join([*cycle, cycle[0]])
            hint = "take the `when` off one of them"
            if "num_gpus" in cycle and "model_size" in cycle:
                hint += "; num_gpus is always drawn after model_size, whose min_gpus it has to reach"
            problems.append(spec.problem(path, f"`when` runs in a circle: {circle}", hint))
    return problems


def _reaches_itself(name: str, spec: SweepSpec) -> bool:
    seen: set[str] = set()
    frontier = spec.search_space.depends_on(name)
    while frontier - seen:
        other = (frontier - seen).pop()
        seen.add(other)
        frontier = frontier | spec.search_space.depends_on(other)
    return name in frontier


def _check_shape(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    """value, or values, or min and max; and a distribution that goes with it."""
    ways = [p.value is not None, p.values is not None, p.min is not None or p.max is not None]
    if sum(ways) != 1:
        what = "nothing says how it varies" if not any(ways) else "more than one of value, values, min/max is given"
        return [spec.problem(at, what, "give value: X, or values: [X, …], or min: and max:")]
    if p.values is not None:
        if not p.values:
            return [spec.problem((*at, "values"), "the list is empty", "list at least one value")]
        if len({(type(v), v) for v in p.values}) < len(p.values):
            return [spec.problem((*at, "values"), "a value stands twice", "list each value once")]
    if ways[2] and (p.min is None or p.max is None):
        absent = "min" if p.min is None else "max"
        return [spec.problem((*at, absent), "is missing", "a range needs both min and max")]
    wanted = "constant" if ways[0] else "categorical" if ways[1] else ("int_uniform", "uniform", "log_uniform_values")
    if p.distribution is not None and p.distribution not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        hint = f"leave it out, or use {wanted if isinstance(wanted, str) else ', '.join(wanted)}"
        return [spec.problem((*at, "distribution"), f"{p.distribution} does not go with the keys given", hint)]
    if p.min is not None and p.max is not None:
        for key, bound in (("min", p.min), ("max", p.max)):
            if not math.isfinite(bound):
                return [spec.problem((*at, key), f"{bound} is not finite", "give a number")]
            if p.kind == "int_uniform" and not isinstance(bound, int):
                return [spec.problem((*at, key), f"{bound} is not a whole number (int_uniform)", "use uniform for fractions")]
        if p.min > p.max:
            return [spec.problem((*at, "min"), f"{p.min} is above max ({p.max})", "swap them")]
        if p.kind == "log_uniform_values" and p.min <= 0:
            return [spec.problem((*at, "min"), f"{p.min} is not above 0 (log scale)", "start above 0, or use uniform")]
    return []


def _check_values(spec: SweepSpec, at: KeyPath, p: Parameter, info: ParameterInfo) -> list[Problem]:
    """Each value's type and range against the parameter table."""
    problems: list[Problem] = []
    given: list[tuple[KeyPath, Any]]
    if p.value is not None:
        given = [((*at, "value"), p.value)]
    elif p.values is not None:
        given = [((*at, "values", index), value) for index, value in enumerate(p.values)]
    else:
        given = [((*at, "min"), p.min), ((*at, "max"), p.max)]
        if info.kind == "word":
            return [spec.problem(at, "takes words, not a range", "use values: [ … ]")]
        if info.kind == "int" and p.kind != "int_uniform":
            key = next((key for key, bound in (("min", p.min), ("max", p.max)) if not isinstance(bound, int)), "distribution")
            return [spec.problem((*at, key), f"{at[-1]} takes whole numbers", "use whole min and max (int_uniform)")]
        if info.kind == "float" and p.kind == "int_uniform" and p.distribution is None:
            message = f"whole numbers alone would be drawn from {p.min} … {p.max}"
            hint = f"write {float(p.min or 0)} and {float(p.max or 0)}, or distribution: uniform"
            return [spec.problem((*at, "min"), message, hint)]
    words = _words(spec, at[-1], info)
    within = (f" from {info.low:g} to {info.high:g}" if info.low is not None else "") + f": {info.help}"
    for path, value in given:
        if info.kind == "word":
            if words is not None and value not in words:
                problems.append(spec.problem(path, f"{value!r} is not one of its values", did_you_mean(str(value), words)))
            elif not isinstance(value, str):
                problems.append(spec.problem(path, f"must be a word, not {value!r}", "quote it"))
        elif isinstance(value, bool) or not isinstance(value, int if info.kind == "int" else (int, float)):
            noun = "a whole number" if info.kind == "int" else "a number"
            problems.append(spec.problem(path, f"must be {noun}, not {value!r}", f"write {noun}{within}"))
        elif not math.isfinite(value):
            problems.append(spec.problem(path, f"{value} is not finite", f"write a number{within}"))
        elif (info.low is not None and value < info.low) or (info.high is not None and value > info.high):
            problems.append(spec.problem(path, f"{value} is outside {info.low:g} … {info.high:g}", f"write a number{within}"))
    return problems


def _words(spec: SweepSpec, name: str | int, info: ParameterInfo) -> list[str] | None:
    if name == "model_size":
        return list(dict.fromkeys(size.name for size in spec.sizes()))
    return list(info.choices) if info.choices else None


def _check_when(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    problems: list[Problem] = []
    parameters = spec.search_space.parameters
    for other, wanted in p.when.items():
        path = (*at, "when", other)
        if other not in parameters:
            problems.append(spec.problem(path, "is no parameter of this space", did_you_mean(other, parameters)))
            continue
        if wanted == []:
            hint = f"list the values of {other} for which {at[-1]} exists"
            problems.append(spec.problem(path, "the list is empty, so it would never exist", hint))
        target = parameters[other]
        choices = target.choices()
        for value in wanted if isinstance(wanted, list) else [wanted]:
            if choices is None and target.kind != "int_uniform":
                problems.append(spec.problem(path, "has a continuous range", "`when` needs a parameter with listed values"))
                break
            takes = value in choices if choices is not None else isinstance(value, int) and target.min <= value <= target.max  # type: ignore[operator]
            if not takes:
                listed = ", ".join(map(str, choices)) if choices is not None else f"{target.min} … {target.max}"
                near = nearest(str(value), map(str, choices or []))
                hint = (f"did you mean {near!r}? " if near else "") + f"it takes: {listed}"
                problems.append(spec.problem(path, f"{other} can't be {value!r}", hint))
    return problems


# ---- the sweep --------------------------------------------------------------------------------------------------------


def _check_sweep(spec: SweepSpec) -> list[Problem]:
    problems: list[Problem] = []
    say = lambda *path, message, hint="": problems.append(spec.problem(path, message, hint))  # noqa: E731

    early = spec.early_terminate
    if early.type == "asha":
        if early.grace_period is None:
            say("early_terminate", "grace_period", message="is missing", hint="asha needs the fidelity of its first rung")
        elif early.grace_period > early.max_t:
            message = f"{early.grace_period} is above max_t ({early.max_t})"
            say("early_terminate", "grace_period", message=message, hint="no trial would ever be judged; lower it")
    elif early.grace_period is not None:
        say("early_terminate", "grace_period", message="means nothing with type: none", hint="leave it out, or use type: asha")

    budget = spec.budget
    if not any((budget.run_cap, budget.time, budget.gpu_hours, budget.dollars)):
        say("budget", message="sets no limit", hint="give at least one of run_cap, time, gpu_hours, dollars")
    if budget.dollars and not spec.resources.dollars_per_gpu_hour:
        say("budget", "dollars", message="can't be counted without a price", hint="set resources.dollars_per_gpu_hour")

    data = spec.data
    for split in data.splits:
        if split not in SPLITS:
            say("data", "splits", split, message="unknown split", hint=did_you_mean(split, SPLITS))
    for split in SPLITS:
        part = data.splits.get(split)
        if part is None:
            say(
                "data",
                "splits",
                message=f"{split} is missing",
                hint="train learns, validation picks, test judges: all three are needed",
            )
        elif isinstance(part, bool) or (isinstance(part, int | float) and part <= 0):
            say("data", "splits", split, message=f"{part} is not above 0", hint="a count, a fraction, or a split's name")
        elif isinstance(part, float) and part > 1:
            say(
                "data", "splits", split, message=f"{part} is above 1", hint="a fraction is at most 1; a count is a whole number"
            )
    fractions = [part for part in data.splits.values() if isinstance(part, float)]
    if sum(fractions) > 1 + 1e-9:
        say("data", "splits", message=f"the fractions add up to {sum(fractions):g}", hint="they may add up to 1 at most")
    named = [part for part in data.splits.values() if isinstance(part, str)]
    if len(set(named)) < len(named):
        say("data", "splits", message="two splits name the same source split", hint="splits must be disjoint")
    if isinstance(data.text, list) and len(data.text) not in (1, 2):
        say("data", "text", message=f"{len(data.text)} columns", hint="one column, or two for sentence pairs")
    if spec.task == "sequence-classification" and data.label is None:
        say("data", "label", message="is missing", hint="sequence-classification needs the label column's name")
    if spec.task == "causal-lm":
        for key in ("label", "labels"):
            if getattr(data, key) is not None:
                say("data", key, message="means nothing for causal-lm", hint="leave it out")
        if isinstance(data.text, list) and len(data.text) == 2:
            say("data", "text", message="causal-lm takes one text column", hint="name one column")
    if data.labels is not None:
        if len(data.labels) < 2:
            say("data", "labels", message="one class only", hint="name at least two classes, or leave it out")
        elif len({str(label) for label in data.labels}) < len(data.labels):
            say("data", "labels", message="a class stands twice", hint="name each class once")

    sizes = spec.sizes()
    if not sizes:
        say("ladder", message="is empty", hint="list at least one size")
    names = [size.name for size in sizes]
    for index, name in enumerate(names):
        if name in names[:index]:
            path: KeyPath = ("ladder", index, "name") if isinstance(spec.ladder, list) else ("ladder", "layers", index)
            say(*path, message=f"size {name!r} stands twice", hint="give each size its own name")
    if len(sizes) > 1 and "model_size" not in spec.search_space.parameters:
        listed = ", ".join(names)
        hint = f"add model_size: {{values: [{listed}]}} to the space, or keep one size"
        say(
            "search_space", "parameters", message=f"the ladder has {len(sizes)} sizes but model_size is not searched", hint=hint
        )

    micro, batch = spec.training.micro_batch_size, spec.training.global_batch_size
    if micro is not None and micro > batch:
        say("training", "micro_batch_size", message=f"{micro} is above global_batch_size ({batch})", hint="lower it")
    problems += _check_gpus(spec, sizes)
    return problems


def gpu_choices(spec: SweepSpec) -> list[int]:
    """Every GPU count that the space may draw, ascending."""
    parameter = spec.search_space.parameters.get("num_gpus")
    if parameter is None:
        return [1]
    choices = parameter.choices()
    if choices is None:
        return list(range(int(parameter.min), int(parameter.max) + 1))  # type: ignore[arg-type]
    return sorted(int(choice) for choice in choices)


def allowed_gpus(spec: SweepSpec, size: LadderSize) -> list[int]:
    """The GPU counts that `size` may run on: those of the space that reach its `min_gpus`."""
    return [count for count in gpu_choices(spec) if count >= size.min_gpus]


def _check_gpus(spec: SweepSpec, sizes: Sequence[LadderSize]) -> list[Problem]:
    parameter = spec.search_space.parameters.get("num_gpus")
    at: KeyPath = ("search_space", "parameters", "num_gpus")
    if parameter is not None and (
        _check_shape(spec, at, parameter) or _check_values(spec, at, parameter, PARAMETERS["num_gpus"])
    ):
        return []  # already reported
    problems = []
    for index, size in enumerate(sizes):
        if not allowed_gpus(spec, size):
            path: KeyPath = ("ladder", index, "min_gpus") if isinstance(spec.ladder, list) else ("ladder", "min_gpus")
            choices = gpu_choices(spec)
            counts = ", ".join(map(str, choices)) if len(choices) <= 8 else f"{choices[0]} … {choices[-1]}"
            if parameter is None:
                message = f"size {size.name!r} needs at least {size.min_gpus} GPUs, and num_gpus is {counts} unless searched"
                hint = f"add num_gpus: {{values: [{size.min_gpus}]}} to the search space"
            else:
                message = f"size {size.name!r} needs at least {size.min_gpus} GPUs, and num_gpus takes only {counts}"
                hint = f"add {size.min_gpus} to num_gpus, or drop the size"
            problems.append(spec.problem(path, message, hint))
            if not isinstance(spec.ladder, list):
                break  # the same for every depth
    floor = min((size.min_gpus for size in sizes), default=1)
    for count in gpu_choices(spec) if not problems else []:
        if count < floor:
            listed = parameter.values if parameter is not None else None
            path = (*at, "values", listed.index(count)) if listed else at
            problems.append(spec.problem(path, f"{count} is below the min_gpus of every size", f"start at {floor}"))
    return problems
