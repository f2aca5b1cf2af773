"""Causal language modelling: every token of a document, predicted from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.errors import UserError
from scalesweep.tasks import IGNORED, BaseTask, Encoded, unknown_tokens, utf8_bytes

if TYPE_CHECKING:
    from scalesweep.spec.sweep import DataSpec

# Not causal, although transformers lists them for causal and not for masked language modelling: BERT's encoder–decoder
# halves need `is_decoder`, and XLNet attends both ways unless it receives permutation masks.
NOT_CAUSAL = {"bert-generation", "xlnet"}


class Task(BaseTask):
    """A document is BOS (or EOS if the tokenizer has no BOS), its tokens, and EOS if the tokenizer has one.

    It is divided into examples of `max_length` tokens, and each further example begins with the last token of the one before.
    The first token of an example is never predicted, so every token of a document is predicted exactly once. So the sum of
    losses over the sum of `bytes` is comparable between tokenizers. The bytes of a document count in its first example.
    """

    per_token = True
    packs = True
    control_words = True  # a language model's user may want them, as in a chat
    guess = "token frequencies in train"

    def least_tokens(self, data: DataSpec, tokenizer: Any) -> int:  # noqa: ARG002
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            # Without a start token the first token of a document can't be predicted, and losses per byte are not comparable.
            raise UserError(
                "the tokenizer has neither a BOS nor an EOS token", "use a decoder: causal-lm needs one of the two tokens"
            )
        return 2

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, data: DataSpec, tokenizer: Any) -> Encoded:  # noqa: ARG002
        encoded = tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        examples, covered, rows = [], [], []
        for row, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
            document = np.array([start, *ids, *end], dtype=np.int32)
            for at in range(0, max(1, document.size - 1), data.max_length - 1):
                examples.append(document[at : at + data.max_length])
                covered.append(utf8_bytes(text) if at == 0 else 0)
                rows.append(row)
        return Encoded(
            tokens=np.concatenate(examples),
            lengths=np.array([example.size for example in examples], dtype=np.int64),
            bytes=np.array(covered, dtype=np.int64),
            targets=np.concatenate([np.append(example[1:], IGNORED) for example in examples]).astype(np.int32),
            rows=np.array(rows, dtype=np.int64),
            unknown_tokens=unknown_tokens(encoded["input_ids"], tokenizer),
        )

    def auto_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def check_architecture(self, config: Any, model: str) -> None:
        """transformers also builds many encoders for it, but their attention sees the future, so their loss has no meaning.

        An architecture that also has a masked language model counts as an encoder unless its checkpoint has
        `is_decoder: true`. An encoder–decoder is never a causal language model.
        """
        import transformers

        name = config.model_type
        masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING or name in NOT_CAUSAL
        if config.is_encoder_decoder or (masked and not getattr(config, "is_decoder", False)):
            kind = "an encoder–decoder" if config.is_encoder_decoder else "an encoder (its attention sees the future)"
            hint = "choose a decoder such as GPT-2, Llama or Qwen, or task: sequence-classification"
            raise UserError(f"{model} ({name}) is {kind}, so it is no language model that writes text", hint=hint)
