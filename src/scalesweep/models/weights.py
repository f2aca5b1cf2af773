"""The files of a checkpoint before its weights are read: unreadable files, pointers, files cut short, names and shapes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from scalesweep.errors import UserError

SAFE = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
READ_WITH_WEIGHTS = (".json", ".txt", ".model", ".jinja")  # config and tokenizer
JSON_OBJECTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
# Types of safetensors. Any other is smaller than a byte or new, and holds quantized weights.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # a pointer file's first line, by the specification of git-lfs


@contextmanager
def readable(model: str) -> Iterator[None]:
    """Convert an error of the file system at a file of a model's folder to a UserError that names the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        path = Path(error.filename)
        what = "the folder" if path.name == Path(model).name else path.name
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise UserError(f"{model}: {broken_link(what, path)}", hint="copy the files themselves into the folder") from None
        hint = "give this user the right to read the folder and its files, or name another folder"
        raise UserError(f"{model}: {what} can't be read: {error.strerror}", hint=hint) from None


def broken_link(name: str, path: Path) -> str:
    return f"{name} is a link to {path.readlink()}, and nothing is there"


def broken_json(folder: Path) -> str | None:
    """The fault of the first config or tokenizer file that holds no JSON object; None if there is none.

    `tokenizer.json` also has to describe a model of tokens.
    """
    for path in (folder / name for name in JSON_OBJECTS):
        if not path.is_file():
            continue
        if not (content := path.read_bytes()).strip():
            return f"{path.name} is empty"
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            return f"{path.name} is not JSON: {error}"
        if not isinstance(value, dict):
            return f"{path.name} does not hold a JSON object"
        if path.name == "tokenizer.json" and "model" not in value:
            return f"{path.name} does not describe a tokenizer: it has no 'model'"
    return None


def refuse_pointers(model: str, paths: Iterable[Path]) -> None:
    """Refuse the pointers that git leaves in place of large files if git-lfs is missing.

    Raises:
        UserError: a file is such a pointer.
    """
    for path in paths:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                hint = f"run `git lfs install` and `git lfs pull` in {path.parent}, or download the file"
                raise UserError(f"{model}: {path.name} is a git-lfs pointer, not the file itself", hint=hint)


def stored_weights(model: str, folder: str, revision: str | None) -> dict[str, torch.Tensor] | None:
    """An empty tensor for each weight of a checkpoint, by the headers of its safetensors files.

    Returns None for pickled weights, and for a hub model whose weights are not in the local cache yet.

    Raises:
        UserError: a file is missing, a pointer, or not complete.
    """
    found = _weight_files(model, folder, revision)
    if found is None:
        return None
    refuse_pointers(model, found)
    if found[0].name == PICKLED:
        # A zip archive has its table of contents at its end. Pickles of torch before 1.6 are no archives.
        with found[0].open("rb") as file:
            if file.read(2) == b"PK" and not zipfile.is_zipfile(found[0]):
                raise _cut_short(model, found[0], "its end is missing")
        return None
    weights: dict[str, torch.Tensor] = {}
    for path in found:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    stored = file.get_slice(name)
                    dtype = DTYPES.get(stored.get_dtype(), torch.uint8)
                    weights[name] = torch.empty(stored.get_shape(), dtype=dtype, device="meta")
        except SafetensorError as error:
            raise _unreadable(model, path, error) from None
    return weights


def _weight_files(model: str, folder: str, revision: str | None) -> list[Path] | None:
    """The files that transformers reads: one, or the parts that an index lists. None if some are on the hub only."""

    def find(name: str) -> Path | None:
        if Path(folder).is_dir():
            return path if (path := Path(folder) / name).is_file() else None
        cached = try_to_load_from_cache(folder, name, revision=revision)
        return Path(cached) if isinstance(cached, str) else None

    if (single := find(SAFE)) is not None:
        return [single]
    if (index := find(SAFE_INDEX)) is None:
        pickled = find(PICKLED)
        return None if pickled is None else [pickled]
    refuse_pointers(model, [index])
    try:
        parts = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = "download it again; save_pretrained writes it beside the weights"
        raise UserError(f"{model}: {index.name} is not an index of weight files", hint=hint) from None
    paths = {name: find(name) for name in parts}
    absent = [name for name, path in paths.items() if path is None]
    if absent and not Path(folder).is_dir():
        return None
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(
            f"{model} lacks {absent[0]}{more}, which {index.name} lists", hint=f"download all {len(parts)} weight files"
        )
    return [path for path in paths.values() if path is not None]


def _unreadable(model: str, path: Path, error: SafetensorError) -> UserError:
    """The fault of a file that safetensors refuses. A header gives its own length, and the place of each weight."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, size)))
            whole = 8 + length + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"))
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = None
    if whole is not None and size < whole:
        return _cut_short(model, path, f"it has {size:,} of {whole:,} bytes")
    if size < 8 + length < 100_000_000:  # the format's limit of a header
        return _cut_short(model, path, f"its {size:,} bytes end within its header")
    hint = "download the file again, or save the model anew with save_pretrained"
    return UserError(f"{model}: {path.name} is not a safetensors file ({size:,} bytes; {error})", hint=hint)


def _cut_short(model: str, path: Path, why: str) -> UserError:
    hint = "download or copy it again, and check that the disk has room"
    return UserError(f"{model}: {path.name} is cut short: {why}", hint=hint)
