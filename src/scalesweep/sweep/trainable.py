"""A trial as Ray Tune runs it. This process only places workers and passes reports on, so it never imports torch."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from scalesweep.training.workers import TrialFailed, WorkerGroup


def placement(num_gpus: int, cpus_per_worker: int, on_gpus: bool, accelerator_type: str | None) -> PlacementGroupFactory:
    """One bundle per worker, packed onto few nodes but free to span several. The trial's own process takes no resources."""
    bundle: dict[str, float] = {"CPU": cpus_per_worker}
    if on_gpus:
        bundle["GPU"] = 1
        if accelerator_type:
            bundle[f"accelerator_type:{accelerator_type}"] = 0.001
    return PlacementGroupFactory([{}, *[dict(bundle) for _ in range(num_gpus)]], strategy="PACK")


class SweepTrainable(tune.Trainable):
    """Config: `trial` (name), `job` (what to train), and what its workers are to be (`num_gpus`, `cpus_per_worker`, …).

    The workers live as long as this actor. Tune hands the actor to the next trial of the same GPU count
    (`reuse_actors`), which then starts on warm processes; after an error it never does.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.workers: WorkerGroup | None = None
        self.begun = False
        self.trial = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial, self.begun = new_config, False
        return True

    def step(self) -> dict[str, Any]:
        config = self.trial
        try:
            if self.workers is None:
                self.workers = WorkerGroup(
                    world=config["num_gpus"],
                    threads=config["cpus_per_worker"],
                    num_gpus=1 if config["on_gpus"] else 0,
                    mixed_precision=config["mixed_precision"],
                    placement_group=ray.util.get_current_placement_group(),
                )
            if not self.begun:
                self.workers.begin(config["job"])
                self.begun = True
            report = self.workers.next()
        except TrialFailed as failure:
            # A plain error would come again on another try: it ends the trial, while a dead process is tried again.
            self.cleanup()
            return {"failure": str(failure), "failure_kind": failure.kind}
        if report is None:
            return {"failure": "training ended without a last report", "failure_kind": "error"}
        return {
            "report": {
                "step": report.step,
                "fidelity": report.fidelity,
                "tokens": report.tokens,
                "flops": report.flops,
                "metrics": report.metrics,
            }
        }

    def cleanup(self) -> None:
        if self.workers is not None:
            self.workers.shutdown()
            self.workers = None
