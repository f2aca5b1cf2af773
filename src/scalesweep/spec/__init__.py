"""Typed and checked user input: the sweep, the search space, and one trial's configuration."""

from scalesweep.spec.checks import allowed_gpus, gpu_choices, unfreezing_modes
from scalesweep.spec.config import TrialConfig, rung_count, rung_levels, trial_config
from scalesweep.spec.limits import change_limits
from scalesweep.spec.load import load_sweep, sweep_from_dict
from scalesweep.spec.resources import price_of
from scalesweep.spec.space import PARAMETERS, Parameter, SearchSpace
from scalesweep.spec.sweep import LadderSize, SweepSpec
from scalesweep.spec.warm_start import earlier_trials

__all__ = [
    "PARAMETERS",
    "LadderSize",
    "Parameter",
    "SearchSpace",
    "SweepSpec",
    "TrialConfig",
    "allowed_gpus",
    "change_limits",
    "earlier_trials",
    "gpu_choices",
    "load_sweep",
    "price_of",
    "rung_count",
    "rung_levels",
    "sweep_from_dict",
    "trial_config",
    "unfreezing_modes",
]
