"""Loads and checks a sweep. One error reports all problems, each with file, line and key."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalesweep.errors import Problem, SpecError, UserError, did_you_mean
from scalesweep.spec.checks import check
from scalesweep.spec.loading import Document, KeyPath, neighbours, parse_yaml, read_yaml
from scalesweep.spec.space import ALIASES, KEY_ALIASES, PARAMETERS, Parameter, alias_of
from scalesweep.spec.sweep import SPLITS, DepthLadder, LadderSize, SweepSpec
from scalesweep.spec.tasks import TASKS

Checks = Callable[[SweepSpec], list[Problem]]

_WANTED = {  # pydantic's error type → the type in words
    "float_type": "a number",
    "int_type": "a whole number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "a list with at least one entry",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    foreign: bool = False,
    also: Checks | None = None,
    against: Sequence[str] = (),
) -> SweepSpec:
    """Read a sweep file and the search space it names.

    Args:
        path: the sweep file.
        overrides: `KEY=VALUE` strings, the key dotted (`budget.gpu_hours=40`), the value YAML.
        foreign: for `simulate` on a table, which trains nothing. The space may hold parameters that training does not know
            (the table's columns, with any name and range). `model_size` may take any words; a number becomes text. `task`,
            `data` and `ladder` are optional; placeholders replace them. All other checks apply.
        also: further checks of the typed sweep, so that one error reports their problems too.
        against: further overrides, which errors name by the option `--against`.

    Raises:
        SpecError: with file, line, key and remedy of every problem.
    """
    path = Path(path)
    document = read_yaml(path, "sweep file")
    if not isinstance(document.data, dict):
        hint = "sweeps/quickstart.yaml is an example"
        raise SpecError([Problem("a sweep file must be a mapping of keys", file=str(path), line=1, hint=hint)])
    written = [*(("--set", override) for override in overrides), *(("--against", override) for override in against)]
    of_space = [one for one in written if one[1].startswith("search_space.")]
    for option, override in written:
        if (option, override) not in of_space:
            _override(document, override, option)
    space_document = None
    if isinstance(reference := document.data.get("search_space"), str):
        file, shown = path.parent / reference, os.path.normpath(path.parent / reference)
        if not file.exists():
            raise SpecError([document.problem(("search_space",), f"{shown} not found", neighbours(Path(shown)))])
        space_document = read_yaml(file, "search space", shown)
    inside = document if space_document is None else Document(space_document.file, {"search_space": space_document.data})
    for option, override in of_space:
        _override(inside, override, option)
    if space_document is not None:
        space_document.overrides |= {path[1:]: override for path, override in inside.overrides.items()}
    return _build(document, space_document, foreign, also)


def sweep_from_dict(data: dict[str, Any], foreign: bool = False, overrides: Sequence[str] = ()) -> SweepSpec:
    """Check a sweep given as a mapping with the keys of a sweep file. `search_space` is a mapping or a path.

    `overrides` change `data`. Raises SpecError, as `load_sweep`.
    """
    document = Document(file="", data=data)
    for override in overrides:
        _override(document, override)
    space_document = None
    if isinstance(reference := data.get("search_space"), str):
        space_document = read_yaml(Path(reference), "search space")
    return _build(document, space_document, foreign)


def _override(document: Document, override: str, option: str = "--set") -> None:
    written = f"{option} {override}"
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"{written}: this is not KEY=VALUE", hint=f"write for example {option} budget.gpu_hours=40")
    if not text.strip():  # perhaps a variable of the shell that is not set
        raise UserError(f"{written}: the value is missing", hint=f"write {option} {key}=null to remove the key")
    try:
        value = parse_yaml(text, written).data
    except SpecError as error:  # the line is always 1
        raise SpecError([replace(problem, line=None) for problem in error.problems]) from None
    target = document.data
    *parents, last = path = tuple(key.split("."))
    for depth, parent in enumerate(parents, start=1):
        if parent not in target:
            document.overrides[path[:depth]] = written  # the file has no line of it
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            hint = f"{option} changes keys of mappings only; set the whole value instead"
            raise UserError(f"{written}: {parent} is {_shown(target)}, not a mapping", hint=hint)
    if value is None and (last in target or last in _known_keys(tuple(parents))):
        target.pop(last, None)  # back to its default
    else:
        target[last] = value
    document.overrides[path] = written


def _placeholders(data: dict[str, Any]) -> dict[str, Any]:
    """Placeholders for the keys that a simulation does not need. `_typed` fills the ladder, because it knows the space."""
    task = data.get("task")
    label = {"label": "label"} if task not in TASKS or TASKS[task].label else {}
    source = {"path": "none", "splits": dict.fromkeys(SPLITS, 1), **label}
    return {"task": "sequence-classification", "data": source, "ladder": []}


def _with_sizes_as_words(space: Any) -> Any:
    """Copy a search space and turn its sizes into text. A table may name them by numbers, and YAML reads those as numbers."""

    def word(value: Any) -> Any:
        if isinstance(value, list):
            return [word(item) for item in value]
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    space = copy.deepcopy(space)
    parameters = space.get("parameters") if isinstance(space, dict) else None
    for name, parameter in parameters.items() if isinstance(parameters, dict) else ():
        if not isinstance(parameter, dict):
            continue
        if name == "model_size":
            parameter |= {key: word(parameter[key]) for key in ("value", "values", "prior") if key in parameter}
        if isinstance(when := parameter.get("when"), dict) and "model_size" in when:
            when["model_size"] = word(when["model_size"])
    return space


def _typed(data: dict[str, Any], documents: tuple[Document, Document | None], foreign: bool) -> SweepSpec:
    """Build the sweep without the checks across fields. Raises pydantic's ValidationError."""
    spec = SweepSpec.model_validate(data)
    if foreign:
        sizes, parameter = spec.sizes(), spec.search_space.parameters.get("model_size")
        words = [str(word) for word in (parameter.choices() or [])] if parameter is not None else []
        absent = [word for word in dict.fromkeys(words) if word not in {size.name for size in sizes}]
        if not sizes and not absent:
            absent = ["model"]
        if absent:  # a ladder that has every size stays as the user wrote it
            spec = spec.model_copy(update={"ladder": [*sizes, *(LadderSize(name=word, model="none") for word in absent)]})
    spec._documents, spec._foreign = documents, foreign
    return spec


def _build(document: Document, space_document: Document | None, foreign: bool, also: Checks | None = None) -> SweepSpec:
    data = {**_placeholders(document.data), **document.data} if foreign else dict(document.data)
    problems: list[Problem] = []
    if space_document is not None:
        data["search_space"] = space_document.data

    def located(path: KeyPath, message: str, hint: str = "") -> Problem:
        if space_document is not None and path[:1] == ("search_space",):
            return space_document.problem(path[1:], message, hint)
        return document.problem(path, message, hint)

    if space_document is not None and not isinstance(space_document.data, dict):
        what = f"must be a mapping of parameters, not {_shown(space_document.data)}"
        raise SpecError([located(("search_space", "parameters"), what, "begin the file with 'parameters:'")])
    if foreign and "search_space" in data:
        data["search_space"] = _with_sizes_as_words(data["search_space"])
    try:
        spec = _typed(data, (document, space_document), foreign)
    except ValidationError as error:
        wrong = _by_path(error, data)
        problems = [_from_pydantic(path, items, located, space_document is not None) for path, items in wrong.items()]
        beyond = _beyond(problems, list(wrong), data, (document, space_document), foreign, also)
        raise SpecError([*problems, *beyond]) from None
    problems = _checked(spec, also)
    if problems:
        raise SpecError(problems)
    return spec


def _checked(spec: SweepSpec, also: Checks | None) -> list[Problem]:
    return [*check(spec), *(also(spec) if also else [])]


def _beyond(
    problems: list[Problem],
    wrong: list[KeyPath],
    data: dict[str, Any],
    documents: tuple[Document, Document | None],
    foreign: bool,
    also: Checks | None,
) -> list[Problem]:
    """Check the rest of a sweep in which some keys are wrong, so that one run reports as many problems as possible.

    Returns nothing if the sweep is incomplete without the wrong keys. Leaves out problems that these keys may cause.
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
        spec = _typed(rest, documents, foreign)
    except ValidationError:
        return []
    keys = [problem.key for problem in problems]
    names = {key.rpartition(".")[2] for key in keys}
    return [
        p for p in _checked(spec, also) if p.key.rpartition(".")[2] not in names and not any(k.startswith(p.key) for k in keys)
    ]


def _by_path(error: ValidationError, data: dict[str, Any]) -> dict[KeyPath, list[Any]]:
    """Group pydantic's errors by key. A union reports one error per branch; those of branches the user did not mean are dropped."""
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
    """Return whether `part` of a path is pydantic's name of a union's branch (`int`, `list[str]`) and not a key."""
    return part in {"int", "float", "str", "bool", "constrained-float"} or "[" in part


def _elsewhere(path: KeyPath) -> str:
    """The hint for a key that has its place elsewhere, or under another name; empty if there is none."""
    word = str(path[-1])
    if word in KEY_ALIASES:
        return f"scalesweep's key for it is {KEY_ALIASES[word]}"
    if word in ("fsdp", "deepspeed"):
        return "there is no counterpart: each worker holds the whole model"
    parameter = ALIASES.get(word, word)
    if len(path) == 1 or path[0] == "training":
        return f"it belongs to the search space, as {parameter}: {{value: …}}" if parameter in PARAMETERS else ""
    return ""


def _from_pydantic(path: KeyPath, items: list[Any], located: Any, space_in_file: bool) -> Problem:
    item = items[0]
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    said = _help(path)
    about = f": {said}" if said else ""
    if kind == "extra_forbidden":
        message = "unknown key"
        known = _known_keys(path[:-1])
        hint = _elsewhere(path) or (did_you_mean(str(path[-1]), known) if known else "leave it out")
    elif kind == "missing":
        message = "is missing"
        hint = f"add '{path[-1]}'{about or '; sweeps/quickstart.yaml is an example'}"
        if path == ("search_space", "parameters") and space_in_file:
            hint = "begin the file with 'parameters:' and indent the parameters below it"
        elif path[:1] == ("search_space",):
            hint = "name a file (search_space: ../search_spaces/NAME.yaml), or write 'parameters:' below search_space"
    elif kind == "literal_error":
        expected = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        begun = [word for word in expected if value and word.startswith(str(value))]  # log_uniform is log_uniform_values
        message, hint = f"{_shown(value)} is not allowed", did_you_mean(begun[0] if begun else str(value), expected)
        if (alias := alias_of(path[-1], value)) is not None:
            hint = f"scalesweep calls it {alias!r}; known: {', '.join(sorted(expected))}"
        if "dict_type" in {item["type"] for item in items}:
            hint += f", or a mapping{about}"
    elif kind in _BOUNDS:
        bound = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
        message = f"must be {_BOUNDS[kind]} {bound:g}, not {value}"
        hint = f"write a value that is {_BOUNDS[kind]} {bound:g}{about}"
    elif kind == "string_pattern_mismatch":
        message = f"{value!r} must begin with a letter or digit and contain only letters, digits, '.', '_' and '-'"
        hint = "choose a name that can be a folder's name: the run folder is runs/NAME"
    elif kind == "value_error":
        message, _, hint = str(context.get("error", item["msg"])).partition("; ")
    elif value is None:
        message, hint = "has no value", f"write a value after the colon, or delete the key{about}"
    elif len(path) == 3 and path[:2] == ("search_space", "parameters"):
        message = f"must be a mapping, not {_shown(value)}"
        hint = f"write {path[2]}: {{{'values' if isinstance(value, list) else 'value'}: {_shown(value)}}}"
    else:
        types = {item["type"] for item in items}
        if types & {"float_type", "finite_number"}:
            types.discard("int_type")  # "a number" includes whole ones
        wanted = [words for kind, words in _WANTED.items() if kind in types]
        wanted += [item["ctx"]["expected"] for item in items if item["type"] == "literal_error"]
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
    """Return the first sentence of the description of the key at `path`, or else of the key that contains it."""
    for depth in range(len(path), 0, -1):
        fields = getattr(_model_at(path[: depth - 1]), "model_fields", {})
        if (field := fields.get(path[depth - 1])) is not None:
            return str(field.description or "").partition(". ")[0].removesuffix(".")
    return ""


def _known_keys(path: KeyPath) -> list[str]:
    """Return the keys that the mapping at `path` of a sweep may have."""
    return list(getattr(_model_at(path), "model_fields", {}))


def _model_at(path: KeyPath) -> Any:
    """Return the typed model of the mapping at `path` of a sweep, or None."""
    if path[:2] == ("search_space", "parameters"):
        return Parameter if len(path) == 3 else None
    if path[:1] == ("ladder",):
        return LadderSize if len(path) == 2 else DepthLadder if len(path) == 1 else None
    model: Any = SweepSpec
    for part in path:
        field = getattr(model, "model_fields", {}).get(str(part))
        model = field.annotation if field else None
    return model
