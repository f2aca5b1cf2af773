"""The metrics of a split, over all workers."""

from __future__ import annotations

import numpy as np
import torch

from scalesweep.data.batches import eval_order, shard
from scalesweep.data.tokens import TokenizedSplit
from scalesweep.tasks import task_of
from scalesweep.tasks.metrics import compute_metrics
from scalesweep.training.micro_batch import EvaluationSize, ran_out
from scalesweep.training.packing import padded
from scalesweep.training.parallel import Parallel
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers


@torch.no_grad()
def evaluate(
    split: TokenizedSplit,
    task: str,
    classes: int,
    passes: Passes,
    parallel: Parallel,
    peers: Peers,
    sizes: EvaluationSize,
    reads_cache: bool,
    predictions: torch.Tensor | None = None,
) -> dict[str, float]:
    """All metrics of the task on `split`, from sums over the shares of all workers.

    Args:
        classes: number of classes; 0 without classes.
        sizes: of the pieces that a worker takes at once. They become smaller where memory is too small.
        predictions: zeros, float32 [examples, classes] on the device. They become the logits of all examples.
    """
    device, rule = passes.precision.device, task_of(task)
    sums = torch.zeros(rule.n_sums(classes) + 1, dtype=torch.float64, device=device)  # read once, at the end
    piece = torch.zeros_like(sums[:-1])
    logits_of: list[torch.Tensor] = []  # the piece's, where they are kept

    def measure(indices: np.ndarray) -> None:
        alike = padded(indices, split.lengths)  # of similar length, so packing would save nothing
        found = passes.forward(split, alike, len(passes.method.groups), reads_cache)
        piece.zero_()
        logits_of.clear()
        for logits, targets in passes.chunks(found):
            piece.add_(rule.measured(logits, targets, classes))
            if predictions is not None:
                logits_of.append(logits.float())
        passes.flops += passes.method.costs.forward(*alike.shape, passes.first) + passes.head_flops(alike.shape)

    order, done = eval_order(split.lengths), 0
    share, most = shard(order, peers.rank, peers.world), len(shard(order, 0, peers.world))
    passes.expect(lambda: share[done:])
    while done < most:
        width = int(split.lengths[order[done * peers.world]])  # of the longest example of all workers: their pieces are equal
        size = min(sizes.examples(width), most - done)
        indices, error = share[done : done + size], None
        if len(indices) or parallel.equal_passes:
            error = ran_out(measure, indices if len(indices) else order[-1:])
        failed = error is not None
        if parallel.equal_passes:
            failed = peers.any(failed, device)
        if failed:
            sizes.halve(size, width, error)
            sums[-1] = 1
            continue
        if len(indices):
            sums[:-1] += piece
            if predictions is not None:
                predictions[torch.from_numpy(indices).to(device)] = torch.cat(logits_of)
        done += size
    *found, halved = peers.sum_(sums).cpu().numpy()
    if halved:
        sizes.agree()
    if predictions is not None:
        peers.sum_(predictions)
    return compute_metrics(task, rule.totals(np.array(found), float(split.predictions.sum()), split.n_bytes, classes))
