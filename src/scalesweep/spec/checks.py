"""Checks of a sweep's fields against each other, which types alone can't express. They need no library and no data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scalesweep.errors import Problem, did_you_mean, nearest
from scalesweep.spec.config import rung_levels
from scalesweep.spec.effects import NEEDS
from scalesweep.spec.loading import KeyPath
from scalesweep.spec.points import check_points
from scalesweep.spec.space import (
    ALIASES,
    CADENCES,
    KEY_ALIASES,
    PARAMETERS,
    THAWING_MODES,
    Parameter,
    ParameterInfo,
    alias_of,
)
from scalesweep.spec.sweep import SPLITS, LadderSize, SweepSpec
from scalesweep.spec.tasks import TASKS, misfits


def check(spec: SweepSpec) -> list[Problem]:
    """Return the problems of a typed sweep, each with its key, file and line."""
    in_space = _check_space(spec)
    return [*in_space, *_check_sweep(spec), *([] if in_space else check_points(spec))]


# ---- the space --------------------------------------------------------------------------------------------------------


def _check_space(spec: SweepSpec) -> list[Problem]:
    problems: list[Problem] = []
    parameters = spec.search_space.parameters
    at: KeyPath = ("search_space", "parameters")
    if not parameters:
        problems.append(spec.problem(at, "the search space is empty", "list at least one parameter, for example learning_rate"))
    for name, parameter in parameters.items():
        info = PARAMETERS.get(name)
        if info is None and spec.foreign:
            found = _check_shape(spec, (*at, name), parameter) or _check_finite(spec, (*at, name), parameter)
            found = found or _check_prior(spec, (*at, name), parameter)
            problems += found or _check_when(spec, (*at, name), parameter)
            continue
        if info is None:
            hint = f"scalesweep calls it {ALIASES[name]!r}" if name in ALIASES else did_you_mean(name, PARAMETERS)
            if name in KEY_ALIASES and name not in ALIASES:
                hint = f"it is a key of the sweep file, not of the space: {KEY_ALIASES[name]}"
            problems.append(spec.problem((*at, name), "unknown parameter", hint))
            continue
        found = _check_shape(spec, (*at, name), parameter) or _check_values(spec, (*at, name), parameter, info)
        found = found or _check_prior(spec, (*at, name), parameter)
        problems += found or _check_when(spec, (*at, name), parameter)
    if not problems:
        try:
            spec.search_space.ordered()
        except ValueError:
            cycle = [name for name in parameters if _reaches_itself(name, spec)]
            path = (*at, next(name for name in cycle if parameters[name].when), "when")
            circle = " → ".join([*cycle, cycle[0]])
            hint = "remove `when` from one of them"
            if "num_gpus" in cycle and "model_size" in cycle:
                hint += "; num_gpus is always drawn after model_size, because each size has its own min_gpus"
            problems.append(spec.problem(path, f"`when` forms a cycle: {circle}", hint))
    return problems or ([] if spec.foreign else _check_effects(spec))  # what the runs of a table had besides is unknown


def _check_effects(spec: SweepSpec) -> list[Problem]:
    """Report parameters of NEEDS that can never have an effect, given the other parameters."""
    problems: list[Problem] = []
    parameters, early = spec.search_space.parameters, spec.early_terminate
    at: KeyPath = ("search_space", "parameters")
    for name, needs in NEEDS.items():
        for other, words in needs.items() if name in parameters else ():
            wanted = parameters[name].when.get(other)
            beside = values_drawn(spec, other) if wanted is None else wanted if isinstance(wanted, list) else [wanted]
            if set(beside) & set(words):
                continue
            given = ", ".join(map(str, beside))
            problem = f"has no effect: {other} is {given}{'' if other in parameters else ' by default'}"
            if wanted is not None:
                problem, hint = f"{name} has no effect with {other} {given}", f"it applies to {other} {', '.join(words)}"
                problems.append(spec.problem((*at, name, "when", other), problem, hint))
            elif other in parameters:
                hint = f"add {' or '.join(words)} to {other}, or remove {name}"
                problems.append(spec.problem((*at, name), problem, hint))
            else:
                example = f"{other}: {{value: {words[0]}}}" if len(words) == 1 else f"{other}: {{values: [{', '.join(words)}]}}"
                problems.append(spec.problem((*at, name), problem, f"add {example}, or remove {name}"))
            break
    problems += _check_shares(spec)
    if spec.data.earlier is None and "rehearsal_share" in parameters:
        message = "has no effect: there are no earlier data to rehearse"
        problems.append(spec.problem((*at, "rehearsal_share"), message, "add data.earlier, or remove it"))
    by_metric = [word for word in values_drawn(spec, "unfreeze_cadence") if CADENCES[word].by_metric]
    if by_metric and not problems and spec.training.eval_interval is None and early.type == "none":
        message = f"{by_metric[0]} needs evaluations before the end of a trial, and there is none"
        problems.append(spec.problem((*at, "unfreeze_cadence"), message, "set training.eval_interval"))
    return problems


def _check_shares(spec: SweepSpec) -> list[Problem]:
    """Refuse rungs and forecasts beside shares of the training data: trials on different shares end at different lengths."""
    path: KeyPath = ("search_space", "parameters", "train_share")
    if "train_share" not in spec.search_space.parameters:
        return []
    if "rehearsal_share" in spec.search_space.parameters:
        return [spec.problem(path, "has no place beside rehearsal_share", "remove one of the two")]
    if spec.early_terminate.type != "none":
        message = "a rung can't compare trials on different shares of the data, which end at different lengths"
        return [spec.problem(path, message, "write early_terminate: {type: none, …}")]
    if spec.search.sampler == "forecast":
        message = "the sampler forecast compares trials at max_t, which a trial on a share of the data does not reach"
        return [spec.problem(path, message, "write search: {sampler: random} or {sampler: tpe}")]
    return []


def values_drawn(spec: SweepSpec, name: str) -> list[Any]:
    """Return every value that a parameter may have in a trial; of a range, its ends.

    The default counts if the parameter does not always exist.
    """
    parameter = spec.search_space.parameters.get(name)
    drawn: list[Any] = (parameter.choices() or [parameter.min, parameter.max]) if parameter is not None else []
    return list(dict.fromkeys([*drawn, *([PARAMETERS[name].default] if parameter is None or parameter.when else [])]))


def unfreezing_modes(spec: SweepSpec) -> list[str]:
    """Return every unfreezing mode that a trial may have."""
    return [str(mode) for mode in values_drawn(spec, "unfreezing")]


def late_thaws(spec: SweepSpec) -> list[str]:
    """Return a remark where no thaw can come before the end of a trial, so that unfreezing by stages trains the head alone."""
    early, modes = spec.early_terminate, [mode for mode in unfreezing_modes(spec) if mode in THAWING_MODES]
    interval = min(values_drawn(spec, "unfreeze_interval"))
    if not modes or early.time_attr != "steps" or values_drawn(spec, "unfreeze_cadence") != ["steps"] or interval < early.max_t:
        return []
    default = "" if "unfreeze_interval" in spec.search_space.parameters else " by default"
    return [
        f"unfreezing ({', '.join(modes)}) trains the head alone: unfreeze_interval is {interval:,}{default}, and a trial ends at "
        f"{early.max_t:,} steps"
    ]


def adapters(spec: SweepSpec) -> list[str]:
    """Return every adapter that a trial may have, `none` included."""
    return [str(adapter) for adapter in values_drawn(spec, "adapter")]


def _reaches_itself(name: str, spec: SweepSpec) -> bool:
    seen: set[str] = set()
    frontier = spec.search_space.depends_on(name)
    while frontier - seen:
        other = (frontier - seen).pop()
        seen.add(other)
        frontier = frontier | spec.search_space.depends_on(other)
    return name in frontier


def _check_shape(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    """Check that a parameter has value, values, or min and max, and a distribution that fits them."""
    ways = [p.value is not None, p.values is not None, p.min is not None or p.max is not None]
    if sum(ways) != 1:
        what = "has none of value, values and min/max" if not any(ways) else "has more than one of value, values and min/max"
        return [spec.problem(at, what, "write value: X, or values: [X, …], or both min: and max:")]
    if p.values is not None:
        if not p.values:
            return [spec.problem((*at, "values"), "the list is empty", "list at least one value")]
        if len({(type(v), v) for v in p.values}) < len(p.values):
            return [spec.problem((*at, "values"), "a value is listed twice", "list each value once")]
    if ways[2] and (p.min is None or p.max is None):
        absent = "min" if p.min is None else "max"
        return [spec.problem((*at, absent), "is missing", "a range needs both min and max")]
    wanted = "constant" if ways[0] else "categorical" if ways[1] else ("int_uniform", "uniform", "log_uniform_values")
    if p.distribution is not None and p.distribution not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        needs = {"constant": "value", "categorical": "values"}.get(p.distribution, "min and max")
        given = "value" if ways[0] else "values" if ways[1] else "min and max"
        message = f"{p.distribution} needs {needs}, but {given} {'are' if ways[2] else 'is'} given"
        hint = f"remove it, or use {wanted if isinstance(wanted, str) else ', '.join(wanted)}"
        return [spec.problem((*at, "distribution"), message, hint)]
    if p.min is not None and p.max is not None:
        for key, bound in (("min", p.min), ("max", p.max)):
            if not math.isfinite(bound):
                return [spec.problem((*at, key), f"{bound} is not finite", "write a finite number")]
            if p.kind == "int_uniform" and not isinstance(bound, int):
                return [
                    spec.problem(
                        (*at, key),
                        f"{bound} is not a whole number (int_uniform)",
                        "write a whole number, or use distribution: uniform",
                    )
                ]
        if p.min > p.max:
            return [spec.problem((*at, "min"), f"{p.min} is above max ({p.max})", "swap them")]
        if p.kind == "log_uniform_values" and p.min <= 0:
            return [
                spec.problem(
                    (*at, "min"),
                    f"must be above 0 on a log scale, not {p.min}",
                    "write a number above 0, or use distribution: uniform",
                )
            ]
    return []


def _check_values(spec: SweepSpec, at: KeyPath, p: Parameter, info: ParameterInfo) -> list[Problem]:
    """Check the type and range of each value against the parameter table."""
    problems: list[Problem] = []
    given: list[tuple[KeyPath, Any]]
    if p.value is not None:
        given = [((*at, "value"), p.value)]
    elif p.values is not None:
        given = [((*at, "values", index), value) for index, value in enumerate(p.values)]
    else:
        given = [((*at, "min"), p.min), ((*at, "max"), p.max)]
        if info.kind in ("word", "bool"):
            noun = "words" if info.kind == "word" else "true or false"
            return [spec.problem(at, f"takes {noun}, not a range", "write values: [ … ]")]
        if info.kind == "int" and p.kind != "int_uniform":
            key = next((key for key, bound in (("min", p.min), ("max", p.max)) if not isinstance(bound, int)), "distribution")
            return [
                spec.problem(
                    (*at, key),
                    f"{at[-1]} takes whole numbers",
                    "write whole numbers for min and max, with distribution: int_uniform"
                    + (f"; list {_listed(info.fractions)} under values" if info.fractions else ""),
                )
            ]
        if info.kind == "float" and p.kind == "int_uniform" and p.distribution is None:
            message = f"min {p.min} and max {p.max} would draw whole numbers only"
            hint = f"write {float(p.min or 0)} and {float(p.max or 0)}, or distribution: uniform"
            return [spec.problem((*at, "min"), message, hint)]
    if at[-1] == "lora_target_modules":
        problems += _check_equal_targets(spec, given)
    words = _words(spec, at[-1], info)
    within = f": {info.help.partition('. ')[0].removesuffix('.')}"
    fractions = f", or {_listed(info.fractions)}" if info.fractions else ""
    if info.low is not None:
        within = (
            (f" above {info.low:g}, at most {info.high:g}" if info.above_low else f" from {info.low:g} to {info.high:g}")
            + fractions
            + within
        )
    for path, value in given:
        if value in info.fractions and not isinstance(value, bool):
            continue
        if info.kind == "word":
            if words is not None and value not in words:
                alias = alias_of(at[-1], value)
                hint = did_you_mean(str(value), words)
                if alias is not None:
                    hint = f"scalesweep calls it {alias!r}; {hint[hint.index('known: ') :]}"
                problems.append(spec.problem(path, f"{value!r} is not one of its values", hint))
            elif not isinstance(value, str):
                problems.append(spec.problem(path, f"must be a word, not {value!r}", "quote it"))
        elif info.kind == "bool":
            if not isinstance(value, bool):
                problems.append(spec.problem(path, f"must be true or false, not {value!r}", f"write true or false{within}"))
        elif isinstance(value, bool) or not isinstance(value, int if info.kind == "int" else (int, float)):
            noun = "a whole number" if info.kind == "int" else "a number"
            problems.append(spec.problem(path, f"must be {noun}{fractions}, not {value!r}", f"write {noun}{within}"))
        elif not math.isfinite(value):
            problems.append(spec.problem(path, f"{value} is not finite", f"write a number{within}"))
        elif (info.low is not None and value < info.low) or (info.high is not None and value > info.high):
            problems.append(spec.problem(path, f"{value} is outside {info.low:g} … {info.high:g}", f"write a number{within}"))
        elif info.above_low and value == info.low:
            problems.append(spec.problem(path, f"must be above {info.low:g}, not {value}", f"write a number{within}"))
    return problems


def _listed(fractions: Sequence[float]) -> str:
    *others, last = (f"{fraction:g}" for fraction in fractions)
    return f"{', '.join(others)} or {last}"


def _check_equal_targets(spec: SweepSpec, given: Sequence[tuple[KeyPath, Any]]) -> list[Problem]:
    """Find lists of layers that name the same layers as an earlier one."""
    problems, seen = [], dict[frozenset[str], Any]()
    for path, value in given if not spec.foreign else ():
        earlier = seen.setdefault(frozenset(map(str.strip, str(value).split(","))), value)
        if earlier is not value:
            hint = "name each set of layers once; order and blanks make no difference"
            problems.append(spec.problem(path, f"{value!r} names the same layers as {earlier!r}", hint))
    return problems


def _check_finite(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    """Check the values of a parameter that only the table knows: they must be finite."""
    given = [((*at, "value"), p.value), *(((*at, "values", index), value) for index, value in enumerate(p.values or []))]
    return [
        spec.problem(path, f"{value} is not finite", "write a number or a word")
        for path, value in given
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _words(spec: SweepSpec, name: str | int, info: ParameterInfo) -> list[str] | None:
    if name == "model_size":
        return list(dict.fromkeys(size.name for size in spec.sizes()))
    return list(info.choices) if info.choices else None


def _check_prior(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    """Check that the prior is a value that the parameter may take."""
    if p.prior is None:
        return []
    if p.value is not None:
        return [spec.problem((*at, "prior"), "has no effect beside value", "remove it")]
    if p.values is not None:
        takes = did_you_mean(str(p.prior), [str(value) for value in p.values])
    else:
        takes = f"write a number from {p.min} to {p.max}"
    return [] if p.takes(p.prior) else [spec.problem((*at, "prior"), f"{p.prior!r} is not a value of {at[-1]}", takes)]


def _check_when(spec: SweepSpec, at: KeyPath, p: Parameter) -> list[Problem]:
    problems: list[Problem] = []
    parameters = spec.search_space.parameters
    for other, wanted in p.when.items():
        path = (*at, "when", other)
        if other not in parameters:
            problems.append(spec.problem(path, "is not a parameter of this space", did_you_mean(other, parameters)))
            continue
        if wanted == []:
            hint = f"list the values of {other} for which {at[-1]} applies"
            problems.append(spec.problem(path, f"the list is empty, so {at[-1]} would never apply", hint))
        target = parameters[other]
        choices = target.choices()
        for value in wanted if isinstance(wanted, list) else [wanted]:
            if choices is None and target.kind != "int_uniform":
                problems.append(
                    spec.problem(path, "has a continuous range", "name a parameter with listed values: `when` needs one")
                )
                break
            if not target.takes(value):
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
    for key, value in (("grace_period", early.grace_period), ("max_t", early.max_t)):
        counted = early.time_attr in ("steps", "tokens") and not spec.foreign
        if counted and isinstance(value, float):
            hint = f"write {max(1, round(value))}, or use another fidelity (time_attr: flops, gpu_seconds or dollars)"
            say("early_terminate", key, message=f"{value} is not a whole number, and {early.time_attr} are", hint=hint)
    if early.time_attr == "dollars" and spec.resources.dollars_per_gpu_hour is None:
        hint = "set resources.dollars_per_gpu_hour, or use time_attr: gpu_seconds"
        say("early_terminate", "time_attr", message="dollars can't be counted without a price", hint=hint)
    if early.type == "asha":
        if early.grace_period != "auto" and early.grace_period > early.max_t:
            message = f"{early.grace_period} is above max_t ({early.max_t})"
            say("early_terminate", "grace_period", message=message, hint="lower it: no trial would reach a rung")
    elif early.grace_period != "auto":
        say("early_terminate", "grace_period", message="has no effect with type: none", hint="remove it, or use type: asha")

    problems += _check_survival(spec)

    budget = spec.budget
    if not any((budget.run_cap, budget.time, budget.gpu_hours, budget.dollars)):
        say("budget", message="sets no limit", hint="set at least one of run_cap, time, gpu_hours, dollars")
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
                hint=f"add {split}{' to data.path' if data.files else ''}: training uses train, the search uses validation, and "
                "promotion uses test",
            )
        elif isinstance(part, bool) or (isinstance(part, int | float) and part <= 0):
            say(
                "data",
                "splits",
                split,
                message=f"must be above 0, not {part}",
                hint="write a count, a fraction, or the name of a split of the data",
            )
        elif isinstance(part, float) and part > 1:
            say(
                "data",
                "splits",
                split,
                message=f"{part} is above 1",
                hint="write a fraction of at most 1, or a count as a whole number",
            )
    fractions = [part for part in data.splits.values() if isinstance(part, float)]
    if sum(fractions) > 1 + 1e-9:
        say(
            "data",
            "splits",
            message=f"the fractions add up to {sum(fractions):g}",
            hint="lower them: they may add up to at most 1",
        )
    named = [part for part in data.splits.values() if isinstance(part, str)]
    if len(set(named)) < len(named):
        say(
            "data",
            "splits",
            message="two splits name the same split of the data",
            hint="name three different ones: no row may be in two splits",
        )
    problems += _check_files(spec)
    if spec.adapt is not None and data.earlier is None:
        say(
            "data",
            "earlier",
            message="is missing",
            hint="add the data of the model that is adapted, which judge what it has kept",
        )
    for key, message, hint in misfits(spec.task, data):
        say("data", key, message=message, hint=hint)
    answers = TASKS[spec.task].generated
    generated = bool(answers) and (spec.metric.name in answers or spec.metric.function is not None)
    if generated:
        if data.learn == "all":
            message = f"{spec.metric.name} compares answers, and with all the answers are not told from the rest"
            say("data", "learn", message=message, hint="use learn: assistant or last, or another metric")
        if spec.metric.name == "eval_score" and data.scorer is None:
            say("data", "scorer", message="is missing", hint="name the function that scores an answer: module:function")
    for key in ("scorer", "max_new_tokens") if answers and not generated else ():
        if getattr(data, key) is not None:
            hint = f"use the metric {' or '.join(answers)}, or remove it"
            say("data", key, message=f"has no effect with {spec.metric.name}: no answers are generated", hint=hint)
    if data.labels is not None:
        if len(data.labels) < 2:
            say("data", "labels", message="names fewer than two classes", hint="name at least two classes, or remove it")
        elif len({str(label) for label in data.labels}) < len(data.labels):
            say("data", "labels", message="a class is listed twice", hint="name each class once")

    sizes = spec.sizes()
    if not sizes:
        say("ladder", message="is empty", hint="list at least one size")
    names = [size.name for size in sizes]
    for index, name in enumerate(names):
        if name in names[:index]:
            path: KeyPath = ("ladder", index, "name") if isinstance(spec.ladder, list) else ("ladder", "layers", index)
            say(*path, message=f"two sizes are named {name!r}", hint="give each size its own name")
    if len(sizes) > 1 and "model_size" not in spec.search_space.parameters:
        listed = ", ".join(names)
        hint = f"add model_size: {{values: [{listed}]}} to the search space, or keep one size"
        say(
            "search_space", "parameters", message=f"the ladder has {len(sizes)} sizes but model_size is not searched", hint=hint
        )

    if spec.training.class_weights != "none" and not TASKS[spec.task].label:
        say("training", "class_weights", message=f"has no effect for {spec.task}, which has no classes", hint="remove it")
    if spec.training.base_dtype != "float32" and adapters(spec) == ["none"]:
        message = "has no effect: no trial has an adapter, and without one all weights train, in float32"
        say("training", "base_dtype", message=message, hint="add adapter: {values: [lora]} to the search space, or remove it")
    micro, batch = spec.training.micro_batch_size, spec.training.global_batch_size
    if micro is not None and micro > batch:
        say("training", "micro_batch_size", message=f"{micro} is above global_batch_size ({batch})", hint="lower it")
    problems += _check_gpus(spec, sizes)
    problems += _check_prices(spec, sizes)
    return problems


def _check_files(spec: SweepSpec) -> list[Problem]:
    """Check that each file of `data.path` is read by a split, and no file by two."""
    data, problems, seen = spec.data, list[Problem](), dict[str, str]()
    if data.path == {}:
        return [spec.problem(("data", "path"), "names no file", "write one for each split: {train: …, validation: …, test: …}")]
    drawn = any(not isinstance(size, str) for size in data.splits.values())
    source = {"train", *([*data.files] if len(data.files) == 1 else [])} if drawn else set()  # of what is drawn
    for name, path in data.files.items():
        if name not in source | {*data.splits.values()}:
            near = nearest(name, SPLITS)
            hint = f"did you mean {near!r}?" if near not in (None, name) else f"name it in data.splits, or remove {name}"
            problems.append(spec.problem(("data", "path", name), "no split reads this file", hint))
        elif path in seen:
            hint = "name another file, or let counts in data.splits draw both from one"
            problems.append(spec.problem(("data", "path", name), f"is the file of {seen[path]} too", hint))
        seen.setdefault(path, name)
    return problems


def _check_survival(spec: SweepSpec) -> list[Problem]:
    """Check that the rungs exist that variant and brackets need."""
    early = spec.early_terminate
    say = lambda key, message, hint: spec.problem(("early_terminate", key), message, hint)  # noqa: E731
    if early.type == "none":
        hint = "remove it, or use type: asha with a grace_period"
        return [say("brackets", "has no effect with type: none, which has no rungs", hint)] if early.brackets > 1 else []
    if early.grace_period != "auto" and early.grace_period > early.max_t:
        return []  # already reported
    problems = []
    rungs = len([level for level in rung_levels(spec) if level < early.max_t])
    if early.brackets > rungs + 1:
        message = f"{early.brackets} brackets need {early.brackets} rungs, and there {'is' if not rungs else 'are'} {rungs + 1}"
        hint = f"write at most {rungs + 1} (max_t is the last rung), or lower grace_period"
        problems.append(say("brackets", message, hint))
    return problems


def _check_prices(spec: SweepSpec, sizes: Sequence[LadderSize]) -> list[Problem]:
    """Check that a price table has a price for every size."""
    prices, problems = spec.resources.dollars_per_gpu_hour, []
    for size in sizes if isinstance(prices, dict) else ():
        if spec.price(size.name) is None:
            message = f"no price for size {size.name!r}: the table has neither {size.accelerator_type!r} nor a default"
            hint = f"add {size.accelerator_type}: DOLLARS, or default: DOLLARS"
            if size.accelerator_type is None:
                message = f"no price for size {size.name!r}: it has no accelerator_type, and the table has no default"
                hint = "add default: DOLLARS, or give the size an accelerator_type of the table"
            problems.append(spec.problem(("resources", "dollars_per_gpu_hour"), message, hint))
            if not isinstance(spec.ladder, list):
                break  # every depth has the same problem
    return problems


def gpu_choices(spec: SweepSpec) -> list[float]:
    """Return every GPU count that the space may draw, ascending: whole numbers, and shares of one GPU."""
    parameter = spec.search_space.parameters.get("num_gpus")
    if parameter is None:
        return [1]
    choices = parameter.choices()
    if choices is None:
        return list(range(int(parameter.min), int(parameter.max) + 1))  # type: ignore[arg-type]
    return sorted(choice for choice in choices if isinstance(choice, int | float))


def allowed_gpus(spec: SweepSpec, size: LadderSize) -> list[float]:
    """Return the GPU counts of the space that are at least the `min_gpus` of `size`."""
    return [count for count in gpu_choices(spec) if count >= (size.min_gpus or 0)]


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
                message = f"size {size.name!r} needs at least {size.min_gpus} GPUs, and num_gpus is {counts} by default"
                hint = f"add num_gpus: {{values: [{size.min_gpus}]}} to the search space"
            else:
                message = f"size {size.name!r} needs at least {size.min_gpus} GPUs, and num_gpus takes only {counts}"
                hint = f"add {size.min_gpus} to num_gpus, or remove the size"
            problems.append(spec.problem(path, message, hint))
            if not isinstance(spec.ladder, list):
                break  # every depth has the same problem
    floor = min((size.min_gpus or 0 for size in sizes), default=1)
    for count in gpu_choices(spec) if not problems else []:
        if count < floor:
            listed = parameter.values if parameter is not None else None
            path = (*at, "values", listed.index(count)) if listed else at
            problems.append(
                spec.problem(
                    path, f"{count} is below the min_gpus of every size", f"remove it: the smallest min_gpus is {floor}"
                )
            )
    return problems
