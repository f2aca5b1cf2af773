"""A function on several real processes that form a gloo group, as the workers of a trial do, and a strategy whose passes meet."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from jobs import job
from processes import READY
from scalesweep.models.groups import LayerGroup
from scalesweep.record.evaluations import Evaluation
from scalesweep.record.influence import influence
from scalesweep.spec.tasks import TASKS
from scalesweep.training import micro_batch
from scalesweep.training.job import TrainReport, TrialJob
from scalesweep.training.loop import Trainer, train
from scalesweep.training.parallel import STRATEGIES, replicated
from scalesweep.training.peers import Meeting, Peers
from tiny_models import tiny_checkpoint
from tiny_sweeps import tiny_sweep

SECONDS = 60.0  # a worker that waits longer for the others has been left by them


def on_workers(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of `function(peers, *arguments)`, by rank. The function is a module's, so that processes find it."""
    port, results = READY.Queue(), READY.Queue()
    workers = [READY.Process(target=_work, args=(rank, world, port, results, function, arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    try:
        found = dict(results.get(timeout=2 * SECONDS) for _ in workers)
    finally:
        for worker in workers:
            worker.join(SECONDS)
            worker.kill()
    failed = [result for result in found.values() if isinstance(result, _Failure)]
    assert not failed, "\n".join(failure.text for failure in failed)
    return [found[rank] for rank in range(world)]


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _work(rank: int, world: int, port: Any, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    STRATEGIES["meeting"] = __name__
    torch.set_num_threads(1)
    meeting = Meeting(SECONDS)
    try:
        if rank == 0:
            number = meeting.open("127.0.0.1")
            for _ in range(world - 1):
                port.put(number)
        else:
            number = port.get(timeout=SECONDS)
        peers = meeting.join("test", rank, world, ("127.0.0.1", number))
        results.put((rank, function(peers, *arguments)))
        meeting.leave()
    except Exception:  # noqa: BLE001 - raised again, in the test
        results.put((rank, _Failure(f"rank {rank} of {world}: {traceback.format_exc()}")))


# ---- a trial on such workers ---------------------------------------------------------------------------------------------------


class Strategy(replicated.Strategy):
    """Replicated workers that meet at the begin of every pass, as those who hold parts of a model do: `meeting` in STRATEGIES."""

    equal_passes = True

    def place(self, make: Callable[[torch.device], Any], groups: Sequence[LayerGroup]) -> Any:
        model = super().place(make, groups)

        def meet(*_: Any) -> None:
            there = self.peers.sum_(torch.tensor([1.0, torch.is_grad_enabled()]))
            assert there[0] == self.peers.world, "a worker passed a sum of another kind"
            assert there[1] in (0, self.peers.world), "a worker trains while another one evaluates"

        model.register_forward_pre_hook(meet)
        return model


def trial(peers: Peers, job: TrialJob, short: int | None = None, holds: int = 0, eval_examples: int = 64) -> dict[str, Any]:
    """Train a job. The worker `short` has memory for passes over `holds` examples alone."""
    micro_batch.CPU_EVAL_EXAMPLES = eval_examples
    trainer = Trainer(job, peers)
    passes, packed = [], []

    def refuse(_module: torch.nn.Module, _args: Any, kwargs: Any) -> None:
        passes.append(len(kwargs["input_ids"]))
        packed.append(torch.is_grad_enabled() and "position_ids" in kwargs)
        if peers.rank == short and passes[-1] > holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    trainer.model.register_forward_pre_hook(refuse, with_kwargs=True)
    reports = list(train(trainer))
    accuracy = next(name for name in TASKS[job.task].metrics if name.endswith("accuracy"))
    for report in reports:  # what is kept of each row gives the metrics again
        assert report.examples is not None
        evaluation = Evaluation.of_examples(report.examples)
        for name in TASKS[job.task].metrics:
            again = influence(evaluation, name)
            assert again is not None
            assert again[0] == pytest.approx(report.metrics[name], rel=1e-3), name
    return {
        "rows": [array.tolist() for report in reports for array in report.examples.found.arrays(report.examples.rows).values()],
        "losses": [report.metrics[name] for report in reports for name in ("train_loss", "eval_loss", accuracy)],
        "sizes": trainer.gradients.micro_batch.sizes,
        "eval_tokens": trainer.eval_size.tokens,
        "passes": passes,
        "packed": any(packed),
    }


def trained(peers: Peers, job: TrialJob) -> list[TrainReport]:
    """The reports of a job that is the first of its processes."""
    return list(train(Trainer(job, peers)))


def uneven(kind: str, world: int = 1, task: str = "sequence-classification", **config: Any) -> TrialJob:
    """60 examples in batches of 16: the last of an epoch has 12, which shards of 8 examples divide unevenly over 3 and 4 workers."""
    common = {
        "model_size": "L2", "learning_rate": 3e-3, "eval_interval": 6, "max_t": 12, "rungs": [], "unfreezing": "gradual",
        "unfreeze_interval": 3, "micro_batch_size": 5, "num_gpus": world, "attention_dropout": 0.0,
    }  # fmt: skip
    model = tiny_checkpoint(kind, task, initializer_range=0.2)  # so that a few steps move the losses
    return job({**common, **config}, sweep=tiny_sweep(kind, task, model, layers=(1, 2)))


def assert_same_losses(found: Sequence[TrainReport], expected: Sequence[TrainReport]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.step, mine.tokens, mine.fidelity) == (theirs.step, theirs.tokens, theirs.fidelity)
        assert mine.model_flops == pytest.approx(theirs.model_flops)
        assert mine.metrics.keys() == theirs.metrics.keys()
        for name, value in theirs.metrics.items():
            assert mine.metrics[name] == pytest.approx(value, rel=1e-5), (mine.step, name)
    assert found[0].metrics["eval_loss"] != pytest.approx(found[1].metrics["eval_loss"], abs=1e-2), "nothing was learnt"


def searched(
    peers: Peers, job: TrialJob, fits: Sequence[int], stored: Sequence[int | None], folder: Any
) -> tuple[int, list[int]]:
    """The micro-batch size that workers agree on, each with a node and memory of its own, and the sizes that this one tried."""
    node = folder / str(peers.rank)
    node.mkdir()
    made = micro_batch.MicroBatch(job, node, torch.device("cpu"), 100, peers)
    made.unsearched = None  # as on a GPU
    if (size := stored[peers.rank]) is not None:
        made.node.write(made._key(3), size)
    tried = []

    def try_out(rows: int) -> None:
        tried.append(rows)
        if rows > fits[peers.rank]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = made.size(3, try_out)
    assert made.node.read(made._key(3)) in (found, size)
    return found, tried
