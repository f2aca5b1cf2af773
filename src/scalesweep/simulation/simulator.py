"""Simulation of discrete events on a virtual clock: a driver decides, and a source provides the curves of its trials.

Nothing sleeps and nothing trains. A trial takes all its GPUs at once, starts up, and reports at each evaluation of its curve.
The driver is asked for trials whenever GPUs are free.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scalesweep.simulation.source import Curve, Source

APART = 2520 * 10**9 + 1  # between the seeds of a trial's repeats: of up to ten curves of a configuration, each takes the next


@dataclass
class Clock:
    """Virtual time in seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Start:
    """A trial to start. A trial that has run before continues from its last report.

    A repeat trains the parameters of the trial `repeat_of` with another seed; `repeat` numbers its repeats from 1.
    """

    name: str
    params: Mapping[str, Any]
    num_gpus: float = 1
    repeat_of: str | None = None
    repeat: int = 0


class Driver(Protocol):
    """The decision maker: the sweep's own conductor, or another tool in a benchmark."""

    def next_trial(self, free: float) -> Start | None:
        """The next trial to start while `free` GPUs are idle; None if there is none yet.

        A trial that needs more than `free` GPUs waits, and the driver is not asked again until it has started.
        """
        ...

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:
        """Receive a report. The metric is in its own direction, NaN if the trial has diverged. `last` marks the one at `max_t`.

        Returns whether the trial continues. Otherwise it returns its GPUs, and `next_trial` may name it again.
        """
        ...

    def died(self, name: str) -> None:
        """Receive the loss of a trial's workers. It continues from its last report when `next_trial` names it again."""
        ...

    def finished(self) -> bool: ...

    def pick(self) -> Mapping[str, Any] | None:
        """The parameters that the driver would promote now; None if there are none."""
        ...


@dataclass(frozen=True)
class Cluster:
    """The simulated cluster. `startup_seconds` pass between a trial's allocation of GPUs and its first step."""

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
    """One simulated sweep, observed at each value of `gpu_hours`. The regret is NaN while there is no pick."""

    gpu_hours: np.ndarray
    wall_hours: np.ndarray
    best: np.ndarray  # value at full fidelity of the driver's pick
    regret: np.ndarray  # normalized: 0 is the best known value, 1 the median of random configurations
    trials: int = 0
    reports: int = 0
    spent_gpu_hours: float = 0.0
    makespan_hours: float = 0.0
    controller_seconds: float = 0.0
    pick: dict[str, Any] = field(default_factory=dict)
    pick_rank: int | None = None
    occupancy: float = 0.0


def normalized_regret(source: Source, value: float) -> float:
    """(value − best known) ÷ (median of random configurations − best known), for either direction of the metric."""
    return (value - source.best) / (source.median - source.best)


def simulate(
    driver: Driver, source: Source, cluster: Cluster, clock: Clock, budget_gpu_hours: float, seed: int = 0, points: int = 200
) -> Run:
    """Run a driver until it is finished or the budget is spent.

    Args:
        clock: the simulation starts at its current time. A driver that reads the time must share it.
        budget_gpu_hours: the simulation ends, with all running trials, when it has spent this.
        points: number of observations of the pick, evenly spaced in GPU hours up to the budget.
    """
    grid = np.linspace(0, budget_gpu_hours, points + 1)[1:]
    run = Run(grid, np.full(points, np.nan), np.full(points, np.nan), np.full(points, np.nan))
    begun, at = clock.now, 0
    free, waiting = float(cluster.gpus), None
    running: dict[str, _Running] = {}
    curves: dict[str, Curve] = {}
    seeds: dict[str, int] = {}  # of the curves
    done: dict[str, int] = {}  # reports of each trial so far
    events: list[tuple[float, int, str]] = []  # (time, order of planning to break ties, trial)
    planned = 0
    spent = busy = 0.0
    rng = np.random.default_rng([seed, 7])

    def plan(state: _Running, after: float) -> None:
        """Schedule the trial's next report or its failure."""
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
                run.controller_seconds += time.perf_counter() - asked  # the time of the source does not count as the driver's
                own = seed * 1_000_003 + len(curves)
                seeds[start.name] = seeds[start.repeat_of] + APART * start.repeat if start.repeat_of else own
                curves[start.name] = source.curve(start.params, seeds[start.name])
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
                run.wall_hours[k] = (clock.now - begun) / 3600 + (grid[k] - spent) / ((cluster.gpus - free) or 1)
                run.best[k] = value
                run.regret[k] = normalized_regret(source, value)
            at = crossed[-1] + 1
        if at == points:  # the budget is spent before the event
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
