"""The metrics of a split, over all workers."""

from __future__ import annotations

import torch

from scalesweep.data.batches import eval_order, shard
from scalesweep.data.tokens import TokenizedSplit
from scalesweep.tasks import task_of
from scalesweep.tasks.metrics import compute_metrics
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
    device, rule = passes.precision.device, task_of(task)
    sums = torch.zeros(rule.n_sums(classes), dtype=torch.float64, device=device)  # read once, at the end
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
        sums += rule.measured(output.logits, output.targets, classes)
    found = peers.sum_(sums).cpu().numpy()
    return compute_metrics(task, rule.totals(found, float(split.predictions.sum()), split.n_bytes, classes))
