"""Answers that a model generates: where the prompt of one ends, where an answer ends, and how it compares with the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scalesweep.errors import UserError
from scalesweep.tasks import IGNORED
from scalesweep.tasks.chat_template import Template


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt and the answer of the data.

    prompt: int32 [tokens], all before the answer.
    reference: the answer as its tokens read, without the end of the turn.
    tokens: those of the reference, the end of the turn included.
    """

    prompt: np.ndarray
    reference: str
    tokens: int


@dataclass(frozen=True, eq=False)
class Answering:
    """The ends of answers, by the chat template.

    stops: the tokens that end it: EOS, and the template's control words behind an answer.
    end: the text behind an answer, where it holds no control word; otherwise empty.
    """

    tokenizer: Any
    stops: frozenset[int]
    end: str

    @classmethod
    def of(cls, template: Template) -> Answering:
        tokenizer, end = template.tokenizer, template.end
        words = tokenizer.added_tokens_decoder
        ids = tokenizer(end, add_special_tokens=False)["input_ids"]
        stops = {token for token in ids if token in words and template.control_words.fullmatch(words[token].content)}
        eos = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
        return cls(tokenizer, frozenset(stops | eos), "" if stops else end.strip() or end)

    def question(self, tokens: np.ndarray, targets: np.ndarray) -> Question | None:
        """The last answer of a conversation as a question; None if the answer was cut.

        tokens, targets: int32 [tokens], of one example. The last run of targets is the last answer.
        """
        learnt = np.flatnonzero(targets != IGNORED) + 1  # a target is the token behind its position
        start = int(learnt[-1]) - int((np.diff(learnt)[::-1] == 1).cumprod().sum())
        answer = tokens[start : int(learnt[-1]) + 1]
        text, ended = self.text(answer)
        return Question(tokens[:start], text, len(answer)) if ended else None

    def prompt(self, question: Question) -> str:
        """The text of a question's prompt."""
        return str(self.tokenizer.decode(question.prompt.tolist(), clean_up_tokenization_spaces=False))

    def text(self, tokens: np.ndarray) -> tuple[str, bool]:
        """The text of an answer up to its end, without white space around it, and whether it has an end."""
        found = np.flatnonzero(np.isin(tokens, list(self.stops)))
        upto = tokens[: found[0]] if len(found) else tokens
        text = str(self.tokenizer.decode(upto.tolist(), clean_up_tokenization_spaces=False))
        if self.end:
            text, end, _ = text.partition(self.end)
            return text.strip(), bool(end) or len(found) > 0
        return text.strip(), len(found) > 0


class Split(Protocol):
    """Tokenized examples by number."""

    def __len__(self) -> int: ...

    def example(self, index: int) -> np.ndarray: ...

    def targets_of(self, index: int) -> np.ndarray: ...


def questions_of(split: Split, answering: Answering) -> dict[int, Question]:
    """The questions of a split by the number of their example, in its order, without those whose answer was cut.

    Raises:
        UserError: none is left.
    """
    found = ((index, answering.question(split.example(index), split.targets_of(index))) for index in range(len(split)))
    questions = {index: one for index, one in found if one is not None}
    if not questions:
        hint = "raise data.max_length, or use a metric that needs no generated answers"
        raise UserError("every conversation of a split is cut before its last answer ends, so no answer can be compared", hint)
    return questions


def exact_match(answer: str, reference: str) -> float:
    return float(answer == reference)


# Metrics that are the mean of a number per answer; the others are functions of the user's.
SCORES: dict[str, Callable[[str, str], float]] = {"eval_exact_match": exact_match}


def most_frequent(questions: Iterable[Question]) -> str:
    """The reference that occurs most often; the first in the alphabet among equals."""
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.reference] = counts.get(question.reference, 0) + 1
    return min(counts, key=lambda text: (-counts[text], text))
