"""Labels, classes and missing cells: the same in every format, counted and pointed out."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import HALVES, TASK, problem, spec, write_lines
from scalesweep.data.prepare import prepare


def test_missing_cells_and_other_classes_are_dropped_and_counted(tmp_path):
    pd.DataFrame(
        {
            "text": ["a", None, "  ", "b", "c", "d", "e", "f", "g", "h"],
            "label": ["x", "x", "y", None, "x", "y", "x", "y", "z", "NA"],
        }
    ).to_csv(tmp_path / "a.csv", index=False)
    prepared = prepare(spec("a.csv", labels=["y", "x"], splits={"train": 3, "validation": 2}), TASK, tmp_path)
    assert prepared.classes == ["y", "x"]
    assert prepared.summary["dropped"] == {"missing_text": 2, "missing_label": 1, "other_classes": 2}
    assert "dropped 2 rows without text" in prepared.notes
    assert any("z 1" in note and "NA 1" in note for note in prepared.notes)
    assert json.loads(json.dumps(prepared.summary)) == prepared.summary


def labelled(base: Path, labels: list | pa.Array, name: str) -> list[str]:
    """The classes of a file whose rows have these labels in turn; each text says which label it has."""
    values = labels if isinstance(labels, list) else labels.cast(pa.string()).to_pylist()
    texts = [f"{value} {n}" for n in range(4) for value in values]
    if name.endswith(".parquet"):
        column = pa.chunked_array([pa.array(labels)] * 4)
        pq.write_table(pa.table({"text": texts, "label": column}), base / name)
    else:
        write_lines(base / name, {"text": texts, "label": values * 4})
    prepared = prepare(spec(name, splits=HALVES), TASK, base)
    assert sum(len(kept) for kept in prepared.texts.values()) == len(texts)
    by_word: dict[str, set[str]] = {}
    for split, kept in prepared.texts.items():
        for text, number in zip(kept, prepared.labels[split], strict=True):
            by_word.setdefault(text.rpartition(" ")[0], set()).add(prepared.classes[number])
    assert sorted(next(iter(classes)) for classes in by_word.values() if len(classes) == 1) == sorted(prepared.classes)
    return prepared.classes


DICTIONARY = pa.array(["b", "a"]).dictionary_encode()


@pytest.mark.parametrize(
    ("name", "labels", "classes"),
    [
        ("a.parquet", ["b", "a"], ["a", "b"]),
        ("a.parquet", [10, 9], ["9", "10"]),
        ("a.parquet", [True, False], ["false", "true"]),
        ("a.parquet", [10.0, 9.0], ["9", "10"]),
        ("a.parquet", [Decimal("10"), Decimal("9.0")], ["9", "10"]),
        ("a.parquet", [date(2024, 2, 1), date(2024, 1, 1)], ["2024-01-01", "2024-02-01"]),
        ("a.parquet", pa.array(["b", "a"], pa.large_string()), ["a", "b"]),
        ("a.parquet", pa.array(["b", "a"], pa.string_view()), ["a", "b"]),
        ("a.parquet", DICTIONARY, ["a", "b"]),
        ("a.jsonl", ["10", "9"], ["10", "9"]),
        ("a.jsonl", [10, 9], ["9", "10"]),
        ("a.jsonl", [2**63 + 1, 2**63], [str(2**63), str(2**63 + 1)]),
        # In a CSV labels are words, which sort as numbers if they are plain whole numbers.
        ("a.csv", ["001", "01", "010", "10"], ["001", "01", "010", "10"]),
        ("a.csv", ["10", "9", "-1"], ["-1", "9", "10"]),
        ("a.csv", ["+1", "-1"], ["+1", "-1"]),
        ("a.csv", ["1.0", "0.0"], ["0.0", "1.0"]),
        ("a.csv", ["TRUE", "FALSE"], ["FALSE", "TRUE"]),
        ("a.csv", ["2024-02-01", "2024-01-01"], ["2024-01-01", "2024-02-01"]),
        ("a.csv", ["9007199254740993", "9007199254740992"], ["9007199254740992", "9007199254740993"]),
        ("a.csv", ["18446744073709551617", "18446744073709551616"], ["18446744073709551616", "18446744073709551617"]),
        ("a.csv", ["NA", "x", "1"], ["1", "NA", "x"]),
    ],
)
def test_labels_are_classes_as_the_data_have_them(tmp_path, name, labels, classes):
    assert labelled(tmp_path, labels, name) == classes


def test_names_that_may_be_mistakes_are_pointed_out(tmp_path):
    names = ["spam", "spam ", "Spam", "ham", "none", "n o n e"]
    pd.DataFrame({"text": [f"t{n}" for n in range(24)], "label": names * 4, "by": ["Ann", "ann"] * 12}).to_csv(
        tmp_path / "a.csv", index=False
    )
    prepared = prepare(spec("a.csv", group="by", splits=HALVES), TASK, tmp_path)
    assert len(prepared.classes) == 6
    alone = "by case, blanks, Unicode form or invisible characters alone"
    assert f"class names that differ {alone}: 'Spam' (4) and 'spam' (4) and 'spam ' (4)" in prepared.notes
    assert f"group names that differ {alone}: 'Ann' (12) and 'ann' (12)" in prepared.notes
    assert any(note.startswith("4 rows with the word 'none' as class in 'label'") for note in prepared.notes)
    listed = prepare(spec("a.csv", labels=["none", "ham", "spam"], splits=HALVES), TASK, tmp_path).notes
    assert any("'spam ' (4)" in note for note in listed)
    assert not any("have the word" in note for note in listed)
    # Names that look the same: an accent of its own, and characters without width.
    names = ["caf\u00e9", "cafe\u0301", "ham\u200b", "ham", "\ufeffham", "ham\u200d", "\u200c", "x"]
    write_lines(tmp_path / "b.jsonl", {"text": [f"t{n}" for n in range(24)], "label": names * 3})
    prepared = prepare(spec("b.jsonl", splits=HALVES), TASK, tmp_path)
    assert set(prepared.classes) == set(names), "the data are not changed"
    (note,) = (note for note in prepared.notes if alone in note)
    assert "'cafe\\u0301' (3) and 'café' (3); 'ham' (3) and 'ham\\u200b' (3) and 'ham\\u200d' (3) and '\\ufeffham' (3)" in note
    assert any(note.startswith("3 rows with the word '\\u200c' as class") for note in prepared.notes)
    write_lines(tmp_path / "c.jsonl", {"text": list("abcdefgh"), "label": ["caf\u00e9", "ham"] * 4})
    assert "'café'? data.labels has 'cafe\\u0301'" in problem(tmp_path, path="c.jsonl", labels=["ham", "cafe\u0301"]).hint


def test_texts_that_are_a_word_for_nothing_are_kept_and_counted(tmp_path):
    words = ["fine", "null", "N/A", " None ", "nan", "\u200b", "nancy", "none of it"]
    columns = {"text": words, "other": [*list("abcdefg"), "NIL"], "label": list("abcdefgh")}
    write_lines(tmp_path / "a.jsonl", columns)
    prepared = prepare(
        spec("a.jsonl", text=["text", "other"], labels=list("bcdefgh"), splits={"train": 4, "validation": 3}), TASK, tmp_path
    )
    assert sorted(text for texts in prepared.texts.values() for text in texts) == sorted(words[1:])
    assert any("'text' that are a word for nothing are kept: 5, such as 'null' (row 2);" in note for note in prepared.notes)
    assert any("'other' that are a word for nothing are kept: 1, such as 'NIL' (row 8);" in note for note in prepared.notes)
    splits = {name: datasets.Dataset.from_dict(columns) for name in ("train", "dev")}
    splits["dev"] = splits["dev"].select([0, 6, 7])
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "many")
    splits = {"train": "train", "validation": "dev"}
    noted = prepare(spec("many", text="other", label=None, splits=splits), "causal-lm", tmp_path).notes
    assert any("are kept: 2, such as 'NIL' (row 8 of split 'train');" in note for note in noted)


# Values of one column, and those of them that are missing.
MISSING = [
    ("a.csv", ["u1", "", "  ", "NaN", "NA"], {1, 2}),
    ("a.csv", ["1", "", "  ", "NaN", "NA", "02"], {1, 2, 3, 4}),
    ("a.csv", ["001", "1.0", "", "null", "nan"], {2, 3, 4}),
    ("a.jsonl", ["u1", "", " \t", None, float("nan"), "NaN"], {1, 2, 3, 4}),
    ("a.jsonl", [1, float("nan"), None, 2, 2**53 + 1], {1, 2}),
    ("a.parquet", ["u1", "", "\u2003", None, "NaN"], {1, 2, 3}),
    ("a.parquet", [1.0, float("nan"), None, 2.0, 3.0], {1, 2}),
]


@pytest.mark.parametrize(("name", "values", "missing"), MISSING)
def test_every_column_and_format_has_one_definition_of_missing(tmp_path, name, values, missing):
    kinds, count = len(values), 10
    columns = {
        "text": [f"t{n}" for n in range(kinds * count)],
        "label": ["a", "b"] * (kinds * count // 2),
        "by": values * count,
    }
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), tmp_path / name)
    else:
        write_lines(tmp_path / name, columns)
    grouped = prepare(spec(name, group="by", splits=HALVES), TASK, tmp_path)
    assert grouped.summary["ungrouped"] == count * len(missing)
    assert f"{count * len(missing)} rows without a value in 'by'; each is a group of its own" in grouped.notes
    places: list[set[str]] = [set() for _ in values]
    for split, texts in grouped.texts.items():
        for text in texts:
            places[int(text[1:]) % kinds].add(split)
    assert {number for number, splits in enumerate(places) if len(splits) == 2} == missing, "any other value is in one split"
    labelled = prepare(spec(name, label="by", splits=HALVES), TASK, tmp_path)
    assert labelled.summary["dropped"] == {"missing_label": count * len(missing)}
