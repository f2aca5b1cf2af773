"""Two hundred short trials of mixed shapes in one session leave the machine as they found it.

Memory differs too much from sample to sample for fewer trials to show a leak: with fewer, all else is compared.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import psutil
import pytest

from soaking import growth, soak

TRIALS = int(os.environ.get("SCALESWEEP_SOAK_TRIALS", "200"))
ENOUGH = 200  # for memory


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_trials_leak_nothing(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    segments = set(Path("/dev/shm").iterdir())
    record, samples = soak(tmp_path, TRIALS, memory=TRIALS >= ENOUGH)
    states = Counter(str(trial.state) for trial in record.trials.values())
    assert sum(states.values()) == TRIALS
    assert set(states) <= {"COMPLETE", "PRUNED"}, states
    assert {trial.config["num_gpus"] for trial in record.trials.values()} == {1, 2}
    events = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    yields = sum(event["event"] == "yielded" for event in events)
    assert yields > 0
    assert sum(trial.attempts for trial in record.trials.values()) == TRIALS + yields, "only who gave way begins again"

    settled = [sample for sample in samples if sample.trials >= 20]
    # Ray keeps a spare process at times, and lets it go: what leaks goes up and stays.
    assert growth([float(sample.processes) for sample in settled]) <= 0, samples
    assert settled[-1].shared_segments <= settled[0].shared_segments, samples
    if TRIALS >= ENOUGH:
        assert growth([sample.worker_megabytes for sample in settled]) < 0.05, samples
        assert growth([sample.megabytes for sample in settled]) < 0.05, samples
    # What a trial has open it closes: the number goes up and down with what runs, and not up alone.
    assert growth([float(sample.files) for sample in settled]) < 0.05, samples
    assert growth([float(sample.sockets) for sample in settled]) < 0.05, samples

    left = {process.pid for process in psutil.Process().children(recursive=True) if process.status() != psutil.STATUS_ZOMBIE}
    assert left <= before, "processes outlive the sweep"
    assert set(Path("/dev/shm").iterdir()) <= segments, "shared memory outlives the sweep"
