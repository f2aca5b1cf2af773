"""A check of everything that needs a GPU, on one GPU, without a network, in less than 8 minutes.

    python benchmarks/gpu_check.py [--only PART,…] [--cpu]     (the last line of output is JSON)

precision    a trial in bf16 (fp16 on older GPUs), and its loss against float32
attention    the flash kernel of torch's scaled_dot_product_attention, against the plain one
full, lora   tokens per second and peak memory of a step, against transformers' Trainer on the same batches; the peak while the
             model is built
adamw_8bit   the same with moments in 8 bits
bf16, qlora  the same with LoRA on a base in bf16, and in 4 bits
evaluation   peak memory of an evaluation with a large vocabulary, against the Trainer's
cache        a step on the cached output of the frozen groups, against one that computes them
memory       the micro-batch search, and a trial that runs out of memory on the way and continues in smaller pieces
shared       two trials at once, each on half of the GPU, against one after the other
nccl         a sum over all GPUs of this machine, one process each

The check reports a part that fails, and runs the others. `--cpu` runs the same parts on tiny models: it tests the script, not
a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Size:
    """The shape of the decoder that is trained, and of its batches."""

    hidden: int
    layers: int
    vocabulary: int
    tokens: int
    rows: int
    steps: int


GPU = Size(hidden=896, layers=24, vocabulary=151_936, tokens=1024, rows=16, steps=12)  # the shape of a model of 0.5 B
CPU = Size(hidden=64, layers=2, vocabulary=512, tokens=64, rows=4, steps=6)


class Check:
    """The parts. Each returns the figures that it adds to the result."""

    def __init__(self, size: Size, folder: Path) -> None:
        import torch

        self.size, self.folder = size, folder
        self.on_gpu = torch.cuda.is_available()
        self.made = False

    # ---- the model, its texts and a job on them ------------------------------------------------------------------------

    def job(self, **config: Any) -> Any:
        import memory

        from jobs import job

        size = self.size
        if not self.made:
            self.made = True
            heads = max(1, size.hidden // 64)
            memory.make(self.folder, size.vocabulary, size.tokens, size.rows, steps=size.steps, hidden_size=size.hidden,
                        intermediate_size=4 * size.hidden, num_hidden_layers=size.layers, num_attention_heads=heads,
                        num_key_value_heads=heads, head_dim=size.hidden // heads)  # fmt: skip
        sweep = memory.sweep_of(self.folder, size.tokens, size.rows, size.steps)
        common = {"max_t": size.steps, "rungs": [], "eval_interval": None, "learning_rate": 1e-4, "weight_decay": 0.0}
        return job({**common, "mixed_precision": "auto", **config}, sweep=sweep)

    def trainer(self, **config: Any) -> Any:
        from scalesweep.training.loop import Trainer

        return Trainer(self.job(**config))

    def timed(self, step: Callable[[], Any], warm: int = 3) -> tuple[float, float]:
        """(median seconds, peak GiB of GPU memory) of a step after `warm` others."""
        import statistics

        import torch

        seconds = []
        for number in range(self.size.steps):
            if self.on_gpu and number == warm:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            step()
            if self.on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[warm:]), torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else 0.0

    # ---- the parts -----------------------------------------------------------------------------------------------------

    def precision(self) -> dict[str, Any]:
        from scalesweep.training.loop import train

        losses, names = {}, {}
        for name in ("auto", "no"):
            trainer = self.trainer(mixed_precision=name)
            names[name] = trainer.precision.name
            losses[name] = list(train(trainer))[-1].metrics["eval_loss"]
            trainer.close()
        return {
            "precision": names["auto"],
            "loss": losses["auto"],
            "loss_float32": losses["no"],
            "loss_difference": abs(losses["auto"] - losses["no"]),
        }

    def attention(self) -> dict[str, Any]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        if not self.on_gpu:
            return {"flash": "needs a GPU"}
        query, key, value = (torch.randn(4, 14, 1024, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        found = {}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            with sdpa_kernel(backend):
                found[backend] = scaled_dot_product_attention(query, key, value, is_causal=True).float()
        flash, plain = found.values()
        return {"flash_largest_difference": float((flash - plain).abs().max())}

    def full(self) -> dict[str, Any]:
        return self._step("full")

    def lora(self) -> dict[str, Any]:
        return self._step("lora", adapter="lora", lora_rank=16)

    def adamw_8bit(self) -> dict[str, Any]:
        return self._step("adamw_8bit", optimizer="adamw_8bit")

    def bf16(self) -> dict[str, Any]:
        return self._step("bf16", adapter="lora", lora_rank=16, base_dtype="bf16")

    def qlora(self) -> dict[str, Any]:
        return self._step("qlora", adapter="qlora", lora_rank=16, base_dtype="bf16")

    def _step(self, name: str, **config: Any) -> dict[str, Any]:
        import torch

        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer = self.trainer(micro_batch_size=self.size.rows, prefix_cache="off", **config)
        built = torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else 0.0
        seconds, peak = self.timed(trainer.train_step)
        trainer.close()
        del trainer
        theirs_seconds, theirs_peak = self._theirs(**config)
        tokens = self.size.rows * self.size.tokens
        return {
            f"{name}_tokens_per_second": tokens / seconds,
            f"{name}_seconds_ratio": seconds / theirs_seconds,
            f"{name}_peak_gib": peak,
            f"{name}_build_peak_gib": built,
            f"{name}_peak_ratio": peak / theirs_peak if theirs_peak else None,
        }

    def _hf_trainer(
        self, adapter: str = "none", lora_rank: int = 0, optimizer: str = "adamw", base_dtype: str = "float32"
    ) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments
        from transformers import Trainer as HfTrainer

        from scalesweep.training.job import open_data

        data = open_data(self.job())

        def examples(split: Any) -> list[dict[str, Any]]:
            return [{"input_ids": (ids := split.example(n).tolist()), "labels": ids} for n in range(len(split))]

        settings: dict[str, Any] = {"dtype": torch.float32 if base_dtype == "float32" else torch.bfloat16}
        if adapter == "qlora":
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            settings["device_map"] = {"": 0 if self.on_gpu else "cpu"}
        model = AutoModelForCausalLM.from_pretrained(self.folder / "model", **settings)
        if adapter != "none":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(
                model, LoraConfig(r=lora_rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            )
        arguments = TrainingArguments(
            output_dir=str(self.folder / "out"), max_steps=self.size.steps, per_device_train_batch_size=self.size.rows,
            per_device_eval_batch_size=self.size.rows, learning_rate=1e-4, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, prediction_loss_only=True, bf16=self.on_gpu, use_cpu=not self.on_gpu,
            optim=optimizer if optimizer != "adamw" else "adamw_torch_fused" if self.on_gpu else "adamw_torch", dataloader_pin_memory=self.on_gpu,
        )  # fmt: skip
        return HfTrainer(model, arguments, train_dataset=examples(data.train), eval_dataset=examples(data.validation))

    def _theirs(self, **config: Any) -> tuple[float, float]:
        """(seconds of a step, peak GiB) of transformers' Trainer."""
        import torch
        from transformers import TrainerCallback

        ends: list[float] = []

        class Times(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                    if len(ends) == 2:
                        torch.cuda.reset_peak_memory_stats()
                ends.append(time.perf_counter())

        trainer = self._hf_trainer(**config)
        trainer.add_callback(Times())
        trainer.train()
        gaps = sorted(after - before for before, after in itertools.pairwise(ends[2:]))
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else 0.0
        del trainer
        self._free()
        return gaps[len(gaps) // 2], peak

    def evaluation(self) -> dict[str, Any]:
        import torch

        found = {}
        trainer = self.trainer(prefix_cache="off")
        theirs = self._hf_trainer()
        for name, call in (("evaluation", trainer.evaluate), ("trainer", theirs.evaluate)):
            if self.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            call()
            found[name] = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else 0.0
        trainer.close()
        (ours, peak), (seconds, other) = found.values()
        return {"evaluation_seconds_ratio": ours / seconds, "evaluation_peak_gib": peak, "evaluation_peak_gib_trainer": other}

    def cache(self) -> dict[str, Any]:
        found = {}
        for name in ("off", "auto"):
            trainer = self.trainer(unfreezing="head", prefix_cache=name, micro_batch_size=self.size.rows)

            def step(trainer: Any = trainer) -> None:
                trainer.clock.step = 0  # the same batch each time
                trainer.train_step()

            found[name], _ = self.timed(step)
            kept = trainer.prefix is not None and not trainer.notes
            trainer.close()
        return {"cached": kept, "cached_step_ratio": found["auto"] / found["off"]}

    def memory(self) -> dict[str, Any]:
        import torch

        from scalesweep.training.loop import train

        began = time.perf_counter()
        trainer = self.trainer(prefix_cache="off")
        losses = [list(train(trainer))[-1].metrics["eval_loss"]]
        size = dict(trainer.gradients.micro_batch.sizes)
        trainer.close()
        found = {"micro_batch": list(size.values()), "search_and_run_seconds": time.perf_counter() - began}
        if not self.on_gpu:
            return found
        self._free()
        held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.85), dtype=torch.uint8, device="cuda")
        trainer = self.trainer(prefix_cache="off", micro_batch_size=self.size.rows)
        losses.append(list(train(trainer))[-1].metrics["eval_loss"])
        found["micro_batch_with_little_memory"] = list(trainer.gradients.micro_batch.sizes.values())
        found["loss_difference_with_little_memory"] = abs(losses[1] - losses[0])
        trainer.close()
        del held
        return found

    def shared(self) -> dict[str, Any]:
        import ray

        from scalesweep.workers.group import WorkerGroup
        from scalesweep.workers.pool import WorkerPool
        from scalesweep.workers.session import ray_cluster

        def run(pool: Any, *names: str) -> tuple[float, float]:
            """(seconds until all of these trials have ended, loss of the first), without their start."""
            groups = [WorkerGroup(pool.lease(name, 0.5, capacity=1)) for name in names]
            for group in groups:
                group.begin(job)
            began = time.perf_counter()
            reports = [ray.get(reference) for reference in [group.ranks[0].next.remote() for group in groups]]
            seconds = time.perf_counter() - began
            for name in names:
                pool.release(name)
            return seconds, reports[0].metrics["eval_loss"]

        job = self.job(num_gpus=0.5, unfreezing="head", micro_batch_size=self.size.rows, prefix_cache="off")
        self._free()
        with ray_cluster(None, num_gpus=1):
            pool = WorkerPool(threads=1, on_gpus=True)
            pool.lease_soon("first", 0.5)  # starts both workers
            pool.lease_soon("second", 0.5)
            for name in ("first", "second"):
                pool.release(name)
            run(pool, "first", "second")  # the first run of a process is slower
            at_once, loss = run(pool, "first", "second")
            apart = [run(pool, name) for name in ("first", "second")]
            pool.shutdown()
        return {
            "shared_seconds_ratio": at_once / sum(seconds for seconds, _ in apart),
            "shared_loss_difference": abs(loss - apart[0][1]),
        }

    def nccl(self) -> dict[str, Any]:
        import torch
        import torch.multiprocessing as mp

        if not self.on_gpu:
            return {"nccl": "needs a GPU"}
        count = torch.cuda.device_count()
        mp.spawn(_sum_over_gpus, args=(count, str(self.folder / "store")), nprocs=count)
        return {"nccl_gpus": count}

    def _free(self) -> None:
        import gc

        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


def _sum_over_gpus(rank: int, world: int, store: str) -> None:
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=world)
    tensor = torch.full((2**20,), float(rank + 1), device="cuda")
    dist.all_reduce(tensor)
    assert float(tensor[0]) == world * (world + 1) / 2
    dist.destroy_process_group()


PARTS = (
    "precision",
    "attention",
    "full",
    "lora",
    "adamw_8bit",
    "bf16",
    "qlora",
    "evaluation",
    "cache",
    "memory",
    "shared",
    "nccl",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--cpu", action="store_true", help="run on tiny models without a GPU")
    arguments = parser.parse_args()
    if arguments.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if not torch.cuda.is_available() and not arguments.cpu:
        sys.exit("no GPU is visible; --cpu tries the script on tiny models")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "failed": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALESWEEP_CACHE"] = f"{folder}/cache"
        check = Check(CPU if arguments.cpu else GPU, Path(folder))
        for name in arguments.only.split(","):
            began = time.perf_counter()
            try:
                found = getattr(check, name)()
            except Exception:  # noqa: BLE001 - the other parts tell something all the same
                traceback.print_exc()
                result["failed"].append(name)
                continue
            finally:
                check._free()
            print(f"{name:10} {time.perf_counter() - began:6.1f} s  {json.dumps(found)}", flush=True)
            result |= found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
