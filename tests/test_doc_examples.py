"""The examples in the pages: every YAML block is a sweep that loads, every command has the options it is given."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalesweep.cli import cli
from scalesweep.promotion.target import read_target
from scalesweep.spec import SweepSpec, load_sweep
from scalesweep.sweep.preflight import check_static
from sweeps import sweep_dict

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
SHIPPED = ("sweeps/", "search_spaces/", "benchmarks/", "docs/", "cluster.yaml")


FENCED = re.compile(r"^( *)```([a-z]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language ("" for none), without the indentation of a list."""
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, name, text in found if name == language]


def examples(language: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, text in enumerate(blocks(page, language), start=1)
    ]


def commands() -> list[str]:
    """The commands on the pages: each line of a code block that begins with `scalesweep`, once."""
    lines = (
        line
        for page in PAGES
        for text in blocks(page, "")
        for line in text.replace("\\\n", " ").splitlines()
        if "…" not in line and "[" not in line
    )
    typed = (re.sub(r"^(\$ )?", "", line).partition(" | ")[0].partition(" > ")[0] for line in lines)
    return sorted({line for line in typed if line.startswith("scalesweep ")})


@pytest.mark.parametrize("text", examples("yaml"))
def test_yaml_loads(text: str, tmp_path: Path) -> None:
    """A whole sweep or a target as it stands; a part of one, or a search space, within a sweep of the tests."""
    part = yaml.safe_load(text)
    if {"name", "task"} <= part.keys():
        path = tmp_path / "sweep.yaml"
        path.write_text(text, encoding="utf-8")
        check_static(load_sweep(path), slots=None)
        return
    if {"sweep", "trial"} <= part.keys():
        path = tmp_path / "target.yaml"
        path.write_text(text, encoding="utf-8")
        read_target(path)
        return
    if "parameters" in part:
        part = {"search_space": {"parameters": {"model_size": {"values": ["L1", "L2"]}} | part["parameters"]}}
    assert part.keys() <= SweepSpec.model_fields.keys()
    data = sweep_dict(**part)
    if "ladder" in part and "search_space" not in part:
        ladder = part["ladder"]
        sizes = [size["name"] for size in ladder] if isinstance(ladder, list) else [f"L{depth}" for depth in ladder["layers"]]
        data["search_space"] = {"parameters": {"model_size": {"values": sizes}, "num_gpus": {"values": [1, 2]}}}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    check_static(load_sweep(path), slots=None)


@pytest.mark.parametrize("text", examples("python"))
def test_python_parses(text: str) -> None:
    ast.parse(text)


def test_there_are_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("line", commands())
def test_commands_are_known(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert words[0] in cli.commands
    cli.commands[words[0]].make_context(words[0], words[1:])  # raises click's UsageError
    for word in words[1:]:
        assert not word.startswith(SHIPPED) or (ROOT / word).exists(), word
