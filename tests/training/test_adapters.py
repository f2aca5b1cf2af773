"""Adapters: the base that they leave alone, the cache that they share, their size, and their export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from jobs import job, needs_bitsandbytes
from scalesweep.errors import UserError
from scalesweep.models.flops import flop_profile
from scalesweep.models.ladder import load_model, locate
from scalesweep.models.linear import linear_layers, linear_shapes
from scalesweep.models.low_bits import lower
from scalesweep.promotion.final_run import verify
from scalesweep.spec.adapters import adapter_params, check_targets
from scalesweep.training.export import validation_logits
from scalesweep.training.loop import Trainer, train
from scalesweep.training.methods.adapter_costs import at_rank
from tiny_models import save_tiny, tiny_model
from tiny_sweeps import tiny_sweep

RUN = {"max_t": 8, "rungs": [], "eval_interval": 4, "learning_rate": 1e-3, "lora_rank": 4}
KINDS = [
    ("bert", "sequence-classification"),
    ("llama", "instruction-tuning"),
    ("gpt2", "causal-lm"),
    ("gpt2", "sequence-classification"),
]
# The head of RoBERTa is a module of several.
ADAPTED: list[Any] = [
    *((*kind, "lora", "float32") for kind in KINDS),
    ("roberta", "sequence-classification", "lora", "float32"),
    (*KINDS[2], "dora", "float32"),
    (*KINDS[2], "lora", "bf16"),
    pytest.param(*KINDS[1], "qlora", "float32", marks=needs_bitsandbytes),
    pytest.param("qwen2", "causal-lm", "qlora", "bf16", marks=needs_bitsandbytes),  # with biases
]


@pytest.mark.parametrize(("kind", "task", "adapter", "weights"), ADAPTED)
def test_a_new_adapter_changes_nothing_and_its_seed_draws_it(kind: str, task: str, adapter: str, weights: str) -> None:
    made = job({**RUN, "adapter": adapter, "base_dtype": weights}, sweep=tiny_sweep(kind, task))
    first, again = Trainer(made), Trainer(made)
    base = load_model(
        made.size, made.task, len(made.classes) or None, {}, made.config.seed, dict(enumerate(made.classes)) or None
    )
    lower(base, first.types, first.device)
    for adapted, plain in zip(validation_logits(first.model.eval(), made, 4), validation_logits(base, made, 4), strict=True):
        np.testing.assert_allclose(adapted, plain, atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters.values(), again.parameters.values(), strict=True))
    rates = [group["peak_lr"] for group in first.optimizer.param_groups]
    assert rates == pytest.approx([1e-2] * len(rates)), "ten times the rate"


def base_in_4_bits(folder: str, **settings: Any) -> Any:
    """The base as any user of transformers and peft loads it."""
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantized, device_map="cpu", **settings)
    for module in model.modules():  # its kernel for evaluation on some CPUs computes in bf16
        module.support_avx512bf16_for_cpu = False
    return model


@pytest.mark.parametrize(("kind", "task", "adapter", "weights"), ADAPTED)
def test_the_export_is_a_plain_model_and_an_adapter_and_both_predict_as_the_trained_one(
    kind: str, task: str, adapter: str, weights: str, tmp_path: Path
) -> None:
    config = {
        **RUN,
        "adapter": adapter,
        "base_dtype": weights,
        "unfreezing": "gradual",
        "unfreeze_interval": 3,
        "lora_alpha": 16,
    }
    made = job(config, sweep=tiny_sweep(kind, task, save_tiny(kind, tmp_path / "base", task, initializer_range=0.2)))
    trainer = Trainer(made)
    list(train(trainer))
    logits = trainer.export(tmp_path / "model")
    assert not [name for name, _ in trainer.model.named_parameters() if "lora" in name]
    auto = AutoModelForCausalLM if task != "sequence-classification" else AutoModelForSequenceClassification
    merged = auto.from_pretrained(tmp_path / "model").eval()
    classes = {"num_labels": 2} if task == "sequence-classification" else {}
    load = base_in_4_bits if adapter == "qlora" else auto.from_pretrained
    base = load(locate(made.size.model), pad_token_id=0, **classes)
    for name, parameter in base.named_parameters():
        if weights == "bf16" and (adapter != "qlora" or "_proj.weight" not in name):
            parameter.data = parameter.data.bfloat16().float()
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "model" / "adapter")).eval()
    for loaded in (merged, adapted):
        np.testing.assert_allclose(np.concatenate(list(validation_logits(loaded, made, 32))), logits, atol=1e-5)
    if not trainer.types.plain:
        verify(made, tmp_path / "model", logits)  # as `promote` does
    untrained = np.concatenate(
        list(validation_logits(auto.from_pretrained(locate(made.size.model), **classes).eval(), made, 32))
    )
    assert np.abs(untrained - logits).max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "task", "first"), [(*KINDS[0], "none"), (*KINDS[0], "lora"), (*KINDS[1], "lora"), (*KINDS[2], "none")]
)
def test_frozen_groups_share_the_cache_with_trials_of_other_methods(kind: str, task: str, first: str, tmp_path: Path) -> None:
    """A LoRA trial, first of the head and then of an upper block too, and a plain `head` trial: the second computes nothing."""
    seed = 1 + KINDS.index((kind, task)) + 10 * (first == "lora")
    spec = tiny_sweep(kind, task, save_tiny(kind, tmp_path / "model", task, seed, tie_word_embeddings=True))
    lora = {"adapter": "lora", "unfreezing": "gradual", "unfreeze_interval": 4}
    computed = []
    for adapter in (first, "none" if first == "lora" else "lora"):
        config = {**RUN, "unfreezing": "head", "eval_interval": None, **(lora if adapter == "lora" else {})}
        trainer = Trainer(job(config, sweep=spec))
        before = trainer.method.untouched
        for _ in range(5):  # the fifth begins the second epoch
            trainer.train_step()
        assert trainer.prefix is not None
        assert trainer.method.untouched == (before - 1 if adapter == "lora" else before)
        computed.append(len(trainer.prefix.computed))
        assert not trainer.prefix.notes
        trainer.close()
    assert [count > 0 for count in computed] == [True, False]


@needs_bitsandbytes
def test_weights_of_other_types_share_no_cache() -> None:
    trainers = [
        Trainer(job({**RUN, "adapter": adapter, "base_dtype": weights}, sweep=tiny_sweep("llama", KINDS[1][1])))
        for adapter in ("lora", "qlora")
        for weights in ("float32", "bf16")
    ]
    assert len({trainer.prefix._key(3) for trainer in trainers if trainer.prefix is not None}) == 4
    layers = [trainer.model.model.layers[0].mlp.up_proj.base_layer.weight for trainer in trainers]
    assert [layer.dtype for layer in layers] == [torch.float32, torch.bfloat16, torch.uint8, torch.uint8]
    head = [trainer.model.lm_head.weight.dtype for trainer in trainers]
    assert head == [torch.float32, torch.bfloat16, torch.float32, torch.bfloat16]
    for trainer in trainers:
        assert {parameter.dtype for name, parameter in trainer.parameters.items() if ".lora_" in name} == {torch.float32}


def test_below_the_cut_an_adapted_block_computes_what_the_base_does() -> None:
    """Bit for bit, although a DoRA adapter that changes nothing still rounds."""
    made = job({**RUN, "adapter": "dora", "unfreezing": "head"}, sweep=tiny_sweep())
    plain = job({**RUN, "unfreezing": "head"}, sweep=tiny_sweep())
    one, other = Trainer(made), Trainer(plain)
    for trainer in (one, other):
        trainer.method.apply()
        trainer.model.eval()
    for a, b in zip(validation_logits(one.model, made, 8), validation_logits(other.model, plain, 8), strict=True):
        assert (a == b).all()


def test_the_checkpoint_of_an_adapter_is_small() -> None:
    """Weights and two moments of rank 8 on every linear layer of a model of the shape of Llama 3.2 1B."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    assert 3 * adapter_params(linear_shapes(model), "lora", 8, "all-linear") < 0.02 * n_params


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_two_measured_ranks_give_the_flops_of_every_other(adapter: str) -> None:
    profiles = {}
    for rank in (2, 7, 32):
        trainer = Trainer(job({**RUN, "adapter": adapter, "lora_rank": rank}, sweep=tiny_sweep()))
        method = trainer.method
        profiles[rank] = flop_profile(
            trainer.model, method.groups, {n for group in method.learnt for n in group.parameter_names}
        )
    assert at_rank({2: profiles[2]}, 32) is None
    assert at_rank({7: profiles[7], 2: profiles[2]}, 32) == profiles[32]


@pytest.mark.parametrize("targets", ["all-linear", "query, attention.output.dense"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_the_parameters_of_adapters_are_counted_before_there_are_any(adapter: str, targets: str) -> None:
    made = job({**RUN, "adapter": adapter, "lora_target_modules": targets}, sweep=tiny_sweep())
    trainer = Trainer(made)
    counted = sum(p.numel() for name, p in trainer.parameters.items() if ".lora_" in name)
    assert counted == adapter_params(linear_shapes(tiny_model("bert")), adapter, 4, targets)


def test_a_target_that_no_block_has_is_named() -> None:
    names = [name for name, *_ in linear_layers(tiny_model("llama", "causal-lm")).values()]
    check_targets(names, "all-linear")
    check_targets(names, "q_proj,mlp.up_proj")
    with pytest.raises(UserError, match="no linear layer of a block is named 'v_prj'") as caught:
        check_targets(names, "q_proj, v_prj")
    assert "v_proj" in caught.value.hint
