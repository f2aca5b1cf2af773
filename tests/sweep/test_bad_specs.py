"""Mistakes of a user: each is refused before any compute, with file, line, key and remedy, on one screen.

A small sweep that is right is broken in one place at a time. The expected line is found in the text by a marker.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from bad_specs import (
    CAUSAL,
    CAUSAL_SPACE,
    DEPTH_NAMES,
    DEPTHS,
    RATE,
    SLOTS,
    SPACE,
    SWEEP,
    Bad,
    Edits,
    data,
    keys,
    sizes,
    spaces,
)
from bad_specs.checkpoints import make_models
from command_line import refused
from preflights import sizes_resolved_once
from scalesweep.errors import SpecError, UserError
from scalesweep.spec import load_sweep
from scalesweep.sweep.preflight import Plan, check_static, preflight, static_problems
from tiny_models import WORDS

torch.set_num_threads(1)

BAD = [case for table in (keys, spaces, sizes, data) for case in table.CASES]


# ---- the files that the sweeps name ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def each_right_size_is_resolved_once() -> Iterator[None]:
    with sizes_resolved_once():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


FILES = {"reviews.csv", "own.py", "broken.py"}


def write_data(folder: Path) -> None:
    (folder / "own.py").write_text(
        "NUMBER = 1\n\ndef one(answer):\n    return 0\n\ndef score(answer, reference):\n    return 0\n\n"
        "def fails(answer, reference):\n    raise KeyError(answer[:0])\n\ndef words(answer, reference):\n    return 'good'\n"
    )
    (folder / "broken.py").write_text("import nothing\n")
    rows = ["text,label,same"]
    for index, (first, second, third) in enumerate(
        itertools.islice(itertools.product(WORDS[:5], WORDS[5:10], WORDS[10:14]), 100)
    ):
        rows.append(f"{first} {second} {third},{('good', 'bad')[index % 2]},one")
    (folder / "reviews.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def edited(text: str, edits: Edits) -> str:
    for old, new in edits:
        assert text.count(old) >= 1, f"nothing to replace: {old!r}"
        text = text.replace(old, new, 1)
    return text


def write(folder: Path, models: Path, sweep: Edits = [], space: Edits = []) -> Path:  # noqa: B006
    """The two files in `folder`; returns the sweep's."""
    (folder / "space.yaml").write_text(edited(SPACE, space), encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(edited(SWEEP, sweep).replace("MODELS", str(models)), encoding="utf-8")
    return path


def line_of(path: Path, marker: str, models: Path) -> int:
    text = path.read_text(encoding="utf-8")
    marker = marker.replace("MODELS", str(models))
    assert text.count(marker) == 1, f"the marker {marker!r} has to stand once in {path.name}"
    return text[: text.index(marker)].count("\n") + 1


def checked(path: Path, overrides: tuple[str, ...] = (), slots: int = SLOTS) -> Plan:
    """The checks that `plan` and `launch` make before Ray starts."""
    spec = load_sweep(path, overrides, also=lambda spec: static_problems(spec, slots))
    check_static(spec, slots)
    return preflight(spec, slots, path.parent)


def assert_one_screen(text: str) -> None:
    rows = sum(1 + len(line) // 100 for line in f"error: {text}".splitlines())
    assert rows <= 24, f"{rows} rows:\n{text}"
    for word in ("Traceback", "pydantic", "Error:", "raise ", "site-packages", "<class", "object at 0x"):
        assert word not in text, text


# ---- the tests ---------------------------------------------------------------------------------------------------------------


def test_the_sweep_that_is_broken_below_is_right(folder: Path, models: Path) -> None:
    assert checked(write(folder, models)).cost.trials == 6
    assert checked(write(folder, models, CAUSAL, CAUSAL_SPACE)).cost.trials == 6
    assert checked(write(folder, models, DEPTHS, DEPTH_NAMES)).cost.trials == 6


def test_a_tied_head_trains_with_the_highest_block_and_plan_says_what_it_holds(folder: Path, models: Path) -> None:
    assert checked(write(folder, models)).ladder_notes == []  # a classifier's head is its own
    assert checked(write(folder, models, CAUSAL, CAUSAL_SPACE)).ladder_notes == []  # full trains everything at once
    made = checked(write(folder, models, [*CAUSAL, ("MODELS/gpt2\n    layers", "MODELS/opt\n    layers")]))
    none, norm = made.ladder_notes
    assert none.startswith(
        "small: the output layer is tied to the embeddings, so the head holds no parameters; the highest block"
    )
    assert "large: the output layer is tied to the embeddings, so the head holds only transformer.ln_f.weight and " in norm
    assert "transformer.ln_f.bias (64 parameters)" in norm
    assert "unfreezing (head, gradual) trains the head alone" in norm
    assert [(size.head_groups, size.group_params[-1]) for size in made.sizes] == [(2, 0), (2, 64)]


def test_the_cases_are_many_and_distinct() -> None:
    assert len({case.id for case in BAD}) == len(BAD) >= 60


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id.replace(" ", "-"))
def test_refused_with_file_line_key_and_remedy(case: Bad, folder: Path, models: Path) -> None:
    path = write(folder, models, case.sweep, case.space)
    named = folder / "space.yaml" if case.key.startswith("parameter") else path
    with pytest.raises(SpecError) as caught:
        checked(path)
    error, text = caught.value, str(caught.value)
    assert error.exit_code == 2
    assert len(error.problems) == case.problems, text
    [problem] = [p for p in error.problems if p.key == case.key and case.says in p.message] or pytest.fail(text)
    assert (problem.file, problem.line) == (str(named), line_of(named, case.at, models)), text
    assert case.hint in problem.hint
    assert str(problem) in text
    assert f"{named}:{problem.line}  {case.key}" in text
    assert all(p.hint for p in error.problems)
    assert_one_screen(text)
    assert not list(folder.rglob("pwned"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("override", "says", "hint"),
    [
        ("nonsense", "--set nonsense: this is not KEY=VALUE", "--set budget.gpu_hours=40"),
        ("=3", "not KEY=VALUE", "for example"),
        ("budget..run_cap=3", "not KEY=VALUE", "for example"),
        ("budget.run_cpa=3", "--set budget.run_cpa=3  budget.run_cpa: unknown key", "did you mean 'run_cap'?"),
        ("budget.run_cap=six", "--set budget.run_cap=six  budget.run_cap: must be a whole number", "trials at most"),
        ("budget.run_cap=[", "--set budget.run_cap=[  not valid YAML", "brackets"),
        ("budget.run_cap=!!python/name:os.system x", "is not allowed", "scalesweep never runs a tag"),
        ("name.first=x", "name is 'tiny', not a mapping", "set the whole value"),
        (
            "search_space.parameters.dropout.value=2",
            "--set search_space.parameters.dropout.value=2  parameters.dropout",
            "0.999",
        ),
        ("early_terminate.max_t=2", "early_terminate.grace_period: 4 is above max_t (2)", "lower it"),
        ("metric.name=eval_acc", "--set metric.name=eval_acc  metric.name: 'eval_acc' is unknown", "'eval_accuracy'"),
    ],
)
def test_set_is_refused_by_name(override: str, says: str, hint: str, folder: Path, models: Path) -> None:
    with pytest.raises(UserError) as caught:
        checked(write(folder, models), (override,))
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert says in text
    assert hint in text
    assert_one_screen(text)


def test_files_that_are_none(folder: Path, models: Path) -> None:
    path = write(folder, models)
    for content, says in (
        (b"", "must be a mapping"),
        (b"- a\n", "must be a mapping"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(SpecError, match=says) as caught:
            checked(path)
        assert "hint: " in str(caught.value)
    with pytest.raises(SpecError, match=r"sweep file not found\n    hint: did you mean .*sweep\.yaml"):
        checked(folder / "sweeep.yaml")
    with pytest.raises(SpecError, match="is a folder\n    hint: give the path of the sweep file in it"):
        checked(folder)
    path.write_text("[" * 5000, encoding="utf-8")
    with pytest.raises(SpecError, match="too deep"):
        checked(path)
    path = write(folder, models)
    (folder / "space.yaml").write_text("", encoding="utf-8")
    with pytest.raises(SpecError, match=r"space\.yaml.*must be a mapping of parameters") as caught:
        checked(path)
    assert "begin the file with 'parameters:'" in str(caught.value)


# ---- many at once ------------------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_in_both_files_is_shown_in_one_go(folder: Path, models: Path) -> None:
    path = write(
        folder,
        models,
        sweep=[
            *[("grace_period: 4", "grace_period: 13"), ("run_cap: 6", "dollars: 5"), ("test: 20", "test: 0")],
            ("eval_loss", "eval_los"),
        ],
        space=[
            *[(RATE, "    min: 0.0\n    max: 1.0e-2"), ("[full, head, gradual]", "[full, heat, gradual]")],
            ("[linear, cosine]", "[lin, cosine]"),
        ],
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    assert {problem.key for problem in caught.value.problems} == {
        "early_terminate.grace_period",
        "budget.dollars",
        "data.splits.test",
        "metric.name",
        "parameters.learning_rate.min",
        "parameters.lr_scheduler_type.values[0]",
        "parameters.unfreezing.values[1]",
    }
    assert_one_screen(str(caught.value))


def test_a_misspelt_key_hides_no_other_problem(folder: Path, models: Path) -> None:
    path = write(
        folder,
        models,
        sweep=[("grace_period: 4", "grace_period: 13"), ("run_cap: 6", "run_cpa: 6"), ("max_length: 16", "max_length: long")],
        space=[("    min: 1.0e-4", "    min: 0.0"), ("unfreezing: {values: [full, head, gradual]}", "unfreezing: full")],
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    # What would follow from these alone (a budget without a limit, `when` on a parameter that is gone) is not said.
    assert {problem.key for problem in caught.value.problems} == {
        "budget.run_cpa",
        "data.max_length",
        "early_terminate.grace_period",
        "parameters.learning_rate.min",
        "parameters.unfreezing",
    }


def test_metric_schedule_and_gpus_at_once(folder: Path, models: Path) -> None:
    path = write(folder, models, [("eval_loss", "eval_los")], [("[1, 2]", "[1, 2, 8]"), ("[linear, cosine]", "[lin, cosine]")])
    with pytest.raises(SpecError) as caught:
        checked(path)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"metric.name", "parameters.num_gpus.values[2]", "parameters.lr_scheduler_type.values[0]"}


def test_data_and_models_at_once(folder: Path, models: Path) -> None:
    path = write(
        folder, models, [("label: label", "label: lable"), ("max_length: 16", "max_length: 99"), ("layers: 1", "layers: 8")]
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    assert {problem.key for problem in caught.value.problems} == {"data.label", "data.max_length", "ladder[0].model"}


def test_more_than_fit_are_counted(folder: Path, models: Path) -> None:
    wrong = "".join(f"  knob_{index}: {{value: 1}}\n" for index in range(40))
    with pytest.raises(SpecError) as caught:
        checked(write(folder, models, space=[("parameters:\n", f"parameters:\n{wrong}")]))
    assert len(caught.value.problems) == 40
    text = str(caught.value)
    assert text.endswith(f"… and {40 - SpecError.shown} more")
    assert "knob_0" in text
    assert "knob_39" not in text


# ---- through the command line ------------------------------------------------------------------------------------------------

LAUNCHED: list[tuple[str | None, list[str]]] = [
    ("unknown key", []),
    ("tag that would run code", []),
    ("unknown schedule", []),
    ("label column missing", []),
    ("knob that the architecture lacks", []),
    (None, ["--set", "budget.run_cpa=3"]),
]


def test_launch_exits_2_before_ray(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here Ray can't be imported, and so neither started; and a new process that imports what comes before it has none."""
    imports = "import sys, scalesweep.cli, scalesweep.sweep.launch, scalesweep.sweep.preflight; print('ray' in sys.modules)"
    apart = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    assert apart.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "ray", None)
    children = set(psutil.Process().children())
    for number, (id, arguments) in enumerate(LAUNCHED):
        case = next((case for case in BAD if case.id == id), None)
        folder = tmp_path / str(number)
        folder.mkdir()
        write_data(folder)
        path = write(folder, models, *((case.sweep, case.space) if case else ()))
        told = refused("launch", path.name, "--num-gpus", str(SLOTS), *arguments, cwd=folder)
        assert re.search(r"^error: ", told, re.MULTILINE)
        assert "hint: " in told
        if case is not None:
            named = folder / ("space.yaml" if case.key.startswith("parameters") else "sweep.yaml")
            line = line_of(named, case.at, models)
            assert f"{named.name}:{line}  {case.key}: " in told
        assert {entry.name for entry in folder.iterdir()} == {"sweep.yaml", "space.yaml", *FILES}  # no runs/
        assert set(psutil.Process().children()) <= children
