"""Conversations in files of each format: the same rows, whole in their splits; rows that can't be used named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scalesweep.data.prepare import PreparedText, prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.tokens import TokenizedData, tokenize
from scalesweep.spec.sweep import DataSpec
from scalesweep.tasks import IGNORED, task_of
from tiny_models import CHAT, WORDS, tiny_tokenizer

TASK = "instruction-tuning"
SPLITS = {"train": 12, "validation": 4, "test": 4}
ASKED = [(" ".join(WORDS[n : n + 3]), WORDS[n]) for n in range(20)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in ASKED],
    "prompt-completion": [{"prompt": q, "completion": a} for q, a in ASKED],
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in ASKED],
    "sharegpt": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in ASKED],
}


def spec(path: str, **changes: Any) -> DataSpec:
    return DataSpec.model_validate({"path": path, "splits": SPLITS, "max_length": 16, **changes})


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:  # lists as JSON text
        pd.DataFrame(rows).map(lambda cell: cell if isinstance(cell, str) else json.dumps(cell)).to_csv(path, index=False)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_in_every_file_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    found: list[PreparedText] = []
    for name, rows in ROWS.items():
        write(tmp_path / f"{name}{suffix}", rows)
        found.append(prepare(spec(f"{name}{suffix}"), TASK, tmp_path))
    assert {split: len(texts) for split, texts in found[0].texts.items()} == SPLITS
    assert len({one.fingerprint for one in found}) == 1
    held = sorted(tuple(content for _, content in json.loads(text)) for texts in found[0].texts.values() for text in texts)
    assert held == sorted(ASKED)


def test_columns_of_other_names_and_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"q": q, "a": a, "who": n // 4} for n, (q, a) in enumerate(ASKED)])
    prepared = prepare(spec("a.jsonl", prompt="q", completion="a", group="who"), TASK, tmp_path)
    assert prepared.summary["columns"] == {"q": "prompt", "a": "completion", "who": "group"}
    groups = [{ASKED.index((q, a)) // 4 for (_, q), (_, a) in map(json.loads, texts)} for texts in prepared.texts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)), "no group is in two splits"
    with pytest.raises(DataProblem, match="do not fit any format") as caught:
        prepare(spec("a.jsonl"), TASK, tmp_path)
    assert caught.value.key == ("data", "format")
    with pytest.raises(DataProblem, match="no column 'w' for 'prompt'") as caught:
        prepare(spec("a.jsonl", prompt="w", completion="a"), TASK, tmp_path)
    assert caught.value.key == ("data", "prompt")


def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    swapped = {"messages": [{"role": "assistant", "content": "no"}, {"role": "user", "content": "why"}]}
    empty = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": " "}]}
    nothing = {"messages": [{"role": "user", "content": "how"}, {"role": "assistant", "content": " NaN"}]}
    write(tmp_path / "a.jsonl", [*ROWS["messages"], swapped, swapped, empty, ROWS["messages"][0], nothing])
    prepared = prepare(spec("a.jsonl"), TASK, tmp_path)
    assert prepared.summary["dropped"]["unusable"] == 3
    assert prepared.summary["dropped"]["duplicates"] == 1
    assert "dropped 1 row with the text of an earlier row (ignoring case, width and spacing)" in prepared.notes
    assert "missing_text" not in prepared.summary["dropped"]
    notes = "\n".join(prepared.notes)
    assert "2 rows left out: order of roles, such as row 21: the roles are out of order: assistant" in notes
    assert "1 row left out: empty message, such as row 23: the assistant message is empty" in notes
    assert "texts that are a word for nothing are kept: 1, such as ' NaN' (row 25)" in notes
    with pytest.raises(DataProblem, match="needs 30 rows, but only 13 of 21 usable rows") as caught:
        prepare(spec("a.jsonl", splits={**SPLITS, "train": 30}), TASK, tmp_path)
    assert "not usable: 3 rows that can't be used" in caught.value.hint
    assert "2 rows left out: order of roles, such as row 21: the roles are out of order: assistant" in caught.value.hint
    write(tmp_path / "b.jsonl", [swapped] * 3)
    with pytest.raises(DataProblem, match="no row can be used; row 1: the roles are out of order"):
        prepare(spec("b.jsonl"), TASK, tmp_path)


def tokens(folder: Path, **changes: Any) -> TokenizedData:
    made = spec("messages.jsonl", **changes)
    write(folder / "messages.jsonl", ROWS["messages"])
    tokenizer = tiny_tokenizer()
    return TokenizedData.open(tokenize(prepare(made, TASK, folder), made, TASK, tokenizer, "tiny", folder / "cache"))


def test_the_answer_and_its_end_are_the_targets(tmp_path: Path) -> None:
    data, tokenizer = tokens(tmp_path), tiny_tokenizer()
    for number in range(len(data.train)):
        example, targets = data.train.example(number), data.train.targets_of(number)
        asked, answer = json.loads(prepare(spec("messages.jsonl"), TASK, tmp_path).texts["train"][number])
        assert tokenizer.decode(targets[targets != IGNORED].tolist()) == f"{answer[1]} </s>"
        np.testing.assert_array_equal(targets[:-1][targets[:-1] != IGNORED], example[1:][targets[:-1] != IGNORED])
        assert data.train.predictions[number] == 2
        assert data.train.bytes[number] == len(f"{answer[1]}</s>".encode())
        parts = task_of(TASK).shown(example, targets, tokenizer)
        assert [learnt for _, learnt in parts] == [False, True]
        assert parts[0][0].endswith(f"{asked[1]} </s> <sep>")


def test_what_is_learnt_and_cut_is_the_users_choice_and_part_of_the_data_key(tmp_path: Path) -> None:
    everything = tokens(tmp_path, learn="all")
    assert (everything.train.predictions == everything.train.lengths - 1).all()
    own = tokens(tmp_path, chat_template=CHAT.replace("<cls>", "<unk>"))
    short = tokens(tmp_path, max_length=8)  # BOS, turn, three words, their end, turn, and the first word of the answer
    assert (short.train.predictions == 1).all()
    assert short.meta["splits"]["train"]["truncated"] == 12
    folders = {data.folder for data in (tokens(tmp_path), everything, own, short)}
    assert len(folders) == 4
    for changes, why in (
        ({"max_length": 7}, "no answer begins in the first 7 tokens"),
        ({"max_length": 8, "truncate": "drop"}, "9 tokens"),
    ):
        with pytest.raises(DataProblem, match=why):
            tokens(tmp_path, **changes)
