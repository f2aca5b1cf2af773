"""scalesweep: joint hyperparameter and scaling sweeps for fine-tuning language models.

from scalesweep import Sweep, promote, read_record

record = Sweep.load("sweeps/quickstart.yaml").launch()
promote("runs/quickstart")
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Sweep", "findings", "fit_scaling", "promote", "read_record", "reproduce", "resume"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Loaded on first use, which keeps `import scalesweep` fast.
    if name == "Sweep":
        from scalesweep.api import Sweep

        return Sweep
    if name == "resume":
        from scalesweep.api import resume

        return resume
    if name == "findings":
        from scalesweep.api import findings

        return findings
    if name == "fit_scaling":
        from scalesweep.api import fit_scaling

        return fit_scaling
    if name == "promote":
        from scalesweep.promotion.promote import promote

        return promote
    if name == "reproduce":
        from scalesweep.promotion.reproduce import reproduce

        return reproduce
    if name == "read_record":
        from scalesweep.api import read_record

        return read_record
    raise AttributeError(f"module 'scalesweep' has no attribute {name!r}")
