"""Checkpoints for the cases: right ones, and copies that are broken in one way each."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, ignore_patterns

import torch
from safetensors.torch import load_file, save, save_file

from tiny_models import save_tiny, tiny_tokenizer

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
)


BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def break_weights(root: Path) -> None:
    """Copies of the BERT checkpoint, each broken in one way."""
    whole = (root / "bert" / "model.safetensors").read_bytes()
    weights = load_file(root / "bert" / "model.safetensors")
    torch.save(weights, root / "weights.bin")
    config = json.loads((root / "bert" / "config.json").read_text())
    parts = {name: f"part-{1 + place % 2}.safetensors" for place, name in enumerate(weights)}
    pickle = (root / "weights.bin").read_bytes()
    safe, pickled, index = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
    link = Path("/nowhere/file")
    contents: dict[str, dict[str, bytes | Path | None]] = {
        "a-pointer": {safe: POINTER.encode()},
        "a-pointer-to-a-tokenizer": {safe: whole, "tokenizer.json": POINTER.encode()},
        "a-pointer-to-a-pickle": {pickled: POINTER.encode()},
        "cut-short": {safe: whole[:-1000]},
        "cut-in-the-header": {safe: whole[:100]},
        "empty": {safe: b""},
        "a-web-page": {safe: b"<!doctype html><html>404 Not Found</html>"},
        "a-pickle-cut-short": {pickled: pickle[:-1000]},
        "parts-without-one": {
            "part-1.safetensors": save({n: w for n, w in weights.items() if parts[n] == "part-1.safetensors"}),
            index: json.dumps({"weight_map": parts}).encode(),
        },
        "parts-without-an-index": {"part-1.safetensors": whole, index: b"[]"},
        "of-another-shape": {safe: save({**weights, "encoder.layer.0.output.dense.weight": torch.zeros(40, 40)})},
        "of-whole-numbers": {
            safe: save({**weights, "encoder.layer.0.output.dense.weight": torch.ones(32, 48, dtype=torch.int8)})
        },
        "by-their-config-quantized": {
            safe: whole,
            "config.json": json.dumps(config | {"quantization_config": BITSANDBYTES}).encode(),
        },
        "config-cut-short": {"config.json": json.dumps(config)[:40].encode()},
        "config-that-is-a-folder": {"config.json": None},
        "config-without-a-type": {"config.json": b"{}"},
        "config-with-a-word": {"config.json": json.dumps(config | {"hidden_size": "wide"}).encode()},
        "tokenizer-empty": {safe: whole, "tokenizer.json": b""},
        "tokenizer-of-nothing": {safe: whole, "tokenizer.json": b"{}"},
        "tokenizer-of-settings-in-a-list": {safe: whole, "tokenizer_config.json": b"[]"},
        "tokenizer-linked": {safe: whole, "tokenizer.json": link},
        "weights-linked": {safe: link},
        "not-all-there": {safe: save({n: w for n, w in weights.items() if n != "embeddings.LayerNorm.bias"})},
    }
    for name, files in contents.items():
        copytree(root / "bert", root / name, ignore=ignore_patterns(safe))
        for file, content in files.items():
            path = root / name / file
            path.unlink(missing_ok=True)
            if content is None:
                path.mkdir()
            elif isinstance(content, Path):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
    (root / "linked").symlink_to("/nowhere/model")
    headless = save_tiny("gpt2", root / "headless", task="causal-lm", tie_word_embeddings=False)
    weights = load_file(headless / safe)
    del weights["lm_head.weight"]
    save_file(weights, headless / safe)


def make_models(root: Path) -> None:
    """The checkpoints that the cases name, right and broken ones, as folders in `root`."""
    save_tiny("bert", root / "bert")
    save_tiny("llama", root / "llama")
    for name in ("gpt2", "gpt2-other-words"):
        save_tiny("gpt2", root / name, task="causal-lm")
    other = tiny_tokenizer()
    other.add_tokens(["!"])
    other.add_tokens(["entirely"])
    other.save_pretrained(root / "gpt2-other-words")
    save_tiny("opt", root / "opt", task="causal-lm", do_layer_norm_before=False)
    save_tiny("openai-gpt", root / "gpt1", task="causal-lm")
    pickled = save_tiny("bert", root / "pickled")
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    break_weights(root)
