"""Checks of `search.points_to_evaluate`: the space must be able to draw each point."""

from __future__ import annotations

from typing import Any

from scalesweep.errors import Problem, counted, did_you_mean
from scalesweep.spec.loading import KeyPath
from scalesweep.spec.space import ALIASES, Parameter
from scalesweep.spec.sweep import SweepSpec


def check_points(spec: SweepSpec) -> list[Problem]:
    """Return the problems of the points, each with its key, file and line. The space itself must have no problem."""
    problems: list[Problem] = []
    points, cap, at = spec.search.points_to_evaluate, spec.budget.run_cap, ("search", "points_to_evaluate")
    fixed = {name: parameter.value for name, parameter in spec.search_space.parameters.items() if parameter.value is not None}
    whole = [{**fixed, **point} for point in points]
    for index, point in enumerate(points):
        found = _check_point(spec, (*at, index), point)
        if not found and whole[index] in whole[:index]:
            message = f"is the same point as points_to_evaluate[{whole.index(whole[index])}]"
            found = [spec.problem((*at, index), message, "name each point once")]
        problems += found
    if cap is not None and cap < len(points):
        hint = "increase budget.run_cap, or remove points"
        problems.append(spec.problem(at, f"has {counted(len(points), 'point')}, and budget.run_cap is {cap}", hint))
    return problems


def _check_point(spec: SweepSpec, at: KeyPath, point: dict[str, Any]) -> list[Problem]:
    parameters = spec.search_space.parameters
    if not point:
        return [spec.problem(at, "names no parameter", "write at least one, for example {learning_rate: 1.0e-4}")]
    problems = []
    for name in point.keys() - parameters.keys():
        hint = f"scalesweep calls it {ALIASES[name]!r}" if ALIASES.get(name) in parameters else did_you_mean(name, parameters)
        problems.append(spec.problem((*at, name), "is not a parameter of this space", hint))
    for name, parameter in spec.search_space.ordered():
        if name in point:
            problems += _check_value(spec, (*at, name), parameter, point[name]) or _check_applies(spec, at, name, point)
    return problems


def _check_value(spec: SweepSpec, at: KeyPath, parameter: Parameter, value: Any) -> list[Problem]:
    if parameter.takes(value):
        return []
    choices = parameter.choices()
    hint = f"write a number from {parameter.min} to {parameter.max}"
    if choices is not None:
        hint = did_you_mean(str(value), map(str, choices))
    return [spec.problem(at, f"the space can't draw {value!r}: {parameter.describe()}", hint)]


def _check_applies(spec: SweepSpec, at: KeyPath, name: str, point: dict[str, Any]) -> list[Problem]:
    """Check that a parameter exists beside the others of its point, and that the size may have so few GPUs."""
    parameters = spec.search_space.parameters
    for other, wanted in parameters[name].when.items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        words = " or ".join(map(str, allowed))
        beside = point.get(other, parameters[other].value)
        if beside is None:
            hint = f"name {other} in the point too, or remove {name}"
            return [spec.problem((*at, name), f"exists with {other} {words} only, and the point leaves {other} open", hint)]
        if beside not in allowed:
            return [spec.problem((*at, name), f"does not exist with {other} {beside}", f"it exists with {other} {words}")]
    if name == "num_gpus":
        chosen = point.get("model_size", parameters["model_size"].value if "model_size" in parameters else None)
        for size in spec.sizes():
            if chosen in (None, size.name) and point[name] < (size.min_gpus or 0):
                message = f"{point[name]} is below the min_gpus of size {size.name} ({size.min_gpus})"
                hint = "name a larger num_gpus" if chosen else "name model_size too, or a larger num_gpus"
                return [spec.problem((*at, name), message, hint)]
    return []
