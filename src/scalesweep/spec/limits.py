"""Budgets and limits, the settings that a sweep may change after it has begun."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from scalesweep.errors import UserError
from scalesweep.spec.load import sweep_from_dict
from scalesweep.spec.sweep import BudgetSpec, SweepSpec

LIMITS = (
    *(f"budget.{name}" for name in BudgetSpec.model_fields),
    *(f"resources.{name}" for name in ("max_concurrent_trials", "max_failures", "max_gpus")),
)


def change_limits(data: dict[str, Any], overrides: Sequence[str]) -> tuple[SweepSpec, dict[str, list[Any]]]:
    """Change the budgets and limits of a recorded sweep.

    Args:
        data: the sweep as the record has it.
        overrides: `KEY=VALUE` strings, as for `--set`.

    Returns:
        The changed sweep, and for each key that changed its old and its new value.

    Raises:
        SpecError: a value is not allowed.
        UserError: another setting would change.
    """
    changed = sweep_from_dict(copy.deepcopy(data), overrides=overrides)
    before, after = sweep_from_dict(data).model_dump(mode="json"), changed.model_dump(mode="json")
    differences: dict[str, list[Any]] = {}
    for section, old in before.items():
        new = after[section]
        if isinstance(old, dict) and isinstance(new, dict):
            keys = {key: [old.get(key), new.get(key)] for key in {**old, **new} if old.get(key) != new.get(key)}
            differences |= {f"{section}.{key}": values for key, values in keys.items()}
        elif old != new:
            differences[section] = [old, new]
    if wrong := sorted(differences.keys() - set(LIMITS)):
        message = f"{wrong[0]} can't change in a sweep that has begun"
        hint = f"budgets and limits can: {', '.join(LIMITS)}; for the rest, launch a new sweep with search.warm_start"
        raise UserError(message, hint)
    return changed, differences
