"""Knobs reach the dropout that really runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from scalesweep.errors import UserError
from scalesweep.models.architectures import ARCHITECTURES, apply_knobs, knob_fields
from scalesweep.spec.space import KNOBS, PARAMETERS
from tiny_models import LAYERS, TINY, tiny_config, tiny_inputs

torch.set_num_threads(1)

PAIRS = [(name, knob) for name in TINY for knob in knob_fields(tiny_config(name))]
LACKING = [(name, knob) for name in TINY for knob in KNOBS if knob not in knob_fields(tiny_config(name))]


def build(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config)


def without_dropout(name: str, **changes: Any) -> Any:
    config = tiny_config(name, **changes)
    apply_knobs(config, dict.fromkeys(knob_fields(config), 0.0))
    return config


def is_random(config: Any) -> bool:
    """Whether training-mode passes over one batch differ. Several, as layerdrop has few outcomes."""
    model, inputs = build(config).train(), tiny_inputs(n=4)
    torch.manual_seed(0)
    with torch.no_grad():
        first, *others = (model(**inputs).logits for _ in range(6))
    return not all(torch.equal(first, other) for other in others)


def test_knobs_are_those_of_the_search_space() -> None:
    assert set(KNOBS) <= set(PARAMETERS)
    assert all(set(row) <= set(KNOBS) and all(row.values()) for row in ARCHITECTURES.values())


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_field_of_the_table_exists(model_type: str) -> None:
    declared = CONFIG_MAPPING[model_type]().to_dict()
    fields = {field for names in ARCHITECTURES[model_type].values() for field in names}
    assert fields - set(declared) <= {"cls_dropout"}  # DeBERTa's models read it, their config doesn't declare it


@pytest.mark.parametrize("name", TINY)
def test_all_knobs_at_zero_leave_no_dropout_at_all(name: str) -> None:
    config = without_dropout(name)
    model = build(config).train()
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} <= {0.0}
    assert not is_random(config)


@pytest.mark.parametrize(("name", "knob"), PAIRS)
def test_each_knob_alone_makes_training_random(name: str, knob: str) -> None:
    config = without_dropout(name)
    apply_knobs(config, {knob: 0.5})
    assert is_random(config)


@pytest.mark.parametrize(
    ("name", "knob", "modules"),
    [
        ("bert", "dropout", 1 + 2 * LAYERS),  # embeddings; attention output and feed-forward of each block
        ("bert", "attention_dropout", LAYERS),
        ("bert", "classifier_dropout", 1),
        ("distilbert", "classifier_dropout", 1),
        ("deberta-v2", "classifier_dropout", 2),  # pooler and classifier
        ("gpt2", "embedding_dropout", 1),
        ("gpt2", "dropout", 2 * LAYERS),
        ("modernbert", "dropout", LAYERS),
        ("t5", "classifier_dropout", 1),
    ],
)
def test_a_knob_sets_the_dropout_modules_it_names(name: str, knob: str, modules: int) -> None:
    config = without_dropout(name)
    apply_knobs(config, {knob: 0.37, "dropout": 0.0 if knob != "dropout" else 0.37})
    assert sum(m.p == 0.37 for m in build(config).modules() if isinstance(m, nn.Dropout)) == modules


def test_dropout_moves_berts_classifier_too_unless_that_is_set() -> None:
    config = tiny_config("bert")
    apply_knobs(config, {"dropout": 0.37})
    assert build(config).dropout.p == 0.37
    apply_knobs(config, {"classifier_dropout": 0.2})
    assert build(config).dropout.p == 0.2


def test_none_leaves_the_checkpoints_value() -> None:
    config = tiny_config("bert", hidden_dropout_prob=0.123)
    apply_knobs(config, dict.fromkeys(KNOBS))
    assert config.hidden_dropout_prob == 0.123


@pytest.mark.parametrize(("name", "knob"), LACKING)
def test_a_missing_knob_is_refused_with_those_that_exist(name: str, knob: str) -> None:
    config = tiny_config(name)
    with pytest.raises(UserError) as caught:
        apply_knobs(config, {knob: 0.1})
    assert caught.value.message == f"{name} has no {knob}"
    assert all(other in caught.value.hint for other in knob_fields(config))


def test_an_architecture_without_a_row_is_read_off_its_config() -> None:
    assert knob_fields(CONFIG_MAPPING["albert"]()) == {
        "dropout": ("hidden_dropout_prob",),
        "attention_dropout": ("attention_probs_dropout_prob",),
        "classifier_dropout": ("classifier_dropout_prob",),
    }
    assert knob_fields(CONFIG_MAPPING["bart"]())["layerdrop"] == ("encoder_layerdrop", "decoder_layerdrop")
    assert knob_fields(CONFIG_MAPPING["phi"]())["embedding_dropout"] == ("embd_pdrop",)
    assert knob_fields(CONFIG_MAPPING["qwen3"]()) == {"attention_dropout": ("attention_dropout",)}
    assert "dropout" not in knob_fields(CONFIG_MAPPING["mpt"]())  # it declares resid_pdrop and reads it nowhere


def test_a_config_with_several_parts_is_set_in_its_text_part() -> None:
    config = CONFIG_MAPPING["gemma3"]()
    apply_knobs(config, {"attention_dropout": 0.25})
    assert config.text_config.attention_dropout == 0.25
