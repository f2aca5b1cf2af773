"""Files → checked specification. Every problem is found and shown at once, with file, line and key."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalesweep.errors import Problem, SpecError, UserError, did_you_mean, nearest
from scalesweep.spec.loading import Document, KeyPath, parse_yaml, read_yaml
from scalesweep.spec.space import ALIASES, PARAMETERS, Parameter, ParameterInfo
from scalesweep.spec.sweep import SPLITS, DepthLadder, LadderSize, SweepSpec

_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must not be empty",
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
        space_document = read_yaml((path.parent / reference).resolve(), "search space")
        space_document.file = os.path.normpath(path.parent / reference)
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
    if not separator or not key:
        raise UserError(f"--set {override!r} is not KEY=VALUE", hint="for example --set budget.gpu_hours=40")
    value = parse_yaml(text, f"--set {key}").data
    target = document.data
    *parents, last = key.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override!r}: {parent!r} is not a mapping", hint="--set reaches keys of mappings only")
    target[last] = value


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
        problems.append(
            located(("search_space", "parameters"), "a search space must be a mapping", "it begins with 'parameters:'")
        )
        raise SpecError(problems)
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError([_from_pydantic(item, located) for item in _relevant(error, data)]) from None
    spec._documents = (document, space_document)
    problems = check(spec)
    if problems:
        raise SpecError(problems)
    return spec


def _relevant(error: ValidationError, data: dict[str, Any]) -> list[Any]:
    """Drop the complaints of union branches that the user did not mean."""
    ladder_is_list = isinstance(data.get("ladder"), list)
    kept: list[Any] = []
    seen: set[tuple[KeyPath, str]] = set()
    for item in error.errors(include_url=False, include_context=True):
        path = item["loc"]
        if path[0] == "ladder" and len(path) > 1 and path[1] in ("DepthLadder", "list[LadderSize]"):
            if (path[1] == "DepthLadder") == ladder_is_list:
                continue
            path = (path[0], *path[2:])
        path = tuple(part for part in path if not (isinstance(part, str) and _is_branch(part)))
        if (path, item["type"].split("_")[-1]) in seen or any(p == path for p, _ in seen):
            continue
        seen.add((path, item["type"].split("_")[-1]))
        kept.append({**item, "loc": path})
    return kept


def _is_branch(part: str) -> bool:
    """Whether pydantic put `part` into a path to name a branch of a union (`int`, `list[str]`), not a key."""
    return part in {"int", "float", "str", "bool"} or "[" in part


def _from_pydantic(item: Any, located: Any) -> Problem:
    path: KeyPath = item["loc"]
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    hint = ""
    if kind == "extra_forbidden":
        message = "unknown key"
        known = _known_keys(path[:-1])
        hint = did_you_mean(str(path[-1]), known) if known else ""
    elif kind == "missing":
        message = _MESSAGES[kind]
        hint = f"add '{path[-1]}:'"
        if path[:1] == ("search_space",):
            hint = "name a file (search_space: ../search_spaces/NAME.yaml) or write 'parameters:' in place"
    elif kind == "literal_error":
        expected = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        message, hint = f"{value!r} is not allowed", did_you_mean(str(value), expected)
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bound = context.get("gt", context.get("ge", context.get("lt", context.get("le"))))
        word = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below", "less_than_equal": "at most"}[
            kind
        ]
        message = f"{value} is not {word} {bound}"
        hint = f"give a value {word} {bound}"
    elif kind == "string_pattern_mismatch":
        message = f"{value!r} must begin with a letter or digit and hold only letters, digits, '.', '_' and '-'"
        hint = "it names the run folder"
    elif kind == "value_error":
        message = str(context.get("error", item["msg"]))
    elif kind in _MESSAGES:
        message = f"{_MESSAGES[kind]}, not {_shown(value)}"
    else:
        message = f"{item['msg']}, not {_shown(value)}"
    return located(path, message, hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _known_keys(path: KeyPath) -> list[str]:
    """Keys that may stand at `path` of a sweep file, read off the typed models."""
    model: Any = SweepSpec
    for part in path:
        if part == "parameters":
            return list(Parameter.model_fields) if path[-1] != "parameters" else list(PARAMETERS)
        if part == "ladder":
            model = LadderSize if any(isinstance(p, int) for p in path) else DepthLadder
            break
        field = getattr(model, "model_fields", {}).get(str(part))
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


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
            cycle = [name for name, parameter in parameters.items() if _reaches_itself(name, parameters)]
            path = (*at, cycle[0], "when")
            problems.append(
                spec.problem(path, f"`when` runs in a circle: {' → '.join([*cycle, cycle[0]])}", "let one of them exist always")
            )
    return problems


def _reaches_itself(name: str, parameters: dict[str, Parameter]) -> bool:
    seen: set[str] = set()
    frontier = list(parameters[name].when)
    while frontier:
        other = frontier.pop()
        if other == name:
            return True
        if other not in seen:
            seen.add(other)
            frontier += list(parameters[other].when)
    return False


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
            return [spec.problem((*at, "min"), "takes whole numbers", "use whole min and max (int_uniform)")]
    words = _words(spec, at[-1], info)
    for path, value in given:
        if info.kind == "word":
            if words is not None and value not in words:
                problems.append(spec.problem(path, f"{value!r} is not one of its values", did_you_mean(str(value), words)))
            elif not isinstance(value, str):
                problems.append(spec.problem(path, f"must be a word, not {value!r}", "quote it"))
        elif isinstance(value, bool) or not isinstance(value, int if info.kind == "int" else (int, float)):
            noun = "a whole number" if info.kind == "int" else "a number"
            problems.append(spec.problem(path, f"must be {noun}, not {value!r}", f"{at[-1]}: {info.help}"))
        elif (info.low is not None and value < info.low) or (info.high is not None and value > info.high):
            problems.append(spec.problem(path, f"{value} is outside {info.low:g} … {info.high:g}", f"{at[-1]}: {info.help}"))
    return problems


def _words(spec: SweepSpec, name: str | int, info: ParameterInfo) -> list[str] | None:
    if name == "model_size":
        return [size.name for size in spec.sizes()]
    return list(info.choices) if info.choices else None


def _check_when(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    problems: list[Problem] = []
    parameters = spec.search_space.parameters
    for other, wanted in p.when.items():
        path = (*at, "when", other)
        if other not in parameters:
            problems.append(spec.problem(path, "is no parameter of this space", did_you_mean(other, parameters)))
            continue
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
    at_layers = isinstance(spec.ladder, list)
    if not sizes:
        say("ladder", message="is empty", hint="list at least one size")
    names = [size.name for size in sizes]
    for index, name in enumerate(names):
        if name in names[:index]:
            path: KeyPath = ("ladder", index, "name") if at_layers else ("ladder", "layers", index)
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
    if parameter is not None and _check_values(spec, ("num_gpus",), parameter, PARAMETERS["num_gpus"]):
        return []  # already reported
    problems = []
    for index, size in enumerate(sizes):
        if not allowed_gpus(spec, size):
            path: KeyPath = ("ladder", index, "min_gpus") if isinstance(spec.ladder, list) else ("ladder", "min_gpus")
            counts = ", ".join(map(str, gpu_choices(spec)))
            message = f"size {size.name!r} needs at least {size.min_gpus} GPUs, and num_gpus takes only {counts}"
            problems.append(spec.problem(path, message, f"add {size.min_gpus} to num_gpus, or drop the size"))
    floor = min((size.min_gpus for size in sizes), default=1)
    for count in gpu_choices(spec) if not problems else []:
        if count < floor:
            path = ("search_space", "parameters", "num_gpus")
            problems.append(spec.problem(path, f"{count} is below the min_gpus of every size", f"start at {floor}"))
    return problems
