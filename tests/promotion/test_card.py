"""The model card: a user's names are text in it, never Markdown or HTML."""

from __future__ import annotations

import html
import math
import re

import pytest
from markdown_it import MarkdownIt

from scalesweep.promotion.card import code, model_card


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
            "data": {"classes": [], "source": {"path": "rows.csv"}},
            "base_model": {"model": "m", "layers": None},
            "test": {"eval_perplexity": 12.3456789},
        }
    )
    assert "| perplexity | 1.014e+304 |" in card
    assert "| perplexity | 12.3457 |" in card


@pytest.mark.parametrize(
    "name", ["plain", "[/misc]", "[x](javascript:y)", "<b>", "*very* `bad`", "``", "a|b", "$x$", ":x:", "&lt;"]
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    shown = MarkdownIt("commonmark").enable("table").render(f"Classes: {code(name)}, {code('next')}.")
    assert [html.unescape(found) for found in re.findall("<code>(.*?)</code>", shown)] == [name, "next"]
