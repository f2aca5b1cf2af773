"""Simulated sweeps: budgets, seeds, variants on one scale, and errors for wrong sources."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from scalesweep.errors import UserError
from scalesweep.record import Past, RecordWriter, State
from scalesweep.report.simulation import print_simulation
from scalesweep.simulation.driver import SweepDriver, manifest
from scalesweep.simulation.parametric import family_spec
from scalesweep.simulation.run import (
    DEFAULT_TRIALS,
    Options,
    Outcome,
    SeedRun,
    Simulation,
    _random_params,
    budget_of,
    open_variants,
    run_simulation,
)
from scalesweep.simulation.simulator import Clock, Cluster, Run, simulate
from scalesweep.spec import SweepSpec, sweep_from_dict
from sweeps import sweep_dict

SMALL = Options(workers=4, seeds=2, gpu_hours=2.0)


@pytest.fixture(scope="module")
def trend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trend") / "trend.yaml"
    data = family_spec("trend")
    data["early_terminate"] |= {"variant": "stopping", "survival": "metric"}
    path.write_text(yaml.safe_dump({**data, "search": {"sampler": "random"}}), encoding="utf-8")
    return path


def ran(path: Path, options: Options = SMALL, curves: str = "family:trend", **how: Any) -> Simulation:
    variants = open_variants(path, curves, **how)
    return run_simulation(variants, curves, options)


def told(simulation: Simulation) -> list[list[Any]]:
    """The results that must be equal in each run: everything except the time for decisions."""
    runs = [seed.run for outcome in simulation.outcomes for seed in outcome.seeds]
    return [
        [run.pick, run.trials, run.reports, run.makespan_hours, run.regret.tolist(), run.wall_hours.tolist()] for run in runs
    ]


# ---- budgets and seeds --------------------------------------------------------------------------------------------------------


def test_a_seed_always_gives_the_same_and_another_one_another(trend: Path) -> None:
    once = ran(trend)
    assert str(told(once)) == str(told(ran(trend)))
    assert told(once)[0][0] != told(once)[1][0]
    moved = ran(trend, overrides=["search.seed=1"])
    assert [seed.seed for seed in moved.outcomes[0].seeds] == [1, 2]
    assert str(told(moved)[0]) == str(told(once)[1])


def test_names_of_the_user_are_printed_as_they_are(
    trend: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_simulation(replace(ran(trend), curves="runs/[old]/[/x] :x:", notes=["[/misc] is in no run"]))
    text = capsys.readouterr().out
    assert "runs/[old]/[/x] :x: (simulated)" in text
    assert "[/misc] is in no run" in text


def test_processes_change_nothing(trend: Path) -> None:
    done: list[tuple[int, int]] = []
    variants = open_variants(trend, "family:trend")
    both = run_simulation(variants, "family:trend", replace(SMALL, processes=2), lambda *at: done.append(at))
    assert str(told(both)) == str(told(ran(trend)))
    assert done == [(1, 2), (2, 2)]


def test_gpu_hours_end_it_to_the_second(trend: Path) -> None:
    for seed in ran(trend).outcomes[0].seeds:
        assert seed.run.spent_gpu_hours == 2.0
        assert seed.run.makespan_hours == pytest.approx(seed.run.wall_hours[-1])
        assert seed.run.makespan_hours >= 2.0 / 4 - 1e-9
        assert seed.run.occupancy == pytest.approx(2.0 / 4 / seed.run.makespan_hours)
        assert 0 < seed.run.occupancy <= 1
        assert seed.unfinished > 0


def test_a_run_cap_ends_it_before(trend: Path) -> None:
    for seed in ran(trend, replace(SMALL, gpu_hours=100), overrides=["budget.run_cap=6"]).outcomes[0].seeds:
        assert seed.run.trials == 6
        assert seed.unfinished == 0
        assert seed.complete + seed.stopped + seed.diverged == 6
        assert seed.run.spent_gpu_hours < 100
        assert seed.run.wall_hours[-1] == seed.run.makespan_hours  # the pick stays


def test_what_waits_at_a_rung_when_nothing_is_left_to_do_was_stopped_there(trend: Path) -> None:
    how = ["budget.run_cap=12", "early_terminate.variant=promotion"]
    for seed in ran(trend, replace(SMALL, gpu_hours=100), overrides=how).outcomes[0].seeds:
        assert seed.run.spent_gpu_hours < 100
        assert (seed.unfinished, seed.complete + seed.stopped + seed.diverged) == (0, 12)
        assert 0 < seed.promoted < seed.stopped
    for seed in ran(trend, replace(SMALL, gpu_hours=1), overrides=how[1:]).outcomes[0].seeds:  # here it could continue
        assert seed.unfinished > 4  # more than there are GPUs


def test_a_budget_of_time_holds_on_the_virtual_clock(trend: Path) -> None:
    seeds = ran(trend, replace(SMALL, gpu_hours=100), overrides=["budget.time=20m"]).outcomes[0].seeds
    for seed in seeds:
        assert 1 / 3 <= seed.run.makespan_hours < 1  # trials end at their next report
        assert seed.run.spent_gpu_hours <= 4 * seed.run.makespan_hours + 1e-9


def test_dead_trials_go_on_and_cost_more(trend: Path) -> None:
    capped = {"overrides": ["budget.run_cap=6", "resources.max_failures=99"], "options": replace(SMALL, gpu_hours=100)}
    calm = ran(trend, **capped).outcomes[0]
    wild = ran(trend, **{**capped, "options": replace(SMALL, gpu_hours=100, failures_per_gpu_hour=3)}).outcomes[0]
    assert wild.mean(lambda seed: seed.run.spent_gpu_hours) > calm.mean(lambda seed: seed.run.spent_gpu_hours)


def test_the_budget_is_that_of_the_sweep_or_fifty_median_trials(trend: Path) -> None:
    own = open_variants(trend, "family:trend", ["budget.gpu_hours=3"])[0]
    assert budget_of(own.spec, own.source, Options())[0] == 3
    assert budget_of(own.spec, own.source, Options(gpu_hours=7))[0] == 7
    free = open_variants(trend, "family:trend")[0]
    hours, why = budget_of(free.spec, free.source, Options())
    assert str(DEFAULT_TRIALS) in why
    # 2430 steps of 64 × 512 tokens on 70e6 … 1.4e9 parameters at 1e14 FLOPs a GPU second, on one GPU and in full at most.
    full = [6 * n * 2430 * 64 * 512 / 1e14 / 3600 for n in (70e6, 1.4e9)]
    assert DEFAULT_TRIALS * full[0] / 3 < hours < DEFAULT_TRIALS * full[1]


def test_earlier_trials_cost_what_the_curves_ask_and_a_budget_for_none_is_said(trend: Path) -> None:
    cold = open_variants(trend, "family:trend", ["search.sampler=forecast"])[0]
    params = _random_params(cold.spec, np.random.default_rng(0))
    warm = replace(cold, past=(Past("a/t0000", params, ((90.0, 3.0, 1e9), (270.0, 2.9, 3e9)), State.PRUNED),))
    simulation = run_simulation([warm], "family:trend", replace(SMALL, seeds=1, gpu_hours=0.2))
    assert simulation.outcomes[0].seeds[0].run.trials > 1
    assert not simulation.outcomes[0].seeds[0].silent
    reasons = {"no trial started: nothing that fits the budget": warm, "the budget was spent before the first report": cold}
    for reason, variant in reasons.items():
        simulation = run_simulation([variant], "family:trend", replace(SMALL, gpu_hours=1e-5))
        assert f"seeds 0, 1: {reason}" in simulation.notes[0]
        assert "--startup (a trial takes 5 s" in simulation.notes[0]


def test_too_few_workers_for_the_space(trend: Path) -> None:
    with pytest.raises(UserError, match="4 is above the 2 GPUs") as caught:
        ran(trend, replace(SMALL, workers=2))
    assert caught.value.hint == "simulate a larger cluster: --workers 4"


# ---- variants -----------------------------------------------------------------------------------------------------------------


def test_variants_run_beside_the_sweep_on_one_scale(trend: Path) -> None:
    against = ["early_terminate.grace_period=810,early_terminate.survival=pareto", "search.n_startup_trials=3"]
    simulation = ran(trend, against=against)
    assert [outcome.label for outcome in simulation.outcomes] == [
        "grace_period=90, survival=metric, n_startup_trials=10",
        "grace_period=810, survival=pareto",
        "n_startup_trials=3",
    ]
    first, second, third = simulation.outcomes
    alone = ran(trend)
    assert str(told(alone)) == str(told(simulation)[:2])
    assert str(told(simulation)[4:]) == str(told(alone))  # random trials have no start-up
    assert second.settings == ("early_terminate.grace_period=810", "early_terminate.survival=pareto")
    value, regret = second.seeds[0].run.best[-1], second.seeds[0].run.regret[-1]
    assert regret == pytest.approx((value - simulation.best) / (simulation.median - simulation.best))
    assert first.seeds[0].run.trials > second.seeds[0].run.trials  # its trials stop later
    assert third.known == first.known


@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("search.sampler", "not KEY=VALUE"),
        ("search.samplr=tpe", "--against search.samplr=tpe"),
        ("search.sampler=", "--against search.sampler=: the value is missing"),
        ("early_terminate.max_t=5000", "different early_terminate.max_t"),
        ("search.seed=4", "different search.seed"),
        ("metric.name=eval_perplexity", "different metric.name"),
    ],
)
def test_variants_that_can_not_be(trend: Path, against: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ran(trend, against=[against])


# ---- sources ------------------------------------------------------------------------------------------------------------------

TABLE: dict[str, Any] = {
    "name": "table",
    "search_space": {
        "parameters": {
            "model_size": {"values": ["350", "760"]},
            "gate": {"values": ["low", "high"]},  # a parameter that training does not know
            "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "num_gpus": {"values": [1, 2]},
        }
    },
    "metric": {"name": "val_loss"},
    "early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 100, "max_t": 900},
    "search": {"sampler": "random"},
    "budget": {"run_cap": 30},
}


def write_table(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A sweep file and a table: the best is the large model with a low gate, near a rate of 1e-2."""
    rows = [
        {"model_size": size, "gate": gate, "lr": rate, "steps": steps, "gpu_seconds": steps * size / 350}
        | {"val_loss": 350 / size + (gate == "high") + abs(math.log10(rate) + 2) + 100 / steps}
        for size, gate, rate in itertools.product((350, 760), ("low", "high"), np.geomspace(1e-4, 1e-1, 7))
        for steps in (100, 300, 900)
    ]
    spec, table = folder / "table.yaml", folder / "curves.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    spec.write_text(yaml.safe_dump({**TABLE, **changes}), encoding="utf-8")
    return spec, table


def test_a_table_from_a_file(tmp_path: Path) -> None:
    spec, table = write_table(tmp_path)
    simulation = ran(spec, Options(workers=2, seeds=3), curves=str(table))
    outcome = simulation.outcomes[0]
    assert simulation.goal == "minimize"  # by its name
    assert simulation.best == pytest.approx(350 / 760 + 100 / 900)
    assert outcome.known == 28
    assert outcome.regret.median[-1] < 0.5
    assert outcome.median_seed.run.pick["gate"] == "low"
    assert all(seed.run.trials == 30 for seed in outcome.seeds)
    assert any("28 configurations" in note for note in simulation.notes)


def test_a_table_may_count_steps_in_fractions_and_tokens_in_powers_of_ten(tmp_path: Path) -> None:
    """Every rung and every report counts as with whole steps."""
    results = []
    for unit, max_t in ((1, "9.0e2"), (1000, "0.9")):
        spec, table = write_table(tmp_path)
        pd.read_csv(table).assign(steps=lambda rows, unit=unit: rows["steps"] / unit).to_csv(table, index=False)
        changes = [f"early_terminate.grace_period={100 / unit}", f"early_terminate.max_t={max_t}", "search.sampler=tpe"]
        simulation = ran(spec, Options(workers=2, seeds=1, gpu_hours=2.0), curves=str(table), overrides=changes)
        seed = simulation.outcomes[0].seeds[0]
        results.append((seed.run.pick, seed.run.trials, seed.run.reports, seed.stopped, seed.promoted))
    assert results[1] == results[0]
    assert results[0][4] > 3


def test_sizes_of_a_table_may_be_numbers(tmp_path: Path) -> None:
    results = []
    for sizes in (["350", "760"], [350, 760]):
        space = copy.deepcopy(TABLE["search_space"])
        space["parameters"]["model_size"]["values"] = sizes
        space["parameters"]["lr"]["when"] = {"model_size": sizes}
        spec, table = write_table(tmp_path, search_space=space)
        results.append(ran(spec, Options(workers=2, seeds=1), curves=str(table)))
    once, again = results
    assert str(told(again)) == str(told(once))
    assert told(again)[0][0]["model_size"] in ("350", "760")


def test_a_run_folder(tmp_path: Path, trend: Path) -> None:
    """Curves from the run folder of a simulated sweep without stopped trials."""
    variant = open_variants(trend, "family:trend", ["early_terminate={type: none, max_t: 2430}", "budget.run_cap=12"])[0]
    spec, clock = variant.spec, Clock()
    made = manifest(spec, variant.source.n_params)
    driver = SweepDriver(spec, variant.source.n_params, 4, clock, 0)
    driver.conductor.writer = writer = RecordWriter(tmp_path / "run", made)
    driver.record = writer.record
    simulate(driver, variant.source, Cluster(4), clock, 1000.0)
    finals = [trial.last.metrics["eval_loss"] for trial in writer.record.by_number() if trial.last]
    simulation = ran(trend, Options(workers=4, seeds=1), curves=str(tmp_path / "run"))
    assert (simulation.best, simulation.outcomes[0].known) == (min(finals), 12)
    assert simulation.outcomes[0].seeds[0].run.trials > 12
    assert any("held-out" in note for note in simulation.notes)


def test_efficiency_is_what_more_gpus_cost(tmp_path: Path) -> None:
    spec, table = write_table(tmp_path)
    spent = []
    for efficiency in (1.0, 0.5):
        variants = open_variants(spec, str(table), efficiency=efficiency)
        result = run_simulation(variants, "", Options(workers=2, seeds=1, gpu_hours=100))
        spent.append(result.outcomes[0].seeds[0].run.spent_gpu_hours)
    assert spent[1] > 1.1 * spent[0]


def test_a_goal_that_nothing_tells() -> None:
    def spec(name: str, **metric: str) -> SweepSpec:
        return sweep_from_dict({**TABLE, "metric": {"name": name, **metric}}, foreign=True)

    assert spec("score", goal="maximize").goal == "maximize"
    assert spec("eval_accuracy").goal == "maximize"
    assert [spec(name).goal for name in ("valLoss", "perplexity", "top1_error")] == ["minimize"] * 3
    with pytest.raises(UserError, match="direction of score is unknown") as caught:
        _ = spec("score").goal
    assert "metric.goal" in caught.value.hint


def test_where_all_end_alike_there_is_nothing_to_search(tmp_path: Path) -> None:
    spec, table = write_table(tmp_path)
    frame = pd.read_csv(table).assign(val_loss=1.0)
    frame.to_csv(table, index=False)
    with pytest.raises(UserError, match="all configurations end at the same value"):
        open_variants(spec, str(table))


@pytest.mark.parametrize(
    ("curves", "hint"),
    [
        ("family:trnd", "did you mean 'trend'?"),
        ("trend", "did you mean family:trend?"),
        ("famly:trend", "did you mean family:trend?"),
        ("DIR/curve.csv", "curves.csv?"),
        ("DIR/nothing/near", "family:NAME"),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, trend: Path, curves: str, hint: str) -> None:
    write_table(tmp_path)
    with pytest.raises(UserError) as caught:
        open_variants(trend, curves.replace("DIR", str(tmp_path)))
    assert hint in caught.value.hint


SIZES = {"model_size": {"values": ["L1", "L2"]}}


def test_what_a_family_does_not_model(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for changes, words in (
        (
            {"early_terminate": {"type": "none", "time_attr": "gpu_seconds", "max_t": 90.5}},
            "do not support time_attr: gpu_seconds",
        ),
        (
            {"search_space": {"parameters": SIZES | {"lr_scheduler_type": {"values": ["linear", "cosin"]}}}},
            "'cosin' is not a schedule",
        ),
    ):
        path.write_text(yaml.safe_dump(sweep_dict(**changes)), encoding="utf-8")
        with pytest.raises(UserError, match=words):
            open_variants(path, "family:trend")


# ---- summaries of several seeds ---------------------------------------------------------------------------------------------


def made(seed: int, regret: list[float], wall: list[float]) -> SeedRun:
    hours = np.arange(1.0, len(regret) + 1)
    run = Run(hours, np.array(wall), np.array(regret) + 1, np.array(regret), trials=4, reports=6, controller_seconds=0.1)
    return SeedRun(seed, run, 0, 0, 0, 0, 0, 0)


def test_medians_count_a_seed_without_a_pick_as_the_worst() -> None:
    nan = math.nan
    seeds = [made(0, [nan, 0.5, 0.04], [1, 2, 3]), made(1, [0.9, 0.8, 0.7], [2, 4, 6]), made(2, [0.6, 0.05, 0.05], [1, 2, 4])]
    outcome = Outcome("x", (), seeds, True, 9)
    assert outcome.regret.median.tolist() == [0.9, 0.5, 0.05]
    assert outcome.value.median.tolist() == [1.9, 1.5, 1.05]
    assert [seed.hours_to(0.05) for seed in seeds] == [3, math.inf, 2]
    assert (outcome.hours_to_goal, outcome.seeds_at_goal) == (3, 2)
    assert outcome.median_seed.seed == 2
    assert Outcome("x", (), seeds[:2], True, 9).median_seed.seed == 0
    assert outcome.controller_ms == pytest.approx(10)
    assert outcome.regret_by_wall(np.array([0.5, 1, 2, 4, 9])).median.tolist() == [math.inf, math.inf, 0.5, 0.05, 0.05]
    lost = Outcome("x", (), [made(0, [nan], [1]), made(1, [nan], [1]), made(2, [0.1], [1])], False, 9)
    assert lost.regret.median.tolist() == [math.inf]
    assert lost.value.median.tolist() == [-math.inf]
    assert lost.hours_to_goal == math.inf
