"""Leases of a real pool on a real cluster of several raylets: `python placing.py SCENARIO`, in a process of its own, for a
cluster's authentication is set once per process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from scalesweep.workers.group import Lease
from scalesweep.workers.pool import WorkerPool


def soon(pool: WorkerPool, holder: str, count: float, capacity: int, kind: str | None = None) -> Lease:
    deadline = time.monotonic() + 240
    while (lease := pool.lease(holder, count, capacity, kind)) is None:
        assert time.monotonic() < deadline, (holder, pool.workers)
        time.sleep(0.2)
    return lease


def never(pool: WorkerPool, holder: str, count: float, capacity: int, kind: str | None = None) -> None:
    """Asked for as long as it may keep a list of the nodes, the pool has no such lease, and starts nothing without room."""
    for _ in range(12):
        assert pool.lease(holder, count, capacity, kind) is None
        time.sleep(0.2)
    deadline = time.monotonic() + 60
    while any(worker.node is None for worker in pool.workers.values()):
        assert pool.lease(holder, count, capacity, kind) is None
        assert time.monotonic() < deadline, "a worker waits for a place that there is not"
        time.sleep(0.2)


def fixed() -> None:
    """A head without GPUs, a node with two, and one with three and five CPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    cluster.add_node(num_cpus=2, num_gpus=2)
    cluster.add_node(num_cpus=5, num_gpus=3, resources={"accelerator_type:A100": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    ids = {int(node["Resources"].get("GPU", 0)): node["NodeID"] for node in ray.nodes()}
    types(ids[2], ids[3])
    strict_pack(ids[2], ids[3])


def types(small: str, large: str) -> None:
    pool = WorkerPool(threads=1, on_gpus=True)
    soon(pool, "one", 1, 5, "A100")
    assert not pool.could_hold(3, 5, "A100")
    assert pool.could_hold(2, 5, "A100")
    assert pool.could_hold(3, 5)
    never(pool, "three", 3, 5, "A100")
    soon(pool, "two", 2, 5, "A100")
    soon(pool, "others", 2, 5)
    assert (pool.nodes("one"), pool.nodes("two"), pool.nodes("others")) == ({large}, {large}, {small})
    pool.shutdown()


def strict_pack(small: str, large: str) -> None:
    pool = WorkerPool(threads=1, on_gpus=True, placement="strict_pack")
    soon(pool, "one", 1, 5)
    assert pool.nodes("one") == {small}, "the large one stays whole"
    soon(pool, "three", 3, 5)
    assert pool.nodes("three") == {large}
    assert not pool.could_hold(3, 5)  # one is free on the small node, and that is all
    assert pool.could_hold(3, 5, given_back=["three"])
    never(pool, "three more", 3, 5)
    soon(pool, "two", 1, 5)
    assert pool.nodes("two") == {small}
    pool.release("three")
    soon(pool, "three more", 3, 5)
    assert pool.nodes("three more") == {large}
    pool.release("one")
    halves(pool, small)
    for holder in ("whole", "two", "three more"):
        pool.release(holder)
    spread(pool, small, large)
    pool.shutdown()


def halves(pool: WorkerPool, small: str) -> None:
    """Four trials share the only GPU that is not leased; its idle whole worker ends for them, and they for a whole one."""
    for holder, share in (("a", 0.5), ("b", 0.5)):
        soon(pool, holder, share, 5)
        assert pool.nodes(holder) == {small}
    assert pool.room(5) == 0
    pool.release("a")
    assert (pool.room(5), pool.idle()) == (0.5, 0.5)
    assert not pool.could_hold(1, 5), "a half is leased"
    assert pool.could_hold(1, 5, given_back=["b"])
    for holder in ("c", "d"):
        soon(pool, holder, 0.25, 5)
    assert not pool.could_hold(0.125, 5)
    assert len({worker.gpu.id for worker in pool.workers.values() if worker.gpu}) == 1
    assert ray.available_resources().get("GPU", 0) == 0, "Ray books what the pool counts"
    for holder in ("b", "c", "d"):
        pool.release(holder)
    soon(pool, "whole", 1, 5)
    assert pool.nodes("whole") == {small}
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}


def spread(pool: WorkerPool, small: str, large: str) -> None:
    """A pool whose workers are all idle, and the rest of it when a node is drained and its workers end."""
    pool.placement = "spread"
    soon(pool, "two", 2, 5)
    assert pool.nodes("two") == {small, large}
    pool.drain(small)  # with drained nodes, workers are still started
    pool.discard("two")
    soon(pool, "three", 3, 3)
    assert pool.nodes("three") == {large}


def grows() -> None:
    """A cluster that grows, this function being its autoscaler: a trial of three asks for one node that holds three, while two
    idle workers of small nodes are as many as the pool may have beside one more."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    pool = WorkerPool(threads=1, on_gpus=True, placement="strict_pack", grows=True)
    pool.start(2)
    for holder in ("a", "b"):
        soon(pool, holder, 1, 3)
    for holder in ("a", "b"):
        pool.release(holder)
    assert pool.could_hold(3, 3)
    assert pool.lease("three", 3, 3) is None
    (wanted,) = [group for group in placement_group_table().values() if group["state"] == "PENDING"]
    assert list(wanted["bundles"].values()) == [{"CPU": 3.0, "GPU": 3.0}]
    cluster.add_node(num_cpus=3, num_gpus=3)
    soon(pool, "three", 3, 3)
    (node,) = pool.nodes("three")
    assert next(one["Resources"]["GPU"] for one in ray.nodes() if one["NodeID"] == node) == 3
    assert len(pool.workers) == 3
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    pool.shutdown()


SCENARIOS: dict[str, Callable[[], None]] = {"fixed": fixed, "grows": grows}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
