"""The code of a worker process: a Ray actor that stays warm and trains one trial after another."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.training.job import TrialJob
from scalesweep.workers.versions import difference, installed

CONTEXT_BYTES = 768 * 1024**2  # of a GPU's memory, for CUDA's own in each process, which torch's limit does not count


class Rank:
    """The actor in a worker process. It imports torch, which the process that places workers never does."""

    def __init__(
        self,
        threads: int,
        timeout_seconds: float,
        first_jobs: Sequence[TrialJob],
        versions: dict[str, str],
        share: float = 1.0,
    ) -> None:
        self.threads, self.timeout_seconds, self.first_jobs, self.versions = threads, timeout_seconds, first_jobs, versions
        self.share = share
        self.reports: Iterator[Any] | None = None
        self.trainer: Any = None

    def boot(self) -> tuple[str, float, ScalesweepError | None]:
        """Load everything that a trial needs. Returns this worker's node, the seconds taken, and an error or None."""
        began = time.monotonic()
        error = None
        try:
            self._prepare()
        except Exception as raised:  # noqa: BLE001 - returned as a value, so that it comes with the node
            error = raised if isinstance(raised, ScalesweepError) else OutsideError(f"{type(raised).__name__}: {raised}")
        return ray.get_runtime_context().get_node_id(), time.monotonic() - began, error

    def _prepare(self) -> None:
        if wrong := difference(self.versions, installed()):
            raise OutsideError(f"installed versions differ from the driver's: {wrong}")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a CPU worker on a machine with GPUs must not take one
        import torch

        torch.set_num_threads(self.threads)
        if self.share < 1 and torch.cuda.is_available():  # a worker must not take its neighbours' memory
            context = CONTEXT_BYTES / torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction(max(0.0, self.share - context))
        from scalesweep.training.loop import warm
        from scalesweep.training.peers import Meeting

        unusable = []
        for job in self.first_jobs:
            try:
                warm(job)
            except UserError as error:  # a size that can't be loaded: its trials fail, and those of other sizes don't
                unusable.append(error)
        if unusable and len(unusable) == len(self.first_jobs):
            raise unusable[0]
        self.meeting = Meeting(self.timeout_seconds)
        gc.collect()
        gc.freeze()  # imported objects stay; collecting over them took 0.8 s at every change of trials

    def is_in(self, group: str) -> bool:
        """Whether this worker is in that process group. A worker that trained alone in between still is."""
        return bool(self.meeting.group == group)

    def open_meeting(self) -> tuple[str, int]:
        """Open an address on this node for the ranks of a new group. Returns (host, port)."""
        self.end()
        host = ray.util.get_node_ip_address()
        return host, self.meeting.open(host)

    def begin(self, job: TrialJob, rank: int, world: int, group: str, address: tuple[str, int] | None) -> None:
        """Set up a trial: process group (with an `address` if it is new), model, data, and checkpoint if there is one."""
        from scalesweep.training.loop import Trainer, train
        from scalesweep.training.peers import Peers

        self.end()
        peers = Peers(rank, world)
        if address is not None:
            peers = self.meeting.join(group, rank, world, address)
        self.trainer = Trainer(job, peers)
        self.reports = train(self.trainer)

    def next(self) -> Any:
        """Train until the next report and return it; None after the last report."""
        assert self.reports is not None
        return next(self.reports, None)

    def end(self) -> None:
        """Free the trial's memory and keep the process."""
        if self.trainer is not None:
            self.trainer.close()
            self.reports = self.trainer = None
        gc.collect()  # also what is left of a trainer that could not be made

    def export(self, folder: str) -> Any:
        return self.trainer.export(Path(folder))

    def pid(self) -> int:
        return os.getpid()
