"""The model card: a user's names are text in it, never Markdown or HTML."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from scalesweep.promotion.card import code


@pytest.mark.parametrize(
    "name", ["plain", "[/misc]", "[x](javascript:y)", "<b>", "*very* `bad`", "``", "a|b", "$x$", ":x:", "&lt;"]
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    shown = MarkdownIt("commonmark").enable("table").render(f"Classes: {code(name)}, {code('next')}.")
    assert [html.unescape(found) for found in re.findall("<code>(.*?)</code>", shown)] == [name, "next"]
