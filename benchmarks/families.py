"""The families for comparing searches: modelled curves, published tables, records of this project's own sweeps, and any table.

    python benchmarks/families.py [NAME …]        # prints the properties of each family

The recorded tables are in `../shared/curves` beside the repository, or in the folder SCALESWEEP_CURVES. A family without its
table is skipped with a message on stderr. The README beside the tables lists their sources and licences.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from modelled import OVERFITTING, RANDOM, STEPS, overfitting_table, random_law

from scalesweep.errors import UserError, did_you_mean
from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.simulation.parametric import Family as Law
from scalesweep.simulation.simulator import Cluster
from scalesweep.simulation.source import Source
from scalesweep.simulation.table_files import read_table
from scalesweep.simulation.tables import TableSource
from scalesweep.spec import SweepSpec, load_sweep, sweep_from_dict
from scalesweep.spec.loading import read_yaml
from scalesweep.spec.metrics import goal_of
from scalesweep.spec.sweep import TIME_ATTRS

ROOT = Path(__file__).parents[1]
CURVES = Path(os.environ.get("SCALESWEEP_CURVES") or ROOT.parent / "shared" / "curves")
OWN = ROOT / "benchmarks" / "curves"  # records of this project's own sweeps
GPUS = 8
FULL_TRIALS = 40  # budget 1, in random configurations of median cost …
SHARE = 0.4  # … but at most this share of a table's configurations, because a search that runs all of them decides nothing
STARTUP_SECONDS, STARTUP_SHARE = 5.0, 0.02  # start-up of a trial; at most this share of the median trial's duration
TRIALS_PER_FULL = 3  # trials of a short sweep for each full trial of its budget, about what stock ASHA makes of one
TASKS = {"imdb_patch32_GRU128_bs128": "gru128", "imdb_patch32_LSTM128_bs128": "lstm128"}  # TaskSet's name → the name here


@dataclass(frozen=True)
class Setting:
    """The size of a sweep. With `trials`, every tool starts at most so many, and the budget is a third as many full trials of
    mean cost (as many where no trial can be stopped); otherwise `budget` is a factor on the family's GPU hours."""

    budget: float = 1.0
    workers: int = GPUS
    trials: int | None = None

    @property
    def label(self) -> str:
        size = f"budget {self.budget:g}" if self.trials is None else f"{self.trials} trials"
        return f"{size}, {self.workers} workers"


@dataclass
class Family:
    name: str
    spec: SweepSpec
    source: Source
    startup_seconds: float
    full_trial_gpu_hours: float  # of a random configuration, mean
    budget_gpu_hours: float  # budget 1
    trend: bool  # the best settings or the order of the sizes depend on the size
    real: bool  # recorded, not modelled
    data: str  # what the curves follow from

    @property
    def digest(self) -> str:
        """A hash that changes with the family's spec, curves and budget."""
        parts = (self.spec.model_dump_json(), self.data, self.startup_seconds, self.full_trial_gpu_hours, self.budget_gpu_hours)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def under(self, setting: Setting) -> tuple[SweepSpec, Cluster, float]:
        """The sweep without GPU counts that the cluster can't hold, the cluster, and the GPU hours to spend."""
        spec, cluster, space = self.spec, Cluster(setting.workers, self.startup_seconds), self.spec.search_space
        if (counts := space.parameters.get("num_gpus")) is not None and counts.values is not None:
            fitting = counts.model_copy(update={"values": [count for count in counts.values if count <= setting.workers]})
            space = space.model_copy(update={"parameters": {**space.parameters, "num_gpus": fitting}})
            spec = spec.model_copy(update={"search_space": space})
        if setting.trials is None:
            return spec, cluster, setting.budget * self.budget_gpu_hours
        full = setting.trials / (1 if spec.early_terminate.type == "none" else TRIALS_PER_FULL)
        return spec, cluster, full * self.full_trial_gpu_hours


@dataclass(frozen=True)
class Given:
    """A table that the user names, with its space and rungs. None: found from the table."""

    table: Path
    space: Path
    metric: str = "eval_loss"
    goal: str | None = None
    time_attr: str = "steps"
    max_t: float | None = None
    grace_period: float | None = None
    reduction_factor: float = 3

    def build(self) -> Family:
        """The family, named as the file.

        Raises:
            UserError: the table, the space or the rungs are wrong, or do not fit each other.
        """
        frame, attr = read_table(self.table), self.time_attr
        if self.goal is None and goal_of(self.metric) is None:
            raise UserError(f"the direction of {self.metric} is unknown", "add --goal minimize or --goal maximize")
        if attr not in frame and attr != "steps":
            raise UserError(f"{self.table}: the table has no column {attr}", did_you_mean(attr, map(str, frame.columns)))
        if attr not in TIME_ATTRS:  # such as epochs, counted as steps
            frame = frame.drop(columns="steps", errors="ignore").rename(columns={attr: "steps"})
            attr = "steps"
        space = read_yaml(self.space, "search space").data
        parameters = space.get("parameters") if isinstance(space, dict) else None
        early: dict[str, Any] = {"time_attr": attr, "type": "none", "max_t": self.max_t or 1}
        if attr in frame:
            of_run = [name for name in ("config", "seed", *(parameters or ())) if name in frame]
            runs = frame[frame[attr] > 0].groupby(of_run, dropna=False)[attr]
            first, last = float(runs.min().median()), float(runs.max().quantile(0.5, "lower"))
            early["max_t"] = self.max_t or last  # half of the runs or more reach it
            grace = self.grace_period or max(first, early["max_t"] / self.reduction_factor**3)
            if grace < early["max_t"]:
                early |= {"type": "asha", "grace_period": grace}
        name = re.sub(r"[^A-Za-z0-9._-]|^[._-]+", "-", self.table.name.partition(".")[0]).lstrip("-") or "table"
        metric = {"name": self.metric} | ({"goal": self.goal} if self.goal else {})
        return _table(name, frame, str(self.space), metric, {**early, "reduction_factor": self.reduction_factor}, trend=False)


def families(names: Sequence[str] | None = None) -> list[Family]:
    """Build the named families, by default all. A family without its table, or whose table does not fit its space, is skipped with
    a message on stderr.

    Raises:
        UserError: a name is unknown.
    """
    built, builders = [], all_builders()
    for name in names if names is not None else builders:
        if name not in builders:
            raise UserError(f"the family {name!r} does not exist", did_you_mean(name, builders))
        try:
            built.append(builders[name]())
        except (FileNotFoundError, UserError) as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return built


def draw(spec: SweepSpec, rng: np.random.Generator) -> dict[str, Any]:
    """A random configuration of the space."""
    params: dict[str, Any] = {}
    for name, parameter in spec.search_space.ordered():
        if not parameter.holds(params):
            continue
        choices = parameter.choices()
        low, high = parameter.min or 0, parameter.max or 0
        if choices is not None:
            params[name] = choices[rng.integers(len(choices))]
        elif parameter.kind == "int_uniform":
            params[name] = int(rng.integers(int(low), int(high) + 1))
        elif parameter.kind == "log_uniform_values":
            params[name] = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        else:
            params[name] = float(rng.uniform(low, high))
    return params


def full_trials(family_spec: SweepSpec, source: Source, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """GPU seconds and duration in seconds of random configurations that run to the end."""
    rng = np.random.default_rng(11)
    drawn = [draw(family_spec, rng) for _ in range(count)]
    gpu_seconds = np.array([source.curve(params, 0).gpu_seconds[-1] for params in drawn])
    return gpu_seconds, gpu_seconds / np.array([params.get("num_gpus", 1) for params in drawn])


def _family(name: str, spec: SweepSpec, source: Source, trend: bool, data: str, real: bool = True) -> Family:
    gpu_seconds, seconds = full_trials(spec, source)
    configs = len(source.configs) if isinstance(source, TableSource) else np.inf
    budget = min(FULL_TRIALS, SHARE * configs) * float(np.median(gpu_seconds)) / 3600
    startup = min(STARTUP_SECONDS, STARTUP_SHARE * float(np.median(seconds)))
    return Family(name, spec, source, startup, float(gpu_seconds.mean()) / 3600, budget, trend, real, data)


def _from_table(name: str, spec: SweepSpec, frame: pd.DataFrame, trend: bool, real: bool = True) -> Family:
    source = TableSource(frame, spec, efficiency=0.9, name=name)
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return _family(name, spec, source, trend, f"{[*frame]} {hashlib.sha256(rows.tobytes()).hexdigest()}", real)


# ---- modelled -----------------------------------------------------------------------------------------------------------


def _parametric(law: Law, without: Sequence[str] = ()) -> Family:
    data = family_spec(law)
    data["search_space"]["parameters"] = {
        name: value for name, value in data["search_space"]["parameters"].items() if name not in without
    }
    spec = sweep_from_dict(data)
    # In `crossing` the optimum and the final order follow size as in `trend`; only early reports mislead. In `poor_scaling`
    # too, which is `trend` with another cost of GPUs. `no_trend` shows the effect of a wrong assumption.
    return _family(law.name, spec, ParametricSource(law, spec), trend=law.name != "no_trend", data=repr(law), real=False)


def _overfitting(name: str) -> Family:
    """300 configurations, each trained with three seeds. The loss of many rises towards the end."""
    frame, parameters = overfitting_table(name)
    early = {"time_attr": "steps", "grace_period": STEPS // 24, "max_t": STEPS}
    # No trend: how much a size memorizes decides, and its settings.
    return _table(name, frame, parameters, {"name": "eval_loss"}, early, trend=False, real=False)


# ---- recorded -----------------------------------------------------------------------------------------------------------


def _table(
    name: str,
    frame: pd.DataFrame,
    space: dict[str, Any] | str,
    metric: dict[str, Any],
    early: dict[str, Any],
    trend: bool,
    real: bool = True,
) -> Family:
    """A family from a table; `frame` has the columns documented in `TableSource`. `space` has the parameters, or is a file."""
    data = {
        "name": name,
        "search_space": space if isinstance(space, str) else {"parameters": space},
        "metric": metric,
        "early_terminate": {"reduction_factor": 3, **early},
        "budget": {"run_cap": 10_000},
    }
    return _from_table(name, sweep_from_dict(data, foreign=True), frame, trend, real)


def _recorded(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no file {path.name}")
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def _log_range(column: pd.Series) -> dict[str, Any]:
    return {"distribution": "log_uniform_values", "min": float(column.min()), "max": float(column.max())}


def _listed(column: pd.Series) -> dict[str, Any]:
    return {"values": sorted(column.dropna().unique().tolist())}


def _sizes(frame: pd.DataFrame) -> dict[str, Any]:
    """The values of `model_size`, smallest first."""
    return {"values": frame.groupby("model_size").n_params.median().sort_values(kind="stable").index.tolist()}


def _steplaw() -> Family:
    """Pre-training from scratch. Every point is a separate run with a cosine schedule over its own tokens. No curves were
    published, so the runs of one (size, rate, batch) at 2 to 4 token budgets count as one curve. The value of a real run at a
    rung, where its rate is still high, would be worse."""
    frame = _recorded(CURVES / "steplaw" / "dense.parquet")
    frame["model_size"] = (frame.n_params / 1e6).round().astype(int).astype(str) + "m"
    frame["learning_rate"] = 2.0 ** (np.round(2 * np.log2(frame.lr)) / 2)  # a grid of half octaves with inconsistent rounding
    frame = frame.rename(columns={"batch_size_seqs": "global_batch_size"})
    frame["flops"] = 6.0 * frame.n_params * frame.tokens
    parameters = {
        "model_size": _sizes(frame),
        "learning_rate": _log_range(frame.learning_rate),
        "global_batch_size": _listed(frame.global_batch_size),
    }
    # The last cell of three sizes is at 1.288e20 FLOPs, that of the largest at 1.61e20 (interpolated). First cells are at
    # 1/25, 1/16, 1/6 and 1/4 of it, so the first rung of larger sizes is at more compute.
    early = {"time_attr": "flops", "grace_period": 4.77e18, "max_t": 1.2877e20}
    columns = [*parameters, "flops", "n_params", "smooth_loss"]
    # A trend: the best rate falls from 0.0078 (215M) to 0.0028 (537M), and at equal compute each larger size is better.
    return _table("steplaw", frame[columns], parameters, {"name": "smooth_loss"}, early, trend=True)


def _taskset(task: str) -> Family:
    """1,000 optimizer configurations on a small recurrent text classifier, without sizes. Some diverge."""
    configs = _recorded(CURVES / "taskset" / "configs.parquet")
    curves = _recorded(CURVES / "taskset" / f"curves_{task}.parquet")
    for beta in ("beta1", "beta2"):  # TaskSet draws the distance from 1 on a log scale
        configs[f"one_minus_{beta}"] = 1 - configs.pop(beta)
    frame = curves.merge(configs, on="config_id").rename(columns={"config_id": "config"})
    frame["steps"] = 200 * frame.point.astype(int)
    parameters = {name: _log_range(configs[name]) for name in configs if name != "config_id"}
    columns = [*parameters, "config", "steps", "valid_loss"]
    early = {"time_attr": "steps", "grace_period": 400, "max_t": 10_000}  # rungs at 400, 1,200 and 3,600
    return _table(f"taskset-{TASKS[task]}", frame[columns], parameters, {"name": "valid_loss"}, early, trend=False)


def _misfitting() -> Family:
    """91 pre-training runs of four small sizes. The length of the run is a parameter, and the fidelity is the share of the run
    in percent. Runs of 100 steps report only at their end."""
    frame = _recorded(CURVES / "misfitting" / "curves.parquet")
    frame["model_size"] = frame.model.str.removeprefix("misfitting_")
    frame["steps"] = 100 * frame.fraction
    frame = frame.rename(columns={"peak_lr": "learning_rate", "run_id": "config"})
    parameters = {
        "model_size": _sizes(frame),
        "learning_rate": _log_range(frame.learning_rate),
        "total_steps": _listed(frame.total_steps),
    }
    early = {"time_attr": "steps", "grace_period": 4, "max_t": 100}
    columns = [*parameters, "config", "steps", "n_params", "tokens", "c4_eval_loss"]  # they cost 6 × n_params × tokens
    # A trend: at equal length the larger size ends better from 500 steps on (in shorter runs it ends worse). The best rate
    # hardly moves: 0.004 or its neighbour everywhere.
    return _table("misfitting", frame[columns], parameters, {"name": "c4_eval_loss"}, early, trend=True)


def _rectified() -> Family:
    """The choice of one of 30 pretrained models for fine-tuning on FLAN. The model is the only parameter. The fidelity is the
    number of fine-tuning samples (counted as `tokens`), and each point is a separate run. The table's README warns of
    interpolated values, but this copy does not mark them."""
    frame = _recorded(CURVES / "rectified_finetuning" / "losses_flan.csv")
    frame = frame.rename(columns={"model": "model_size", "finetune_samples": "tokens"})
    frame["flops"] = 6.0 * frame.n_params * frame.tokens  # per token of a sample; only a constant factor is missing
    parameters = {"model_size": _sizes(frame)}
    early = {"time_attr": "tokens", "grace_period": 200 * 2**4, "max_t": 1_638_400}
    columns = ["model_size", "tokens", "flops", "n_params", "test_loss"]
    # No trend: from few samples larger models are better (Spearman −0.55), at the end size hardly matters (−0.17): the second
    # best has 223M parameters, and the largest, 6.7B, is the 22nd. Pretraining decides.
    return _table("rectified", frame[columns], parameters, {"name": "test_loss"}, early, trend=False)


def _routing() -> Family:
    """Mixtures of experts by size, experts and router. An easy case, because the order hardly changes during training."""
    frame = _recorded(CURVES / "routing" / "curves.parquet").dropna(subset=["loss_validation"])
    frame = frame.rename(
        columns={
            "hyper_id": "config",
            "step": "steps",
            "model_size_label": "model_size",
            "dense_parameter_count": "n_params",
        }
    )
    frame["flops"] = frame.flops_per_step * frame.steps
    routed = frame[frame.router_type != "Dense"]
    routers = {"router_type": sorted(routed.router_type.unique())}
    parameters = {
        "model_size": _sizes(frame),
        "router_type": _listed(frame.router_type),
        "num_experts": {**_listed(routed.num_experts), "when": routers},
        "k": {**_listed(routed.k), "when": routers},
        "routing_frequency": {**_listed(routed.routing_frequency), "when": routers},
    }
    early = {"time_attr": "steps", "grace_period": 10_000, "max_t": 249_000}
    columns = [*parameters, "config", "seed", "steps", "flops", "n_params", "loss_validation"]
    # A trend: with the same router and experts the next larger size is better in 86 to 100 % of cases.
    return _table("routing", frame[columns], parameters, {"name": "loss_validation"}, early, trend=True)


def _lora() -> Family:
    """LoRA fine-tuning of six Llama models of 1B to 70B: final values only, so each trial runs to the end. The cost is the wall
    clock, which the table rounds; a diverged run counts as long as the median run of its model."""
    frame = _recorded(CURVES / "lora_sft" / "results.csv")
    frame = frame[frame.n_params.notna()]  # their losses per token are of one tokenizer
    frame = frame.assign(model_size=frame.model.str.partition("/")[2])
    frame["gpu_seconds"] = 60 * frame.wall_minutes.fillna(frame.groupby("model_size").wall_minutes.transform("median"))
    parameters = {
        "model_size": _sizes(frame),
        "learning_rate": _log_range(frame.learning_rate),
        "lora_rank": _listed(frame.lora_rank),
    }
    columns = [*parameters, "n_params", "gpu_seconds", "test_nll"]
    # A trend: each larger size is better, and the best rate falls from 0.001 (1B and 3B) to 0.0003 (8B and 70B).
    early = {"type": "none", "time_attr": "steps", "max_t": 780}
    return _table("lora", frame[columns], parameters, {"name": "test_nll", "goal": "minimize"}, early, trend=True)


def _own(name: str) -> Family:
    """A random sweep over the space of one of this project's own, in which every trial ran to the end."""
    frame = _recorded(OWN / f"{name}.parquet")
    recorded = load_sweep(OWN / f"{name}-random.yaml")
    early = recorded.early_terminate
    first = float(frame[early.time_attr].min())
    early = early.model_copy(update={"type": "asha", "grace_period": max(first, early.max_t // 9), "reduction_factor": 3})
    return _from_table(name, recorded.model_copy(update={"name": name, "early_terminate": early}), frame, trend=False)


def all_builders() -> dict[str, Callable[[], Family]]:
    """The families by name."""
    laws = [random_law(number) for number in range(1, RANDOM + 1)]
    return {
        **{name: partial(_parametric, law) for name, law in FAMILIES.items()},
        **{law.name: partial(_parametric, law, without) for law, without in laws},
        **{name: partial(_overfitting, name) for name in OVERFITTING},
        "steplaw": _steplaw,
        **{f"taskset-{short}": partial(_taskset, task) for task, short in TASKS.items()},
        "misfitting": _misfitting,
        "rectified": _rectified,
        "routing": _routing,
        "lora": _lora,
        **{path.stem: partial(_own, path.stem) for path in sorted(OWN.glob("*.parquet"))},
    }


def describe(family: Family) -> str:
    """A row of the printed table."""
    rng = np.random.default_rng(12)
    finals = np.array([family.source.final(draw(family.spec, rng)) for _ in range(1000)])
    regrets = (finals - family.source.best) / (family.source.median - family.source.best)
    hours = full_trials(family.spec, family.source)[0] / 3600
    source = family.source
    configs = str(len(source.configs)) if isinstance(source, TableSource) else "∞"
    cost = f"{hours.min():.3g}/{np.median(hours):.3g}/{hours.max():.3g}"
    return (
        f"{family.name:20} {configs:>7} {len(family.spec.search_space.parameters):>6} {source.median:>8.4f} {source.best:>8.4f} "
        f"{np.mean(regrets < 0.05):>8.1%} {cost:>24} {family.budget_gpu_hours:>10.3g} {family.startup_seconds:>8.3g} "
        f"{'yes' if family.trend else 'no':>5}"
    )


def main() -> None:
    print(
        f"{'family':20} {'configs':>7} {'params':>6} {'median':>8} {'best':>8} {'<5 % off':>8} "
        f"{'GPU h: min/median/max':>24} {'budget':>10} {'start s':>8} {'trend':>5}"
    )
    for name in sys.argv[1:] or all_builders():
        for family in families([name]):
            print(describe(family), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
