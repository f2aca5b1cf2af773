"""Tokens on disk: written once for each combination of data, tokenizer and length, and memory-mapped by every worker.

A token folder holds flat arrays per split, in which the examples follow one another:

    SPLIT.tokens.npy   int32  [tokens]
    SPLIT.offsets.npy  int64  [examples + 1]  example i is tokens[offsets[i]:offsets[i + 1]]
    SPLIT.bytes.npy    int64  [examples]      UTF-8 bytes of the text that the example covers
    SPLIT.labels.npy   int64  [examples]      classification only
    SPLIT.types.npy    uint8  [tokens]        sentence pairs only, where the tokenizer has token types

and `meta.json`, which is written last.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalesweep.data.prepare import PreparedText
from scalesweep.data.problems import DataProblem
from scalesweep.errors import OutsideError, UserError
from scalesweep.spec.sweep import DataSpec
from scalesweep.storage import locked

FORMAT = 1
TEXTS_AT_ONCE = 1000
IGNORED = -100  # torch's cross-entropy ignores this label
Progress = Callable[[int, int], None]


def tokenize(
    prepared: PreparedText,
    spec: DataSpec,
    task: str,
    tokenizer: Any,
    tokenizer_fingerprint: str,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Path:
    """The token folder for this text and tokenizer; created if it does not exist yet.

    If several processes ask for the same folder at once, one creates it and the others wait. A folder has its name only
    when it is complete. `progress` is called with (texts done, texts in total).

    sequence-classification: each row is one example, with special tokens, truncated to `spec.max_length` tokens.
    causal-lm: nothing is truncated. A document is BOS (or EOS if the tokenizer has no BOS), its tokens, and EOS if the
    tokenizer has one. It is divided into examples of `spec.max_length` tokens, and each further example begins with the
    last token of the one before. The first token of an example is never predicted, so every token of a document is
    predicted exactly once. So the sum of losses over the sum of `bytes` is comparable between tokenizers. The bytes of a
    document are counted in its first example.

    A control word in a text, such as </s>, is text: it becomes several ordinary tokens.

    Raises:
        DataProblem: `spec.max_length` leaves no room for text beside the special tokens.
        UserError: the tokenizer is slow, or for causal-lm it has neither BOS nor EOS.
        OutsideError: the folder can't be written.
    """
    _check_tokenizer(prepared, spec, task, tokenizer)
    identity = {
        "format": FORMAT,
        "data": prepared.fingerprint,
        "tokenizer": tokenizer_fingerprint,
        "task": task,
        "max_length": spec.max_length,
    }
    pattern = _control_words(tokenizer)
    if any(_with_words(prepared, split, pattern) for split in prepared.texts):
        identity["control_words"] = "text"  # older folders hold control tokens there; all others are as before
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir / f"tokens-{key}"
    if folder.is_dir():
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"tokens-{key}.lock"):
            if not folder.is_dir():
                # A folder of this name was left by a process that died, because this process holds the lock.
                unfinished = cache_dir / f"tokens-{key}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                try:
                    _write(unfinished, prepared, spec, task, text_tokenizer(tokenizer), identity, progress)
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise OutsideError(
            f"tokens can't be written to {cache_dir}: {error}", "check the free space and the permissions"
        ) from error
    return folder


def _control_words(tokenizer: Any) -> re.Pattern[str]:
    """A pattern of the words that the tokenizer reads as control tokens."""
    tokens = [token for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]
    # One that is matched after normalizing may be written in other letters.
    flags = re.IGNORECASE if any(token.normalized for token in tokens) else re.NOFLAG
    return re.compile("|".join(re.escape(token.content) for token in tokens) or r"(?!)", flags)


def _with_words(prepared: PreparedText, split: str, pattern: re.Pattern[str]) -> int:
    """The number of rows of a split with a match of `pattern`."""
    columns = [prepared.texts[split]] if prepared.pairs is None else [prepared.texts[split], prepared.pairs[split]]
    return sum(any(map(pattern.search, row)) for row in zip(*columns, strict=True))


def text_tokenizer(tokenizer: Any) -> Any:
    """A copy of a tokenizer that reads control words in a text as text. Its own control tokens around a text stay.

    `split_special_tokens` of transformers keeps a word from being looked up among the control tokens. Some vocabularies,
    such as T5's, hold control words as ordinary pieces too. These words are cut behind their first character.
    """
    tokenizer = copy.deepcopy(tokenizer)
    # Both, so that `save_pretrained` writes it.
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    words = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    words = {word: number for word, number in words.items() if len(word) > 1 and number != tokenizer.unk_token_id}
    encoded = tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []
    pieces = [word for (word, number), ids in zip(words.items(), encoded, strict=True) if number in ids]
    if pieces:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Sequence as InTurn
        from tokenizers.pre_tokenizers import Split

        inside = Regex("|".join(f"{re.escape(word[0])}(?={re.escape(word[1:])})" for word in pieces))
        backend = tokenizer.backend_tokenizer
        earlier = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        backend.pre_tokenizer = InTurn([*earlier, Split(inside, "isolated")])
    return tokenizer


def _check_tokenizer(prepared: PreparedText, spec: DataSpec, task: str, tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which is not supported", "use a model with a tokenizer.json"
        )
    if task == "causal-lm":
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            # Without a start token the first token of a document can't be predicted, and losses per byte are not comparable.
            raise UserError(
                "the tokenizer has neither a BOS nor an EOS token", "use a decoder: causal-lm needs one of the two tokens"
            )
        return
    least = tokenizer.num_special_tokens_to_add(pair=prepared.pairs is not None) + (1 if prepared.pairs is None else 2)
    if spec.max_length < least:
        key = ("data", "max_length")
        raise DataProblem(
            key, f"a max_length of {spec.max_length} leaves no room for text", f"set it to at least {least} for this tokenizer"
        )


def _write(
    folder: Path,
    prepared: PreparedText,
    spec: DataSpec,
    task: str,
    tokenizer: Any,
    identity: dict[str, Any],
    progress: Progress | None,
) -> None:
    meta: dict[str, Any] = {
        **identity,
        "classes": prepared.classes,
        "summary": prepared.summary,
        "notes": list(prepared.notes),
        "splits": {},
    }
    pattern = _control_words(tokenizer)
    total, done = sum(len(texts) for texts in prepared.texts.values()), 0
    for split, texts in prepared.texts.items():
        parts: dict[str, list[np.ndarray]] = {"tokens": [], "lengths": [], "bytes": [], "types": []}
        figures = {
            "rows": len(texts),
            "truncated": 0,
            "unknown_tokens": 0,
            "control_words": _with_words(prepared, split, pattern),
        }
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            if task == "causal-lm":
                _add_documents(parts, figures, some, spec.max_length, tokenizer)
            else:
                pairs = prepared.pairs[split][start : start + TEXTS_AT_ONCE] if prepared.pairs is not None else None
                _add_rows(parts, figures, some, pairs, spec.max_length, tokenizer)
            done += len(some)
            if progress is not None:
                progress(done, total)
        lengths = np.concatenate(parts["lengths"])
        arrays = {
            "tokens": np.concatenate(parts["tokens"]),
            "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            "bytes": np.concatenate(parts["bytes"]),
        }
        if parts["types"]:
            arrays["types"] = np.concatenate(parts["types"])
        if task != "causal-lm":
            arrays["labels"] = prepared.labels[split]
        for name, array in arrays.items():
            _save(folder / f"{split}.{name}.npy", array)
        tokens = int(lengths.sum(dtype=np.int64))
        meta["splits"][split] = figures | {"examples": len(lengths), "tokens": tokens, "bytes": int(arrays["bytes"].sum())}
    meta["notes"] += token_notes(meta)
    with (folder / "meta.json").open("w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def token_notes(meta: dict[str, Any]) -> list[str]:
    """Notes on what the tokenizer did to the texts of the splits. `meta`: content of a token folder's `meta.json`."""
    kinds = {
        "truncated": (f"rows truncated to {meta['max_length']} tokens", "rows"),
        "unknown_tokens": ("tokens unknown to the tokenizer", "tokens"),
        "control_words": ("rows that hold control words of the tokenizer, which are read as text", "rows"),
    }
    notes = []
    for kind, (what, whole) in kinds.items():
        found = {split: figures for split, figures in meta["splits"].items() if figures.get(kind)}
        counts = [f"{split} {figures[kind]:,} of {figures[whole]:,}" for split, figures in found.items()]
        if counts:
            notes.append(f"{what}: {', '.join(counts)}")
    return notes


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        # The file is on disk before the folder gets its name, so a crash leaves no partial file under a valid name.
        file.flush()
        os.fsync(file.fileno())


def _add_rows(
    parts: dict[str, list[np.ndarray]],
    figures: dict[str, int],
    texts: list[str],
    pairs: list[str] | None,
    length: int,
    tokenizer: Any,
) -> None:
    with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    encoded = tokenizer(
        texts, pairs, truncation=True, max_length=length, return_attention_mask=False, return_token_type_ids=with_types
    )
    rows = encoded["input_ids"]
    parts["tokens"].append(np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]))
    parts["lengths"].append(np.array([len(row) for row in rows], dtype=np.int64))
    if with_types:
        parts["types"].append(np.concatenate([np.asarray(row, dtype=np.uint8) for row in encoded["token_type_ids"]]))
    covered = []
    for position, encoding in enumerate(encoded.encodings):
        row_texts: tuple[str, ...] = (texts[position],) if pairs is None else (texts[position], pairs[position])
        if encoding.overflowing:
            figures["truncated"] += 1
            row_texts = tuple(_covered(text, encoding, number) for number, text in enumerate(row_texts))
        covered.append(sum(_n_bytes(text) for text in row_texts))
    parts["bytes"].append(np.array(covered, dtype=np.int64))
    figures["unknown_tokens"] += _unknown(rows, tokenizer)


def _add_documents(
    parts: dict[str, list[np.ndarray]], figures: dict[str, int], texts: list[str], length: int, tokenizer: Any
) -> None:
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    lengths, covered = [], []
    for text, ids in zip(texts, encoded["input_ids"], strict=True):
        document = np.array([start, *ids, *end], dtype=np.int32)
        for at in range(0, max(1, document.size - 1), length - 1):
            example = document[at : at + length]
            parts["tokens"].append(example)
            lengths.append(example.size)
            covered.append(_n_bytes(text) if at == 0 else 0)
    parts["lengths"].append(np.array(lengths, dtype=np.int64))
    parts["bytes"].append(np.array(covered, dtype=np.int64))
    figures["unknown_tokens"] += _unknown(encoded["input_ids"], tokenizer)


def _covered(text: str, encoding: Any, number: int) -> str:
    """The part of text `number` (0, or 1 for the second of a pair) that the tokens of `encoding` cover."""
    spans = [span for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True) if sequence == number]
    return text[spans[0][0] : spans[-1][1]] if spans else ""


def _n_bytes(text: str) -> int:
    return len(text.encode())


def _unknown(rows: list[list[int]], tokenizer: Any) -> int:
    # Some decoders use EOS as the unknown token; their vocabularies cover every byte.
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
        return 0
    return sum(row.count(tokenizer.unk_token_id) for row in rows)


class TokenizedSplit:
    """One split of a token folder, memory-mapped and read-only. It is cheap to create and to send to another process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = Path(folder), name
        self._tokens = self._array("tokens")
        self._offsets = self._array("offsets")
        self._types = self._array("types") if (self.folder / f"{name}.types.npy").exists() else None
        self.bytes = self._array("bytes")
        has_labels = (self.folder / f"{name}.labels.npy").exists()
        self.labels: np.ndarray | None = self._array("labels") if has_labels else None

    def _array(self, what: str) -> np.ndarray:
        try:
            return np.load(self.folder / f"{self.name}.{what}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise OutsideError(
                f"the token folder {self.folder} is damaged: {error}", "delete it; it will be created again"
            ) from error

    def __reduce__(self) -> tuple[type[TokenizedSplit], tuple[Path, str]]:
        return type(self), (self.folder, self.name)  # a pickled memory map would contain all its data

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each example, int32 [examples]."""
        return np.diff(self._offsets).astype(np.int32)

    @property
    def n_bytes(self) -> int:
        """The UTF-8 bytes of text that the split covers."""
        return int(self.bytes.sum())

    @property
    def predicted_tokens(self) -> np.ndarray:
        """The number of predictions per example, int32 [examples]: length - 1 for causal-lm, one for classification."""
        return self.lengths - 1 if self.labels is None else np.ones(len(self), dtype=np.int32)

    def target_counts(self, outcomes: int) -> np.ndarray:
        """Counts of what the split asks to predict, int64 [outcomes]: of each class, or for causal-lm of each token.

        `outcomes`: number of classes or size of the vocabulary.
        """
        if self.labels is not None:
            return np.bincount(self.labels, minlength=outcomes)
        first = self._tokens[self._offsets[:-1]]  # an example's first token is never predicted
        return np.bincount(self._tokens, minlength=outcomes) - np.bincount(first, minlength=outcomes)

    def example(self, index: int) -> np.ndarray:
        """The tokens of one example, int32 [tokens], without padding."""
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]

    def owners(self, indices: np.ndarray) -> list[tuple[TokenizedSplit, np.ndarray, np.ndarray]]:
        """One triple for this split: (split, example numbers within it, their rows in `indices`)."""
        return [(self, np.asarray(indices, dtype=np.int64), np.arange(len(indices)))]

    def batch(self, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """Examples padded on the right to the longest of them.

        Returns int64 arrays: input_ids and attention_mask [n, width], token_type_ids [n, width] for sentence pairs, and
        labels. Labels are classes [n], or for causal-lm the input_ids with padding set to -100 [n, width]; the model shifts
        them by one.
        """
        indices = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[indices].astype(np.int64)
        width = int(lengths.max(initial=0))
        columns = np.arange(width)
        real = columns < lengths[:, None]
        places = (self._offsets[indices][:, None] + columns)[real]

        def padded(flat: np.ndarray, fill: int) -> np.ndarray:
            filled = np.full(real.shape, fill, dtype=np.int64)
            filled[real] = flat[places]
            return filled

        arrays = {"input_ids": padded(self._tokens, pad_id), "attention_mask": real.astype(np.int64)}
        if self._types is not None:
            arrays["token_type_ids"] = padded(self._types, 0)
        if self.labels is None:
            arrays["labels"] = np.where(real, arrays["input_ids"], IGNORED)
        else:
            arrays["labels"] = np.array(self.labels[indices])
        return arrays


class JoinedSplit:
    """Several splits joined in the given order, for a final run on train + validation."""

    def __init__(self, parts: Sequence[TokenizedSplit]) -> None:
        self.parts = list(parts)
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.predicted_tokens = np.concatenate([part.predicted_tokens for part in parts])
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def owners(self, indices: np.ndarray) -> list[tuple[TokenizedSplit, np.ndarray, np.ndarray]]:
        """A triple for each part with examples among `indices`: (part, example numbers within it, their rows in `indices`)."""
        indices = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        found = [(part, number, np.flatnonzero(owner == number)) for number, part in enumerate(self.parts)]
        return [(part, indices[rows] - self._starts[number], rows) for part, number, rows in found if len(rows)]

    def batch(self, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """The same arrays as `TokenizedSplit.batch`, with rows in the order of `indices`."""
        width = int(self.lengths[indices].max(initial=0))
        joined: dict[str, np.ndarray] = {}
        for part, local, rows in self.owners(indices):
            for name, array in part.batch(local, pad_id).items():
                if name not in joined:
                    fill = {"input_ids": pad_id, "labels": IGNORED}.get(name, 0)
                    shape = (len(indices), width) if array.ndim == 2 else (len(indices),)
                    joined[name] = np.full(shape, fill, dtype=array.dtype)
                joined[name][(rows, slice(array.shape[1])) if array.ndim == 2 else rows] = array
        return joined


class TokenizedData:
    """A token folder. Each split is opened on first use, so the test split stays closed until `.test` is read."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self.task: str = meta["task"]
        self.classes: list[str] = meta["classes"]
        self.fingerprint: str = meta["data"]
        self.max_length: int = meta["max_length"]
        self.notes: list[str] = meta["notes"]

    @classmethod
    def open(cls, folder: Path) -> TokenizedData:
        """Open a token folder. Raises OutsideError if `folder` is not a complete token folder of this version."""
        try:
            meta = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8"))
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, expected {FORMAT}")
            return cls(Path(folder), meta)
        except (OSError, ValueError, KeyError) as error:
            raise OutsideError(
                f"{folder} is not a valid token folder: {error}", "delete it; it will be created again"
            ) from error

    def split(self, name: str) -> TokenizedSplit:
        """The split of this name. Raises DataProblem if the sweep has none."""
        if name not in self.meta["splits"]:
            raise DataProblem(("data", "splits"), f"the sweep has no {name} split", f"add {name} to data.splits")
        return TokenizedSplit(self.folder, name)

    @cached_property
    def train(self) -> TokenizedSplit:
        return self.split("train")

    @cached_property
    def validation(self) -> TokenizedSplit:
        return self.split("validation")

    @cached_property
    def test(self) -> TokenizedSplit:
        return self.split("test")

    def joined(self, names: Sequence[str]) -> TokenizedSplit | JoinedSplit:
        """Several splits as one. A single name returns that split itself."""
        return self.split(names[0]) if len(names) == 1 else JoinedSplit([self.split(name) for name in names])
