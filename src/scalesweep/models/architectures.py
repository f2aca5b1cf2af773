"""The config fields of each architecture's regularization knobs.

A knob is set before the model is built, so a field counts only if the models of the tasks here read it. Two consequences:

- GPT-2's `summary_first_dropout` and GPT-NeoX's `classifier_dropout` belong to heads that no task here builds; neither
  architecture has a `classifier_dropout` knob.
- BERT and similar models use `hidden_dropout_prob` if `classifier_dropout` is None, so `dropout` also changes the
  classifier's dropout unless `classifier_dropout` is set as well. T5's `dropout_rate` covers embeddings, attention and
  hidden states together.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalesweep.errors import UserError

Fields = dict[str, tuple[str, ...]]

_BERT: Fields = {
    "dropout": ("hidden_dropout_prob",),
    "attention_dropout": ("attention_probs_dropout_prob",),
    "classifier_dropout": ("classifier_dropout",),
}
# The model reads `cls_dropout` with getattr; no config declares it. The pooler before it applies `pooler_dropout`.
_DEBERTA: Fields = {**_BERT, "classifier_dropout": ("cls_dropout", "pooler_dropout")}
_T5: Fields = {"dropout": ("dropout_rate",), "classifier_dropout": ("classifier_dropout",)}
_GPT2: Fields = {"dropout": ("resid_pdrop",), "attention_dropout": ("attn_pdrop",), "embedding_dropout": ("embd_pdrop",)}
_ATTENTION_ONLY: Fields = {"attention_dropout": ("attention_dropout",)}

ARCHITECTURES: dict[str, Fields] = {
    "bert": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "distilbert": {
        "dropout": ("dropout",),
        "attention_dropout": ("attention_dropout",),
        "classifier_dropout": ("seq_classif_dropout",),
    },
    "modernbert": {
        "dropout": ("mlp_dropout",),
        "attention_dropout": ("attention_dropout",),
        "embedding_dropout": ("embedding_dropout",),
        "classifier_dropout": ("classifier_dropout",),
    },
    "xlnet": {"dropout": ("dropout",), "classifier_dropout": ("summary_last_dropout",)},
    "gpt2": _GPT2,
    "gpt_neo": {
        "dropout": ("resid_dropout",),
        "attention_dropout": ("attention_dropout",),
        "embedding_dropout": ("embed_dropout",),
    },
    # `hidden_dropout` also applies to the embeddings.
    "gpt_neox": {"dropout": ("hidden_dropout",), "attention_dropout": ("attention_dropout",)},
    "opt": {"dropout": ("dropout",), "attention_dropout": ("attention_dropout",), "layerdrop": ("layerdrop",)},
    "llama": _ATTENTION_ONLY,
    "qwen2": _ATTENTION_ONLY,
    "gemma": _ATTENTION_ONLY,
    "mistral": _ATTENTION_ONLY,
    "t5": _T5,
    "mt5": _T5,
}

# Field names in transformers for architectures without a row. A name counts only if the config has it and the
# architecture's own code reads it.
KNOWN_FIELDS: Fields = {
    "dropout": (
        "hidden_dropout_prob", "hidden_dropout", "dropout", "dropout_rate", "dropout_prob", "resid_pdrop", "resid_dropout",
        "residual_dropout", "mlp_dropout",
    ),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "attn_dropout"),
    "embedding_dropout": ("embedding_dropout", "embd_pdrop", "emb_pdrop", "embed_dropout", "embeddings_dropout"),
    "classifier_dropout": ("classifier_dropout", "classifier_dropout_prob", "classifier_dropout_rate", "classif_dropout"),
    "layerdrop": ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"),
}  # fmt: skip


def knob_fields(config: Any) -> dict[str, tuple[str, ...]]:
    """The fields of `config` (its text part, if it has several parts) for each knob. Missing knobs are absent."""
    text_config = config.get_text_config()
    row = ARCHITECTURES.get(text_config.model_type)
    if row is not None:
        return dict(row)
    present, code = text_config.to_dict(), _modeling_code(text_config)
    found = {knob: tuple(n for n in names if n in present and n in code) for knob, names in KNOWN_FIELDS.items()}
    return {knob: names for knob, names in found.items() if names}


def _modeling_code(config: Any) -> str:
    """The source text of the file that builds models from `config`, or every field's name if the file can't be found.

    Some configs declare fields that no model reads (MPT's `resid_pdrop`), so a field must also occur in that file.
    """
    spec = importlib.util.find_spec(type(config).__module__.replace("configuration_", "modeling_"))
    if spec is None or spec.origin is None or "configuration_" in Path(spec.origin).name:
        return " ".join(config.to_dict())
    return Path(spec.origin).read_text(encoding="utf-8")


def apply_knobs(config: Any, knobs: Mapping[str, float | None]) -> None:
    """Write knobs into `config`, in place. None keeps the checkpoint's value.

    Raises:
        UserError: the architecture has no such knob, and a knob without effect would mislead the search.
    """
    fields = knob_fields(config)
    text_config = config.get_text_config()
    for knob, value in knobs.items():
        if value is None:
            continue
        if knob not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has no regularization parameters"
            raise UserError(f"{text_config.model_type} has no {knob}", hint=f"remove {knob} from the search space; {has}")
        for name in fields[knob]:
            setattr(text_config, name, float(value))
