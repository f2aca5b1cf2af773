"""The samplers: a file per name of `spec.sweep.SAMPLERS`, whose class `Sampler` proposes the parameters of new trials.

A sampler sees the trials through the study or the outlook and must depend on nothing else, so that a resumed sweep proposes as
one without interruption. The study (`proposals.py`) keeps every proposal; a sampler of our own chooses before the study is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalesweep.search.outlook import Outlook
from scalesweep.spec import SweepSpec

if TYPE_CHECKING:
    import optuna

REPEAT = "repeat of"  # user attribute of a repeat in the study: the trial whose parameters it trains again


@dataclass(frozen=True)
class Ask:
    """The demands on a proposal.

    `number` is the trial's number in the record and seeds the draw. `allowed` says whether a trial with given parameters can
    run. `num_gpus` are the allowed GPU counts, empty for all. `left` is the most GPU seconds that the trial may take. `paused`
    are the names of trials that wait at a rung.
    """

    number: int
    allowed: Callable[[dict[str, Any]], bool] = lambda params: True  # noqa: ARG005
    num_gpus: Collection[float] = ()
    left: float = math.inf
    paused: Collection[str] = ()


class BaseSampler:
    """A sampler that leaves everything to the study, which draws at random. The others override what they change."""

    past_in_study = True  # whether the study holds the trials of a warm start, because its sampler learns from them

    def __init__(self, spec: SweepSpec, n_params: Mapping[str, float], outlook: Outlook) -> None:
        """
        Args:
            n_params: known parameter counts of sizes.
            outlook: all trials and their forecasts.
        """
        self.spec, self.n_params, self.outlook = spec, n_params, outlook

    def view(self, storage: optuna.storages.BaseStorage) -> optuna.storages.BaseStorage:
        """The storage of the study as the sampler sees it."""
        return storage

    def of_study(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler with which the study draws what `choose` leaves open."""
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)

    def choose(self, ask: Ask) -> dict[str, Any] | None:  # noqa: ARG002
        """The parameters that the study shall take; empty if it draws them. None if nothing is left to propose."""
        return {}


def make_sampler(spec: SweepSpec, n_params: Mapping[str, float], outlook: Outlook) -> BaseSampler:
    """The sampler of a sweep, from the file of its name."""
    made: BaseSampler = import_module(f"{__name__}.{spec.search.sampler}").Sampler(spec, n_params, outlook)
    return made
