"""Documentation that can't drift: links resolve, generated tables are current, and the file tree lists every file."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from scalesweep.errors import EXIT_CODES, ScalesweepError
from scalesweep.record.fields import EVENTS, MANIFEST, REPORT
from scalesweep.record.schema import Report, State
from scalesweep.record.table import FIELDS
from scalesweep.spec import resources, sweep
from scalesweep.training.job import TrainReport

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scalesweep"
OUTSIDE = {"build", "dist", "runs"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part in OUTSIDE or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@cache
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return set(found)


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---- links -------------------------------------------------------------------------------------------------------------------


def test_there_are_pages() -> None:
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "README.md"} <= set(PAGES)
    assert len(PAGES) > 12


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_of_a_page_resolve(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and (path.suffix != ".md" or anchor not in anchors(path))):
            broken.append(target)
    assert not broken


def test_files_that_code_names_in_docs_exist() -> None:
    named = {}
    files = [*SOURCE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    for path in [*files, *(ROOT / "sweeps").iterdir(), ROOT / "Makefile", ROOT / "cluster.yaml"]:
        if path.is_file():
            for name in re.findall(r"(?<![\w./])docs/[\w./-]*\w", path.read_text(encoding="utf-8")):
                named[name] = path
    missing = {name: label(path) for name, path in named.items() if not (ROOT / name).exists()}
    assert not missing


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(([\w./-]+\.md)\)", index)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path.is_relative_to(ROOT / "docs")]
    assert sorted(name for name in listed if not name.startswith("../")) == sorted(set(pages) - {"README.md"})


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_prose_is_not_wider_than_a_screen(page: Path) -> None:
    text = reference().BLOCK.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    wide = [line for line in text.splitlines() if len(line) > 120 and not line.startswith(("|", "#"))]
    assert not wide


# ---- generated tables --------------------------------------------------------------------------------------------------------


def test_generated_tables_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    stale = reference().main(["--check"])
    assert not stale, capsys.readouterr().err


def test_every_block_is_used_and_known() -> None:
    used = [name for page in PAGES for name in re.findall(r"<!-- from the code: (\S+) -->", page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(reference().BLOCKS)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- from the code: ") == text.count("<!-- end -->"), label(page)


def test_check_finds_a_page_that_is_out_of_date() -> None:
    text = "<!-- from the code: exit-codes -->\nstale words\n<!-- end -->\n"
    filled = reference().filled(text)
    assert "| 130 |" in filled
    assert "stale words" not in filled
    assert reference().filled(filled) == filled


@pytest.mark.parametrize(
    ("words", "literal"),
    [
        (sweep.TIME_ATTRS, sweep.TimeAttr),
        (sweep.VARIANTS, sweep.Variant),
        (sweep.SURVIVAL_RULES, sweep.Survival),
        (sweep.SAMPLERS, sweep.Sampler),
        (resources.PLACEMENTS, resources.Placement),
    ],
)
def test_every_word_of_a_key_has_a_meaning(words: dict[str, str], literal: Any) -> None:
    assert list(words) == list(get_args(literal))


def test_every_exit_code_has_a_meaning() -> None:
    kinds = [ScalesweepError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)


# ---- the record --------------------------------------------------------------------------------------------------------------


def emitted() -> dict[str, set[str]]:
    """Kinds of events that the conductor and `resume` write, with the fields that they name."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((SOURCE / "control" / "conductor.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_emit":
            kind = node.args[0]
            assert isinstance(kind, ast.Constant)
            found.setdefault(str(kind.value), set()).update(word.arg for word in node.keywords if word.arg)
    for node in ast.walk(ast.parse((SOURCE / "sweep" / "launch.py").read_text(encoding="utf-8"))):
        named = [key.value for key in node.keys if isinstance(key, ast.Constant)] if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Dict) and "event" in named:
            kind = node.values[named.index("event")]
            assert isinstance(kind, ast.Constant)
            found.setdefault(str(kind.value), set()).update(set(named) - {"event", "time"})
    return found


def test_every_event_is_described() -> None:
    written = emitted()
    assert set(written) == set(EVENTS)
    for kind, fields in written.items():
        assert fields <= set(EVENTS[kind].fields), kind


def test_every_field_of_a_report_is_described() -> None:
    counted = {name for name in TrainReport.__dataclass_fields__ if name != "notes"}
    assert counted <= set(REPORT)
    assert set(Report.__dataclass_fields__) - {"order"} <= set(REPORT)
    assert set(REPORT) <= counted | emitted()["report"]


def test_every_key_of_the_manifest_is_described() -> None:
    written = assigned("record/manifest.py", "made") | assigned("sweep/launch.py", "launched")
    assert written == set(MANIFEST)


def assigned(path: str, name: str) -> set[str]:
    """The keys of a literal mapping that a module assigns to `name`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) == name:
            found |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    return found


def test_the_record_page_shows_the_leaderboard_and_the_states_as_they_are() -> None:
    text = (ROOT / "docs" / "reference" / "record.md").read_text(encoding="utf-8")
    shape = re.search(r'"trials": \[\{(.*?)\}\]', text, re.DOTALL)
    assert shape is not None
    assert re.findall(r'"(\w+)"', shape[1]) == list(FIELDS)
    assert all(f"`{state}`" in text for state in State)


# ---- the tree ----------------------------------------------------------------------------------------------------------------


def tree(text: str) -> list[str]:
    """Paths of a drawn tree: a folder's line stands for its `__init__.py`."""
    block = text[text.index("```\nsrc/scalesweep/\n") :].split("```")[1]
    paths: list[str] = []
    folders: list[str] = []
    for line in block.strip().splitlines()[1:]:
        found = re.fullmatch(r"((?:[│ ]   )*)[├└]── (\S+) +(\S.*)", line)
        assert found, f"{line!r} is not a line of the tree with a description"
        folders = folders[: len(found[1]) // 4]
        name = found[2]
        if name.endswith("/"):
            folders.append(name)
            name = "__init__.py"
        paths.append("".join(folders) + name)
    return paths


def test_the_tree_lists_every_file_once() -> None:
    listed = tree((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
