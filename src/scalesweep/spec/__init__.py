"""What the user writes, typed and checked: the sweep, the search space, and one trial's configuration."""

from scalesweep.spec.config import TrialConfig, rung_levels, trial_config
from scalesweep.spec.load import allowed_gpus, gpu_choices, load_sweep, sweep_from_dict
from scalesweep.spec.space import PARAMETERS, Parameter, SearchSpace
from scalesweep.spec.sweep import LadderSize, SweepSpec

__all__ = [
    "PARAMETERS",
    "LadderSize",
    "Parameter",
    "SearchSpace",
    "SweepSpec",
    "TrialConfig",
    "allowed_gpus",
    "gpu_choices",
    "load_sweep",
    "rung_levels",
    "sweep_from_dict",
    "trial_config",
]
