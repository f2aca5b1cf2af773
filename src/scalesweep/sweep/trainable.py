"""The Tune trainable of a trial. Its process drives the trial's workers and passes on their reports; it never imports torch."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from scalesweep.workers.group import TrialFailed, WorkerGroup

DRIVER_BYTES = 256 * 1024**2  # memory of a trial's own process


def placement(most: int) -> PlacementGroupFactory:
    """Return the resources of a trial's own process.

    The workers hold the GPUs, so all trials look equal to Tune, and Tune can pass this process from any trial to any other.
    The process runs on the driver's node if that has memory for `most` processes and a parked one. Then the loss of another node
    stops only the trials that have workers there.
    """
    here = ray.get_runtime_context().get_node_id()
    memory = next((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["NodeID"] == here), 0.0)
    beside = {"bundle_label_selector": [{"ray.io/node-id": here}]} if memory >= (most + 1) * DRIVER_BYTES else {}
    return PlacementGroupFactory([{"memory": DRIVER_BYTES}], **beside)


class SweepTrainable(tune.Trainable):
    """A trial of Tune. Its config holds `trial` (the name), `job` (a TrialJob) and `lease` (the workers)."""

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
            # A training error would occur again, so it ends the trial. A dead process raises, and the trial is retried.
            return {"failure": str(failure), "failure_kind": failure.kind, "traceback": failure.traceback}
        if report is None:
            return {"failure": "the training ended without a final report", "failure_kind": "error", "traceback": ""}
        sent = asdict(replace(report, examples=None))
        del sent["examples"]
        return {"report": sent, "examples": report.examples}
