"""Protein, the sweep algorithm of PufferLib 3.0, from the file `pufferlib/sweep.py` of its source."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro

from .axes import Axis, axis
from .base import Rival, Shown

LENGTH = "total_timesteps"
POINTS = 10  # points per learning curve: `downsample` in PufferLib's default.ini


def load() -> Any:
    """Import `sweep.py` alone. It needs one function of PufferLib, which requires game libraries; a stub replaces it if absent."""
    where = Path(os.environ["PROTEIN_PATH"])
    file = next(path for path in (where / "sweep.py", where / "pufferlib" / "sweep.py") if path.exists())
    spec = importlib.util.spec_from_file_location("protein_sweep", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stands_in = importlib.util.find_spec("pufferlib") is None
    if stands_in:
        stand_in = ModuleType("pufferlib")
        stand_in.unroll_nested_dict = unroll  # type: ignore[attr-defined]
        sys.modules["pufferlib"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        if stands_in:
            del sys.modules["pufferlib"]
    return module


def unroll(nested: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{below}", leaf) for below, leaf in unroll(value))
        else:
            yield key, value


def downsample(values: list[float]) -> list[float]:
    """The means of `POINTS` equal sections and the last value, as in PufferLib's `downsample`."""
    if len(values) < POINTS + 1:
        return values
    stretches = np.array(values[:-1][-((len(values) - 1) // POINTS * POINTS) :]).reshape(POINTS, -1).mean(axis=1)
    return [*map(float, stretches), values[-1]]


class Protein(Rival):
    """`Protein` as PufferLib's own `sweep` runs it: defaults, the run's length as a parameter (`total_timesteps`, scale
    `time`), and each run observed at up to eleven points of its learning curve, each with its own length and cost.

    PufferLib maximizes a score. With `goal: minimize`, version 3.0 prefers suggestions beyond its cost limit, so a minimized
    metric is negated instead. `max_suggestion_cost` (an hour by default) is raised, because trials end at `max_t`. It has no
    failures (it keeps a failure as an observation), so a diverged trial gets the worst score so far. It does not know running
    trials either: all trials that start before the end of the first get its search centre.
    """

    def imports(self) -> None:
        self.module = load()
        # Pyro keeps parameters by name for the whole process, so those of another family's space or of CARBS would be reused.
        pyro.clear_param_store()

    def build(self) -> None:
        self.axes = {name: axis(self.spec, name, parameter) for name, parameter in self.free_parameters()}
        if self.max_t > self.min_t:
            self.axes[LENGTH] = Axis(LENGTH, self.min_t, self.max_t, min(2 * self.min_t, self.max_t), log=True)
        config: dict[str, Any] = {"metric": self.spec.metric.name, "goal": "maximize"}
        for name, one in self.axes.items():
            kind = "log_normal" if one.log else "int_uniform" if one.integer else "uniform"
            scale = "time" if name == LENGTH else "auto"
            config[name] = {"distribution": kind, "min": one.low, "max": one.high, "mean": one.center, "scale": scale}
        self.worst = math.inf
        with contextlib.redirect_stdout(io.StringIO()):
            self.tool = self.module.Protein(config, max_suggestion_cost=math.inf)

    def ask(self) -> Shown:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its predictions
            suggestion, _ = self.tool.suggest({})
        trial = self.new(self.held({name: one.decode(suggestion[name]) for name, one in self.axes.items()}), suggestion)
        trial.handle = {**suggestion, "costs": []}
        return trial

    def told(self, trial: Shown, fidelity: float, value: float, last: bool) -> bool:
        trial.handle["costs"].append(self.cost(trial))
        self.worst = min(self.worst, self.sign * value)
        if not last and fidelity < trial.handle.get(LENGTH, math.inf) * (1 - 1e-9):
            return True
        self._observe(trial)
        return False

    def failed(self, trial: Shown) -> None:
        if math.isfinite(self.worst):
            self._observe(trial, self.worst)

    def _observe(self, trial: Shown, score: float | None = None) -> None:
        hypers = {name: number for name, number in trial.handle.items() if name != "costs"}
        if score is not None:
            self.tool.observe(hypers, score, max(trial.handle["costs"], default=self.cost(trial)))
            return
        lengths, values = zip(*trial.reports, strict=True)
        scores = [self.sign * value for value in values]
        for length, seen, cost in zip(*map(downsample, (list(lengths), scores, trial.handle["costs"])), strict=True):
            self.tool.observe({**hypers, LENGTH: length}, seen, cost)

    def best(self) -> Shown | None:
        """The trial with the best value among those with the longest runs. Protein itself names none; its users read a plot."""
        furthest = max((trial.last[0] for trial in self.trials.values() if trial.reports), default=0.0)
        return self.best_of([trial for trial in self.trials.values() if trial.reports and trial.last[0] == furthest])
