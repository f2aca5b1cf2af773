"""The gradients of this worker's share of a global batch, in pieces that fit in memory."""

from __future__ import annotations

import numpy as np
import torch

from scalesweep.data.batches import micro_batches
from scalesweep.data.tokens import JoinedSplit, TokenizedSplit
from scalesweep.spec import TrialConfig
from scalesweep.tasks import BaseTask
from scalesweep.training.methods.method import Method
from scalesweep.training.micro_batch import MicroBatch
from scalesweep.training.passes import Passes
from scalesweep.training.peers import Peers


class Gradients:
    """Computes gradients with the whole batch's denominator, so that uneven shares have the right weights."""

    def __init__(
        self,
        split: TokenizedSplit | JoinedSplit,
        task: BaseTask,
        config: TrialConfig,
        method: Method,
        passes: Passes,
        micro_batch: MicroBatch,
        optimizer: torch.optim.Optimizer,
        peers: Peers,
    ) -> None:
        self.split, self.task, self.config, self.method, self.passes = split, task, config, method, passes
        self.micro_batch, self.optimizer, self.peers = micro_batch, optimizer, peers

    def of_share(self, share: np.ndarray, denominator: int, step: int) -> torch.Tensor:
        """Compute the gradients of this worker's share of the batch and return its part of the loss, float64.

        If memory is too small, the pieces become smaller.
        """
        size = self.piece_size()
        while True:
            # Dropout depends on (seed, step, rank) alone, so a resumed trial continues as if it had not been interrupted.
            seed = np.random.SeedSequence([self.config.seed, step, self.peers.rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))
            total = torch.zeros((), dtype=torch.float64, device=self.passes.precision.device)
            try:
                for indices in micro_batches(share, size):
                    total += self._piece(indices, denominator)
                return total
            except RuntimeError as error:
                self.optimizer.zero_grad()
                self.micro_batch.halve(self.method.lowest, error)
                size = self.micro_batch.sizes[self.method.lowest]

    def piece_size(self) -> int:
        """The number of examples that a training pass takes at once."""
        return self.micro_batch.size(self.method.lowest, self._try_out)

    def _piece(self, indices: np.ndarray, denominator: int) -> torch.Tensor:
        passes = self.passes
        output = passes.forward(self.split, indices, self.method.lowest)
        loss = self.task.loss_sum(output.logits, output.targets, self.config.label_smoothing_factor) / denominator
        passes.precision.backward(loss)
        shape = (len(indices), int(self.split.lengths[indices].max()))
        passes.flops += self.method.costs.forward(*shape, output.first)
        passes.flops += self.method.costs.backward(*shape, self.method.trainable, self.config.gradient_checkpointing)
        return loss.detach().double()

    def _try_out(self, rows: int) -> None:
        """Run a pass over the `rows` longest examples to test the memory, and discard the gradients."""
        longest = np.argsort(-self.split.lengths, kind="stable")[:rows]
        try:
            self._piece(longest, rows)
        finally:
            self.optimizer.zero_grad()
