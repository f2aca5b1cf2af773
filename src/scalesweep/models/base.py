"""Base models: a ladder size before training, stored once per node and copied for each trial.

The weights are in the node's cache as a safetensors file. The file is memory-mapped, so all processes share its pages. A
trial's model is built empty from its config (so knobs take effect) and receives copies of the weights. This avoids reading
and checking the checkpoint, its config and its tokenizer for each trial.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GenerationConfig
from transformers.core_model_loading import revert_weight_conversion

from scalesweep.models.architectures import apply_knobs
from scalesweep.models.groups import LayerGroup, layer_groups
from scalesweep.models.ladder import load_model, locate, quiet, set_padding, task_config
from scalesweep.models.low_bits import FLOAT32, Linear4bit, WeightTypes, lower, place_layers
from scalesweep.models.meta import leaves
from scalesweep.spec.sweep import LadderSize
from scalesweep.storage import locked
from scalesweep.tasks import task_of

FORMAT = 1
NARROW = (torch.bfloat16, torch.float16)  # a float32 tensor that one of these represents exactly is stored in it
_MARKS = {"training", "_is_hf_initialized"}  # differ between a loaded and a built model, without effect on training


@dataclass(frozen=True)
class _Stored:
    """The parts of a base model. `facts` holds JSON values only."""

    tensors: dict[str, torch.Tensor]  # parameters, buffers and plain tensor attributes, each once, by full name
    facts: dict[str, Any]


class BaseWeights:
    """A ladder size for one task, label set and seed. `open` creates one per process; `make` creates a model per trial."""

    def __init__(
        self,
        size: LadderSize,
        task: str,
        num_labels: int | None,
        seed: int,
        id2label: Mapping[int, str] | None,
        config: Any,
        stored: _Stored,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "size": size, "task": task, "num_labels": num_labels, "seed": seed, "id2label": id2label
        }  # fmt: skip
        self._config, self._stored = config, stored
        self.groups = [
            LayerGroup(g["name"], tuple(g["parameter_names"]), tuple(g["module_names"])) for g in stored.facts["groups"]
        ]
        self.group_hashes: tuple[str, ...] = tuple(stored.facts["group_hashes"])
        """A hash of each group's parameters and buffers, bottom to top. Equal weights have equal hashes on every node."""
        self.exact: bool = stored.facts["exact"]
        """Whether copies are built from the kept weights. Where they would differ from a loaded model, `make` loads it."""

    @classmethod
    def open(
        cls,
        size: LadderSize,
        task: str,
        num_labels: int | None,
        seed: int,
        id2label: Mapping[int, str] | None,
        cache: Path,
    ) -> BaseWeights:
        """The base model from the node's cache, which stores it first if it is not there yet.

        If several processes ask for the same model at once, one creates it and the others wait. If the cache can't be
        written, this process keeps its own copy in memory.

        Raises:
            UserError, OutsideError: under the conditions of `load_model`.
        """
        config = task_config(size, task, num_labels, id2label)
        folder = Path(cache) / f"weights-{base_key(size, task, num_labels, seed, id2label)}"
        stored = _read(folder)
        if stored is None:
            with _locked(folder.with_name(f"{folder.name}.lock")) as alone:
                stored = _read(folder) if alone else None
                if stored is None:
                    made = _take(load_model(size, task, num_labels, {}, seed, id2label), task, size, config)
                    stored = (_read(folder) if alone and _write(folder, made) else None) or made
        return cls(size, task, num_labels, seed, id2label, config, stored)

    def make(self, knobs: Mapping[str, float | None], device: torch.device, types: WeightTypes = FLOAT32) -> Any:
        """A new model on `device`, equal to the result of `load_model` with these knobs, and then its weights in `types`.

        The device never holds more than one tensor in float32 that is kept in another type.

        Raises:
            UserError: the architecture lacks one of the knobs.
        """
        if self.exact:
            config = copy.deepcopy(self._config)
            apply_knobs(config, knobs)
            model: nn.Module = _assemble(config, self._arguments["task"], self._arguments["size"], self._stored, device, types)
            return model
        return lower(load_model(knobs=knobs, **self._arguments), types, device)


# ---- a model in parts, and whole again -------------------------------------------------------------------------------------


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, torch.Tensor]]:
    """(module, attribute, full name, tensor) of each parameter, buffer and plain tensor attribute; tied tensors repeat."""
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        own += module.named_buffers(recurse=False, remove_duplicate=False)
        own += [(name, value) for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
        for name, tensor in own:
            yield module, name, f"{prefix}.{name}" if prefix else name, tensor


def _take(model: Any, task: str, size: LadderSize, config: Any) -> _Stored:
    """Separate a loaded model into tensors and facts."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    narrowed = []
    groups = layer_groups(model)
    hashes = _group_hashes(model, groups)
    for _, _, name, tensor in _tensors(model):
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        kept = tensor.detach()
        if kept.dtype == torch.float32:
            kept = next((narrow for dtype in NARROW if torch.equal((narrow := kept.to(dtype)).float(), kept)), kept)
            if kept.dtype != torch.float32:
                narrowed.append(name)
        tensors[name] = kept.clone(memory_format=torch.contiguous_format)  # safetensors does not store views
    generation = getattr(model, "generation_config", None)
    facts = {
        "format": FORMAT,
        "groups": [asdict(group) for group in groups],
        "group_hashes": hashes,
        "aliases": aliases,
        "narrowed": narrowed,
        "pad_token_id": model.config.get_text_config().pad_token_id,
        "generation_config": None if generation is None else generation.to_dict(),
        "attributes": {},
        "exact": True,
    }
    stored = _Stored(tensors, facts)
    try:
        rebuilt = _assemble(copy.deepcopy(config), task, size, stored, torch.device("cpu"))
        # Loading leaves attributes on a model, such as how weights were renamed. That one is not JSON, and transformers can
        # save the model under the right names without it.
        own = {name: value for name, value in vars(model).items() if name not in _MARKS | set(vars(rebuilt))}
        if own.get("_weight_conversions") and _saved_shapes(model) == _saved_shapes(rebuilt):
            del own["_weight_conversions"]
        del rebuilt  # before it is built again
        facts["attributes"] = own
        facts = json.loads(json.dumps(facts))
        stored = _Stored(tensors, facts)
        facts["exact"] = _same(model, _assemble(copy.deepcopy(config), task, size, stored, torch.device("cpu")))
    except Exception:  # noqa: BLE001 - any model code may fail when built without weights: then each trial loads the checkpoint
        facts |= {"exact": False, "attributes": {}, "generation_config": None}
        stored = _Stored(tensors, facts)
    return stored


def _assemble(
    config: Any, task: str, size: LadderSize, stored: _Stored, device: torch.device, types: WeightTypes = FLOAT32
) -> Any:
    """A model built from `config` with copies of the stored tensors, tied as in the original."""
    config.dtype = torch.float32
    with quiet(), torch.device("meta"):
        model = task_of(task).auto_class().from_config(config, trust_remote_code=size.trust_remote_code)
    if types.four_bits:
        place_layers(model)
    narrowed, aliases, copies = set(stored.facts["narrowed"]), stored.facts["aliases"], dict[str, torch.Tensor]()
    for module, name, full_name, empty in list(_tensors(model)):
        key = aliases.get(full_name, full_name)
        source = stored.tensors[key]
        made = torch.float32 if key in narrowed else source.dtype
        if isinstance(module, Linear4bit) and name == "weight":
            module.keep(_copy(source, made, device))
            continue
        if key not in copies:
            weight = isinstance(empty, nn.Parameter)
            value = _copy(source, types.dtype(key, made) if weight else made, device)
            copies[key] = nn.Parameter(value) if weight else value
        setattr(module, name, copies[key])
    for module in model.modules():
        if any(isinstance(part, torch.Tensor) and part.is_meta for part in leaves(list(vars(module).values()))):
            raise NotImplementedError(f"{type(module).__name__} keeps tensors in a container")
    for name, value in stored.facts["attributes"].items():
        setattr(model, name, copy.deepcopy(value))
    if stored.facts["generation_config"] is not None:
        model.generation_config = GenerationConfig.from_dict(stored.facts["generation_config"])
    set_padding(model, task, stored.facts["pad_token_id"])
    return model.eval()


def _copy(source: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu" or dtype == torch.bfloat16:
        return source.to(device, dtype, copy=True)
    # numpy copies in this thread. On a busy machine, torch's threads wait for one another for milliseconds per tensor.
    value = torch.empty_like(source, dtype=dtype)
    if source.dtype == torch.bfloat16:  # numpy lacks bfloat16, which is the upper half of a float32
        bits = value.view(torch.int32).numpy()
        bits[...] = source.view(torch.int16).numpy()
        bits <<= 16
    else:
        value.numpy()[...] = source.numpy()
    return value


def _same(loaded: Any, built: Any) -> bool:
    """Whether two models have equal tensors, modules, plain settings and configs."""
    ours, theirs = ([(name, tensor) for _, _, name, tensor in _tensors(model)] for model in (loaded, built))
    if [name for name, _ in ours] != [name for name, _ in theirs]:
        return False
    ties: dict[int, int] = {}
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        if one.dtype != other.dtype or not torch.equal(one, other) or ties.setdefault(id(one), id(other)) != id(other):
            return False
    pairs = zip(loaded.named_modules(), built.named_modules(), strict=True)
    alike = all(a == b and type(one) is type(other) and _settings(one) == _settings(other) for (a, one), (b, other) in pairs)
    generation = [getattr(model, "generation_config", None) for model in (loaded, built)]
    configs = [(type(model.config), model.config.to_dict()) for model in (loaded, built)]
    return alike and configs[0] == configs[1] and generation[0] == generation[1]


def _saved_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors that `save_pretrained` writes."""
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, model.state_dict()).items()}


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = bool | int | float | str | None
    return {name: value for name, value in vars(module).items() if name not in _MARKS and isinstance(value, plain)}


def _group_hashes(model: Any, groups: list[LayerGroup]) -> list[str]:
    """A hash per group. Names count without the task's prefix, so two tasks can agree below their heads."""
    prefix = f"{model.base_model_prefix}."
    group_of = {name: index for index, group in enumerate(groups) for name in group.parameter_names}
    module_group = {name: index for index, group in enumerate(groups) for name in group.module_names}
    named = [(group_of[name], name, parameter) for name, parameter in model.named_parameters()]
    named += [(module_group[name.rpartition(".")[0]], name, buffer) for name, buffer in model.named_buffers()]
    hashes = [hashlib.sha256() for _ in groups]
    for index, name, tensor in sorted(named, key=lambda item: item[1]):
        hashes[index].update(f"{name.removeprefix(prefix)} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashes[index].update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return [content.hexdigest()[:32] for content in hashes]


# ---- the cache -------------------------------------------------------------------------------------------------------------


def base_key(size: LadderSize, task: str, num_labels: int | None, seed: int, id2label: Mapping[int, str] | None) -> str:
    """A hash of everything that determines the weights."""
    content = [
        FORMAT, torch.__version__, transformers.__version__, _origin(size), size.layers, size.trust_remote_code,
        size.allow_pickle, task, num_labels, seed, sorted((id2label or {}).items()), *(["keeps head"] * size.keep_head),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _origin(size: LadderSize) -> list[Any]:
    """Values that change with the checkpoint: a folder's files, sizes and times, or the commit of a hub snapshot.

    The config was read before, so the snapshot exists.
    """
    place = locate(size.model)
    if Path(place).is_dir():
        files = sorted(path for path in Path(place).iterdir() if path.is_file())
        return [str(Path(place).resolve()), *([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]
    config = try_to_load_from_cache(place, "config.json", revision=size.revision)
    return [place, Path(config).parent.name if isinstance(config, str) else size.revision]


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock. Yields False if no lock is available."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        except OSError:
            yield False
            return
        yield True


def _read(folder: Path) -> _Stored | None:
    """A complete base model with memory-mapped tensors; None if it is missing or unreadable."""
    try:
        facts = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, safetensors.SafetensorError):
        return None
    return _Stored(tensors, facts) if facts.get("format") == FORMAT and sorted(tensors) == facts.get("tensors") else None


def _write(folder: Path, stored: _Stored) -> bool:
    """Write a complete base model under its name, or none. Returns False if the disk refuses. Needs the lock."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        # Folders of these names are damaged or were left by a process that died, because this process holds the lock.
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir()
        save_file(stored.tensors, unfinished / "model.safetensors")
        facts = stored.facts | {"tensors": sorted(stored.tensors)}
        (unfinished / "meta.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # on disk before the folder gets its name
        unfinished.rename(folder)
    except (OSError, safetensors.SafetensorError):
        shutil.rmtree(unfinished, ignore_errors=True)
        return False
    return True
