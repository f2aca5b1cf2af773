"""Shares of modelled sweeps in which `scalesweep report` names an axis, where the truth is known.

    python benchmarks/axes.py [--sweeps 40] [--trials 25 60] [--family trend …] [--sampler tpe …]

Four axes without any effect are added to each family. Prints, for each case, the share of sweeps in which the report says that an
axis matters: the mean and the highest share of the four (`without`, `highest`), and those of size, learning rate and unfreezing,
which matter in all families. `covers` is the share of sweeps in which the interval of the size's difference holds the true one.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import numpy as np

from scalesweep.record import Record
from scalesweep.report.axes import effects
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.parametric import FAMILIES, Family, ParametricSource, family_spec
from scalesweep.simulation.simulator import Clock, Cluster, simulate
from scalesweep.spec import SweepSpec, sweep_from_dict

WITHOUT = {
    "max_grad_norm": {"values": [0.5, 1.0]},
    "adam_beta1": {"values": [0.8, 0.85, 0.9, 0.95]},
    "adam_beta2": {"min": 0.9, "max": 0.999},
    "layerwise_lr_decay": {"min": 0.6, "max": 1.0},
}
GPUS = 8
DRAWS = 5000  # of each size, for the true difference


def swept(family: Family, sampler: str, trials: int, seed: int) -> Record:
    spec = spec_of(family, sampler, trials)
    source, clock = ParametricSource(family, spec), Clock()
    source.__dict__ |= {"best": 0.0, "median": 1.0, "_random": np.ones(1)}  # of the regret, which is slow and not read here
    driver = SweepDriver(spec, source.n_params, GPUS, clock, seed)
    simulate(driver, source, Cluster(GPUS), clock, 1e6, seed, points=1)
    return driver.record


def spec_of(family: Family, sampler: str, trials: int, **fixed: str) -> SweepSpec:
    told = family_spec(family) | {"budget": {"run_cap": trials}, "search": {"sampler": sampler}}
    told["search_space"]["parameters"] |= WITHOUT | {name: {"value": value} for name, value in fixed.items()}
    return sweep_from_dict(told)


def mean_losses(family: Family, trials: int) -> dict[str, float]:
    """The mean final loss of each size over the space. A diverged configuration counts as the worst of so many trials."""
    drawn = {}
    for size in family.sizes:
        drawn[size] = ParametricSource(family, spec_of(family, "random", trials, model_size=size)).random_losses(DRAWS, seed=1)
    worst = np.nanquantile(np.concatenate(list(drawn.values())), 1 - 1 / trials)
    return {size: float(np.where(np.isnan(losses), worst, losses).mean()) for size, losses in drawn.items()}


def case(family: Family, sampler: str, trials: int, sweeps: int) -> dict[str, object]:
    named, covered = Counter[str](), []
    loss = mean_losses(family, trials)
    for seed in range(sweeps):
        for effect in effects(swept(family, sampler, trials, seed)):
            named[effect.axis] += effect.matters
            if effect.axis == "model_size":
                covered.append(effect.low <= loss[effect.worse] - loss[effect.better] <= effect.high)
    shares = [named[name] / sweeps for name in WITHOUT]
    row: dict[str, object] = {"family": family.name, "sampler": sampler, "trials": trials}
    row |= {"without": round(float(np.mean(shares)), 2), "highest": round(max(shares), 2)}
    row |= {name: round(named[name] / sweeps, 2) for name in ("model_size", "learning_rate", "unfreezing")}
    return row | {"covers": round(float(np.mean(covered)), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--trials", type=int, nargs="+", default=[25, 60])
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=["trend", "no_trend", "crossing"])
    parser.add_argument("--sampler", nargs="+", default=["random", "tpe", "forecast"])
    asked = parser.parse_args()
    rows = []
    for name in asked.family:
        for sampler in asked.sampler:
            for trials in asked.trials:
                rows.append(case(FAMILIES[name], sampler, trials, asked.sweeps))
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
