"""The speed of runs that were not made, from the measured speed of those that were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalesweep.costs import workers_of
from scalesweep.record import Record
from scalesweep.scaling.sizes import Counting, sizes_of

FULL = ("full", "none")
DOUBLING = 0.9  # efficiency of a doubling of GPUs where none was measured, as `simulate` assumes

Method = tuple[str, str]  # unfreezing mode and adapter, which decide the work of a step


@dataclass(frozen=True)
class Measured:
    """The speed of a size on a GPU count with a method. `flops` are those of a token; 0 in records that don't have them."""

    n_params: float
    num_gpus: int
    method: Method
    tokens_per_second: float
    flops: float


@dataclass(frozen=True)
class Speed:
    """Tokens per second of all GPUs together. `basis`: where it comes from, measured | other GPU count | other size."""

    tokens_per_second: float
    basis: str


@dataclass(frozen=True)
class Speeds:
    """Every measured speed, and the efficiency of a doubling of GPUs: measured, or None where no pair of trials tells it."""

    measured: tuple[Measured, ...]
    doubling: float | None

    @property
    def counts(self) -> list[int]:
        return sorted({one.num_gpus for one in self.measured})

    def of(self, n_params: float, num_gpus: int, method: Method) -> Speed | None:
        """The speed of a run; None where no trial with this method has one.

        Between GPU counts it follows the efficiency of a doubling. Between sizes the FLOPs per second and GPU stay as they are at
        the nearest size, and the FLOPs of a token grow with the parameters.
        """
        known = [one for one in self.measured if one.method == method]
        if not known:
            return None
        nearest = min(known, key=lambda one: (abs(math.log(one.n_params / n_params)), abs(math.log(one.num_gpus / num_gpus))))
        power = 1 + math.log2(self.doubling or DOUBLING)
        rate = nearest.tokens_per_second * (num_gpus / nearest.num_gpus) ** power * nearest.n_params / n_params
        basis = "measured" if nearest.num_gpus == num_gpus else "other GPU count"
        return Speed(rate, "other size" if nearest.n_params != n_params else basis)

    def flops_per_second(self, n_params: float, method: Method) -> float | None:
        """The FLOPs per second and GPU at the nearest size; None where the records have no FLOPs."""
        known = [one for one in self.measured if one.method == method and one.flops > 0]
        if not known:
            return None
        nearest = min(known, key=lambda one: (abs(math.log(one.n_params / n_params)), one.num_gpus))
        return nearest.tokens_per_second * nearest.flops / nearest.num_gpus


def speeds(records: Sequence[Record], counting: Counting = "total") -> Speeds:
    """The measured speeds of several sweeps.

    A step of a trial that trains everything costs the same from the first on. Other trials count only where they reached the end,
    because their steps cost more when more is unfrozen. Evaluation is left out: a final run has none on the way.
    """
    found: dict[tuple[float, int, Method], list[tuple[float, float, float]]] = {}
    for record in records:
        sizes = sizes_of(record, counting)
        for trial in record.by_number():
            last, size = trial.last, sizes.get(str(trial.config.get("model_size")))
            method = (str(trial.config.get("unfreezing", "full")), str(trial.config.get("adapter", "none")))
            if last is None or not size or not last.tokens or (method != FULL and last.fidelity < record.manifest.max_t):
                continue
            if seconds := last.train_seconds or last.wall_seconds:
                key = (size, workers_of(trial.num_gpus), method)
                found.setdefault(key, []).append((last.tokens, seconds, last.model_flops or last.flops))
    rows = []
    for (size, gpus, method), told in found.items():
        tokens, seconds, flops = (sum(column) for column in zip(*told, strict=True))
        rows.append(Measured(size, gpus, method, tokens / seconds, flops / tokens))
    return Speeds(tuple(rows), _doubling(rows))


def _doubling(rows: Sequence[Measured]) -> float | None:
    """The median efficiency of a doubling over all pairs of GPU counts of one size and method."""
    gains = [
        math.log(more.tokens_per_second / less.tokens_per_second) / math.log(more.num_gpus / less.num_gpus)
        for less in rows
        for more in rows
        if (more.n_params, more.method) == (less.n_params, less.method) and more.num_gpus > less.num_gpus
    ]
    return float(2 ** (np.median(gains) - 1)) if gains else None
