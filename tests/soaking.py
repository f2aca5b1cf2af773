"""Many short trials of mixed shapes in one session, and what the machine looks like meanwhile: for the soak test and the benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scalesweep.record import Record
from scalesweep.spec import sweep_from_dict
from scalesweep.sweep.launch import launch
from scalesweep.sweep.preflight import preflight
from sweeps import sweep_dict


@dataclass
class Sample:
    """The whole family of processes: this one, Ray's, the trials' and the workers'."""

    trials: int
    megabytes: float  # proportional set size: what is shared is divided among those that share it
    worker_megabytes: float
    processes: int
    files: int  # open file descriptors of the workers
    sockets: int
    shared_segments: int  # files in /dev/shm


def sample(trials: int, memory: bool) -> Sample:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    total = workers = 0.0
    files = sockets = alive = 0
    for process in family:
        try:
            size = process.memory_full_info().pss / 2**20 if memory else 0.0  # to ask for it takes long
            alive += 1
            total += size
            if "ray::Rank" in " ".join(process.cmdline()):
                workers += size
                files += process.num_fds()
                sockets += len(process.net_connections())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return Sample(trials, total, workers, alive, files, sockets, len(list(Path("/dev/shm").iterdir())))


@dataclass
class Watch:
    """A sink that takes a sample with every second trial; without the memory, with every one."""

    memory: bool = True
    samples: list[Sample] = field(default_factory=list)
    ended: int = 0

    def handle(self, event: dict[str, Any], record: Record) -> None:  # noqa: ARG002
        if event["event"] == "end":
            self.ended += 1
            if self.ended % 2 == 0 or not self.memory:
                self.samples.append(sample(self.ended, self.memory))

    def close(self, record: Record) -> None: ...


def soak(folder: Path, trials: int, memory: bool = True) -> tuple[Record, list[Sample]]:
    """Run so many trials on two logical GPUs: both counts, two sizes, every way of unfreezing."""
    space = {
        "model_size": {"values": ["L1", "L2"]},
        "num_gpus": {"values": [1, 2]},
        "unfreezing": {"values": ["full", "head", "gradual", "lp_ft"]},
        "unfreeze_interval": {"min": 1, "max": 3, "when": {"unfreezing": ["gradual", "lp_ft"]}},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-3},
        "dropout": {"min": 0.0, "max": 0.2},
    }
    spec = sweep_from_dict(
        sweep_dict(
            search_space={"parameters": space},
            early_terminate={"type": "asha", "time_attr": "steps", "grace_period": 3, "max_t": 9, "reduction_factor": 3},
            training={"global_batch_size": 16, "eval_interval": 3},
            budget={"run_cap": trials},
            search={"sampler": "random"},
        )
    )
    watch = Watch(memory)
    record = launch(preflight(spec, 2, Path.cwd()), folder / "run", None, 2, sinks=[watch])
    return record, watch.samples


def occupancy(run_dir: Path, slots: int) -> float:
    """Share of the workers' time that trials held them, from the first start to the last: trials were waiting all along."""
    events = [json.loads(line) for line in (run_dir / "record.jsonl").read_text().splitlines()]
    starts = [event["time"] for event in events if event["event"] == "start"]
    held = dict[str, tuple[float, int]]()
    busy, counts = 0.0, {}
    for event in events:
        if event["event"] == "trial":
            counts[event["trial"]] = event["config"]["num_gpus"]
        elif event["event"] == "start":
            held[event["trial"]] = (event["time"], counts[event["trial"]])
        elif event["event"] in ("end", "died", "yielded") and event["trial"] in held:
            since, count = held.pop(event["trial"])
            busy += max(0.0, min(event["time"], max(starts)) - since) * count
    return busy / (slots * (max(starts) - min(starts)))


def growth(values: list[float]) -> float:
    """The relative growth from the least of the first quarter to the least of the last.

    What leaks lifts every sample; what runs while one is taken lies on top of some. A worker takes a sixth more in a trial than
    between two, so a median jumps with how many of its samples met a trial. A quarter wants twenty samples or more.
    """
    quarter = max(1, len(values) // 4)
    return min(values[-quarter:]) / min(values[:quarter]) - 1
