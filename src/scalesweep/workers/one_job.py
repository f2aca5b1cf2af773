"""Trains one job outside a sweep, in this process or on workers of its own, and exports the model."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalesweep.costs import workers_of_node
from scalesweep.errors import OutsideError, ScalesweepError, UserError, counted
from scalesweep.training.job import TrainReport, TrialJob
from scalesweep.workers.session import ray_cluster, usable_cpus

Progress = Callable[[int, int], object]  # called with (steps done, total steps)


class JobFailed(Exception):
    """Training or exporting raised an error. `traceback` is its text."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


def phases(job: TrialJob) -> list[TrialJob]:
    """The job itself; with `keep: best`, the training, evaluated on validation, and then the judgement of the best checkpoint."""
    return [job] if job.keep == "last" else [replace(job, evaluate_on="validation"), replace(job, judges=True)]


def train_here(job: TrialJob, exported: Path, progress: Progress) -> tuple[Any, Any]:
    """Train a job to its end in this process, on all its cores, and export the model.

    With `keep: best`, the best checkpoint on validation is evaluated as the job says, and exported. The first Ctrl-C or SIGTERM
    saves a checkpoint before it interrupts; the second one interrupts at once.

    Returns:
        The last report, and the exported model's logits on validation examples.

    Raises:
        JobFailed: if training or exporting raised an error that is not ours.
        KeyboardInterrupt: if the user interrupted the training.
    """
    from scalesweep.training.loop import Trainer, train
    from scalesweep.training.precision import use_threads

    use_threads(usable_cpus())
    trainer = None
    try:
        report = None
        with _held_back() as interrupted:  # from here on: an import may swallow a KeyboardInterrupt
            for phase in phases(job):
                if trainer is not None:
                    trainer.close()
                    trainer = None  # one model at a time in memory
                trainer = Trainer(phase)
                for report in train(trainer):
                    if not phase.judges:
                        progress(report.step, report.total_steps)
                    if interrupted.is_set():
                        if not phase.judges:
                            trainer.save(report)
                        raise KeyboardInterrupt
        assert trainer is not None
        return report, trainer.export(exported)
    except ScalesweepError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again, with its traceback
        raise JobFailed(f"{type(error).__name__}: {error}", traceback.format_exc()) from None
    finally:
        if trainer is not None:
            trainer.close()


def untrained(job: TrialJob, address: str | None) -> TrainReport:
    """Evaluate a job's model before its first step, where `train_here` or `train_on_workers` would train it.

    Raises:
        UserError: if the cluster holds too few workers, or a worker raised one.
        OutsideError: if no cluster answers, or a worker died.
        JobFailed: if the evaluation raised an error.
    """
    reports = list[TrainReport]()
    if job.config.num_gpus == 1 and address is None:
        from scalesweep.training.loop import Trainer
        from scalesweep.training.precision import use_threads

        use_threads(usable_cpus())
        trainer = Trainer(job)
        try:
            return trainer.untrained()
        except ScalesweepError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, with its traceback
            raise JobFailed(f"{type(error).__name__}: {error}", traceback.format_exc()) from None
        finally:
            trainer.close()

    def evaluate(group: Any) -> None:
        group.begin(job)
        reports.append(group.next())

    _on_workers(job, address, evaluate)
    return reports[0]


@contextlib.contextmanager
def _held_back() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. The second one raises KeyboardInterrupt."""
    pressed = threading.Event()

    def handler(signum: int, frame: Any) -> None:  # noqa: ARG001
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield pressed
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def train_on_workers(job: TrialJob, exported: Path, progress: Progress, address: str | None = None) -> tuple[Any, Any]:
    """Train a job to its end on the cluster at `address`, or on a local one of its own, and export the model, as `train_here`.

    Returns:
        The last report, and the exported model's logits on validation examples.

    Raises:
        UserError: if the cluster holds too few workers, or a worker raised one.
        OutsideError: if no cluster answers, a worker died, or the model is not in `exported` afterwards.
        JobFailed: if training or exporting raised an error.
    """
    outcome = list[tuple[Any, Any]]()

    def train(group: Any) -> None:
        report = None
        for phase in phases(job):
            group.begin(phase)
            while (following := group.next()) is not None:
                report = following
                if not phase.judges:
                    progress(report.step, report.total_steps)
        outcome.append((report, group.export(exported.resolve())))

    _on_workers(job, address, train)
    if not exported.is_dir():
        hint = "run promote again with an --output that all nodes share"
        raise OutsideError(f"the worker's node wrote the model to {exported}, which this machine does not see", hint)
    return outcome[0]


def _on_workers(job: TrialJob, address: str | None, use: Callable[[Any], object]) -> None:
    """Call `use` with a group of workers for the job. Raises the errors of `train_on_workers`."""
    from scalesweep.workers.group import TrialFailed, WorkerDied, WorkerGroup
    from scalesweep.workers.pool import WorkerPool

    with ray_cluster(address):
        on_gpus = _check_room(job, address)
        pool = WorkerPool(job.threads, on_gpus, [job])  # must live as long as its workers are needed
        try:
            group = WorkerGroup(pool.lease_soon(job.trial, job.config.num_gpus))
            use(group)
        except WorkerDied as death:
            raise OutsideError(
                f"a worker of the final run died: {death}", "run promote again; it continues from the last checkpoint"
            ) from None
        except TrialFailed as failure:
            if failure.user is not None:
                raise failure.user from None
            raise JobFailed(str(failure), failure.traceback) from None
        finally:
            pool.shutdown()


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
        raise UserError(f"the final run needs {counted(job.config.num_gpus, 'worker')}, but {where} holds {held}", hint)
    return on_gpus
