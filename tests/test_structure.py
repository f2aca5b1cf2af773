"""The import table of the rooms (design guide, section 3), read off the source: what a room may import, and what not.

Every import counts, also those inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import scalesweep
from processes import loaded_by_ready
from scalesweep.cli import cli

SOURCE = Path(__file__).parents[1] / "src" / "scalesweep"

# Room → the rooms that it may import. Any room may import itself and errors.py.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "costs": set(),
    "storage": set(),
    "examples": set(),
    "streams": set(),
    "spec": {"costs"},
    "record": {"spec", "costs", "storage", "examples"},
    "search": {"spec", "record", "costs"},
    "control": {"spec", "record", "search", "costs"},
    "simulation": {"spec", "record", "search", "control", "costs", "storage"},
    "tasks": {"spec"},
    "data": {"spec", "tasks", "storage"},
    "models": {"spec", "tasks", "costs", "storage"},
    "training": {"spec", "tasks", "data", "models", "costs", "storage", "examples"},
    "workers": {"training", "costs"},
    "scaling": {"spec", "record", "costs"},
    "report": {"spec", "record", "simulation", "scaling", "costs", "storage"},
    "sweep": {
        "spec",
        "record",
        "search",
        "control",
        "tasks",
        "data",
        "models",
        "training",
        "workers",
        "report",
        "costs",
        "storage",
    },
    "promotion": {"spec", "record", "search", "tasks", "data", "models", "training", "workers", "report", "costs", "storage"},
}
ROOMS["commands"] = {
    *("spec", "record", "search", "simulation", "training", "scaling", "report", "sweep", "promotion", "storage"),
}
ROOMS["cli"] = ROOMS["api"] = set(ROOMS)  # the two faces: the command line and Python
ROOMS["__main__"] = {"cli"}
ROOMS["__init__"] = {"api", "record", "promotion"}  # what `from scalesweep import …` loads when asked

# Library → the rooms, or single modules, that may import it. A library that is not listed may be imported nowhere.
LIBRARIES: dict[str, set[str]] = {
    "optuna": {"search", "sweep/study.py", "simulation/driver.py"},  # the latter two make the storage that a study lives in
    "tokenizers": {"data"},
    "torch": {"tasks", "models", "training", "workers/rank.py"},
    "bitsandbytes": {"models/low_bits.py", "training/optimizer.py"},
    "peft": {"training/methods/adapters.py", "training/methods/adapter_costs.py", "promotion/final_run.py"},
    "accelerate": {"training"},
    "transformers": {"tasks", "models", "training", "promotion"},
    "datasets": {"data"},
    "wandb": {"report/wandb/uploader.py"},
    "wandb_workspaces": {"report/wandb/workspace.py"},
    "ray": {"sweep", "workers"},
    # light, or bound to one room's work
    "aiohttp": {"sweep/jobs.py"},  # only to know its errors: Ray's job client lets them through
    "click": {"cli.py", "commands"},
    "huggingface_hub": {"models", "promotion/hub.py"},
    "matplotlib": {"report"},
    "numpy": {
        *("search", "simulation", "data", "tasks", "training", "scaling", "report", "promotion", "examples"),
        *("record/evaluations.py", "record/influence.py", "record/uncertainty.py"),
    },
    "pandas": {"simulation", "record/table.py", "record/schema.py"},  # record: `to_frame` alone, inside the function
    "pyarrow": {"data", "storage"},
    "scipy": {"search", "control", "scaling"},
    "sklearn": {"simulation"},
    "pydantic": {"spec", "promotion"},  # promotion catches what a TrialConfig of an edited record raises
    "rich": {"report"},
    "safetensors": {"models", "training"},
    "yaml": {"spec", "promotion"},  # promotion writes the model card's header
}

# Of the standard library, where a room has to stay pure: search and control know no clock and no file, costs are numbers alone.
OUTSIDE = {"time", "datetime", "pathlib", "os", "io", "shutil", "tempfile", "socket", "subprocess", "threading"}
FORBIDDEN = {
    "search": OUTSIDE,
    "control": OUTSIDE,
    "costs": {"time", "datetime", "pathlib", "os", "io"},
}


@dataclass(frozen=True)
class Import:
    where: str  # path below src/scalesweep
    line: int
    module: str  # as written: scalesweep.spec.load, torch.nn, …
    names: tuple[str, ...]  # of `from module import names`

    @property
    def room(self) -> str:
        return room_of(self.where)

    def __str__(self) -> str:
        return f"{self.where}:{self.line} imports {self.module} ({', '.join(self.names)})"


def room_of(where: str) -> str:
    return where.partition("/")[0].removesuffix(".py")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports() -> Iterator[Import]:
    for path in modules():
        where = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(where, node.lineno, alias.name, ())
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{where}:{node.lineno} is a relative import"
                yield Import(where, node.lineno, node.module or "", tuple(alias.name for alias in node.names))


IMPORTS = list(imports())


def rooms_imported(item: Import) -> set[str]:
    """The rooms that an import of our own package reaches."""
    parts = item.module.split(".")
    if parts[0] != "scalesweep":
        return set()
    if len(parts) > 1:
        return {parts[1]}
    return {name for name in item.names if name in ROOMS}  # `from scalesweep import spec`; `__version__` is of no room


def test_the_table_covers_every_module_and_every_module_was_read() -> None:
    assert {room_of(path.relative_to(SOURCE).as_posix()) for path in modules()} == set(ROOMS)
    assert len(IMPORTS) > 100


def test_rooms_import_only_what_the_table_allows() -> None:
    wrong = [item for item in IMPORTS if rooms_imported(item) - ROOMS[item.room] - {item.room, "errors"}]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_table_has_no_circle() -> None:
    """One direction only: what a room imports never imports it back."""
    order: list[str] = []
    waiting = {room: set(others) - {room, "cli", "api", "__init__", "__main__"} for room, others in ROOMS.items()}
    while waiting:
        ready = [room for room, others in waiting.items() if others <= set(order)]
        assert ready, f"a circle among {sorted(waiting)}"
        order += ready
        for room in ready:
            del waiting[room]


def test_one_heavy_library_per_room() -> None:
    wrong = []
    for item in IMPORTS:
        library = item.module.partition(".")[0]
        if library == "scalesweep" or library in sys.stdlib_module_names:
            continue
        if not {item.room, item.where} & LIBRARIES.get(library, set()):
            wrong.append(item)
    assert not wrong, "\n".join(map(str, wrong))


def test_no_leave_in_the_table_is_unused() -> None:
    """A row that nothing needs any more would let the next import in unseen."""
    used = {(item.module.partition(".")[0], place) for item in IMPORTS for place in (item.room, item.where)}
    unused = {(library, place) for library, places in LIBRARIES.items() for place in places} - used
    assert not unused


def test_pure_rooms_know_no_clock_and_no_file() -> None:
    wrong = [item for item in IMPORTS if item.module.partition(".")[0] in FORBIDDEN.get(item.room, set())]
    assert not wrong, "\n".join(map(str, wrong))
    for path in (*(SOURCE / "search").rglob("*.py"), *(SOURCE / "control").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"), path.name


def test_nobody_imports_what_another_library_keeps_private() -> None:
    found = set()
    for item in IMPORTS:
        library = item.module.partition(".")[0]
        if library in ("scalesweep", "__future__"):
            continue
        parts = [*item.module.split("."), *item.names]
        if any(part.startswith("_") and not part.endswith("__") for part in parts):
            found.add((item.where, item.module))
    assert found == set()


def test_nobody_imports_what_another_of_our_modules_keeps_private() -> None:
    wrong = [item for item in IMPORTS if item.module.startswith("scalesweep") and any(n.startswith("_") for n in item.names)]
    assert [(item.where, item.names) for item in wrong] == [("cli.py", ("__version__",))]


def test_one_console_prints_and_it_takes_no_text_for_markup() -> None:
    """A class `[/misc]` or a folder `[old]` would vanish or raise in a console that reads rich's markup."""
    made = [item.where for item in IMPORTS if item.module == "rich.console" and "Console" in item.names]
    assert set(made) == {"report/terminal.py"}
    assert not [item for item in IMPORTS if item.module == "rich.markup" or (item.module == "rich" and "print" in item.names)]


def test_the_public_names_are_listed() -> None:
    assert set(scalesweep.__all__) <= set(dir(scalesweep))
    assert all(getattr(scalesweep, name) for name in scalesweep.__all__)


def test_modules_stay_small_and_are_named_for_what_they_do() -> None:
    for path in modules():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 600, f"{path} has {lines} lines: split it where it has two purposes"
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}, path


PROGRAMS = re.compile(
    rf"(scalesweep ({'|'.join(cli.commands)})|optuna-dashboard|wandb sync|pip install|python -c)[^`]*[ \"'/=]$"
)


def test_printed_commands_are_quoted_in_one_place() -> None:
    """A command with a value in it is made by `errors.command` or `errors.shell`, so no blank of a path breaks it."""
    wrong = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                for before, value in itertools.pairwise(node.values):
                    if (
                        isinstance(before, ast.Constant)
                        and PROGRAMS.search(str(before.value))
                        and isinstance(value, ast.FormattedValue)
                    ):
                        wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


QUESTIONS = ("What", "Of", "Who", "How")


def test_docstrings_begin_with_the_noun() -> None:
    """Neither a docstring nor the text under a constant opens with one of QUESTIONS."""
    wrong, read = [], 0
    for path in modules():
        where = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                read += 1
                words = re.findall(r"\w+", node.value.value)
                if words[:1] and words[0] in QUESTIONS:
                    wrong.append(f"{where}:{node.lineno} {' '.join(words[:8])}")
    assert read > 500
    assert not wrong, "\n".join(wrong)


# What a subprocess has loaded after importing the modules; the first two lists are what preflight reads tables from.
@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        ("scalesweep", "pydantic click rich yaml"),
        ("scalesweep.spec scalesweep.record scalesweep.cli scalesweep.costs scalesweep.api", "numpy rich"),
        (
            "scalesweep.tasks.sequence_classification scalesweep.tasks.causal_lm scalesweep.training.schedules scalesweep.models.architectures "
            "scalesweep.promotion.recipes",
            "",
        ),
        ("scalesweep.search.survival", "optuna"),
        ("scalesweep.report.leaderboard scalesweep.report.progress scalesweep.report.trackers", "numpy"),
        ("scalesweep.data.prepare scalesweep.data.tokens", "pyarrow"),
        ("scalesweep.sweep.preflight", "optuna"),  # so that `check_static` answers at once
    ],
)
def test_importing_a_room_loads_nothing_heavy(names: str, heavy: str) -> None:
    always = "torch transformers accelerate datasets ray wandb pandas sklearn scipy"
    loaded = loaded_after(names.split()) & {*heavy.split(), *always.split()}
    assert not loaded


def test_training_needs_neither_ray_nor_a_sweep() -> None:
    """A process that starts with the imports of training and a few more has loaded nothing of these."""
    loaded = loaded_by_ready()
    assert {"scalesweep.training.loop", "scalesweep.training.job"} <= loaded
    assert "torch" in loaded
    assert not loaded & {
        "ray",
        "optuna",
        "wandb",
        "scalesweep.sweep",
        "scalesweep.workers",
        "scalesweep.search",
        "scalesweep.record",
    }


def loaded_after(names: list[str]) -> set[str]:
    code = f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
