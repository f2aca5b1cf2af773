"""Time of a sweep's driver per trial, and its growth with the number of trials, compared with stock Ray Tune.

    python benchmarks/driver.py [--json] [--trials 5000] [--seconds 0] [--only METHOD]

Trials with one report that do nothing (or sleep for `--seconds`) run on a local Ray with 32 logical GPUs, one GPU each. First
scalesweep's driver runs them, with the record on disk and the study in its journal as in a launch, then stock Ray Tune with a
random search over as many parameters. The last line of output is JSON.

`driver_ms` is processor time of the driving process per trial. It does not include Ray's own processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from scalesweep.control.conductor import Conductor
from scalesweep.record import Record, RecordWriter
from scalesweep.record.schema import SCHEMA_VERSION
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, manifest
from scalesweep.simulation.parametric import family_spec
from scalesweep.spec import SweepSpec, sweep_from_dict

GPUS = 32
PARTS = 10  # of the run, that are compared with each other


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Meter:
    """Called at the end of each trial; records the driver's processor time at every tenth of the run."""

    def __init__(self, trials: int) -> None:
        self.trials, self.ended = trials, 0
        self.began = time.monotonic()
        self.marks = [time.process_time()]
        self.memory = [psutil.Process().memory_info().rss / 2**20]

    def end(self) -> None:
        self.ended += 1
        if self.ended * PARTS // self.trials > len(self.marks) - 1:
            self.marks.append(time.process_time())
            self.memory.append(psutil.Process().memory_info().rss / 2**20)
            say(
                f"  {self.ended} trials, {time.monotonic() - self.began:.0f} s, {self.each()[-1]:.1f} ms of the driver per trial"
            )

    def each(self) -> list[float]:
        """Milliseconds per trial, in each part."""
        return [1e3 * (b - a) * PARTS / self.trials for a, b in zip(self.marks, self.marks[1:], strict=False)]

    def figures(self) -> dict[str, Any]:
        each = self.each()
        half = len(each) // 2
        return {
            "trials": self.ended,
            "driver_ms": statistics.mean(each),
            "driver_ms_by_part": [round(one, 2) for one in each],
            "growth": statistics.mean(each[half:]) / statistics.mean(each[:half]) - 1,
            "memory_mib": [round(one) for one in (self.memory[0], self.memory[-1])],
            "trials_per_second": self.ended / (time.monotonic() - self.began),
        }


def _trainable(stock: bool, seconds: float) -> type:
    from ray import tune

    class Trivial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None: ...

        def reset_config(self, new_config: dict[str, Any]) -> bool:  # noqa: ARG002
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
            return {}

        def step(self) -> dict[str, Any]:
            time.sleep(seconds)
            if stock:
                return {"eval_loss": 1.0, "done": True}
            return {"report": {"fidelity": 1, "step": 1, "tokens": 0, "flops": 0.0, "metrics": {"eval_loss": 1.0}}}

    return Trivial


def space(trials: int) -> SweepSpec:
    document = family_spec("trend")
    document["search_space"]["parameters"]["num_gpus"] = {"values": [1]}
    early = {"type": "asha", "time_attr": "steps", "grace_period": 1, "max_t": 1}
    return sweep_from_dict(
        {**document, "budget": {"run_cap": trials}, "search": {"sampler": "random"}, "early_terminate": early}
    )


def ours(trials: int, seconds: float, folder: Path) -> dict[str, Any]:
    from scalesweep.sweep.bridge import run_tune
    from scalesweep.sweep.study import new_study_storage
    from scalesweep.sweep.trainable import placement

    spec = space(trials)
    writer = RecordWriter(folder / "run", {"schema_version": SCHEMA_VERSION, "name": "trivial", **manifest(spec, {})})
    meter = Meter(trials)
    waits: list[float] = []

    class Ends:
        def handle(self, event: dict[str, Any], record: Record) -> None:
            if event["event"] == "start":
                waits.append(event["time"] - record.trials[event["trial"]].created)
            if event["event"] == "end":
                meter.end()

        def close(self, record: Record) -> None: ...

    proposer = Proposer(spec, new_study_storage(folder / "run" / "study.log"))
    conductor = Conductor(spec, writer, proposer, lambda: GPUS, Everywhere(), time.time, [Ends()])
    decided: list[float] = []
    report = conductor.report

    def timed(*args: Any, **kwargs: Any) -> bool:
        began = time.perf_counter()
        goes_on = report(*args, **kwargs)
        decided.append(time.perf_counter() - began)
        return goes_on

    conductor.report = timed  # type: ignore[method-assign]
    run_tune(conductor, _trainable(False, seconds), placement(GPUS), lambda trial: {"trial": trial.name}, str(folder / "tune"))
    writer.close()
    return meter.figures() | {"decision_ms": 1e3 * statistics.median(decided), "decision_worst_ms": 1e3 * max(decided)}


def stock(trials: int, seconds: float, folder: Path) -> dict[str, Any]:
    from ray import tune

    meter = Meter(trials)

    class Ends(tune.Callback):
        def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
            meter.end()

    parameters = space(trials).search_space.parameters
    drawn = {name: tune.uniform(0.0, 1.0) for name in parameters}
    tune.Tuner(
        tune.with_resources(_trainable(True, seconds), {"gpu": 1}),
        param_space=drawn,
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, metric="eval_loss", mode="min"),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "stock"), verbose=0, callbacks=[Ends()]),
    ).fit()
    return meter.figures()


METHODS: dict[str, Callable[[int, float, Path], dict[str, Any]]] = {"scalesweep": ours, "stock Tune": stock}


def run(method: str, trials: int, seconds: float) -> dict[str, Any]:
    import ray

    from scalesweep.sweep.launch import TUNE_SETTINGS

    os.environ.update(TUNE_SETTINGS if method == "scalesweep" else {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"})
    say(method)
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local", num_cpus=GPUS, num_gpus=GPUS, include_dashboard=False, log_to_driver=False,
            object_store_memory=200 * 1024**2, _memory=100 * 1024**3,
        )  # fmt: skip
        try:
            return METHODS[method](trials, seconds, Path(folder))
        finally:
            ray.shutdown()
            for key in TUNE_SETTINGS:
                os.environ.pop(key, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=0.0, help="sleep of a trial")
    parser.add_argument("--only", choices=list(METHODS))
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    options = parser.parse_args()
    result: dict[str, Any] = {"gpus": GPUS, "seconds": options.seconds}
    for method in [options.only] if options.only else METHODS:
        result[method] = run(method, options.trials, options.seconds)
    if not options.json:
        for method in METHODS.keys() & result.keys():
            row = result[method]
            print(
                f"{method:12} {row['driver_ms']:.1f} ms of the driver per trial ({row['growth']:+.0%} in the second half), "
                f"{row['memory_mib'][0]} → {row['memory_mib'][1]} MiB, {row['trials_per_second']:.1f} trials/s"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
