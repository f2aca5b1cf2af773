"""The sizes of the ladder: finding a checkpoint, reading its facts without its weights, loading it cut to its lowest blocks."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from scalesweep.costs import FlopProfile
from scalesweep.errors import OutsideError, ScalesweepError, UserError, shell
from scalesweep.models.architectures import apply_knobs
from scalesweep.models.flops import flop_profile
from scalesweep.models.groups import blocks, layer_groups
from scalesweep.models.linear import linear_shapes
from scalesweep.models.low_bits import quantizable
from scalesweep.models.unfreezing import head_groups
from scalesweep.models.weights import (
    PICKLED,
    READ_WITH_WEIGHTS,
    SAFE,
    SAFE_INDEX,
    broken_json,
    broken_link,
    readable,
    refuse_pointers,
    stored_weights,
)
from scalesweep.spec.adapters import Shape
from scalesweep.spec.sweep import LadderSize
from scalesweep.spec.tasks import TASKS
from scalesweep.storage import near_folder
from scalesweep.tasks import task_of

PACKAGE = "package:"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
SAFE_WEIGHTS = (SAFE, SAFE_INDEX)
PICKLED_WEIGHTS = (PICKLED, "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class ResolvedSize:
    """Facts of one ladder size, counted on the meta device. All values are JSON values."""

    name: str
    model: str  # as in the sweep file
    layers: int | None  # as in the sweep file; None keeps all
    n_layers: int  # all blocks; an encoder–decoder's two stacks are added up
    model_type: str
    hidden_size: int
    n_params: int  # with the head
    n_params_embedding: int  # lookup tables: token, position and type embeddings
    group_params: tuple[int, ...]  # per layer group, bottom to top; a tied parameter counts once, in its lowest group
    group_names: tuple[str, ...]
    head_parameters: tuple[str, ...]  # of the group `head`
    head_groups: int  # groups, from the top, that train as the head; 2 if the head holds no matrix
    linears: tuple[Shape, ...]  # the linear layers of the blocks, which adapters attach to, added up by name
    linear_params: int  # weights of linear layers of the blocks that can have 4 bits
    recomputes: bool  # whether transformers has gradient checkpointing for it
    vocab_size: int
    max_positions: int | None  # the size of the position table in tokens; None if unbounded
    min_gpus: int
    accelerator_type: str | None
    tokenizer_fingerprint: str  # equal for two sizes if and only if their tokenizers behave the same
    flops: FlopProfile


class DepthError(UserError):
    """A size asks for a depth that its checkpoint can't have. Other depths of it may be fine."""


def locate(model: str) -> str:
    """The location of `model`: the folder of a `package:NAME/FOLDER` or of a local path, or an unchanged hub id.

    A package is found without an import.

    Raises:
        UserError: the package or the folder does not exist, or this user may not see it.
    """
    if model.startswith(PACKAGE):
        package, _, folder = model.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            hint = (
                f"for the quickstart run `make install`; otherwise try `{shell('pip', 'install', package.replace('_', '-'))}`"
            )
            raise UserError(f"{model}: the package {package!r} is not installed", hint=hint)
        for root in spec.submodule_search_locations:
            if (Path(root) / folder).is_dir():
                return str(Path(root) / folder)
        raise UserError(f"{model}: the package {package!r} has no folder {folder!r}", hint="write package:NAME/FOLDER")
    path = Path(model).expanduser()
    with readable(model):
        if path.is_dir():
            return str(path)
    if path.is_symlink() and not path.exists():
        raise UserError(f"the model folder {broken_link(model, path)}", hint="write an existing folder")
    if path.is_file():
        raise UserError(f"{model} is a file, not a folder", hint="name the folder with config.json and the weights")
    with readable(model):
        if not HUB_ID.fullmatch(model) or is_lost(model):
            raise UserError(f"the model folder {model} does not exist", hint=near_folder(path) + _others(model))
    return model


def is_lost(model: str, base: Path = Path()) -> bool:
    """Whether `model` names a folder that is missing: the folder that would hold it is there. A hub model in the cache is none."""
    if "/" not in model or not (base / model).parent.is_dir() or (base / model).exists():
        return False
    if not HUB_ID.fullmatch(model):
        return True
    return not Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model, repo_type="model")).is_dir()


def _others(model: str) -> str:
    """The ways to name a model in place of `model`, a folder that does not exist."""
    hint = "write an existing folder, a hub id, or package:NAME/FOLDER"
    return f"{hint}; if it is a hub id, run `{shell('hf', 'download', model)}` first" if HUB_ID.fullmatch(model) else hint


@contextmanager
def quiet() -> Iterator[None]:
    """Run transformers without progress bars and load reports, then restore its settings."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _checkpoint_errors(size: LadderSize, what: str) -> Iterator[None]:
    """Convert errors of transformers: faults of the checkpoint to UserError, faults of the hub to OutsideError."""
    try:
        yield
    except ScalesweepError:
        raise
    except Exception as error:  # a malformed config can make model code raise anything
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        kinds = tuple(type(cause) for cause in chain)
        lines = (str(error).strip() or type(error).__name__).splitlines()
        first_line = f"{error} is missing" if isinstance(error, KeyError) else lines[0]
        if first_line.endswith(":") and len(lines) > 1:
            first_line += " " + re.sub(r"^\w+Error: ", "", lines[1].strip())
        if any(issubclass(kind, hub_errors.GatedRepoError) for kind in kinds):
            hint = "accept its terms on huggingface.co, then run `hf auth login`"
            raise UserError(f"{size.model} is gated on the hub", hint=hint) from error
        if any(issubclass(kind, hub_errors.RepositoryNotFoundError | hub_errors.RevisionNotFoundError) for kind in kinds):
            at = f" at revision {size.revision}" if size.revision else ""
            hint = "check the spelling; a private model needs `hf auth login`"
            raise UserError(f"{size.model}{at} is neither a local folder nor a model on the hub", hint=hint) from error
        unreachable = hub_errors.LocalEntryNotFoundError | hub_errors.OfflineModeIsEnabled | hub_errors.HfHubHTTPError
        if any(issubclass(kind, unreachable) or kind.__module__.startswith("http") for kind in kinds):  # httpx, httpcore
            hint = (
                "check the network; with HF_HUB_OFFLINE=1 only models in the local cache are found (fill it with "
                "`hf download`); write a local model as its path, a packaged one as package:NAME/FOLDER"
            )
            raise OutsideError(f"{size.model} is not a local folder, and the hub can't be reached", hint=hint) from error
        if "trust_remote_code" in str(error):
            hint = "if you trust the code, set trust_remote_code: true for this size"
            raise UserError(f"{size.model} contains its own model code, which needs permission to run", hint=hint) from error
        if (folder := Path(locate(size.model))).is_dir() and (fault := broken_json(folder)) is not None:
            raise UserError(f"{size.model}: {fault}", hint="download or copy the file again") from error
        hint = "a model folder needs config.json, tokenizer files and model.safetensors, as save_pretrained writes them"
        raise UserError(f"{size.model}: {what} can't be read: {first_line}", hint=hint) from error


def load_config(size: LadderSize) -> Any:
    """The checkpoint's config, cut to `size.layers`.

    Raises:
        UserError: the model does not exist, the folder is no model folder, or the model has too few layers.
        OutsideError: the hub can't be reached.
    """
    folder = locate(size.model)
    if Path(folder).is_dir():
        with readable(size.model):
            refuse_pointers(size.model, (path for path in sorted(Path(folder).iterdir()) if path.suffix in READ_WITH_WEIGHTS))
            here = (Path(folder) / "config.json").is_file()
        if not here:
            hint = "name a folder that save_pretrained wrote"
            raise UserError(f"{size.model} is not a model folder: it has no config.json", hint=hint)
    with quiet(), _checkpoint_errors(size, "the config"):
        config = AutoConfig.from_pretrained(folder, revision=size.revision, trust_remote_code=size.trust_remote_code)
        if size.layers is not None:
            _cut_depth(config, size)
    if (quantized := getattr(config, "quantization_config", None)) is not None:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        hint = "name the checkpoint that it was quantized from"
        raise UserError(f"{size.model} is quantized ({method}), and training needs weights in floating point", hint=hint)
    return config


def _cut_depth(config: Any, size: LadderSize) -> None:
    """Keep the lowest `size.layers` blocks, for an encoder–decoder that many in each half."""
    text_config, layers = config.get_text_config(), size.layers
    depth_fields = ("num_hidden_layers", "num_decoder_layers", "decoder_layers")  # attribute_map finds the first under any name
    depths = {name: getattr(text_config, name) for name in depth_fields if isinstance(getattr(text_config, name, None), int)}
    assert layers is not None
    total = depths.get("num_hidden_layers")
    if total is None:
        hint = "remove `layers`, and list checkpoints of several sizes instead"
        raise UserError(
            f"{size.model} ({text_config.model_type}) can't be cut by layers: its config has no layer count", hint=hint
        )
    if layers > total:
        hint = f"set layers to a number from 1 to {total}"
        raise DepthError(f"{size.model} has {total} layers, but size {size.name} needs {layers}", hint=hint)
    for name, depth in depths.items():
        setattr(text_config, name, min(layers, depth))
    # Settings per layer (layer_types, attention_layers, …) are lists with one item per layer.
    for name, value in list(vars(text_config).items()):
        if isinstance(value, list | tuple) and len(value) == total and not name.endswith(("_id", "_ids", "architectures")):
            setattr(text_config, name, value[:layers])
    if (
        text_config.model_type == "gpt_neo"
    ):  # gpt_neo derives its attention layers from this field when an exported model is loaded
        text_config.attention_types = [[list(text_config.attention_layers), 1]]


def load_tokenizer(size: LadderSize) -> Any:
    """The checkpoint's tokenizer, with a padding token (the end-of-text token if it has no padding token of its own).

    Raises:
        UserError: the tokenizer is missing or unreadable, or has neither token.
        OutsideError: the hub can't be reached.
    """
    folder = locate(size.model)
    with quiet(), _checkpoint_errors(size, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=size.revision, trust_remote_code=size.trust_remote_code)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers 5 makes an empty tokenizer if the files are missing
        hint = "copy the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder of the weights"
        raise UserError(f"{size.model} has no tokenizer", hint=hint)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            hint = "save the tokenizer with a pad_token"
            raise UserError(f"the tokenizer of {size.model} has neither a padding nor an end-of-text token", hint=hint)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve(size: LadderSize, task: str, num_labels: int | None) -> ResolvedSize:
    """The facts of a size, from its config, its tokenizer and an empty model. Loads no weights.

    Raises:
        UserError: the model does not exist, is too shallow, does not support the task, has only pickled weights or broken
            ones, or its tokenizer has more tokens than its embeddings.
        OutsideError: the hub can't be reached.
    """
    config = task_config(size, task, num_labels)
    _check_weights(size)
    tokenizer = load_tokenizer(size)
    with quiet(), torch.device("meta"), _checkpoint_errors(size, "the model"):
        model = task_of(task).auto_class().from_config(config, trust_remote_code=size.trust_remote_code)
    _check_depth(model, size)
    _check_headers(model, size, config, task)
    parameters = dict(model.named_parameters())
    groups = layer_groups(model)
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    text_config = config.get_text_config()
    vocab_size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocab_size:
        hint = "use the tokenizer of the checkpoint's own training"
        raise UserError(
            f"the tokenizer of {size.model} has {len(tokenizer)} tokens, but the embeddings only {vocab_size}", hint=hint
        )
    return ResolvedSize(
        name=size.name,
        model=size.model,
        layers=size.layers,
        n_layers=len(blocks(model)),
        model_type=config.model_type,
        hidden_size=text_config.hidden_size,
        n_params=sum(parameter.numel() for parameter in parameters.values()),
        n_params_embedding=sum(tables.values()),
        group_params=tuple(sum(parameters[name].numel() for name in group.parameter_names) for group in groups),
        group_names=tuple(group.name for group in groups),
        head_parameters=groups[-1].parameter_names,
        head_groups=head_groups(model, groups),
        linears=linear_shapes(model),
        linear_params=sum(layer.weight.numel() for layer in quantizable(model).values()),
        recomputes=bool(model.supports_gradient_checkpointing),
        vocab_size=vocab_size,
        max_positions=_max_positions(model, text_config),
        min_gpus=size.min_gpus or 1,
        accelerator_type=size.accelerator_type,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        flops=flop_profile(model, groups),
    )


def load_model(
    size: LadderSize,
    task: str,
    num_labels: int | None,
    knobs: Mapping[str, float | None],
    seed: int,
    id2label: Mapping[int, str] | None = None,
) -> Any:
    """The model of a size with float32 weights on the CPU, in evaluation mode, every parameter trainable.

    Missing weights are drawn from `seed` alone. A classifier's last projection is drawn unless the size keeps its head, because
    that of a fine-tuned checkpoint may belong to other labels. The global random state is neither read nor changed.

    Raises:
        UserError: under the conditions of `resolve`; the architecture lacks one of the knobs; a weight is missing, has
            another shape than the config gives it, or is not finite.
        OutsideError: the hub can't be reached.
    """
    config = task_config(size, task, num_labels, id2label)
    if id2label is not None:
        check_head(size, task, list(id2label.values()))
    apply_knobs(config, knobs)
    _check_weights(size)
    with quiet(), _random_numbers_of(seed):
        with _checkpoint_errors(size, "the model"):
            model, loading = (
                task_of(task)
                .auto_class()
                .from_pretrained(
                    locate(size.model),
                    config=config,
                    revision=size.revision,
                    trust_remote_code=size.trust_remote_code,
                    use_safetensors=None if size.allow_pickle else True,
                    dtype=torch.float32,
                    ignore_mismatched_sizes=True,  # the label count may differ; a mismatch below the head is an error, raised further down
                    output_loading_info=True,
                )
            )
        if _head_is_new(size, task):
            _draw_last_projection(model, config.num_labels)
    _check_depth(model, size)
    _check_loading(model, size, task, loading)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            hint = "use another checkpoint: one that was saved before its training diverged, or was not cast to float16"
            raise UserError(f"{size.model} has weights that are not finite numbers (NaN or infinite): {name}", hint=hint)
    set_padding(model, task, load_tokenizer(size).pad_token_id)
    return model.requires_grad_(True)


def _head_is_new(size: LadderSize, task: str) -> bool:
    return TASKS[task].draws_head and not size.keep_head


def check_head(size: LadderSize, task: str, classes: Sequence[str]) -> None:
    """Check that a head that is kept has been trained for these classes, in this order. Raises UserError if it has not."""
    if not TASKS[task].draws_head or not size.keep_head:
        return
    own = getattr(load_config(size), "id2label", None) or {}
    names = [str(own[number]) for number in sorted(own)]
    if names != list(classes):
        hint = "set keep_head: false, which draws a new head, or use data with the same classes in the same order"
        message = f"{size.model} has a head for the classes {', '.join(names)}, and the data have {', '.join(classes)}"
        raise UserError(message, hint=hint)


def set_padding(model: Any, task: str, pad_token_id: int) -> None:
    """Set the padding token of a built model: classifiers on decoders read the last token that is not padding.

    It is set after building, because an nn.Embedding built with a padding index never trains that row, and the padding
    token may be the end-of-text token.
    """
    text_config = model.config.get_text_config()
    if getattr(text_config, "pad_token_id", None) is None or TASKS[task].draws_head:
        text_config.pad_token_id = model.config.pad_token_id = pad_token_id


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of everything that determines the token ids of a text, without paths or chat template."""
    content: dict[str, Any] = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "inputs": sorted(tokenizer.model_input_names),
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are state left by the last call.
        content["backend"] = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    else:
        files = [getattr(tokenizer, name, None) for name in getattr(tokenizer, "vocab_files_names", {})]
        content["class"] = type(tokenizer).__name__
        content["vocabulary"] = tokenizer.get_vocab()
        content["files"] = [hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files if f and Path(f).is_file()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# ---- the parts of loading ------------------------------------------------------------------------------------------------


def task_config(size: LadderSize, task: str, num_labels: int | None, id2label: Mapping[int, str] | None = None) -> Any:
    """The config for `task`. Raises UserError if the architecture does not support it."""
    config = load_config(size)
    rule = task_of(task)
    rule.check_architecture(config, size.model)
    auto_class = rule.auto_class()
    remote = size.trust_remote_code and auto_class.__name__ in (getattr(config, "auto_map", None) or {})
    if type(config) not in auto_class._model_mapping and not remote:
        others = [other for other in TASKS if type(config) in task_of(other).auto_class()._model_mapping]
        hint = f"choose another checkpoint, or task: {' or '.join(others)}" if others else "choose another checkpoint"
        raise UserError(f"{size.model} ({config.model_type}) has no {task} model in transformers", hint=hint)
    names = dict(id2label or {index: f"LABEL_{index}" for index in range(num_labels or 0)})
    rule.configure(config, list(names.values()))
    for part in _parts(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # a cache of keys and values is for generation, and costs memory in training
    return config


def _parts(config: Any) -> list[Any]:
    """Return a config, and that of its language model where it is another one."""
    text = config.get_text_config()
    return [config] if text is config else [config, text]


def restore_use_cache(config: Any, size: LadderSize) -> None:
    """Give a trained model's config the checkpoint's own `use_cache`, for its export."""
    for part, original in zip(_parts(config), _parts(load_config(size)), strict=True):
        if hasattr(original, "use_cache"):
            part.use_cache = original.use_cache


def _check_weights(size: LadderSize) -> None:
    """Refuse a checkpoint without weights or with pickled weights only: reading a pickle can run code."""
    folder, names = locate(size.model), (*SAFE_WEIGHTS, *PICKLED_WEIGHTS)
    if Path(folder).is_dir():
        present = {name for name in names if (Path(folder) / name).is_file()}
    else:
        present = {name for name in names if isinstance(try_to_load_from_cache(folder, name, revision=size.revision), str)}
        if not present & set(SAFE_WEIGHTS) and not (present and size.allow_pickle):
            with _checkpoint_errors(size, "the list of files"):
                present = set(names) & set(HfApi().list_repo_files(folder, revision=size.revision))
    if not present:
        with readable(size.model):
            for link in (Path(folder) / name for name in names):
                if link.is_symlink():
                    link.stat()  # fails where nothing is there
        raise UserError(f"{size.model} has no weights", hint=f"it needs one of these files: {', '.join(names)}")
    if not present & set(SAFE_WEIGHTS) and not size.allow_pickle:
        hint = "convert them to safetensors, or set allow_pickle: true for this size if you trust their origin"
        raise UserError(f"{size.model} has pickled weights only, and reading a pickle can run code", hint=hint)


def _check_headers(model: Any, size: LadderSize, config: Any, task: str) -> None:
    """Check an empty model against the names and shapes in the headers of its weight files, as transformers matches them."""
    with readable(size.model):
        weights = stored_weights(size.model, locate(size.model), size.revision)
    if weights is None:
        return
    narrow = [key for key, weight in weights.items() if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2]
    for key in narrow:  # a buffer may hold whole numbers, a parameter may not
        if any(key == name or name.endswith(f".{key}") or key.endswith(f".{name}") for name, _ in model.named_parameters()):
            kind = str(weights[key].dtype).removeprefix("torch.")
            hint = "name the checkpoint that it was quantized from, or save it in float32, bfloat16 or float16"
            raise UserError(f"{size.model} has {key} as {kind}; training needs weights in floating point", hint=hint)
    try:
        with quiet():
            _, loading = type(model).from_pretrained(
                None, config=config, state_dict=weights, device_map={"": "meta"}, dtype=torch.float32,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except Exception:  # noqa: BLE001 - model code may fail on empty weights; then loading itself finds what is wrong
        return
    _check_loading(model, size, task, loading)


def _check_loading(model: Any, size: LadderSize, task: str, loading: dict[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights of the model, or has them in other shapes.

    A classifier's head may be absent where it is drawn anew. A language model's belongs to the checkpoint.
    """
    owned = set(dict(model.named_parameters()))
    new_head = _head_is_new(size, task)
    if new_head:
        owned -= set(layer_groups(model)[-1].parameter_names)
    where = " below its head" if new_head else ""
    hint = "check that the weights and config.json belong to the same model"
    other = sorted((key, tuple(stored), tuple(wanted)) for key, stored, wanted in loading["mismatched_keys"] if key in owned)
    if other:
        key, stored, wanted = other[0]
        more = f"; so are {len(other) - 1} more" if len(other) > 1 else ""
        raise UserError(
            f"{size.model} has weights{where} of another shape than config.json gives them: {key} is {list(stored)} in the weights, "
            f"{list(wanted)} by config.json{more}",
            hint=hint,
        )
    absent = sorted(set(loading["missing_keys"]) & owned)
    if absent:
        shown = ", ".join(absent[:3]) + (" …" if len(absent) > 3 else "")
        count = f"{len(absent)} weights" if len(absent) > 1 else "a weight"
        raise UserError(f"{size.model} lacks {count}{where}: {shown}", hint=hint)


def _check_depth(model: Any, size: LadderSize) -> None:
    """Check that the model built from a cut config has that many blocks."""
    config = model.config.get_text_config()
    if size.layers is None or config.is_encoder_decoder:
        return
    if (depth := len(blocks(model))) != size.layers:
        hint = "remove `layers`, and list checkpoints of several sizes instead"
        raise DepthError(f"{size.model} ({config.model_type}) can't be cut to {size.layers} layers: {depth} remain", hint=hint)


def _max_positions(model: Any, text_config: Any) -> int | None:
    limit = getattr(text_config, "max_position_embeddings", None)
    # RoBERTa and similar models count positions after the padding index, so their table serves fewer tokens than rows.
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            limit = module.num_embeddings - module.padding_idx - 1
    return limit if isinstance(limit, int) and limit > 0 else None


@contextmanager
def _random_numbers_of(seed: int) -> Iterator[None]:
    """Seed the CPU generator, then restore its state. Weights are drawn on the CPU, so other devices are not seeded."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _draw_last_projection(model: Any, num_labels: int) -> None:
    """Redraw the layer that computes the label scores, with the architecture's own initialisation."""
    body = {id(module) for module in model.base_model.modules()} if model.base_model is not model else set()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_labels and id(m) not in body]
    for module in layers[-1:]:
        for part in (module, *module.parameters()):  # transformers marks loaded weights and does not initialise marked ones
            vars(part)["_is_hf_initialized"] = False
        model._initialize_weights(module)
