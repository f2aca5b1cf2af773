"""Tokens on disk: written once for each combination of data, tokenizer and length, and memory-mapped by every worker.

A token folder holds flat arrays per split, in which the examples follow one another:

    SPLIT.tokens.npy   int32  [tokens]
    SPLIT.offsets.npy  int64  [examples + 1]  example i is tokens[offsets[i]:offsets[i + 1]]
    SPLIT.bytes.npy    int64  [examples]      UTF-8 bytes of the text that the example covers
    SPLIT.labels.npy   int64  [examples]      the class of each example, where the task has classes
    SPLIT.targets.npy  int32  [tokens]        the token predicted at each position, or IGNORED, where it has none
    SPLIT.predictions.npy  int32  [examples]  how many of them each example has
    SPLIT.rows.npy     int64  [examples]      the row that each example belongs to, ascending
    SPLIT.groups.npy   int64  [examples]      its group, where the data have groups
    SPLIT.types.npy    uint8  [tokens]        sentence pairs only, where the tokenizer has token types

and `meta.json`, which is written last. What an example is, and what its targets are, is the task's (`tasks/`).
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalesweep.data.earlier import PREFIX
from scalesweep.data.prepare import PreparedText
from scalesweep.data.problems import DataProblem
from scalesweep.errors import OutsideError, UserError
from scalesweep.spec.sweep import DataSpec
from scalesweep.storage import locked
from scalesweep.tasks import IGNORED, BaseTask, Encoded, task_of

FORMAT = 1  # part of a folder's name: what the tokens are
# The layout of the files. A folder of another layout is written anew under its name, so a sweep that began before continues.
LAYOUT = 4
TEXTS_AT_ONCE = 1000
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

    A control word in a text, such as </s>, is text: it becomes several ordinary tokens.

    Raises:
        DataProblem: `spec.max_length` leaves no room for text beside the special tokens.
        UserError: the tokenizer is slow, or lacks a token that the task needs.
        OutsideError: the folder can't be written.
    """
    _check_tokenizer(spec, task, tokenizer)
    identity = {
        "format": FORMAT,
        "data": prepared.fingerprint,
        "tokenizer": tokenizer_fingerprint,
        "task": task,
        "max_length": spec.max_length,
    }
    rule = task_of(task)
    identity |= rule.identity(spec, tokenizer)
    pattern = _control_words(tokenizer)
    if not rule.templates and any(_with_words(prepared, split, pattern) for split in prepared.texts):
        identity["control_words"] = "text"  # older folders hold control tokens there; all others are as before
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir / f"tokens-{key}"
    if is_written(folder):
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"tokens-{key}.lock"):
            if not is_written(folder):
                # A folder of this name was left by a process that died, because this process holds the lock.
                unfinished = cache_dir / f"tokens-{key}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                try:
                    _write(unfinished, prepared, spec, rule, tokenizer, identity, progress)
                    shutil.rmtree(folder, ignore_errors=True)  # one of another layout
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise OutsideError(
            f"tokens can't be written to {cache_dir}: {error}", "check the free space and the permissions"
        ) from error
    return folder


def is_written(folder: Path) -> bool:
    """Whether a token folder exists in the layout that this version reads."""
    try:
        return bool(json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("layout") == LAYOUT)
    except (OSError, ValueError):
        return False


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


def _check_tokenizer(spec: DataSpec, task: str, tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which is not supported", "use a model with a tokenizer.json"
        )
    least = task_of(task).least_tokens(spec, tokenizer)
    if spec.max_length < least:
        key = ("data", "max_length")
        raise DataProblem(
            key, f"a max_length of {spec.max_length} leaves no room for text", f"set it to at least {least} for this tokenizer"
        )


def _write(
    folder: Path,
    prepared: PreparedText,
    spec: DataSpec,
    task: BaseTask,
    tokenizer: Any,
    identity: dict[str, Any],
    progress: Progress | None,
) -> None:
    meta: dict[str, Any] = {
        **identity,
        "layout": LAYOUT,
        "classes": prepared.classes,
        "summary": prepared.summary,
        "notes": list(prepared.notes),
        "splits": {},
    }
    pattern = _control_words(tokenizer)
    reader = tokenizer if task.templates else text_tokenizer(tokenizer)
    total, done = sum(len(texts) for texts in prepared.texts.values()), 0
    for split, texts in prepared.texts.items():
        parts: list[Encoded] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = slice(start, start + TEXTS_AT_ONCE)
            pairs = prepared.pairs[split][some] if prepared.pairs is not None else None
            parts.append(task.encode(texts[some], pairs, spec, reader))
            done += len(texts[some])
            if progress is not None:
                progress(done, total)
        lengths = np.concatenate([part.lengths for part in parts])
        of = [np.arange(len(part.lengths)) if part.rows is None else part.rows for part in parts]
        left_out = _left_out(parts)
        if not len(lengths):
            message = (
                f"no row of the {split} split gives an example: {'; '.join(found['first'] for found in left_out.values())}"
            )
            raise DataProblem(("data", "splits"), message, "use other rows, a larger max_length or another chat template")
        arrays = {
            "tokens": np.concatenate([part.tokens for part in parts]),
            "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            "bytes": np.concatenate([part.bytes for part in parts]),
            "rows": np.concatenate([start + rows for start, rows in zip(range(0, len(texts), TEXTS_AT_ONCE), of, strict=True)]),
        }
        if prepared.groups is not None:
            arrays["groups"] = prepared.groups[split][arrays["rows"]]
        if all(part.types is not None for part in parts):
            arrays["types"] = np.concatenate([part.types for part in parts if part.types is not None])
        if task.per_token:
            arrays["targets"] = np.concatenate([part.targets for part in parts if part.targets is not None])
            counted = np.concatenate([[0], np.cumsum(arrays["targets"] != IGNORED, dtype=np.int64)])
            arrays["predictions"] = np.diff(counted[arrays["offsets"]]).astype(np.int32)
        else:
            arrays["labels"] = prepared.labels[split]
        for name, array in arrays.items():
            _save(folder / f"{split}.{name}.npy", array)
        meta["splits"][split] = {
            "rows": len(texts),
            "truncated": sum(part.truncated for part in parts),
            "unknown_tokens": sum(part.unknown_tokens for part in parts),
            "control_words": 0 if task.templates else _with_words(prepared, split, pattern),
            "left_out": left_out,
            "examples": len(lengths),
            "tokens": int(lengths.sum(dtype=np.int64)),
            "bytes": int(arrays["bytes"].sum()),
        }
    meta["notes"] += token_notes(meta)
    with (folder / "meta.json").open("w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _left_out(parts: Sequence[Encoded]) -> dict[str, dict[str, Any]]:
    """Rows without an example, by kind: how many, and the first one's problem."""
    found: dict[str, dict[str, Any]] = {}
    for problem in (problem for part in parts for problem in part.left_out):
        found.setdefault(problem.kind, {"rows": 0, "first": problem.message})["rows"] += 1
    return found


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
    for split, figures in meta["splits"].items():
        for kind, found in figures.get("left_out", {}).items():
            notes.append(f"rows left out of {split}: {found['rows']:,} of {figures['rows']:,}, {kind}: {found['first']}")
    return notes


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        # The file is on disk before the folder gets its name, so a crash leaves no partial file under a valid name.
        file.flush()
        os.fsync(file.fileno())


class TokenizedSplit:
    """One split of a token folder, memory-mapped and read-only. It is cheap to create and to send to another process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = Path(folder), name
        self._tokens = self._array("tokens")
        self._offsets = self._array("offsets")
        self._types = self._array("types") if (self.folder / f"{name}.types.npy").exists() else None
        self.bytes = self._array("bytes")
        self.rows = self._array("rows")
        self.groups = self._array("groups") if (self.folder / f"{name}.groups.npy").exists() else None
        has_labels = (self.folder / f"{name}.labels.npy").exists()
        self.labels: np.ndarray | None = self._array("labels") if has_labels else None  # one of these two
        self.targets: np.ndarray | None = None if has_labels else self._array("targets")

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

    @cached_property
    def predictions(self) -> np.ndarray:
        """The number of targets of each example, int32 [examples]."""
        return np.ones(len(self), dtype=np.int32) if self.targets is None else self._array("predictions")

    def target_counts(self, outcomes: int) -> np.ndarray:
        """Counts of the split's targets, int64 [outcomes]. `outcomes`: number of classes or size of the vocabulary."""
        if self.targets is None:
            return np.bincount(self.labels, minlength=outcomes) if self.labels is not None else np.zeros(outcomes, np.int64)
        return np.bincount(self.targets[self.targets != IGNORED], minlength=outcomes)

    def example(self, index: int) -> np.ndarray:
        """The tokens of one example, int32 [tokens], without padding."""
        return self._tokens[self._offsets[index] : self._offsets[index + 1]]

    def targets_of(self, index: int) -> np.ndarray:
        """The targets of one example, int32 [tokens]; empty where they belong to no tokens."""
        start, end = self._offsets[index], self._offsets[index + 1]
        return np.zeros(0, np.int32) if self.targets is None else self.targets[start:end]

    def owners(self, indices: np.ndarray) -> list[tuple[TokenizedSplit, np.ndarray, np.ndarray]]:
        """One triple for this split: (split, example numbers within it, their rows in `indices`)."""
        return [(self, np.asarray(indices, dtype=np.int64), np.arange(len(indices)))]

    def batch(self, indices: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
        """Examples padded on the right to the longest of them.

        Returns int64 arrays: input_ids and attention_mask [n, width], token_type_ids [n, width] for sentence pairs, and
        targets. Targets are classes [n], or tokens [n, width] with IGNORED where nothing is predicted.
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
        if self.targets is not None:
            arrays["targets"] = padded(self.targets, IGNORED)
        elif self.labels is not None:
            arrays["targets"] = np.array(self.labels[indices])
        return arrays


class JoinedSplit:
    """Several splits joined in the given order, for a final run on train + validation."""

    def __init__(self, parts: Sequence[TokenizedSplit]) -> None:
        self.parts = list(parts)
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.predictions = np.concatenate([part.predictions for part in parts])
        labels = [part.labels for part in parts if part.labels is not None]
        self.labels = np.concatenate(labels) if labels else None
        self._starts = np.cumsum([0, *map(len, parts)])

    @cached_property
    def bytes(self) -> np.ndarray:
        return np.concatenate([part.bytes for part in self.parts])

    @property
    def n_bytes(self) -> int:
        return int(self.bytes.sum())

    @cached_property
    def rows(self) -> np.ndarray:
        """The row of each example; the rows of a part follow those of the parts before it."""
        starts = np.cumsum([0, *(int(part.rows[-1]) + 1 if len(part) else 0 for part in self.parts)])
        return np.concatenate([part.rows + start for part, start in zip(self.parts, starts[:-1], strict=True)])

    @cached_property
    def groups(self) -> np.ndarray | None:
        groups = [part.groups for part in self.parts if part.groups is not None]
        return np.concatenate(groups) if len(groups) == len(self.parts) else None

    @property
    def bounds(self) -> list[slice]:
        """The examples of each part."""
        return [slice(int(start), int(end)) for start, end in itertools.pairwise(self._starts)]

    def example(self, index: int) -> np.ndarray:
        part, local = self._place(index)
        return part.example(local)

    def targets_of(self, index: int) -> np.ndarray:
        part, local = self._place(index)
        return part.targets_of(local)

    def _place(self, index: int) -> tuple[TokenizedSplit, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[number], index - int(self._starts[number])

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
                    fill = {"input_ids": pad_id, "targets": IGNORED}.get(name, 0)
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
            if meta.get("layout") != LAYOUT:
                raise ValueError(f"layout {meta.get('layout', 1)}, expected {LAYOUT}")
            return cls(Path(folder), meta)
        except (OSError, ValueError, KeyError) as error:
            raise OutsideError(
                f"{folder} is not a valid token folder: {error}", "delete it; it will be created again"
            ) from error

    @property
    def has_earlier(self) -> bool:
        """Whether there are splits of data that the model has learnt before."""
        return f"{PREFIX}train" in self.meta["splits"]

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
