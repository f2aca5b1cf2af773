"""Other optimizers as drivers of a simulation, each used through its public interface as its authors recommend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from scalesweep.spec import SweepSpec

from .base import Rival


@dataclass(frozen=True)
class Entry:
    """The location and requirements of a rival, which is imported only by `make`."""

    group: Literal["stock", "research"]
    module: str
    factory: str  # name of its class in the module
    needs: tuple[str, ...]  # packages that it imports
    checkout: str | None = None  # environment variable with the folder of a git checkout, if no package index has it

    def missing(self) -> str | None:
        """The reason why it can't run here; None if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        if absent:
            return f"not installed: {', '.join(absent)} (pip install -r benchmarks/rivals.txt)"
        if self.checkout and not Path(os.environ.get(self.checkout) or "missing folder").is_dir():
            return f"not installed: {self.checkout} does not name a folder (see benchmarks/rivals.txt)"
        return None

    def make(self, spec: SweepSpec, seed: int, n_params: Mapping[str, float]) -> Rival:
        if reason := self.missing():
            raise ModuleNotFoundError(reason)
        return getattr(import_module(f".{self.module}", __name__), self.factory)(spec, seed, n_params)


_CARBS = ("torch", "pyro", "sklearn", "wandb", "seaborn", "loguru", "cattr")
RIVALS: dict[str, Entry] = {
    "random+asha": Entry("stock", "ray_tune", "RandomAsha", ("ray",)),
    "tune": Entry("stock", "ray_tune", "Tune", ("ray", "optuna")),
    "optuna-hyperband": Entry("stock", "optuna_pruners", "OptunaHyperband", ("optuna",)),
    "syne-tune": Entry("research", "syne", "AshaCqr", ("syne_tune", "xgboost", "huggingface_hub")),
    "syne-tune-bore": Entry("research", "syne", "AshaBore", ("syne_tune", "xgboost", "huggingface_hub")),
    "neps": Entry("research", "neps_brackets", "NepsHyperband", ("neps",)),
    "neps-priorband": Entry("research", "neps_brackets", "NepsPriorBand", ("neps",)),
    "carbs": Entry("research", "carbs_local", "Carbs", _CARBS, "CARBS_PATH"),
    "carbs-length": Entry("research", "carbs_local", "CarbsLength", _CARBS, "CARBS_PATH"),
    "protein": Entry("research", "protein", "Protein", ("torch", "pyro"), "PROTEIN_PATH"),
}
