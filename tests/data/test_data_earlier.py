"""Earlier data beside new ones: nothing that judges is ever trained on, in either of them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from data_files import write_lines
from scalesweep.data.folder import copy_rows, data_files, new_rows, settled
from scalesweep.data.prepare import PreparedText, prepare
from scalesweep.data.problems import DataProblem
from scalesweep.spec.sweep import DataSpec, EarlierData

TASK = "sequence-classification"
SIZES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def rows(path: Path, words: range, films: int = 0, label: Any = lambda number: "ab"[number % 2]) -> dict[int, str]:
    """A file with a row for each number: its text, its class, and one of `films` films."""
    texts = {number: f"text number {number}" for number in words}
    columns: dict[str, list[Any]] = {"text": [*texts.values()], "label": [label(number) for number in words]}
    if films:
        draw = random.Random(0)
        columns["film"] = [f"film {draw.randrange(films)}" for _ in words]
    write_lines(path, columns)
    return texts


def fields(path: Path, **changes: Any) -> dict[str, Any]:
    return {"path": str(path), "text": "text", "label": "label", "splits": SIZES, **changes}


def together(prepared: PreparedText, *splits: str) -> set[str]:
    return {text for split in splits for text in prepared.texts[split]}


def test_no_text_of_the_earlier_data_is_new_and_what_judges_is_not_rehearsed(tmp_path: Path) -> None:
    rows(tmp_path / "old.csv", range(200))
    rows(tmp_path / "new.csv", range(150, 300))  # 50 of them are old
    old = fields(tmp_path / "old.csv")
    before = prepare(DataSpec(**old), TASK, tmp_path)
    found = prepare(DataSpec(**fields(tmp_path / "new.csv", earlier=EarlierData(**old))), TASK, tmp_path)
    assert found.summary["dropped"] == {"earlier": 50}
    assert together(found, "train", "validation", "test") == {f"text number {number}" for number in range(200, 300)}
    assert found.texts["earlier_train"] == before.texts["train"]  # and not validation, though the model has been trained on it
    judges = together(found, "earlier_validation", "earlier_test")
    assert judges == set(before.texts["test"])
    assert not set(found.texts["earlier_validation"]) & set(found.texts["earlier_test"])
    assert len(found.texts["earlier_validation"]) == 40 // 3  # of the 40 of the test split, at most a third
    assert found.earlier_fingerprint == before.fingerprint != found.fingerprint
    for split, texts in found.texts.items():
        assert found.labels[split].tolist() == [int(text.split()[-1]) % 2 for text in texts]
    assert found.summary["splits"]["earlier_train"]["classes"] == {"a": 60, "b": 60}

    apart = EarlierData(**old, trained_on=["train"])
    held_out = prepare(DataSpec(**fields(tmp_path / "new.csv", earlier=apart)), TASK, tmp_path)
    assert held_out.texts["earlier_validation"] == before.texts["validation"]
    assert held_out.texts["earlier_test"] == before.texts["test"]


def test_a_group_keeps_the_split_that_it_had(tmp_path: Path) -> None:
    rows(tmp_path / "old.csv", range(300), films=30)
    rows(tmp_path / "new.csv", range(300, 600), films=60)  # half of the films are old
    old = fields(tmp_path / "old.csv", group="film")
    found = prepare(DataSpec(**fields(tmp_path / "new.csv", group="film", earlier=EarlierData(**old))), TASK, tmp_path)
    assert found.group_names is not None
    films = {split: set(names) for split, names in found.group_names.items()}
    trained = films["train"] | films["earlier_train"]
    assert not trained & (films["test"] | films["earlier_test"] | films["earlier_validation"])
    assert not films["train"] & films["validation"]
    assert sum(len(found.texts[split]) for split in SIZES) == 300  # no row is lost
    assert found.texts["test"]
    assert films["test"] & films["earlier_test"]  # the old films of the test split that come again are in it again
    assert found.groups is not None
    numbers = [set(found.groups[split].tolist()) for split in found.texts]
    assert all(not one & other for one, other in itertools.combinations(numbers, 2))


def test_files_for_each_split_lose_rows_of_groups_that_are_elsewhere(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "old.csv",
        {"text": [f"old {n}" for n in range(60)], "label": ["a", "b"] * 30, "film": [f"f{n // 2}" for n in range(60)]},
    )
    old = fields(tmp_path / "old.csv", group="film")
    before = prepare(DataSpec(**old), TASK, tmp_path)
    assert before.group_names is not None
    of_test, of_train = before.group_names["test"][0], before.group_names["train"][0]
    for split in SIZES:
        names = [f"own {split}"] * 4 + [of_test, of_train]
        write_lines(
            tmp_path / f"{split}.csv", {"text": [f"{split} {n}" for n in range(6)], "label": ["a", "b"] * 3, "film": names}
        )
    new = {"path": {split: str(tmp_path / f"{split}.csv") for split in SIZES}, "splits": {split: split for split in SIZES}}
    found = prepare(DataSpec(**{**fields(tmp_path, group="film", earlier=EarlierData(**old)), **new}), TASK, tmp_path)
    assert found.summary["dropped"] == {"earlier_groups": 4}
    assert {split: len(found.texts[split]) for split in SIZES} == {"train": 5, "validation": 4, "test": 5}


def test_an_adaptation_may_be_adapted_again(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second", "third")):
        rows(tmp_path / f"{name}.csv", range(100 * number, 100 * number + 100))
    first = EarlierData(**fields(tmp_path / "first.csv"))
    second = fields(tmp_path / "second.csv", earlier=first)
    before = prepare(DataSpec(**second), TASK, tmp_path)
    found = prepare(DataSpec(**fields(tmp_path / "third.csv", earlier=EarlierData(**second))), TASK, tmp_path)
    assert together(found, "earlier_train") == together(before, "train", "earlier_train")
    assert together(found, "earlier_test") | together(found, "earlier_validation") == together(
        before, "test", "earlier_test", "earlier_validation"
    )
    assert not together(found, "earlier_test") & together(
        before, "earlier_validation"
    )  # rows that chose a model never judge one
    rows(tmp_path / "fourth.csv", range(350))  # 50 are new; of the others, the first validation split is in no split any more
    third = EarlierData(**fields(tmp_path / "third.csv", earlier=EarlierData(**second)))
    last = prepare(DataSpec(**fields(tmp_path / "fourth.csv", earlier=third)), TASK, tmp_path)
    assert together(last, *SIZES) == {f"text number {number}" for number in range(300, 350)}


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ({"label": lambda number: "abcd"[number % 4]}, "no output for these classes of the new data: 'd' (25)"),
        ({"label": lambda number: "ab"[number % 2]}, ""),  # a class may be absent in the new data
        ({"label": lambda _: "b"}, "new.csv: all 100 rows have the class 'b' in column 'label'"),
        (
            {"words": range(50, 150), "label": lambda number: "abc"[number % 3] if number < 100 else "a"},
            "new.csv: all 50 rows that the earlier data lack have the class 'a'",
        ),
    ],
)
def test_the_classes_are_those_of_the_model(tmp_path: Path, new: dict[str, Any], says: str) -> None:
    rows(tmp_path / "old.csv", range(100), label=lambda number: "abc"[number % 3])
    rows(tmp_path / "new.csv", **{"words": range(100, 200), **new})
    spec = DataSpec(**fields(tmp_path / "new.csv", earlier=EarlierData(**fields(tmp_path / "old.csv"))))
    if not says:
        assert prepare(spec, TASK, tmp_path).classes == ["a", "b", "c"]
        return
    with pytest.raises(DataProblem) as error:
        prepare(spec, TASK, tmp_path)
    assert says in error.value.message
    assert error.value.key == ("data", "label")


def test_a_fault_of_the_earlier_data_names_their_key(tmp_path: Path) -> None:
    rows(tmp_path / "new.csv", range(100))
    for old, key in (
        (fields(tmp_path / "absent.csv"), ("data", "earlier", "path")),
        (fields(tmp_path / "new.csv", splits={"train": 0.5, "validation": 0.5}), ("data", "earlier", "splits")),
    ):
        with pytest.raises(DataProblem) as error:
            prepare(DataSpec(**fields(tmp_path / "new.csv", earlier=EarlierData(**old))), TASK, tmp_path)
        assert error.value.key == key


def test_rows_of_a_folder_are_those_of_its_complete_data_files(tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    rows(tmp_path / "old.csv", range(100))
    rows(folder / "one.csv", range(90, 150))
    rows(folder / "two.jsonl", range(150, 200))
    (folder / "notes.txt").write_text("no data")
    (folder / ".three.csv").write_text("being written")
    (folder / "empty.csv").touch()
    first = data_files(folder)
    with (folder / "two.jsonl").open("a") as file:
        file.write('{"text": "half a li')
    ready = settled(data_files(folder), first)
    assert list(ready) == ["one.csv"]
    spec = DataSpec(**fields(tmp_path / "rows.parquet", earlier=EarlierData(**fields(tmp_path / "old.csv"))))
    assert copy_rows(folder, list(ready), spec, TASK, tmp_path / "rows.parquet") == 60
    assert new_rows(spec, TASK) == (50, 80)  # of the old rows, the validation split counts no more
    with pytest.raises(DataProblem, match=r"two\.jsonl:51"):
        copy_rows(folder, ["one.csv", "two.jsonl"], spec, TASK, tmp_path / "rows.parquet")
