"""A sweep's search against stock tools and research methods, on modelled and recorded curves. Ends with one JSON line.

    python benchmarks/search.py [--seeds 20] [--family NAME …] [--method NAME …] [--budget FACTOR] [--quick] [--json]
                                [--results DIR] [--plot FILE.png] [--processes 2] [--slow] [--set KEY=VALUE …]

Nothing trains: a simulated cluster of 8 GPUs runs each method on each family of `families.py`, seed by seed. A method's regret
is that of the configuration it would promote, at full fidelity: 0 is the best known, 1 the median random one. What counts is
the GPU hours at which the median over seeds is at 5 %, ours ÷ those of the best stock method. Where no stock method gets
there, the mark is the lowest regret that one of them reaches.

--method takes names and the words `stock`, `research` and `ablation`. carbs, carbs-length and protein think for 10 seconds
and more about each trial: they run only if named, or with --slow, on `--slow-seeds` seeds.
With --results each run is kept as it ends, and a benchmark that was cut off goes on; runs of other sources are not counted.
"""

from __future__ import annotations

import os

# Before NumPy is imported, in workers too: they share the processor as it is.
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
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import figures
import numpy as np
import yaml
from families import BUILDERS, ROOT, Family, families
from pydantic import ValidationError
from rivals import RIVALS

from scalesweep.errors import UserError, did_you_mean
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.simulator import Clock, Driver, Start, simulate
from scalesweep.simulation.source import Curve, Source
from scalesweep.spec import SweepSpec
from scalesweep.spec.sweep import BudgetSpec, EarlyTerminateSpec, SearchSpec

OURS = "scalesweep"
PROPOSED = {  # what is on trial; it becomes the default of a sweep once it proves itself here
    "search.sampler": "scale_aware",
    "early_terminate.variant": "promotion",
    "early_terminate.survival": "forecast",
}
ABLATIONS: dict[str, dict[str, Any]] = {  # one ingredient each; one that is the default already is left out
    "sampler=tpe": {"search.sampler": "tpe"},
    "sampler=random": {"search.sampler": "random"},
    "survival=metric": {"early_terminate.survival": "metric"},
    "variant=stopping": {"early_terminate.variant": "stopping"},
    "cost_weight=0": {"search.cost_weight": 0.0},
}
SLOW = ("carbs", "carbs-length", "protein")
QUICK = ("trend", "no_trend", "steplaw")  # a trend, none, a table
KEPT = ("time_attr", "grace_period", "max_t", "reduction_factor")  # what a family says of rungs; the rest is ours
CURVES_FROM = (
    *(f"src/scalesweep/simulation/{name}.py" for name in ("simulator", "source", "parametric", "tables", "encoding")),
    "benchmarks/families.py",
)
SOURCES = {  # what a run's result follows from
    "ours": ("src/scalesweep/search", "src/scalesweep/simulation/driver.py", *CURVES_FROM),
    "rival": ("benchmarks/rivals", *CURVES_FROM),
}
Group = Literal["ours", "ablation", "stock", "research"]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    name: str
    group: Group
    changes: dict[str, Any] = field(default_factory=dict)  # of the spec, for ours


def methods(named: Sequence[str] | None, settings: Mapping[str, Any], slow: bool, quick: bool) -> list[Method]:
    """What runs, ours first. Whatever can't run here is told on stderr and left out.

    Raises:
        UserError: a name that there is not.
    """
    groups: dict[str, Group] = {OURS: "ours", **dict.fromkeys(ABLATIONS, "ablation")}
    groups |= {name: entry.group for name, entry in RIVALS.items()}
    words = set(named or (["stock"] if quick else ["stock", "research", "ablation"]))
    for word in words - set(groups.values()) - groups.keys():
        raise UserError(f"no method {word!r}", did_you_mean(word, [*groups, *dict.fromkeys(groups.values())]))
    chosen = [Method(OURS, "ours", dict(settings))]
    for name, group in groups.items():
        if name == OURS or not {name, group} & words:
            continue
        if group == "ablation":
            changes = {**settings, **ABLATIONS[name]}
            reason = _useless(settings, changes)
        else:
            changes = {}
            reason = RIVALS[name].missing()
            if name in SLOW and not slow and name not in words:
                reason = reason or "slow: --slow runs it"
        if reason:
            say(f"{name} is skipped: {reason}")
        else:
            chosen.append(Method(name, group, changes))
    return chosen


def _useless(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    """Why an ablation is not worth a run; None if it is."""
    defaults = {"search": SearchSpec(), "early_terminate": EarlyTerminateSpec(max_t=1)}
    for key in changes:
        part, _, name = key.partition(".")
        if name not in type(defaults[part]).model_fields:
            return f"the spec has no {key}"
    now = {key: settings.get(key, getattr(defaults[key.partition(".")[0]], key.partition(".")[2])) for key in changes}
    return "this is how the sweep is set anyway" if now == dict(changes) else None


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as changes of the spec.

    Raises:
        UserError: a key or value that the spec does not take.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key.partition(".")[0] not in ("search", "early_terminate"):
            raise UserError(f"--set {pair}: this is no search.KEY=VALUE or early_terminate.KEY=VALUE")
        found[key] = yaml.safe_load(text)
    try:
        _with_changes(SearchSpec(), EarlyTerminateSpec(max_t=1), found)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--set {first['loc'][0]}: {first['msg']}") from None
    return found


def _with_changes(
    search: SearchSpec, early: EarlyTerminateSpec, changes: Mapping[str, Any]
) -> tuple[SearchSpec, EarlyTerminateSpec]:
    of: dict[str, dict[str, Any]] = {"search": search.model_dump(), "early_terminate": early.model_dump()}
    for key, value in changes.items():
        part, _, name = key.partition(".")
        of[part][name] = value
    return SearchSpec.model_validate(of["search"]), EarlyTerminateSpec.model_validate(of["early_terminate"])


def our_spec(family: Family, budget: float, changes: Mapping[str, Any]) -> SweepSpec:
    """The family's sweep as the package would run it by default: its rungs are the family's, and GPU hours alone end it."""
    early = EarlyTerminateSpec(**{key: getattr(family.spec.early_terminate, key) for key in KEPT})
    search, early = _with_changes(SearchSpec(), early, changes)
    update: dict[str, Any] = {"search": search, "early_terminate": early, "budget": BudgetSpec(gpu_hours=budget)}
    update["resources"] = family.spec.resources.model_copy(update={"max_concurrent_trials": None})
    return family.spec.model_copy(update=update)


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
    """Stands between a simulation and both its driver and its source: knows what each trial has cost so far, and how long
    the driver thinks. After `cap_seconds` the driver is asked and told no more, and the run ends with what it would pick."""

    def __init__(self, driver: Driver, source: Source, startup_seconds: float, cap_seconds: float) -> None:
        self.driver, self.source = driver, source
        self.n_params, self.best, self.median, self.notes = source.n_params, source.best, source.median, source.notes
        self.final, self.true_rank = source.final, source.true_rank
        self.died, self.pick = driver.died, driver.pick
        self.startup_seconds = startup_seconds
        self.ends = time.perf_counter() + cap_seconds
        self.cut = False
        self.seconds = 0.0  # that the driver has decided for
        self._asked: Start | None = None  # a trial starts, and its curve is drawn, before the next one is asked for
        self._curves: dict[str, Curve] = {}
        self._gpus: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self._train: dict[str, float] = {}

    def cost(self, name: str) -> float:
        """GPU seconds of a trial up to its last report, start-ups included."""
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
                driver = RIVALS[job.method.name].make(family.spec, family.goal, job.seed, source.n_params)
            else:
                spec = our_spec(family, budget, job.method.changes)
                driver = SweepDriver(spec, family.goal, source.n_params, cluster.gpus, clock, job.seed)
            metered = Metered(driver, source, cluster.startup_seconds, job.cap_seconds)
            if is_rival(job.method):
                driver.cost_of = metered.cost
            done = simulate(metered, metered, cluster, clock, budget, job.seed)
    except Exception:  # noqa: BLE001 — another tool's failure is a result: the others go on
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


def is_rival(method: Method) -> bool:
    return method.group in ("stock", "research")


# ---- many runs ------------------------------------------------------------------------------------------------------------


def fingerprint(method: Method) -> str:
    """Of the sources that a method's results follow from, and its settings."""
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
    """Runs of these jobs that are in the folder already. One that was cut at a shorter cap than today's is run again."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in {results_file(folder, job) for job in jobs} if folder else ():
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a benchmark that was killed
                row = json.loads(line)
                found[tuple(row[key] for key in ("family", "method", "seed", "budget", "fingerprint"))] = row
    wanted = {job.key: job for job in jobs}
    return {
        key: row
        for key, row in found.items()
        if key in wanted and not (row["cut"] and row["cap_seconds"] < wanted[key].cap_seconds)
    }


def run_all(jobs: Sequence[Job], processes: int, folder: Path | None) -> list[dict[str, Any]]:
    """All runs, those that are kept included. A run that failed is told and not kept."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    known = known_runs(folder, jobs)
    rows = [known[job.key] for job in jobs if job.key in known]
    todo = [job for job in jobs if job.key not in known]
    if rows:
        say(f"{len(rows)} of {len(jobs)} runs are there already")
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
            where = f"; --results {folder} goes on" if folder else " and nothing was kept: see --results"
            raise UserError(f"a worker process was killed (out of memory?){where}") from None
        finally:
            pool.shutdown(cancel_futures=True)
    return rows


# ---- figures --------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """One method on one family."""

    method: Method
    rows: list[dict[str, Any]]
    failed: int
    curves: np.ndarray  # seeds × points
    resampled: np.ndarray  # medians, resamples × points

    @property
    def median(self) -> np.ndarray:
        return np.median(self.curves, axis=0)

    def middle(self, key: str) -> float | None:
        values = [row[key] for row in self.rows if row[key] is not None]
        return float(np.median(values)) if values else None

    @property
    def controller_ms(self) -> float:
        return 1000 * sum(row["controller_seconds"] for row in self.rows) / max(sum(row["trials"] for row in self.rows), 1)


@dataclass
class Comparison:
    """A family with all methods."""

    family: Family
    grid: np.ndarray
    results: dict[str, Result]
    stock: figures.Ratio | None
    research: figures.Ratio | None  # against all rivals; None where none of research ran
    stock_resampled: np.ndarray
    research_resampled: np.ndarray

    def of(self, *groups: Group) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if result.method.group in groups}

    @property
    def target(self) -> float:
        return self.stock.target if self.stock else figures.GOOD

    def hours(self, name: str) -> float:
        return figures.hours_to(self.grid, self.results[name].median, self.target)

    def hours_interval(self, name: str) -> list[float]:
        curves = self.results[name].resampled
        return figures.interval(np.array([figures.hours_to(self.grid, curve, self.target) for curve in curves]))


def compare(family: Family, chosen: Sequence[Method], rows: Sequence[dict[str, Any]]) -> Comparison | None:
    """None where ours has no run."""
    results: dict[str, Result] = {}
    grid = np.array([])
    for number, method in enumerate(chosen):
        mine = [row for row in rows if row["family"] == family.name and row["method"] == method.name]
        good = sorted((row for row in mine if "error" not in row), key=lambda row: row["seed"])
        if not good:
            continue
        curves = figures.filled([row["regret"] for row in good])
        grid = np.linspace(0, good[0]["budget_gpu_hours"], curves.shape[1] + 1)[1:]
        resampled = figures.resampled(curves, np.random.default_rng([3, number]))
        results[method.name] = Result(method, good, len(mine) - len(good), curves, resampled)
    if OURS not in results:
        return None
    found = Comparison(family, grid, results, None, None, np.array([]), np.array([]))
    ours, stock, rivals = results[OURS], found.of("stock"), found.of("stock", "research")
    if stock:
        found.stock, found.stock_resampled = _against(grid, ours, stock)
    if len(rivals) > len(stock):
        found.research, found.research_resampled = _against(grid, ours, rivals)
    return found


def _against(grid: np.ndarray, ours: Result, others: Mapping[str, Result]) -> tuple[figures.Ratio, np.ndarray]:
    ratio = figures.against(grid, ours.median, {name: other.median for name, other in others.items()})
    resampled = {name: other.resampled for name, other in others.items()}
    return ratio, figures.ratios(grid, ours.resampled, resampled)


def finite(value: float | None) -> float | None:
    """For JSON, which has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _ratio_figures(ratio: figures.Ratio | None, resampled: np.ndarray) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {
        "ratio": ratio.ratio,
        "interval": figures.interval(resampled),
        "reached": ratio.reached,
        "target": ratio.target,
        "best": ratio.best,
        "best_gpu_hours": ratio.best_hours,
        "gpu_hours": finite(ratio.hours),
    }


def at_share(grid: np.ndarray, curve: np.ndarray, share: float) -> float:
    return float(curve[max(round(share * len(grid)), 1) - 1])


def family_figures(found: Comparison) -> dict[str, Any]:
    """Everything of a family for the JSON line."""
    told: dict[str, Any] = {"trend": found.family.trend, "real": found.family.real, "budget_gpu_hours": float(found.grid[-1])}
    told["stock"] = _ratio_figures(found.stock, found.stock_resampled)
    told["all_rivals"] = _ratio_figures(found.research, found.research_resampled)
    told["methods"] = {
        name: {
            "group": result.method.group,
            "seeds": len(result.rows),
            "failed": result.failed,
            "cut": sum(row["cut"] for row in result.rows),
            "gpu_hours_to_5_percent": finite(figures.hours_to(found.grid, result.median, figures.GOOD)),
            "gpu_hours_to_target": finite(found.hours(name)),
            "gpu_hours_to_target_for_good": finite(figures.hours_to(found.grid, result.median, found.target, for_good=True)),
            "gpu_hours_to_target_interval": [finite(end) for end in found.hours_interval(name)],
            "regret_at_25_50_100": [round(at_share(found.grid, result.median, share), 6) for share in (0.25, 0.5, 1)],
            "pick_rank": result.middle("pick_rank"),
            "trials": result.middle("trials"),
            "occupancy": result.middle("occupancy"),
            "controller_ms_per_trial": round(result.controller_ms, 2),
        }
        for name, result in found.results.items()
    }
    return told


def ablation_figures(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """GPU hours of ours with one ingredient changed ÷ those of ours, to the same regret. Above 1: the ingredient helps."""
    told: dict[str, Any] = {}
    for name in ABLATIONS:
        of: dict[str, float] = {}
        for found in comparisons:
            if name in found.results and math.isfinite(found.hours(OURS)):
                of[found.family.name] = min(found.hours(name), float(found.grid[-1])) / found.hours(OURS)
        if of:
            told[name] = {"gpu_hours_ratio_median": float(np.median(list(of.values()))), "by_family": of}
    return told


def summary(comparisons: Sequence[Comparison], seeds: int, factor: float) -> dict[str, Any]:
    """The JSON line."""
    told: dict[str, Any] = {}
    stock = [found for found in comparisons if found.stock]
    trend = [found for found in stock if found.family.trend]
    ratios = {found.family.name: found.stock.ratio for found in stock if found.stock}
    for key, part in (("median", stock), ("trend", trend)):
        values = [ratios[found.family.name] for found in part]
        told[f"gpu_hours_ratio_{key}"] = float(np.median(values)) if values else None
        medians = np.median([found.stock_resampled for found in part], axis=0) if part else None
        told[f"gpu_hours_ratio_{key}_interval"] = None if medians is None else figures.interval(medians)
    told["gpu_hours_ratio_worst"] = max(ratios.values(), default=None)
    told["gpu_hours_ratio_worst_family"] = max(ratios, key=lambda name: ratios[name], default=None)
    told["target_not_reached"] = [found.family.name for found in stock if found.stock and not found.stock.reached]
    all_rivals = [found.research.ratio for found in comparisons if found.research]
    told["gpu_hours_ratio_all_rivals_median"] = float(np.median(all_rivals)) if all_rivals else None
    told["gpu_hours_ratio_all_rivals_worst"] = max(all_rivals, default=None)
    told["seeds"], told["budget_factor"] = seeds, factor
    told["families"] = [found.family.name for found in comparisons]
    told["ablation"] = ablation_figures(comparisons)
    told["by_family"] = {found.family.name: family_figures(found) for found in comparisons}
    return told


# ---- output ---------------------------------------------------------------------------------------------------------------


def _hours(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio_text(ratio: figures.Ratio, resampled: np.ndarray) -> str:
    low, high = figures.interval(resampled)
    return f"{'' if ratio.reached else '> '}{ratio.ratio:.2f} ({low:.2f}–{high:.2f})"


def print_tables(comparisons: Sequence[Comparison], told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 150)
    for found in comparisons:
        family = found.family
        kind = f"{'recorded' if family.real else 'modelled'}, {'a trend' if family.trend else 'no trend'}"
        table = Table(title=f"{family.name} ({kind}, {_hours(found.grid[-1])} GPU h)", title_justify="left")
        mark = f"to {100 * found.target:.3g} %"
        for heading in ("method", "GPU h to 5 %", mark, "10–90 %", "regret at 25 %", "50 %", "100 %", "rank", "trials"):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for heading in ("busy", "ms/trial", "seeds"):
            table.add_column(heading, justify="right")
        for name, result in found.results.items():
            low, high = found.hours_interval(name)
            rank, trials, busy = (result.middle(key) for key in ("pick_rank", "trials", "occupancy"))
            cut = sum(row["cut"] for row in result.rows)
            notes = [f"{cut} cut"] * bool(cut) + [f"{result.failed} failed"] * bool(result.failed)
            table.add_row(
                name,
                _hours(figures.hours_to(found.grid, result.median, figures.GOOD)),
                _hours(found.hours(name)),
                f"{_hours(low)}–{_hours(high)}",
                *(f"{at_share(found.grid, result.median, share):.3f}" for share in (0.25, 0.5, 1)),
                "–" if rank is None else f"{rank:g}",
                f"{trials:g}",
                f"{busy:.2f}",
                f"{result.controller_ms:.1f}",
                " ".join([str(len(result.rows)), *notes]),
                style="bold" if name == OURS else None,
                end_section=name == OURS,
            )
        console.print(table)
    table = Table(title="GPU hours: ours ÷ the best other", title_justify="left")
    for heading in ("family", "trend", "÷ best stock (10–90 %)", "which", "÷ best of all (10–90 %)", "which", "target"):
        table.add_column(heading)
    for found in comparisons:
        cells = [found.family.name, "yes" if found.family.trend else "no"]
        for ratio, resampled in ((found.stock, found.stock_resampled), (found.research, found.research_resampled)):
            cells += [_ratio_text(ratio, resampled), ratio.best] if ratio else ["–", "–"]
        table.add_row(*cells, f"{100 * found.target:.3g} %")
    console.print(table)
    for name, figure in told["ablation"].items():
        console.print(f"{name}: takes {figure['gpu_hours_ratio_median']:.2f} × the GPU hours (median over families)")
    for key in ("median", "trend", "worst"):
        value, ends = told[f"gpu_hours_ratio_{key}"], told.get(f"gpu_hours_ratio_{key}_interval")
        if value is not None:
            console.print(f"gpu_hours_ratio_{key} {value:.3f}" + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if ends else ""))


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """A panel per family: medians over seeds, for ours with the band of percentiles 10 to 90."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(comparisons), 3)
    rows = math.ceil(len(comparisons) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(comparisons) :]:
        axis.set_visible(False)
    floor = 2e-3
    for found, axis in zip(comparisons, axes.flat, strict=False):
        ours = found.results[OURS].curves
        low, high = np.percentile(ours, [figures.LOW, figures.HIGH], axis=0)
        axis.fill_between(found.grid, np.maximum(low, floor), np.maximum(high, floor), alpha=0.2, color="C0", linewidth=0)
        lines = {OURS: ("C0", 2.0)}
        if "random+asha" in found.results:
            lines["random+asha"] = ("0.6", 1.2)
        if found.stock:
            lines[found.stock.best] = ("C1", 1.5)
        if research := found.of("research"):
            best = min(research, key=lambda name: (found.hours(name), float(found.results[name].median[-1])))
            lines[best] = ("C2", 1.5)
        for name, (colour, width) in lines.items():
            curve = np.maximum(found.results[name].median, floor)
            axis.step(found.grid, curve, where="post", color=colour, linewidth=width, label=name)
        axis.axhline(found.target, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_yscale("log")
        axis.set_ylim(floor, 2)
        axis.set_xlim(0, found.grid[-1])
        ratio = f": {'' if found.stock.reached else '> '}{found.stock.ratio:.2f} ×" if found.stock else ""
        axis.set_title(f"{found.family.name}{ratio}", fontsize=10)
        axis.set_xlabel("GPU hours")
        axis.set_ylabel("regret of the pick")
        axis.legend(fontsize=7, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="default: 20, with --quick 3")
    parser.add_argument("--family", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="rivals and ablations; ours always runs")
    parser.add_argument("--budget", type=float, default=2.0, metavar="FACTOR", help="× the family's own")
    parser.add_argument("--quick", action="store_true", help=f"stock methods on {', '.join(QUICK)}")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep each run there, and go on from what is there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--slow", action="store_true", help=f"{', '.join(SLOW)} too")
    parser.add_argument("--slow-seeds", type=int, default=2)
    parser.add_argument("--cap-seconds", type=float, default=600.0, help="a run that takes longer is cut")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of ours, e.g. search.sampler=tpe")
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
        raise UserError("there is nothing to compare: no family could be run")
    told = summary(comparisons, seeds, arguments.budget)
    if not arguments.json:
        print_tables(comparisons, told)
    if arguments.plot:
        plot(comparisons, arguments.plot)
    print(json.dumps(told))
    if any("error" in row for row in rows):
        sys.exit("some runs failed; the figures are those of the others")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
