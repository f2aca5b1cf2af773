"""Sequence classification: one class per row, predicted from a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.tasks import BaseTask, Encoded, unknown_tokens, utf8_bytes
from scalesweep.tasks.metrics import Totals

if TYPE_CHECKING:
    import torch

    from scalesweep.spec.sweep import DataSpec


class Task(BaseTask):
    """Each row is one example, with special tokens, cut to `max_length` tokens."""

    per_token = False
    control_words = False  # a classifier's texts are texts to the end
    guess = "class shares in train"
    measures = ("loss", "class")

    def least_tokens(self, data: DataSpec, tokenizer: Any) -> int:
        pairs = not isinstance(data.text, str) and len(data.text) == 2
        return int(tokenizer.num_special_tokens_to_add(pair=pairs)) + (2 if pairs else 1)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, data: DataSpec, tokenizer: Any) -> Encoded:
        with_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
        encoded = tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=data.max_length,
            return_attention_mask=False,
            return_token_type_ids=with_types,
        )
        rows = encoded["input_ids"]
        covered, truncated = [], 0
        for position, encoding in enumerate(encoded.encodings):
            parts: tuple[str, ...] = (texts[position],) if pairs is None else (texts[position], pairs[position])
            if encoding.overflowing:
                truncated += 1
                parts = tuple(_covered(text, encoding, number) for number, text in enumerate(parts))
            covered.append(sum(utf8_bytes(text) for text in parts))
        return Encoded(
            tokens=np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]),
            lengths=np.array([len(row) for row in rows], dtype=np.int64),
            bytes=np.array(covered, dtype=np.int64),
            types=np.concatenate([np.asarray(row, dtype=np.uint8) for row in encoded["token_type_ids"]])
            if with_types
            else None,
            truncated=truncated,
            unknown_tokens=unknown_tokens(rows, tokenizer),
        )

    def auto_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def configure(self, config: Any, classes: Sequence[str]) -> None:
        if not classes:
            raise ValueError("sequence-classification needs classes")
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
        config.problem_type = "single_label_classification"
        assert config.num_labels == len(classes)

    def measured(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([super().measured(logits, targets), logits.argmax(-1).double()[:, None]], dim=1)

    def totals(self, found: np.ndarray, count: float, n_bytes: float, labels: np.ndarray | None, classes: int) -> Totals:
        assert labels is not None
        cells = np.bincount(labels * classes + found[:, 1].astype(np.int64), minlength=classes * classes)
        return Totals(float(found[:, 0].sum()), count, n_bytes, cells.reshape(classes, classes).astype(float))

    def guessed(self, nll: float, train: np.ndarray, validation: np.ndarray, n_bytes: float) -> Totals:
        confusion = np.zeros((len(train), len(train)))
        confusion[:, int(train.argmax())] = validation
        return Totals(nll, float(validation.sum()), n_bytes, confusion)


def _covered(text: str, encoding: Any, number: int) -> str:
    """The part of text `number` (0, or 1 for the second of a pair) that the tokens of `encoding` cover."""
    spans = [span for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True) if sequence == number]
    return text[spans[0][0] : spans[-1][1]] if spans else ""
