"""The gradients of a global batch: each worker's share in pieces that fit in memory, then the sum over the workers."""

from __future__ import annotations

import math

import numpy as np
import torch

from scalesweep.data.batches import shard
from scalesweep.data.subsets import Split
from scalesweep.spec import TrialConfig
from scalesweep.tasks import BaseTask
from scalesweep.training.methods.method import Method
from scalesweep.training.micro_batch import MicroBatch, ran_out
from scalesweep.training.packing import Piece, padded, pieces
from scalesweep.training.parallel import Parallel
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers


class Gradients:
    """Computes gradients with the whole batch's denominator, so that uneven shares have the right weights."""

    def __init__(
        self,
        split: Split,
        task: BaseTask,
        config: TrialConfig,
        method: Method,
        passes: Passes,
        micro_batch: MicroBatch,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        peers: Peers,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.split, self.task, self.config, self.method, self.passes = split, task, config, method, passes
        self.micro_batch, self.optimizer, self.parallel, self.peers = micro_batch, optimizer, parallel, peers
        self.class_weights = class_weights

    def of_batch(self, batch: np.ndarray, denominator: float, step: int) -> torch.Tensor:
        """Compute the gradients of a batch, summed over the workers. Returns this worker's part of the loss, float64.

        If one worker has too little memory, the pieces of all become smaller, and the batch is computed again.
        """
        while True:
            self.micro_batch.size(self.method.lowest, self._try_out)
            total, error = self._share(batch, denominator, step)
            if not self.parallel.reduce(self.method.trained, error is not None):
                return total
            self.optimizer.zero_grad()
            self.micro_batch.halve(self.method.lowest, error)

    def _share(self, batch: np.ndarray, denominator: float, step: int) -> tuple[torch.Tensor, BaseException | None]:
        """The loss and gradients of this worker's share. An error, which ends them, if a worker ran out of memory."""
        lengths, rank, world = self.split.lengths, self.peers.rank, self.peers.world
        rows = self.micro_batch.rows(self.method.lowest, int(lengths[batch].max()), int(lengths.max()))

        def pieces_of(worker: int) -> list[Piece]:
            return pieces(shard(batch, worker, world), lengths, rows, lambda: self.passes.packs(self.method.lowest))

        found = [(piece, denominator) for piece in pieces_of(rank)]
        if self.parallel.equal_passes:  # as many as the worker with the most; the others' spare ones weigh nothing
            spare = padded(batch[[int(np.argmin(lengths[batch]))]], lengths)
            found += [(spare, math.inf)] * (max(len(pieces_of(worker)) for worker in range(world)) - len(found))
        # Dropout depends on (seed, step, rank) alone, so a resumed trial continues as if it had not been interrupted.
        seed = np.random.SeedSequence([self.config.seed, step, self.peers.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        total = torch.zeros((), dtype=torch.float64, device=self.passes.precision.device)
        with self.passes.precision.casts_kept():
            for piece, divisor in found:
                error = ran_out(lambda piece, divisor: total.add_(self._piece(piece, divisor)), piece, divisor)
                if self.parallel.equal_passes and self.peers.any(error is not None, total.device):
                    error = error or torch.OutOfMemoryError("another worker ran out of memory")
                if error is not None:
                    self.optimizer.zero_grad()  # makes room for the sum in which the others learn of it
                    return total, error
        return total, None

    def _piece(self, piece: Piece, denominator: float) -> torch.Tensor:
        passes = self.passes
        found = passes.forward(self.split, piece, self.method.lowest)
        # The gradient of the hidden states is collected chunk by chunk, so the logits of one chunk exist at a time.
        states = None if found.states is None else found.states.detach().requires_grad_(found.states.requires_grad)
        total = torch.zeros((), dtype=torch.float64, device=passes.precision.device)
        for logits, targets in passes.chunks(found, states):
            loss = self.task.loss_sum(logits, targets, self.config.label_smoothing_factor, self.class_weights) / denominator
            passes.precision.backward(loss)
            total += loss.detach()
        if states is not None and found.states is not None and states.grad is not None:
            found.states.backward(states.grad)
        shape = piece.shape
        passes.flops += self.method.costs.forward(*shape, passes.first)
        passes.flops += self.method.costs.backward(*shape, self.method.trainable, self.micro_batch.checkpointing is True)
        passes.flops += passes.head_flops(shape, found)
        return total

    def _try_out(self, rows: int) -> None:
        """Run a pass over the `rows` longest examples to test the memory, and discard the gradients."""
        longest = np.argsort(-self.split.lengths, kind="stable")[:rows]
        try:
            self._piece(padded(longest, self.split.lengths), rows)
        finally:
            self.optimizer.zero_grad()
