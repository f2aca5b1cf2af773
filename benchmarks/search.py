"""Comparison of scalesweep's search with stock tools and research methods, on modelled and recorded curves.

    python benchmarks/search.py [--seeds 20] [--block 0] [--family NAME …] [--method NAME …] [--budget FACTOR …]
                                [--workers N …] [--trials N …] [--results DIR] [--quick | --whole] [--json] [--plot FILE.png]
                                [--processes 2] [--set KEY=VALUE …]

Nothing trains: a simulated cluster runs each method on each family of `families.py`, seed by seed. Every method draws from a
random stream of its own, and new parameters on a table take a row that the run has not used yet. A method's regret is that of
the configuration it would promote, at full fidelity: 0 is the best known, 1 the median random one. The score of a run is the mean
over checkpoints at 12.5, 25, 50, 75 and 100 % of the budget of log10(regret + 0.01). The result is the score of scalesweep minus
that of each other method. Intervals resample families and seeds together. The last line of output is JSON.

--method accepts names and the words `stock`, `research` and `ablation`; scalesweep always runs, and stock is the default. carbs,
carbs-length and protein take 10 seconds and more to propose a trial, so they run only if named. With --results each finished run
is saved, an interrupted benchmark continues, and the figures are in DIR/figures.json. Saved runs of other source code are ignored.
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
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import figures
import numpy as np
from comparing import BLOCK, collect, plot, print_tables, summary
from families import GPUS, ROOT, Family, Given, Setting, all_builders, families
from methods import Method, is_rival, methods, our_spec, say, settings_of
from rivals import RIVALS
from rows import UnusedRows

from scalesweep.errors import UserError
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.simulator import Clock, Driver, Start, simulate
from scalesweep.simulation.source import Curve, Source
from scalesweep.simulation.tables import TableSource

QUICK = ("trend", "random-1", "overfitting", "steplaw", "quickstart")
QUICK_SEEDS, SEEDS = 2, 20  # of each block
WHOLE = (
    *(Setting(budget=factor) for factor in (0.5, 1, 2)),  # these make the figures; the others stand beside them
    *(Setting(workers=workers) for workers in (4, 32)),
    *(Setting(trials=trials) for trials in (12, 24, 48)),
)
CURVES_FROM = (
    *(f"src/scalesweep/simulation/{name}.py" for name in ("simulator", "source", "parametric", "tables", "encoding")),
    "benchmarks/rows.py",
)
OURS_FROM = (
    "src/scalesweep/search",
    "src/scalesweep/simulation/driver.py",
    "src/scalesweep/control",
    *CURVES_FROM,
)
RIVALS_FROM = tuple(f"benchmarks/rivals/{name}.py" for name in ("base", "axes", "optuna_pruners"))


# ---- one run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    family: str
    method: Method
    seed: int
    setting: Setting
    cap_seconds: float
    fingerprint: str
    given: Given | None = None  # where the family is none of `families.py`

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        return self.family, self.method.name, self.seed, self.setting.label, self.fingerprint

    @property
    def stream(self) -> int:
        """The seed of the method's own random stream in this family."""
        return int.from_bytes(hashlib.sha256(f"{self.method.name} {self.family} {self.seed}".encode()).digest()[:4]) >> 1


class Metered:
    """A layer between a simulation and its driver and source, which measures the cost of each trial and the driver's own
    time. After `cap_seconds` of it the driver is not called any more, and the run ends with its current pick. After the start
    of `trials`, a further new trial ends the requests; running ones go on."""

    def __init__(self, driver: Driver, source: Source, startup_seconds: float, cap_seconds: float, trials: int | None) -> None:
        self.driver, self.source = driver, source
        self.n_params, self.best, self.median, self.notes = source.n_params, source.best, source.median, source.notes
        self.final, self.true_rank = source.final, source.true_rank
        self.died, self.pick = driver.died, driver.pick
        self.startup_seconds, self.trials = startup_seconds, trials
        self.ends = time.perf_counter() + cap_seconds
        self.cut = False
        self.seconds = 0.0  # that the driver has decided for
        self._asked: Start | None = None  # a trial starts, and its curve is drawn, before the next request
        self._curves: dict[str, Curve] = {}
        self._gpus: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self._full, self._begun = False, 0
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
        if self._full:
            return None
        began = time.perf_counter()
        start = self.driver.next_trial(free)
        self.seconds += time.perf_counter() - began
        if start is not None and start.name not in self._starts and not start.repeat_of:
            self._full = self._begun == self.trials
            self._begun += 1
            if self._full:
                return None
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
def family_of(name: str, given: Given | None) -> Family:
    return given.build() if given else families([name])[0]


def run(job: Job) -> dict[str, Any]:
    """One simulated sweep, as a line of the results."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
    family, began = family_of(job.family, job.given), time.perf_counter()
    source = UnusedRows(family.source) if isinstance(family.source, TableSource) else family.source
    spec, cluster, budget = family.under(job.setting)
    clock, trials = Clock(), job.setting.trials
    head = dict(zip(("family", "method", "seed", "setting", "fingerprint"), job.key, strict=True))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tools that print
            driver: Any
            if is_rival(job.method):
                driver = RIVALS[job.method.name].make(spec, job.stream, source.n_params)
            else:
                spec = our_spec(spec, budget, trials, job.method.changes)
                driver = SweepDriver(spec, source.n_params, cluster.gpus, clock, job.stream)
            metered = Metered(driver, source, cluster.startup_seconds, job.cap_seconds, trials)
            if is_rival(job.method):
                driver.cost_of = metered.cost
            done = simulate(metered, metered, cluster, clock, budget, job.stream)
            held = {} if is_rival(job.method) else {"forecasts_held": _held(driver, source)}
    except Exception:  # noqa: BLE001 — a failure of another tool is a result, and the other tools continue
        return {**head, "error": traceback.format_exc()}
    regret = [float(f"{value:.6g}") if math.isfinite(value) else None for value in done.regret]
    return {
        **head,
        "budget_gpu_hours": budget,
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
        **held,
    }


def _held(driver: SweepDriver, source: Source) -> list[float] | None:
    """The share of the trials below `max_t` whose final value lies in the 95 % interval of their forecast at the end of the run:
    of all, and of the ten with the best forecasts. None without such a trial."""
    outlook, record = driver.conductor.proposer.outlook, driver.record
    found = []
    for name, of in sorted(outlook.expected().items(), key=lambda item: item[1].mean):
        final = outlook.spec.loss_sign * source.final(record.trials[name].params)
        if of.sd and math.isfinite(final):
            found.append(abs(final - of.mean) <= figures.NORMAL_95 * of.sd)
    return [round(float(np.mean(held)), 4) for held in (found, found[:10])] if found else None


# ---- many runs ------------------------------------------------------------------------------------------------------------


@cache
def sources_digest(places: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def fingerprint(method: Method, family: Family) -> str:
    """A hash of the sources that determine a method's results, of its settings, and of the family."""
    places = OURS_FROM
    if is_rival(method):
        places = (*CURVES_FROM, *RIVALS_FROM, f"benchmarks/rivals/{RIVALS[method.name].module}.py")
    parts = (sources_digest(places), json.dumps(method.changes, sort_keys=True), family.digest, "a stream per family")
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def results_file(folder: Path, job: Job) -> Path:
    return folder / f"{job.family}.{job.method.name}.jsonl"


def known_runs(folder: Path | None, jobs: Sequence[Job]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The saved runs of these jobs. A run that was cut at a shorter cap than the current one runs again."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in {results_file(folder, job) for job in jobs} if folder else ():
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the last, incomplete line of a killed benchmark
                row = json.loads(line)
                found[tuple(row[key] for key in ("family", "method", "seed", "setting", "fingerprint"))] = row
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
                what = f"[{count}/{len(todo)}] {job.family} {job.method.name} seed {job.seed}, {job.setting.label}"
                if "error" in row:
                    say(f"{what} FAILED\n{row['error']}")
                    rows.append(row)
                    continue
                score = float(figures.score(figures.filled([row["regret"]]))[0])
                say(f"{what}: {score:.2f}, {row['trials']} trials, {row['seconds']:.1f} s{', cut' if row['cut'] else ''}")
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


def _given(arguments: argparse.Namespace) -> Given | None:
    if not arguments.table:
        return None
    if not arguments.space or arguments.family:
        raise UserError("--table needs --space, and replaces --family")
    return Given(**{item.name: getattr(arguments, item.name) for item in fields(Given)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help=f"of each block; default: {SEEDS}, with --quick {QUICK_SEEDS}")
    parser.add_argument("--block", type=int, nargs="+", choices=(0, 1), default=[0, 1], help=f"block 1 begins at seed {BLOCK}")
    parser.add_argument("--family", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="rivals and ablations; scalesweep always runs")
    parser.add_argument("--budget", type=float, nargs="+", metavar="FACTOR", help="factors on each family's budget; default: 1")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[GPUS], metavar="N", help=f"GPUs of the cluster; default: {GPUS}"
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[], metavar="N", help="sweeps of so many trials instead")
    table = parser.add_argument_group(
        "any table", "the same comparison on a table in the columns that `scalesweep simulate` reads"
    )
    table.add_argument("--table", type=Path, metavar="FILE", help=".parquet or .csv")
    table.add_argument("--space", type=Path, metavar="FILE.yaml", help="search space, as for a sweep")
    table.add_argument("--metric", default="eval_loss", metavar="COLUMN", help="default: eval_loss")
    table.add_argument("--goal", choices=("minimize", "maximize"), help="needed where the metric's name does not show it")
    table.add_argument("--time-attr", default="steps", metavar="COLUMN", help="fidelity; default: steps")
    table.add_argument(
        "--max-t", type=float, help="fidelity of a finished trial; default: the largest that half of the runs reach"
    )
    table.add_argument(
        "--grace-period", type=float, help="fidelity of the first rung; default: max-t ÷ reduction-factor³ or a first row"
    )
    table.add_argument("--reduction-factor", type=float, default=3, help="default: 3")
    parser.add_argument("--quick", action="store_true", help=f"few seeds on {', '.join(QUICK)}")
    parser.add_argument("--whole", action="store_true", help=f"the sizes of sweep {', '.join(each.label for each in WHOLE)}")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--results", type=Path, metavar="DIR", help="save each run in DIR, and continue from the saved runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cap-seconds", type=float, default=600.0, help="a run whose driver takes longer is cut")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="a setting of scalesweep, for example search.sampler=tpe"
    )
    arguments = parser.parse_args()
    count = arguments.seeds or (QUICK_SEEDS if arguments.quick else SEEDS)
    seeds = [BLOCK * block + number for block in arguments.block for number in range(count)]
    budgets = arguments.budget or ([] if arguments.trials else [1.0])
    settings = [Setting(budget=factor, workers=workers) for workers in arguments.workers for factor in budgets]
    settings += [Setting(trials=trials, workers=workers) for workers in arguments.workers for trials in arguments.trials]
    settings = list(WHOLE) if arguments.whole else settings
    chosen = methods(arguments.method, settings_of(arguments.set))
    given = _given(arguments)
    present = [given.build()] if given else families(arguments.family or (QUICK if arguments.quick else list(all_builders())))
    jobs = [
        Job(family.name, method, seed, setting, arguments.cap_seconds, print_, given)
        for family in present
        for method in chosen
        for print_ in [fingerprint(method, family)]
        for setting in settings
        for seed in seeds
    ]
    rows = run_all(jobs, arguments.processes, arguments.results)
    found = collect(present, chosen, settings, rows)
    if not found.names:
        raise UserError("no family could run, so there is nothing to compare")
    told = summary(found, sum("error" in row for row in rows))
    if not arguments.json:
        print_tables(found, told)
    if arguments.plot:
        plot(found, arguments.plot)
    if arguments.results:
        (arguments.results / "figures.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told))
    if told["failed_runs"]:
        sys.exit("some runs failed; the figures cover the other runs")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
