"""What a budget buys, on generated sweeps of a known law and known speeds, where the right answer is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import refused, run
from records import make_manifest
from scalesweep.errors import UserError
from scalesweep.promotion.target import read_target
from scalesweep.record import Record
from scalesweep.record.schema import replay
from scalesweep.report.budget import sentences
from scalesweep.scaling.analysis import Analysis, analyse
from scalesweep.scaling.budget import Budget, BudgetPlan, Other, plan_budget, target_of
from scalesweep.scaling.recorded import points_of_records
from scalesweep.spec import load_sweep, sweep_from_dict

SIZES = {"L1": 1e6, "L2": 4e6, "L4": 1.6e7, "L6": 6.4e7}
STEPS = (100, 300, 900)
BATCH = 100.0  # tokens of a step
PASS = 60_000.0  # tokens of the train split
RATES = (2e-4, 4e-4, 8e-4)
EFFICIENCY = 0.8  # of a doubling of GPUs


def law(size: float, tokens: float) -> float:
    return 0.3 + 15 / size**0.3 + 20 / tokens**0.35


def speed(size: float, gpus: int) -> float:
    """Tokens per second: 1e10 FLOPs per second and GPU, 6 · size of a token."""
    return 1e10 / (6 * size) * gpus * EFFICIENCY ** math.log2(gpus)


def sweep(*told: Any, **more: Any) -> Record:
    return replay(*events_of(*told, **more))


def events_of(
    steps: int,
    noise: float = 0.002,
    of: Any = law,
    sizes: Sequence[str] = tuple(SIZES),
    before: float = 1.001,
    mode: str = "full",
    **resources: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the events of a finished sweep of one length: each size at three rates, one of them on two GPUs."""
    random = np.random.default_rng(steps)
    events: list[dict[str, Any]] = []
    number = 0
    for name in sizes:
        size, best = SIZES[name], 4e-4 * (SIZES[name] / 4e6) ** -0.5
        for rate, gpus in [(best * rate / 4e-4, gpus) for rate, gpus in zip(RATES, (1, 2, 1), strict=True)]:
            trial, tokens = f"t{number:04}", steps * BATCH
            end = of(size, tokens) * (1 + 0.02 * math.log(rate / best) ** 2) * math.exp(noise * random.standard_normal())
            params = {"model_size": name, "learning_rate": rate, "unfreezing": mode}
            config = {**params, "num_gpus": gpus, "adapter": "none", "global_batch_size": 4, "unfreeze_interval": 30}
            events.append({"event": "trial", "time": 1.0, "trial": trial, "number": number, "params": params, "config": config})
            for share, loss in ((0.3, 1.1 * end), (0.6, before * end), (1.0, end)):
                seconds = share * tokens / speed(size, gpus)
                events.append({
                    "event": "report", "time": 2.0, "trial": trial, "fidelity": share * steps, "step": share * steps,
                    "tokens": share * tokens, "flops": 6 * size * share * tokens, "wall_seconds": seconds + 5, "train_seconds": seconds,
                    "gpu_seconds": (seconds + 5) * gpus, "metrics": {"eval_loss": loss, "epoch": share * tokens / PASS},
                    "rungs": [1] if share == 1 else [], "action": "complete" if share == 1 else "continue", "reason": "max_t", "cutoff": None,
                })  # fmt: skip
            events.append({"event": "end", "time": 3.0, "trial": trial, "state": "COMPLETE", "reason": "max_t"})
            number += 1
    events.append({"event": "sweep_ended", "time": 4.0, "reason": "budget: run_cap"})
    made = make_manifest()
    entry = {"model": "/models/minilm", "min_gpus": None, "accelerator_type": None}
    ladder = [
        {**made["ladder"][0], "name": name, "n_params": SIZES[name], "layers": int(name[1:]), "entry": {"name": name, **entry}}
        for name in sizes
    ]
    spec = {
        **made["spec"],
        "data": {
            "path": "/data.csv",
            "text": "text",
            "label": "label",
            "splits": {"train": 0.8, "validation": 0.1, "test": 0.1},
        },
        "ladder": {"model": "/models/minilm", "layers": [int(name[1:]) for name in sizes]},
        "search_space": {
            "parameters": {
                "model_size": {"values": list(sizes)},
                "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
            }
        },
        "early_terminate": {"type": "none", "time_attr": "steps", "max_t": steps},
        "resources": {"dollars_per_gpu_hour": 2.0, **resources},
    }
    changes = {"name": f"s{steps}", "spec": spec, "ladder": ladder, "max_t": steps, "rungs": [], "rung_count": 1}
    return make_manifest(**changes), events


def plan(records: Sequence[Record], budget: Budget, **more: Any) -> BudgetPlan:
    return plan_budget(records, analyse(points_of_records(records)), budget, **more)


@cache
def known() -> tuple[list[Record], Analysis]:
    records = sweeps()
    return records, analyse(points_of_records(records))


def sweeps(**changes: Any) -> list[Record]:
    return [sweep(steps, **changes) for steps in STEPS]


def best_within(hours: float) -> float:
    """The least loss that the law allows for these GPU hours, over the sizes and up to four passes over the data."""
    return min(law(size, min(hours * 3600 * speed(size, 1), 4 * PASS)) for size in SIZES.values())


@pytest.mark.parametrize("hours", [0.01, 0.1, 0.5, 5.0])
def test_the_choice_is_the_best_that_the_law_allows(hours: float) -> None:
    found = plan_budget(*known(), Budget(gpu_hours=hours))
    choice = found.choice
    assert choice is not None
    assert choice.gpu_hours <= hours
    truth = law(choice.size.n_params, choice.tokens)
    assert truth <= 1.02 * best_within(hours)
    assert choice.predicted.run.low < truth < choice.predicted.run.high
    assert choice.seconds == pytest.approx(choice.tokens / speed(choice.size.n_params, choice.num_gpus), rel=1e-6)
    assert choice.dollars == pytest.approx(2 * choice.gpu_hours)
    assert choice.passes == pytest.approx(choice.tokens / PASS)
    assert max(row.passes for row in found.frontier) <= 4  # the data support no more
    losses = [row.predicted.law.value for row in found.frontier]
    costs = [row.cost for row in found.frontier]
    assert losses == sorted(losses, reverse=True)
    assert costs == sorted(costs)


def test_a_deadline_buys_more_gpus_and_a_budget_in_dollars_counts_prices() -> None:
    unhurried, hurried = (plan_budget(*known(), Budget(dollars=4, deadline=limit)).choice for limit in (None, 900))
    assert unhurried is not None
    assert hurried is not None
    assert unhurried.num_gpus == 1
    assert hurried.num_gpus == 2
    assert hurried.seconds <= 900
    assert hurried.cost <= 4
    dear = plan_budget(*known(), Budget(dollars=4), prices={"default": 20.0}).choice
    assert dear is not None
    assert dear.gpu_hours <= 0.2
    with pytest.raises(UserError, match="the cheapest is L1 on 1 GPU"):
        plan_budget(*known(), Budget(gpu_hours=1e-5))


def test_a_size_above_the_ladder_costs_by_its_flops_and_takes_the_trend_of_the_rate() -> None:
    found = plan_budget(*known(), Budget(gpu_hours=100), others=[Other("big", 2.56e8)], max_gpus=16)
    choice = found.choice
    assert choice is not None
    assert choice.size.name == "big"
    assert choice.seconds == pytest.approx(choice.tokens / speed(2.56e8, choice.num_gpus), rel=1e-6)
    inside = plan_budget(*known(), Budget(gpu_hours=100)).choice
    assert inside is not None
    low, high = choice.predicted.run.low, choice.predicted.run.high
    assert low < law(2.56e8, choice.tokens) < high
    assert high - low > inside.predicted.run.high - inside.predicted.run.low
    assert found.settings["learning_rate"] == pytest.approx(4e-4 * (2.56e8 / 4e6) ** -0.5, rel=0.3)
    assert any("its size is 4 times the largest" in line for line in sentences(found))
    assert any("memory: at least 3.8 GiB on every GPU" in line for line in sentences(found))
    assert [row.num_gpus for row in found.counts] == [1, 2, 4, 8, 16]
    left = plan(sweeps(gpu_memory_gib=2.0), Budget(gpu_hours=100), others=[Other("big", 2.56e8)])
    assert left.choice is not None
    assert left.choice.size.name == "L6"
    assert "left out: big, which needs 4 GiB" in left.remarks[0]


def test_embeddings_do_not_count_in_a_plan() -> None:
    """With lookup tables as large as the smallest model twice, the choice, its size and its target stay the same."""
    records = sweeps()
    for record in records:
        rows = [{**size.json, "n_params": size.n_params + 2e6, "n_params_embedding": 2e6} for size in record.manifest.ladder]
        record.manifest = type(record.manifest)({**record.manifest, "ladder": rows})
    found, plain = plan(records, Budget(gpu_hours=0.5)), plan_budget(*known(), Budget(gpu_hours=0.5))
    assert found.choice is not None
    assert plain.choice is not None
    assert (found.choice.size.n_params, found.choice.tokens) == (plain.choice.size.n_params, plain.choice.tokens)
    assert found.choice.gpu_hours == pytest.approx(plain.choice.gpu_hours)
    assert target_of(found) == target_of(plain)


def test_a_cadence_is_carried_over_as_a_share_of_the_run() -> None:
    found = plan([sweep(300, mode="gradual")], Budget(gpu_hours=1))
    assert found.settings == {"unfreeze_cadence": "fraction", "unfreeze_fraction": 0.1}
    assert "every 0.1 of the run" in found.said[0]


def test_runs_that_noise_hides_are_not_worth_more_money() -> None:
    """A law that has almost reached its floor: the cheapest of the runs that look alike is named."""
    found = plan(sweeps(noise=0.02, of=lambda size, tokens: 0.3 + 3 / size**0.3 + 60 / tokens**0.6), Budget(gpu_hours=5))
    assert found.choice is not None
    assert found.cheapest is not None
    assert found.cheapest.cost < 0.3 * found.choice.cost
    assert any("can't separate it from" in line for line in sentences(found))


def test_where_no_law_can_be_fitted_a_sweep_comes_first_that_plan_accepts() -> None:
    found = plan([sweep(900, sizes=("L4", "L6"))], Budget(gpu_hours=1))
    assert found.choice is None
    assert found.first is not None
    assert "n_params has 2 of the 3 values" in found.first.reasons[0]
    further = found.first.further
    assert further is not None
    spec = sweep_from_dict(further.spec)
    assert spec.early_terminate.max_t == 900
    assert further.missing  # two blocks of 24 million parameters leave no smaller cut
    named = plan([sweep(900, sizes=("L4", "L6"))], Budget(gpu_hours=1), others=[Other("small", 1e7, "/models/small")])
    assert named.first is not None
    assert named.first.further is not None
    assert "small" in [size.name for size in sweep_from_dict(named.first.further.spec).sizes()]
    assert not named.first.further.missing
    short = plan([sweep(300, before=1.2)], Budget(gpu_hours=1))  # trials that were still improving
    assert short.first is not None
    assert short.first.further is not None
    assert sweep_from_dict(short.first.further.spec).early_terminate.max_t == 900


def test_where_the_intervals_cover_every_run_a_sweep_of_more_trials_comes_first() -> None:
    found = plan([sweep(900, noise=0.1)], Budget(gpu_hours=5))
    assert found.first is not None
    assert "can't separate the best run" in found.first.reasons[0]
    assert found.first.further is not None
    assert sweep_from_dict(found.first.further.spec).search.seed == 1
    assert found.first.gpu_hours == pytest.approx(8 * sum(90_000 / speed(size, 1) for size in SIZES.values()) / 3600, rel=0.3)


def test_the_command_writes_the_target_or_the_sweep(tmp_path: Path) -> None:
    for steps in STEPS:
        manifest, events = events_of(steps)
        (tmp_path / f"s{steps}").mkdir()
        (tmp_path / f"s{steps}" / "sweep.json").write_text(json.dumps(manifest))
        (tmp_path / f"s{steps}" / "record.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    runs = [f"s{steps}" for steps in STEPS]
    done = run(
        "plan", "--from", *runs, "--budget", "$3", "--price", "H100=2.5", "--write", "target.yaml", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    choice = json.loads(done.stdout)["choice"]
    assert 0 < choice["dollars"] <= 3
    assert choice["dollars"] == pytest.approx(2.5 * choice["gpu_hours"])
    target = read_target(tmp_path / "target.yaml")
    assert (target.model_size, target.tokens) == (choice["model_size"], choice["tokens"])
    assert f"scalesweep promote {target.sweep} --target target.yaml" in done.stderr

    shown = run("plan", "--from", *runs, "--budget", "50 gpu-hours", "--deadline", "12h", "--size", "70b=70B", cwd=tmp_path)
    assert re.search(r"^L6 .*  best", shown.stdout, re.M), shown.stdout
    assert "70b" not in shown.stdout.partition("best")[0]
    manifest, events = events_of(900, sizes=("L4", "L6"))
    (tmp_path / "s900" / "sweep.json").write_text(json.dumps(manifest))
    (tmp_path / "s900" / "record.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    first = run("plan", "--from", "s900", "--budget", "1 gpu-hour", "--write", "sweep.yaml", cwd=tmp_path)
    assert first.returncode == 3
    assert "run another sweep first" in first.stdout
    assert load_sweep(tmp_path / "sweep.yaml").name == "s900-further"
    for budget in ("5", "5 euros", "0 dollars"):
        assert "this is no budget" in refused("plan", "--from", "s900", "--budget", budget, cwd=tmp_path)
    unknown = refused("plan", "--from", *runs, "--budget", "$3", "--size", "7b=Qwen/Qwen2.5-7B", cwd=tmp_path)
    assert "s100: the record does not tell its classes" in unknown
    assert "number of parameters in place of a checkpoint: --size 7b=7e9" in unknown
    assert "needs --from" in refused("plan", "--budget", "$5", cwd=tmp_path)
    assert "needs a limit" in refused("plan", "--from", "s900", cwd=tmp_path)
    assert "Missing argument 'SWEEP.yaml'" in refused("plan")
