"""A file for each split: rows of each file stay in its split, and a text stays in one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalesweep.data.prepare import PreparedText, prepare
from scalesweep.data.problems import DataProblem
from scalesweep.spec.sweep import DataSpec

FILES = {"train": "a.jsonl", "validation": "b.csv", "test": "c.jsonl"}
ROWS = {"a.jsonl": ["one", "two", "three", "Shared  text"], "b.csv": ["four", "five"], "c.jsonl": ["six", "shared text"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, texts in ROWS.items():
        rows = [f"{text},{number % 2}" for number, text in enumerate(texts)]
        if name.endswith(".jsonl"):
            rows = [json.dumps({"text": text, "label": number % 2}) for number, text in enumerate(texts)]
        (tmp_path / name).write_text("\n".join([*(["text,label"] if name.endswith(".csv") else []), *rows]) + "\n")
    return tmp_path


def prepared(folder: Path, path: Any = FILES, **changes: Any) -> PreparedText:
    return prepare(DataSpec(**{"path": path, **changes}), "causal-lm", folder)


def test_each_file_is_the_split_of_its_name(folder: Path) -> None:
    found = prepared(folder)
    assert found.texts == {"train": ["one", "two", "three"], "validation": ["four", "five"], "test": ["six", "shared text"]}
    assert found.summary["rows"] == {"train": 4, "validation": 2, "test": 2}
    assert found.summary["dropped"] == {"overlap": 1}, "a text of two files stays in test"
    assert found.fingerprint == prepared(folder, splits={name: name for name in FILES}).fingerprint
    (folder / "b.csv").write_text("text,label\nfour,0\nfife,1\n")
    assert found.fingerprint != prepared(folder).fingerprint


def test_a_split_may_be_drawn_from_the_file_called_train(folder: Path) -> None:
    files = {"train": "a.jsonl", "test": "c.jsonl"}
    found = prepared(folder, files, splits={"train": "train", "validation": 1, "test": "test"})
    assert {split: len(texts) for split, texts in found.texts.items()} == {"train": 2, "validation": 1, "test": 2}
    assert {*found.texts["train"], *found.texts["validation"]} == {"one", "two", "three"}


def test_classes_are_those_of_all_files(folder: Path) -> None:
    found = prepare(DataSpec(path=FILES, label="label"), "sequence-classification", folder)
    assert found.classes == ["0", "1"]
    assert found.labels["validation"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "b.csv not found"),
        ("txt,label\nfour,0\n", "b.csv has no column 'text'"),
        ("text,label\nfour\n", "b.csv:2: the row has 1 cell"),
        ("", "the file is empty"),
    ],
)
def test_a_problem_is_at_the_key_of_its_file(folder: Path, content: str | None, says: str) -> None:
    (folder / "b.csv").unlink()
    if content is not None:
        (folder / "b.csv").write_text(content)
    with pytest.raises(DataProblem) as caught:
        prepared(folder)
    assert says in str(caught.value)
    assert caught.value.key == (("data", "text") if "column" in says else ("data", "path", "validation"))


def test_conversations_of_all_files_have_one_format(folder: Path) -> None:
    rows = {
        "a.jsonl": {"instruction": "one", "output": "x"},
        "b.jsonl": {"instruction": "two", "input": "of it", "output": "y"},
    }
    rows["c.jsonl"] = {"prompt": "three", "completion": "z"}
    for name, row in rows.items():
        (folder / name).write_text(json.dumps(row))
    files = dict(zip(FILES, rows, strict=True))
    with pytest.raises(DataProblem, match="split 'test' has the columns prompt, completion, and 'validation' has instruction"):
        prepare(DataSpec(path=files), "instruction-tuning", folder)
    (folder / "c.jsonl").write_text(json.dumps(rows["a.jsonl"] | {"instruction": "four"}))
    found = prepare(DataSpec(path=files), "instruction-tuning", folder)
    assert found.summary["columns"] == {"instruction": "instruction", "output": "output", "input": "input"}


def test_keys_of_the_hub_have_no_effect_on_files(folder: Path) -> None:
    for path, splits in ((FILES, {name: name for name in FILES}), ("a.jsonl", {"train": 1, "validation": 1, "test": 1})):
        with pytest.raises(DataProblem, match="is no hub data set, so it has no revision") as caught:
            prepared(folder, path, splits=splits, revision="main")
        assert caught.value.key == ("data", "revision")


def test_a_mapping_names_files_alone(folder: Path) -> None:
    for wrong, says in ((".", "is a folder"), ("nyu-mll/glue", "is no file of this machine")):
        with pytest.raises(DataProblem, match=says) as caught:
            prepared(folder, {**FILES, "test": wrong})
        assert caught.value.key == ("data", "path", "test")
