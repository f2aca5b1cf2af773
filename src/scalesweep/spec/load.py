"""Files → checked specification. Every problem is found and shown at once, with file, line and key."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalesweep.errors import Problem, SpecError, UserError, did_you_mean
from scalesweep.spec.checks import check
from scalesweep.spec.loading import Document, KeyPath, neighbours, parse_yaml, read_yaml
from scalesweep.spec.space import Parameter
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


def load_sweep(path: str | Path, overrides: Sequence[str] = (), foreign: bool = False) -> SweepSpec:
    """Read a sweep file and the search space it names.

    Args:
        path: the sweep file.
        overrides: `KEY=VALUE` strings, the key dotted (`budget.gpu_hours=40`), the value YAML.
        foreign: for `simulate` on a table, where nothing is trained. The space may hold parameters that training does not
            know (columns of the table, which may have any name and range), `model_size` any words (a number is taken as its
            text), and `task`, `data` and `ladder` may be left out: placeholders stand for them. All else is checked as ever.

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
    return _build(document, space_document, foreign)


def sweep_from_dict(data: dict[str, Any], foreign: bool = False) -> SweepSpec:
    """The same from Python: `data` has the keys of a sweep file, with the space given in place (or by path)."""
    document = Document(file="", data=data)
    space_document = None
    if isinstance(reference := data.get("search_space"), str):
        space_document = read_yaml(Path(reference), "search space")
    return _build(document, space_document, foreign)


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


def _placeholders(data: dict[str, Any]) -> dict[str, Any]:
    """What stands for the keys that a simulation does not need. The ladder is filled by `_typed`, which knows the space."""
    label = {} if data.get("task") == "causal-lm" else {"label": "label"}
    source = {"path": "none", "splits": dict.fromkeys(SPLITS, 1), **label}
    return {"task": "sequence-classification", "data": source, "ladder": []}


def _with_sizes_as_words(space: Any) -> Any:
    """A copy of a search space whose sizes are words: a table may list them as numbers, which YAML reads as such."""

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
    """The sweep, not checked across fields yet. Raises pydantic's ValidationError."""
    spec = SweepSpec.model_validate(data)
    if foreign:
        sizes, parameter = spec.sizes(), spec.search_space.parameters.get("model_size")
        words = [str(word) for word in (parameter.choices() or [])] if parameter is not None else []
        absent = [word for word in dict.fromkeys(words) if word not in {size.name for size in sizes}]
        if not sizes and not absent:
            absent = ["model"]
        if absent:  # a given ladder stays as it was written where it has every size
            spec = spec.model_copy(update={"ladder": [*sizes, *(LadderSize(name=word, model="none") for word in absent)]})
    spec._documents, spec._foreign = documents, foreign
    return spec


def _build(document: Document, space_document: Document | None, foreign: bool) -> SweepSpec:
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
        raise SpecError([located(("search_space", "parameters"), what, "the file begins with 'parameters:'")])
    if foreign and "search_space" in data:
        data["search_space"] = _with_sizes_as_words(data["search_space"])
    try:
        spec = _typed(data, (document, space_document), foreign)
    except ValidationError as error:
        wrong = _by_path(error, data)
        problems = [_from_pydantic(path, items, located, space_document is not None) for path, items in wrong.items()]
        raise SpecError([*problems, *_beyond(problems, list(wrong), data, (document, space_document), foreign)]) from None
    problems = check(spec)
    if problems:
        raise SpecError(problems)
    return spec


def _beyond(
    problems: list[Problem],
    wrong: list[KeyPath],
    data: dict[str, Any],
    documents: tuple[Document, Document | None],
    foreign: bool,
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
        spec = _typed(rest, documents, foreign)
    except ValidationError:
        return []
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
    return part in {"int", "float", "str", "bool", "constrained-float"} or "[" in part


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
        if types & {"float_type", "finite_number"}:
            types.discard("int_type")  # a number may be whole
        wanted = [words for kind, words in _WANTED.items() if kind in types]
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
    """The first sentence of the description of the key at `path`, or of the one that holds it."""
    for depth in range(len(path), 0, -1):
        fields = getattr(_model_at(path[: depth - 1]), "model_fields", {})
        if (field := fields.get(path[depth - 1])) is not None:
            return str(field.description or "").partition(". ")[0].removesuffix(".")
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
