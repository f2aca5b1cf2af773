"""Gives Ray Tune our proposals and our survival rule, through its public interfaces, and nothing more.

Tune shows its searcher neither the report on which a trial stops nor why it stopped, and forgets its scheduler on resume.
So scheduler, searcher and callback here are three faces of one `Conductor`, which sees every report and decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from scalesweep.record import Trial
from scalesweep.sweep.conductor import Conductor

TrialPayload = Callable[[Trial], dict[str, Any]]


class BridgeSearcher(Searcher):
    """Asks the conductor for trials."""

    def __init__(self, conductor: Conductor, payload: TrialPayload) -> None:
        super().__init__(metric=None, mode=None)
        self.conductor = conductor
        self.payload = payload
        self.names: dict[str, str] = {}  # Tune's trial id → ours

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.conductor.no_more_trials():
            return Searcher.FINISHED
        trial = self.conductor.propose()
        if trial is None:
            return None
        self.names[trial_id] = trial.name
        return self.payload(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        if error:
            self.conductor.failed(self.names[trial_id], "its process died more often than resources.max_failures allows")

    # The record is the one state that is kept; Tune would pickle the searcher.
    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class BridgeScheduler(TrialScheduler):
    """Passes every report to the conductor and its decision to Tune. Tune places pending trials by itself."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        name = trial.config["trial"]
        if "failure" in result:
            self.conductor.failed(name, result["failure"], infeasible=result["failure_kind"] == "out_of_memory")
            return TrialScheduler.STOP
        report = {key.removeprefix("report/"): value for key, value in result.items() if key.startswith("report/")}
        metrics = {key.removeprefix("metrics/"): report.pop(key) for key in list(report) if key.startswith("metrics/")}
        goes_on = self.conductor.report(name, **report, metrics=metrics)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def choose_trial_to_run(self, tune_controller: Any) -> None:  # noqa: ARG002
        return None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...
    def on_trial_error(self, tune_controller: Any, trial: Any) -> None: ...
    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None: ...
    def debug_string(self) -> str:
        return "scalesweep"

    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class BridgeCallback(Callback):
    """Tells the conductor when a trial got its workers, restarts included."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.conductor.started(trial.config["trial"])


class BridgeStopper(Stopper):
    """Ends the experiment when the conductor says that nothing is left to do."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self.conductor.finished()


def run_tune(
    conductor: Conductor,
    trainable: type[tune.Trainable],
    resources: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
    payload: TrialPayload,
    storage_path: str,
    max_failures: int,
) -> None:
    """Run the sweep to its end, or until the conductor is interrupted."""
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=BridgeSearcher(conductor, payload),
            scheduler=BridgeScheduler(conductor),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage_path,
            stop=BridgeStopper(conductor),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # workers write their own
            failure_config=tune.FailureConfig(max_failures=max_failures),
            callbacks=[BridgeCallback(conductor)],
            verbose=0,
        ),
    )
    tuner.fit()
