"""Shared by all tests: a data cache of this run, one local Ray, and the rule that sorts tests into processes.

The rule (`kinds_of`) marks each test by its folder, its imports and its fixtures, and so decides which ones `make test-fast`
leaves out, and which ones `make test` keeps together in one of its two processes: those that use Ray, and those that fork.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; and what is computed does not depend on how many do

LOGICAL_GPUS = 4
WITH_MODELS = {"training", "models", "end_to_end"}  # folders of tests
MODEL_HELPERS = {"bad_specs.checkpoints", "jobs", "soaking", "tiny_models"}  # modules of tests that make models, or train them
# Files whose tests take seconds for every architecture. Each time they run for the first four, which differ most.
BY_ARCHITECTURE = {"test_every_architecture.py", "test_flops.py", "test_base.py"}
EACH_TIME = {"bert", "gpt2", "llama", "t5"}
KEPT_TOGETHER = {"ray", "forks"}  # kinds that need something whose start takes seconds: each has it in one process alone


# ---- kinds of tests ----------------------------------------------------------------------------------------------------------


@functools.cache
def helpers_of(module: ModuleType) -> set[str]:
    """The modules of tests whose functions and classes a module of tests has by name, among others."""
    return {str(getattr(value, "__module__", "")) for value in vars(module).values()}


def kinds_of(item: pytest.Function) -> list[str]:
    """The kinds of a test.

    `ray` uses this process's Ray or starts one of its own, `forks` starts processes from one that has the heavy imports,
    `trains` makes or trains models, `simulates` plays whole sweeps, `rest` takes seconds for one of the rarer architectures.
    """
    helpers = helpers_of(item.module)
    kinds = []
    if {"local_ray", "ray_of_its_own"} & set(item.fixturenames):
        kinds.append("ray")
    elif {"gloo", "processes"} & helpers:
        kinds.append("forks")
    if item.path.parent.name in WITH_MODELS or MODEL_HELPERS & helpers:
        kinds.append("trains")
    if item.path.parent.name == "simulation":
        kinds.append("simulates")
    if item.path.name in BY_ARCHITECTURE and hasattr(item, "callspec"):
        from tiny_models import TINY  # heavy, and loaded by such a file in any case

        named = {value for value in item.callspec.params.values() if isinstance(value, str) and value in TINY}
        if named - EACH_TIME:
            kinds.append("rest")
    return kinds


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark them, and put first what takes long: Ray, then models. A Ray of this process's own starts when no other is needed."""
    for item in items:
        for kind in kinds_of(item):
            item.add_marker(kind)
            if kind in KEPT_TOGETHER:
                item.add_marker(pytest.mark.xdist_group(kind))

    def place(item: pytest.Function) -> tuple[bool, bool, bool]:
        marks = {mark.name for mark in item.iter_markers()}
        return ("ray" not in marks, "local_ray" in item.fixturenames, "trains" not in marks)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`: whoever is free takes the next file. All that needs Ray goes to one process, and all that forks."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if group == nodeid else group

    if config.getoption("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False  # the order is that of `pytest_collection_modifyitems`
    return ByFile(config, log)


# ---- fixtures ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all processes of a run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    os.environ["SCALESWEEP_CACHE"] = str(Path(shared) / "cache")
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture
def own_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, because micro-batch sizes that it makes small would be those of other tests' trials."""
    monkeypatch.setenv("SCALESWEEP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real local Ray that schedules four logical GPUs: one for all tests, until the last of them."""
    import ray

    ray.init(
        address="local", num_cpus=LOGICAL_GPUS, num_gpus=LOGICAL_GPUS, include_dashboard=False,
        object_store_memory=100 * 1024**2, log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_of_its_own() -> None:
    """For tests that start a Ray in another process: they take turns with all others that use one."""
