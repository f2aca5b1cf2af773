"""Rows of a user's data as conversations, for instruction tuning.

Four formats are known (`FORMATS`). Each names its columns by keys; a user may give a key another column:

    messages            messages: a list of {role, content}, as OpenAI's chat API has it
    prompt-completion   prompt and completion: two texts, or two lists of messages that are joined
    alpaca              instruction, input (optional) and output: texts
    sharegpt            conversations: a list of {from, value}

Each may have a `system` column, the system prompt. A list of messages may also be JSON text, as in a CSV file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalesweep.errors import UserError, did_you_mean, nearest

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `content` is not blank."""

    role: Role
    content: str


Conversation = tuple[Message, ...]
"""At most one system message, which is the first; then user and assistant in turn, from a user to an assistant."""


class RowProblem(UserError):
    """A row that can't be taught. `kind` is a short noun phrase by which a caller counts such rows."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.kind, self.message, self.hint)


class ColumnProblem(UserError):
    """A mistake in the columns that the user names. `key` is the key of `data` at fault."""

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.key = key

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.key, self.message, self.hint)


@dataclass(frozen=True)
class Columns:
    """The keys of a format. A key stands for the column of its name unless the user names another one."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ("system",)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.required + self.optional


FORMATS = {
    "messages": Columns(("messages",)),
    "prompt-completion": Columns(("prompt", "completion")),
    "alpaca": Columns(("instruction", "output"), ("input", "system")),
    "sharegpt": Columns(("conversations",)),
}


@dataclass(frozen=True)
class Format:
    """A format of `FORMATS`, and the column of the data that each of its keys stands for."""

    name: str
    columns: Mapping[str, str]


def recognise(columns: Sequence[str], name: str | None = None, mapping: Mapping[str, str] | None = None) -> Format:
    """The format of data with these columns.

    `name`: the format, where the user names it. `mapping`: columns that the user names, by key, for example
    {'instruction': 'question', 'output': 'answer'}; the keys alone may tell the format.

    Raises:
        UserError: a name, key or column is unknown, or the columns fit no format or several.
    """
    mapping = dict(mapping or {})
    known = {key for shape in FORMATS.values() for key in shape.keys}
    if name is not None and name not in FORMATS:
        raise UserError(f"the format {name!r} is unknown", did_you_mean(name, FORMATS))
    for key, column in mapping.items():
        if key not in known:
            raise ColumnProblem(key, f"no format has a column {key!r}", did_you_mean(key, known))
        if name is not None and key not in FORMATS[name].keys:
            hint = f"its columns: {', '.join(FORMATS[name].keys)}"
            raise ColumnProblem(key, f"the format {name} has no column {key!r}", hint)
        if column not in columns:
            near = nearest(column, columns)
            hint = f"did you mean {near!r}? " if near else ""
            message = f"the data have no column {column!r} for {key!r}"
            raise ColumnProblem(key, message, f"{hint}columns: {', '.join(columns)}")
    candidates = {one: shape for one, shape in FORMATS.items() if name in (None, one) and {*mapping} <= {*shape.keys}}
    if not candidates:
        hint = "keys by format: " + "; ".join(f"{one}: {', '.join(shape.keys)}" for one, shape in FORMATS.items())
        raise ColumnProblem(next(reversed(mapping)), f"no format has all of {', '.join(mapping)}", hint)
    fitting = []
    for one, shape in candidates.items():
        found = {key: mapping.get(key, key) for key in shape.keys if mapping.get(key, key) in columns}
        if {*shape.required} <= {*found}:
            fitting.append(Format(one, found))
    if not fitting:
        needed = "; ".join(f"{one}: {' and '.join(FORMATS[one].required)}" for one in ([name] if name else FORMATS))
        raise UserError(
            f"the columns {', '.join(columns)} do not fit {f'the format {name}' if name else 'any format of conversations'}",
            f"needed columns by format: {needed}. To use a column of another name, set its key, as in data.prompt: COLUMN",
        )
    if len(fitting) > 1:
        names = [one.name for one in fitting]
        raise UserError(f"the columns fit several formats: {', '.join(names)}", f"set data.format, for example to {names[0]}")
    return fitting[0]


def conversation_of(format: Format, row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row.

    alpaca: the user's turn is the instruction and, below it on a new line, the input if there is one. So does
    LLaMA-Factory (`AlpacaDatasetConverter` in its `data/converter.py`). The frame of the original Alpaca ("Below is an
    instruction …") is for models without a chat template.

    prompt-completion: two texts are one turn of the user and one of the assistant, rendered by the chat template. TRL
    joins such texts without a template.

    Raises:
        RowProblem: the row holds no conversation, a part of it is not supported, or its roles are out of order.
    """
    cells = {key: row.get(column) for key, column in format.columns.items()}
    system = [] if _missing(cells.get("system")) else [_message("system", cells["system"])]
    if format.name == "alpaca":
        asked = [cells["instruction"]] + ([] if _missing(cells.get("input")) else [cells["input"]])
        parts = [_content("user", part) for part in asked]
        turns = [_message("user", "\n".join(parts)), _message("assistant", cells["output"])]
    elif format.name == "prompt-completion":
        turns = _part("user", cells["prompt"]) + _part("assistant", cells["completion"])
    else:
        key = FORMATS[format.name].required[0]
        entries = _entries(cells[key])
        if entries is None:
            message = f"{key} holds {shown(cells[key])}, not a list of messages"
            raise RowProblem("no list of messages", message, _remedy(cells[key]))
        turns = [_turn(entry) for entry in entries]
    conversation = tuple(system + turns)
    _check_order(conversation)
    return conversation


def _remedy(cell: Any) -> str:
    """The way to write a cell that holds no list of messages."""
    text = cell.strip() if isinstance(cell, str) else ""
    if text.startswith(('"[', '"{')):
        return "it is JSON within JSON: write the column with json.dumps once, not twice"
    if text.startswith("["):
        python = "'role':" in text or "'from':" in text
        what = "the notation of Python" if python else "no valid JSON"
        return f"it is {what}: write the column with json.dumps, as in frame[column].map(json.dumps) of pandas"
    if isinstance(cell, Mapping) or text.startswith("{"):
        return "it is a single message: write a list of such messages"
    return "write a list of {role, content}"


def text_of(conversation: Conversation) -> str:
    """The whole conversation as one text, by which duplicates are found and splits are kept apart."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in conversation)


# Names of roles in common data sets. None: turns that are not supported.
ROLES: dict[str, Role | None] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": None,
    "function": None,
    "ipython": None,
    "function_call": None,
    "tool_call": None,
    "function_response": None,
    "tool_response": None,
    "observation": None,
}
# Parts of a message that change what is taught, and that would otherwise be dropped in silence.
UNSUPPORTED = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "audio", "refusal")


def _turn(entry: Any) -> Message:
    """A message of {role, content} or {from, value}."""
    if not isinstance(entry, Mapping):
        raise RowProblem("no message", f"a list of messages holds {shown(entry)}")
    name = entry.get("role") if "role" in entry else entry.get("from")
    content = entry.get("content") if "content" in entry else entry.get("value")
    if name is None:
        keys = ", ".join(map(str, entry)) or "none"
        raise RowProblem("no role", f"a message has neither 'role' nor 'from'; its keys: {keys}")
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        if isinstance(name, str) and name.strip().lower() in ROLES:
            raise RowProblem("tool turn", f"a message has the role {name!r}; calls and results of tools are not supported")
        raise RowProblem(
            "unknown role",
            f"a message has the role {shown(name)}",
            f"roles: {', '.join(name for name, role in ROLES.items() if role)}",
        )
    for key in UNSUPPORTED:
        value: Any = entry.get(key)
        if not _missing(value) and not (_is_list(value) and not len(value)):
            raise RowProblem(key, f"a message of role {name!r} has {key}, which is not supported")
    if role == "assistant" and entry.get("weight") is not None and entry["weight"] != 1:
        raise RowProblem("weight", f"a message has the weight {entry['weight']}; only weight 1 is supported")
    return _message(role, content)


def _message(role: Role, value: Any) -> Message:
    return Message(role, _content(role, value))


def _content(role: Role, value: Any) -> str:
    """The text of a turn. A list of parts {type: text, text: …}, as OpenAI has it, is joined."""
    if _is_list(value) and all(isinstance(part, Mapping) for part in value):
        for part in value:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise RowProblem("no text", f"a {role} message has a part of type {part.get('type')!r}; only text is supported")
        value = "".join(part["text"] for part in value)
    if _missing(value):
        raise RowProblem("empty message", f"the {role} message is empty")
    if not isinstance(value, str):
        raise RowProblem("no text", f"the {role} message holds {shown(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowProblem("broken Unicode", f"the {role} message holds half a character: {error.reason}") from error
    return value


def _part(role: Role, cell: Any) -> list[Message]:
    """A prompt or completion: a text, or a list of messages. JSON text counts as a list only if it holds messages."""
    entries = _entries(cell)
    if entries is None or (isinstance(cell, str) and not all(isinstance(entry, Mapping) for entry in entries)):
        return [_message(role, cell)]
    return [_turn(entry) for entry in entries]


def _entries(cell: Any) -> list[Any] | None:
    """The entries of a list of messages; None if the cell holds none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if isinstance(cell, Mapping) and cell and all(map(_is_list, cell.values())):
        # `datasets` stores a sequence of records as a record of sequences.
        cell = [dict(zip(cell, values, strict=False)) for values in zip(*cell.values(), strict=False)]
    return list(cell) if _is_list(cell) and len(cell) else None


def _check_order(conversation: Conversation) -> None:
    """Raise RowProblem unless the roles are in the order of `Conversation`."""
    turns = conversation[1:] if conversation and conversation[0].role == "system" else conversation
    for number, message in enumerate(turns):
        if message.role != ("user", "assistant")[number % 2]:
            roles = ", ".join(one.role for one in conversation[: len(conversation) - len(turns) + number + 1])
            hint = "user and assistant take turns, from the user on, after at most one system message"
            raise RowProblem("order of roles", f"the roles are out of order: {roles}", hint)
    if not turns or turns[-1].role != "assistant":
        raise RowProblem("no answer", "the conversation does not end with a message of the assistant")


def _is_list(value: Any) -> bool:
    """Whether a cell is a list; Arrow and pandas give tuples and arrays too."""
    return isinstance(value, (list, tuple, np.ndarray))


def _missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN or a blank text."""
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())


def shown(value: Any) -> str:
    """A cell or a text as an error quotes it, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
