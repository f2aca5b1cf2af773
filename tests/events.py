"""Events as a record has them, for tests that need no more than their form."""

from __future__ import annotations

from typing import Any

from scalesweep.record.manifest import SCHEMA_VERSION

MANIFEST = {"schema_version": SCHEMA_VERSION, "name": "s", "metric": {"name": "eval_loss", "goal": "minimize"}}


def trial(name: str, number: int) -> dict[str, Any]:
    return {"event": "trial", "time": 1.0, "trial": name, "number": number, "params": {"a": number}, "config": {}}


def report(
    name: str, fidelity: int, loss: float, rung: int | None, gpu_seconds: float = 1.0, action: str = "continue"
) -> dict[str, Any]:
    return {
        "event": "report", "time": 2.0, "trial": name, "fidelity": fidelity, "step": fidelity, "tokens": 10 * fidelity,
        "flops": 1.0, "wall_seconds": gpu_seconds, "gpu_seconds": gpu_seconds, "metrics": {"eval_loss": loss},
        "rungs": [rung] if rung else [], "action": action, "reason": None, "cutoff": None,
    }  # fmt: skip


def end(name: str, state: str, reason: str = "rung") -> dict[str, Any]:
    return {"event": "end", "time": 3.0, "trial": name, "state": state, "reason": reason, "error": None}
