"""Rows of the four formats become conversations; whatever can't be taught is refused in plain words, never dropped."""

import json
import pickle

import numpy as np
import pytest

from scalesweep.errors import UserError
from scalesweep.tasks.conversations import FORMATS, Format, Message, RowProblem, conversation_of, recognise, text_of

ASKED, TOLD = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
BARE = (Message("user", "Why?"), Message("assistant", "Because."))
FULL = (Message("system", "Be brief."), *BARE)


@pytest.mark.parametrize(
    ("columns", "name", "mapping", "expected"),
    [
        (["id", "messages"], None, {}, ("messages", {"messages": "messages"})),
        (["prompt", "messages"], None, {}, ("messages", {"messages": "messages"})),
        (["prompt", "completion"], None, {}, ("prompt-completion", {"prompt": "prompt", "completion": "completion"})),
        (["instruction", "input", "output", "text"], None, {}, ("alpaca", {key: key for key in ("instruction", "output", "input")})),
        (["conversations", "system"], None, {}, ("sharegpt", {"conversations": "conversations", "system": "system"})),
        (["chat"], None, {"messages": "chat"}, ("messages", {"messages": "chat"})),
        (["q", "a"], None, {"prompt": "q", "completion": "a"}, ("prompt-completion", {"prompt": "q", "completion": "a"})),
        (["instruction", "output", "messages"], "alpaca", {}, ("alpaca", {"instruction": "instruction", "output": "output"})),
        (["question", "output"], None, {"instruction": "question"}, ("alpaca", {"instruction": "question", "output": "output"})),
    ],
)  # fmt: skip
def test_a_format_is_found_by_its_columns(columns, name, mapping, expected):
    assert recognise(columns, name, mapping) == Format(*expected)


@pytest.mark.parametrize(
    ("columns", "name", "mapping", "words"),
    [
        (["text", "label"], None, {}, ["text, label", *FORMATS, "prompt and completion"]),
        (["text"], "alpaca", {}, ["text", "the format alpaca", "instruction and output"]),
        (["messages", "instruction", "output"], None, {}, ["several formats: messages, alpaca", "data.format"]),
        (["messages"], "mesages", {}, ["'mesages' is unknown", "did you mean 'messages'"]),
        (["messages"], None, {"mesages": "messages"}, ["no format has a column 'mesages'", "did you mean 'messages'"]),
        (["question", "a"], None, {"prompt": "qestion"}, ["no column 'qestion' for 'prompt'", "did you mean 'question'"]),
        (["messages", "input"], "messages", {"input": "input"}, ["the format messages has no column 'input'"]),
        (
            ["q", "a"],
            None,
            {"prompt": "q", "output": "a"},
            ["no format has all of prompt, output", "alpaca: instruction, output"],
        ),
    ],
)
def test_columns_that_fit_no_format_or_several_are_refused(columns, name, mapping, words):
    with pytest.raises(UserError) as caught:
        recognise(columns, name, mapping)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def of(row, name=None):
    return conversation_of(recognise(list(row), name), row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [SYSTEM, ASKED, TOLD]}, FULL),
        ({"messages": json.dumps([SYSTEM, ASKED, TOLD])}, FULL),
        ({"messages": (ASKED, {**TOLD, "tool_calls": None, "weight": 1, "reasoning_content": ""})}, BARE),
        ({"messages": np.array([ASKED, TOLD], dtype=object), "system": "Be brief."}, FULL),
        ({"messages": {"role": ["user", "assistant"], "content": ["Why?", "Because."]}}, BARE),
        ({"messages": [{"role": "developer", "content": "Be brief."}, ASKED, TOLD]}, FULL),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]}, TOLD]}, BARE),
        ({"conversations": SHAREGPT}, BARE),
        ({"conversations": json.dumps(SHAREGPT), "system": "Be brief."}, FULL),
        ({"conversations": [ASKED, TOLD], "system": None}, BARE),
        ({"prompt": "Why?", "completion": "Because."}, BARE),
        ({"prompt": [SYSTEM, ASKED], "completion": [TOLD]}, FULL),
        ({"prompt": json.dumps([SYSTEM, ASKED]), "completion": "Because."}, FULL),
        ({"prompt": "[1, 2]", "completion": "[[3]]"}, (Message("user", "[1, 2]"), Message("assistant", "[[3]]"))),
        ({"instruction": "Why?", "input": "", "output": "Because."}, BARE),
        ({"instruction": "Why?", "input": float("nan"), "output": "Because.", "system": "Be brief."}, FULL),
        ({"instruction": "Sum.", "input": "1 2", "output": "3"}, (Message("user", "Sum.\n1 2"), Message("assistant", "3"))),
    ],
)  # fmt: skip
def test_a_row_becomes_a_conversation(row, expected):
    assert of(row) == expected


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({"messages": [ASKED, {"role": "assistant", "content": " \n"}]}, "empty message", "the assistant message is empty"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "empty message", "assistant"),
        ({"messages": [ASKED, {"role": "narrator", "content": "x"}]}, "unknown role", "'narrator'"),
        ({"messages": [ASKED, {"content": "x"}]}, "no role", "keys: content"),
        ({"messages": [ASKED, "Because."]}, "no message", "'Because.'"),
        ({"messages": [ASKED, TOLD, {"role": "tool", "content": "42"}]}, "tool turn", "tools are not supported"),
        ({"conversations": [*SHAREGPT, {"from": "observation", "value": "42"}]}, "tool turn", "'observation'"),
        ({"messages": [ASKED, {**TOLD, "tool_calls": [{"function": {"name": "f"}}]}]}, "tool_calls", "not supported"),
        ({"messages": [ASKED, {**TOLD, "reasoning_content": "Hm."}]}, "reasoning_content", "not supported"),
        ({"messages": [ASKED, {**TOLD, "weight": 0}]}, "weight", "only weight 1"),
        ({"messages": [ASKED, ASKED, TOLD]}, "order of roles", "out of order: user, user"),
        ({"messages": [TOLD, ASKED, TOLD]}, "order of roles", "out of order: assistant"),
        ({"messages": [ASKED, SYSTEM, TOLD]}, "order of roles", "out of order: user, system"),
        ({"messages": [SYSTEM, ASKED, TOLD], "system": "Be long."}, "order of roles", "out of order: system, system"),
        ({"messages": [ASKED, TOLD, ASKED]}, "no answer", "does not end with a message of the assistant"),
        ({"messages": [SYSTEM]}, "no answer", "does not end"),
        ({"messages": []}, "no list of messages", "messages holds []"),
        ({"messages": None}, "no list of messages", "messages holds None"),
        ({"messages": "[{'role': 'user'}]"}, "no list of messages", "not a list"),
        ({"conversations": "Why?"}, "no list of messages", "conversations holds 'Why?'"),
        ({"prompt": None, "completion": "x"}, "empty message", "the user message is empty"),
        ({"prompt": "x", "completion": 42}, "no text", "the assistant message holds 42"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TOLD]}, "no text", "'image_url'"),
        ({"instruction": None, "input": "x", "output": "y"}, "empty message", "user"),
        ({"instruction": "x", "output": "\ud83d"}, "broken Unicode", "half a character"),
    ],
)
def test_a_row_that_cannot_be_taught_is_refused(row, kind, words):
    with pytest.raises(RowProblem) as caught:
        of(row)
    problem = pickle.loads(pickle.dumps(caught.value))
    assert (problem.kind, str(problem)) == (kind, str(caught.value))
    assert words in problem.message, problem.message


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("[{'role': 'user', 'content': 'Why?'}]", "the notation of Python: write the column with json.dumps"),
        ('[{"role": "user"', "no valid JSON: write the column with json.dumps"),
        (json.dumps(json.dumps([ASKED, TOLD])), "JSON within JSON"),
        (ASKED, "a single message: write a list"),
        (7, "write a list of {role, content}"),
    ],
)
def test_a_cell_that_is_no_list_of_messages_comes_with_the_way_to_write_it(cell, hint):
    with pytest.raises(RowProblem) as caught:
        of({"messages": cell})
    assert hint in caught.value.hint


def test_the_text_of_a_conversation_holds_all_of_it():
    texts = {text_of(one) for one in (BARE, FULL, BARE[::-1], (*BARE, *BARE))}
    assert len(texts) == 4
    assert all(message.content in text_of(FULL) for message in FULL)
