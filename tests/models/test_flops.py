"""FLOP profiles against torch's own counter on real forward and backward passes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING

from flop_cases import CASES, MINILM, SHAPES, TOLERANCE, counted, error, measured
from scalesweep.costs import FlopProfile
from scalesweep.models.flops import flop_profile
from scalesweep.models.groups import blocks, layer_groups
from scalesweep.models.ladder import load_model, resolve
from scalesweep.models.unfreezing import apply_unfreezing
from scalesweep.tasks import task_of
from tiny_models import tiny_inputs, tiny_model

torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_torchs_counter_gives_the_same_sum(name: str, task: str) -> None:
    """As the short one that the tests below compare with."""
    model, _, _ = measured(name, task)
    model.train()
    inputs = tiny_inputs(*SHAPES[0])
    with FlopCounterMode(display=False) as counter:
        model(**inputs).logits.sum().backward()
    model.zero_grad()
    assert counter.get_total_flops() == counted(model, inputs)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_inference(name: str, task: str) -> None:
    assert error(*measured(name, task), None) < TOLERANCE


@pytest.mark.parametrize(("name", "task"), CASES)
def test_training_with_every_frozen_prefix(name: str, task: str) -> None:
    model, groups, profile = measured(name, task)
    for lowest in range(len(groups)):
        trained = [index >= lowest for index in range(len(groups))]
        assert error(model, groups, profile, trained) < TOLERANCE, groups[lowest].name


@pytest.mark.parametrize(("name", "task"), CASES)
def test_training_one_group_below_frozen_ones(name: str, task: str) -> None:
    model, groups, profile = measured(name, task)
    for alone in range(len(groups) - 1):  # the head alone is the test above
        trained = [index == alone for index in range(len(groups))]
        assert error(model, groups, profile, trained) < TOLERANCE, groups[alone].name


@pytest.mark.parametrize(("name", "task"), CASES)
def test_gradient_checkpointing(name: str, task: str) -> None:
    """The blocks from the lowest trained one up run once more, up to the last tensor that their backward pass asks for."""
    model, groups, profile = measured(name, task)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.disable_input_require_grads()  # transformers would have the frozen prefix differentiated, too
    try:
        for lowest in range(len(groups)):
            trained = [index >= lowest for index in range(len(groups))]
            assert error(model, groups, profile, trained, True) < TOLERANCE, groups[lowest].name
            alone = [index == lowest for index in range(len(groups))]
            if alone != trained:
                assert error(model, groups, profile, alone, True) < TOLERANCE, groups[lowest].name
    finally:
        model.gradient_checkpointing_disable()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_cached_prefix_costs_nothing(name: str, task: str) -> None:
    """The FLOPs counted from the entry of a block."""
    model, _, profile = measured(name, task)
    model.eval()
    rows, width = SHAPES[0]
    before: list[int] = []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        handles = [b.register_forward_pre_hook(lambda *_: before.append(counter.get_total_flops())) for b in blocks(model)]
        model(**tiny_inputs(rows, width))
    for handle in handles:
        handle.remove()
    for index, flops in enumerate(before):
        expected = counter.get_total_flops() - flops
        # What stands between two blocks (DeBERTa's convolution) belongs to the lower one, whose block is entered before.
        assert profile.forward(rows, width, first=index + 1) == pytest.approx(expected, rel=TOLERANCE)


def test_the_bundled_model() -> None:
    """In full, with each frozen prefix, and one group alone; measured without weights."""
    facts = resolve(MINILM, "sequence-classification", 2)
    profile = FlopProfile.from_dict(json.loads(json.dumps(dataclasses.asdict(facts)))["flops"])
    assert profile == facts.flops
    assert not profile.estimated
    model = load_model(MINILM, "sequence-classification", 2, {}, 0)
    model.set_attn_implementation("eager")
    groups = layer_groups(model)
    cases = [None, *([index >= lowest for index in range(8)] for lowest in range(8)), [index == 3 for index in range(8)]]
    assert max(error(model, groups, profile, trained) for trained in cases) < TOLERANCE
    # By hand: 4 projections of the hidden state, 2 of the feed-forward, scores and weighted sum; pooler and classifier.
    h, rows, width = 384, 5, 33
    by_hand = 6 * rows * (width * (8 * h * h + 4 * h * 1536) + 4 * width * width * h) + rows * 2 * (h * h + 2 * h)
    assert profile.forward(rows, width) == by_hand
    assert profile.backward(rows, width, [True] * 8) == 2 * by_hand


def test_a_tied_output_layer_costs_in_the_head_and_trains_with_the_embeddings() -> None:
    tied, untied = (flop_profile(tiny_model("gpt2", "causal-lm", tie_word_embeddings=tie)) for tie in (True, False))
    assert tied.forwards == untied.forwards
    head_alone = [False] * 4 + [True]
    product = 2 * 3 * 7 * 32 * 96
    assert tied.backward(3, 7, head_alone) == product  # the final norm needs the gradient of the hidden state, no weight does
    assert untied.backward(3, 7, head_alone) == 2 * product


@pytest.mark.parametrize(
    ("name", "task", "fields"),
    [
        ("albert", "sequence-classification", {"intermediate_size": 48, "embedding_size": 16}),  # one block, many times
        ("bloom", "causal-lm", {}),  # an activation with a backward pass of its own
        ("mixtral", "causal-lm", {"intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4}),
        ("mpnet", "sequence-classification", {"intermediate_size": 48}),
    ],
)
def test_architectures_of_other_kinds(name: str, task: str, fields: dict[str, int]) -> None:
    common = {"vocab_size": 96, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "pad_token_id": 0}
    config = CONFIG_MAPPING[name](**common, **fields)
    config.use_cache = False
    model = task_of(task).auto_class().from_config(config, attn_implementation="eager")
    groups, profile = layer_groups(model), flop_profile(model)
    assert not profile.estimated
    for trained in (None, *([index >= lowest for index in range(len(groups))] for lowest in range(len(groups)))):
        assert error(model, groups, profile, trained) < TOLERANCE, trained


def test_measuring_changes_nothing_in_the_model() -> None:
    model = tiny_model("bert")
    apply_unfreezing(model, layer_groups(model), [False] * 4 + [True])
    before = [(n, p.requires_grad, p.device, p.detach().clone()) for n, p in model.named_parameters()]
    modes = [module.training for module in model.modules()]
    flop_profile(model)
    assert modes == [module.training for module in model.modules()]
    for (name, needs, device, value), (again, parameter) in zip(before, model.named_parameters(), strict=True):
        assert (name, needs, device) == (again, parameter.requires_grad, parameter.device)
        assert torch.equal(value, parameter)
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_measured_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise NotImplementedError("not on meta")

    for name, task in (("bert", "sequence-classification"), ("gpt2", "causal-lm")):
        model, groups, exact = measured(name, task)
        with monkeypatch.context() as patch:
            patch.setattr(type(blocks(model)[1]), "forward", fail)
            rough = flop_profile(model, groups)
        assert rough.estimated
        assert not exact.estimated
        for lowest in range(5):
            trained = [index >= lowest for index in range(5)]
            flops, truth = (p.forward(4, 10) + p.backward(4, 10, trained) for p in (rough, exact))
            assert flops == pytest.approx(truth, rel=0.1), lowest
        assert rough.backward(4, 10, [True] * 5, True) > rough.backward(4, 10, [True] * 5)


def test_a_cost_that_is_no_polynomial_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in padded windows: what is short costs what is long."""
    model = tiny_model("bert")
    block = blocks(model)[0]
    forward = block.forward

    def padded(hidden: torch.Tensor, *args: object, **kwargs: object) -> object:
        torch.matmul(
            torch.zeros(20, 5 + hidden.shape[1], device=hidden.device),
            torch.zeros(5 + hidden.shape[1], 3, device=hidden.device),
        )
        return forward(hidden, *args, **kwargs)

    monkeypatch.setattr(block, "forward", padded)
    assert flop_profile(model).estimated


def test_an_empty_batch_and_a_model_that_does_not_train_cost_nothing() -> None:
    _, _, profile = measured("deberta-v2", "sequence-classification")
    assert profile.forward(0, 10) == profile.backward(0, 10, [True] * 5) == profile.backward(4, 10, [False] * 5) == 0
    assert json.loads(json.dumps(dataclasses.asdict(profile)))
