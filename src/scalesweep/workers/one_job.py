"""Trains one job on workers of its own, outside a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalesweep.costs import workers_of_node
from scalesweep.errors import OutsideError, UserError
from scalesweep.training.job import TrialJob
from scalesweep.workers.session import ray_cluster


def train_on_workers(
    job: TrialJob, exported: Path, progress: Callable[[int, int], None], address: str | None = None
) -> tuple[Any, Any]:
    """Train a job to its end on the cluster at `address`, or on a local one of its own, and export the model.

    Returns:
        The last report, and the exported model's logits on validation examples.

    Raises:
        UserError: if the cluster holds too few workers.
        OutsideError: if no cluster answers, a worker died, the training failed, or the model is not in `exported` afterwards.
    """
    from scalesweep.workers.pool import TrialFailed, WorkerDied, WorkerGroup, WorkerPool

    with ray_cluster(address):
        on_gpus = _check_room(job, address)
        pool = WorkerPool(job.threads, on_gpus, [job])  # must live as long as its workers are needed
        try:
            group = WorkerGroup(pool.lease_soon(job.trial, job.config.num_gpus))
            group.begin(job)
            report = None
            while (following := group.next()) is not None:
                report = following
                progress(report.step, report.total_steps)
            logits = group.export(exported.resolve())
        except WorkerDied as death:
            raise OutsideError(
                f"a worker of the final run died: {death}", "run promote again; it continues from the last checkpoint"
            ) from None
        except TrialFailed as failure:
            raise OutsideError(f"the final run failed: {failure}") from None
        finally:
            pool.shutdown()
    if not exported.is_dir():
        hint = "run promote again with an --output that all nodes share"
        raise OutsideError(f"the worker's node wrote the model to {exported}, which this machine does not see", hint)
    return report, logits


def _check_room(job: TrialJob, address: str | None) -> bool:
    """Check that the cluster holds the job's workers, and return whether they run on GPUs."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = any(node.get("GPU", 0) for node in nodes)
    held = sum(workers_of_node(node.get("GPU", 0), node.get("CPU", 0), job.threads, on_gpus) for node in nodes)
    if job.config.num_gpus > held:
        where = f"the cluster at {address}" if address else "this machine"
        hint = f"give --num-gpus {max(held, 1)}"
        if not address:
            hint += ", or the --address of a larger cluster"
        raise UserError(f"the final run needs {job.config.num_gpus} workers, but {where} holds {held}", hint)
    return on_gpus
