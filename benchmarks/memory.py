"""Peak memory and CPU seconds of a language model with a large vocabulary, compared with transformers' Trainer.

    python benchmarks/memory.py [--vocabulary 131072] [--tokens 1024] [--rows 4]     (the last line of output is JSON)

Both train the same small decoder on the same batches for three steps and evaluate it on the same examples, one thread each, in
a process of their own. The Trainer returns losses alone in its evaluation, so it keeps no logits either. Peaks are the largest
resident memory of the process, all imports and weights included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = 3


def sweep_of(folder: Path, tokens: int, rows: int, steps: int = STEPS) -> dict[str, Any]:
    """The sweep of the model and texts in `folder`."""
    return {
        "task": "causal-lm",
        "data": {
            "path": str(folder / "texts.csv"), "text": "text", "max_length": tokens,
            "splits": {"train": steps * rows, "validation": rows, "test": rows},
        },
        "ladder": [{"name": "one", "model": str(folder / "model")}],
        "search_space": {"parameters": {"learning_rate": {"value": 1e-3}}},
        "training": {"global_batch_size": rows, "seed": 0, "mixed_precision": "no"},
    }  # fmt: skip


def make(
    folder: Path,
    vocabulary: int,
    tokens: int,
    rows: int,
    lengths: Sequence[int] | None = None,
    steps: int = STEPS,
    **fields: int,
) -> None:
    """Write a decoder and texts of exactly `tokens` tokens each, or of `lengths`. `fields`: of the decoder's config."""
    import random

    from tiny_models import WORDS, save_tiny

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "max_position_embeddings": tokens}
    save_tiny("llama", folder / "model", "causal-lm", vocab_size=vocabulary, tie_word_embeddings=True, **sizes | fields)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=length - 2)) for length in lengths or [tokens] * (steps + 2) * rows]
    (folder / "texts.csv").write_text("text\n" + "\n".join(texts) + "\n")


def ours(folder: Path, tokens: int, rows: int) -> float:
    from jobs import job, reports

    made = job(
        {"max_t": STEPS, "rungs": [], "eval_interval": STEPS, "learning_rate": 1e-3, "weight_decay": 0.0},
        sweep=sweep_of(folder, tokens, rows),
    )
    return float(list(reports(made))[-1].metrics["eval_loss"])


def theirs(folder: Path, tokens: int, rows: int) -> float:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from jobs import job
    from scalesweep.training.job import open_data

    data = open_data(job({"max_t": STEPS, "rungs": []}, sweep=sweep_of(folder, tokens, rows)))

    def examples(split: Any) -> list[dict[str, Any]]:
        return [{"input_ids": (ids := split.example(n).tolist()), "labels": ids} for n in range(len(split))]

    arguments = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=rows, per_device_eval_batch_size=rows,
        learning_rate=1e-3, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        prediction_loss_only=True, use_cpu=True, seed=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    trainer = Trainer(model, arguments, train_dataset=examples(data.train), eval_dataset=examples(data.validation))
    trainer.train()
    return float(trainer.evaluate()["eval_loss"])


def child(which: str, folder: Path, tokens: int, rows: int) -> None:
    import torch

    torch.set_num_threads(1)
    loss = {"ours": ours, "theirs": theirs}[which](folder, tokens, rows)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"peak_gib": used.ru_maxrss / 2**20, "cpu_seconds": used.ru_utime + used.ru_stime, "eval_loss": loss}))


def compare(vocabulary: int = 131_072, tokens: int = 1024, rows: int = 4) -> dict[str, Any]:
    """Run both and return their figures and ratios."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = ["--folder", folder, "--vocabulary", str(vocabulary), "--tokens", str(tokens), "--rows", str(rows)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
        environment |= {"SCALESWEEP_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        for which in ("make", "ours", "theirs"):
            command = [sys.executable, __file__, "--child", which, *shared]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            if which != "make":
                found |= {f"memory_{which}_{key}": value for key, value in json.loads(done.stdout.splitlines()[-1]).items()}
    for key in ("peak_gib", "cpu_seconds"):
        found[f"memory_{key}_ratio"] = found[f"memory_ours_{key}"] / found[f"memory_theirs_{key}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocabulary", 131_072), ("tokens", 1024), ("rows", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "make":
        make(arguments.folder, arguments.vocabulary, arguments.tokens, arguments.rows)
    elif arguments.child:
        child(arguments.child, arguments.folder, arguments.tokens, arguments.rows)
    else:
        found = compare(arguments.vocabulary, arguments.tokens, arguments.rows)
        for key, value in found.items():
            print(f"{key:32} {value:.4g}")
        print(json.dumps(found))


if __name__ == "__main__":
    main()
