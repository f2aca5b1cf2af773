"""Time of a sweep's controller per suggestion and per report as the history grows. The last line of output is JSON.

    python benchmarks/controller.py [--json] [--most 10000] [--only SAMPLER …] [--cap-seconds 60]

The history is the record of a sweep over the quickstart's space, with random trials and artificial curves. For each size, sampler
and storage, a separate process loads the record like a resumed sweep. Then it is asked for 10 more trials and receives their
reports. Nothing trains: the benchmark times the conductor and everything that it calls.
"""

from __future__ import annotations

import os

# Set before NumPy is imported, also in workers, because the processes share the processor.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"))

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from families import draw
from optuna.storages import BaseStorage, InMemoryStorage

from scalesweep.control.conductor import Conductor
from scalesweep.record.schema import replay
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, Memory, manifest
from scalesweep.simulation.simulator import Clock
from scalesweep.spec import SweepSpec, load_sweep, trial_config

SWEEP = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
SIZES = (10, 100, 1_000, 10_000)
SHOWN = 10  # timed suggestions
GPUS = 2
N_PARAMS = {"L4": 6e6, "L5": 7.5e6, "L6": 9e6}
STEPS = (30.0, 60.0, 90.0)  # evaluations of the quickstart
CASES = {  # name → (sampler, whether the study is in the journal file that a launch keeps)
    "forecast": ("forecast", False),
    "tpe": ("tpe", False),
    "random": ("random", False),
    "forecast, journal": ("forecast", True),
    "tpe, journal": ("tpe", True),
}
RUNGS = (30.0,)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def spec_of(sampler: str) -> SweepSpec:
    """The quickstart's sweep with the search defaults and without a limit."""
    spec = load_sweep(SWEEP, [f"search={{sampler: {sampler}}}", "budget={run_cap: 1000000}"])
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"max_concurrent_trials": None})})


def loss(params: Mapping[str, Any], step: float, rng: np.random.Generator) -> float:
    """An artificial curve with an optimal learning rate, better values for larger sizes, and noise."""
    off = math.log(params["learning_rate"] / 5e-4)
    floor = 0.4 + 0.1 * off**2 + 0.2 * params["dropout"] - 0.02 * int(params["model_size"][1:])
    return floor + 0.3 * math.exp(-step / 30) + 0.005 * float(rng.standard_normal())


def seconds(params: Mapping[str, Any]) -> float:
    """Seconds of virtual time between two evaluations."""
    return 12 * N_PARAMS[params["model_size"]] / N_PARAMS["L4"] / params["num_gpus"]


def conductor_of(spec: SweepSpec, storage: BaseStorage, writer: Memory, clock: Clock) -> Conductor:
    """A conductor that has loaded the record."""
    record = writer.record
    proposer = Proposer(spec, storage, record.by_number(), n_params=N_PARAMS)
    return Conductor(spec, writer, proposer, lambda: GPUS, Everywhere(), clock)


def one_trial(conductor: Conductor, clock: Clock, rng: np.random.Generator) -> tuple[float, list[float]]:
    """Seconds of one suggestion and of each report of its trial, which runs alone on the cluster."""
    began = time.perf_counter()
    trial = conductor.next_trial()
    suggest, reports = time.perf_counter() - began, []
    assert trial is not None
    goes_on, seen = True, trial.last.fidelity if trial.last else 0.0
    for number, step in enumerate(STEPS, 1):
        if step <= seen or not goes_on:
            continue
        clock.now += seconds(trial.params)
        value = loss(trial.params, step, rng)
        began = time.perf_counter()
        goes_on = conductor.report(trial.name, step, {conductor.metric: value}, step=number, tokens=0, flops=0.0)
        reports.append(time.perf_counter() - began)
    return suggest, reports


def history(trials: int) -> list[dict[str, Any]]:
    """The events of a sweep of consecutive trials. One in three, chosen at random, passes each rung."""
    spec, rng, now = spec_of("random"), np.random.default_rng(5), 0.0
    events: list[dict[str, Any]] = [{"event": "session", "time": now, "resumed": False}]
    for number in range(trials):
        params = draw(spec, rng)
        config, head = trial_config(spec, params).model_dump(), {"trial": f"t{number:04d}"}
        events.append({"event": "trial", "time": now, **head, "number": number, "params": params, "config": config})
        events.append({"event": "start", "time": now, **head, "attempt": 1, "workers": [], "wall_seconds": 0.0})
        since, state, costs = now, "PRUNED", {}
        for count, step in enumerate(STEPS, 1):
            now += seconds(params)
            costs = {"wall_seconds": now - since, "gpu_seconds": (now - since) * params["num_gpus"]}
            last, passes = step == STEPS[-1], rng.random() < 1 / 3 or step not in RUNGS
            action = "complete" if last else "continue" if passes else "stop"
            report = {"fidelity": step, "step": count, "tokens": 0, "flops": 0.0, "action": action, "cutoff": None}
            report |= {"metrics": {spec.metric.name: loss(params, step, rng)}, "rungs": [1] if step in RUNGS else []}
            events.append({"event": "report", "time": now, **head, **report, **costs})
            state = "COMPLETE" if last else state
            if action == "stop":
                break
        events.append({"event": "end", "time": now, **head, "state": state, "reason": "rung", **costs})
    return events


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else ():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    import resource  # the peak, if the system does not report the current value

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def measure(sampler: str, journal: bool, path: str, trials: int, cap_seconds: float) -> dict[str, float]:
    """One sampler with one history, in a fresh process."""
    warnings.filterwarnings("ignore")
    with Path(path).open(encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    spec, clock = spec_of(sampler), Clock(float(events[-1]["time"]))
    writer = Memory(replay(manifest(spec, N_PARAMS), events))
    del events
    with tempfile.TemporaryDirectory() as folder:
        storage: BaseStorage = InMemoryStorage()
        if journal:
            from scalesweep.sweep.study import new_study_storage

            storage = new_study_storage(Path(folder) / "study.log")
        began = time.perf_counter()
        conductor = conductor_of(spec, storage, writer, clock)
        taken_in = time.perf_counter() - began
        rng = np.random.default_rng([7, trials])
        suggestions: list[float] = []
        reports: list[float] = []
        began = time.perf_counter()
        while len(suggestions) < SHOWN and (not suggestions or time.perf_counter() - began < cap_seconds):
            suggest, of_trial = one_trial(conductor, clock, rng)
            suggestions.append(suggest)
            reports += of_trial
        return {
            "suggest_ms": 1000 * statistics.median(suggestions),
            "suggest_worst_ms": 1000 * max(suggestions),
            "report_ms": 1000 * statistics.median(reports),
            "report_worst_ms": 1000 * max(reports),
            "memory_mib": resident_mib(),
            "take_in_s": taken_in,
            "suggestions": len(suggestions),
        }


def growth(values: Mapping[str, float]) -> float | None:
    """The slope of log time over log trials between the last two sizes; 1 is linear."""
    if len(values) < 2:
        return None
    (few, before), (many, after) = list(values.items())[-2:]
    return round(math.log(after / before) / math.log(int(many) / int(few)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="trials of the longest history")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--cap-seconds", type=float, default=60.0, help=f"after it, fewer than {SHOWN} suggestions are timed")
    arguments = parser.parse_args()
    sizes = sorted({*(size for size in SIZES if size < arguments.most), arguments.most})
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder) / f"{size}.jsonl" for size in sizes}
        for size, path in paths.items():
            path.write_text("".join(json.dumps(event) + "\n" for event in history(size)), encoding="utf-8")
        for case in arguments.only:
            of: dict[str, dict[str, float]] = {}
            for size in sizes:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    row = pool.submit(measure, *CASES[case], str(paths[size]), size, arguments.cap_seconds).result()
                for key, value in row.items():
                    of.setdefault(key, {})[str(size)] = round(value, 3)
                say(
                    f"  {case:20} {size:>6} trials: suggestion {row['suggest_ms']:8.2f} ms (worst {row['suggest_worst_ms']:.1f})"
                    f" · report {row['report_ms']:7.2f} ms (worst {row['report_worst_ms']:.1f}) · {row['memory_mib']:.0f} MiB"
                    f" · loaded in {row['take_in_s']:.1f} s"
                )
            slopes = {key: growth(of[key]) for key in ("suggest_ms", "report_ms")}
            result[case] = {**of, "growth": slopes}
    foremost = next(iter(result))
    told = {key: result[foremost][key] for key in ("suggest_ms", "report_ms", "memory_mib", "growth")}
    if not arguments.json:
        for case, of in result.items():
            print(
                f"{case}: suggestion time grows as trials^{of['growth']['suggest_ms']}, report time as trials^{of['growth']['report_ms']}"
            )
    print(json.dumps({**told, "of": foremost, "cases": result}))


if __name__ == "__main__":
    main()
