"""Warm workers: leased in any number, as good as new after any trial, and none lost when something dies or hangs."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from jobs import job
from scalesweep.training.job import TrialJob
from scalesweep.training.workers import TrialFailed, WorkerDied, WorkerGroup, WorkerPool

SHORT = {"max_t": 4, "rungs": [], "eval_interval": 2, "learning_rate": 1e-3, "dropout": 0.1, "micro_batch_size": 16}


@pytest.fixture
def pool(local_ray: None) -> Iterator[WorkerPool]:  # noqa: ARG001
    made = WorkerPool(threads=1, on_gpus=True, timeout_seconds=20)
    yield made
    made.shutdown()


def run(pool: WorkerPool, name: str, count: int, **config: Any) -> list[Any]:
    group = WorkerGroup(pool.lease_soon(name, count))
    group.begin(made(name, num_gpus=count, **config))
    found = list(iter(group.next, None))
    pool.release(name)
    return found


def made(name: str, **config: Any) -> TrialJob:
    return replace(job({**SHORT, **config}), trial=name)


@pytest.mark.slow
def test_a_warm_worker_gives_bit_equal_results_to_a_fresh_one(pool: WorkerPool) -> None:
    tried = [
        (1, {"unfreezing": "gradual", "unfreeze_interval": 1, "model_size": "L2"}),
        (2, {"unfreezing": "full", "model_size": "L1"}),
        (1, {"unfreezing": "head", "model_size": "L1", "lr_scheduler_type": "cosine"}),
        (2, {"unfreezing": "lp_ft", "unfreeze_interval": 2, "model_size": "L2"}),
    ]
    warm = [run(pool, f"t{number}", count, **config) for number, (count, config) in enumerate(tried * 2)]
    for number, (count, config) in enumerate(tried):
        fresh_pool = WorkerPool(threads=1, on_gpus=True)
        fresh = run(fresh_pool, "fresh", count, **config)
        fresh_pool.shutdown()
        assert warm[number] == fresh
        assert warm[number + len(tried)] == fresh


def test_the_process_group_is_kept_while_the_same_workers_meet(pool: WorkerPool) -> None:
    first = pool.lease_soon("a", 2)
    group = WorkerGroup(first)
    group.begin(made("a", num_gpus=2))
    group.next()
    pool.release("a")
    alone = pool.lease_soon("b", 1)
    assert alone.workers[0] in first.workers
    WorkerGroup(alone).begin(made("b"))
    pool.release("b")
    again = pool.lease_soon("c", 2)
    assert again == first
    group = WorkerGroup(again)
    assert group._all([actor.is_in.remote(first.group) for actor in group.ranks]) == [True, True]
    group.begin(made("c", num_gpus=2))
    assert group.next().step == 2
    pool.release("c")
    three = pool.lease_soon("d", 3)
    assert three.group != first.group
    group = WorkerGroup(three)
    group.begin(made("d", num_gpus=3))
    assert group.next().step == 2


def test_a_lease_takes_nothing_while_it_can_not_take_all(pool: WorkerPool) -> None:
    pool.lease_soon("a", 2)
    assert pool.lease("b", 2, capacity=3) is None
    assert pool.lease("c", 1, capacity=3) is None or len(pool.workers) == 3
    assert sum(worker.holder == "b" for worker in pool.workers.values()) == 0
    assert len(pool.workers) <= 3


def test_a_killed_worker_is_told_apart_from_a_failed_trial_and_its_group_is_replaced(pool: WorkerPool) -> None:
    group = WorkerGroup(pool.lease_soon("a", 2))
    group.begin(made("a", num_gpus=2, max_t=200, eval_interval=100))
    pids = group.pids()
    pending = [actor.next.remote() for actor in group.ranks]
    time.sleep(1)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorkerDied):
        group._all(pending)
    pool.discard("a")
    assert pool.workers == {}
    assert run(pool, "a again", 2)[-1].step == 4
    wait_until_gone(pids)


@pytest.mark.slow
def test_a_worker_that_hangs_in_a_sum_is_found_out_and_replaced(pool: WorkerPool) -> None:
    group = WorkerGroup(pool.lease_soon("a", 2))
    group.begin(made("a", num_gpus=2, max_t=10_000, eval_interval=5000))
    pids = group.pids()
    pending = [actor.next.remote() for actor in group.ranks]
    time.sleep(1)
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerDied):
        group._all([pending[0]])
    assert time.monotonic() - began < 60
    pool.discard("a")
    wait_until_gone(pids)
    assert run(pool, "b", 2)[-1].step == 4


def test_an_error_in_training_is_a_failure_of_the_trial(pool: WorkerPool) -> None:
    group = WorkerGroup(pool.lease_soon("a", 1))
    with pytest.raises(TrialFailed, match="upside_down"):
        group.begin(made("a", lr_scheduler_type="upside_down"))
    pool.release("a")
    assert run(pool, "b", 1)[-1].step == 4


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, "a killed worker lives on"
        time.sleep(0.1)


@pytest.mark.slow
def test_fifty_trials_leak_nothing(pool: WorkerPool) -> None:
    """Handles, threads, sockets, maps and memory of two workers over fifty trials of changing shape."""
    shapes = [
        (1, {"unfreezing": "head"}),
        (2, {"unfreezing": "gradual", "unfreeze_interval": 1}),
        (1, {"unfreezing": "full", "model_size": "L2"}),
        (2, {"unfreezing": "lp_ft", "unfreeze_interval": 1, "model_size": "L2"}),
        (1, {"unfreezing": "gradual", "unfreeze_interval": 2, "model_size": "L2"}),
    ]
    pool.lease_soon("both", 2)
    pool.release("both")
    seen = []
    for number in range(50):
        count, config = shapes[number % len(shapes)]
        run(pool, f"t{number}", count, **config)
        if number % len(shapes) == len(shapes) - 1:
            seen.append(state_of([process for process in psutil.Process().children(recursive=True) if is_worker(process)]))
    gc.collect()
    early, late = seen[3], seen[-1]
    assert late["processes"] == early["processes"] == 2
    assert late["files"] <= early["files"]
    assert late["sockets"] <= early["sockets"]
    assert late["threads"] <= early["threads"]
    assert late["megabytes"] < 1.05 * early["megabytes"], seen


def is_worker(process: psutil.Process) -> bool:
    try:
        return "_Rank" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def state_of(workers: list[psutil.Process]) -> dict[str, float]:
    return {
        "processes": len(workers),
        "files": sum(worker.num_fds() for worker in workers),
        "sockets": sum(len(worker.net_connections()) for worker in workers),
        "threads": sum(worker.num_threads() for worker in workers),
        "megabytes": sum(worker.memory_full_info().uss for worker in workers) / 2**20,
    }
