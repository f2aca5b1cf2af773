"""Findings: what the words under the leaderboard claim, against the record's own numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from records import curve, make_events, make_record
from scalesweep.record import Record, rank
from scalesweep.report.board import render_leaderboard
from scalesweep.report.findings import beats_guessing, findings, unusable, worth_promoting
from scalesweep.report.terminal import where_it_is

GUESS = {"guess": "class shares in train", "metrics": {"eval_loss": 0.6811, "eval_accuracy": 0.578}}


def found(record: Record) -> dict[str, str]:
    return dict(findings(record))


def shown(record: Record, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_leaderboard(record, "rung", width))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_best_trial_is_measured_against_guessing() -> None:
    record = make_record(baseline=GUESS)
    assert found(record)["best"] == (
        "t0001, L6 · 2 GPUs · gradual/40 · lr 1.2e-04 cosine: eval_loss 0.4400, 0.2411 (35.4%) below guessing (0.6811); "
        "eval_accuracy 0.7800 (guessing 0.5780)"
    )
    assert "Findings so far best t0001" in shown(record)
    assert "guessing" not in found(make_record())["best"]  # a record of earlier days has no baseline
    record.expected = {"t0001": (0.44, 0.0), "t0006": (0.4, 0.02)}
    assert " after 120 of 360 steps, 0.4000 ± 0.0200 expected at the end, " in found(record)["best"], (
        "a first trial that has not ended"
    )


def test_a_sweep_in_which_no_trial_beats_guessing_says_so() -> None:
    for value in (0.44, 0.3):  # as good is not better
        record = make_record(baseline={"guess": "class shares in train", "metrics": {"eval_loss": value}})
        expected = f"No trial beats guessing: the best eval_loss is 0.4400 (t0001); guessing from class shares in train reaches {value:.4f}"
        assert found(record)["best"] == expected
        assert expected in shown(record)


def untrained(**losses: float) -> list[dict[str, Any]]:
    return [
        {"event": "untrained", "time": 1.0, "trial": "t0000", "model_size": size, "metrics": {"eval_loss": loss}}
        for size, loss in losses.items()
    ]


def test_the_untrained_model_is_a_floor_beside_guessing() -> None:
    above = make_record([*make_events(), *untrained(L1=0.9, L6=0.6, L4=float("nan"))], baseline=GUESS)
    assert "below guessing (0.6811); untrained, L6 has 0.6000; eval_accuracy" in found(above)["best"]
    assert worth_promoting(above)
    assert found(make_record([*make_events(), *untrained(L1=0.9)], baseline=GUESS)) == found(make_record(baseline=GUESS))
    assert "scalesweep promote" in where_it_is("runs/x", Path("runs/x"), above)
    below = make_record([*make_events(), *untrained(L1=0.9, L6=0.4)], baseline=GUESS)
    expected = "No trial beats the untrained model: the best eval_loss is 0.4400 (t0001); L6 reaches 0.4000 without training"
    assert found(below)["best"] == expected
    assert expected in shown(below)
    for poor in (below, make_record(baseline={"guess": "class shares in train", "metrics": {"eval_loss": 0.3}})):
        assert not worth_promoting(poor)
        assert "promote RUN" not in where_it_is("RUN", Path("RUN"), poor)


def diverging(losses: list[float]) -> list[dict[str, Any]]:
    made = curve(0, "L4", losses)
    made[0]["config"]["learning_rate"] = 5.0
    return [*made, {"event": "end", "time": 9.0, "trial": "t0000", "state": "PRUNED", "reason": "diverged", "error": None}]


def test_a_sweep_without_a_usable_trial_says_why() -> None:
    nan = float("nan")
    at_once, hint = unusable(make_record(diverging([nan])))
    assert "every trial diverged at its first report: its eval_loss was not a finite number" in at_once
    assert "a larger budget does not help: lower learning_rate below 5.0e+00" in hint
    assert "every trial diverged after a while" in unusable(make_record(diverging([0.5, nan])))[0]
    broken, hint = unusable(make_record([*diverging([nan]), *untrained(L4=nan)]))
    assert "the untrained model of L4 has no finite eval_loss" in broken
    assert "mixed_precision" in hint
    assert unusable(make_record([]))[1] == "increase the budget, or lower grace_period"


@pytest.mark.parametrize(("goal", "better"), [("minimize", 0.5), ("maximize", 0.7)])
def test_better_than_guessing_follows_the_goal(goal: str, better: float) -> None:
    baseline = {"guess": "class shares in train", "metrics": {"eval_loss": 0.6}}
    record = make_record(baseline=baseline, metric={"name": "eval_loss", "goal": goal})
    assert beats_guessing(record, better) is True
    assert beats_guessing(record, 0.6) is False
    assert beats_guessing(record, 1.2 - better) is False
    assert beats_guessing(make_record(), better) is None


def test_levels_of_a_setting_are_compared_at_the_highest_rung() -> None:
    texts = found(make_record())
    assert texts["size"] == "L6 0.4400 · L1 0.5800 (best of each at rung 3/3); none reached rung 3/3 with L4"
    assert (
        texts["unfreezing"]
        == "gradual 0.4400 (L6) · full 0.5800 (L1) (best of each at rung 3/3); none reached rung 3/3 with head"
    )


def test_the_rates_of_the_best_quarter() -> None:
    def trial(number: int) -> list[dict[str, Any]]:
        events = curve(number, "L4", [0.3 + number / 100] * 3)
        events[0]["params"]["learning_rate"] = events[0]["config"]["learning_rate"] = 1e-4 * (number + 1)
        return events

    text = found(make_record([event for number in range(12) for event in trial(number)]))["rate"]
    assert text == "the 3 best trials used 1.0e-04 … 3.0e-04; all 12 span 1.0e-04 … 1.2e-03"
    assert "rate" not in found(make_record([event for number in range(11) for event in trial(number)]))  # two make no range


def test_early_stopping_is_priced_at_each_trials_own_pace() -> None:
    record = make_record()
    saved = sum(
        record.trials[name].gpu_seconds * (360 / at - 1)
        for name, at in (("t0002", 120), ("t0003", 40), ("t0005", 40), ("t0006", 120))
    )
    times = (record.gpu_seconds + saved) / record.gpu_seconds
    assert (
        found(record)["stopping"]
        == f"4 of 9 trials ended early; in full, the sweep would have used about {times:.1f} times its GPU time"
    )


def test_a_rung_is_judged_by_the_pairs_it_ordered_otherwise() -> None:
    rng = np.random.default_rng(0)
    events = [event for i in range(8) for event in curve(i, "L1" if i % 2 else "L4", rng.random(3).tolist(), 10.0 + i)]
    rungs = [text for label, text in findings(make_record(events)) if label == "rungs"]
    assert [text[:19] for text in rungs] == ["rung 1 (40 steps) o", "rung 2 (120 steps) "]
    assert "same-size pairs" in rungs[0]
    assert "cross-size pairs differently from the end; rank correlation " in rungs[0]
    assert rungs[0].endswith(", 8 trials)")
    assert "rungs" not in found(make_record(events[:15]))  # too few pairs


def test_a_rung_at_which_no_trial_beats_guessing_is_named() -> None:
    def rungs(guess: float) -> list[str]:
        record = make_record(baseline={"guess": "class shares in train", "metrics": {"eval_loss": guess}})
        return [text for label, text in findings(record) if label == "rungs" and "guessing" in text]

    assert rungs(0.6811) == []
    first, _ = rungs(0.5)  # as good is not better
    assert first.startswith("at rung 1 (40 steps) none of 8 trials beat guessing (0.5000), so it chose among them by chance")
    assert [text for label, text in findings(make_record()) if "guessing" in text] == []


def test_nothing_is_found_before_the_first_report() -> None:
    assert findings(make_record([])) == []
    assert findings(make_record(make_events()[:6])) == []
    assert "Findings" not in shown(make_record([]))


def test_the_noise_of_seeds_stands_beside_that_of_rows() -> None:
    """t0001 was lucky: with two more seeds it falls behind t0002."""
    events = []
    for number, (losses, first) in enumerate([([0.5], ""), ([0.40], ""), ([0.42], ""), ([0.46], "t0001"), ([0.46], "t0001")]):
        told = curve(number, "L4", [0.9, 0.7, *losses])
        told[0] |= {"repeat_of": first} if first else {}
        for event in told[2:-1] if first else []:
            event["rungs"] = []
        told[-1] |= {"rungs": [3], "action": "complete", "reason": "max_t"}
        end = {"event": "end", "time": 3.0, "trial": told[0]["trial"], "state": "COMPLETE", "reason": "max_t", "error": None}
        events += [*told, end]
    record = make_record(events)
    assert [(row.trial.name, row.rank, row.metric, row.repeats) for row in rank(record)] == [
        ("t0002", 1, 0.42, 0),
        ("t0001", 2, pytest.approx(0.44), 2),
        ("t0000", 3, 0.5, 0),
        ("t0003", None, 0.46, 0),
        ("t0004", None, 0.46, 0),
    ]
    record.expected = {"t0000": (0.5, 0.0), "t0001": (0.40, 0.0), "t0002": (0.42, 0.001)}
    sds = {row.trial.name: row.expected for row in rank(record) if row.rank}
    assert list(sds) == ["t0002", "t0001", "t0000"]
    assert [round(sd, 4) for _, sd in sds.values()] == [0.0346, 0.02, 0.0346], "one seed, three, one"
    record.expected = None
    assert found(record)["seeds"] == (
        "trained with several seeds: t0001 0.4400 (mean of 3: 0.4000 … 0.4600); the standard deviation between seeds is 0.0346 "
        "(pooled, 2 degrees of freedom), beside the error of the rows"
    )
    assert "3 ± 0.0346" in shown(record)
    assert "again t0001" in shown(record)
