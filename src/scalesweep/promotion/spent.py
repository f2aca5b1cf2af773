"""GPU hours, dollars and energy of a promoted model: of its sweep, of the confirmation, and of the final run.

The energy is an estimate: GPU hours × the most power that a board is built to draw. The rest of the machine, its cooling and
pauses of a GPU are not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scalesweep.costs import dollars
from scalesweep.record import Record, Trial
from scalesweep.record.prices import paid_in_all

# Watts of a board by the name that its driver reports: the maximum power in NVIDIA's data sheet or product brief of that board
# (https://www.nvidia.com/en-us/data-center/, https://www.nvidia.com/en-us/geforce/graphics-cards/).
# Boards whose name does not tell their power apart (mobile ones, slices of MIG) are left out.
BOARD_WATTS: dict[str, float] = {
    "NVIDIA B200": 1000,
    "NVIDIA H200": 700,
    "NVIDIA H200 NVL": 600,
    "NVIDIA H100 80GB HBM3": 700,
    "NVIDIA H100 NVL": 400,
    "NVIDIA H100 PCIe": 350,
    "NVIDIA A100-SXM4-80GB": 400,
    "NVIDIA A100-SXM4-40GB": 400,
    "NVIDIA A100 80GB PCIe": 300,
    "NVIDIA A100-PCIE-40GB": 250,
    "NVIDIA L40S": 350,
    "NVIDIA L40": 300,
    "NVIDIA L4": 72,
    "NVIDIA A40": 300,
    "NVIDIA A30": 165,
    "NVIDIA A10": 150,
    "NVIDIA RTX A6000": 300,
    "NVIDIA RTX 6000 Ada Generation": 300,
    "NVIDIA GeForce RTX 4090": 450,
    "NVIDIA GeForce RTX 3090": 350,
    "Tesla V100-SXM2-32GB": 300,
    "Tesla V100-SXM2-16GB": 300,
    "Tesla T4": 70,
}


def spent(record: Record, size: str, device: str, gpu_seconds: float, board_watts: float | None) -> dict[str, Any]:
    """The costs of a promotion, as they stand in `provenance.json`.

    Args:
        record: of the sweep.
        size: the size of the final run, whose price per GPU hour holds.
        device: name of the GPU of the final run, or `cpu`.
        gpu_seconds: of the final run, over all its sessions.
        board_watts: power of one board, or of a CPU worker; default: that of the maker, where it is known.

    Returns:
        `sweep`, `confirmation` (where there was one) and `final_run`, each with `gpu_hours`, `dollars` and `kwh`; None is unknown.
        `watts`: of each device. `no_energy`: why some energy is unknown; empty if all is known.
    """
    before = record.before_confirmation()
    later = [trial for name, trial in record.trials.items() if name not in before.trials]
    confirmed = math.fsum(trial.gpu_seconds for trial in later)
    priced = [dollars(trial.gpu_seconds, record.manifest.price(str(trial.config.get("model_size")))) for trial in later]
    paid, of_later = paid_in_all(record), math.fsum(one for one in priced if one is not None)
    by_device = _by_device(list(record.trials.values()))
    names = sorted({device, *(by_device or ())})
    watts = {name: found for name in names if (found := board_watts or BOARD_WATTS.get(name)) is not None}
    mean = board_watts or _mean_watts(by_device, watts)
    parts = {
        "sweep": _part(record.gpu_seconds - confirmed, None if paid is None else paid - of_later, mean),
        "confirmation": _part(confirmed, None if paid is None else of_later, mean),
        "final_run": _part(gpu_seconds, dollars(gpu_seconds, record.manifest.price(size)), watts.get(device)),
    }
    if not later:
        del parts["confirmation"]
    return {
        **parts,
        "watts": watts,
        "given": board_watts is not None,
        "no_energy": "" if board_watts else _why_not(names, by_device, watts),
    }


def _part(gpu_seconds: float, paid: float | None, watts: float | None) -> dict[str, float | None]:
    hours = gpu_seconds / 3600
    return {"gpu_hours": hours, "dollars": paid, "kwh": None if watts is None else hours * watts / 1000}


def _by_device(trials: list[Trial]) -> dict[str, float]:
    """The GPU seconds of the trials on each device; empty where the record does not name one."""
    found: dict[str, float] = {}
    for trial in trials:
        if trial.last is not None and trial.last.device:
            found[trial.last.device] = found.get(trial.last.device, 0.0) + trial.gpu_seconds
    return found


def _mean_watts(seconds: Mapping[str, float], watts: Mapping[str, float]) -> float | None:
    """The mean power of the sweep's boards, each as long as it ran. That of a trial without a report is taken to be the same."""
    total = math.fsum(seconds.values())
    if not total or seconds.keys() - watts.keys():
        return None
    return math.fsum(watts[name] * share for name, share in seconds.items()) / total


def _why_not(names: list[str], by_device: Mapping[str, float], watts: Mapping[str, float]) -> str:
    unknown = [name for name in names if name not in watts]
    if unknown == ["cpu"]:
        return "it ran on CPU workers, which count as GPUs here, and their power is unknown"
    if unknown:
        return f"the power of {', '.join(unknown)} is unknown"
    return "" if by_device else "the record of the sweep does not name its boards"
