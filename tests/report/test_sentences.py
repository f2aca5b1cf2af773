"""Findings in sentences: what they claim, against the record's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from command_line import run
from records import make_record, make_searched
from scalesweep import findings, read_record
from scalesweep.record import Record
from scalesweep.report.axes import effects
from scalesweep.report.sentences import paragraph, paragraph_json

OLD_RUN = Path(__file__).parents[1] / "record" / "old_run"
SPACE = {
    "model_size": {"values": ["L1", "L4", "L6"]},
    "unfreezing": {"values": ["full", "head"]},
    "learning_rate": {"min": 1e-5, "max": 1e-3, "distribution": "log_uniform_values"},
    "dropout": {"min": 0.0, "max": 0.3},
    "use_rslora": {"values": [True, False], "when": {"adapter": "lora"}},
}


def drawn(trials: int) -> list[tuple[dict[str, Any], list[float]]]:
    """The loss falls by 0.1 with each factor of 10 in the rate, and L6 is better than L1 by 0.3. Dropout costs nothing, and is
    never above 0.2. L6 is never trained in full, and L4 never."""
    rng, rows = np.random.default_rng(0), []
    for number in range(trials):
        rate, large = float(10 ** (-5 + 2 * number / (trials - 1))), bool(number % 2)
        params = {"model_size": "L6" if large else "L1", "learning_rate": rate, "dropout": float(rng.uniform(0, 0.2))}
        params["unfreezing"] = "head" if large else str(rng.choice(["full", "head"]))
        loss = 0.4 - 0.1 * (np.log10(rate) + 3) - 0.3 * large
        losses = [loss + 0.1, loss + 0.05, loss + 0.001 * rng.standard_normal()]
        rows.append((params, losses if large else losses[:1]))
    return rows


def texts(record: Record) -> dict[str, str]:
    return {one.about: one.text for one in paragraph(record)}


def test_a_sweep_is_told_in_sentences_with_the_records_own_numbers() -> None:
    record = make_searched(drawn(40), SPACE)
    found = {one.about: one for one in paragraph(record)}
    assert list(found) == ["best", "axes", "values", "untried", "rungs", "next"]
    best = record.trials[found["best"].facts["trial"]]
    assert found["best"].text.startswith(f"The best of 40 trials is {best.name} (L6 · 1 GPU · head · lr ")
    assert f"eval_loss {best.reports[-1].metrics['eval_loss']:.4f} at 360 steps. It took 30 of" in found["best"].text
    size, rate = (one for one in effects(record) if one.matters)
    assert (size.axis, size.better, size.worse, rate.axis) == ("model_size", "L6", "L1", "learning_rate")
    axes = found["axes"].text
    low, high = f"{size.low:.4f}", f"{size.high:.4f}"
    assert axes.startswith("On average over the other axes, model_size matters most: eval_loss is 0.")
    assert f"(5–95 %: {low} … {high}) better with L6 than with L1. learning_rate matters: eval_loss is 0." in axes
    assert "The trials don't show that " in axes
    assert axes.endswith("matter. Too few trials have different values of use_rslora to compare them.")
    used = [params["learning_rate"] for params, _ in drawn(40) if params["model_size"] == "L6"][-10:]
    assert found["values"].text == (
        f"The 10 best trials have model_size L6 (10); learning_rate {used[0]:.1e} … {used[-1]:.1e}."
    )
    assert found["untried"].text.startswith("Fewer than 2 trials passed rung 1 with model_size L1 (0 of 20), L4 (no trial); ")
    assert "No trial has dropout in the upper third of its range (0.2 … 0.3)." in found["untried"].text
    assert found["untried"].text.endswith(
        "3 of 6 combinations of size and method were never tried: L4 with full, L4 with head, L6 with full."
    )
    assert found["rungs"].text.startswith(
        "The rank correlation with the end is, among the 20 trials that reached it, 1.00 (95 %: "
    )
    assert found["next"].facts["suggestions"] == [
        f"Widen learning_rate upwards: 1.0e-03 of {best.name} is within 10% of the upper end 1.0e-03 of its range on a log scale.",
        f"Raise early_terminate.max_t: eval_loss of the best trial still improved by {found_gain(record):.3g} from 120 steps to "
        "360 steps.",
        f"Try L6, the size of {best.name}, with full: no trial did.",
    ]


def found_gain(record: Record) -> float:
    before, end = record.trials["t0039"].reports[-2:]
    return before.metrics["eval_loss"] - end.metrics["eval_loss"]


def test_an_end_that_cannot_be_passed_or_lies_on_the_other_side_is_no_edge() -> None:
    rows = [(params | {"dropout": 0.0}, losses) for params, losses in drawn(40)]
    assert "Widen dropout" not in texts(make_searched(rows, SPACE))["next"]
    space = SPACE | {"learning_rate": {"min": 1e-5, "max": 1e-2, "distribution": "log_uniform_values"}}
    assert "Widen" not in texts(make_searched(drawn(40), space))["next"]


def test_a_rung_that_says_little_of_the_end_asks_for_a_longer_grace_period() -> None:
    rows = [(params, [1 - losses[0], *losses[1:]]) for params, losses in drawn(40)]
    record = make_searched(rows, SPACE)
    said = next(text for text in texts(record)["next"].split(". ") if "grace_period" in text)
    assert said.startswith("Raise early_terminate.grace_period above 40 steps: the order at rung 1 says little of the end")


def test_few_trials_say_why_the_axes_are_not_ranked() -> None:
    found = texts(make_searched(drawn(7), SPACE))
    assert found["axes"] == "7 trials are too few to rank the axes; about 15 are needed."
    assert "values" not in found
    assert "Raise budget.run_cap to at least 15 trials" in texts(make_searched(drawn(7)[::2], SPACE))["next"]
    assert "rungs" not in found  # three trials reached the end


def test_trials_without_a_result_are_named() -> None:
    found = texts(make_record())
    assert found["axes"] == "The record has no axis that was searched and may change a result."
    assert "3 trials could not run to an end: t0004 (diverged), t0007 (failed · error), t0008 (infeasible" in found["untried"]
    alone = texts(make_searched(drawn(2)[:1], SPACE))["best"]
    assert alone.startswith("The only trial with a usable eval_loss is t0000 ")
    assert "validation rows" not in alone  # there is nothing to compare it with
    [only] = paragraph(make_record([]))
    assert (only.text, only.facts) == ("No trial has been proposed yet.", {"trial": None})


def test_the_command_python_and_json_have_the_same() -> None:
    (first,) = json.loads(run("report", OLD_RUN, OLD_RUN, "--json").stdout)  # a folder given twice counts once
    record = read_record(OLD_RUN)
    assert first == json.loads(json.dumps(paragraph_json(record)))
    assert [one["text"] for one in first["findings"]] == [one.text for one in findings(OLD_RUN)]
    assert findings(record) == findings(OLD_RUN)
    shown = run("report", OLD_RUN).stdout
    assert max(map(len, shown.splitlines())) <= 100
    words = " ".join(shown.split())
    assert all(" ".join(one["text"].split()) in words for one in first["findings"])
