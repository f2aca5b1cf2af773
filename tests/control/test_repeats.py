"""Repeats: the leaders trained again with other seeds, within a share of the budget, and counted as no configurations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from conducting import ONE_SIZE, Clock, conductor, report, waiting_sweep
from scalesweep.control.conductor import Conductor
from scalesweep.record import Trial, best, rank, read_record
from scalesweep.record.seeds import seeds
from scalesweep.search import repeats

LONG = {
    "search_space": ONE_SIZE,
    "budget": {"gpu_hours": 0.25},
    "early": {"survival": "metric", "max_t": 12},
    "search": {"sampler": "random"},
}


def loss_of(trial: Trial, at: int) -> float:
    """A loss with the noise of a seed: the first seed of each configuration is 0.02 luckier than the others."""
    distance = abs(math.log10(trial.params["learning_rate"]) + 3)
    return float(0.5 + distance + 1 / at + 0.02 * bool(trial.repeat_of) + 0.005 * trial.config["seed"])


def run(made: Conductor, clock: Clock, seconds: float = 1.0, stop: str | None = None) -> None:
    """One trial at a time to the end of the sweep, or until a trial has `stop`ped after its first report."""
    while not made.finished() and (trial := made.next_trial()) is not None:
        for step in (4, 12):
            if trial.last is None or step > trial.last.fidelity:
                clock.now += seconds * (4 if step == 4 else 8)
                if not report(made, trial.name, step, loss_of(trial, step)) or trial.name == stop:
                    break
        if trial.name == stop:
            return


def again(made: Conductor) -> list[Trial]:
    return [trial for trial in made.record.by_number() if trial.repeat_of]


def test_auto_trains_the_leaders_again_at_the_end_for_a_small_share(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(**LONG), 1, clock)
    run(made, clock, 1.5)
    made.end_sweep()
    repeated = again(made)
    assert repeats.FEWEST <= len(repeated) <= repeats.LEADERS * repeats.EACH
    assert repeated[0].number > 0.8 * len(made.record.trials), "near the end"
    assert repeats.spent(made.record) <= repeats.SHARE * made.record.gpu_seconds
    for trial in repeated:
        first = made.record.trials[trial.repeat_of or ""]
        assert trial.params == first.params
        assert {**trial.config, "seed": 0} == {**first.config, "seed": 0}
        assert (trial.state, trial.stop_reason, [r.action for r in trial.reports]) == (
            "COMPLETE",
            "max_t",
            ["continue", "complete"],
        )
    assert {trial.config["seed"] for trial in repeated} <= {1, 2}
    # No model counts them, and the study shows what they are.
    assert not {trial.name for trial in repeated} & made.proposer.outlook.history.seen.keys()
    assert {trial.name for trial in repeated}.isdisjoint(*(there for rungs in made.rungs.recorded.values() for there in rungs))
    study = {found.user_attrs["trial"]: found for found in made.proposer.study.trials if "trial" in found.user_attrs}
    for trial in repeated:
        assert study[trial.name].user_attrs["repeat of"] == trial.repeat_of
        assert (study[trial.name].state, study[trial.name].params) == (TrialState.COMPLETE, study[trial.repeat_of or ""].params)
    # Ranked by the mean over seeds, with the noise of seeds beside it.
    rows = rank(made.record)
    several = [row for row in rows if row.repeats]
    assert sum(row.repeats for row in several) == seeds(made.record).freedom == len(repeated)
    for row in several:
        own = [trial for trial in (row.trial, *repeated) if row.trial.name in (trial.name, trial.repeat_of)]
        assert row.metric == pytest.approx(sum(trial.reports[-1].metrics["eval_loss"] for trial in own) / len(own))
        assert row.seed_sd == seeds(made.record).sd
    assert all(row.rank is None for row in rows if row.trial.repeat_of)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 10.0),  # seven full trials or so: too few for a tenth of them to pay for two
        ({"search": {"sampler": "random", "repeats": "off"}}, 1.5),
        ({"budget": {"run_cap": 40}}, 1.5),  # no budget that says what is affordable
    ],
)
def test_auto_does_nothing_where_it_cannot_afford_to(changes: dict[str, Any], seconds: float, tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(tmp_path, waiting_sweep(**{**LONG, **changes}), 1, clock)
    run(made, clock, seconds)
    assert again(made) == []


def test_a_number_of_repeats_needs_no_budget_and_counts_in_no_cap(tmp_path: Path) -> None:
    clock = Clock()
    spec = waiting_sweep(**{**LONG, "budget": {"run_cap": 9}, "search": {"sampler": "random", "repeats": 1}})
    made = conductor(tmp_path, spec, 1, clock)
    run(made, clock)
    assert len(made.record.configurations()) == 9
    assert {trial.repeat_of for trial in again(made)} == {row.trial.name for row in rank(made.record) if row.repeats}
    assert len(again(made)) == min(3, sum(trial.state == "COMPLETE" for trial in made.record.configurations()))


def test_a_resumed_sweep_repeats_what_it_would_have(tmp_path: Path) -> None:
    made, clock = conductor(tmp_path / "one", waiting_sweep(**LONG), 1, clock := Clock()), clock
    run(made, clock, 1.5)
    wanted = [(trial.name, trial.repeat_of, trial.config["seed"]) for trial in again(made)]
    clock = Clock()
    broken = conductor(tmp_path, waiting_sweep(**LONG), 1, clock)
    run(broken, clock, 1.5, stop=wanted[1][0])
    broken.writer.close()
    resumed = conductor(tmp_path, waiting_sweep(**LONG), 1, clock, resume=True)
    assert [trial.name for trial in resumed.unfinished] == [wanted[1][0]]
    run(resumed, clock, 1.5)
    assert [(trial.name, trial.repeat_of, trial.config["seed"]) for trial in again(resumed)] == wanted
    assert best(read_record(tmp_path / "run")) is not None


def test_a_configuration_that_diverges_with_another_seed_is_no_leader(tmp_path: Path) -> None:
    clock = Clock()
    made = conductor(
        tmp_path, waiting_sweep(**{**LONG, "budget": {"run_cap": 9}, "search": {"sampler": "random", "repeats": 1}}), 1, clock
    )
    while not again(made):
        trial = made.next_trial()
        assert trial is not None
        for step in (4, 12):
            if not trial.repeat_of and (trial.last is None or step > trial.last.fidelity):
                clock.now += 1
                if not report(made, trial.name, step, loss_of(trial, step)):
                    break
    (repeat,) = again(made)
    first = best(made.record)
    assert first is not None
    assert first.name == repeat.repeat_of
    assert not report(made, repeat.name, 4, math.nan)
    assert best(made.record) is not first
    (row,) = (row for row in rank(made.record) if row.trial is first)
    assert row.rank is not None
    assert row.metric == first.reports[-1].metrics["eval_loss"], "its own value stays, below all others"
    assert seeds(made.record).sd is None
