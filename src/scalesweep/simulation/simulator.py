"""Discrete events on a virtual clock: a driver decides, a source says what its trials would have shown.

Nothing sleeps and nothing trains. A trial takes its GPUs all at once, is started up, and reports at each evaluation of its
curve; whoever drives is asked for trials whenever GPUs are free.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scalesweep.simulation.source import Curve, Source


@dataclass
class Clock:
    """Virtual time in seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Start:
    """A trial that wants to run. One that has run before goes on where it was, if the driver names it again."""

    name: str
    params: Mapping[str, Any]
    num_gpus: int = 1


class Driver(Protocol):
    """Who decides: the sweep's own conductor, or another tool in a benchmark."""

    def next_trial(self, free: int) -> Start | None:
        """The next trial to start while `free` GPUs are idle; None while there is none.

        One that needs more than `free` waits, and the driver is not asked again before it has started.
        """
        ...

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:
        """Take a report; the metric is in its own direction, NaN where the trial has diverged. `last` is the one at `max_t`.

        Returns whether the trial goes on. One that does not gives its GPUs back; it may be named by `next_trial` again.
        """
        ...

    def died(self, name: str) -> None:
        """The trial's workers are gone. It goes on after its last report when `next_trial` names it again."""
        ...

    def finished(self) -> bool: ...

    def pick(self) -> Mapping[str, Any] | None:
        """The parameters that the driver would promote now."""
        ...


@dataclass(frozen=True)
class Cluster:
    """What trials run on. `startup_seconds` pass between a trial's GPUs being taken and its first step."""

    gpus: int
    startup_seconds: float = 5.0
    failures_per_gpu_hour: float = 0.0


@dataclass
class _Running:
    start: Start
    since: float
    next_report: int  # index into the curve
    fails: bool = False


@dataclass
class Run:
    """One simulated sweep, seen at each GPU hour of `gpu_hours`. A regret is NaN while nothing can be picked."""

    gpu_hours: np.ndarray
    wall_hours: np.ndarray
    best: np.ndarray  # value at full fidelity of what the driver would pick
    regret: np.ndarray  # the same, normalized: 0 is the best known, 1 the median of random configurations
    trials: int = 0
    reports: int = 0
    spent_gpu_hours: float = 0.0
    makespan_hours: float = 0.0
    controller_seconds: float = 0.0
    pick: dict[str, Any] = field(default_factory=dict)
    pick_rank: int | None = None
    occupancy: float = 0.0


def normalized_regret(source: Source, value: float) -> float:
    """(value − best known) ÷ (median of random configurations − best known), whichever direction is better."""
    return (value - source.best) / (source.median - source.best)


def simulate(
    driver: Driver, source: Source, cluster: Cluster, clock: Clock, budget_gpu_hours: float, seed: int = 0, points: int = 200
) -> Run:
    """Run a driver until it is finished or the budget is spent.

    Args:
        clock: starts at whatever it shows; a driver that reads the time shares it.
        budget_gpu_hours: at this spending the simulation ends, running trials included.
        points: GPU hours at which the pick is looked at, evenly spaced up to the budget.
    """
    grid = np.linspace(0, budget_gpu_hours, points + 1)[1:]
    run = Run(grid, np.full(points, np.nan), np.full(points, np.nan), np.full(points, np.nan))
    begun, at = clock.now, 0
    free, waiting = cluster.gpus, None
    running: dict[str, _Running] = {}
    curves: dict[str, Curve] = {}
    done: dict[str, int] = {}  # reports of each trial so far
    events: list[tuple[float, int, str]] = []  # (time, tie-break in order of planning, trial)
    planned = 0
    spent = busy = 0.0
    rng = np.random.default_rng([seed, 7])

    def plan(state: _Running, after: float) -> None:
        """When the trial's next report, or its death, comes."""
        nonlocal planned
        curve, gpus = curves[state.start.name], state.start.num_gpus
        before = curve.gpu_seconds[state.next_report - 1] if state.next_report else 0.0
        when = after + (curve.gpu_seconds[state.next_report] - before) / gpus
        if cluster.failures_per_gpu_hour:
            death = clock.now + rng.exponential(3600 / (cluster.failures_per_gpu_hour * gpus))
            state.fails, when = death < when, min(death, when)
        planned += 1
        heapq.heappush(events, (when, planned, state.start.name))

    while True:
        asked = time.perf_counter()
        while not driver.finished():
            waiting = waiting or driver.next_trial(free)
            if waiting is None or waiting.num_gpus > free:
                break
            start, waiting = waiting, None
            if start.name not in curves:
                run.controller_seconds += time.perf_counter() - asked  # the source's time is not the driver's
                curves[start.name] = source.curve(start.params, seed * 1_000_003 + len(curves))
                asked = time.perf_counter()
            state = _Running(start, clock.now, done.get(start.name, 0))
            running[start.name] = state
            free -= start.num_gpus
            plan(state, clock.now + cluster.startup_seconds)
        run.controller_seconds += time.perf_counter() - asked
        if not events:
            break
        when, _, name = heapq.heappop(events)
        step = (when - clock.now) * (cluster.gpus - free) / 3600
        crossed = [k for k in range(at, points) if grid[k] <= spent + step]
        if crossed:
            pick = driver.pick()
            value = source.final(pick) if pick is not None else np.nan
            for k in crossed:
                run.wall_hours[k] = (clock.now - begun) / 3600 + (grid[k] - spent) / max(cluster.gpus - free, 1)
                run.best[k] = value
                run.regret[k] = normalized_regret(source, value)
            at = crossed[-1] + 1
        if at == points:  # the budget is spent somewhere on the way to the event
            clock.now = begun + 3600 * float(run.wall_hours[-1])
            busy, spent = busy + budget_gpu_hours - spent, budget_gpu_hours
            break
        spent += step
        busy += step
        clock.now = when
        state = running[name]
        asked = time.perf_counter()
        if state.fails:
            driver.died(name)
            goes_on = False
        else:
            curve, index = curves[name], state.next_report
            done[name] = index + 1
            run.reports += 1
            last = index + 1 == len(curve.fidelity)
            goes_on = driver.report(name, float(curve.fidelity[index]), float(curve.value[index]), last) and not last
        run.controller_seconds += time.perf_counter() - asked
        if goes_on:
            state.next_report += 1
            plan(state, clock.now)
        else:
            free += running.pop(name).start.num_gpus
    pick = driver.pick()
    if pick is not None:
        value = source.final(pick)
        run.best[at:], run.regret[at:] = value, normalized_regret(source, value)
        run.pick, run.pick_rank = dict(pick), source.true_rank(value)
    run.trials, run.spent_gpu_hours = len(curves), float(spent)
    run.makespan_hours = (clock.now - begun) / 3600
    run.occupancy = min(1.0, busy / (run.makespan_hours * cluster.gpus)) if run.makespan_hours else 0.0
    return run
