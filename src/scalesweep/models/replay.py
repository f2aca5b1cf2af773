"""Running a model from cached hidden states, in place of layer groups that are frozen.

A *cut* is the index of the lowest trainable layer group. The groups below it run in evaluation mode and without gradient, so
their output is a function of the example alone: computed once, it can be used again at every later step.

| cut | cached | skipped |
|---|---|---|
| 2 … N | the input of block `cut - 1` (counted from 0) | the blocks below it |
| N + 1 (the head) | the output of the last block | all blocks |

Embeddings, attention masks and rotary tables are cheap and still run as in the model, so a model needs no special support.
But it must pass only one hidden state from block to block. Some models pass more (T5's position bias, XLNet's second
stream). `Replay.check` detects them by comparison before the hidden states are used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scalesweep.models.architectures import knob_fields
from scalesweep.models.groups import LayerGroup, blocks, layer_groups

FIRST_CUT = 2  # at cut 1 only the embeddings are frozen, and a lookup table needs no cache
KEYWORD = "hidden_states"  # keyword by which some models pass a block its hidden state; others pass it by position

# The largest difference that `check` accepts, relative to the largest logit. From the same batch, a replay is bit-equal on
# the CPU. From examples without padding, rounding differs: by 1e-6 in float32 and 9e-3 in bfloat16 over MiniLM's 6 blocks.
# Architectures that can't be replayed differed by 3e-4 (Nyströmformer) to 0.3 in float32.
TOLERANCES = {torch.float64: 3e-5, torch.float32: 3e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# Config fields without influence on the computation of the blocks below a cut. `attention_types` is GPT-Neo's second form
# of `attention_layers`.
_IRRELEVANT = {
    "architectures", "attention_types", "auto_map", "dtype", "finetuning_task", "id2label", "label2id", "num_labels",
    "problem_type", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_DEPTH = ("num_hidden_layers", "num_decoder_layers", "decoder_layers")


class NotReplayable(Exception):
    """The reason why a model can't run from cached hidden states, in words for the user. It can always run in full."""


def prefix_signature(model: Any, cut: int, groups: Sequence[LayerGroup] | None = None) -> str:
    """A hash of everything that determines the output of the groups below `cut`, except their weights.

    Two sizes cut from one checkpoint have equal hashes at a common cut, so they can share cached states.
    """
    config = model.config.get_text_config()
    names = {config.attribute_map.get(name, name) for name in _DEPTH}
    depth = config.num_hidden_layers
    dropped = _IRRELEVANT | names.union(*knob_fields(model.config).values())
    fields = {}
    for name, value in config.to_dict().items():
        if name in dropped or name.startswith("_"):
            continue
        # Settings per block are lists with one item per block; the items above the cut do not matter. A list of that length
        # may be something else: DeBERTa's `pos_att_type` has two items for any number of blocks.
        per_block = isinstance(value, list) and len(value) == depth and ("layer" in name or "block" in name)
        fields[name] = value[: cut - 1] if per_block else value
    # A module between two blocks (DeBERTa's convolution) belongs to the lower one. After a model's last block it belongs to
    # the head, and the cached states do not include it.
    top = (groups or layer_groups(model))[cut - 1]
    inside = {id(module) for module in blocks(model)[cut - 2].modules()}
    between = [name for name in top.module_names if id(model.get_submodule(name)) not in inside]
    content = [type(model).__name__, cut, model.config.model_type, fields, config._attn_implementation, between]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Replay:
    """Captures hidden states from a model and runs the model from them.

    Both use hooks and replaced `forward` methods of the blocks during one call. Between calls the model is unchanged.
    """

    def __init__(self, model: nn.Module, groups: Sequence[LayerGroup]) -> None:
        """Raises NotReplayable if the blocks form several stacks."""
        self.model = model
        self._blocks = blocks(model)
        self._modules = list(model.modules())
        self.head = len(self._blocks) + 1  # the highest cut
        if len(groups) != self.head + 1:
            raise ValueError(f"{len(groups)} groups don't belong to a model of {len(self._blocks)} blocks")
        ids = {id(block) for block in self._blocks}
        stacks = {name.rpartition(".")[0] for name, module in model.named_modules() if id(module) in ids}
        if len(stacks) > 1:
            listed = " and ".join(sorted(stacks))
            raise NotReplayable(f"{type(model).__name__} has several stacks of blocks ({listed}), like an encoder–decoder")
        parameters = dict(model.named_parameters())
        self._below: list[list[nn.Parameter]] = [[]]  # cut → the parameters of the groups below it
        for group in groups:
            self._below.append(self._below[-1] + [parameters[name] for name in group.parameter_names])
        # The output of each block: None for a tensor, or the type and length of a sequence that starts with it. Recorded when
        # the block first runs for `capture`.
        self._returns: dict[int, tuple[type, int] | None] = {}

    def capture(
        self, cuts: Sequence[int], inputs: Mapping[str, Tensor], start: int | None = None, hidden: Tensor | None = None
    ) -> dict[int, Tensor]:
        """The hidden states at `cuts`, [batch, time, hidden] each, from one pass that ends at the deepest of them.

        The pass runs in evaluation mode and without gradient. With `start` and `hidden`, the states captured at that cut, it
        starts there.

        Raises:
            NotReplayable: the model's blocks take or return something other than one vector per token.
        """
        for cut in cuts:
            self._validate(cut)
        if (start is None) != (hidden is None) or (start is not None and start > min(cuts)):
            raise ValueError("`start` and `hidden` go together, and `start` must not be above any of `cuts`")
        deepest = max(cuts)
        if start == deepest and hidden is not None:
            return {start: hidden}
        captured: dict[int, Tensor] = {}

        def keep(cut: int, state: Any) -> None:
            self._check_state(cut, state, inputs)
            captured[cut] = state.detach().clone()  # a copy, because the model may write into its own tensor later
            if cut == deepest:
                raise _Reached

        def leave(index: int, output: Any) -> None:
            self._returns[index] = _structure(output)
            if index + 2 == self.head and self.head in cuts:
                keep(self.head, output if isinstance(output, Tensor) else output[0])

        with torch.no_grad(), self._quiet(), ExitStack() as stack:
            if start is not None and hidden is not None:
                self._learn(start, inputs)
                stack.enter_context(self._entering(start, hidden, inputs))
            for index in range(0 if start is None else start - 1, min(deepest - 1, len(self._blocks))):
                hook = self._blocks[index].register_forward_hook(lambda _m, _a, output, i=index: leave(i, output))
                stack.callback(hook.remove)
            for cut in {*cuts} - {self.head}:
                hook = self._blocks[cut - 1].register_forward_pre_hook(
                    lambda _m, args, kwargs, c=cut: keep(c, args[0] if args else kwargs.get(KEYWORD)), with_kwargs=True
                )
                stack.callback(hook.remove)
            try:
                self.model(**inputs)
            except _Reached:
                return captured
        raise NotReplayable(f"a forward pass of {type(self.model).__name__} did not run layer group {deepest}")

    def forward(self, cut: int, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Any:
        """The output of `model(**inputs)`, with `hidden` in place of the output of the groups below `cut`.

        The call does not change training modes. Set the state of this cut with `apply_unfreezing` first.

        Raises:
            NotReplayable: the forward pass did not use `hidden`.
        """
        self._validate(cut)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._below[cut]):
            raise ValueError(f"a layer group below cut {cut} is trainable, but cached hidden states give it no gradient")
        self._learn(cut, inputs)
        with self._entering(cut, hidden, inputs) as entered:
            output = self.model(**inputs)
        if not entered:
            raise NotReplayable(f"a forward pass of {type(self.model).__name__} did not run layer group {cut}")
        return output

    def check(self, cut: int, inputs: Mapping[str, Tensor]) -> None:
        """Compare the logits of a full forward pass with those from hidden states, in evaluation mode.

        The hidden states are computed like cached ones: each example alone, without padding. The first comparison runs without
        autocast, where rounding is small, so a larger difference means missing state. The second runs under the active
        autocast, if there is one. Logits of padding are ignored.

        Raises:
            NotReplayable: the largest difference is above a tolerance (TOLERANCES, by dtype), relative to the largest
                logit.
        """
        kind = inputs["input_ids"].device.type
        with torch.no_grad(), self._quiet():
            with torch.autocast(kind, enabled=False):
                self._compare(cut, self._uneven(inputs))
            if torch.is_autocast_enabled(kind):  # some models convert bfloat16 to float32 in their last step
                self._compare(cut, inputs, TOLERANCES[torch.get_autocast_dtype(kind)])

    # ---- the parts --------------------------------------------------------------------------------------------------------

    def _uneven(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """`inputs` with some padding. If there is none, the second half of the first example becomes padding."""
        mask, width = inputs.get("attention_mask"), inputs["input_ids"].shape[1]
        if mask is None or width < 2 or not mask.all():
            return inputs
        mask, tokens = mask.clone(), inputs["input_ids"].clone()
        mask[0, width // 2 :] = 0
        tokens[0, width // 2 :] = getattr(getattr(self.model, "config", None), "pad_token_id", None) or 0
        return {**inputs, "attention_mask": mask, "input_ids": tokens}

    def _one_by_one(self, cut: int, inputs: Mapping[str, Tensor]) -> Tensor:
        """The result of `capture` for each example without its padding, [batch, time, hidden]; zero at padding."""
        tokens = inputs["input_ids"]
        real = inputs.get("attention_mask", torch.ones_like(tokens)).bool()
        rows = []
        for row in range(len(tokens)):
            kept = real[row] if real[row].any() else torch.ones_like(real[row])
            whole = {name: value[row : row + 1] for name, value in inputs.items()}
            example = {name: value[:, kept] if value.shape[1:] == kept.shape else value for name, value in whole.items()}
            state = self.capture([cut], example)[cut][0]
            rows.append(state.new_zeros(len(kept), state.shape[1]).masked_scatter(kept[:, None], state))
        return torch.stack(rows)

    def _compare(self, cut: int, inputs: Mapping[str, Tensor], tolerance: float | None = None) -> None:
        name = f"{type(self.model).__name__}, run from the hidden states at layer group {cut},"
        reason = "so its blocks pass on more than hidden states, or their output depends on the padding of a batch"
        try:
            full = _logits(self.model(**inputs), inputs)
            replayed = _logits(self.forward(cut, self._one_by_one(cut, inputs), inputs), inputs)
        except (NotReplayable, torch.OutOfMemoryError):
            raise
        except Exception as error:  # model code that lacks something its blocks pass on can raise anything
            raise NotReplayable(f"{name} fails: {type(error).__name__}: {error}") from error
        if full.shape != replayed.shape:
            raise NotReplayable(f"{name} returns logits of shape {list(replayed.shape)} instead of {list(full.shape)}")
        tolerance = TOLERANCES[full.dtype] if tolerance is None else tolerance
        difference, largest = (full.float() - replayed.float()).abs().max().item(), full.abs().max().item()
        if not difference <= tolerance * largest:  # written so that NaN counts as a difference
            found = f"by up to {difference:.2g} at a largest logit of {largest:.2g} (allowed: {tolerance:.0e} of it)"
            raise NotReplayable(f"{name} returns different logits, {found}; {reason}")

    def _validate(self, cut: int) -> None:
        if not FIRST_CUT <= cut <= self.head:
            raise ValueError(f"cut {cut} is not one of {FIRST_CUT} to {self.head}")

    def _check_state(self, cut: int, state: Any, inputs: Mapping[str, Tensor]) -> None:
        """Refuse a state that is not one vector per token, such as pooled sequences or sequences packed without padding."""
        tokens = inputs["input_ids"].shape
        if not isinstance(state, Tensor) or state.dim() != 3 or state.shape[:2] != tokens:
            found = f"a tensor of shape {list(state.shape)}" if isinstance(state, Tensor) else f"a {type(state).__name__}"
            passes = f"{type(self.model).__name__} has {found} at layer group {cut}"
            raise NotReplayable(f"{passes}, not one vector for each of {list(tokens)} tokens")

    def _learn(self, cut: int, inputs: Mapping[str, Tensor]) -> None:
        """Record the output structure of the blocks below `cut`, if it is unknown: hidden states may come from another process."""
        if any(index not in self._returns for index in range(cut - 1)):
            self.capture([cut], {name: value[:1] for name, value in inputs.items()})

    @contextmanager
    def _entering(self, cut: int, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Iterator[list[int]]:
        """Skip the blocks below `cut` and insert `hidden` there. Yields a list that is empty until the insertion happens.

        All skipped blocks return `hidden`, so it is the input of the next block, unless the model computes something between
        two blocks. For that case a hook inserts it again.
        """
        if hidden.shape[:2] != inputs["input_ids"].shape:
            raise ValueError(f"hidden states of shape {list(hidden.shape)} don't fit {list(inputs['input_ids'].shape)} tokens")
        entered: list[int] = []

        def swap(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            entered.append(cut)
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, KEYWORD: hidden})

        # Written to `__dict__` directly, because nn.Module sets and deletes attributes slowly.
        skipped = [vars(block) for block in self._blocks[: cut - 1]]
        forwards = [attributes.get("forward") for attributes in skipped]
        hook = None
        try:
            for index, attributes in enumerate(skipped):
                attributes["forward"] = _returning(hidden, self._returns[index], entered if index + 2 == self.head else None)
            if cut < self.head:
                hook = self._blocks[cut - 1].register_forward_pre_hook(swap, with_kwargs=True)
            yield entered
        finally:
            if hook is not None:
                hook.remove()
            for attributes, forward in zip(skipped, forwards, strict=True):
                attributes.pop("forward", None)
                if forward is not None:
                    attributes["forward"] = forward

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Set evaluation mode and disable autocast's cache of cast weights; both are restored afterwards.

        Otherwise a training step under the same autocast would use weights that were cast without gradient, and would compute
        no gradient for them (torch before pytorch#165068).
        """
        training = [module for module in self._modules if module.training]
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True
            torch.set_autocast_cache_enabled(cached)


class _Reached(BaseException):
    """Ends a forward pass after the last needed state. Not an Exception, so model code does not handle it as a failure."""


def _structure(output: Any) -> tuple[type, int] | None:
    """The structure of a block's output: None for the hidden state itself, or type and length of a sequence starting with it."""
    if isinstance(output, Tensor):
        return None
    if type(output) in (tuple, list) and output and isinstance(output[0], Tensor):
        return type(output), len(output)
    raise NotReplayable(f"a block returns a {type(output).__name__}, not a hidden state or a sequence that starts with one")


def _returning(hidden: Tensor, structure: tuple[type, int] | None, called: list[int] | None) -> Callable[..., Any]:
    """A `forward` for a block that returns `hidden` in the block's own structure and notes each call in `called`."""

    def forward(*_args: Any, **_kwargs: Any) -> Any:
        if called is not None:
            called.append(0)
        if structure is None:
            return hidden
        kind, length = structure
        return kind((hidden, *[None] * (length - 1)))

    return forward


def _logits(output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """A model's logits, or the first item of its output. Logits per token come without those of padding."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None:
        logits = output[0]
    mask = inputs.get("attention_mask")
    return logits[mask.bool()] if mask is not None and logits.dim() == 3 and logits.shape[:2] == mask.shape else logits
