"""Simulation of a sweep over several seeds. The results are plain numbers, which `report/` shows."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalesweep.errors import OutsideError, UserError, counted, did_you_mean, nearest
from scalesweep.record import Past, Record, State, read_record
from scalesweep.simulation.driver import SweepDriver
from scalesweep.simulation.parametric import FAMILIES, RATES, ParametricSource
from scalesweep.simulation.simulator import Clock, Cluster, Run, simulate
from scalesweep.simulation.source import Source
from scalesweep.spec import SweepSpec, allowed_gpus, earlier_trials, gpu_choices, load_sweep
from scalesweep.spec.config import WHOLE
from scalesweep.storage import UrlPath, place

FAMILY = "family:"
SHARES = (0.1, 0.25, 0.5, 1.0)  # shares of the budget at which results are shown
GOAL_REGRET = 0.05
BAND = (0.1, 0.9)  # quantiles over seeds
DEFAULT_TRIALS = 50  # default budget, in full trials of median cost
DRAWN = 200  # random configurations for the median cost

Progress = Callable[[int, int], None]
Array = np.ndarray


@dataclass(frozen=True)
class Options:
    workers: int = 8
    seeds: int = 5
    gpu_hours: float | None = None  # None: the sweep's own budget, or `DEFAULT_TRIALS`
    startup_seconds: float = 5.0
    failures_per_gpu_hour: float = 0.0
    processes: int = 1


# ---- the variants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A sweep and its curves. `settings` are the keys that differ from the sweep file."""

    label: str
    settings: tuple[str, ...]
    spec: SweepSpec
    source: Source
    past: tuple[Past, ...] = ()  # trials of earlier sweeps for the warm start
    notes: tuple[str, ...] = ()


def open_variants(
    spec_path: Path,
    curves: str,
    overrides: Sequence[str] = (),
    against: Sequence[str] = (),
    efficiency: float = 0.9,
) -> list[Variant]:
    """The sweep and each sweep that it is compared with, on the same curves.

    Args:
        curves: a run folder, a table, or `family:NAME`.
        overrides: `KEY=VALUE` strings for all sweeps.
        against: for each further sweep, `KEY=VALUE` strings joined by commas.
        efficiency: of twice as many GPUs, if the curves do not contain it.

    Raises:
        UserError: a file is missing or invalid, or the curves do not fit the sweep.
    """
    kind = _kind_of(curves)
    told = [_settings(text) for text in against]
    foreign = kind == "table"
    specs = [load_sweep(spec_path, overrides, foreign=foreign, against=settings) for settings in ((), *told)]
    _ = specs[0].goal  # an unknown one is refused before the curves are read
    # The curves are read once for all sweeps.
    content: Any = None
    if kind == "record":
        content = read_record(curves)
    elif kind == "table":
        from scalesweep.simulation.table_files import read_table
        from scalesweep.simulation.tables import TableSource

        content = read_table(Path(curves))

    def source_for(spec: SweepSpec) -> Source:
        if kind == "family":  # without pandas and scikit-learn, which each process of a simulation would import
            return _family_source(curves.removeprefix(FAMILY), spec)
        name = folder.name if isinstance(folder := place(curves), UrlPath) else str(Path(curves))
        if kind == "table":
            return TableSource(content, spec, efficiency, name=name)
        from scalesweep.simulation.recorded import RecordSource

        return RecordSource(content, spec, name=name)

    first = source_for(specs[0])
    if not math.isfinite(first.median) or first.median == first.best:
        raise UserError(
            f"{curves}: all configurations end at the same value ({first.best:g})", "use curves whose final values differ"
        )
    keys = list(dict.fromkeys(setting.partition("=")[0] for settings in told for setting in settings))
    own = [f"{key}={_value_at(specs[0], key)}" for key in keys]
    variants = [Variant(_label(own) or specs[0].name, (), specs[0], first, *_past_of(specs[0], spec_path.parent))]
    for settings, text, spec in zip(told, against, specs[1:], strict=True):
        _check_comparable(specs[0], spec, text)
        source = first
        if _trains(spec) != _trains(specs[0]):
            source = source_for(spec)
            vars(source).update(best=first.best, median=first.median)  # one scale of regret for all sweeps, not computed again
        past = _past_of(spec, spec_path.parent)
        variants.append(Variant(_label(settings), tuple(settings), spec, source, *past))
    return variants


def _past_of(spec: SweepSpec, base: Path) -> tuple[tuple[Past, ...], tuple[str, ...]]:
    """The trials of `search.warm_start` that a launch would use, and the note on them."""
    earlier, note = earlier_trials(spec, base, read_record)
    return tuple(Past.of(name, trial, spec.metric.name) for name, trial in earlier), (note,) if note else ()


def _kind_of(curves: str) -> Literal["family", "record", "table"]:
    path = Path(curves)
    if isinstance(place(curves), UrlPath):
        return "record"
    if curves.startswith(FAMILY):
        name = curves.removeprefix(FAMILY)
        if name not in FAMILIES:
            raise UserError(f"--curves {curves}: the family {name!r} does not exist", did_you_mean(name, FAMILIES))
        return "family"
    if path.is_dir():
        return "record"
    if path.is_file():
        return "table"
    known = f"{FAMILY}NAME with NAME one of {', '.join(FAMILIES)}"
    near = nearest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else None
    prefix, _, rest = curves.partition(":")
    if near is not None:
        hint = f"did you mean {path.parent / near}?"
    elif (family := nearest(rest or prefix, FAMILIES)) is not None:
        hint = f"did you mean {FAMILY}{family}?"
    else:
        hint = f"name a finished run folder, a table (.csv, .parquet), or {known}"
    raise UserError(f"--curves {curves}: the run folder or table does not exist", hint)


def _family_source(name: str, spec: SweepSpec) -> Source:
    time_attr = spec.early_terminate.time_attr
    if time_attr not in WHOLE:
        hint = f"set early_terminate.time_attr to one of {', '.join(WHOLE)}"
        raise UserError(f"{FAMILY}{name}: modelled curves do not support time_attr: {time_attr}", hint)
    scheduler = spec.search_space.parameters.get("lr_scheduler_type")
    for schedule in scheduler.choices() or [] if scheduler else []:
        if schedule not in RATES:
            raise UserError(f"lr_scheduler_type: {schedule!r} is not a schedule", did_you_mean(str(schedule), RATES))
    return ParametricSource(FAMILIES[name], spec)


def _settings(text: str) -> list[str]:
    """Split `KEY=VALUE` settings at commas: `a.b=1,c=[2,3]` → ['a.b=1', 'c=[2,3]']."""
    settings = re.split(r",\s*(?=[A-Za-z_][\w.]*=)", text)
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--against {text}: {setting!r} is not KEY=VALUE", "for example --against search.sampler=random")
    return settings


def _label(settings: Sequence[str]) -> str:
    """A label such as 'sampler=random, survival=metric', without the sections of the keys."""
    return ", ".join(setting.partition("=")[0].rpartition(".")[2] + "=" + setting.partition("=")[2] for setting in settings)


def _value_at(spec: SweepSpec, key: str) -> Any:
    value: Any = spec.model_dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "…" if isinstance(value, dict | list) else value


def _trains(spec: SweepSpec) -> dict[str, Any]:
    """The part of a sweep that curves depend on: everything except the search."""
    data = spec.model_dump(exclude={"name", "search", "budget", "resources", "tracking"})
    data["early_terminate"] = {k: v for k, v in data["early_terminate"].items() if k not in ("survival", "variant")}
    return data


def _check_comparable(one: SweepSpec, other: SweepSpec, text: str) -> None:
    for section, keys in (("metric", ("name", "goal")), ("early_terminate", ("time_attr", "max_t")), ("search", ("seed",))):
        for key in keys:
            if getattr(getattr(one, section), key) != getattr(getattr(other, section), key):
                hint = "simulate the two sweeps separately"
                raise UserError(f"--against {text}: sweeps with different {section}.{key} are not comparable", hint)


def budget_of(spec: SweepSpec, source: Source, options: Options) -> tuple[float, str]:
    """The GPU hours at which a simulation ends, and their origin in words."""
    if options.gpu_hours is not None:
        return options.gpu_hours, "--gpu-hours"
    if spec.budget.gpu_hours is not None:
        return spec.budget.gpu_hours, "budget.gpu_hours of the sweep"
    rng = np.random.default_rng(0)
    drawn = [_random_params(spec, rng) for _ in range(DRAWN)]
    costs = [
        source.curve(params, seed).gpu_seconds[-1] + options.startup_seconds * params.get("num_gpus", 1)
        for seed, params in enumerate(drawn)
    ]
    hours = DEFAULT_TRIALS * float(np.median(costs)) / 3600
    if not hours > 0:
        raise UserError("trials of these curves cost nothing, so there is no default budget", "set one with --gpu-hours")
    return hours, f"the cost of {DEFAULT_TRIALS} full trials of median cost, start-up included; --gpu-hours sets another"


def _random_params(spec: SweepSpec, rng: np.random.Generator) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, parameter in spec.search_space.ordered():
        if not parameter.holds(params):
            continue
        choices: Sequence[Any] | None = parameter.choices()
        if name == "num_gpus":
            choices = allowed_gpus(spec, spec.size(params.get("model_size", spec.sizes()[0].name)))
        if choices is not None:
            params[name] = choices[int(rng.integers(len(choices)))]
            continue
        low, high = float(parameter.min or 0), float(parameter.max or 0)
        if parameter.kind == "int_uniform":
            params[name] = int(rng.integers(int(low), int(high) + 1))
        else:
            log = parameter.kind == "log_uniform_values"
            params[name] = low * (high / low) ** rng.random() if log else float(rng.uniform(low, high))
    return params


# ---- one seed -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedRun:
    """One simulated sweep and the counts of its record."""

    seed: int
    run: Run
    complete: int  # trials that ran to the end
    stopped: int  # trials stopped at a rung
    promoted: int  # trials that passed a rung
    diverged: int
    failed: int
    unfinished: int  # running, paused or waiting when the budget was spent
    silent: str = ""  # why no trial reported anything, if none did

    @property
    def decisions(self) -> int:
        return self.run.trials + self.run.reports

    def hours_to(self, regret: float) -> float:
        """The GPU hours at which the regret first falls to `regret`; infinite if it never does."""
        there = self.run.regret <= regret
        return float(self.run.gpu_hours[np.argmax(there)]) if there.any() else math.inf


def run_seed(variant: Variant, budget: float, options: Options, seed: int) -> SeedRun:
    spec, clock = variant.spec, Clock()
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"gpu_hours": budget})})
    past = [_priced(earlier, variant.source, options.startup_seconds) for earlier in variant.past]
    driver = SweepDriver(spec, variant.source.n_params, options.workers, clock, seed, past)
    cluster = Cluster(options.workers, options.startup_seconds, options.failures_per_gpu_hour)
    run = simulate(driver, variant.source, cluster, clock, budget, seed)
    ended = np.isnan(run.wall_hours) & ~np.isnan(run.regret)
    run.wall_hours[ended] = run.makespan_hours  # the sweep ended before its budget was spent
    counts, silent = _counts(driver.record, over=bool(ended.any())), ""
    if not run.trials:
        silent = f"no trial started: {driver.ending()}"
    elif not run.reports:
        died = counts["failed"] == run.trials
        silent = f"{'every trial died' if died else 'the budget was spent'} before the first report"
    return SeedRun(seed, run, **counts, silent=silent)


def _priced(past: Past, source: Source, startup_seconds: float) -> Past:
    """A trial of an earlier sweep with the GPU seconds that these curves ask for it, which the search compares with the budget."""
    curve = source.curve(past.params, 0)
    fidelity, end = np.array([at for at, _, _ in past.reports]), curve.fidelity[-1]
    costs = np.interp(fidelity, [0.0, *curve.fidelity], [0.0, *curve.gpu_seconds]) * np.maximum(fidelity / end, 1)
    costs += startup_seconds * past.params.get("num_gpus", 1)
    reports = [(at, value, cost) for (at, value, _), cost in zip(past.reports, costs.tolist(), strict=True)]
    return replace(past, reports=tuple(reports))


def _counts(record: Record, over: bool) -> dict[str, int]:
    """Counts of trials by state. `over`: the sweep ended by itself, so trials paused at a rung never pass it."""
    counts = dict.fromkeys(("complete", "stopped", "promoted", "diverged", "failed", "unfinished"), 0)
    for trial in record.trials.values():
        judged = [place for place, report in enumerate(trial.reports, start=1) if report.rungs]
        counts["promoted"] += bool(judged) and (
            trial.reports[judged[0] - 1].action == "continue" or len(trial.reports) > judged[0]
        )
        counts["complete"] += trial.state is State.COMPLETE
        left_behind = over and trial.paused
        counts["stopped"] += trial.stop_reason == "rung" or left_behind
        counts["diverged"] += trial.stop_reason == "diverged"
        counts["failed"] += trial.state in (State.FAIL, State.INFEASIBLE)
        counts["unfinished"] += trial.state is State.RUNNING and not left_behind
    return counts


# ---- all seeds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """The median and the 10 % and 90 % quantiles over seeds. Infinite while there is no pick."""

    median: Array
    low: Array
    high: Array


def _band(rows: Array, missing: float) -> Band:
    """The band of rows [seeds, points]. NaN counts as the worst value, `missing`."""
    rows = np.sort(np.where(np.isnan(rows), missing, rows), axis=0)

    def quantile(q: float) -> Array:  # NumPy's quantile subtracts infinity from infinity
        below, share = divmod(q * (len(rows) - 1), 1)
        one = rows[int(below)]
        if share == 0:
            return one
        other = rows[int(below) + 1]
        finite = np.isfinite(one) & np.isfinite(other)
        return np.where(finite, one + share * np.where(finite, other - one, 0), missing)

    with np.errstate(invalid="ignore"):
        return Band(quantile(0.5), *map(quantile, BAND))


@dataclass(frozen=True)
class Outcome:
    """The results of one variant over all seeds."""

    label: str
    settings: tuple[str, ...]
    seeds: list[SeedRun]
    minimize: bool
    known: int | None  # number of configurations among which a pick is ranked

    @property
    def gpu_hours(self) -> Array:
        return self.seeds[0].run.gpu_hours

    @cached_property
    def value(self) -> Band:
        """The value of the pick at full fidelity. `low` and `high` are numeric bounds, for either direction."""
        return _band(np.array([seed.run.best for seed in self.seeds]), math.inf if self.minimize else -math.inf)

    @cached_property
    def regret(self) -> Band:
        return _band(np.array([seed.run.regret for seed in self.seeds]), math.inf)

    @cached_property
    def wall_hours(self) -> Array:
        """The median wall-clock hours over seeds at each of `gpu_hours`."""
        return np.median(np.array([seed.run.wall_hours for seed in self.seeds]), axis=0)

    def regret_by_wall(self, hours: Array) -> Band:
        """The regret at wall-clock `hours`; after a sweep's end it stays constant."""
        rows = []
        for seed in self.seeds:
            wall, regret = seed.run.wall_hours, seed.run.regret
            known = ~np.isnan(wall)
            wall, regret = wall[known], regret[known]
            place = np.searchsorted(wall, hours, side="right") - 1
            rows.append(
                np.where(place >= 0, regret[np.maximum(place, 0)], math.nan) if len(wall) else np.full(len(hours), math.nan)
            )
        return _band(np.array(rows), math.inf)

    @property
    def hours_to_goal(self) -> float:
        """The median GPU hours over seeds to reach `GOAL_REGRET`; infinite if at least half of them never do."""
        return float(np.median([seed.hours_to(GOAL_REGRET) for seed in self.seeds]))

    @property
    def seeds_at_goal(self) -> int:
        return sum(math.isfinite(seed.hours_to(GOAL_REGRET)) for seed in self.seeds)

    @property
    def median_seed(self) -> SeedRun:
        """The seed with the median final regret; of an even number, the better of the two in the middle."""
        order = sorted(self.seeds, key=lambda seed: (math.inf if math.isnan(r := seed.run.regret[-1]) else r, seed.seed))
        return order[(len(order) - 1) // 2]

    def mean(self, number: Callable[[SeedRun], float]) -> float:
        return float(np.mean([number(seed) for seed in self.seeds]))

    @property
    def controller_ms(self) -> float:
        """The search's own milliseconds per decision (a proposed trial or a judged report)."""
        return (
            1e3 * sum(seed.run.controller_seconds for seed in self.seeds) / max(1, sum(seed.decisions for seed in self.seeds))
        )


@dataclass(frozen=True)
class Simulation:
    """The results of a simulation: the sweep first, then the sweeps that it is compared with."""

    sweep: str
    curves: str
    metric: str
    goal: str
    options: Options
    budget_gpu_hours: float
    budget_from: str
    best: float  # value with regret 0
    median: float  # value with regret 1
    notes: list[str]
    outcomes: list[Outcome]

    @cached_property
    def wall_grid(self) -> Array:
        """Evenly spaced wall-clock hours up to the end of the longest sweep."""
        longest = max(seed.run.makespan_hours for outcome in self.outcomes for seed in outcome.seeds)
        points = len(self.outcomes[0].gpu_hours)
        return np.linspace(0, longest, points + 1)[1:]


def run_simulation(variants: Sequence[Variant], curves: str, options: Options, progress: Progress | None = None) -> Simulation:
    """Simulate every variant with every seed. The result does not depend on the number of processes.

    Raises:
        UserError: the cluster is too small for the space.
        OutsideError: a process of the simulation was killed.
    """
    first = variants[0]
    for variant in variants:
        _check_workers(variant.spec, options.workers)
    budget, budget_from = budget_of(first.spec, first.source, options)
    start = first.spec.search.seed
    jobs = [(at, seed) for at in range(len(variants)) for seed in range(start, start + options.seeds)]
    done: dict[tuple[int, int], SeedRun] = {}
    for job, result in _each(variants, budget, options, jobs):
        done[job] = result
        if progress is not None:
            progress(len(done), len(jobs))
    outcomes = []
    for at, variant in enumerate(variants):
        last = variant.source.true_rank(math.nan)
        seeds = [done[job] for job in jobs if job[0] == at]
        known = None if last is None else last - 1
        outcomes.append(Outcome(variant.label, variant.settings, seeds, first.spec.goal == "minimize", known))
    notes = [note for outcome in outcomes for note in _silent(outcome, options, budget)]
    notes = list(dict.fromkeys([*notes, *(note for variant in variants for note in (*variant.source.notes, *variant.notes))]))
    about = first.spec.name, curves, first.spec.metric.name, first.spec.goal
    return Simulation(*about, options, budget, budget_from, first.source.best, first.source.median, notes, outcomes)


def _silent(outcome: Outcome, options: Options, budget: float) -> Iterator[str]:
    """A note on each reason why seeds ended without a report."""
    less = f" or less --startup (a trial takes {options.startup_seconds:g} s to start)" if options.startup_seconds else ""
    remedy = f". The budget is {budget:.3g} GPU hours: give more --gpu-hours{less}"
    for reason in dict.fromkeys(seed.silent for seed in outcome.seeds if seed.silent):
        seeds = [str(seed.seed) for seed in outcome.seeds if seed.silent == reason]
        which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
        yield f"{outcome.label}, {which}: {reason}{remedy if 'budget' in reason else ''}"


def _check_workers(spec: SweepSpec, workers: int) -> None:
    largest = max(gpu_choices(spec))
    if largest > workers:
        path = ("search_space", "parameters", "num_gpus")
        problem = spec.problem(path, f"{largest} is above the {counted(workers, 'GPU')} of the simulated cluster")
        raise UserError(str(problem), f"simulate a larger cluster: --workers {largest}")


Job = tuple[int, int]  # variant, seed
_Setting = tuple[Sequence[Variant], float, Options]
_setting: _Setting | None = None  # the setting of a child process


def _each(variants: Sequence[Variant], budget: float, options: Options, jobs: Sequence[Job]) -> Iterator[tuple[Job, SeedRun]]:
    if min(options.processes, len(jobs)) == 1:
        for place, seed in jobs:
            yield (place, seed), run_seed(variants[place], budget, options, seed)
        return
    setting: _Setting = (variants, budget, options)
    workers = min(options.processes, len(jobs))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(setting,))
    try:
        waiting = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise OutsideError(
            "a process of the simulation was killed, perhaps for lack of memory", "use fewer --processes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(setting: _Setting) -> None:
    global _setting
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently; the first process prints a message
    _setting = setting


def _work(job: Job) -> SeedRun:
    assert _setting is not None
    variants, budget, options = _setting
    return run_seed(variants[job[0]], budget, options, job[1])
