"""Occupancy of a full cluster while trials of 1, 2, 4 and 8 GPUs compete for 32, and the waits of the large ones.

    python benchmarks/cluster.py [--json] [--seeds 5] [--trials 300] [--live 96] [--no-live]

Simulated: whole sweeps (ASHA, modelled learning curves) with three placement policies. Live: trials that only sleep, on a
local Ray with 32 logical GPUs, run by scalesweep's driver, and then the same trials in the same order by stock Ray Tune with a
custom searcher. The last line of output is JSON.

Occupancy is the share of GPUs that train, from the start of the first trial until the last waiting one has started. During that
time some trial could use an idle GPU. A wait lasts from the proposal to the first start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.control.conductor import Conductor
from scalesweep.record import Record
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, Memory, SweepDriver, manifest, new_study
from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.simulation.simulator import Clock, Cluster, simulate
from scalesweep.spec import SweepSpec, sweep_from_dict

GPUS = 32
COUNTS = (1, 2, 4, 8)
FAMILY = "trend"
REPORTS = 8  # of a live trial
HAND_OVER = 0.5  # seconds; a trial's next report begins sooner after the last one


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Usage:
    occupancy: float
    longest_wait: dict[int, float]  # seconds, by GPU count
    trials: dict[int, int]  # by GPU count
    seconds: float  # of the window that occupancy is of
    yields: int = 0


@dataclass(frozen=True)
class Stretch:
    """A period during which a trial held its GPUs."""

    gpus: int
    began: float
    ended: float


def usage(stretches: Iterable[Stretch], waits: Mapping[str, tuple[int, float]], yields: int = 0) -> Usage:
    """The result of one run. `waits`: the GPU count and the wait in seconds of each started trial."""
    held = list(stretches)
    first, last = min(one.began for one in held), max(one.began for one in held)
    busy = sum(one.gpus * max(0.0, min(one.ended, last) - one.began) for one in held)
    longest = {count: max((wait for gpus, wait in waits.values() if gpus == count), default=0.0) for count in COUNTS}
    number = {count: sum(gpus == count for gpus, _ in waits.values()) for count in COUNTS}
    return Usage(busy / (GPUS * (last - first)), longest, number, last - first, yields)


# ---- simulated ----------------------------------------------------------------------------------------------------------


class InOrder(Conductor):
    """First come, first served, without overtaking."""

    def _gathered_for(self) -> str | None:
        return next(iter(self.waiting), None)


class WhateverFits(Conductor):
    """Place the longest-waiting trial that fits, as long as one fits."""

    def _gathered_for(self) -> str | None:
        return None


POLICIES: dict[str, type[Conductor]] = {"scalesweep": Conductor, "in order": InOrder, "whatever fits": WhateverFits}


class Kept(Memory):
    """A record that keeps its events."""

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.events: list[dict[str, Any]] = []

    def append(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        super().append(event)


def of_events(record: Record, events: Iterable[dict[str, Any]]) -> Usage:
    """The result of a sweep, from its record."""
    began: dict[str, float] = {}
    stretches: list[Stretch] = []
    last = 0.0
    yields = 0

    def give_back(name: str, when: float) -> None:
        if name in began:
            stretches.append(Stretch(int(record.trials[name].config["num_gpus"]), began.pop(name), when))

    for event in events:
        last, kind = event["time"], event["event"]
        if kind == "start":
            began[event["trial"]] = last
        elif kind in ("end", "yielded", "died") or (kind == "report" and event["action"] == "pause"):
            give_back(event["trial"], last)
            yields += kind == "yielded"
    for name in list(began):
        give_back(name, last)
    started = [trial for trial in record.trials.values() if trial.started is not None]
    waits = {t.name: (int(t.config["num_gpus"]), t.started - t.created) for t in started if t.started is not None}
    return usage(stretches, waits, yields)


def space(run_cap: int, **changes: Any) -> SweepSpec:
    document = family_spec(FAMILY)
    document["search_space"]["parameters"]["num_gpus"] = {"values": list(COUNTS)}
    return sweep_from_dict({**document, "budget": {"run_cap": run_cap}, **changes})


def simulated(policy: str, trials: int, seed: int) -> Usage:
    spec = space(trials)
    source, clock = ParametricSource(FAMILIES[FAMILY], spec), Clock()
    driver = SweepDriver(spec, {}, GPUS, clock, seed)
    old = driver.conductor
    kept = Kept(driver.record)
    driver.conductor = POLICIES[policy](old.spec, kept, old.proposer, lambda: GPUS, Everywhere(), clock)
    simulate(driver, source, Cluster(GPUS), clock, budget_gpu_hours=1e9, seed=seed)
    return of_events(driver.record, kept.events)


# ---- live ---------------------------------------------------------------------------------------------------------------


def seconds_of(params: Mapping[str, Any], shortest: float = 8.0, longest: float = 80.0) -> float:
    """The sleep of a live trial in seconds: between two limits, from a hash of its parameters; short sleeps are more frequent."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).digest()
    return shortest * (longest / shortest) ** (int.from_bytes(digest[:4], "big") / 2**32)


def _sleeper() -> type:
    from ray import tune

    class Sleeper(tune.Trainable):
        """A trial that sleeps between reports and logs the times."""

        def setup(self, config: dict[str, Any]) -> None:
            self.told = config
            self.at = int(config["done"])

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002 - stock Tune writes one at a trial's end
            return {}

        def step(self) -> dict[str, Any]:
            began = time.time()
            time.sleep(self.told["seconds"] / REPORTS)
            self.at += 1
            with Path(self.told["log"]).open("a") as file:
                line = {"trial": self.told["trial"], "gpus": self.told["gpus"], "began": began, "ended": time.time()}
                file.write(json.dumps(line) + "\n")
            report = {"fidelity": self.at, "step": self.at, "tokens": 0, "flops": 0.0, "metrics": {"eval_loss": 1.0}}
            return {"report": report, "done": self.at == REPORTS and self.told["stock"]}

    return Sleeper


def payload_of(name: str, params: Mapping[str, Any], gpus: int, done: int, log: Path, stock: bool) -> dict[str, Any]:
    return {"trial": name, "seconds": seconds_of(params), "gpus": gpus, "done": done, "log": str(log), "stock": stock}


def of_log(log: Path, proposed: Mapping[str, float], yields: int = 0) -> Usage:
    """The result of a live run, from the logs of its trials."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        first.setdefault(line["trial"], line)
    waits = {name: (line["gpus"], line["began"] - proposed[name]) for name, line in first.items()}
    held: dict[str, list[Stretch]] = {}
    for line in lines:  # from report to report a trial holds its GPUs on
        own = held.setdefault(line["trial"], [])
        follows = own and line["began"] - own[-1].ended < HAND_OVER
        began = own.pop().began if follows else line["began"]
        own.append(Stretch(line["gpus"], began, line["ended"]))
    return usage([stretch for own in held.values() for stretch in own], waits, yields)


def live_ours(trials: int, folder: Path) -> tuple[Usage, list[tuple[str, dict[str, Any], int]]]:
    """Run the trials with scalesweep. Also returns them in the order of their proposals: name, parameters, GPUs."""
    from scalesweep.sweep.bridge import run_tune
    from scalesweep.sweep.trainable import placement

    spec = space(
        trials,
        search={"sampler": "random"},
        early_terminate={"type": "asha", "time_attr": "steps", "grace_period": REPORTS, "max_t": REPORTS},
    )
    record = Record(manifest(spec, {}))
    kept = Kept(record)
    conductor = Conductor(spec, kept, Proposer(spec, new_study()), lambda: GPUS, Everywhere(), time.time)
    log = folder / "ours.jsonl"

    def payload(trial: Any) -> dict[str, Any]:
        return payload_of(trial.name, trial.params, int(trial.config["num_gpus"]), len(trial.reports), log, stock=False)

    run_tune(conductor, _sleeper(), placement(GPUS), payload, str(folder / "ours"))
    proposed = {trial.name: trial.created for trial in record.trials.values()}
    yields = sum(event["event"] == "yielded" for event in kept.events)
    order = [(trial.name, trial.params, int(trial.config["num_gpus"])) for trial in record.by_number()]
    return of_log(log, proposed, yields), order


def live_stock(order: list[tuple[str, dict[str, Any], int]], folder: Path) -> Usage:
    """Run the same trials with stock Ray Tune and a searcher that suggests them in order."""
    from ray import tune
    from ray.tune.search import Searcher

    log, proposed, left = folder / "stock.jsonl", {}, list(order)

    class Given(Searcher):
        def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
            if not left:
                return Searcher.FINISHED
            name, params, gpus = left.pop(0)
            proposed[name] = time.time()
            return payload_of(name, params, gpus, 0, log, stock=True)

        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None: ...

    resources: Callable[[dict[str, Any]], Any] = lambda config: tune.PlacementGroupFactory([{"GPU": config["gpus"]}])  # noqa: E731
    tune.Tuner(
        tune.with_resources(_sleeper(), resources),
        tune_config=tune.TuneConfig(search_alg=Given(), num_samples=len(order), reuse_actors=True),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "stock"), verbose=0),
    ).fit()
    return of_log(log, proposed)


def live(trials: int) -> dict[str, Usage]:
    import ray

    from scalesweep.sweep.launch import TUNE_SETTINGS

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {}
        for method in ("scalesweep", "stock Tune"):
            os.environ.update(TUNE_SETTINGS if method == "scalesweep" else {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"})
            ray.init(
                address="local", num_cpus=GPUS, num_gpus=GPUS, include_dashboard=False, log_to_driver=False,
                object_store_memory=200 * 1024**2, _memory=100 * 1024**3,
            )  # fmt: skip
            if method == "scalesweep":
                found[method], order = live_ours(trials, folder)
            else:
                found[method] = live_stock(order, folder)
            say(f"live, {method}: {found[method]}")
            ray.shutdown()
            for key in TUNE_SETTINGS:
                os.environ.pop(key, None)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=300, help="of a simulated sweep")
    parser.add_argument("--live", type=int, default=96, help="live trials")
    parser.add_argument("--no-live", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    options = parser.parse_args()
    rows: dict[str, list[Usage]] = {}
    for policy in POLICIES:
        rows[policy] = [simulated(policy, options.trials, seed) for seed in range(options.seeds)]
        say(f"simulated, {policy}: done")
    lived = {} if options.no_live else live(options.live)
    result: dict[str, Any] = {"gpus": GPUS, "seeds": options.seeds, "trials": options.trials, "simulated": {}, "live": {}}
    for policy, seeds in rows.items():
        result["simulated"][policy] = {
            "occupancy": statistics.median(one.occupancy for one in seeds),
            "occupancy_least": min(one.occupancy for one in seeds),
            "longest_wait_s": {count: max(one.longest_wait[count] for one in seeds) for count in COUNTS},
            "trials": {count: sum(one.trials[count] for one in seeds) for count in COUNTS},
            "yields": sum(one.yields for one in seeds),
            "hours": statistics.median(one.seconds for one in seeds) / 3600,
        }
    for method, one in lived.items():
        result["live"][method] = {
            "occupancy": one.occupancy,
            "longest_wait_s": one.longest_wait,
            "trials": one.trials,
            "yields": one.yields,
            "seconds": one.seconds,
        }
    if not options.json:
        for kind in ("simulated", "live"):
            for name, row in result[kind].items():
                waits = "  ".join(f"{count}: {wait:,.0f} s" for count, wait in row["longest_wait_s"].items())
                shares = "  ".join(f"{count}: {number}" for count, number in row["trials"].items())
                print(f"{kind:10} {name:14} occupancy {row['occupancy']:.1%}  longest wait {waits}  trials {shares}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
