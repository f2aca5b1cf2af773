"""The methods by which a trial adapts its model to its data: a file per kind of parameters that train.

Any of them trains group by group, in the stages of `unfreezing.py`, which begin when `cadence.py` says.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scalesweep.spec.space import ADAPTERS

if TYPE_CHECKING:
    from scalesweep.training.methods.method import Method


def method_class(adapter: str) -> type[Method]:
    """The class of a trial's method, by its `adapter`."""
    found: type[Method] = import_module(f"{__name__}.{ADAPTERS[adapter].file}").METHOD
    return found
