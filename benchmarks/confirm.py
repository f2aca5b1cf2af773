"""The gain of `promote --confirm`, on made-up sweeps where the truth is known.

    python benchmarks/confirm.py [--sweeps 1500] [--trials 30]

The true losses of the configurations are drawn around 0 with standard deviation 1, and each training adds the noise of its seed.
The best of the sweep are confirmed as a sweep would. For each case, prints the mean true loss of the trial that the sweep would
promote and of the one promoted after the confirmation; the mean of the promoted trial's value less its true loss, in the sweep, on
new seeds and over all; the share of 95 % intervals that hold the true loss; and the mean number of new trainings.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from statistics import mean

from scalesweep.record import Confirmation, Record, Report, State, Trial, rank
from scalesweep.record.confirmed import confirmed
from scalesweep.record.manifest import Manifest
from scalesweep.search.confirm import planned

MANIFEST = Manifest({"name": "made up", "metric": {"name": "eval_loss", "goal": "minimize"}})
CASES = [(0.2, 3, 2), (0.5, 3, 2), (1.0, 3, 2), (1.0, 5, 4)]  # sd of a seed, configurations, new seeds of each


@dataclass(frozen=True)
class Outcome:
    truth_before: float
    truth: float
    sweep: float
    new: float
    mean: float
    holds: bool
    trainings: int


def trained(number: int, loss: float, repeat_of: str | None = None) -> Trial:
    report = Report(1, 1, 1, 1.0, 1.0, 1.0, {"eval_loss": loss}, rungs=(1,), action="complete")
    config = {"num_gpus": 1, "seed": 0}
    return Trial(
        number, f"t{number:04d}", {}, config, 0.0, repeat_of=repeat_of, state=State.COMPLETE, reports=[report], gpu_seconds=1.0
    )


def simulated(draws: random.Random, trials: int, noise: float, most: int, seeds: int) -> Outcome:
    truth = [draws.gauss(0, 1) for _ in range(trials)]
    record = Record(MANIFEST)
    for number, loss in enumerate(truth):
        trial = trained(number, loss + draws.gauss(0, noise))
        record.trials[trial.name] = trial
    leaders = [row.trial for row in rank(record)[:most]]
    record.confirmation = Confirmation(tuple(trial.name for trial in leaders), seeds, trials, "budget: run_cap")
    while names := planned(record):
        for name in names:
            loss = truth[record.trials[name].number] + draws.gauss(0, noise)
            trial = trained(len(record.trials), loss, name)
            record.trials[trial.name] = trial
    first = confirmed(record)[0]
    true = truth[record.trials[first.trial].number]
    assert first.value is not None
    assert first.half is not None
    holds = abs(first.value - true) <= first.half
    errors = first.sweep - true, first.value - true, first.mean - true
    return Outcome(truth[leaders[0].number], true, *errors, holds, len(record.trials) - trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=1500)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    found = []
    for noise, most, seeds in CASES:
        draws = random.Random(0)
        runs = [simulated(draws, options.trials, noise, most, seeds) for _ in range(options.sweeps)]
        names = ("truth_before", "truth", "sweep", "new", "mean", "holds", "trainings")
        figures = {name: round(mean(float(getattr(run, name)) for run in runs), 2) for name in names}
        found.append({"noise": noise, "configurations": most, "seeds": seeds, **figures})
        print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
