"""The capacity of a cluster: its live nodes, or the nodes that its file lets it grow to.

Two kinds of cluster file are supported: the file for Ray's cluster launcher (`ray up`) and a KubeRay RayCluster manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.costs import accelerator_type_of, workers_of_node
from scalesweep.errors import SpecError
from scalesweep.spec import LadderSize, SweepSpec, allowed_gpus
from scalesweep.spec.loading import Document, KeyPath, read_yaml

LAUNCHER_WORKERS = 2  # the launcher's default for `max_workers`


@dataclass(frozen=True)
class NodeKind:
    """A number of equal nodes, and the resources of each."""

    name: str
    count: int
    gpus: int
    cpus: int
    accelerator_type: str | None = None

    def describe(self, workers: int) -> str:
        gpus = f"{self.gpus} {self.accelerator_type or 'GPU'}" if self.gpus else "no GPU"
        return f"{self.count} {self.name} ({gpus}, {self.cpus} CPUs: {workers} worker{'s' * (workers != 1)})"


@dataclass(frozen=True)
class Cluster:
    """The largest size of a cluster. `max_nodes` bounds the total number of nodes, without those of the first kind (the head)."""

    name: str
    kinds: tuple[NodeKind, ...]
    max_nodes: int | None = None

    @property
    def on_gpus(self) -> bool:
        return any(kind.gpus for kind in self.kinds)

    @property
    def gpus(self) -> int:
        return self._most(lambda kind: kind.gpus)

    def workers(self, cpus_per_worker: int, accelerator_type: str | None = None, one_node: bool = False) -> int:
        """Return the number of workers that fit at once on nodes of that accelerator type; with `one_node`, on the best node."""

        def held(kind: NodeKind) -> int:
            fits = accelerator_type in (None, kind.accelerator_type)
            return workers_of_node(kind.gpus, kind.cpus, cpus_per_worker, self.on_gpus) if fits else 0

        return max((held(kind) for kind in self.kinds if kind.count), default=0) if one_node else self._most(held)

    def _most(self, of_node: Callable[[NodeKind], int]) -> int:
        """Return the sum of `of_node` over the nodes, choosing the best kinds up to `max_nodes`."""
        if self.max_nodes is None:
            return sum(kind.count * of_node(kind) for kind in self.kinds)
        head, *others = self.kinds
        best = sorted((of_node(kind) for kind in others for _ in range(min(kind.count, self.max_nodes))), reverse=True)
        return head.count * of_node(head) + sum(best[: self.max_nodes])


def live_cluster(nodes: Sequence[Mapping[str, Any]]) -> Cluster:
    """Return the capacity of the live nodes in `ray.nodes()`."""
    alike: Counter[tuple[int, int, str | None]] = Counter()
    for node in nodes:
        resources = node["Resources"]
        alike[int(resources.get("GPU", 0)), int(resources.get("CPU", 0)), accelerator_type_of(resources)] += bool(node["Alive"])
    kinds = [NodeKind("node" + "s" * (count > 1), count, *key) for key, count in alike.items() if count]
    return Cluster("the cluster", tuple(kinds))


def read_cluster(path: Path) -> Cluster:
    """Return the capacity that the cluster of a file can grow to.

    Raises:
        SpecError: if the file is missing or invalid, or does not state the CPUs of a kind of node.
    """
    document = read_yaml(path, "cluster file")
    data = document.data
    if isinstance(data, dict) and isinstance(data.get("available_node_types"), dict):
        return _launcher(document)
    if isinstance(data, dict) and data.get("kind") == "RayCluster":
        return _kuberay(document)
    hint = "give a file for `ray up` (it has available_node_types), or a RayCluster manifest of KubeRay"
    raise SpecError([document.problem((), "is not a cluster file", hint)])


def _launcher(document: Document) -> Cluster:
    data = document.data
    most = data.get("max_workers", LAUNCHER_WORKERS)
    _check_whole(document, ("max_workers",), most)
    head = data.get("head_node_type")
    kinds = []
    for name, node in sorted(data["available_node_types"].items(), key=lambda item: item[0] != head):
        at: KeyPath = ("available_node_types", name)
        count = 1 if name == head else _at(node, "max_workers", default=most)
        _check_whole(document, (*at, "max_workers"), count)
        kinds.append(_kind(document, (*at, "resources"), name, count, _at(node, "resources", default={})))
    if not kinds or kinds[0].name != head:
        raise SpecError(
            [document.problem(("head_node_type",), "is not one of available_node_types", "name the type of the head node")]
        )
    return Cluster(document.file, tuple(kinds), most)


def _kuberay(document: Document) -> Cluster:
    spec: KeyPath = ("spec",)
    groups = [((*spec, "headGroupSpec"), _at(document.data, *spec, "headGroupSpec", default={}))]
    groups += [
        ((*spec, "workerGroupSpecs", i), g) for i, g in enumerate(_at(document.data, *spec, "workerGroupSpecs", default=[]))
    ]
    kinds = []
    for index, (path, group) in enumerate(groups):
        limits = _at(group, "template", "spec", "containers", 0, "resources", "limits", default={})
        of_pod = {"CPU": limits.get("cpu"), "GPU": limits.get("nvidia.com/gpu")}
        resources = {key: value for key, value in of_pod.items() if value is not None} | _at(group, "resources", default={})
        whole = {key: int(value) if str(value).isdigit() else value for key, value in resources.items()}
        count = 1 if index == 0 else _at(group, "maxReplicas", default=0) * _at(group, "numOfHosts", default=1)
        kinds.append(_kind(document, (*path, "resources"), str(_at(group, "groupName", default="head")), count, whole))
    return Cluster(document.file, tuple(kinds))


def _at(data: Any, *path: str | int, default: Any) -> Any:
    """Return the value at `path`; `default` if it is missing or has another type than `default`."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return default
    return data if isinstance(data, type(default)) else default


def _kind(document: Document, path: KeyPath, name: str, count: int, resources: Mapping[str, Any]) -> NodeKind:
    if "CPU" not in resources:
        hint = (
            "write them, for example {CPU: 48, GPU: 4, 'accelerator_type:A10G': 1}; scalesweep can't see what Ray detects later"
        )
        raise SpecError([document.problem(path, f"the CPUs and GPUs of {name!r} are missing", hint)])
    for key in ("CPU", "GPU"):
        _check_whole(document, (*path, key), resources.get(key, 0))
    return NodeKind(name, count, resources.get("GPU", 0), resources["CPU"], accelerator_type_of(resources))


def _check_whole(document: Document, path: KeyPath, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise SpecError([document.problem(path, f"{value!r} is not a whole number of at least 0", "write for example 4")])


# ---- what can be placed ----------------------------------------------------------------------------------------------------


def check_placement(spec: SweepSpec, cluster: Cluster) -> None:
    """Check that the cluster can hold each size with each GPU count that it may draw.

    Raises:
        SpecError: with the size, the GPU counts, the resources they need and those of the cluster.
    """
    problems: dict[
        tuple[KeyPath, str, str], list[str]
    ] = {}  # (key, message, hint) → sizes, so that equal problems are reported once
    for index, size in enumerate(spec.sizes()):
        most = cluster.workers(spec.resources.cpus_per_worker, size.accelerator_type, spec.resources.placement == "strict_pack")
        beyond = [count for count in allowed_gpus(spec, size) if count > most]
        if beyond:
            path = _key_at_fault(spec, cluster, index, size, beyond[0])
            key = (path, _wanted(spec, size, beyond, most), _remedy(spec, cluster, size, most))
            problems.setdefault(key, []).append(size.name)
    has = "; ".join(
        kind.describe(workers_of_node(kind.gpus, kind.cpus, spec.resources.cpus_per_worker, cluster.on_gpus))
        for kind in cluster.kinds
        if kind.count
    )
    found = [
        spec.problem(
            path, f"size{'s' * (len(names) > 1)} {', '.join(names)} {wanted}; {cluster.name} has {has or 'none'}", hint
        )
        for (path, wanted, hint), names in problems.items()
    ]
    most_gpus = spec.resources.max_gpus
    if most_gpus is not None and most_gpus > cluster.gpus:
        message = f"{most_gpus} is above {cluster.gpus}, the most GPUs that {cluster.name} allows"
        found.append(
            spec.problem(("resources", "max_gpus"), message, f"write {cluster.gpus}, or increase max_workers in that file")
        )
    if found:
        raise SpecError(found)


def workers_by_file(spec: SweepSpec, path: Path) -> int:
    """Check that the cluster of a file can hold every trial, and return the number of workers that it holds at once.

    Raises:
        SpecError: from `read_cluster` or `check_placement`.
    """
    cluster = read_cluster(path)
    check_placement(spec, cluster)
    return cluster.workers(spec.resources.cpus_per_worker)


def can_spare(spec: SweepSpec, nodes: Sequence[Mapping[str, Any]], without: Collection[str]) -> bool:
    """Return whether every trial still fits without the nodes whose ids are in `without`. A cluster that grows can spare any node."""
    try:
        if spec.resources.max_gpus is None:
            check_placement(spec, live_cluster([node for node in nodes if node["NodeID"] not in without]))
    except SpecError:
        return False
    return True


def _wanted(spec: SweepSpec, size: LadderSize, beyond: Sequence[float], most: int) -> str:
    shown = ", ".join(map(str, beyond[:4])) + (" …" if len(beyond) > 4 else "")
    where = " on one node" if spec.resources.placement == "strict_pack" else ""
    gpu = f"{size.accelerator_type or 'GPU'} and {spec.resources.cpus_per_worker} CPU(s)"
    return f"may draw num_gpus {shown}, but at most {most} worker(s) with one {gpu} each fit{where}"


def _remedy(spec: SweepSpec, cluster: Cluster, size: LadderSize, most: int) -> str:
    found = [f"choose at most {most}"] if most else []
    one_node = spec.resources.placement == "strict_pack"
    if cluster.workers(1, size.accelerator_type, one_node) > most:
        found.append("lower resources.cpus_per_worker")
    if one_node and cluster.workers(spec.resources.cpus_per_worker, size.accelerator_type) > most:
        found.append("let a trial span nodes (resources.placement: pack)")
    return ", or ".join([*found, "use a cluster with more such nodes"])


def _key_at_fault(spec: SweepSpec, cluster: Cluster, index: int, size: LadderSize, count: float) -> KeyPath:
    """Return the key of the accelerator type if the cluster lacks it, else that of the smallest GPU count that is too large."""
    if size.accelerator_type not in (None, *(kind.accelerator_type for kind in cluster.kinds if kind.count)):
        return ("ladder", index, "accelerator_type") if isinstance(spec.ladder, list) else ("ladder", "accelerator_type")
    parameter = spec.search_space.parameters.get("num_gpus")
    if parameter is None:
        return ("search_space", "parameters")
    tail: KeyPath = ("values", parameter.values.index(count)) if parameter.values else ()
    return ("search_space", "parameters", "num_gpus", *tail)
