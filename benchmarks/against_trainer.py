"""CPU seconds of full fine-tuning, compared with transformers' Trainer.

    python benchmarks/against_trainer.py [--steps 30] [--rounds 3]     (the last line of output is JSON)

Both train the 6-layer encoder of the quickstart in full on the same batches of 32 texts, in float32, on one thread. Rounds take
turns, so that other work on the machine meets both. Loading and imports do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from engine import SHORT, plan_of, trainer

ROWS = 32


def ours(plan: Any, steps: int) -> tuple[float, list[Any], float]:
    """CPU seconds, the batches, and the mean loss."""
    model = trainer(plan, 0, mixed_precision="no", global_batch_size=ROWS, max_t=10**6, unfreezing="full")
    model.train_step()  # what is made once
    batches = [model.plan.batch(step) for step in range(1, steps + 1)]
    before = model._loss
    began = time.process_time()
    for _ in range(steps):
        model.train_step()
    seconds = time.process_time() - began
    loss = float(model._loss - before) / steps
    found = [
        [(model.train_split.example(index).tolist(), int(model.train_split.labels[index])) for index in batch]
        for batch in batches
    ]
    model.close()
    return seconds, found, loss


def theirs(plan: Any, batches: list[Any], folder: str) -> float:
    """CPU seconds of the Trainer on these batches, in this order."""
    from torch.utils.data import SequentialSampler
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )
    from transformers.trainer_callback import TrainerCallback

    from scalesweep.models.ladder import locate

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    class Watch(TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.ended = time.process_time()
            self.began = self.began or self.ended  # the first step does not count

    place = locate(plan.spec.sizes()[-1].model)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
    arguments = TrainingArguments(
        output_dir=folder, max_steps=len(batches), per_device_train_batch_size=ROWS, learning_rate=1e-3, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    rows = [{"input_ids": tokens, "labels": label} for batch in batches for tokens, label in batch]
    watch = Watch()
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(place))
    InOrder(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[watch]).train()
    return watch.ended - watch.began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan, found = plan_of(SHORT), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            mine, batches, _ = ours(plan, arguments.steps)
            other = theirs(plan, batches[:1] + batches, folder)
            found.append({"ours_s": mine, "trainer_s": other, "ratio": mine / other})
            print(f"ours {mine:.2f} s · Trainer {other:.2f} s · ratio {mine / other:.3f}")
    print(json.dumps({"steps": arguments.steps, "rounds": found, "ratio": statistics.median(row["ratio"] for row in found)}))


if __name__ == "__main__":
    main()
