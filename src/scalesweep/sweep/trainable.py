"""A trial as Ray Tune runs it. This process only drives the trial's workers and passes reports on; it never imports torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from scalesweep.training.workers import TrialFailed, WorkerGroup

DRIVER_BYTES = 256 * 1024**2  # memory that a trial's own process is given


def placement(most: int) -> PlacementGroupFactory:
    """What a trial's own process takes. Its workers hold the GPUs, and all trials look alike to Tune, whatever their GPU
    count: so Tune hands this process from any trial to any other.

    It lives on the driver's node, if that has memory for `most` of them and one that is parked: then a node that goes takes no
    trial with it but those that have workers there.
    """
    here = ray.get_runtime_context().get_node_id()
    memory = next((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["NodeID"] == here), 0.0)
    beside = {"bundle_label_selector": [{"ray.io/node-id": here}]} if memory >= (most + 1) * DRIVER_BYTES else {}
    return PlacementGroupFactory([{"memory": DRIVER_BYTES}], **beside)


class SweepTrainable(tune.Trainable):
    """Config: `trial` (name), `job` (what to train), `lease` (the workers that train it)."""

    def setup(self, config: dict[str, Any]) -> None:
        self.trial = config
        self.workers: WorkerGroup | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self.workers is None:
                self.workers = WorkerGroup(self.trial["lease"])
                self.workers.begin(self.trial["job"])
            report = self.workers.next()
        except TrialFailed as failure:
            # A plain error would come again on another try: it ends the trial, while a dead process is tried again.
            return {"failure": str(failure), "failure_kind": failure.kind}
        if report is None:
            return {"failure": "training ended without a last report", "failure_kind": "error"}
        return {"report": asdict(report)}
