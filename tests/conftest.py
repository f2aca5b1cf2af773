"""Fixtures that several rooms share: a data cache of this test run's own, and one local Ray with logical GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

LOGICAL_GPUS = 4


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SCALESWEEP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A real local Ray that schedules four logical GPUs."""
    import ray

    ray.init(
        address="local", num_cpus=LOGICAL_GPUS, num_gpus=LOGICAL_GPUS, include_dashboard=False,
        object_store_memory=100 * 1024**2, log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()
