"""The pool of a sweep's workers: their start, lease, return and end.

A worker holds one GPU (or some CPUs) for its lifetime, or a share of one. A trial leases as many workers as it needs and returns
them. So a trial of any GPU count starts on processes that have imported the packages, mapped the tokens and loaded the base weights.
A GPU that is divided into shares is a placement group of its own, so a share never lies on two GPUs, and a whole GPU is never
the sum of two holes. Idle workers of another share end where a trial needs their room.
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
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scalesweep.costs import accelerator_type_of, share_of, workers_of, workers_of_node
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
SETTLED_SECONDS = (
    1.0  # time for a waiting trial to take a worker that fits it, before the worker ends for a trial of another share
)


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

    def start(self, count: int, share: float = 1.0) -> None:
        """Start workers in advance, on up to `count` GPUs. With a `share`, each GPU gets as many as have room."""
        for _ in range(count - len(self._gpus())):
            if share < 1:
                self._fill(self._reserve(None), share, 1.0, None, spare=True)
            else:
                self._start(None, spare=True)

    def lease(self, holder: str, num_gpus: float, capacity: int, accelerator_type: str | None = None) -> Lease | None:
        """Lease the workers of a trial of `num_gpus` to `holder`. Returns None until they are ready; call again then.

        Missing workers are started, on up to `capacity` GPUs.

        Raises:
            OutsideError: workers can't start.
        """
        self._poll()
        count, share = workers_of(num_gpus), share_of(num_gpus)
        idle = [w for w in self.workers.values() if w.node and not w.holder and self._fits(w, accelerator_type)]
        free = [w for w in idle if w.share == share]
        if share < 1 and free:  # on the fullest GPU, so that others stay whole
            left = {w.name: 1 - _leased(gpu) for gpu in self._gpus() for w in gpu}
            free = [w for w in free if left[w.name] == min(left[other.name] for other in free)]
        chosen = choose(free, count, self.placement)
        if not chosen:
            starting = [
                w for w in self.workers.values() if w.node is None and w.share == share and w.wanted == accelerator_type
            ]
            for worker in starting[: max(0, count - len(free))]:
                worker.spare = False
            if share < 1:
                if not starting:
                    self._divide(share, capacity, accelerator_type)
            elif self.placement == "strict_pack":
                self._gather(count, capacity, accelerator_type)
            else:
                missing = count - len(free) - len(starting)
                self._merge(missing - self._unused(capacity, accelerator_type), accelerator_type)
                for _ in range(int(min(missing, self._unused(capacity, accelerator_type)))):
                    self._start(accelerator_type)
            return None
        self._withdraw()
        groups = {worker.group for worker in chosen}
        # All of one group, no less: in the sums of a group, a part of it would wait for the others for ever.
        together = len(groups) == 1 and None not in groups and all(worker.world == count for worker in chosen)
        group = groups.pop() if together else uuid.uuid4().hex[:12]
        for worker in chosen:
            worker.holder, worker.spare = holder, False
            if count > 1:  # a worker that trains alone keeps its group
                worker.group, worker.world = group, count
        return Lease(tuple(worker.name for worker in chosen), str(group))

    def could_hold(
        self, num_gpus: float, capacity: int, accelerator_type: str | None = None, given_back: Collection[str] = ()
    ) -> bool:
        """Whether a trial's workers are free, become free when the holders in `given_back` return theirs, or can be started."""
        count, share = workers_of(num_gpus), share_of(num_gpus)
        if share < 1 and any(1 - _leased(gpu, given_back) >= share for gpu in self._divided(accelerator_type)):
            return True
        gpus = self._gpus()
        if self.placement == "strict_pack":
            busy = Counter(_node_of(gpu) for gpu in gpus if _leased(gpu, given_back))
            on_one = any(node.workers - busy[node.id] >= count for node in self._nodes_of(accelerator_type))
            return on_one or (self.grows and busy.total() + count <= capacity)
        able = [gpu for gpu in gpus if not _leased(gpu, given_back)]
        fitting = sum(any(self._fits(worker, accelerator_type) for worker in gpu) for gpu in able)
        return fitting + self._unused(capacity, accelerator_type) >= count

    def room(self, capacity: int) -> float:
        """The most GPUs that one more trial could have: all that are unleased, or else the largest share that is left of one."""
        whole = capacity - sum(_leased(gpu) > 0 for gpu in self._gpus())
        return whole if whole > 0 else max((1 - _leased(gpu) for gpu in self._divided(None)), default=0)

    def idle(self) -> float:
        """The most GPUs that one trial could have of the running workers without a lease."""
        shares = [worker.share for worker in self.workers.values() if worker.node and not worker.holder]
        return shares.count(1) or max(shares, default=0)

    def lease_soon(self, holder: str, num_gpus: float) -> Lease:
        """Lease the workers of a trial of `num_gpus`, and block until they are ready."""
        while (lease := self.lease(holder, num_gpus, capacity=workers_of(num_gpus))) is None:
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

    # ---- GPUs, and the room on them ---------------------------------------------------------------------------------------

    def _gpus(self) -> list[list[Worker]]:
        """The workers by the GPU that they hold, or by the CPUs in its place."""
        found: dict[Any, list[Worker]] = {}
        for worker in self.workers.values():
            found.setdefault(worker.gpu.id if worker.gpu else worker.name, []).append(worker)
        return list(found.values())

    def _divided(self, accelerator_type: str | None) -> list[list[Worker]]:
        """The GPUs that are divided into shares, on usable nodes of that type."""
        divided = [gpu for gpu in self._gpus() if gpu[0].gpu]
        nodes = {None, *(node.id for node in self._nodes_of(None))} if divided else {}
        return [gpu for gpu in divided if _node_of(gpu) in nodes and any(self._fits(w, accelerator_type) for w in gpu)]

    def _unused(self, capacity: int, accelerator_type: str | None) -> float:
        """GPUs that the pool can still take, on nodes of that type. A worker without room would wait, and count as one, forever."""
        gpus = self._gpus()
        room = float(capacity - len(gpus))
        if self.grows or accelerator_type is None or not self.on_gpus:
            return room
        nodes = {node.id for node in self._nodes_of(accelerator_type)}
        held = sum(any(w.node in nodes or (w.node is None and w.wanted == accelerator_type) for w in gpu) for gpu in gpus)
        return min(room, max(0, sum(node.workers for node in self._nodes_of(accelerator_type)) - held))

    def _divide(self, share: float, capacity: int, accelerator_type: str | None) -> None:
        """Start workers with a share of one GPU: on the fullest divided GPU with room, on an unused one, or where idle workers
        end."""
        divided = self._divided(accelerator_type)
        fitting = [gpu for gpu in divided if _booked(gpu) <= 1 - share]
        if fitting:
            fullest = max(fitting, key=_booked)
            self._fill(fullest[0].gpu, share, 1 - _booked(fullest), accelerator_type)
            return
        if self._unused(capacity, accelerator_type) < 1:
            whole = [[w] for w in self.workers.values() if w.gpu is None and self._fits(w, accelerator_type)]
            able = [gpu for gpu in [*divided, *whole] if _lasting(gpu) <= 1 - share]
            if not able:
                return
            gpu = max(able, key=_lasting)
            reserved = gpu[0].gpu
            for worker in filter(_dispensable, list(gpu)):
                if _booked(gpu) > 1 - share:
                    gpu.remove(worker)
                    self._kill(worker, keep=True)
            if reserved is not None:
                self._fill(reserved, share, 1 - _booked(gpu), accelerator_type)
                return
        self._fill(self._reserve(accelerator_type), share, 1.0, accelerator_type)

    def _fill(
        self, reserved: PlacementGroup, share: float, room: float, accelerator_type: str | None, spare: bool = False
    ) -> None:
        """Start as many workers of a share as have room on a GPU. The first one has been asked for, unless all are `spare`."""
        for number in range(int(room / share)):
            self._start(accelerator_type, share=share, gpu=reserved, spare=spare or number > 0)

    def _reserve(self, accelerator_type: str | None) -> PlacementGroup:
        """Reserve a whole GPU, or the CPUs in its place, for workers with shares of it."""
        where = self._selector(self._node_with_room(accelerator_type) if self.placement == "strict_pack" else None)
        return placement_group([self._bundle(1, accelerator_type)], bundle_label_selector=[where] if where else None)

    def _node_with_room(self, accelerator_type: str | None) -> str | None:
        held = Counter(_node_of(gpu) for gpu in self._gpus())
        left = {node.id: node.workers - held[node.id] for node in self._nodes_of(accelerator_type)}
        return min((node for node in left if left[node] > 0), key=lambda node: left[node], default=None)

    def _merge(self, count: float, accelerator_type: str | None, node: str | None = None) -> None:
        """End the workers of up to `count` divided GPUs on which all are idle, so that whole GPUs become free."""
        idle = [gpu for gpu in self._divided(accelerator_type) if all(map(_dispensable, gpu)) and node in (None, _node_of(gpu))]
        for gpu in idle[: max(0, int(count))]:
            for worker in gpu:
                self._kill(worker)

    def _gather(self, count: int, capacity: int, accelerator_type: str | None) -> None:
        """Start the workers missing for `count` on one node: the node that lacks the fewest, or a new one."""
        there = {node.id for node in self._nodes_of(None)}
        for worker in list(self.workers.values()):
            if worker.target is not None and worker.target not in there:  # the node of its start is gone
                self._kill(worker)
        missing, left, unused = {}, {}, {}
        for node in self._nodes_of(accelerator_type):
            here = [gpu for gpu in self._gpus() if _node_of(gpu) == node.id]
            busy = sum(_leased(gpu) > 0 for gpu in here)
            if node.workers - busy >= count:
                able = sum(gpu[0].share == 1 and not _leased(gpu) for gpu in here)
                missing[node.id] = max(0, count - able)  # 0: they are starting
                left[node.id], unused[node.id] = node.workers - busy, node.workers - len(here)
        if missing:
            target = min(missing, key=lambda node: (missing[node], left[node]))  # large nodes stay free for large trials
            if missing[target]:
                self._merge(missing[target] - unused[target], accelerator_type, target)
                self._let_go(len(self._gpus()) + missing[target] - capacity, target)
            for _ in range(min(missing[target], capacity - len(self._gpus()))):
                self._start(accelerator_type, target)
        elif self.grows and self._request is None and sum(_leased(gpu) > 0 for gpu in self._gpus()) + count <= capacity:
            self._request = placement_group([self._bundle(count, accelerator_type)])

    def _bundle(self, count: int, accelerator_type: str | None) -> dict[str, float]:
        """The resources of so many workers."""
        bundle = {"CPU": float(count * self.threads), **({"GPU": float(count)} if self.on_gpus else {})}
        return bundle | ({f"accelerator_type:{accelerator_type}": 0.001} if accelerator_type and self.on_gpus else {})

    def _let_go(self, count: int, target: str) -> None:
        """End the workers of up to `count` unleased GPUs on nodes other than `target`, to make room in the pool."""
        idle = [gpu for gpu in self._gpus() if not {worker.node for worker in gpu} & {None, target} and not _leased(gpu)]
        for gpu in idle[: max(0, count)]:
            for worker in gpu:
                self._kill(worker)

    def _withdraw(self) -> None:
        """Cancel the request for a node that has arrived or is no longer needed."""
        if self._request is not None:
            remove_placement_group(self._request)
            self._request = None

    def _selector(self, target: str | None) -> dict[str, str]:
        """Ray's selector of a node; without one, of those that are not drained."""
        if target is None:
            return {"ray.io/node-id": f"!in({','.join(self.drained)})"} if self.drained else {}
        return {"ray.io/node-id": target}

    def _start(
        self,
        accelerator_type: str | None,
        target: str | None = None,
        share: float = 1.0,
        gpu: PlacementGroup | None = None,
        spare: bool = False,
    ) -> None:
        name = f"{self._prefix}-{self._made}"
        # Each worker begins with another job: one worker of a node creates its shared files, and the workers divide this work.
        turn = self._made % max(1, len(self.first_jobs))
        first_jobs = self.first_jobs[turn:] + self.first_jobs[:turn]
        self._made += 1
        options: dict[str, Any] = {"num_cpus": self.threads * share, "num_gpus": share if self.on_gpus else 0, "name": name}
        if gpu is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(gpu)
        else:
            if accelerator_type and self.on_gpus:
                options["accelerator_type"] = accelerator_type
            if where := self._selector(target):
                options["label_selector"] = where
            if self.placement == "spread":
                options["scheduling_strategy"] = "SPREAD"
        actor = self._actor.options(**options).remote(self.threads, self.timeout_seconds, first_jobs, self._versions, share)
        worker = Worker(name, actor, actor.boot.remote(), wanted=accelerator_type, target=target)
        worker.share, worker.gpu, worker.spare = share, gpu, spare
        self.workers[name] = worker

    def _kill(self, worker: Worker, keep: bool = False) -> None:
        """End a worker; with its GPU's last one also the reservation of a divided GPU, unless others follow (`keep`)."""
        self._forget(worker, keep)
        ray.kill(worker.actor)

    def _forget(self, worker: Worker, keep: bool = False) -> None:
        del self.workers[worker.name]
        if worker.gpu and not keep and all(other.gpu is not worker.gpu for other in self.workers.values()):
            remove_placement_group(worker.gpu)

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
                self._forget(worker)
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
                self.booted(seconds * worker.share)
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


def _booked(gpu: Sequence[Worker]) -> float:
    """The share of a GPU that its workers hold."""
    return sum(worker.share for worker in gpu)


def _lasting(gpu: Sequence[Worker]) -> float:
    """The share of a GPU whose workers may not end for others."""
    return _booked([worker for worker in gpu if not _dispensable(worker)])


def _leased(gpu: Sequence[Worker], given_back: Collection[str] = ()) -> float:
    """The share of a GPU that is leased, without the leases of `given_back`."""
    return _booked([worker for worker in gpu if worker.holder and worker.holder not in given_back])


def _node_of(gpu: Sequence[Worker]) -> str | None:
    """The node of a GPU; None while nobody knows it."""
    return next((worker.node or worker.target for worker in gpu if worker.node or worker.target), None)


def _dispensable(worker: Worker) -> bool:
    """Whether a worker may end for one of another share: no trial has it, and none that waits would take it."""
    settled = worker.node is not None and time.monotonic() - worker.idle_since > SETTLED_SECONDS
    return not worker.holder and (worker.spare or settled)
