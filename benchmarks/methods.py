"""The methods that `search.py` compares: scalesweep with its settings, ablations of it, and the available rivals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import ValidationError
from rivals import RIVALS

from scalesweep.errors import UserError, did_you_mean
from scalesweep.spec import SweepSpec, rung_levels
from scalesweep.spec.sweep import BudgetSpec, EarlyTerminateSpec, SearchSpec

OURS = "scalesweep"
ABLATIONS: dict[str, dict[str, Any]] = {  # one changed ingredient each; a change to the default value is left out
    "sampler=tpe": {"search.sampler": "tpe"},
    "sampler=random": {"search.sampler": "random"},
    "survival=metric": {"early_terminate.survival": "metric"},
    "variant=stopping": {"early_terminate.variant": "stopping"},
}
SLOW = ("carbs", "carbs-length", "protein")
KEPT = ("type", "time_attr", "grace_period", "max_t", "reduction_factor")  # the rungs of a family; the rest is scalesweep's
Group = Literal["ours", "ablation", "stock", "research"]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Method:
    name: str
    group: Group
    changes: dict[str, Any] = field(default_factory=dict)  # changes of the spec, for scalesweep


def methods(named: Sequence[str] | None, settings: Mapping[str, Any]) -> list[Method]:
    """The methods to run, scalesweep first. A message on stderr names each method that can't run here.

    Raises:
        UserError: a name is unknown.
    """
    groups: dict[str, Group] = {OURS: "ours", **dict.fromkeys(ABLATIONS, "ablation")}
    groups |= {name: entry.group for name, entry in RIVALS.items()}
    words = set(named or ["stock"])
    for word in words - set(groups.values()) - groups.keys():
        raise UserError(f"the method {word!r} does not exist", did_you_mean(word, [*groups, *dict.fromkeys(groups.values())]))
    chosen = [Method(OURS, "ours", dict(settings))]
    for name, group in groups.items():
        if name == OURS or not {name, group} & words:
            continue
        if group == "ablation":
            changes = {**settings, **ABLATIONS[name]}
            reason = _useless(settings, changes)
        else:
            changes = {}
            reason = RIVALS[name].missing()
            if name in SLOW and name not in words:
                reason = reason or "it is slow, and runs only if it is named"
        if reason:
            say(f"{name} is skipped: {reason}")
        else:
            chosen.append(Method(name, group, changes))
    return chosen


def _useless(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    """The reason to skip an ablation; None if it runs."""
    defaults = {"search": SearchSpec(), "early_terminate": EarlyTerminateSpec(max_t=1)}
    for key in changes:
        part, _, name = key.partition(".")
        if name not in type(defaults[part]).model_fields:
            return f"the spec has no {key}"
    now = {key: settings.get(key, getattr(defaults[key.partition(".")[0]], key.partition(".")[2])) for key in changes}
    return "the sweep already has this setting" if now == dict(changes) else None


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """The changes of the spec from KEY=VALUE pairs.

    Raises:
        UserError: the spec does not accept a key or value.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key.partition(".")[0] not in ("search", "early_terminate"):
            raise UserError(f"--set {pair}: this is not search.KEY=VALUE or early_terminate.KEY=VALUE")
        found[key] = yaml.safe_load(text)
    try:
        _with_changes(SearchSpec(), EarlyTerminateSpec(max_t=1), found)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--set {first['loc'][0]}: {first['msg']}") from None
    return found


def _with_changes(
    search: SearchSpec, early: EarlyTerminateSpec, changes: Mapping[str, Any]
) -> tuple[SearchSpec, EarlyTerminateSpec]:
    of: dict[str, dict[str, Any]] = {"search": search.model_dump(), "early_terminate": early.model_dump()}
    for key, value in changes.items():
        part, _, name = key.partition(".")
        of[part][name] = value
    return SearchSpec.model_validate(of["search"]), EarlyTerminateSpec.model_validate(of["early_terminate"])


def our_spec(spec: SweepSpec, budget: float, trials: int | None, changes: Mapping[str, Any]) -> SweepSpec:
    """A family's sweep with the package's defaults and the family's rungs. Only GPU hours and a cap on trials end it."""
    kept = EarlyTerminateSpec(**{key: getattr(spec.early_terminate, key) for key in KEPT})
    search, early = _with_changes(SearchSpec(), kept, changes)
    if not [level for level in rung_levels(spec) if level < early.max_t]:
        early = early.model_copy(update={"variant": "stopping"})  # nothing to wait for
    budgets = BudgetSpec(gpu_hours=budget, run_cap=trials)
    update: dict[str, Any] = {"search": search, "early_terminate": early, "budget": budgets}
    update["resources"] = spec.resources.model_copy(update={"max_concurrent_trials": None})
    return spec.model_copy(update=update)


def is_rival(method: Method) -> bool:
    return method.group in ("stock", "research")
