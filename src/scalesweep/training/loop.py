"""Training as a generator of reports: the caller reads one, decides, and goes on or stops.

The number of workers changes speed and cost, never the result: every worker knows the whole global batch, takes its share,
and divides by the examples (or predicted tokens) of the whole; gradients are summed over workers. So uneven shards, an
empty share and a short last batch all weigh as they should.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from scalesweep.costs import training_flops
from scalesweep.data.batches import BatchPlan, eval_order, micro_batches, shard, steps_for_tokens
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.models.groups import LayerGroup, layer_groups
from scalesweep.models.ladder import load_model, load_tokenizer, quiet
from scalesweep.models.unfreezing import apply_unfreezing, lowest_trainable
from scalesweep.spec import TrialConfig
from scalesweep.training import checkpoint
from scalesweep.training.job import TrainReport, TrialJob, open_data
from scalesweep.training.metrics import LANGUAGE_MODELLING, Totals, compute_metrics, loss_sum
from scalesweep.training.schedules import schedule

MICRO_BATCH = 32  # examples per forward pass where the spec gives none
SAVE_SECONDS = 60.0  # between checkpoints of a run that reports without evaluating
BUCKET_ELEMENTS = 2**25  # gradients are averaged in buckets of 128 MiB: few calls, bounded extra memory


def make_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator on this process's device; `auto` is bf16 on a GPU that has it, fp16 on another GPU, float32 on CPU."""
    on_gpu = torch.cuda.is_available()
    if mixed_precision == "auto":
        mixed_precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "no"
    return Accelerator(mixed_precision=mixed_precision, cpu=not on_gpu)


class Trainer:
    """A model, its optimizer and its data, ready to step. `train` drives it; promotion keeps it for the test split."""

    def __init__(self, job: TrialJob, accelerator: Accelerator) -> None:
        config = job.config
        self.job, self.config, self.accelerator = job, config, accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.language_modelling = job.task == LANGUAGE_MODELLING
        data = open_data(job)
        self.train_split = data.joined(job.train_on)
        self.eval_split = data.split(job.evaluate_on)
        self.tokenizer = load_tokenizer(job.size)
        self.pad_id = self.tokenizer.pad_token_id or 0
        self.plan = BatchPlan(len(self.train_split), config.global_batch_size, config.seed)
        self.total_steps = (
            config.max_t if config.time_attr == "steps" else steps_for_tokens(self.plan, self.train_split.lengths, config.max_t)
        )
        self.factor = schedule(config, self.total_steps)
        model = load_model(
            job.size,
            job.task,
            num_labels=len(job.classes) or None,
            knobs=config.knobs(),
            seed=config.seed,
            id2label=dict(enumerate(job.classes)) or None,
        )
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = model.to(accelerator.device)
        self.groups = layer_groups(self.model)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(self.parameters, self.groups, config, accelerator.device))
        self.step = 0
        self.tokens = 0
        self.flops = 0.0
        self._loss = torch.zeros((), dtype=torch.float64, device="cpu")
        self._steps_since_report = 0
        self._lowest: int | None = None

    # ---- one optimizer step --------------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """One step on the next global batch."""
        config = self.config
        lowest = lowest_trainable(config.unfreezing, config.unfreeze_interval, self.step, len(self.groups))
        if lowest != self._lowest:
            self.model.train()
            apply_unfreezing(self.model, self.groups, lowest)
            self._lowest = lowest
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.factor(self.step)
        # Dropout's randomness is a function of (seed, step, rank), so a resumed trial goes on as if nothing had happened.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, self.rank]).generate_state(1)[0]))

        indices = self.plan.batch(self.step)
        lengths = self.train_split.lengths
        denominator = int(self.train_split.predicted_tokens[indices].sum()) if self.language_modelling else len(indices)
        share = shard(indices, self.rank, self.world)
        share = share[np.argsort(lengths[share], kind="stable")]  # like lengths together: less padding
        for indices_of_pass in micro_batches(share, config.micro_batch_size or MICRO_BATCH):
            logits, labels = self._forward(self.train_split, indices_of_pass)
            loss = loss_sum(logits, labels, config.label_smoothing_factor) / max(denominator, 1)
            self.accelerator.backward(loss)
            self._loss += loss.detach().double().cpu()
        trained = [parameter for parameter in self.parameters.values() if parameter.requires_grad]
        self._sum_gradients(trained)
        if config.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(trained, config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

        batch_tokens = int(lengths[indices].sum())
        self.step += 1
        self._steps_since_report += 1
        self.tokens += batch_tokens
        self.flops += training_flops(
            self.job.group_params, lowest, batch_tokens, self.job.n_layers, self.job.hidden_size, batch_tokens / len(indices)
        )

    def _forward(self, split: TokenizedSplit | JoinedSplit, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of these examples, on the device."""
        arrays = split.batch(indices, self.pad_id)
        batch = {name: torch.from_numpy(array).to(self.accelerator.device) for name, array in arrays.items()}
        labels = batch.pop("labels")
        with self.accelerator.autocast():
            return self.model(**batch).logits, labels

    def _sum_gradients(self, trained: list[torch.nn.Parameter]) -> None:
        """Sum gradients over workers, in buckets. A worker without examples adds zeros."""
        if self.world == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        size = 0
        for parameter in [*trained, None]:
            if bucket and (parameter is None or size + parameter.numel() > BUCKET_ELEMENTS):
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
                flat = self.accelerator.reduce(flat, reduction="sum")
                for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                    p.grad = part.view_as(p)
                bucket, size = [], 0
            if parameter is not None:
                bucket.append(parameter)
                size += parameter.numel()

    # ---- evaluation -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, split: TokenizedSplit | None = None) -> dict[str, float]:
        """Every metric of the task on `split` (default: the job's `evaluate_on`), over all workers."""
        split = split if split is not None else self.eval_split
        self.model.eval()
        classes = len(self.job.classes)
        sums = np.zeros(3 + classes * classes)
        order = shard(eval_order(split.lengths), self.rank, self.world)
        size = 2 * (self.config.micro_batch_size or MICRO_BATCH)  # no gradients: twice as many fit
        for indices in micro_batches(order, size):
            logits, labels = self._forward(split, indices)
            sums[0] += loss_sum(logits, labels).item()
            if self.language_modelling:
                sums[1] += split.predicted_tokens[indices].sum()
                sums[2] += split.bytes[indices].sum()
            else:
                sums[1] += len(indices)
                cells = labels * classes + logits.argmax(-1)
                sums[3:] += torch.bincount(cells, minlength=classes * classes).cpu().numpy()
        if self.world > 1:
            sums = self.accelerator.reduce(torch.from_numpy(sums).to(self.accelerator.device), reduction="sum").cpu().numpy()
        self._lowest = None  # evaluation mode is undone before the next step
        confusion = sums[3:].reshape(classes, classes) if classes else None
        return compute_metrics(self.job.task, Totals(sums[0], sums[1], sums[2], confusion))

    # ---- reports and checkpoints --------------------------------------------------------------------------------------

    @property
    def fidelity(self) -> int:
        return self.step if self.config.time_attr == "steps" else self.tokens

    def report(self) -> TrainReport:
        """Evaluate and say where training stands."""
        metrics = self.evaluate()
        loss = self._loss.clone().to(self.accelerator.device)
        if self.world > 1:
            loss = self.accelerator.reduce(loss, reduction="sum")
        metrics["train_loss"] = float(loss) / max(1, self._steps_since_report)
        metrics["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        metrics["epoch"] = self.step / self.plan.steps_per_epoch
        metrics["trainable_groups"] = sum(
            any(self.parameters[name].requires_grad for name in group.parameter_names) for group in self.groups
        )
        self._loss.zero_()
        self._steps_since_report = 0
        return self.position(metrics)

    def position(self, metrics: dict[str, float]) -> TrainReport:
        """A report of where training stands, with these metrics."""
        return TrainReport(self.step, self.fidelity, self.tokens, self.flops, metrics, self.total_steps)

    def save(self, report: TrainReport) -> None:
        """Checkpoint, with the report that belongs to it. Only the first rank writes."""
        if self.job.checkpoint_dir is None or self.rank != 0:
            return
        state = {"tokens": self.tokens, "flops": self.flops, "fidelity": report.fidelity, "metrics": report.metrics}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        checkpoint.save(Path(self.job.checkpoint_dir), self.step, self.model, self.optimizer.optimizer, state)

    def restore(self) -> TrainReport | None:
        """Go on from the newest checkpoint; returns its report, which may never have been delivered."""
        found = checkpoint.latest(Path(self.job.checkpoint_dir)) if self.job.checkpoint_dir else None
        if found is None:
            return None
        state = checkpoint.load(found, self.model, self.optimizer.optimizer)
        self.step, self.tokens, self.flops = state["step"], state["tokens"], state["flops"]
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return self.position(state["metrics"])

    # ---- export ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export(self, folder: Path, examples: int = 32) -> np.ndarray:
        """Write the model and its tokenizer as a `save_pretrained` folder (safetensors).

        Returns:
            float32 logits of the first `examples` validation examples, for a reloaded model to be compared with.
        """
        self.model.eval()
        with quiet():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return np.concatenate(list(validation_logits(self.model, self.job, examples)))


@torch.no_grad()
def validation_logits(model: torch.nn.Module, job: TrialJob, examples: int) -> Iterator[np.ndarray]:
    """Float32 logits of the first validation examples, one example at a time (so that padding plays no part)."""
    split = open_data(job).split("validation")
    device = next(model.parameters()).device
    for index in range(min(examples, len(split))):
        arrays = split.batch(np.array([index]), pad_id=0)
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if name != "labels"}
        logits = model(**inputs).logits.float().cpu().numpy()
        yield logits if logits.ndim == 2 else logits[:, -1]


def make_optimizer(
    parameters: dict[str, torch.nn.Parameter], groups: list[LayerGroup], config: TrialConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW with a rate per layer group: `learning_rate × layerwise_lr_decay^(groups above)`.

    Biases and norms (vectors) get no weight decay. Frozen parameters sit in their groups from the start: AdamW keeps no
    state for what has no gradient, so a group that thaws needs no re-registration.
    """
    optimizer_groups = []
    for index, group in enumerate(groups):
        rate = config.learning_rate * config.layerwise_lr_decay ** (len(groups) - 1 - index)
        matrices = [parameters[name] for name in group.parameter_names if parameters[name].dim() >= 2]
        vectors = [parameters[name] for name in group.parameter_names if parameters[name].dim() < 2]
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if members:
                optimizer_groups.append({"params": members, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    betas = (config.adam_beta1, config.adam_beta2)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(optimizer_groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=fused)


def train(trainer: Trainer) -> Iterator[TrainReport]:
    """Train to the end; yield a report at every evaluation.

    Evaluates every `eval_interval` steps, at the first step that reaches a rung, and at the end. A checkpoint is written
    before its report is given out, so a trial that dies afterwards repeats nothing that was reported.
    """
    config = trainer.config
    heartbeat, saved = trainer.job.heartbeat_steps, time.monotonic()
    restored = trainer.restore()
    if restored is not None:
        yield restored
    while trainer.step < trainer.total_steps:
        before = trainer.fidelity
        trainer.train_step()
        step, ended = trainer.step, trainer.step >= trainer.total_steps
        on_interval = config.eval_interval is not None and step % config.eval_interval == 0
        on_rung = any(before < level <= trainer.fidelity for level in config.rungs)
        if not (on_interval or on_rung or ended):
            if heartbeat and step % heartbeat == 0:
                report = trainer.position(metrics={})
                if time.monotonic() - saved >= SAVE_SECONDS:
                    trainer.save(report)
                    saved = time.monotonic()
                yield report
            continue
        report = trainer.report()
        if config.checkpoint_interval is None or on_rung or ended or _crosses(step, config):
            trainer.save(report)
        yield report


def _crosses(step: int, config: TrialConfig) -> bool:
    """Whether a multiple of `checkpoint_interval` lies between the last evaluation and this one."""
    assert config.checkpoint_interval is not None
    return step // config.checkpoint_interval > (step - (config.eval_interval or step)) // config.checkpoint_interval
