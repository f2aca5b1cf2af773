"""Confirmation: the leaders of an ended sweep on new seeds, in rounds, whatever the budget; the choice, and the gap to the sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conducting import MANIFEST, ONE_SIZE, Clock, Documented, conductor, report, waiting_sweep
from records import START, make_events, make_record
from scalesweep.control.conductor import Conductor
from scalesweep.promotion.summary import confirmation
from scalesweep.record import Confirmation, Manifest, Record, Trial, best, rank, read_record
from scalesweep.record.confirmed import confirmed
from scalesweep.record.uncertainty import quantile
from scalesweep.search.confirm import candidates, cost, plan
from scalesweep.simulation.replay import replay_decisions

EARLY = {"survival": "metric", "grace_period": 12, "max_t": 12}
SPEC = waiting_sweep(
    search_space=ONE_SIZE,
    budget={"run_cap": 7, "gpu_hours": 0.019, "trial_gpu_hours": 0.01},
    early=EARLY,
    search={"sampler": "random", "repeats": "off"},
)
IN_THE_SWEEP = {"t0000": 0.60, "t0001": 0.50, "t0002": 0.51, "t0003": 0.52, "t0004": 0.70, "t0005": 0.90, "t0006": 0.95}
AGAIN = {"t0001": [0.58, 0.60], "t0002": [0.54, 0.55], "t0003": [0.56, 0.53], "t0004": [0.71, 0.72]}


def value_of(trial: Trial, record: Record) -> float:
    if trial.repeat_of is None:
        return IN_THE_SWEEP[trial.name]
    own = [other.name for other in record.by_number() if other.repeat_of == trial.repeat_of]
    return AGAIN[trial.repeat_of][own.index(trial.name)]


def run(
    made: Conductor,
    clock: Clock,
    value: Callable[[Trial, Record], float] = value_of,
    most: int | None = None,
    seconds: dict[str, float] | None = None,
) -> None:
    """All that starts at once, to its end; with `most`, only so many trials. `seconds` are those of unusual trials, by name."""
    ended = 0
    while not made.finished():
        together = []
        while (trial := made.next_trial()) is not None:
            together.append(trial)
        assert together
        for trial in together:
            clock.now += (seconds or {}).get(trial.name, 20 if trial.repeat_of else 10)  # 20: more than budget.trial_gpu_hours
            for step in (4, 12):
                report(made, trial.name, step, value(trial, made.record))
            if (ended := ended + 1) == most:
                return


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Path, Clock]:
    """A sweep that has ended with its budget spent."""
    clock = Clock()
    made = conductor(tmp_path, SPEC, 1, clock)
    run(made, clock)
    made.end_sweep()
    made.writer.close()
    assert made.exhausted() == "gpu_hours"
    assert [row.trial.name for row in rank(made.record)][:4] == ["t0001", "t0002", "t0003", "t0000"]
    return tmp_path, clock


def confirming(folder: Path, clock: Clock, names: list[str], seeds: int = 2, slots: int = 4) -> Conductor:
    clock.now += 1000
    writer = Documented(folder / "run")
    writer.append({"event": "confirm", "time": clock.now, "trials": names, "seeds": seeds})
    writer.close()
    return conductor(folder, SPEC, slots, clock, resume=True)


def again(record: Record) -> list[tuple[str | None, int]]:
    return [(trial.repeat_of, trial.config["seed"]) for trial in record.by_number() if trial.repeat_of]


def test_a_round_tells_apart_and_no_budget_counts(swept: tuple[Path, Clock]) -> None:
    folder, clock = swept
    made = confirming(folder, clock, ["t0001", "t0002", "t0004"])
    run(made, clock)
    # After one new seed each, t0004 is farther behind t0002 than the seeds explain, and gets no second one.
    assert again(made.record) == [("t0001", 1), ("t0002", 1), ("t0004", 1), ("t0002", 2), ("t0001", 2)]
    made.end_sweep()
    assert (made.record.status, made.record.ended_reason, made.record.confirming) == ("ended", "budget: gpu_hours", False)
    assert len(made.record.configurations()) == 7
    assert all(trial.state == "COMPLETE" for trial in made.record.trials.values() if trial.repeat_of)
    made.writer.close()
    replayed = replay_decisions(events(folder), Manifest(MANIFEST), SPEC)
    assert replayed.differences == []
    assert replayed.decisions >= 7 + 5

    # The choice: the best mean over all seeds. t0003 now has a better value than they, from one lucky seed.
    record = read_record(folder / "run")
    assert [row.trial.name for row in rank(record)][:4] == ["t0002", "t0001", "t0004", "t0003"]
    assert next(row.trial.name for row in rank(record, "metric")) == "t0001"
    first, second, third = confirmed(record)
    assert (first.trial, first.sweep, first.values) == ("t0002", 0.51, (0.54, 0.55))
    assert (first.value, first.gap, first.mean) == pytest.approx((0.545, 0.035, 1.6 / 3))
    assert second.gap == pytest.approx(0.09)
    assert third.values == (0.71,)
    assert first.half is not None
    assert third.half is not None
    assert third.half / first.half == pytest.approx(math.sqrt(2)), "one seed and two"
    found = rank(record)[0]
    assert first.half == pytest.approx(quantile(6) * (found.seed_sd or 0) / math.sqrt(2))
    lines = confirmation([first, second, third], "t0002", record.metric)
    assert lines[1].split() == [
        "t0002",
        "0.5100",
        "2",
        "0.5450",
        "±",
        f"{first.half:.4f}",
        "+0.0350",
        "0.5333",
        "←",
        "promoted",
    ]

    # Asked for again, nothing is left to do; more seeds, or more trials, come on top of those that there are.
    assert not plan(record, None, 2).trials
    assert not plan(record, 2, 2).trials
    assert plan(record, 3, 2).trials == ["t0001", "t0002", "t0003"]
    assert cost(record, ["t0001", "t0002", "t0003"], 2) == 20
    more = confirming(folder, clock, ["t0001", "t0002", "t0003"], 3)
    run(more, clock, with_luck)
    assert again(more.record)[5:7] == [("t0003", 1), ("t0003", 2)]
    assert {one.trial: one.sweep for one in confirmed(more.record)} == {"t0001": 0.50, "t0002": 0.51, "t0003": 0.52}


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "record.jsonl").read_text().splitlines()]


def test_an_interrupted_confirmation_goes_on(swept: tuple[Path, Clock]) -> None:
    folder, clock = swept
    made = confirming(folder, clock, ["t0001", "t0002", "t0003"], slots=1)
    run(made, clock, most=1)
    begun = made.next_trial()
    assert begun is not None
    made.writer.close()
    resumed = conductor(folder, SPEC, 1, clock, resume=True)
    assert (resumed.record.status, resumed.record.confirming) == ("running", True)
    told = plan(resumed.record, None, 2)
    assert (told.trials, told.seeds) == (("t0001", "t0002", "t0003"), 2)
    assert [trial.name for trial in resumed.unfinished] == [begun.name]
    run(resumed, clock)
    assert sorted(again(resumed.record)) == [(name, seed) for name in ("t0001", "t0002", "t0003") for seed in (1, 2)]


def test_one_that_diverges_is_not_chosen_and_one_that_fails_does_not_hold_up_the_rest(swept: tuple[Path, Clock]) -> None:
    folder, clock = swept
    made = confirming(folder, clock, ["t0001", "t0002", "t0003"], slots=1)
    first = made.next_trial()
    assert first is not None
    report(made, first.name, 4, math.nan)
    second = made.next_trial()
    assert second is not None
    made.failed(second.name, "a broken disk")
    run(made, clock)
    assert again(made.record) == [("t0001", 1), ("t0002", 1), ("t0003", 1), ("t0002", 2), ("t0003", 2)]
    made.end_sweep()
    chosen = best(made.record)
    assert chosen is not None
    assert chosen.name == "t0002"
    outcome = {one.trial: one for one in confirmed(made.record)}
    assert (outcome["t0001"].value, outcome["t0001"].half) == (None, None)
    assert outcome["t0002"].values == (0.55,)
    assert "diverged" in "".join(confirmation(list(outcome.values()), "t0002", "eval_loss"))


def test_without_the_noise_nothing_is_confirmed_by_default(swept: tuple[Path, Clock]) -> None:
    record = read_record(swept[0] / "run")
    assert candidates(record) == [f"t000{number}" for number in (1, 2, 3, 0, 4, 5)], "all that ran to the end"
    assert candidates(record, known=True) == ["t0001"]
    assert (plan(record, None, 2).trials, plan(record, None, 2).text) == ((), "")
    asked = plan(record, 2, 3)
    assert asked.trials == ["t0001", "t0002"]
    assert asked.text == "confirming t0001 and t0002 on 3 new seeds each: at most about 60 GPU s"


def with_luck(trial: Trial, record: Record) -> float:  # noqa: ARG001
    return IN_THE_SWEEP[trial.repeat_of or trial.name] + 0.1 * bool(trial.repeat_of)


@pytest.mark.parametrize(("seconds", "low"), [(10, False), (1070, False), (1090, True)])
def test_by_default_only_a_low_cost_is_paid(seconds: float, low: bool, tmp_path: Path) -> None:
    """Three were repeated in the sweep, for 60 GPU seconds; another round of two seeds takes 60 more at most."""
    clock = Clock()
    spec = waiting_sweep(search_space=ONE_SIZE, budget={"run_cap": 7}, early=EARLY, search={"sampler": "random", "repeats": 1})
    made = conductor(tmp_path, spec, 1, clock)
    run(made, clock, with_luck, seconds={"t0006": seconds})
    made.end_sweep()
    assert again(made.record) == [("t0001", 1), ("t0002", 1), ("t0003", 1)]
    told = plan(made.record, None, 2)
    ties = candidates(made.record, known=True)
    assert ties[:3] == ["t0001", "t0002", "t0003"]
    if low:
        assert told.trials == ["t0001", "t0002", "t0003"]
        assert told.text == "confirming t0001, t0002 and t0003 on 2 new seeds each: at most about 60 GPU s"
        return
    assert told.trials == ()
    assert told.text == (
        f"not confirmed: {len(ties) - 1} whole trials can't be told apart from t0001 by the noise of seeds; "
        f"training 3 of them on 2 new seeds takes about 60 GPU s ({60 / (120 + seconds):.0%} of the sweep's): "
        f"scalesweep promote {made.record.folder} --confirm 3 --seeds 2"
    )


def test_an_extended_sweep_is_confirmed_anew() -> None:
    told = {"event": "confirm", "time": START + 1e4, "trials": ["t0001", "t0000"], "seeds": 2}
    more = {"event": "settings", "time": START + 2e4, "changed": {"budget.run_cap": [24, 48]}, "by": "ada"}
    ended = {"event": "sweep_ended", "time": START + 9e3, "reason": "budget: run_cap"}
    record = make_record([*make_events(), ended, told])
    assert record.confirmation == Confirmation(("t0001", "t0000"), 2, since=10, reason="budget: run_cap")
    assert [one.trial for one in confirmed(record)] == ["t0001", "t0000"]
    assert make_record([*make_events(), ended, told, more]).confirmation is None
