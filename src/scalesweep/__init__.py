"""scalesweep: joint hyperparameter and scaling sweeps for fine-tuning language models.

from scalesweep import Sweep, promote, read_record

record = Sweep.load("sweeps/quickstart.yaml").launch()
promote("runs/quickstart")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Each name and its module, which is loaded on first use. This keeps `import scalesweep` fast.
_MODULES = {
    "Sweep": "scalesweep.api",
    "adapt": "scalesweep.api",
    "choose": "scalesweep.api",
    "confirm": "scalesweep.api",
    "findings": "scalesweep.api",
    "fit_scaling": "scalesweep.api",
    "plan_budget": "scalesweep.api",
    "promote": "scalesweep.promotion.promote",
    "publish": "scalesweep.api",
    "push_to_hub": "scalesweep.promotion.hub",
    "read_record": "scalesweep.api",
    "reproduce": "scalesweep.promotion.reproduce",
    "resume": "scalesweep.api",
    "write_page": "scalesweep.api",
}
__all__ = [*_MODULES]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'scalesweep' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
