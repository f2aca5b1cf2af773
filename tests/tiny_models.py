"""Tiny random models of many architectures, and their folders on disk, for tests of any room. No network."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from scalesweep.spec.tasks import TASKS
from scalesweep.tasks import task_of

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<cls>", "<sep>"]
WORDS = (  # noqa: SIM905 - a word list reads better as text
    "the a of and to in is it this that film movie story actor plot scene good great fine bad poor dull fun sad long short "
    "best worst never always very not but with for as on by from was were be has have had one two like love hate"
).split()
VOCAB_SIZE = 96  # rows of the embedding table; the tokenizer uses fewer
LAYERS = 3

WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # matrices large enough for moments in 8 bits

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 64,
}
_FEED_FORWARD = {"intermediate_size": 48}
_LLAMA = {**_FEED_FORWARD, "num_key_value_heads": 2, "head_dim": 8}

# model_type → what its config needs beside _COMMON (whose names every config understands, if through its own ones).
TINY: dict[str, dict[str, Any]] = {
    "bert": {**_FEED_FORWARD},
    "roberta": {**_FEED_FORWARD, "max_position_embeddings": 65},  # takes 64: it counts from the padding index + 1
    "distilbert": {"hidden_dim": 48},
    "deberta-v2": {
        **_FEED_FORWARD,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "electra": {**_FEED_FORWARD, "embedding_size": 16},
    "modernbert": {**_FEED_FORWARD, "cls_token_id": 4, "sep_token_id": 5, "local_attention": 16},
    "gpt2": {"n_inner": 48},
    "gpt_neox": {**_FEED_FORWARD},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama": _LLAMA,
    "qwen2": {**_FEED_FORWARD, "num_key_value_heads": 2},
    "gemma": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 16},
    "t5": {"d_ff": 48, "d_kv": 8, "num_decoder_layers": LAYERS, "decoder_start_token_id": 0},
}
DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "qwen2", "gemma", "mistral")
# Messages between control words; an answer is what stands behind <sep>.
CHAT = (
    "<s>{% for message in messages %}{{ ('<sep>' if message.role == 'assistant' else '<cls>') + message.content + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}<sep>{% endif %}"
)


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A config of 3 blocks and hidden size 32. `changes` override fields."""
    fields = {**_COMMON, **TINY.get(model_type, {}), **changes}
    if model_type == "t5":
        del fields["max_position_embeddings"]
    return CONFIG_MAPPING[model_type](**fields)


def tiny_model(model_type: str, task: str = "sequence-classification", seed: int = 0, **changes: Any) -> Any:
    """A random model for a task, in evaluation mode. The model type `t5-encoder` is a T5EncoderModel (of no task)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model_type == "t5-encoder":
            return T5EncoderModel(tiny_config("t5", **changes)).eval()
        return task_of(task).auto_class().from_config(tiny_config(model_type, **changes)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words of WORDS, single letters and digits; everything else is <unk>. Two texts become `<cls> a <sep> b <sep>`."""
    vocabulary = {
        token: index
        for index, token in enumerate([*SPECIAL, *sorted(set(WORDS) | set("bcdefghjklmnop0123456789.,!?")), "<mask>"])
    }
    assert len(vocabulary) <= VOCAB_SIZE
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pairs = [("<cls>", vocabulary["<cls>"]), ("<sep>", vocabulary["<sep>"])]
    backend.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=pairs
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<cls>",
        sep_token="<sep>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
        chat_template=CHAT,
    )


def save_tiny(
    model_type: str, folder: Path | str, task: str = "sequence-classification", seed: int = 0, **changes: Any
) -> Path:
    """Write a checkpoint as a hub would hold it: a base model to classify with (no head), or a language model."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto_class = AutoModel if TASKS[task].draws_head else task_of(task).auto_class()
        auto_class.from_config(tiny_config(model_type, **changes)).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    if model_type == "t5":  # its classifier reads the last end-of-text token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 3)]
        )
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def tiny_checkpoint(model_type: str, task: str = "sequence-classification", seed: int = 0, **changes: Any) -> Path:
    """`save_tiny` once per test run. All tests share it, so none may change it."""
    name = "-".join(map(str, (model_type, task, seed, *(part for item in changes.items() for part in item))))
    return made_once(name, lambda folder: save_tiny(model_type, folder, task, seed, **changes))


def made_once(name: str, make: Callable[[Path], Any]) -> Path:
    """A file or folder of that name beside the cache, which the first process to ask for it makes."""
    path = Path(os.environ["SCALESWEEP_CACHE"]).with_name("shared") / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f".{os.getpid()}-{name}")
        make(unfinished)
        with contextlib.suppress(OSError):  # another process was faster with the same folder
            unfinished.rename(path)
    return path


def tiny_inputs(n: int = 2, length: int = 10, seed: int = 0) -> dict[str, torch.Tensor]:
    """`n` rows of `length` random tokens that end in </s>, for a forward pass."""
    tokens = torch.randint(len(SPECIAL), VOCAB_SIZE, (n, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, -1] = 3
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
