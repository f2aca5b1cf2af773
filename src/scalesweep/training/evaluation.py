"""The metrics of a split, over all workers."""

from __future__ import annotations

import numpy as np
import torch

from scalesweep.data.batches import eval_order, shard
from scalesweep.data.tokens import TokenizedSplit
from scalesweep.spec.metrics import LANGUAGE_MODELLING
from scalesweep.training.metrics import Totals, compute_metrics, loss_sum
from scalesweep.training.micro_batch import is_out_of_memory
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers


@torch.no_grad()
def evaluate(
    split: TokenizedSplit, task: str, classes: int, passes: Passes, peers: Peers, size: int, reads_cache: bool
) -> dict[str, float]:
    """All metrics of the task on `split`, from sums over the shares of all workers.

    Args:
        classes: number of classes; 0 without classes.
        size: examples that a worker takes at once. It halves where memory is too small.
    """
    sums = np.zeros(3 + classes * classes)
    order = shard(eval_order(split.lengths), peers.rank, peers.world)
    while len(order):
        indices = order[:size]
        try:
            output = passes.forward(split, indices, len(passes.method.groups), reads_cache)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(indices) == 1:
                raise
            size = -(-len(indices) // 2)
            continue
        order = order[size:]
        passes.flops += passes.method.costs.forward(len(indices), int(split.lengths[indices].max()), output.first)
        sums[0] += loss_sum(output.logits, output.labels).item()
        if task == LANGUAGE_MODELLING:
            sums[1] += split.predicted_tokens[indices].sum()
            sums[2] += split.bytes[indices].sum()
        else:
            sums[1] += len(indices)
            cells = output.labels * classes + output.logits.argmax(-1)
            sums[3:] += torch.bincount(cells, minlength=classes * classes).cpu().numpy()
    sums = peers.sum_(torch.from_numpy(sums).to(passes.precision.device)).cpu().numpy()
    confusion = sums[3:].reshape(classes, classes) if classes else None
    return compute_metrics(task, Totals(sums[0], sums[1], sums[2], confusion))
