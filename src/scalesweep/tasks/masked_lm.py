"""Masked language modelling: hidden tokens of a text, each predicted from all others (domain adaptation of encoders)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.errors import UserError
from scalesweep.tasks import IGNORED, Encoded, unknown_tokens, utf8_bytes
from scalesweep.tasks.conversations import RowProblem
from scalesweep.tasks.token_accuracy import CountsRight

if TYPE_CHECKING:
    from scalesweep.spec.sweep import DataSpec

# BERT (Devlin et al., 2019): 15 % of the tokens are predicted. Of them 80 % are replaced by the mask token and 10 % by any token.
PREDICTED, MASKED, REPLACED = 0.15, 0.8, 0.1


class Task(CountsRight):
    """A document is divided into examples of at most `max_length` tokens, with special tokens around each.

    The hidden tokens are drawn once, from the text alone: validation losses are of the same predictions in every trial, and
    an example's frozen prefix is computed once. Liu et al. (2019, RoBERTa, table 1) found drawing them anew in each epoch 0.3
    to 0.8 points better or worse in pretraining.
    """

    per_token = True
    control_words = True  # a user of the model writes the mask token
    guess = "frequencies of hidden tokens in train"

    def identity(self, data: DataSpec, tokenizer: Any) -> dict[str, Any]:  # noqa: ARG002
        return {"hidden": [PREDICTED, MASKED, REPLACED]}

    def least_tokens(self, data: DataSpec, tokenizer: Any) -> int:  # noqa: ARG002
        if tokenizer.mask_token_id is None:
            raise UserError("the tokenizer has no mask token", "use an encoder such as BERT: masked-lm hides tokens behind it")
        return int(tokenizer.num_special_tokens_to_add()) + 1

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, data: DataSpec, tokenizer: Any) -> Encoded:  # noqa: ARG002
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=data.max_length,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        rows, owners = encoded["input_ids"], encoded["overflow_to_sample_mapping"]
        replacements = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        tokens, targets, covered, kept, left_out = [np.zeros(0)], [np.zeros(0)], [], [], []
        owner, rng = None, np.random.default_rng()
        for ids, special, index in zip(rows, encoded["special_tokens_mask"], owners, strict=True):
            first, owner = index != owner, index
            if first:
                digest = hashlib.blake2b(texts[index].encode(), digest_size=8).digest()
                rng = np.random.default_rng(int.from_bytes(digest, "little"))
            words = np.flatnonzero(np.array(special) == 0)
            if not len(words):
                left_out.append(RowProblem("no token", "the tokenizer makes no token of a text"))
                continue
            hidden, target = _hidden(np.array(ids), words, tokenizer.mask_token_id, replacements, rng)
            tokens.append(hidden)
            targets.append(target)
            covered.append(utf8_bytes(texts[index]) if first else 0)
            kept.append(index)
        return Encoded(
            tokens=np.concatenate(tokens).astype(np.int32),
            lengths=np.array([len(example) for example in tokens[1:]], dtype=np.int64),
            bytes=np.array(covered, dtype=np.int64),
            targets=np.concatenate(targets).astype(np.int32),
            rows=np.array(kept, dtype=np.int64),
            unknown_tokens=unknown_tokens(rows, tokenizer),
            left_out=left_out,
        )

    def shown(self, tokens: np.ndarray, targets: np.ndarray, tokenizer: Any) -> list[tuple[str, bool]]:
        learnt = targets != IGNORED
        whole = np.where(learnt, targets, tokens)
        ends = [*(np.flatnonzero(learnt[1:] != learnt[:-1]) + 1).tolist(), len(tokens)]
        parts = zip([0, *ends[:-1]], ends, strict=True)
        return [(f"{tokenizer.decode(whole[start:end].tolist())} ", bool(learnt[start])) for start, end in parts]

    def auto_class(self) -> Any:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def check_architecture(self, config: Any, model: str) -> None:
        """An encoder–decoder predicts whole spans, and a decoder sees no later tokens: both need another task."""
        import transformers

        masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
        if config.is_encoder_decoder or not masked:
            hint = "choose an encoder such as BERT, RoBERTa or ModernBERT, or task: causal-lm for a decoder"
            raise UserError(f"{model} ({config.model_type}) is no masked language model", hint=hint)


def _hidden(
    ids: np.ndarray, words: np.ndarray, mask: int, replacements: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An example with tokens hidden, and its targets: the tokens that were there, else IGNORED. Both [tokens].

    Args:
        words: positions of the tokens that are not special.
    """
    chosen = rng.choice(words, size=max(1, round(PREDICTED * len(words))), replace=False)
    targets = np.full(len(ids), IGNORED)
    targets[chosen] = ids[chosen]
    draw = rng.random(len(chosen))
    hidden = ids.copy()
    hidden[chosen[draw < MASKED]] = mask
    replaced = chosen[(draw >= MASKED) & (draw < MASKED + REPLACED)]
    hidden[replaced] = rng.choice(replacements, size=len(replaced))
    return hidden, targets
