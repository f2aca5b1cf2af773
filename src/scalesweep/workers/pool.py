"""The pool of a sweep's workers: their start, lease, return and end.

A worker holds one GPU (or some CPUs) for its lifetime. A trial leases as many workers as it needs and returns them. So a
trial of any GPU count starts on processes that have imported the packages, mapped the tokens and loaded the base weights.
The workers of a failed trial are killed and not reused, because they may hang in a collective that nobody else joins. A single
worker whose trial met a fault of the user's files is reused.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from scalesweep.costs import accelerator_type_of, workers_of_node
from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.training.job import TrialJob
from scalesweep.workers.group import Lease
from scalesweep.workers.notices import NoticeWatch
from scalesweep.workers.placement import Node, Worker, choose
from scalesweep.workers.rank import Rank
from scalesweep.workers.versions import installed

COLLECTIVE_SECONDS = 600.0  # a longer sum over workers means that one of them hangs
STARTS_THAT_MAY_FAIL = 5  # consecutive failures before the sweep ends with an error
NODES_SECONDS = 2.0  # lifetime of a list of the cluster's nodes
IDLE_SECONDS = 300.0  # a worker without a lease for this long is ended, which frees its GPU


class WorkerPool:
    """All workers of a sweep. The driver holds the only lasting handles, so the workers end with the driver."""

    def __init__(
        self,
        threads: int,
        on_gpus: bool,
        first_jobs: Sequence[TrialJob] = (),
        timeout_seconds: float = COLLECTIVE_SECONDS,
        booted: Callable[[float], object] | None = None,
        placement: str = "pack",
        grows: bool = False,
        spot_notice: str | None = None,
    ) -> None:
        """
        Args:
            threads: CPUs of a worker, which is also its number of torch threads.
            on_gpus: whether a worker holds a GPU.
            first_jobs: jobs for which a worker loads its data when it starts.
            timeout_seconds: time limit of a sum over workers.
            booted: called with the seconds that each new worker took to start.
            placement: of a lease over the nodes: `pack`, `spread` or `strict_pack`, as `resources.placement` of a sweep.
            grows: whether the cluster adds nodes for workers without room.
            spot_notice: source of spot notices (`await_notice`); None: there is none.
        """
        self.threads, self.on_gpus, self.first_jobs = threads, on_gpus, list(first_jobs)
        self.timeout_seconds, self.booted = timeout_seconds, booted
        self.placement, self.grows = placement, grows
        self.workers: dict[str, Worker] = {}
        self._prefix = f"scalesweep-{uuid.uuid4().hex[:8]}"
        self._made = self._died_young = 0
        self._actor = ray.remote(Rank)
        self._nodes: list[Node] = []
        self._nodes_seen = -NODES_SECONDS
        self._request: PlacementGroup | None = None  # requests a node that holds a whole trial
        self._versions = installed()
        self.drained: set[str] = set()  # nodes without new placements
        self._leaving: set[str] = set()  # drained nodes that will be taken away
        self._notices = NoticeWatch(spot_notice) if spot_notice else None
        self._broken: dict[str, ScalesweepError] = {}  # node → error of a worker that did not start there, until judged
        self.remarks: list[str] = []  # remarks for the record

    def start(self, count: int) -> None:
        """Start workers in advance, up to `count`."""
        for _ in range(count - len(self.workers)):
            self._start(None)

    def lease(self, holder: str, count: int, capacity: int, accelerator_type: str | None = None) -> Lease | None:
        """Lease `count` workers to `holder`. Returns None until they are ready; call again then.

        Missing workers are started, up to `capacity` workers in the pool.

        Raises:
            OutsideError: workers can't start.
        """
        self._poll()
        free = [w for w in self.workers.values() if w.node and not w.holder and self._fits(w, accelerator_type)]
        chosen = choose(free, count, self.placement)
        if not chosen:
            if self.placement == "strict_pack":
                self._gather(count, capacity, accelerator_type)
            else:
                starting = sum(w.node is None and w.wanted == accelerator_type for w in self.workers.values())
                room = min(capacity - len(self.workers), self._room(accelerator_type))
                for _ in range(int(min(count - len(free) - starting, room))):
                    self._start(accelerator_type)
            return None
        self._withdraw()
        groups = {worker.group for worker in chosen}
        # All of one group, no less: in the sums of a group, a part of it would wait for the others for ever.
        together = len(groups) == 1 and None not in groups and all(worker.world == count for worker in chosen)
        group = groups.pop() if together else uuid.uuid4().hex[:12]
        for worker in chosen:
            worker.holder = holder
            if count > 1:  # a worker that trains alone keeps its group
                worker.group, worker.world = group, count
        return Lease(tuple(worker.name for worker in chosen), str(group))

    def could_hold(
        self, count: int, capacity: int, accelerator_type: str | None = None, given_back: Collection[str] = ()
    ) -> bool:
        """Whether `count` workers are free, become free when the holders in `given_back` return theirs, or can be started."""
        if self.placement == "strict_pack":
            busy = Counter(worker.node for worker in self.workers.values() if worker.holder and worker.holder not in given_back)
            on_one = any(node.workers - busy[node.id] >= count for node in self._nodes_of(accelerator_type))
            return on_one or (self.grows and busy.total() + count <= capacity)
        able = [worker for worker in self.workers.values() if not worker.holder or worker.holder in given_back]
        room = min(capacity - len(self.workers), self._room(accelerator_type))
        return sum(self._fits(worker, accelerator_type) for worker in able) + room >= count

    def idle(self) -> int:
        """The number of running workers without a lease."""
        return sum(bool(worker.node) and not worker.holder for worker in self.workers.values())

    def lease_soon(self, holder: str, count: int) -> Lease:
        """Lease `count` workers and block until they are ready."""
        while (lease := self.lease(holder, count, capacity=count)) is None:
            time.sleep(0.05)
        return lease

    def release(self, holder: str) -> None:
        """Take back the workers of `holder` and keep them warm."""
        for worker in self.workers.values():
            if worker.holder == holder:
                worker.holder, worker.idle_since = None, time.monotonic()
        self._leave_drained()

    def discard(self, holder: str) -> None:
        """Kill the workers of `holder`: one of them is gone or hangs, so none is reliable."""
        for worker in [worker for worker in self.workers.values() if worker.holder == holder]:
            self._kill(worker)

    def nodes(self, holder: str) -> set[str]:
        """The nodes of `holder`'s workers."""
        return {worker.node for worker in self.workers.values() if worker.holder == holder and worker.node}

    def drain(self, node: str) -> str | None:
        """Stop placing workers on a node; trials there continue. Returns its address, or None if the node is already gone."""
        address = next((str(one["NodeManagerAddress"]) for one in ray.nodes() if one["NodeID"] == node and one["Alive"]), None)
        if address is not None:
            self.drained.add(node)
            self._leave_drained()
        return address

    def gone(self, holder: str) -> bool:
        """Whether a node with workers of `holder` is gone."""
        return not self.nodes(holder) <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def leaving(self, holder: str) -> bool:
        """Whether a node with workers of `holder` will be taken away soon, or was."""
        self._watch()
        return bool(self._leaving & self.nodes(holder))

    def _watch(self) -> None:
        """Collect spot notices, and drain the nodes that will be taken away."""
        if self._notices is None:
            return
        leaving, remarks = self._notices.poll({worker.node for worker in self.workers.values() if worker.node})
        self.remarks += remarks
        for node in leaving:
            self._leaving.add(node)  # also if the node is already gone
            if (address := self.drain(node)) is not None:
                self.remarks.append(f"node {address} will be taken away; its trials move to other nodes at their next report")

    def _leave_drained(self) -> None:
        for worker in list(self.workers.values()):
            if worker.node in self.drained and not worker.holder:
                self._kill(worker)

    def shutdown(self) -> None:
        self._withdraw()
        for worker in list(self.workers.values()):
            self._kill(worker)
        self._watch()  # no worker is left, so all listeners end

    def _room(self, accelerator_type: str | None) -> float:
        """Workers of that type that still have room. A worker without room would wait, and count as one, forever."""
        if self.grows or accelerator_type is None or not self.on_gpus:
            return math.inf
        nodes = {node.id for node in self._nodes_of(accelerator_type)}
        held = sum(w.node in nodes or (w.node is None and w.wanted == accelerator_type) for w in self.workers.values())
        return max(0, sum(node.workers for node in self._nodes_of(accelerator_type)) - held)

    def _gather(self, count: int, capacity: int, accelerator_type: str | None) -> None:
        """Start the workers missing for `count` on one node: the node that lacks the fewest, or a new one."""
        there = {node.id for node in self._nodes_of(None)}
        for worker in list(self.workers.values()):
            if worker.target is not None and worker.target not in there:  # the node of its start is gone
                self._kill(worker)
        missing, left = {}, {}
        for node in self._nodes_of(accelerator_type):
            here = [w for w in self.workers.values() if node.id in (w.node, w.target)]
            busy = sum(w.holder is not None for w in here)
            if node.workers - busy >= count:
                missing[node.id] = max(0, count - (len(here) - busy))  # 0: they are starting
                left[node.id] = node.workers - busy
        if missing:
            target = min(missing, key=lambda node: (missing[node], left[node]))  # large nodes stay free for large trials
            if missing[target]:
                self._let_go(len(self.workers) + missing[target] - capacity, target)
            for _ in range(min(missing[target], capacity - len(self.workers))):
                self._start(accelerator_type, target)
        elif self.grows and self._request is None and self._busy() + count <= capacity:
            bundle = {"CPU": float(count * self.threads), "GPU": float(count if self.on_gpus else 0)}
            if accelerator_type and self.on_gpus:
                bundle[f"accelerator_type:{accelerator_type}"] = 0.001
            self._request = placement_group([bundle])

    def _busy(self) -> int:
        return sum(worker.holder is not None for worker in self.workers.values())

    def _let_go(self, count: int, target: str) -> None:
        """End up to `count` unleased workers on nodes other than `target`, to make room in the pool."""
        idle = [w for w in self.workers.values() if w.node not in (None, target) and not w.holder]
        for worker in idle[: max(0, count)]:
            self._kill(worker)

    def _withdraw(self) -> None:
        """Cancel the request for a node that has arrived or is no longer needed."""
        if self._request is not None:
            remove_placement_group(self._request)
            self._request = None

    def _start(self, accelerator_type: str | None, target: str | None = None) -> None:
        name = f"{self._prefix}-{self._made}"
        # Each worker begins with another job: one worker of a node creates its shared files, and the workers divide this work.
        turn = self._made % max(1, len(self.first_jobs))
        first_jobs = self.first_jobs[turn:] + self.first_jobs[:turn]
        self._made += 1
        options: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": 1 if self.on_gpus else 0, "name": name}
        if accelerator_type and self.on_gpus:
            options["accelerator_type"] = accelerator_type
        if target is not None:
            options["label_selector"] = {"ray.io/node-id": target}
        elif self.drained:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.drained)})"}
        if self.placement == "spread":
            options["scheduling_strategy"] = "SPREAD"
        actor = self._actor.options(**options).remote(self.threads, self.timeout_seconds, first_jobs, self._versions)
        self.workers[name] = Worker(name, actor, actor.boot.remote(), wanted=accelerator_type, target=target)

    def _kill(self, worker: Worker) -> None:
        del self.workers[worker.name]
        ray.kill(worker.actor)

    def tend(self) -> None:
        """End workers that have been idle for `IDLE_SECONDS`. Called when no trial waits."""
        self._poll()
        for worker in list(self.workers.values()):
            if worker.node and not worker.holder and time.monotonic() - worker.idle_since > IDLE_SECONDS:
                self._kill(worker)

    def _poll(self) -> None:
        """Register workers that have started or failed."""
        starting = {worker.ready: worker for worker in self.workers.values() if worker.node is None}
        ready, _ = ray.wait(list(starting), num_returns=len(starting), timeout=0) if starting else ([], [])
        for reference in ready:
            worker = starting[reference]
            try:
                worker.node, seconds, wrong = ray.get(reference)
            except (RayActorError, RayTaskError) as error:  # its node is gone or lacked memory: another worker is started
                del self.workers[worker.name]
                self._died_young += 1
                if self._died_young > STARTS_THAT_MAY_FAIL:
                    raise OutsideError(f"worker processes die while they start: {str(error).splitlines()[0]}") from None
                continue
            if wrong is not None:
                self._broken[str(worker.node)] = wrong
                self._died_young += 1
                self._kill(worker)
                continue
            worker.idle_since, worker.target = time.monotonic(), None
            self._died_young = 0
            if self.booted is not None:
                self.booted(seconds)
        self._judge_broken()
        self._watch()
        self._leave_drained()
        if self._request is not None and self._request.wait(0):
            self._withdraw()
            self._nodes_seen = -math.inf

    def _judge_broken(self) -> None:
        """Drain nodes on which workers can't start while workers on other nodes can.

        Raises:
            UserError: no worker can start on any node, because none of their sizes can be loaded.
            OutsideError: no worker can start on any node for another reason.
        """
        starting = any(worker.node is None for worker in self.workers.values())
        for node, wrong in list(self._broken.items()):
            if any(worker.node not in {None, *self._broken, *self.drained} for worker in self.workers.values()):
                del self._broken[node]
                if node not in self.drained and (address := self.drain(node)) is not None:
                    self.remarks.append(f"node {address} is drained, because a worker could not start there: {wrong}")
            elif not starting or self._died_young > STARTS_THAT_MAY_FAIL:
                kind = UserError if isinstance(wrong, UserError) else OutsideError
                raise kind(f"a worker could not start: {wrong.message}", wrong.hint)

    def _fits(self, worker: Worker, accelerator_type: str | None) -> bool:
        if accelerator_type is None or not self.on_gpus or worker.wanted == accelerator_type:
            return True
        return any(node.id == worker.node for node in self._nodes_of(accelerator_type))

    def _nodes_of(self, accelerator_type: str | None) -> list[Node]:
        """The nodes that are alive and not drained, of that accelerator type if workers run on GPUs."""
        if time.monotonic() - self._nodes_seen >= NODES_SECONDS:
            self._nodes = [
                Node(node["NodeID"], self._held(node["Resources"]), accelerator_type_of(node["Resources"]))
                for node in ray.nodes()
                if node["Alive"]
            ]
            self._nodes_seen = time.monotonic()
        wanted = accelerator_type if self.on_gpus else None
        return [node for node in self._nodes if node.id not in self.drained and wanted in (None, node.accelerator_type)]

    def _held(self, resources: Mapping[str, float]) -> int:
        return workers_of_node(resources.get("GPU", 0), resources.get("CPU", 0), self.threads, self.on_gpus)
