"""Placement of trials: the choice among free workers, and leases on real clusters of several nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalesweep.workers.placement import Worker, choose

SCENARIOS = Path(__file__).parents[1] / "placing.py"


def free(**nodes: int) -> list[Worker]:
    return [Worker(f"{node}{number}", None, None, node=node) for node, count in nodes.items() for number in range(count)]


def chosen(count: int, placement: str, **nodes: int) -> dict[str | None, int]:
    names = [worker.node for worker in choose(free(**nodes), count, placement)]
    return {node: names.count(node) for node in sorted(set(names), key=str)}


@pytest.mark.parametrize(
    ("count", "pack", "spread", "strict_pack"),
    [
        (1, {"b": 1}, {"a": 1}, {"b": 1}),
        (2, {"b": 2}, {"a": 1, "c": 1}, {"b": 2}),
        (3, {"c": 3}, {"a": 1, "b": 1, "c": 1}, {"c": 3}),
        (4, {"a": 4}, {"a": 2, "b": 1, "c": 1}, {"a": 4}),
        (6, {"a": 4, "c": 2}, {"a": 2, "b": 2, "c": 2}, {}),
        (9, {"a": 4, "b": 2, "c": 3}, {"a": 4, "b": 2, "c": 3}, {}),
        (10, {}, {}, {}),
    ],
)
def test_what_each_placement_takes_of_nodes_with_four_two_and_three_free(
    count: int, pack: dict[str, int], spread: dict[str, int], strict_pack: dict[str, int]
) -> None:
    found = [chosen(count, placement, a=4, b=2, c=3) for placement in ("pack", "spread", "strict_pack")]
    assert found == [pack, spread, strict_pack]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["fixed", "grows"])
def test_leases_on_real_nodes(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCENARIOS), scenario],
        capture_output=True, text=True, timeout=400, check=False, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
