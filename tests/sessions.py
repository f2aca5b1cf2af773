"""A sweep's driver as a process of its own, on this machine or on a cluster of `nodes`: watched, killed, started again."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from intact import events_of
from nodes import Cluster, kill_family
from sweeps import sweep_dict

CLI = [sys.executable, "-m", "scalesweep.cli"]
EARLY = {"type": "asha", "time_attr": "steps", "grace_period": 16, "max_t": 48, "reduction_factor": 3}
ONE_GPU = {
    "parameters": {
        "model_size": {"values": ["L1", "L2"]},
        "unfreezing": {"values": ["head", "gradual"]},  # small checkpoints
        "unfreeze_interval": {"value": 20},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3},
    }
}


def spec_at(folder: Path, **changes: Any) -> Path:
    """A sweep that `intact.check` can judge: trials report every 8 of at most 48 steps, twice at least."""
    path = folder / "tiny.yaml"
    wanted: dict[str, Any] = {
        "early_terminate": EARLY,
        "training__": {"eval_interval": 8},
        "resources": {"max_failures": 100},
        "search": {"sampler": "random"},
    }
    path.write_text(yaml.safe_dump(sweep_dict(**{**wanted, **changes})))
    return path


class Session:
    """A sweep on a cluster, where its driver runs on the head, or else on this machine, on one logical GPU."""

    def __init__(
        self,
        cluster: Cluster | None,
        folder: Path,
        run_dir: Path | None = None,
        env: dict[str, str] | None = None,
        **changes: Any,
    ) -> None:
        self.cluster, self.folder, self.run_dir = cluster, folder, run_dir or folder / "run"
        self.env = {"WANDB_MODE": "disabled", **(env or {})}
        self.said = (folder / "said.txt").open("a+")
        self.driver = self._start("launch", str(spec_at(folder, **changes)), "--run-dir", str(self.run_dir))

    def _start(self, *words: str, cli: Sequence[str] = CLI) -> subprocess.Popen[str]:
        if self.cluster is not None:
            command = [*cli, *words, "--address", self.cluster.address]
            return self.cluster.popen(command, stdout=self.said, stderr=self.said, env=self.env)
        command = [*cli, *words, "--num-gpus", "1"]
        return subprocess.Popen(command, stdout=self.said, stderr=self.said, env={**os.environ, **self.env}, text=True)

    def resume(self, cli: Sequence[str] = CLI) -> None:
        self.driver = self._start("resume", str(self.run_dir), cli=cli)

    def kill_driver(self) -> None:
        kill_family(self.driver)

    def text(self) -> str:
        """Everything that the driver has printed."""
        return (self.folder / "said.txt").read_text()

    def count(self, *kinds: str) -> int:
        return sum(event["event"] in kinds for event in events_of(self.run_dir))

    def wait(self, condition: Callable[[], Any], seconds: float = 240) -> Any:
        """Until something holds. The driver must not end meanwhile."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert self.driver.poll() is None, self.text()
            assert time.monotonic() < until, self.text()
            time.sleep(0.1)
        return found

    def wait_for_reports(self, count: int) -> None:
        self.wait(lambda: self.count("report") >= count)

    def end(self, seconds: float = 600) -> int | None:
        """The driver's exit code; None if it does not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.driver.wait(seconds)
        return self.driver.poll()

    def finish(self) -> None:
        assert self.end() == 0, self.text()
        assert "Traceback" not in self.text()
