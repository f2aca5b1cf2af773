"""One process per worker: Ray actors that train one trial together, and may train the next one afterwards.

The process group is made once and kept: the number of workers is fixed for the life of a group.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scalesweep.errors import ScalesweepError
from scalesweep.training.job import TrialJob

DEATH_NOTICE_SECONDS = 15.0  # how long a dead rank may take to be known as dead after its peers saw the connection break


class WorkerDied(Exception):
    """A rank's process is gone; the trial can go on from its last checkpoint."""


class TrialFailed(Exception):
    """Training raised an error that another try would raise again. `kind` is `out_of_memory` or `error`."""

    def __init__(self, message: str, kind: str = "error") -> None:
        super().__init__(message)
        self.kind = kind


class _Rank:
    """What runs in a worker process. torch is imported here, not in the process that only places workers."""

    def __init__(self, rank: int, world: int, threads: int) -> None:
        self.rank, self.world = rank, world
        self.reports: Iterator[Any] | None = None
        self.accelerator: Any = None
        self.trainer: Any = None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a CPU worker on a machine with GPUs must not take one
        import torch

        torch.set_num_threads(threads)

    def rendezvous(self) -> tuple[str, int]:
        """An address of this node and a free port on it, for the ranks to meet."""
        host = ray.util.get_node_ip_address()
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def join(self, address: tuple[str, int], mixed_precision: str) -> None:
        """Make the process group (none for a single worker) and the accelerator on it."""
        if self.world > 1:
            os.environ.update(
                MASTER_ADDR=address[0],
                MASTER_PORT=str(address[1]),
                RANK=str(self.rank),
                WORLD_SIZE=str(self.world),
                LOCAL_RANK="0",  # Ray shows each worker its own GPU alone
                LOCAL_WORLD_SIZE="1",
            )
        from scalesweep.training.loop import make_accelerator

        self.accelerator = make_accelerator(mixed_precision)

    def begin(self, job: TrialJob) -> None:
        """Load the job's model and data, and the checkpoint if there is one."""
        from scalesweep.training.loop import Trainer, train

        self.end()
        self.trainer = Trainer(job, self.accelerator)
        self.reports = train(self.trainer)

    def next(self) -> Any:
        """Train on to the next report; None after the last one."""
        assert self.reports is not None
        return next(self.reports, None)

    def end(self) -> None:
        """Let go of the trial's memory; the process stays."""
        if self.reports is not None:
            self.reports = self.trainer = None
            gc.collect()

    def export(self, folder: str) -> Any:
        return self.trainer.export(Path(folder))

    def pid(self) -> int:
        return os.getpid()


class WorkerGroup:
    """The workers of a trial, each in a bundle of `placement_group` (or wherever Ray puts them, without one)."""

    def __init__(
        self,
        world: int,
        threads: int,
        num_gpus: float,
        mixed_precision: str,
        placement_group: PlacementGroup | None = None,
        first_bundle: int = 0,
    ) -> None:
        actor = ray.remote(_Rank)
        self.ranks = []
        for rank in range(world):
            options: dict[str, Any] = {"num_cpus": threads, "num_gpus": num_gpus}
            if placement_group is not None:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    placement_group, placement_group_bundle_index=first_bundle + rank
                )
            self.ranks.append(actor.options(**options).remote(rank, world, threads))
        address = self._first(lambda rank: rank.rendezvous.remote()) if world > 1 else ("", 0)
        self._all(lambda rank: rank.join.remote(address, mixed_precision))

    def begin(self, job: TrialJob) -> None:
        self._all(lambda rank: rank.begin.remote(job))

    def next(self) -> Any:
        """The next report of the trial (rank 0's; all ranks report the same), or None at its end.

        Raises:
            WorkerDied: a rank's process is gone.
            TrialFailed: training raised an error.
        """
        return self._all(lambda rank: rank.next.remote())[0]

    def export(self, folder: Path) -> Any:
        """Let rank 0 write the trained model to `folder`; returns its logits on validation examples."""
        return self._first(lambda rank: rank.export.remote(str(folder)))

    def pids(self) -> list[int]:
        return list(self._all(lambda rank: rank.pid.remote()))

    def shutdown(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)

    def _first(self, call: Any) -> Any:
        try:
            return ray.get(call(self.ranks[0]))
        except RayActorError as error:
            raise WorkerDied(str(error)) from None

    def _all(self, call: Any) -> list[Any]:
        references = [call(rank) for rank in self.ranks]
        try:
            return list(ray.get(references))
        except RayActorError as error:
            raise WorkerDied(str(error)) from None
        except RayTaskError as error:
            # A rank that died breaks its peers' collectives: their error is a symptom, and the death is the cause.
            self._raise_if_dead(references)
            cause = error.cause if isinstance(error.cause, Exception) else error
            text = str(cause) if isinstance(cause, ScalesweepError) else f"{type(cause).__name__}: {cause}"
            kind = "out_of_memory" if "OutOfMemoryError" in type(cause).__name__ else "error"
            raise TrialFailed(text, kind) from None

    def _raise_if_dead(self, references: list[Any]) -> None:
        if len(references) == 1:
            return
        ready, _ = ray.wait(references, num_returns=len(references), timeout=DEATH_NOTICE_SECONDS)
        for reference in ready:
            try:
                ray.get(reference)
            except RayActorError as death:
                raise WorkerDied(str(death)) from None
            except RayTaskError:
                continue
