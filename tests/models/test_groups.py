"""Layer groups of many architectures, compared with the true dependencies of a forward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scalesweep.errors import UserError
from scalesweep.models.groups import LayerGroup, blocks, layer_groups
from scalesweep.models.unfreezing import apply_unfreezing, head_groups
from tiny_models import DECODERS, LAYERS, TINY, tiny_inputs, tiny_model

torch.set_num_threads(1)

ARCHITECTURES = [*TINY, "t5-encoder"]
N_BLOCKS = dict.fromkeys(ARCHITECTURES, LAYERS) | {"t5": 2 * LAYERS}
HAS_DROPOUT_IN_BLOCKS = [name for name in ARCHITECTURES if name not in ("llama", "qwen2", "gemma", "mistral", "modernbert")]


def train_from(model: nn.Module, groups: list[LayerGroup], lowest: int) -> None:
    """Train the groups `lowest` and above."""
    apply_unfreezing(model, groups, [index >= lowest for index in range(len(groups))])


def block_inputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[list[torch.Tensor]]:
    """Every floating tensor that enters each block, by position or by name."""
    seen: list[list[torch.Tensor]] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        parts = torch.utils._pytree.tree_leaves((args, kwargs))
        seen.append([p.detach().clone() for p in parts if isinstance(p, torch.Tensor) and p.is_floating_point()])

    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks(model)]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_and_module_is_in_exactly_one_group(name: str) -> None:
    model = tiny_model(name)
    groups = layer_groups(model)
    assert [g.name for g in groups] == ["embeddings", *(f"block.{i}" for i in range(N_BLOCKS[name])), "head"]
    assert sorted(n for g in groups for n in g.parameter_names) == sorted(n for n, _ in model.named_parameters())
    assert sorted(n for g in groups for n in g.module_names) == sorted(n for n, _ in model.named_modules())
    assert all(g.parameter_names for g in groups)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_group_moves_nothing_that_enters_its_block_or_one_below(name: str) -> None:
    """Check the chain property by perturbing one group after another in a real forward pass."""
    model, inputs = tiny_model(name), tiny_inputs()
    before = block_inputs(model, inputs)
    assert len(before) == N_BLOCKS[name]
    for index, group in enumerate(layer_groups(model)):
        changed = copy.deepcopy(model)
        parameters = dict(changed.named_parameters())
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter_name in group.parameter_names:
                parameters[parameter_name] += 0.1 * torch.randn(parameters[parameter_name].shape, generator=generator)
        after = block_inputs(changed, inputs)
        moved = [not same(a, b) for a, b in zip(before, after, strict=True)]
        # Group k is block k - 1: nothing up to that block's own input changes …
        assert not any(moved[:index]), (group.name, moved)
        # … and a group other than the head changes the next block's input (or the stack's last block would be head).
        if index < N_BLOCKS[name]:
            assert moved[index], (group.name, moved)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_hold_no_more_than_what_the_first_block_reads(name: str) -> None:
    """No final norm, pooler or classifier is hidden among the embeddings: each of their parameters acts on some block."""
    model, inputs = tiny_model(name), tiny_inputs()
    before = block_inputs(model, inputs)
    for parameter_name in layer_groups(model)[0].parameter_names:
        changed = copy.deepcopy(model)
        parameter = dict(changed.named_parameters())[parameter_name]
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        after = block_inputs(changed, inputs)
        assert not all(same(a, b) for a, b in zip(before, after, strict=True)), parameter_name


def test_places_that_registration_order_would_get_wrong() -> None:
    opt = {g.name: g.parameter_names for g in layer_groups(tiny_model("opt"))}
    assert any("final_layer_norm" in n and "layers" not in n for n in opt["head"])
    deberta = {g.name: g.parameter_names for g in layer_groups(tiny_model("deberta-v2"))}
    assert any("rel_embeddings" in n for n in deberta["embeddings"])
    assert any("encoder.conv" in n for n in deberta["block.0"])
    t5 = {g.name: g.parameter_names for g in layer_groups(tiny_model("t5"))}
    assert "transformer.encoder.final_layer_norm.weight" in t5[f"block.{LAYERS - 1}"]
    assert "transformer.decoder.final_layer_norm.weight" in t5["head"]


def test_a_tied_head_belongs_to_the_embeddings_once() -> None:
    groups = layer_groups(tiny_model("gpt2", "causal-lm"))
    assert "transformer.wte.weight" in groups[0].parameter_names
    assert [n for g in groups for n in g.parameter_names if "lm_head" in n] == []
    assert groups[-1].parameter_names == ("transformer.ln_f.weight", "transformer.ln_f.bias")
    untied = layer_groups(tiny_model("gpt2", "causal-lm", tie_word_embeddings=False))
    assert "lm_head.weight" in untied[-1].parameter_names


@pytest.mark.parametrize("name", DECODERS)
def test_language_models_have_the_same_chain(name: str) -> None:
    groups = layer_groups(tiny_model(name, "causal-lm"))
    assert len(groups) == LAYERS + 2
    assert all(g.parameter_names for g in groups[:-1])


def test_grouping_changes_nothing_in_the_model() -> None:
    model = tiny_model("bert")
    train_from(model, layer_groups(model), 2)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    modes = {n: m.training for n, m in model.named_modules()}
    state = torch.get_rng_state()
    layer_groups(model)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == {n: m.training for n, m in model.named_modules()}
    assert all(torch.equal(weights[n], p) and p.device.type == "cpu" for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_meta_and_real_models_agree() -> None:
    for name in ("deberta-v2", "t5", "opt"):
        real = tiny_model(name)
        with torch.device("meta"):
            empty = tiny_model(name)
        assert layer_groups(real) == layer_groups(empty)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="no stack of blocks"):
        layer_groups(nn.Sequential(nn.Linear(2, 2)))


# ---- unfreezing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_a_head_without_a_matrix_trains_with_the_highest_block(name: str) -> None:
    """A classifier and an untied output layer are matrices; a norm is none."""
    tied, untied = (tiny_model(name, "causal-lm", tie_word_embeddings=tie) for tie in (True, False))
    assert [head_groups(model, layer_groups(model)) for model in (tied, untied)] == [2, 1]
    classifier = tiny_model(name)
    assert head_groups(classifier, layer_groups(classifier)) == 1


def test_a_frozen_group_above_the_trained_one_is_differentiated_through_and_keeps_its_dropout() -> None:
    model, inputs = tiny_model("bert"), tiny_inputs()
    groups = layer_groups(model)
    for lowest in range(len(groups)):
        model.train()
        model.zero_grad(set_to_none=True)
        apply_unfreezing(model, groups, [index == lowest for index in range(len(groups))])
        model(**inputs)[0].float().pow(2).sum().backward()
        parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
        for index, group in enumerate(groups):
            assert {parameters[name].requires_grad for name in group.parameter_names} == {index == lowest}
            assert any(parameters[name].grad is not None for name in group.parameter_names) == (index == lowest)
            assert {modules[name].training for name in group.module_names} == {index >= lowest}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("lowest", [0, 2, -1])
def test_a_training_step_moves_the_trainable_groups_and_no_others(name: str, lowest: int) -> None:
    model, inputs = tiny_model(name), tiny_inputs()
    groups = layer_groups(model)
    lowest %= len(groups)
    model.train()
    train_from(model, groups, lowest)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    output = model(**inputs)
    output[0].float().pow(2).sum().backward()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    moved = [any(not torch.equal(before[n], dict(model.named_parameters())[n]) for n in g.parameter_names) for g in groups]
    assert moved == [index >= lowest for index in range(len(groups))]
    assert all(p.grad is None for g in groups[:lowest] for n, p in model.named_parameters() if n in g.parameter_names)


@pytest.mark.parametrize("name", HAS_DROPOUT_IN_BLOCKS)
def test_the_frozen_prefix_is_deterministic_and_dropout_above_it_is_not(name: str) -> None:
    knobs = {"attention_dropout": 0.5, "hidden_dropout": 0.5} if name == "gpt_neox" else {}
    model, inputs = tiny_model(name, **knobs), tiny_inputs()
    groups = layer_groups(model)
    for lowest in range(1, len(groups) - 1):  # the lowest trainable group is block number lowest - 1
        model.train()
        train_from(model, groups, lowest)
        one, other = block_inputs(model, inputs), block_inputs(model, inputs)
        assert all(same(one[i], other[i]) for i in range(lowest)), lowest
        assert all(not same(one[i], other[i]) for i in range(lowest, len(one))), lowest
    model.train()
    train_from(model, groups, 0)
    assert not same(block_inputs(model, inputs)[0], block_inputs(model, inputs)[0]) or name == "opt"  # no embedding dropout
    assert all(module.training for module in model.modules())


def test_dropout_without_parameters_follows_its_group() -> None:
    gpt2 = tiny_model("gpt2").train()
    groups = layer_groups(gpt2)
    assert "transformer.drop" in groups[0].module_names
    train_from(gpt2, groups, 1)
    assert not gpt2.transformer.drop.training
    assert gpt2.transformer.h[0].mlp.dropout.training
    bert = tiny_model("bert").train()
    train_from(bert, layer_groups(bert), LAYERS + 1)
    assert bert.dropout.training  # the classifier's own, registered beside the encoder
    assert not bert.bert.embeddings.dropout.training


def test_layerdrop_never_skips_a_frozen_block() -> None:
    model, inputs = tiny_model("opt", layerdrop=0.9), tiny_inputs()
    model.train()
    train_from(model, layer_groups(model), 2)
    assert len(block_inputs(model, inputs)) == LAYERS


def test_unfreezing_can_be_repeated_in_any_order() -> None:
    model = tiny_model("bert")
    groups = layer_groups(model)
    train_from(model, groups, 3)
    first = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    train_from(model, groups, 0)
    assert all(p.requires_grad for p in model.parameters())
    train_from(model, groups, 3)
    assert first == ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()])
