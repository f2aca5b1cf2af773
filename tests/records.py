"""A sweep as its events tell it: ten trials, every state, no training."""

from __future__ import annotations

from typing import Any

from scalesweep.record import Record
from scalesweep.record.manifest import SCHEMA_VERSION
from scalesweep.record.schema import replay

START = 1_700_000_000.0
RUNGS = [40, 120, 360]
MAX_T = 360
SIZES = {"L1": 12_000_000, "L4": 18_873_216, "L6": 22_713_216}

# number, size, GPUs, unfreezing, schedule, learning rate, eval losses at 40, 80, 120, 240, 360, end (state, reason, error)
TRIALS: list[tuple[int, str, int, str, str, float, list[float], tuple[str, str, str | None] | None]] = [
    (0, "L1", 1, "full", "linear", 3e-4, [0.68, 0.66, 0.62, 0.60, 0.58], ("COMPLETE", "max_t", None)),
    (1, "L6", 2, "gradual", "cosine", 1.2e-4, [0.60, 0.55, 0.52, 0.47, 0.44], ("COMPLETE", "max_t", None)),
    (2, "L4", 1, "head", "warmup_stable_decay", 2.5e-3, [0.50, 0.49, 0.57], ("PRUNED", "rung", None)),
    (3, "L4", 2, "full", "cosine_with_min_lr", 8e-3, [0.71], ("PRUNED", "rung", None)),
    (4, "L6", 1, "full", "polynomial", 1e-2, [0.65, float("nan")], ("FAIL", "diverged", "eval_loss is NaN at step 80")),
    (5, "L1", 2, "head", "slanted_triangular", 1e-3, [0.69], ("PRUNED", "rung", None)),
    (6, "L4", 1, "gradual", "inverse_sqrt", 5e-4, [0.58, 0.54, 0.50], ("PRUNED", "budget", None)),
    (7, "L6", 2, "full", "linear", 2e-4, [], ("FAIL", "error", "RayActorError: node lost\n  at 10.0.0.3")),
    (8, "L6", 4, "full", "linear", 2e-4, [], ("INFEASIBLE", "placement", "4 GPUs never free")),
    (9, "L4", 1, "gradual", "cosine", 6e-4, [0.57, 0.53], None),
]
FIDELITIES = (40, 80, 120, 240, 360)


def make_manifest(**changes: Any) -> dict[str, Any]:
    """A manifest as `launch` writes it. `changes` replace top-level keys."""
    spec = {
        "name": "quick",
        "task": "sequence-classification",
        "metric": {"name": "eval_loss", "goal": "minimize"},
        "training": {"global_batch_size": 32},
        "early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 40, "max_t": MAX_T, "reduction_factor": 3},
        "budget": {"run_cap": 24, "time": 300.0, "gpu_hours": None, "dollars": None},
        "resources": {"max_concurrent_trials": 2, "dollars_per_gpu_hour": None},
        "tracking": {"wandb": {"mode": "offline", "project": "tests", "entity": None, "tags": ["night"]}},
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "id": "0123456789abcdef0123456789abcdef",
        "name": "quick",
        "spec": spec,
        "metric": {"name": "eval_loss", "goal": "minimize"},
        "time_attr": "steps",
        "max_t": MAX_T,
        "rungs": list(RUNGS),
        "rung_count": len(RUNGS),
        "ladder": [
            {"name": name, "n_params": n_params, "n_layers": int(name[1:]), "hidden_size": 384, "model": "/home/me/minilm"}
            for name, n_params in SIZES.items()
        ],
        "data": {"fingerprint": "f00dfeed"},
        "versions": {"scalesweep": "0.1.0"},
        "seeds": {"search": 0, "training": 0},
        "git": None,
    }
    return manifest | changes


def make_events() -> list[dict[str, Any]]:
    """All trials side by side: each is made and started in turn, then reports go round until all have ended."""
    events: list[dict[str, Any]] = [{"event": "session", "time": START, "resumed": False}]
    when = START

    def add(kind: str, **fields: Any) -> None:
        nonlocal when
        when += 2.0
        events.append({"event": kind, "time": when, **fields})

    for number, size, gpus, unfreezing, schedule, rate, _, end in TRIALS:
        params = {
            "model_size": size,
            "num_gpus": gpus,
            "unfreezing": unfreezing,
            "lr_scheduler_type": schedule,
            "learning_rate": rate,
        }
        if unfreezing == "gradual":
            params["unfreeze_interval"] = 40
        config = {"unfreeze_interval": 100, "weight_decay": 0.01, "dropout": None, "global_batch_size": 32, "max_t": MAX_T}
        name = f"t{number:04}"
        add("trial", trial=name, number=number, params=params, config={**config, **params})
        if end is None or end[0] != "INFEASIBLE":
            add("start", trial=name, attempt=1)
    for turn, fidelity in enumerate(FIDELITIES):
        for number, size, gpus, _, _, rate, losses, end in TRIALS:
            if turn < len(losses):
                last = end is not None and turn == len(losses) - 1
                seconds = fidelity * SIZES[size] / 2e7
                add(
                    "report",
                    trial=f"t{number:04}",
                    fidelity=fidelity,
                    step=fidelity,
                    tokens=fidelity * 32 * 40,
                    flops=6.0 * SIZES[size] * fidelity * 32 * 40,
                    wall_seconds=seconds,
                    gpu_seconds=seconds * gpus,
                    metrics={"eval_loss": losses[turn], "eval_accuracy": 1 - losses[turn] / 2, "train_loss": losses[turn] * 0.9}
                    | {"learning_rate": rate, "epoch": fidelity / 125},
                    rungs=[RUNGS.index(fidelity) + 1] if fidelity in RUNGS else [],
                    action=("complete" if end and end[0] == "COMPLETE" else "stop") if last else "continue",
                    reason=end[1] if last and end else None,
                    cutoff=0.55 if last and end and end[1] == "rung" else None,
                )
            if end is not None and turn == max(len(losses) - 1, 0):
                add("end", trial=f"t{number:04}", state=end[0], reason=end[1], error=end[2])
    return events


def make_record(events: list[dict[str, Any]] | None = None, **changes: Any) -> Record:
    """The record of `events` (all of `make_events()` by default); `changes` replace keys of the manifest."""
    return replay(make_manifest(**changes), make_events() if events is None else events)


def curve(
    number: int, size: str, losses: list[float], seconds: float = 10.0, at: tuple[int, ...] = (40, 120, 360)
) -> list[Any]:
    """A trial's events in the form of older records, without marks at the rungs."""
    name = f"t{number:04}"
    config = {"model_size": size, "num_gpus": 1}
    events: list[Any] = [
        {"event": "trial", "time": 1.0, "trial": name, "number": number, "params": {"x": number}, "config": config},
        {"event": "start", "time": 1.0, "trial": name, "attempt": 1},
    ]
    for place, (fidelity, loss) in enumerate(zip(at, losses, strict=False), start=1):
        events.append({
            "event": "report", "time": 2.0, "trial": name, "fidelity": fidelity, "step": fidelity, "tokens": fidelity, "flops": 1.0,
            "wall_seconds": seconds * place, "gpu_seconds": seconds * place, "dollars": 2 * seconds * place,
            "metrics": {"eval_loss": loss}, "rungs": [place], "action": "continue", "reason": None, "cutoff": None,
        })  # fmt: skip
    return events


def make_searched(
    rows: list[tuple[dict[str, Any], list[float]]], space: dict[str, Any], goal: str = "minimize", ends: Any = ()
) -> Record:
    """A record of trials with these parameters and losses at the rungs, in a search space. `ends`: further events."""
    events = []
    for number, (params, losses) in enumerate(rows):
        told = curve(number, params.get("model_size", "L4"), losses)
        told[0] |= {"params": params, "config": told[0]["config"] | params}
        events += told
    spec = make_manifest()["spec"] | {"search_space": {"parameters": space}}
    return make_record([*events, *ends], spec=spec, metric={"name": "eval_loss", "goal": goal})
