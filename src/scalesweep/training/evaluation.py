"""The metrics of a split, over all workers."""

from __future__ import annotations

import numpy as np
import torch

from scalesweep.data.batches import eval_order, shard
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.tasks import task_of
from scalesweep.tasks.metrics import compute_metrics
from scalesweep.training.micro_batch import EvaluationSize, ran_out
from scalesweep.training.packing import padded
from scalesweep.training.parallel import Parallel
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers


@torch.no_grad()
def evaluate(
    split: TokenizedSplit | JoinedSplit,
    task: str,
    classes: int,
    passes: Passes,
    parallel: Parallel,
    peers: Peers,
    sizes: EvaluationSize,
    reads_cache: bool,
    predictions: torch.Tensor | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """All metrics of the task on `split`, and what they follow from: the task's measures of each example, summed over its
    predictions, float64 [examples, measures]. Workers take shares of the examples, and all of them return the whole.

    Args:
        classes: number of classes; 0 without classes.
        sizes: of the pieces that a worker takes at once. They become smaller where memory is too small.
        predictions: zeros, float32 [examples, classes] on the device. They become the logits of all examples.
    """
    device, rule = passes.precision.device, task_of(task)
    # Read once, at the end. The last row says whether a worker halved its pieces.
    found = torch.zeros(len(split) + 1, len(rule.measures), dtype=torch.float64, device=device)
    pieces: list[torch.Tensor] = []  # the piece's measures
    logits_of: list[torch.Tensor] = []  # the piece's, where they are kept

    def measure(indices: np.ndarray) -> None:
        alike = padded(indices, split.lengths)  # of similar length, so packing would save nothing
        made = passes.forward(split, alike, len(passes.method.groups), reads_cache)
        counts = split.predictions[indices][:, None]
        cells = np.arange(counts.max(initial=0)) < counts  # of a table with a row for each example: its sums have a fixed order
        places, start = passes.to_device(np.flatnonzero(cells)), 0
        piece = torch.zeros(cells.size, len(rule.measures), dtype=torch.float64, device=device)
        logits_of.clear()
        for logits, targets in passes.chunks(made):
            piece[places[start : start + len(targets)]] = rule.measured(logits, targets)
            start += len(targets)
            if predictions is not None:
                logits_of.append(logits.float())
        pieces[:] = [piece.view(*cells.shape, len(rule.measures)).sum(dim=1)]
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
            found[-1] = 1
            continue
        if len(indices):
            places = passes.to_device(indices)
            found[places] = pieces[0]
            if predictions is not None:
                predictions[places] = torch.cat(logits_of)
        done += size
    measures = peers.sum_(found).cpu().numpy()
    if measures[-1].any():
        sizes.agree()
    if predictions is not None:
        peers.sum_(predictions)
    whole = measures[:-1]
    totals = rule.totals(whole, float(split.predictions.sum()), split.n_bytes, split.labels, classes)
    return compute_metrics(task, totals), whole
