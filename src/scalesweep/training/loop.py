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

from scalesweep.costs import share_of
from scalesweep.data.batches import BatchPlan, shard, steps_for_tokens
from scalesweep.data.earlier import PREFIX, splits_of
from scalesweep.data.subsets import part_of
from scalesweep.data.tokens import JoinedSplit
from scalesweep.examples import MOST_ROWS, Columns, Examples
from scalesweep.models.base import BaseWeights, base_key
from scalesweep.models.ladder import load_tokenizer
from scalesweep.models.replay import NotReplayable
from scalesweep.spec import LadderSize, TrialConfig
from scalesweep.storage import cache_dir, place
from scalesweep.tasks import task_of
from scalesweep.tasks.metrics import compute_metrics
from scalesweep.training import checkpoint
from scalesweep.training.answers import Answers, asked, judged
from scalesweep.training.clock import PARTS_OF_A_RUN, Clock
from scalesweep.training.evaluation import evaluate
from scalesweep.training.export import export
from scalesweep.training.job import TrainReport, TrialJob, open_data
from scalesweep.training.methods import method_class
from scalesweep.training.micro_batch import EvaluationSize, MicroBatch
from scalesweep.training.optimizer import make_optimizer
from scalesweep.training.parallel import strategy
from scalesweep.training.passes import Passes
from scalesweep.training.peers import ALONE, Peers
from scalesweep.training.per_row import Rows
from scalesweep.training.precision import Precision, device_name
from scalesweep.training.prefix import AHEAD, PrefixCache
from scalesweep.training.resume import kept_checkpoint, newest_checkpoint
from scalesweep.training.schedules import schedule
from scalesweep.training.step import Gradients

PARTS = ("new", "old")  # of an evaluation beside earlier data, as metrics are named
SAVE_SECONDS = 60.0  # between checkpoints of a run that reports without evaluating


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
    method_class(job.config.adapter)


class Trainer:
    """A model, its optimizer and its data. `train` runs it."""

    def __init__(self, job: TrialJob, peers: Peers = ALONE) -> None:
        config = job.config
        self.job, self.config, self.peers = job, config, peers
        self.task = task_of(job.task)
        data = open_data(job)
        rehearses = data.has_earlier and config.rehearsal_share > 0
        own = part_of(data, job.train_on, config.train_share, config.seed)
        new = len(own)
        self.train_split = data.joined([*job.train_on, f"{PREFIX}train"]) if rehearses else own
        self.eval_split = data.joined(splits_of(job.evaluate_on) if data.has_earlier else [job.evaluate_on])
        lengths = self.train_split.lengths
        by_length, earlier = lengths if config.group_by_length else None, len(self.train_split) - new
        self.plan = BatchPlan(new, config.global_batch_size, config.seed, by_length, earlier, config.rehearsal_share)
        gpus = peers.world * share_of(config.num_gpus)
        self.clock = Clock(config, _total_steps(config, self.plan, lengths), gpus, job.price)
        self.factor = schedule(config, self.clock.total_steps or PARTS_OF_A_RUN)

        self.precision = Precision(config.mixed_precision)
        self.device = self.precision.device
        self.tokenizer = _tokenizer(job.size)
        base = _base_model(job)
        self.parallel = strategy(job.parallel, peers, self.device)
        method = method_class(config.adapter)
        self.types = method.weight_types(job, base.groups)
        self.model: Any = self.parallel.place(lambda device: base.make(config.knobs(), device, self.types), base.groups)
        self.method = method(job, self.model, base.groups, self.plan)
        self.groups, self.parameters = self.method.groups, self.method.parameters
        self.optimizer = make_optimizer(self.method, self.device)
        self.notes: list[str] = []
        self.prefix = self._prefix_cache(base)
        pad_id = self.tokenizer.pad_token_id or 0
        self.passes = Passes(self.method, self.task, self.precision, self.prefix, pad_id)
        share = -(-config.global_batch_size // peers.world)
        micro_batch = MicroBatch(job, cache_dir(), self.device, share, peers, self._checkpoint_activations)
        self.weights, class_weights = self.train_split.predictions, None  # of the examples in the loss
        if job.class_weights is not None:
            self.weights = np.array(job.class_weights)[self.train_split.labels]
            class_weights = torch.tensor(job.class_weights, device=self.device)
        self.gradients = Gradients(
            self.train_split,
            self.task,
            config,
            self.method,
            self.passes,
            micro_batch,
            self.optimizer,
            self.parallel,
            peers,
            class_weights,
        )
        self.eval_size = EvaluationSize(job, cache_dir(), self.device, self.passes.outputs, peers)
        self.answers = Answers(job, self.eval_split, self.tokenizer) if asked(job) else None
        self.rows = Rows(self.eval_split, len(job.classes))
        if self.rows.of > MOST_ROWS:
            self.notes.append(
                f"standard errors come from {len(self.rows.kept):,} of the {self.rows.of:,} {job.evaluate_on} rows"
            )
        self.examples: Examples | None = None  # of the last evaluation
        self.best: dict[str, Any] | None = None  # with `keep: best`, `step` and `value` of the best evaluation
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._steps_since_report = 0
        self._mode_is_set = False

    def _checkpoint_activations(self) -> bool:
        if not self.model.supports_gradient_checkpointing and self.config.gradient_checkpointing == "auto":
            return False
        self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        self.model.disable_input_require_grads()  # otherwise transformers computes gradients for the frozen prefix
        if self.config.gradient_checkpointing == "auto":
            size = self.config.model_size
            self.notes.append(f"{size}: gradient checkpointing is on, because one example does not fit in memory without it")
        return True

    def _prefix_cache(self, base: BaseWeights) -> PrefixCache | None:
        config, job = self.config, self.job
        if config.prefix_cache == "off" or self.parallel.equal_passes:  # hits differ between workers, and so would passes
            return None
        reuse = job.evaluate_on != "test" or (self.clock.total_steps or math.inf) > self.plan.steps_per_epoch
        try:
            return PrefixCache(
                job,
                self.method,
                self.types.hashes(base.group_hashes),
                cache_dir(),
                self.device,
                self.precision.name,
                self.precision.autocast,
                self.tokenizer.pad_token_id or 0,
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

    def train_step(self) -> None:
        """Run one optimizer step on the next global batch."""
        config, clock, step = self.config, self.clock, self.clock.step
        clock.first_step_at = clock.first_step_at or time.time()
        if self.method.advance(step, clock.progress) or not self._mode_is_set:
            self._set_mode()
        factor = self.factor(clock.place)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor * self.method.cadence.warmth(group["layer_group"], step)

        indices = self.plan.batch(step)
        lengths = self.train_split.lengths
        denominator = self.weights[indices].sum().item()  # of the whole batch, so that uneven shares have the right weights
        self._loss += self.gradients.of_batch(indices, denominator or 1, step)
        if config.max_grad_norm > 0:
            self.precision.unscale(self.optimizer)
            self.parallel.clip(self.method.trained, config.max_grad_norm)
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad()

        self._steps_since_report += 1
        clock.step += 1
        clock.tokens += int(lengths[indices].sum())
        whole = (len(indices), int(lengths[indices].max()))
        costs = self.method.costs
        clock.model_flops += costs.forward(*whole) + costs.backward(*whole, self.method.trainable)
        clock.agree(lambda seconds: self.peers.sum_of(seconds if self.peers.rank == 0 else 0.0, self.device))

    def _set_mode(self) -> None:
        self.parallel.before_thaw(self.model)
        self.method.apply()
        self.passes.expect(self._upcoming)
        self._mode_is_set = True

    def _upcoming(self) -> np.ndarray:
        """Examples that this worker trains on next, as many as the prefix cache looks ahead."""
        plan, clock, peers = self.plan, self.clock, self.peers
        steps = -(-AHEAD * peers.world // plan.batch_size)
        last = min(clock.step + steps, clock.total_steps or math.inf)
        batches = range(clock.step, max(clock.step + 1, int(last)))
        return np.concatenate([shard(plan.batch(step), peers.rank, peers.world) for step in batches])

    def evaluate(self) -> dict[str, float]:
        """All metrics of the task on the split that the job evaluates on."""
        self.model.eval()
        self._mode_is_set = False
        reads_cache = self.job.evaluate_on != "test"  # the test split is read once
        of_task = (self.eval_split, self.job.task, len(self.job.classes))
        split, function, labels = self.eval_split, self.job.function, self.eval_split.labels
        own = function is not None and labels is not None
        predictions = torch.zeros(len(split), len(self.job.classes), device=self.device) if own else None
        workers = (self.passes, self.parallel, self.peers)
        with self.precision.casts_kept():
            metrics, measures = evaluate(*of_task, *workers, self.eval_size, reads_cache, predictions)
            if self.answers is not None:
                metrics |= self.answers.metrics(*workers)
        scores = {} if self.answers is None else self.answers.scores
        self.examples = self.rows.examples(dict(zip(self.task.measures, measures.T, strict=True)), scores)
        if self.answers is None and function is not None and predictions is not None:
            metrics[self.job.metric] = judged(function, self.peers, predictions.cpu().numpy(), np.array(labels))
        if isinstance(split, JoinedSplit):
            for name, part in zip(PARTS, split.bounds, strict=True):
                metrics |= {f"{name}_{metric}": value for metric, value in self._of_part(part, measures, predictions).items()}
        return metrics

    def _of_part(self, part: slice, measures: np.ndarray, predictions: torch.Tensor | None) -> dict[str, float]:
        """The metrics of some examples of the last evaluation, without `eval_`. `measures`: of all examples."""
        split, job = self.eval_split, self.job
        labels = None if split.labels is None else np.array(split.labels)[part]
        count, n_bytes = float(split.predictions[part].sum()), int(split.bytes[part].sum())
        found = compute_metrics(job.task, self.task.totals(measures[part], count, n_bytes, labels, len(job.classes)))
        if self.answers is not None:
            found |= self.answers.of_part(part, self.peers)
        elif job.function is not None and predictions is not None:
            found[job.metric] = judged(job.function, self.peers, predictions[part].cpu().numpy(), labels)
        return {name.removeprefix("eval_"): value for name, value in found.items()}

    # ---- reports and checkpoints --------------------------------------------------------------------------------------

    def untrained(self) -> TrainReport:
        """A report of the metrics before the first step. Its time does not count in the fidelity."""
        began = time.monotonic()
        metrics = self.evaluate()
        self.clock.leave_out(time.monotonic() - began)
        return self.position(metrics, self.examples)

    def report(self) -> TrainReport:
        """Evaluate, and return a report of the position."""
        metrics = self.evaluate()
        self._compare(metrics[self.job.metric])
        self.method.cadence.observe(metrics[self.job.metric] if self.job.minimize else -metrics[self.job.metric])
        self.notes += self.passes.collect_notes()
        counters = torch.tensor([float(self._loss), self.passes.flops], dtype=torch.float64, device=self.device)
        loss, flops = self.peers.sum_(counters).tolist()
        self.clock.flops += flops
        metrics["train_loss"] = loss / max(1, self._steps_since_report)
        metrics["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        metrics["epoch"] = self.clock.step / self.plan.steps_per_epoch
        metrics["trainable_groups"] = sum(
            any(self.parameters[name].requires_grad for name in group.parameter_names) for group in self.groups
        )
        metrics["unfreezing_stage"] = self.method.cadence.stage
        self._loss.zero_()
        self.passes.flops, self._steps_since_report = 0.0, 0
        return self.position(metrics, self.examples)

    def judged(self) -> TrainReport:
        """Evaluate without training. The report has the value by which this checkpoint was kept, as `kept_value`."""
        kept = {} if self.best is None else {"kept_value": self.best["value"]}
        return self.position({**self.evaluate(), **kept}, self.examples)

    def position(self, metrics: dict[str, float], examples: Examples | None = None) -> TrainReport:
        """A report of the current position with these metrics."""
        clock = self.clock
        total = clock.total_steps or math.ceil(clock.step / max(clock.progress, 1e-9))
        report = TrainReport(clock.step, clock.fidelity, clock.tokens, clock.model_flops, metrics, total)
        notes, self.notes = tuple(self.notes), []
        return replace(
            report,
            flops=clock.flops,
            train_seconds=clock.train_seconds,
            first_step_at=clock.first_step_at,
            reported_at=time.time(),
            notes=notes,
            examples=examples,
            device=device_name(self.device),
        )

    def _compare(self, value: float) -> None:
        """With `keep: best`, keep the value of an evaluation if it is the best so far. The first of equal ones is kept."""
        sign = 1.0 if self.job.minimize else -1.0
        better = self.best is None or sign * value < sign * self.best["value"]
        if self.job.keep == "best" and better and math.isfinite(value):
            self.best = {"step": self.clock.step, "value": value}

    def save(self, report: TrainReport) -> None:
        """Write a checkpoint that includes `report`. Only the first rank writes."""
        if self.job.checkpoint_dir is None:
            return
        kept = self.method.kept()
        weights = self.parallel.gather(kept)
        moments = self.parallel.gather(checkpoint.moments_of(self.optimizer, kept))
        if self.peers.rank != 0:
            return
        self.notes += self.passes.collect_notes()
        state = {
            **self.clock.state(),
            **self.method.state(),
            "unreported_flops": self.passes.flops * self.peers.world,  # the shares of workers are about equal
            "metrics": report.metrics,
            "best": self.best,
            "examples": None if report.examples is None else report.examples.found.as_json(),
            # The draws of dropout depend on the sizes, which another node may have found to be others.
            "micro_batches": list(self.gradients.micro_batch.sizes.items()),
            "gradient_checkpointing": self.gradients.micro_batch.checkpointing is True,
        }
        if self.precision.scaler is not None:
            state["scaler"] = self.precision.scaler.state_dict()
        best = None if self.best is None else self.best["step"]
        checkpoint.save(place(self.job.checkpoint_dir), self.clock.step, weights, moments, state, kept=best)

    def restore(self) -> TrainReport | None:
        """Continue from the newest usable checkpoint. Returns its report, which may not have been delivered before."""
        found, notes = newest_checkpoint(self.job, self.parameters, self.peers, self.device)
        self.notes += notes
        if found is None:
            return None
        self.best = found.state.get("best")  # absent in older checkpoints
        if self.job.judges:
            found = kept_checkpoint(self.job, found, self.parameters)
        checkpoint.apply(found, self.parameters, self.optimizer, self.parallel.part)
        state = found.state
        self.clock.load(state)
        self.method.load(state)
        self.passes.flops = state.get("unreported_flops", 0.0) if self.peers.rank == 0 else 0.0
        if state.get("gradient_checkpointing", False):
            self.gradients.micro_batch.switched()
        self.gradients.micro_batch.sizes.update(state.get("micro_batches", []))
        if self.precision.scaler is not None and "scaler" in state:
            self.precision.scaler.load_state_dict(state["scaler"])
        found = state.get("examples")  # absent in older checkpoints
        return self.position(state["metrics"], self.rows.with_data(Columns.from_json(found)) if found else None)

    def export(self, folder: Path) -> np.ndarray | None:
        """Write the model as a folder. Returns logits to verify it by (`training/export.py`); None if not the first rank."""
        first = self.peers.rank == 0
        if not first and not self.parallel.equal_passes:
            return None
        return export(self.method, self.tokenizer, self.job, folder, self.parallel.gather, first)


def _total_steps(config: TrialConfig, plan: BatchPlan, lengths: np.ndarray) -> int | None:
    if config.time_attr == "steps":
        return int(config.max_t)
    if config.time_attr == "tokens":
        return steps_for_tokens(plan, lengths, int(config.max_t))
    return None


def train(trainer: Trainer) -> Iterator[TrainReport]:
    """Train to the end; yield a report at every evaluation.

    Evaluations run every `eval_interval` steps, at the first step that reaches a rung, and at the end. A checkpoint is written
    when the caller asks for the next report, because most trials of a sweep are stopped at a report and need none. If a trial
    may be paused, at a rung or at any report, the checkpoint is written before the report is yielded. A restored trial first
    yields the report of its checkpoint again. A job with `untrained` first yields a report of step 0. One that `judges` yields a
    single report.
    """
    config = trainer.config
    heartbeat, saved = trainer.job.heartbeat_steps, time.monotonic()
    restored = trainer.restore()
    if trainer.job.judges:
        yield trainer.judged()
        return
    if restored is not None:
        yield restored
    elif trainer.job.untrained:
        yield trainer.untrained()
    while not trainer.clock.ended:
        before, began = trainer.clock.fidelity, time.monotonic()
        trainer.train_step()
        step, ended = trainer.clock.step, trainer.clock.ended
        on_interval = config.eval_interval is not None and step % config.eval_interval == 0
        on_rung = any(before < level <= trainer.clock.fidelity for level in config.rungs)
        reports = on_interval or on_rung or ended
        if reports and trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)  # GPU steps are asynchronous, so the clock waits for them
        trainer.clock.train_seconds += time.monotonic() - began
        if not reports:
            if heartbeat and step % heartbeat == 0:
                report = trainer.position(metrics={})
                if trainer.peers.any(time.monotonic() - saved >= SAVE_SECONDS, trainer.device):
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
