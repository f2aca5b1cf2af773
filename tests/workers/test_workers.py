"""Workers: any number gives the same losses; warm ones are as good as new after any trial, and none is lost when something dies
or hangs. The tests share a pool, and leave nothing leased."""

from __future__ import annotations

import gc
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

import gloo
from jobs import job, reports
from scalesweep.errors import UserError
from scalesweep.training.job import TrialJob
from scalesweep.training.loop import Trainer
from scalesweep.workers.group import TrialFailed, WorkerDied, WorkerGroup
from scalesweep.workers.pool import WorkerPool
from scalesweep.workers.rank import Rank
from scalesweep.workers.versions import installed
from tiny_models import save_tiny
from tiny_sweeps import tiny_sweep

SHORT = {"max_t": 4, "rungs": [], "eval_interval": 2, "learning_rate": 1e-3, "dropout": 0.1, "micro_batch_size": 16}


@pytest.fixture(scope="module")
def workers(local_ray: None) -> Iterator[WorkerPool]:  # noqa: ARG001
    made = WorkerPool(threads=1, on_gpus=True)
    yield made
    made.shutdown()


@pytest.fixture
def pool(workers: WorkerPool) -> Iterator[WorkerPool]:
    yield workers
    for holder in {worker.holder for worker in workers.workers.values() if worker.holder}:
        workers.release(holder)


def leave(pool: WorkerPool, count: int) -> None:
    """Lease all workers but `count`, so that a test meets a pool of no more than those."""
    if pool.idle() > count:
        pool.lease_soon("others", pool.idle() - count)


def empty(pool: WorkerPool) -> None:
    """End all workers that are up."""
    leave(pool, 0)
    pool.discard("others")


def run(pool: WorkerPool, name: str, count: int, **config: Any) -> list[Any]:
    return on_workers(pool, made(name, num_gpus=count, **config))


def on_workers(pool: WorkerPool, job: TrialJob) -> list[Any]:
    group = WorkerGroup(pool.lease_soon(job.trial, job.config.num_gpus))
    group.begin(job)
    found = list(iter(group.next, None))
    pool.release(job.trial)
    return found


def made(name: str, **config: Any) -> TrialJob:
    return replace(job({**SHORT, **config}, sweep=tiny_sweep(layers=(1, 2))), trial=name)


def test_a_size_that_cannot_be_loaded_fails_its_trials_and_no_others(pool: WorkerPool, tmp_path: Path) -> None:
    empty(pool)  # its workers would leave no CPU to others; this test is the first, so none is up
    broken = save_tiny("bert", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = float("inf")
    save_file(weights, broken / "model.safetensors")
    bad, good = made("bad"), made("good")
    bad = replace(bad, size=bad.size.model_copy(update={"model": str(broken)}))
    try:
        _, _, error = Rank(1, 60.0, [bad, good], installed()).boot()
        assert error is None
        with pytest.raises(UserError, match=r"not finite numbers .*: bert.encoder.layer.0.output.dense.bias"):
            Trainer(bad)
        other = WorkerPool(threads=1, on_gpus=False, first_jobs=[bad])
        with pytest.raises(UserError, match=r"a worker could not start: .* not finite numbers"):
            other.lease_soon("bad", 1)
        other.shutdown()
    finally:
        gc.unfreeze()  # this process is no worker


def test_one_and_three_workers_of_a_pool_give_the_losses_of_this_process(pool: WorkerPool) -> None:
    """More kinds of models, and four workers, are in `test_parallel.py`."""
    here = list(reports(gloo.uneven("bert", dropout=0.0)))
    for world in (1, 3):
        gloo.assert_same_losses(on_workers(pool, replace(gloo.uneven("bert", world, dropout=0.0), trial=f"on {world}")), here)


@pytest.mark.slow
def test_a_warm_worker_gives_bit_equal_results_to_a_fresh_process(pool: WorkerPool) -> None:
    tried = [
        (1, {"unfreezing": "gradual", "unfreeze_interval": 1, "model_size": "L2"}),
        (2, {"unfreezing": "full", "model_size": "L1"}),
        (1, {"unfreezing": "head", "model_size": "L1", "lr_scheduler_type": "cosine"}),
        (2, {"unfreezing": "lp_ft", "unfreeze_interval": 2, "model_size": "L2"}),
    ]
    warm = [run(pool, f"t{number}", count, **config) for number, (count, config) in enumerate(tried * 2)]
    for number, (count, config) in enumerate(tried):
        fresh = gloo.on_workers(count, gloo.trained, made("fresh", num_gpus=count, **config))[0]
        assert warm[number] == fresh
        assert warm[number + len(tried)] == fresh


def test_the_process_group_is_kept_while_the_same_workers_meet(pool: WorkerPool) -> None:
    leave(pool, 2)
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
    pool.release("others")
    three = pool.lease_soon("d", 3)
    assert three.group != first.group
    group = WorkerGroup(three)
    group.begin(made("d", num_gpus=3))
    assert group.next().step == 2


def test_what_is_left_of_a_group_is_another_one(pool: WorkerPool) -> None:
    """Two workers of a group of three form a group of their own, which does not wait for the third."""
    first = pool.lease_soon("a", 3)
    pool.release("a")
    alone, pair = pool.lease_soon("b", 1), pool.lease_soon("c", 2)
    assert {*alone.workers, *pair.workers} == set(first.workers)
    assert pair.group != first.group
    pool.release("c")
    assert run(pool, "c", 2)[-1].step == 4


def test_a_lease_takes_nothing_while_it_can_not_take_all(pool: WorkerPool) -> None:
    pool.lease_soon("a", 2)
    assert pool.lease("b", 2, capacity=3) is None
    assert pool.lease("c", 1, capacity=3) is None or len(pool.workers) == 3
    assert sum(worker.holder == "b" for worker in pool.workers.values()) == 0
    assert len(pool.workers) <= 3


def test_a_killed_worker_is_told_apart_from_a_failed_trial_and_its_group_is_replaced(pool: WorkerPool) -> None:
    leave(pool, 2)
    group = WorkerGroup(pool.lease_soon("a", 2))
    group.begin(made("a", num_gpus=2, max_t=10_000, eval_interval=5000, rungs=[1]))
    assert group.next().step == 1
    pids = group.pids()
    pending = [actor.next.remote() for actor in group.ranks]
    wait_until_busy(pids)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorkerDied):
        group._all(pending)
    pool.discard("a")
    assert {worker.holder for worker in pool.workers.values()} <= {"others"}
    pool.release("others")
    left = pool.idle()
    assert run(pool, "a again", left + 1)[-1].step == 4, "with a new worker beside those that were left"
    assert len(pool.workers) == left + 1
    wait_until_gone(pids)


@pytest.fixture
def impatient_pool(pool: WorkerPool) -> Iterator[WorkerPool]:
    empty(pool)  # it would leave no GPU to this one
    made = WorkerPool(threads=1, on_gpus=True, timeout_seconds=12)
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_worker_that_hangs_in_a_sum_is_found_out_and_replaced(impatient_pool: WorkerPool) -> None:
    group = WorkerGroup(impatient_pool.lease_soon("a", 2))
    group.begin(made("a", num_gpus=2, max_t=10_000, eval_interval=5000, rungs=[1]))
    assert group.next().step == 1
    pids = group.pids()
    pending = [actor.next.remote() for actor in group.ranks]
    wait_until_busy(pids)
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerDied):
        group._all([pending[0]])
    assert time.monotonic() - began < 60
    impatient_pool.discard("a")
    wait_until_gone(pids)
    assert run(impatient_pool, "b", 2)[-1].step == 4


def test_an_error_in_training_is_a_failure_of_the_trial(pool: WorkerPool) -> None:
    group = WorkerGroup(pool.lease_soon("a", 1))
    with pytest.raises(TrialFailed, match="upside_down") as caught:
        group.begin(made("a", lr_scheduler_type="upside_down"))
    lines = caught.value.traceback.splitlines()
    assert lines[0].startswith("ray::Rank.begin() (pid="), "with the process, and without the codes of its colours"
    assert re.search(r'File ".*/scalesweep/training/schedules.py", line \d+, in ', caught.value.traceback)
    assert "upside_down" in lines[-1]
    pool.release("a")
    assert run(pool, "b", 1)[-1].step == 4


def test_a_single_worker_that_met_a_fault_of_the_users_can_train_the_next_trial(pool: WorkerPool, tmp_path: Path) -> None:
    group, fine = WorkerGroup(pool.lease_soon("a", 1)), made("a")
    pids = group.pids()
    broken = replace(fine, size=fine.size.model_copy(update={"model": str(tmp_path)}))
    with pytest.raises(TrialFailed, match="the tokenizer can't be read") as caught:
        group.begin(broken)
    assert caught.value.kind == "user"
    group.begin(fine)
    losses = [[report.metrics["eval_loss"] for report in trained] for trained in (iter(group.next, None), reports(fine))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert group.pids() == pids
    group.ranks *= 2
    with pytest.raises(TrialFailed) as caught:
        group._first(lambda rank: rank.begin.remote(broken, 0, 1, "none", None))
    assert caught.value.kind == "error", "another worker of the trial may wait for this one"


def wait_until_busy(pids: list[int]) -> None:
    """Until each has computed for a tenth of a second more: their steps and sums are under way."""
    before = [psutil.Process(pid).cpu_times().user for pid in pids]
    deadline = time.monotonic() + 60
    while any(psutil.Process(pid).cpu_times().user < then + 0.1 for pid, then in zip(pids, before, strict=True)):
        assert time.monotonic() < deadline, "a worker does not train"
        time.sleep(0.02)


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
    empty(pool)
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
        return "ray::Rank" in " ".join(process.cmdline())
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
