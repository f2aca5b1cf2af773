"""Connects the conductor to Ray Tune, through Tune's public interfaces.

Tune does not show its searcher the report on which a trial stops, nor the reason, and it forgets its scheduler on resume.
Therefore the scheduler, searcher and stopper here only pass calls to one `Conductor`, which sees every report and decides.

Tune passes a trial's process on to the next trial, but keeps at most one idle process, and starting another takes seconds.
Therefore a trial that has ended or is paused keeps its process until a new trial needs it. The scheduler answers its last report
with NOOP, which leaves the process as it is, and stops the trial once a new one is queued. A parked process holds no GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Stopper
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from scalesweep.control.conductor import Conductor
from scalesweep.record import Trial

TrialPayload = Callable[[Trial], dict[str, Any]]
ROUND_SECONDS = 0.1  # of Tune's loop when it has nothing to wait for


class BridgeSearcher(Searcher):
    """Tune's searcher: asks the conductor for trials that can start now."""

    def __init__(self, conductor: Conductor, payload: TrialPayload, scheduler: BridgeScheduler) -> None:
        super().__init__(metric=None, mode=None)
        self.conductor = conductor
        self.payload = payload
        self.scheduler = scheduler
        self.names: dict[str, str] = {}  # Tune's trial id → ours
        self.newest: dict[str, str] = {}  # our name → the id of its newest trial in Tune. A retry, or a trial that continues
        # after a pause, is a new trial for Tune.

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.conductor.finished():
            return Searcher.FINISHED
        if self.scheduler.takes_over:
            return None  # one at a time: each round of Tune's loop passes on one process
        trial = self.conductor.next_trial()
        if trial is None:
            # While only parked processes are left, Tune's loop does not wait, and would take the CPU from workers that start.
            if self.scheduler.parked and not self.conductor.running:
                time.sleep(ROUND_SECONDS)
            return None
        self.names[trial_id] = trial.name
        self.newest[trial.name] = trial_id
        self.scheduler.takes_over = bool(self.scheduler.parked)
        return self.payload(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        if error and self.newest[self.names[trial_id]] == trial_id:  # else an earlier attempt's parked process died
            self.conductor.died(self.names[trial_id], self.scheduler.tracebacks.pop(trial_id, ""))

    # The record is the only saved state; Tune would pickle the searcher.
    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class BridgeScheduler(TrialScheduler):
    """Tune's scheduler: passes every report to the conductor, and the conductor's decision to Tune."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor
        self.parked: list[Any] = []  # ended or paused trials of Tune whose processes wait for new trials
        self.takes_over = False  # a queued trial waits for a parked process
        self.tracebacks: dict[str, str] = {}  # Tune's id of a trial whose process died → Tune's text about it

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        name = trial.config["trial"]
        if "failure" in result:
            kind = result["failure_kind"]
            self.conductor.failed(name, result["failure"], kind == "out_of_memory", result["traceback"], kind == "user")
        else:
            report = {key.removeprefix("report/"): value for key, value in result.items() if key.startswith("report/")}
            metrics = {key.removeprefix("metrics/"): report.pop(key) for key in list(report) if key.startswith("metrics/")}
            if self.conductor.report(name, **report, metrics=metrics, examples=result.get("examples")):
                return TrialScheduler.CONTINUE
        self.parked.append(trial)
        return TrialScheduler.NOOP

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Free a parked process. Tune calls this in each round, before it gives processes to queued trials."""
        if self.takes_over:
            if self.parked:
                tune_controller.stop_trial(self.parked.pop())
            self.takes_over = False

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002
        self.parked = [other for other in self.parked if other is not trial]
        self.tracebacks[trial.trial_id] = str(trial.get_error() or "")  # the searcher is told next, without the error

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...
    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None: ...
    def debug_string(self) -> str:
        return "scalesweep"

    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class BridgeStopper(Stopper):
    """Tune's stopper: ends the experiment when the conductor has finished.

    Tune keeps a trial's last result in memory and in its own files. The numbers of each example are no part of it.
    """

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        result.pop("examples", None)  # the scheduler gets a copy of the result, made before
        return False

    def stop_all(self) -> bool:
        return self.conductor.finished()


def run_tune(
    conductor: Conductor,
    trainable: type[tune.Trainable],
    resources: tune.PlacementGroupFactory,
    payload: TrialPayload,
    storage_path: str,
) -> None:
    """Run the sweep to its end, or until the conductor is interrupted."""
    # Tune would copy the driver's AWS keys into each trial's runtime environment, and Ray logs that in clear text. A trial's
    # process does not need them.
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
    scheduler = BridgeScheduler(conductor)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=BridgeSearcher(conductor, payload, scheduler),
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage_path,
            stop=BridgeStopper(conductor),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # workers write the checkpoints
            # A retry is a new trial for Tune, because its config names other workers.
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    tuner.fit()
