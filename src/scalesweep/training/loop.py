"""Training as a generator of reports: the caller reads a report and continues or stops.

The number of workers changes speed and cost, never the result. Every worker knows the whole global batch, takes its share,
and divides by the examples (or predicted tokens) of the whole. Gradients are summed over workers. So uneven shards, empty
shares and a short last batch have the right weights.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalesweep.costs import dollars
from scalesweep.data.batches import BatchPlan, eval_order, micro_batches, shard, steps_for_tokens
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit, text_tokenizer
from scalesweep.models.base import BaseWeights, base_key
from scalesweep.models.groups import LayerGroup
from scalesweep.models.ladder import load_tokenizer, quiet, restore_use_cache
from scalesweep.models.replay import NotReplayable
from scalesweep.models.unfreezing import apply_unfreezing
from scalesweep.spec import LadderSize, TrialConfig
from scalesweep.spec.metrics import LANGUAGE_MODELLING
from scalesweep.storage import STORAGE_SECONDS, UrlPath, cache_dir, patiently, place
from scalesweep.training import checkpoint
from scalesweep.training.cadence import Cadence
from scalesweep.training.job import TrainReport, TrialJob, open_data
from scalesweep.training.metrics import Totals, compute_metrics, loss_sum
from scalesweep.training.micro_batch import MicroBatch, is_out_of_memory
from scalesweep.training.peers import ALONE, Peers
from scalesweep.training.precision import Precision
from scalesweep.training.prefix import PrefixCache
from scalesweep.training.schedules import schedule

SAVE_SECONDS = 60.0  # between checkpoints of a run that reports without evaluating
BUCKET_ELEMENTS = 2**25  # gradients are summed in buckets of 128 MiB: few calls, bounded extra memory
COUNTERS = ("step", "tokens", "model_flops", "flops", "train_seconds", "untouched")  # stored in a checkpoint unchanged
PARTS_OF_A_RUN = 10_000  # resolution of the schedule if a run is measured in FLOPs, seconds or dollars


_base_models: dict[str, BaseWeights] = {}  # a few: one per ladder size


def _base_model(job: TrialJob) -> BaseWeights:
    """The base model of the job's size. A checkpoint that changes on disk gets a new one."""
    wanted = (job.size, job.task, len(job.classes) or None, job.config.seed, dict(enumerate(job.classes)) or None)
    key = base_key(*wanted)
    if key not in _base_models:
        _base_models[key] = BaseWeights.open(*wanted, cache_dir())
    return _base_models[key]


@functools.lru_cache(maxsize=16)
def _tokenizer(size: LadderSize) -> Any:
    return load_tokenizer(size)


def warm(job: TrialJob) -> None:
    """Load everything that `job` needs into this process: imports, tokens, tokenizer, base weights."""
    Precision(job.config.mixed_precision)
    open_data(job)
    _tokenizer(job.size)
    _base_model(job).make({}, torch.device("cpu"))
    schedule(job.config, 1)


class Trainer:
    """A model, its optimizer and its data. `train` runs it; promotion keeps it to evaluate the test split."""

    def __init__(self, job: TrialJob, peers: Peers = ALONE) -> None:
        self._began = time.monotonic()
        config = job.config
        self.job, self.config, self.peers = job, config, peers
        self.precision = Precision(config.mixed_precision)
        self.device = self.precision.device
        self.language_modelling = job.task == LANGUAGE_MODELLING
        data = open_data(job)
        self.train_split = data.joined(job.train_on)
        self.eval_split = data.split(job.evaluate_on)
        self.tokenizer = _tokenizer(job.size)
        self.pad_id = self.tokenizer.pad_token_id or 0
        lengths = self.train_split.lengths
        by_length = lengths if config.group_by_length else None
        self.plan = BatchPlan(len(self.train_split), config.global_batch_size, config.seed, by_length)
        self.total_steps: int | None = None  # None: the run ends by its cost, not after a known number of steps
        if config.time_attr == "steps":
            self.total_steps = int(config.max_t)
        elif config.time_attr == "tokens":
            self.total_steps = steps_for_tokens(self.plan, lengths, int(config.max_t))
        self.factor = schedule(config, self.total_steps or PARTS_OF_A_RUN)
        base = _base_model(job)
        self.model: Any = base.make(config.knobs(), self.device)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.disable_input_require_grads()  # otherwise transformers computes gradients for the frozen prefix
        self.groups = base.groups
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = make_optimizer(self.parameters, self.groups, config, self.device)
        self.cadence = Cadence(config, len(self.groups), self.plan, job.thaw_at, job.head_groups)
        self.untouched = len(self.groups)  # groups below this one have the weights of the checkpoint
        share = -(-config.global_batch_size // peers.world)
        self.micro_batch = MicroBatch(job, cache_dir(), self.device, share)
        self.notes: list[str] = []
        self.prefix = self._prefix_cache(base)
        self.step = self.tokens = 0
        self.model_flops = self.flops = self.train_seconds = 0.0
        self.first_step_at = 0.0  # unix seconds
        self._seconds_before = 0.0  # of earlier attempts
        self._agreed_seconds = 0.0  # the clock that all workers agree on
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._flops = 0.0  # FLOPs of this worker since the last report
        self._steps_since_report = 0
        self._mode_is_set = False

    def _prefix_cache(self, base: BaseWeights) -> PrefixCache | None:
        config, job = self.config, self.job
        if config.prefix_cache == "off":
            return None
        reuse = job.evaluate_on != "test" or (self.total_steps or math.inf) > self.plan.steps_per_epoch
        try:
            return PrefixCache(
                job,
                self.model,
                self.groups,
                base.group_hashes,
                cache_dir(),
                self.device,
                self.precision.name,
                self.precision.autocast,
                self.pad_id,
                fill=reuse,
            )
        except NotReplayable as error:
            if config.unfreezing != "full":
                self.notes.append(f"{config.model_size}: the frozen prefix is not cached, because {error}")
            return None

    def close(self) -> None:
        """Close open files and free the device's memory."""
        if self.prefix is not None:
            self.prefix.close()
        self.precision.free_memory()

    # ---- one optimizer step --------------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """Run one optimizer step on the next global batch."""
        config, step = self.config, self.step
        self.first_step_at = self.first_step_at or time.time()
        if self.cadence.advance(step, self.progress) or not self._mode_is_set:
            self.model.train()
            apply_unfreezing(self.model, self.groups, self.cadence.trainable)
            self._mode_is_set = True
        self.untouched = min(self.untouched, self.cadence.lowest)
        factor = self._factor()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor * self.cadence.warmth(group["layer_group"], step)

        indices = self.plan.batch(step)
        lengths = self.train_split.lengths
        denominator = int(self.train_split.predicted_tokens[indices].sum()) if self.language_modelling else len(indices)
        share = shard(indices, self.peers.rank, self.peers.world)
        share = share[np.argsort(lengths[share], kind="stable")]  # similar lengths together save padding
        self._loss += self._backward(share, max(denominator, 1))
        trained = [parameter for parameter in self.parameters.values() if parameter.requires_grad]
        self._sum_gradients(trained)
        if config.max_grad_norm > 0:
            self.precision.clip(trained, self.optimizer, config.max_grad_norm)
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad()

        self.step += 1
        self._steps_since_report += 1
        self.tokens += int(lengths[indices].sum())
        whole = (len(indices), int(lengths[indices].max()))
        self.model_flops += self.job.flops.forward(*whole) + self.job.flops.backward(*whole, self.cadence.trainable)
        if config.time_attr in ("gpu_seconds", "dollars"):
            # All workers use one clock, because they must agree on the end of the run.
            seconds = self._seconds() if self.peers.rank == 0 else 0.0
            self._agreed_seconds = float(self.peers.sum_(torch.tensor(seconds, dtype=torch.float64, device=self.device)))

    def _factor(self) -> float:
        """The schedule's factor on the learning rates of this step."""
        if self.total_steps is not None:
            return self.factor(self.step)
        return self.factor(min(int(self.progress * PARTS_OF_A_RUN), PARTS_OF_A_RUN - 1))

    def _backward(self, share: np.ndarray, denominator: int) -> torch.Tensor:
        """Compute the gradients of this worker's share of the batch and return its part of the loss. If memory is too
        small, the pieces become smaller."""
        lowest = self.cadence.lowest
        size = self.micro_batch.size(lowest, self._try_out)
        while True:
            # Dropout depends on (seed, step, rank) alone, so a resumed trial continues as if it had not been interrupted.
            seed = np.random.SeedSequence([self.config.seed, self.step, self.peers.rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            try:
                for indices in micro_batches(share, size):
                    total += self._piece(indices, denominator)
                return total
            except RuntimeError as error:
                self.optimizer.zero_grad()
                self.micro_batch.halve(lowest, error)
                size = self.micro_batch.sizes[lowest]

    def _piece(self, indices: np.ndarray, denominator: int) -> torch.Tensor:
        logits, labels, first = self._forward(self.train_split, indices, self.cadence.lowest)
        loss = loss_sum(logits, labels, self.config.label_smoothing_factor) / denominator
        self.precision.backward(loss)
        shape = (len(indices), int(self.train_split.lengths[indices].max()))
        trainable, checkpointing = self.cadence.trainable, self.config.gradient_checkpointing
        self._flops += self.job.flops.forward(*shape, first) + self.job.flops.backward(*shape, trainable, checkpointing)
        return loss.detach().double()

    def _try_out(self, rows: int) -> None:
        """Run a pass over the `rows` longest examples to test the memory, and discard the gradients."""
        longest = np.argsort(-self.train_split.lengths, kind="stable")[:rows]
        try:
            self._piece(longest, rows)
        finally:
            self.optimizer.zero_grad()

    def _forward(
        self, split: TokenizedSplit | JoinedSplit, indices: np.ndarray, lowest: int
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Logits and labels of these examples on the device, and the lowest group that was computed."""
        arrays = split.batch(indices, self.pad_id)
        batch = {name: self._to_device(array) for name, array in arrays.items()}
        labels = batch.pop("labels")
        cut = min(lowest, self.untouched, len(self.groups) - 1)
        read_once = split is self.eval_split and self.job.evaluate_on == "test"
        hidden = self.prefix.hidden(split, indices, cut, batch) if self.prefix is not None and not read_once else None
        with self.precision.autocast():
            if hidden is None or self.prefix is None:
                return self.model(**batch).logits, labels, 0
            return self.prefix.replay.forward(cut, hidden, batch).logits, labels, cut

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _sum_gradients(self, trained: list[torch.nn.Parameter]) -> None:
        """Sum gradients over workers, in buckets. A worker without examples adds zeros; frozen parameters are not sent."""
        if self.peers.world == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        size = 0
        for parameter in [*trained, None]:
            if bucket and (parameter is None or size + parameter.numel() > BUCKET_ELEMENTS):
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
                self.peers.sum_(flat)
                for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                    p.grad = part.view_as(p)
                bucket, size = [], 0
            if parameter is not None:
                bucket.append(parameter)
                size += parameter.numel()

    # ---- evaluation -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, split: TokenizedSplit | None = None) -> dict[str, float]:
        """All metrics of the task on `split` (default: the job's `evaluate_on`), over all workers."""
        split = split if split is not None else self.eval_split
        self.model.eval()
        self._mode_is_set = False
        classes = len(self.job.classes)
        sums = np.zeros(3 + classes * classes)
        order = shard(eval_order(split.lengths), self.peers.rank, self.peers.world)
        # Without gradients, twice as many examples fit.
        size = 2 * self.micro_batch.size(self.cadence.lowest, self._try_out)
        while len(order):
            indices = order[:size]
            try:
                logits, labels, first = self._forward(split, indices, len(self.groups))
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(indices) == 1:
                    raise
                size = -(-len(indices) // 2)
                continue
            order = order[size:]
            self._flops += self.job.flops.forward(len(indices), int(split.lengths[indices].max()), first)
            sums[0] += loss_sum(logits, labels).item()
            if self.language_modelling:
                sums[1] += split.predicted_tokens[indices].sum()
                sums[2] += split.bytes[indices].sum()
            else:
                sums[1] += len(indices)
                cells = labels * classes + logits.argmax(-1)
                sums[3:] += torch.bincount(cells, minlength=classes * classes).cpu().numpy()
        sums = self.peers.sum_(torch.from_numpy(sums).to(self.device)).cpu().numpy()
        confusion = sums[3:].reshape(classes, classes) if classes else None
        return compute_metrics(self.job.task, Totals(sums[0], sums[1], sums[2], confusion))

    # ---- reports and checkpoints --------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        """Seconds with workers, over all attempts that reached a checkpoint."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def fidelity(self) -> float:
        """The amount used of the resource that rungs count (`time_attr`)."""
        attr = self.config.time_attr
        if attr in ("steps", "tokens"):
            return self.step if attr == "steps" else self.tokens
        if attr == "flops":
            return self.model_flops
        gpu_seconds = self._agreed_seconds * self.peers.world
        return gpu_seconds if attr == "gpu_seconds" else dollars(gpu_seconds, self.job.price) or 0.0

    @property
    def ended(self) -> bool:
        return self.fidelity >= self.config.max_t if self.total_steps is None else self.step >= self.total_steps

    @property
    def progress(self) -> float:
        """The finished share of the run, 0 … 1."""
        if self.total_steps is not None:
            return self.step / max(self.total_steps, 1)
        return self.fidelity / self.config.max_t

    def report(self) -> TrainReport:
        """Evaluate, and return a report of the position."""
        metrics = self.evaluate()
        self.cadence.observe(metrics[self.job.metric] if self.job.minimize else -metrics[self.job.metric])
        self._count_prefix()
        counters = torch.tensor([float(self._loss), self._flops], dtype=torch.float64, device=self.device)
        loss, flops = self.peers.sum_(counters).tolist()
        self.flops += flops
        metrics["train_loss"] = loss / max(1, self._steps_since_report)
        metrics["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        metrics["epoch"] = self.step / self.plan.steps_per_epoch
        metrics["trainable_groups"] = sum(
            any(self.parameters[name].requires_grad for name in group.parameter_names) for group in self.groups
        )
        metrics["unfreezing_stage"] = self.cadence.stage
        self._loss.zero_()
        self._flops, self._steps_since_report = 0.0, 0
        return self.position(metrics)

    def _count_prefix(self) -> None:
        """Count the FLOPs that filled the prefix cache since the last call, and take over its notes."""
        if self.prefix is not None:
            for tokens, first, cut in self.prefix.computed:
                self._flops += self.job.flops.forward(1, tokens, first) - self.job.flops.forward(1, tokens, cut)
            self.notes += self.prefix.notes
            self.prefix.computed, self.prefix.notes = [], []

    def untrained(self) -> TrainReport:
        """A report of the metrics before the first step. Its time does not count in the fidelity."""
        began = time.monotonic()
        self.model.train()
        apply_unfreezing(self.model, self.groups, self.cadence.trainable)  # as in a step, which the micro-batch size depends on
        self.untouched = min(self.untouched, self.cadence.lowest)  # the cache then keeps what later evaluations read
        metrics = self.evaluate()
        self._began += time.monotonic() - began
        return self.position(metrics)

    def position(self, metrics: dict[str, float]) -> TrainReport:
        """A report of the current position with these metrics."""
        total = self.total_steps or math.ceil(self.step / max(self.progress, 1e-9))
        report = TrainReport(self.step, self.fidelity, self.tokens, self.model_flops, metrics, total)
        notes, self.notes = tuple(self.notes), []
        return replace(
            report,
            flops=self.flops,
            train_seconds=self.train_seconds,
            first_step_at=self.first_step_at,
            reported_at=time.time(),
            notes=notes,
        )

    def save(self, report: TrainReport) -> None:
        """Write a checkpoint that includes `report`. Only the first rank writes."""
        if self.job.checkpoint_dir is None or self.peers.rank != 0:
            return
        self._count_prefix()
        state = {
            **{name: getattr(self, name) for name in COUNTERS},
            "unreported_flops": self._flops * self.peers.world,  # the shares of workers are about equal
            "seconds": self._seconds(),
            "agreed_seconds": self._agreed_seconds,
            "cadence": self.cadence.state(),
            "metrics": report.metrics,
        }
        if self.precision.scaler is not None:
            state["scaler"] = self.precision.scaler.state_dict()
        trained = {name: self.parameters[name] for group in self.groups[self.untouched :] for name in group.parameter_names}
        checkpoint.save(place(self.job.checkpoint_dir), self.step, trained, self.optimizer, state)

    def restore(self) -> TrainReport | None:
        """Continue from the newest usable checkpoint. Returns its report, which may not have been delivered before.

        A note reports a damaged checkpoint, or a missing one if the trial has recorded reports.
        """
        if self.job.checkpoint_dir is None:
            return None
        folder = place(self.job.checkpoint_dir)
        waiting: list[int] = []
        if self.peers.rank == 0:
            patiently(lambda: waiting.extend(checkpoint.steps(folder)), STORAGE_SECONDS)
        damaged: list[int] = []
        # All workers continue from the same checkpoint: rank 0 proposes it, and it is used if all workers can read it.
        while step := self._sum_of_ranks(waiting.pop(0) if waiting else 0):
            found = self._read_checkpoint(folder, step)
            if self._sum_of_ranks(found is not None) == self.peers.world and found is not None:
                break
            damaged.append(step)
        else:
            found = None
        trial = self.job.trial
        if damaged:
            on = f"continues from step {step}" if found is not None else "starts again"
            steps = ", ".join(map(str, damaged))
            self.notes.append(f"the checkpoint of {trial} at step {steps} is damaged; the trial {on}")
        elif found is None and self.job.reached > 0:
            self.notes.append(f"{trial} had reached {self.job.reached:g} but has no checkpoint; the trial starts again")
        if found is None:
            return None
        checkpoint.apply(found, self.parameters, self.optimizer)
        state = found.state
        for name in COUNTERS:
            setattr(self, name, state[name])
        self._flops = state.get("unreported_flops", 0.0) if self.peers.rank == 0 else 0.0
        self._seconds_before, self._agreed_seconds = state["seconds"], state["agreed_seconds"]
        self.cadence.load(state["cadence"])
        if self.precision.scaler is not None and "scaler" in state:
            self.precision.scaler.load_state_dict(state["scaler"])
        return self.position(state["metrics"])

    def _sum_of_ranks(self, number: int) -> int:
        return int(self.peers.sum_(torch.tensor(float(number), dtype=torch.float64, device=self.device)))

    def _read_checkpoint(self, folder: Path | UrlPath, step: int) -> checkpoint.Checkpoint | None:
        """The checkpoint of `step`; None if it is damaged."""
        found: list[checkpoint.Checkpoint] = []
        try:
            patiently(lambda: found.append(checkpoint.read(folder, step, self._fits)), STORAGE_SECONDS)
        except checkpoint.Damaged:
            return None
        return found[0]

    def _fits(self, found: checkpoint.Checkpoint) -> bool:
        """Whether the checkpoint belongs to this model and is complete."""
        shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        weights = all(shapes.get(name) == value.shape for name, value in found.weights.items())
        moments = all(key.rpartition("/")[0] in shapes for key in found.moments)
        return weights and moments and {*COUNTERS, "seconds", "agreed_seconds", "cadence", "metrics"} <= found.state.keys()

    # ---- export ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export(self, folder: Path, examples: int = 32) -> np.ndarray:
        """Write the model and its tokenizer as a `save_pretrained` folder (safetensors).

        Returns:
            float32 logits of the first `examples` validation examples, for comparison with a reloaded model.
        """
        self.model.eval()
        logits = np.concatenate(list(validation_logits(self.model, self.job, examples)))
        restore_use_cache(self.model.config, self.job.size)
        with quiet():
            self.model.save_pretrained(folder)
        # A classifier's texts are texts to the end. A language model's user may want its control words, as in a chat.
        tokenizer = self.tokenizer if self.language_modelling else text_tokenizer(self.tokenizer)
        tokenizer.save_pretrained(folder)
        return logits


@torch.no_grad()
def validation_logits(model: torch.nn.Module, job: TrialJob, examples: int) -> Iterator[np.ndarray]:
    """Float32 logits of the first validation examples, one example at a time (without padding)."""
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
    """AdamW with a learning rate per layer group: `learning_rate × layerwise_lr_decay^(groups above)`.

    Biases and norms (vectors) have no weight decay. Frozen parameters are in the optimizer from the start: AdamW keeps no
    state for parameters without gradient, so a thaw needs no registration.
    """
    optimizer_groups = []
    for index, group in enumerate(groups):
        rate = config.learning_rate * config.layerwise_lr_decay ** (len(groups) - 1 - index)
        matrices = [parameters[name] for name in group.parameter_names if parameters[name].dim() >= 2]
        vectors = [parameters[name] for name in group.parameter_names if parameters[name].dim() < 2]
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if members:
                optimizer_groups.append(
                    {"params": members, "lr": rate, "peak_lr": rate, "weight_decay": decay, "layer_group": index}
                )
    betas = (config.adam_beta1, config.adam_beta2)
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(optimizer_groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=fused)


def train(trainer: Trainer) -> Iterator[TrainReport]:
    """Train to the end; yield a report at every evaluation.

    Evaluations run every `eval_interval` steps, at the first step that reaches a rung, and at the end. A checkpoint is written
    when the caller asks for the next report, because most trials of a sweep are stopped at a report and need none. If a trial
    may be paused, at a rung or at any report, the checkpoint is written before the report is yielded. A restored trial first
    yields the report of its checkpoint again. A job with `untrained` first yields a report of step 0.
    """
    config = trainer.config
    heartbeat, saved = trainer.job.heartbeat_steps, time.monotonic()
    restored = trainer.restore()
    if restored is not None:
        yield restored
    elif trainer.job.untrained:
        yield trainer.untrained()
    while not trainer.ended:
        before, began = trainer.fidelity, time.monotonic()
        trainer.train_step()
        step, ended = trainer.step, trainer.ended
        on_interval = config.eval_interval is not None and step % config.eval_interval == 0
        on_rung = any(before < level <= trainer.fidelity for level in config.rungs)
        reports = on_interval or on_rung or ended
        if reports and trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)  # GPU steps are asynchronous, so the clock waits for them
        trainer.train_seconds += time.monotonic() - began
        if not reports:
            if heartbeat and step % heartbeat == 0:
                report = trainer.position(metrics={})
                if time.monotonic() - saved >= SAVE_SECONDS:
                    trainer.save(report)
                    saved = time.monotonic()
                yield report
            continue
        report = trainer.report()
        saved_first = not ended and (trainer.job.saves_first == "reports" or (on_rung and trainer.job.saves_first == "rungs"))
        if saved_first:
            trainer.save(report)
        yield report
        if not saved_first and (config.checkpoint_interval is None or on_rung or ended or _crosses(step, config)):
            trainer.save(report)


def _crosses(step: int, config: TrialConfig) -> bool:
    """Whether a multiple of `checkpoint_interval` lies between the last evaluation and this one."""
    assert config.checkpoint_interval is not None
    return step // config.checkpoint_interval > (step - (config.eval_interval or step)) // config.checkpoint_interval
