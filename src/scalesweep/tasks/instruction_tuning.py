"""Instruction tuning: the assistant's answers in conversations, each token predicted from all before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.tasks import IGNORED, Encoded, causal_lm, unknown_tokens
from scalesweep.tasks.answers import Answering
from scalesweep.tasks.chat_template import Template, cut
from scalesweep.tasks.conversations import (
    FORMATS,
    Conversation,
    Format,
    Message,
    RowProblem,
    conversation_of,
    recognise,
    text_of,
)
from scalesweep.tasks.token_accuracy import CountsRight

if TYPE_CHECKING:
    from scalesweep.spec.sweep import DataSpec

KEYS = tuple(dict.fromkeys(key for columns in FORMATS.values() for key in columns.keys))


class Task(CountsRight, causal_lm.Task):
    """A conversation is one example, rendered by the chat template. Its learnt tokens are the targets.

    A row's text is its conversation as JSON. Bytes are those of the learnt text.
    """

    templates = True
    guess = "frequencies of learnt tokens in train"

    def columns(self, data: DataSpec, names: Sequence[str]) -> dict[str, str]:
        read = {column: key for key, column in _format(data, names).columns.items()}
        return read | ({} if data.group is None else {data.group: "group"})

    def row_reader(self, data: DataSpec, names: Sequence[str]) -> Callable[[Mapping[str, Any]], str]:
        found = _format(data, names)
        return lambda row: _written(conversation_of(found, row))

    def words(self, text: str) -> str:
        return text_of(_read(text))

    def parts(self, text: str) -> Sequence[str]:
        return [message.content for message in _read(text)]

    def identity(self, data: DataSpec, tokenizer: Any) -> dict[str, Any]:
        template = Template.of(tokenizer, data.chat_template).text
        fingerprint = hashlib.sha256(template.encode()).hexdigest()[:16]
        return {"learn": data.learn, "truncate": data.truncate, "chat_template": fingerprint}

    def least_tokens(self, data: DataSpec, tokenizer: Any) -> int:
        Template.of(tokenizer, data.chat_template)  # raises what is wrong with it
        return 2

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, data: DataSpec, tokenizer: Any) -> Encoded:  # noqa: ARG002
        template = Template.of(tokenizer, data.chat_template)
        kept, rows, left_out, truncated = [], [], [], 0
        for row, found in enumerate(template.encode_many([_read(text) for text in texts], data.learn)):
            if isinstance(found, RowProblem):
                left_out.append(found)
                continue
            long = len(found.ids) > data.max_length
            whole = cut(found, data.max_length)
            if long and data.truncate == "drop":
                left_out.append(RowProblem("too long", f"a conversation has {len(found.ids):,} tokens"))
            elif whole is None:
                left_out.append(RowProblem("nothing learnt", f"no answer begins in the first {data.max_length:,} tokens"))
            else:
                kept.append(whole)
                rows.append(row)
                truncated += long
        tokens = [np.zeros(0, dtype=np.int32), *(one.ids for one in kept)]
        targets = [np.append(np.where(one.learn[1:], one.ids[1:], IGNORED), IGNORED) for one in kept]
        return Encoded(
            tokens=np.concatenate(tokens),
            lengths=np.array([len(one.ids) for one in kept], dtype=np.int64),
            bytes=np.array([one.n_bytes for one in kept], dtype=np.int64),
            targets=np.concatenate([np.zeros(0), *targets]).astype(np.int32),
            rows=np.array(rows, dtype=np.int64),
            truncated=truncated,
            unknown_tokens=unknown_tokens([one.ids.tolist() for one in kept], tokenizer),
            left_out=left_out,
        )

    def shown(self, tokens: np.ndarray, targets: np.ndarray, tokenizer: Any) -> list[tuple[str, bool]]:
        learnt = np.append(False, targets[:-1] != IGNORED)  # a target is the token behind its position
        ends = [*(np.flatnonzero(learnt[1:] != learnt[:-1]) + 1).tolist(), len(tokens)]
        parts = zip([0, *ends[:-1]], ends, strict=True)
        return [(tokenizer.decode(tokens[start:end].tolist()), bool(learnt[start])) for start, end in parts]

    def answering(self, data: DataSpec, tokenizer: Any) -> Answering:
        return Answering.of(Template.of(tokenizer, data.chat_template))


def _format(data: DataSpec, names: Sequence[str]) -> Format:
    given = {key: column for key in KEYS if (column := getattr(data, key)) is not None}
    return recognise([name for name in names if name != data.group], data.format, given)


def _written(conversation: Conversation) -> str:
    return json.dumps([[message.role, message.content] for message in conversation], ensure_ascii=False)


def _read(text: str) -> Conversation:
    return tuple(Message(role, content) for role, content in json.loads(text))
