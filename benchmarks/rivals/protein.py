"""Protein, the sweeps of PufferLib 3.0, from the one file `pufferlib/sweep.py` of its source."""

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
POINTS = 10  # of each learning curve: `downsample` in PufferLib's default.ini


def load() -> Any:
    """`sweep.py` alone. Of PufferLib, which brings game libraries, it needs one function: stood in for if it is not there."""
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
    """Means of `POINTS` even stretches, and the last value, as PufferLib's `downsample`."""
    if len(values) < POINTS + 1:
        return values
    stretches = np.array(values[:-1][-((len(values) - 1) // POINTS * POINTS) :]).reshape(POINTS, -1).mean(axis=1)
    return [*map(float, stretches), values[-1]]


class Protein(Rival):
    """`Protein` as PufferLib's own `sweep` runs it: defaults, the run's length as a parameter (`total_timesteps`, scale
    `time`), and each run observed at up to eleven points of its learning curve, each with its own length and cost.

    PufferLib maximizes a score, and with `goal: minimize` 3.0 prefers what its cost limit rules out, so a minimized metric is
    negated. `max_suggestion_cost` (an hour by default) is lifted: trials end at `max_t`. It knows no failures (a failure is
    kept as an observation), so a diverged trial gets the worst score so far. It does not know of running trials either: all
    that start before the first has ended get its search centre.
    """

    def imports(self) -> None:
        self.module = load()
        # Pyro keeps parameters by name for the whole process: those of another family's space, or of CARBS, would be taken up.
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
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it predicts
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
        """It names none (its users look at a plot): the best value of those that got furthest."""
        furthest = max((trial.last[0] for trial in self.trials.values() if trial.reports), default=0.0)
        return self.best_of([trial for trial in self.trials.values() if trial.reports and trial.last[0] == furthest])
