"""Launches and resumes a sweep, on a running Ray cluster or a local one. The result is its record."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scalesweep.control.conductor import Conductor
from scalesweep.costs import share_of, workers_of_node
from scalesweep.errors import NothingUsableError, UserError, command
from scalesweep.record import Manifest, Record, RecordWriter, Sink, Trial, best, read_manifest
from scalesweep.record.manifest import new_manifest
from scalesweep.record.provenance import git_revision, package_versions, who
from scalesweep.record.store import began, clear_unless_began
from scalesweep.spec import SweepSpec, TrialConfig, change_limits, functions, gpu_choices, trial_config
from scalesweep.storage import UrlPath, check_cache, check_writable, working_folder
from scalesweep.sweep.checkpoints import CheckpointSweeper
from scalesweep.sweep.cluster import can_spare, check_placement, live_cluster
from scalesweep.sweep.preflight import Plan, check_static
from scalesweep.workers.session import ray_cluster, usable_cpus, visible_gpus

WARM_BYTES = 2 * 1024**3  # largest weights that a starting worker prepares in advance; larger sizes wait for a trial
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints tables to stdout
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the conductor bounds the queue; Tune's default is one trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's state is never restored
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def local_slots(spec: SweepSpec, num_gpus: int | None) -> int:
    """Return the number of workers of a local cluster, before Ray starts: one per GPU, or CPU workers if there is no GPU."""
    gpus = visible_gpus() if num_gpus is None else num_gpus
    return workers_of_node(gpus, usable_cpus(), spec.resources.cpus_per_worker, on_gpus=gpus > 0)


def make_manifest(plan: Plan) -> Manifest:
    """Return the manifest of a new record: everything that describes and reproduces the sweep."""
    ladder = [
        {**asdict(size), "entry": plan.ladder[size.name].model_dump(), "data_key": plan.data_keys[size.name]}
        for size in plan.sizes
    ]
    launched = {
        "id": uuid.uuid4().hex,
        "created": time.time(),
        "data": {
            "source": plan.data.model_dump(),
            "fingerprint": plan.data_fingerprint,
            "classes": list(plan.classes),
            **plan.data_summary,
            "notes": plan.data_notes,
        },
        "metric": {"name": plan.spec.metric.name, "goal": plan.spec.goal, "function": plan.function},
        "functions": functions.file_hashes((plan.data.scorer, plan.function)),
        "adapts": plan.adapts,
        "hopeless": plan.hopeless,
        "baseline": asdict(plan.baseline),
        "versions": package_versions(),
        "git": git_revision(),
    }
    return new_manifest(plan.spec, ladder, [asdict(past) for past in plan.past], launched)


class Slots:
    """The number of workers on whole GPUs that the cluster holds. Asks Ray again every few seconds, because a cluster may grow."""

    seconds = 10.0

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self._asked = -self.seconds
        self._count = 0
        self._present = 0
        self.on_gpus = False
        self.drained: Collection[str] = ()  # ids of nodes that get no more workers

    def present(self) -> int:
        """Return the number of workers that fit on the nodes present now, before the cluster grows."""
        self()
        return self._present

    def __call__(self) -> int:
        import ray

        if time.monotonic() - self._asked >= self.seconds:
            alive = [node for node in ray.nodes() if node["Alive"]]
            cluster = live_cluster([node for node in alive if node["NodeID"] not in self.drained])
            lost = live_cluster([node for node in alive if node["NodeID"] in self.drained])
            gpus = max(cluster.gpus, (self.spec.resources.max_gpus or 0) - lost.gpus)
            # A GPU cluster without its GPU nodes holds no worker. It does not become a CPU cluster.
            self.on_gpus = self.on_gpus or gpus > 0
            self._present = cluster.workers(self.spec.resources.cpus_per_worker)
            if self.on_gpus and not cluster.on_gpus:
                self._present = 0
            can_grow = self.spec.resources.max_gpus is not None
            self._count = gpus if can_grow else self._present
            self._asked = time.monotonic()
        return self._count


# ---- launch and resume ----------------------------------------------------------------------------------------------------


def check_unused(run_dir: Path | UrlPath) -> None:
    """Check that a new sweep can be kept in a run folder. A sweep in which no trial has started does not count.

    Raises:
        UserError: if the folder already holds a sweep.
        OutsideError: if the folder can't be written.
    """
    check_writable(run_dir)
    if began(run_dir):
        RecordWriter(run_dir, {}).close()  # raises UserError with the remedy


def launch(
    plan: Plan, run_dir: Path | UrlPath, address: str | None, num_gpus: int | None, sinks: Sequence[Sink] | None = None
) -> Record:
    """Run a checked sweep into a new run folder and return its record.

    Raises:
        UserError: if the folder already holds a sweep, or the cluster is too small.
        NothingUsableError: if the sweep ended without a usable trial.
        KeyboardInterrupt: if the user interrupted the sweep; `resume` continues it.
    """
    check_unused(run_dir)
    os.environ.update(TUNE_SETTINGS)
    with ray_cluster(address, num_gpus):
        slots = _checked_slots(plan.spec)
        clear_unless_began(run_dir)
        with closing(RecordWriter(run_dir, make_manifest(plan))) as writer:
            if plan.past_note:
                writer.append({"event": "note", "time": time.time(), "text": plan.past_note})
            return _run(writer, plan.spec, slots, sinks)


def resume(
    run_dir: Path | UrlPath,
    address: str | None,
    num_gpus: int | None,
    sinks: Sequence[Sink] | None = None,
    overrides: Sequence[str] = (),
    confirm: tuple[Sequence[str], int] | None = None,
) -> Record:
    """Continue an interrupted sweep from its record. Running trials continue from their checkpoints.

    `overrides` change budgets and limits, as `KEY=VALUE`. With a larger budget, a sweep that has ended continues too. `confirm`
    names trials of a sweep that has ended, and the number of new seeds on which it compares them; no budget limits that.

    Raises:
        UserError: if the run folder is missing or in use, or its sweep has ended, or `overrides` would change anything else,
            or the cache folder can't be written.
        SpecError: if a value of `overrides` is not allowed.
        NothingUsableError: if the sweep ended without a usable trial.
        KeyboardInterrupt: if the user interrupted the sweep again.
    """
    read_manifest(run_dir)
    if address is None:  # otherwise the workers run on nodes with caches of their own
        check_cache()
    with closing(RecordWriter(run_dir)) as writer:
        spec, changed = change_limits(writer.record.manifest.spec, overrides)
        if writer.record.status == "ended" and confirm is None:
            _check_extended(writer.record, spec, changed)
        if changed:
            writer.append({"event": "settings", "time": time.time(), "changed": changed, "by": who()})
        if sinks is None:
            changes = [f"{key} changes from {old} to {new}" for key, (old, new) in changed.items()]
            print("\n".join([_trusted(spec, run_dir), *changes]), file=sys.stderr, flush=True)
        os.environ.update(TUNE_SETTINGS)
        with ray_cluster(address, num_gpus):
            slots = _checked_slots(spec)
            if confirm is not None:
                writer.append({"event": "confirm", "time": time.time(), "trials": list(confirm[0]), "seeds": confirm[1]})
            return _run(writer, spec, slots, sinks)


def _check_extended(record: Record, spec: SweepSpec, changed: Collection[str]) -> None:
    """Check that the changed budgets of a sweep that has ended leave something to do.

    Raises:
        UserError: if nothing changed, or a budget is still spent.
    """
    from scalesweep.record.prices import paid_in_all
    from scalesweep.report.progress import budget_uses

    run_dir = record.folder
    budget = spec.budget.model_dump(mode="json")
    uses = budget_uses(
        budget, len(record.configurations()), record.elapsed_seconds, record.gpu_seconds, paid_in_all(record) or 0.0
    )
    spent = [use for use in uses if use.share >= 1]
    if not changed:
        chooses = record.manifest.chooses
        board, final = command("leaderboard", run_dir), command("choose" if chooses else "promote", run_dir)
        larger = f"`{command('resume', run_dir)} --set budget.{spent[0].limit}=…` extends it; " if spent else ""
        hint = (
            f"{larger}`{board}` compares its trials, and `{final}` {'ranks the checkpoints' if chooses else 'trains the best'}"
        )
        raise UserError(f"the sweep in {run_dir} has ended ({record.ended_reason}); there is nothing to resume", hint)
    if spent:
        message = f"the sweep in {run_dir} has ended, and budget.{spent[0].limit} is spent ({spent[0].used})"
        raise UserError(message, f"raise it too: --set budget.{spent[0].limit}=…")


def _trusted(spec: SweepSpec, run_dir: Path | UrlPath) -> str:
    """List what a run folder is trusted with. Anyone who can write there can have changed its models and data."""
    sizes = spec.sizes()
    code = sorted({size.model for size in sizes if size.trust_remote_code})
    pickles = sorted({size.model for size in sizes if size.allow_pickle})
    return (
        f"trusting {run_dir} for the names of models and data: models {', '.join(sorted({size.model for size in sizes}))}; data {spec.data.shown}"
        + (f"; runs the code of {', '.join(code)} (trust_remote_code)" if code else "")
        + (f"; may unpickle the weights of {', '.join(pickles)} (allow_pickle)" if pickles else "")
    )


def _checked_slots(spec: SweepSpec) -> Slots:
    """Check that the cluster can hold every trial, and return its slots.

    Raises:
        SpecError: if the cluster lacks a GPU count or an accelerator type. For a cluster that grows (`max_gpus`), only its file
            shows which nodes it can get; `check_placement` checks that before the launch.
    """
    import ray

    slots = Slots(spec)
    if spec.resources.max_gpus is None:
        check_placement(spec, live_cluster(ray.nodes()))
    check_static(spec, slots())
    return slots


class TrialWorkers:
    """The sweep's workers, leased to trials. The conductor uses the worker pool through this class."""

    def __init__(self, manifest: Manifest, spec: SweepSpec, slots: Slots) -> None:
        from scalesweep.training.job import job_from_manifest
        from scalesweep.workers.group import Lease
        from scalesweep.workers.pool import WorkerPool

        self.spec, self.slots = spec, slots
        self.leases: dict[str, Lease] = {}
        self.booted: list[float] = []  # start times of workers in seconds, not yet passed to the conductor
        self._size = manifest.size
        small = [size.name for size in manifest.ladder if 4 * (size.n_params or 0) <= WARM_BYTES]
        first_jobs = [
            job_from_manifest(manifest, spec, "", trial_config(spec, {"model_size": name}), None)
            for name in small or [manifest.ladder[0].name]
        ]
        # A cluster that grows may show its GPUs only later.
        grows = spec.resources.max_gpus is not None
        self.pool = WorkerPool(
            spec.resources.cpus_per_worker,
            slots.on_gpus or grows,
            first_jobs,
            booted=self.booted.append,
            placement=spec.resources.placement,
            grows=grows,
            spot_notice=spec.resources.spot_notice,
        )
        self.remarks = self.pool.remarks
        self.drained: Collection[str] = self.pool.drained
        slots.drained = self.drained
        largest = max(gpu_choices(spec))
        concurrent = math.ceil((spec.resources.max_concurrent_trials or slots() / share_of(largest)) * largest)
        self.pool.start(min(slots.present(), concurrent), share_of(largest))

    def take(self, trial: Trial) -> bool:
        lease = self.pool.lease(trial.name, trial.num_gpus, self.slots(), self._accelerator_type(trial))
        if lease is not None:
            self.leases[trial.name] = lease
        return lease is not None

    def could_hold(self, trial: Trial, given_back: Collection[str] = ()) -> bool:
        return self.pool.could_hold(trial.num_gpus, self.slots(), self._accelerator_type(trial), given_back)

    def room(self) -> float:
        return self.pool.room(self.slots())

    def idle(self) -> float:
        return self.pool.idle()

    def _accelerator_type(self, trial: Trial) -> str | None:
        return self._size(trial.config["model_size"]).accelerator_type

    def names(self, holder: str) -> list[str]:
        return list(self.leases[holder].workers)

    def nodes(self, holder: str) -> set[str]:
        return self.pool.nodes(holder)

    def drain(self, node: str) -> str | None:
        import ray

        nodes = ray.nodes()
        if can_spare(self.spec, nodes, {node, *self.drained}):
            return self.pool.drain(node)
        address = next(one["NodeManagerAddress"] for one in nodes if one["NodeID"] == node)
        self.remarks.append(f"node {address} keeps failing trials, but stays in use: without it, some GPU counts would not fit")
        return None

    def gone(self, holder: str) -> bool:
        return self.pool.gone(holder)

    def leaving(self, holder: str) -> bool:
        return self.pool.leaving(holder)

    def tend(self) -> None:
        self.pool.tend()

    def release(self, holder: str) -> None:
        self.pool.release(holder)

    def discard(self, holder: str) -> None:
        self.pool.discard(holder)


def _run(writer: RecordWriter, spec: SweepSpec, slots: Slots, sinks: Sequence[Sink] | None) -> Record:
    from scalesweep.report.findings import unusable
    from scalesweep.report.progress import displays
    from scalesweep.report.trackers import make_trackers
    from scalesweep.search.proposals import Proposer
    from scalesweep.sweep.bridge import run_tune
    from scalesweep.sweep.study import new_study_storage
    from scalesweep.sweep.trainable import SweepTrainable, placement
    from scalesweep.training.job import job_from_manifest

    record, manifest = writer.record, writer.record.manifest
    folder = working_folder(writer.run_dir)
    run_dir = folder if isinstance(writer.run_dir, Path) else writer.run_dir
    storage = new_study_storage(folder / "study.log")
    proposer = Proposer(spec, storage, record.by_number(), manifest.hopeless, record.n_params, record.past)
    shown = displays(True) if sinks is None else sinks
    workers = TrialWorkers(manifest, spec, slots)
    checkpoints = CheckpointSweeper(run_dir / "checkpoints", record)
    conductor = Conductor(
        spec, writer, proposer, slots, workers, time.time, [*shown, *make_trackers(record, folder), checkpoints]
    )

    first: dict[str, str] = {}  # size → the trial that also evaluates the untrained model

    def payload(trial: Trial) -> dict[str, Any]:
        reached = trial.last.fidelity if trial.last else 0.0
        where = run_dir / "checkpoints" / trial.name
        job = job_from_manifest(manifest, spec, trial.name, TrialConfig(**trial.config), where, reached=reached)
        size = str(trial.config["model_size"])
        if (
            trial.last is None
            and size not in record.untrained
            and first.get(size) not in conductor.running.keys() - {trial.name}
        ):
            first[size] = trial.name
            job = replace(job, untrained=True)
        if conductor.may_give_way(trial.name):
            job = replace(job, saves_first="reports")
        return {"trial": trial.name, "lease": workers.leases[trial.name], "job": job}

    if isinstance(run_dir, Path):
        (run_dir / "checkpoints").mkdir(exist_ok=True)
    _note_changes(conductor)
    with _interruptible(conductor):
        try:
            most = math.ceil(slots() / min(1, gpu_choices(spec)[0]))
            run_tune(conductor, SweepTrainable, placement(most), payload, str(folder / ".tune"))
            if conductor.outage:
                raise conductor.outage
            if not conductor.interrupted:
                conductor.end_sweep()
        except Exception as error:
            if conductor.outage is None or error is conductor.outage:
                raise
            raise conductor.outage from error  # Tune's error is a consequence of the outage
        finally:
            workers.pool.shutdown()
            conductor.close()
            _keep_views(folder, run_dir)
    shutil.rmtree(folder / ".tune", ignore_errors=True)
    if conductor.interrupted:
        raise KeyboardInterrupt
    if best(record) is None:
        raise NothingUsableError(*unusable(record))
    return record


def _note_changes(conductor: Conductor) -> None:
    """Note in the record if a resumed sweep runs with other package versions or functions than before."""
    manifest = conductor.record.manifest
    if remark := functions.changed_functions(manifest.functions):
        conductor.note(remark)
    before, now = manifest.versions, package_versions()
    changed = [f"{name} {before.get(name)} → {version}" for name, version in now.items() if before.get(name) != version]
    if changed:
        conductor.note(f"versions changed since the launch: {', '.join(changed)}")


STOPPING = "stopping cleanly; Ctrl-C again ends at once, and `resume` continues after both"


@contextlib.contextmanager
def _interruptible(conductor: Conductor) -> Iterator[None]:
    """Stop cleanly on the first Ctrl-C or SIGTERM, and at once on the second. `resume` continues after both."""

    def handler(signum: int, frame: Any) -> None:  # noqa: ARG001
        if conductor.interrupted:
            raise KeyboardInterrupt
        conductor.interrupted = True
        # From a thread: the signal may have come in the middle of a write to the same stream.
        threading.Thread(target=print, args=(STOPPING,), kwargs={"file": sys.stderr, "flush": True}).start()

    # Python lets the main thread alone handle signals. A sweep in another thread ends with the process, and can be resumed.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _keep_views(folder: Path, run_dir: Path | UrlPath) -> None:
    """Copy the study and the W&B runs from the working folder to a URL. `resume` needs neither."""
    if isinstance(run_dir, Path):
        return
    found = [folder / "study.log", *sorted((folder / "wandb").rglob("*"))]
    try:
        for path in found:
            if path.is_file() and not path.is_symlink():
                (run_dir / path.relative_to(folder).as_posix()).upload(path)
    except OSError as error:
        print(f"could not copy {folder} to {run_dir}: {error.strerror}", file=sys.stderr, flush=True)
