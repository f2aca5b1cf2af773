"""The model card: a user's names are text in it, never Markdown or HTML."""

from __future__ import annotations

import html
import math
import re

import pytest
from markdown_it import MarkdownIt

import events
from scalesweep.promotion.card import code, model_card
from scalesweep.promotion.limits import limits
from scalesweep.promotion.predicted import predicted
from scalesweep.promotion.spent import spent
from scalesweep.promotion.summary import cost_parts, energy, prediction
from scalesweep.record.schema import Record, replay


def test_a_perplexity_of_any_size_takes_few_digits() -> None:
    """A diverged model's reaches e^700, which has 305 digits before the point."""
    final = {
        "train_on": ["train"],
        "steps": 9,
        "tokens": 9,
        "flops": 9.0,
        "wall_seconds": 9.0,
        "workers": 1,
        "sessions": 1,
        "length": "as in the sweep",
    }
    final["config"] = {"model_size": "L1", "learning_rate": 1e-4, "time_attr": "steps"}
    trial = {
        "name": "t0001",
        "params": {"learning_rate": 1e-4},
        "rung": 1,
        "rungs": 2,
        "fidelity": 9,
        "validation": {"eval_perplexity": math.exp(700)},
    }
    card = model_card(
        {
            **{"task": "causal-lm", "n_params": 9, "test_reads": 1, "sweep": {"name": "s"}, "final_run": final, "trial": trial},
            "data": {"classes": [], "source": {"path": "rows.csv", "max_length": 48}, "splits": {"test": {"rows": 20}}},
            "base_model": {"model": "m", "layers": None},
            "test": {"eval_perplexity": 12.3456789},
        }
    )
    assert "| perplexity | 1.014e+304 |" in card
    assert "| perplexity | 12.3457 |" in card
    for sentence in ("inputs of at most 48 tokens", "The test split has only 20 rows", "it may write what is wrong or harmful"):
        assert sentence in card


@pytest.mark.parametrize(("value", "clearly"), [(0.60, True), (0.67, False), (0.70, False)])
def test_a_card_says_where_a_model_is_not_clearly_better_than_guessing(value: float, clearly: bool) -> None:
    rows = {"test": {"rows": 2000, "classes": {"a": 1990, "b": 10}}}
    told = {"task": "sequence-classification", "data": {"source": {}, "splits": rows}, "final_run": {"kept": None}}
    told |= {"metric": {"name": "eval_loss", "goal": "minimize"}, "baseline": {"metrics": {"eval_loss": 0.68}}}
    found = limits({**told, "test": {"eval_loss": value}, "test_standard_errors": {"eval_loss": 0.01}})
    assert found[0].startswith("It was tested on 2,000 rows" if clearly else "**It is not clearly better than guessing**")
    assert any("few rows of b (10)" in sentence for sentence in found)


def record_on(*boards: str) -> Record:
    """A sweep of one trial of half a GPU hour on each board, and a worker's start of half an hour, at 2 dollars an hour."""
    told: list[dict[str, object]] = [{"event": "worker", "time": 0.0, "gpu_seconds": 1800.0}]
    for number, board in enumerate(boards):
        told += [events.trial(f"t{number}", number), events.report(f"t{number}", 9, 0.5, 1, 1800.0) | {"device": board}]
    spec = {"resources": {"dollars_per_gpu_hour": 2.0}}
    ladder = [{"name": "L1", "model": "m", "layers": None, "entry": {}}]
    return replay({**events.MANIFEST, "spec": spec, "ladder": ladder, "max_t": 9, "time_attr": "steps"}, told)


def test_costs_and_energy_add_up_and_what_is_unknown_is_left_out_with_its_reason() -> None:
    told = spent(record_on("NVIDIA H200", "NVIDIA L4"), "L1", "NVIDIA H200", 7200.0, None)
    assert told["sweep"] == {"gpu_hours": 1.5, "dollars": 3.0, "kwh": pytest.approx(1.5 * (0.7 + 0.072) / 2)}
    assert told["final_run"] == {"gpu_hours": 2.0, "dollars": 4.0, "kwh": pytest.approx(1.4)}
    assert cost_parts(told)[-1] == ("in all", "3.5", "7.00", "1.98")
    assert "700 W (NVIDIA H200), 72 W (NVIDIA L4), its maker's figure" in energy(told)
    told = spent(record_on("cpu"), "L1", "cpu", 7200.0, None)
    assert told["final_run"]["kwh"] is None
    assert cost_parts(told)[-1] == ("in all", "3", "6.00", "")
    assert energy(told).startswith("left out: it ran on CPU workers")
    text = energy(spent(record_on("NVIDIA X1"), "L1", "NVIDIA L4", 1.0, None))
    assert text.endswith("That of the sweep is left out: the power of NVIDIA X1 is unknown (--board-watts gives it)")
    assert "left out: the record of the sweep does not name" in energy(spent(record_on(), "L1", "NVIDIA L4", 1.0, None))
    assert spent(record_on(), "L1", "cpu", 3600.0, 50.0)["sweep"]["kwh"] == 0.025
    told = spent(record_on("cpu"), "L1", "cpu", 7200.0, 50.0)
    assert (told["sweep"]["kwh"], told["final_run"]["kwh"]) == (0.05, 0.1)
    assert "50 W (cpu), as given" in energy(told)


@pytest.mark.parametrize(
    ("target", "expected", "says"),
    [
        (
            None,
            None,
            ("nothing: t0 did not run to the end of the sweep, and no forecast drives this sweep", "eval_loss 0.4000"),
        ),
        (
            None,
            0.45,
            ("eval_loss 0.4500 on the test rows, from the forecast of t0 at 9 steps", "0.4000 on the test rows; the width"),
        ),
        ({}, 0.45, ("nothing: the target file predicts no eval_loss", "eval_loss 0.4000")),
        (
            {"metric": "eval_loss", "value": 0.45, "low": 0.41, "high": None},
            0.45,
            (
                "eval_loss 0.4500 (90 %: 0.4100 … no limit) on the validation rows",
                "0.4000 on the test rows, below the interval",
            ),
        ),
        (
            {"metric": "eval_loss", "value": 0.45, "low": 0.39, "high": 0.5},
            0.45,
            ("eval_loss 0.4500 (90 %: 0.3900 … 0.5000) on the validation rows", "0.4000 on the test rows, inside the interval"),
        ),
    ],
)
def test_a_prediction_stands_beside_what_was_reached(
    target: dict[str, object] | None, expected: float | None, says: tuple[str, str]
) -> None:
    record = record_on("cpu")
    record.expected = None if expected is None else {"t0": (expected, 0.01)}
    told = predicted(record, record.trials["t0"], 0.4, 0.01, target)
    provenance = {"metric": {"name": "eval_loss"}, "test": {"eval_loss": 0.4}, "predicted": told}
    for text, part in zip(prediction(provenance), says, strict=True):
        assert part in text


def test_the_value_of_several_seeds_is_called_their_mean() -> None:
    told = [events.trial("t0", 0), events.report("t0", 9, 0.5, 1), events.end("t0", "COMPLETE")]
    ladder = [{"name": "L1", "model": "m", "layers": None, "entry": {}}]
    made = {**events.MANIFEST, "spec": {}, "ladder": ladder, "max_t": 9, "time_attr": "steps"}
    again = [events.trial("t1", 1) | {"repeat_of": "t0"}, events.report("t1", 9, 0.6, 1), events.end("t1", "COMPLETE")]
    for all_, value, source in (
        (told, 0.5, "t0's own value at 9 steps"),
        (told + again, 0.55, "the mean of t0's 2 seeds at 9 steps"),
    ):
        record = replay(made, all_)
        found = predicted(record, record.trials["t0"], 0.4, 0.01)
        assert (found["value"], found["source"]) == (pytest.approx(value), source)


@pytest.mark.parametrize(
    "name", ["plain", "[/misc]", "[x](javascript:y)", "<b>", "*very* `bad`", "``", "a|b", "$x$", ":x:", "&lt;"]
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    shown = MarkdownIt("commonmark").enable("table").render(f"Classes: {code(name)}, {code('next')}.")
    assert [html.unescape(found) for found in re.findall("<code>(.*?)</code>", shown)] == [name, "next"]
