"""Comparison of scalesweep's search with stock tools and research methods, on modelled and recorded curves.

    python benchmarks/search.py [--seeds 20] [--family NAME …] [--method NAME …] [--budget FACTOR] [--quick] [--json]
                                [--results DIR] [--plot FILE.png] [--processes 2] [--slow] [--set KEY=VALUE …]

Nothing trains: a simulated cluster of 8 GPUs runs each method on each family of `families.py`, seed by seed. A method's regret
is that of the configuration it would promote, at full fidelity: 0 is the best known, 1 the median random one. The result is the
ratio of GPU hours at which the median over seeds reaches 5 % regret, scalesweep ÷ the best stock method. If no stock method
reaches 5 %, the target is the lowest regret that one of them reaches. The last line of output is JSON.

--method accepts names and the words `stock`, `research` and `ablation`. carbs, carbs-length and protein take 10 seconds and more
to propose a trial. They run only if named, or with --slow, on `--slow-seeds` seeds.
With --results each finished run is saved, and an interrupted benchmark continues. Saved runs of other source code are ignored.
"""

from __future__ import annotations

import os

# Set before NumPy is imported, also in workers, because the processes share the processor.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"))

import argparse
import contextlib
import hashlib
import io
import json
import logging
import math
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import figures
import numpy as np
from comparing import compare, plot, print_tables, summary
from families import BUILDERS, ROOT, Family, families
from methods import PROPOSED, SLOW, Method, is_rival, methods, our_spec, say, settings_of
from rivals import RIVALS

from scalesweep.errors import UserError
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.simulator import Clock, Driver, Start, simulate
from scalesweep.simulation.source import Curve, Source

QUICK = ("trend", "no_trend", "steplaw")  # a trend, none, a table
CURVES_FROM = (
    *(f"src/scalesweep/simulation/{name}.py" for name in ("simulator", "source", "parametric", "tables", "encoding")),
    "benchmarks/families.py",
)
SOURCES = {  # sources that determine a run's result
    "ours": ("src/scalesweep/search", "src/scalesweep/simulation/driver.py", *CURVES_FROM),
    "rival": ("benchmarks/rivals", *CURVES_FROM),
}


# ---- one run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    family: str
    method: Method
    seed: int
    factor: float
    cap_seconds: float
    fingerprint: str

    @property
    def key(self) -> tuple[str, str, int, float, str]:
        return self.family, self.method.name, self.seed, self.factor, self.fingerprint


class Metered:
    """A layer between a simulation and its driver and source, which measures the cost of each trial and the driver's own
    time. After `cap_seconds` of it the driver is not called any more, and the run ends with its current pick."""

    def __init__(self, driver: Driver, source: Source, startup_seconds: float, cap_seconds: float) -> None:
        self.driver, self.source = driver, source
        self.n_params, self.best, self.median, self.notes = source.n_params, source.best, source.median, source.notes
        self.final, self.true_rank = source.final, source.true_rank
        self.died, self.pick = driver.died, driver.pick
        self.startup_seconds = startup_seconds
        self.ends = time.perf_counter() + cap_seconds
        self.cut = False
        self.seconds = 0.0  # that the driver has decided for
        self._asked: Start | None = None  # a trial starts, and its curve is drawn, before the next request
        self._curves: dict[str, Curve] = {}
        self._gpus: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self._train: dict[str, float] = {}

    def cost(self, name: str) -> float:
        """GPU seconds of a trial up to its last report, including start-ups."""
        return self._train.get(name, 0.0) + self._starts[name] * self.startup_seconds * self._gpus[name]

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        assert self._asked is not None
        self._curves[self._asked.name] = self.source.curve(params, seed)
        return self._curves[self._asked.name]

    def finished(self) -> bool:
        if not self.cut and time.perf_counter() > self.ends:
            self.cut = True
        return self.cut or self.driver.finished()

    def next_trial(self, free: int) -> Start | None:
        began = time.perf_counter()
        start = self.driver.next_trial(free)
        self.seconds += time.perf_counter() - began
        if start is not None:
            self._asked = start
            self._gpus[start.name] = start.num_gpus
            self._starts[start.name] += 1
        return start

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:
        if self.finished() and self.cut:
            return False
        curve = self._curves[name]
        self._train[name] = float(curve.gpu_seconds[np.searchsorted(curve.fidelity, fidelity)])
        began = time.perf_counter()
        goes_on = self.driver.report(name, fidelity, value, last)
        self.seconds += time.perf_counter() - began
        return goes_on


@cache
def family_of(name: str) -> Family:
    return families([name])[0]


def run(job: Job) -> dict[str, Any]:
    """One simulated sweep, as a line of the results."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
    family, began = family_of(job.family), time.perf_counter()
    source, cluster, clock = family.source, family.cluster, Clock()
    budget = job.factor * family.budget_gpu_hours
    head = {"family": job.family, "method": job.method.name, "seed": job.seed, "budget": job.factor}
    head |= {"fingerprint": job.fingerprint}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tools that print
            driver: Any
            if is_rival(job.method):
                driver = RIVALS[job.method.name].make(family.spec, job.seed, source.n_params)
            else:
                spec = our_spec(family, budget, job.method.changes)
                driver = SweepDriver(spec, source.n_params, cluster.gpus, clock, job.seed)
            metered = Metered(driver, source, cluster.startup_seconds, job.cap_seconds)
            if is_rival(job.method):
                driver.cost_of = metered.cost
            done = simulate(metered, metered, cluster, clock, budget, job.seed)
    except Exception:  # noqa: BLE001 — a failure of another tool is a result, and the other tools continue
        return {**head, "error": traceback.format_exc()}
    regret = [float(f"{value:.6g}") if math.isfinite(value) else None for value in done.regret]
    reached = figures.hours_to(done.gpu_hours, figures.filled([regret])[0], figures.GOOD)
    return {
        **head,
        "budget_gpu_hours": budget,
        "hours_to_5_percent": reached if math.isfinite(reached) else None,
        "pick_rank": done.pick_rank,
        "trials": done.trials,
        "reports": done.reports,
        "occupancy": round(done.occupancy, 4),
        "makespan_hours": done.makespan_hours,
        "spent_gpu_hours": done.spent_gpu_hours,
        "controller_seconds": round(metered.seconds, 4),
        "seconds": round(time.perf_counter() - began, 2),
        "cut": metered.cut,
        "cap_seconds": job.cap_seconds,
        "regret": regret,
    }


# ---- many runs ------------------------------------------------------------------------------------------------------------


def fingerprint(method: Method) -> str:
    """A hash of the sources that determine a method's results, and of its settings."""
    digest = hashlib.sha256()
    for place in SOURCES["rival" if is_rival(method) else "ours"]:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    digest.update(json.dumps(method.changes, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def results_file(folder: Path, job: Job) -> Path:
    return folder / f"{job.family}.{job.method.name}.jsonl"


def known_runs(folder: Path | None, jobs: Sequence[Job]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The saved runs of these jobs. A run that was cut at a shorter cap than the current one runs again."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in {results_file(folder, job) for job in jobs} if folder else ():
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the last, incomplete line of a killed benchmark
                row = json.loads(line)
                found[tuple(row[key] for key in ("family", "method", "seed", "budget", "fingerprint"))] = row
    wanted = {job.key: job for job in jobs}
    return {
        key: row
        for key, row in found.items()
        if key in wanted and not (row["cut"] and row["cap_seconds"] < wanted[key].cap_seconds)
    }


def run_all(jobs: Sequence[Job], processes: int, folder: Path | None) -> list[dict[str, Any]]:
    """All runs, including saved ones. A failed run is reported and not saved."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    known = known_runs(folder, jobs)
    rows = [known[job.key] for job in jobs if job.key in known]
    todo = [job for job in jobs if job.key not in known]
    if rows:
        say(f"{len(rows)} of {len(jobs)} runs are already saved")
    if not todo:
        return rows
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, job): job for job in todo}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                job, row = futures[future], future.result()
                what = f"[{count}/{len(todo)}] {job.family} {job.method.name} seed {job.seed}"
                if "error" in row:
                    say(f"{what} FAILED\n{row['error']}")
                    rows.append(row)
                    continue
                reached = row["hours_to_5_percent"]
                told = "5 % not reached" if reached is None else f"5 % at {reached:.3g} GPU h"
                cut = ", cut" if row["cut"] else ""
                say(f"{what}: {told} of {row['budget_gpu_hours']:.3g}, {row['trials']} trials, {row['seconds']:.1f} s{cut}")
                rows.append(row)
                if folder:
                    with results_file(folder, job).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        except BrokenProcessPool:
            where = f"; --results {folder} continues" if folder else " and no run was saved (see --results)"
            raise UserError(f"a worker process was killed, perhaps for lack of memory{where}") from None
        finally:
            pool.shutdown(cancel_futures=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="default: 20, with --quick 3")
    parser.add_argument("--family", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="rivals and ablations; scalesweep always runs")
    parser.add_argument("--budget", type=float, default=2.0, metavar="FACTOR", help="factor on each family's budget")
    parser.add_argument("--quick", action="store_true", help=f"stock methods on {', '.join(QUICK)}")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--results", type=Path, metavar="DIR", help="save each run in DIR, and continue from the saved runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--slow", action="store_true", help=f"{', '.join(SLOW)} too")
    parser.add_argument("--slow-seeds", type=int, default=2)
    parser.add_argument("--cap-seconds", type=float, default=600.0, help="a run whose driver takes longer is cut")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="a setting of scalesweep, for example search.sampler=tpe"
    )
    arguments = parser.parse_args()
    seeds = arguments.seeds or (3 if arguments.quick else 20)
    chosen = methods(arguments.method, {**PROPOSED, **settings_of(arguments.set)}, arguments.slow, arguments.quick)
    present = families(arguments.family or (QUICK if arguments.quick else list(BUILDERS)))
    prints = {method.name: fingerprint(method) for method in chosen}
    jobs = [
        Job(family.name, method, seed, arguments.budget, arguments.cap_seconds, prints[method.name])
        for family in present
        for seed in range(seeds)
        for method in chosen
        if seed < arguments.slow_seeds or method.name not in SLOW
    ]
    rows = run_all(jobs, arguments.processes, arguments.results)
    by_family: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_family[row["family"]].append(row)
    comparisons = [found for family in present if (found := compare(family, chosen, by_family[family.name]))]
    if not comparisons:
        raise UserError("no family could run, so there is nothing to compare")
    told = summary(comparisons, seeds, arguments.budget)
    if not arguments.json:
        print_tables(comparisons, told)
    if arguments.plot:
        plot(comparisons, arguments.plot)
    print(json.dumps(told))
    if any("error" in row for row in rows):
        sys.exit("some runs failed; the figures cover the other runs")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
