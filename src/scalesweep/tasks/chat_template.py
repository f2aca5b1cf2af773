"""Conversations as tokens, by the chat template of a tokenizer, and which of the tokens are learnt.

A whole conversation is rendered once and tokenized once, so its tokens are those of `tokenizer.apply_chat_template`. The
learnt spans are found in the rendered text. The turn of the assistant at place i is what stands between

    render(messages[:i], with the generation prompt)   and   render(messages[:i + 1])

so the model sees before each answer what it will see when it is asked to generate one. Both must be prefixes of the whole
text. A template for which they are not is refused, because its model would be taught something that it is never asked.

A learnt span is all that the model has to generate: the answer, the word that ends the turn, and whatever the template
writes behind that word (a newline in ChatML). The masks of TRL's training templates hold the same, with two exceptions.
TRL also teaches a part of the generation prompt where its template's marks include it: the newline behind `assistant` of
Qwen2.5, and `<|start|>assistant` of gpt-oss and Muse Glimmer. And TRL teaches a token that begins before the answer, such
as the two newlines of a prompt that ends with one and an answer that begins with one; no prompt leads to such a token.

An empty block of thinking is not taught. A template with the switch `enable_thinking` (Qwen3) writes such a block before
an answer without thoughts. The generation prompt for `enable_thinking=False` ends with this block, so it is context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from scalesweep.errors import UserError, first_line
from scalesweep.tasks.conversations import Conversation, Message, RowProblem, shown

Learn = Literal["assistant", "last", "all"]
Span = tuple[int, int]
AT_ONCE = 1000  # conversations
THINKING = ("<think>", "</think>")
OWN = "set data.chat_template to a file with a template of your own"
PROBES: tuple[Conversation, ...] = tuple(
    (Message("user", "Why is the sky blue?"), Message("assistant", answer))
    for answer in ("Air scatters blue light.", "<think>\nRayleigh, 1871.\n</think>\n\nAir scatters blue light.")
)


class OwnTemplateError(UserError):
    """The user's own template is at fault, and not the tokenizer's."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A conversation as tokens.

    ids: int32 [tokens].
    learn: bool [tokens]; whether a token is a target, predicted from the tokens before it.
    token_bytes: int32 [tokens]; UTF-8 bytes of the rendered text that each token stands for.
    """

    ids: np.ndarray
    learn: np.ndarray
    token_bytes: np.ndarray

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the learnt text, control words included."""
        return int(self.token_bytes[self.learn].sum())


def cut(encoded: Encoded, max_length: int) -> Encoded | None:
    """The first `max_length` tokens; None if none of them is learnt."""
    kept = Encoded(encoded.ids[:max_length], encoded.learn[:max_length], encoded.token_bytes[:max_length])
    return kept if kept.learn.any() else None


@dataclass(frozen=True, eq=False)
class Template:
    """A chat template and its tokenizer.

    text: the template, Jinja. transformers renders it, in its sandbox.
    control_words: pattern of the words that the tokenizer reads as control tokens.
    """

    tokenizer: Any
    text: str
    control_words: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any, own: str | None = None) -> Template:
        """The template of a tokenizer, or the user's own: `own` is its text.

        Raises:
            UserError: the tokenizer is slow or has no template, or no conversation can be taught with the template.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{type(tokenizer).__name__} is a slow tokenizer, which is not supported", "use a model with a tokenizer.json"
            )
        assert not getattr(tokenizer, "split_special_tokens", False), "the template's own control words are no text"
        text = own if own is not None else _text_of(tokenizer)
        try:
            control_words = _control_words(tokenizer, _render(tokenizer, text, PROBES[0][:1]))
            template = cls(tokenizer, text, control_words)
            first, *others = template.encode_many(PROBES, "last")
            # A template for thinking may need thoughts.
            if isinstance(first, RowProblem) and all(isinstance(one, RowProblem) for one in others):
                raise first
        except RowProblem as problem:
            message = f"the chat template can't be used for training: {problem.message}"
            if own is not None:
                raise OwnTemplateError(message, "correct the template") from problem
            raise UserError(message, OWN) from problem
        return template

    @cached_property
    def end(self) -> str:
        """The text that the template writes behind an answer."""
        for probe in PROBES:
            rendered = self._rendered(probe, "last")
            if not isinstance(rendered, RowProblem):
                text, ((start, stop),) = rendered
                return text[start:stop].rpartition(probe[-1].content.rpartition("\n")[2])[2]
        raise AssertionError("`of` refuses such a template")

    def encode(self, conversation: Conversation, learn: Learn = "assistant") -> Encoded:
        """The tokens of a conversation, and the learnt ones among them. Nothing is cut.

        `learn`: "assistant" every answer, "last" the last answer, "all" every token but the first, which has none before it.
        A token belongs to a learnt span if its first character does. So a token across the beginning of a span is not
        learnt, and one across its end is.

        Raises:
            RowProblem: the template refuses the conversation, does not render an answer as it stands, or is not
                prefix-preserving here; or a message holds a control word, which would end its turn.
        """
        (encoded,) = self.encode_many([conversation], learn)
        if isinstance(encoded, RowProblem):
            raise encoded
        return encoded

    def encode_many(self, conversations: Sequence[Conversation], learn: Learn = "assistant") -> list[Encoded | RowProblem]:
        """`encode` for each conversation, with the problem in place of the tokens where there is one."""
        results: list[Encoded | RowProblem] = []
        for start in range(0, len(conversations), AT_ONCE):
            rendered = [self._rendered(conversation, learn) for conversation in conversations[start : start + AT_ONCE]]
            tokens = iter(self._tokens([one[0] for one in rendered if not isinstance(one, RowProblem)]))
            results += [one if isinstance(one, RowProblem) else _encoded(*one, *next(tokens), learn) for one in rendered]
        return results

    def _tokens(self, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Per text its tokens, int32 [tokens], and their characters, int64 [tokens, 2]: begin and end."""
        if not texts:
            return
        # Like `apply_chat_template`, which leaves BOS to the template.
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def _rendered(self, conversation: Conversation, learn: Learn) -> tuple[str, list[Span]] | RowProblem:
        """The whole conversation as text, and the learnt spans of it. No spans for learn="all"."""
        try:
            for message in conversation:
                if word := self.control_words.search(message.content):
                    raise RowProblem(
                        "control word",
                        f"the {message.role} message holds {word[0]!r}, which is a control word of the tokenizer",
                        "remove the word, or the row",
                    )
            whole = _render(self.tokenizer, self.text, conversation)
            places = [place for place, message in enumerate(conversation) if message.role == "assistant"]
            taught = {"assistant": places, "last": places[-1:], "all": []}[learn]
            return whole, [self._span(conversation, place, whole) for place in taught]
        except RowProblem as problem:
            return problem

    def _span(self, conversation: Conversation, place: int, whole: str) -> Span:
        """The characters of the assistant's message at `place` that the model has to generate."""
        upto = whole
        if place + 1 < len(conversation):
            upto = _render(self.tokenizer, self.text, conversation[: place + 1])
            if not whole.startswith(upto):
                # Phi-3 writes EOS behind the last turn of any conversation.
                upto = upto.removesuffix(self.tokenizer.eos_token or "")
            if not whole.startswith(upto):
                here, later = _difference(upto, whole)
                raise RowProblem(
                    "earlier answer",
                    f"the template renders an answer as {here!r}, but as {later!r} once the conversation continues",
                    f"set data.learn to last, or {OWN}",
                )
        # Without thoughts, a template for thinking needs the prompt that asks for none.
        switches: list[dict[str, bool]] = [{"enable_thinking": False}] if "enable_thinking" in self.text else []
        for switch in [*switches, {}]:
            prompt = _render(self.tokenizer, self.text, conversation[:place], add_generation_prompt=True, **switch)
            if upto.startswith(prompt):
                self._check_answer(conversation[place].content, prompt, upto[len(prompt) :])
                return len(prompt), len(upto)
        asked, taught = _difference(prompt, upto)
        raise RowProblem(
            "generation prompt", f"the template asks for an answer with {asked!r}, but renders answers with {taught!r}", OWN
        )

    def _check_answer(self, content: str, prompt: str, span: str) -> None:
        """Raise RowProblem unless `span` holds the answer in its own words and an end. White space may differ."""
        answer, generated = "".join(content.split()), "".join(span.split())
        for beginning in ("".join(THINKING), THINKING[0]):  # no thoughts, or the first word of them, are in the prompt
            if "".join(prompt.split()).endswith(beginning):
                answer = answer.removeprefix(beginning)
        if any(generated.count(tag) > answer.count(tag) for tag in THINKING):
            raise RowProblem("empty thoughts", f"the template adds thoughts to the answer {shown(content)}: {shown(span)}", OWN)
        before, found, after = generated.partition(answer)
        if not found:
            raise RowProblem("changed answer", f"the template renders the answer {shown(content)} as {shown(span)}", OWN)
        if before and "add_generation_prompt" not in self.text:
            raise RowProblem(
                "no generation prompt", f"the template renders {before!r} before an answer, but never asks with it", OWN
            )
        if not after:
            raise RowProblem("no end of turn", "the template writes nothing behind an answer, so no model learns to stop", OWN)


def _text_of(tokenizer: Any) -> str:
    """The tokenizer's template; the one named default if it has several."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            names = ", ".join(template)
            raise UserError(f"the tokenizer has several chat templates, and none is named default: {names}", OWN)
        template = template["default"]
    if not template:
        raise UserError(
            "the tokenizer has no chat template",
            f"use an instruction-tuned variant of the model, or {OWN} (data.chat_template: FILE)",
        )
    return str(template)


def _render(tokenizer: Any, template: str, conversation: Conversation, **options: bool) -> str:
    """The text of a conversation. Raises RowProblem with the template's own words if it refuses."""
    messages = [{"role": message.role, "content": message.content} for message in conversation]
    try:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
    except Exception as error:  # a template may fail in any way: it is a program
        line = f" in line {error.lineno} of the template" if hasattr(error, "lineno") else ""
        raise RowProblem("refused by the template", f"the chat template refuses it: {first_line(error)}{line}") from error


def _control_words(tokenizer: Any, question: str) -> re.Pattern[str]:
    """A pattern of the tokenizer's control words. `question`: a message of the user, as the template renders it.

    Some tokenizers do not declare their words for turns as special; so those in `question` count too.
    """
    tokens = [
        token
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip() and (token.special or (token.content in question and not token.content.isalnum()))
    ]
    # One that is matched after normalizing may be written in other letters.
    flags = re.IGNORECASE if any(token.normalized for token in tokens) else re.NOFLAG
    return re.compile("|".join(re.escape(token.content) for token in tokens) or r"(?!)", flags)


def _encoded(text: str, spans: Sequence[Span], ids: np.ndarray, offsets: np.ndarray, learn: Learn) -> Encoded | RowProblem:
    begin, end = offsets.T
    # Some tokenizers trim white space from offsets; a token of nothing else then ends where it began.
    first = np.where(begin < end, begin, np.maximum(end - 1, 0))
    learnt = np.full(len(ids), learn == "all")
    learnt[:1] = False
    for start, stop in spans:
        here = (start <= first) & (first < stop)
        if not here.any():
            return RowProblem("empty answer", f"no token begins in the rendered answer {shown(text[start:stop])}")
        learnt |= here
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    bytes_until = np.concatenate([[0], np.cumsum(1 + sum(characters > most for most in (0x7F, 0x7FF, 0xFFFF)))])
    # Several tokens of one character: its bytes count for the first of them.
    token_bytes = np.diff(bytes_until[end], prepend=0)
    return Encoded(ids, learnt, token_bytes.astype(np.int32))


def _difference(one: str, other: str) -> tuple[str, str]:
    """The place where two texts begin to differ, as each has it."""
    shorter = min(len(one), len(other))
    at = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    return one[max(at - 20, 0) : at + 20], other[max(at - 20, 0) : at + 20]
