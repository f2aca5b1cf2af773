"""The part of a task that counts the tokens predicted right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scalesweep.tasks import BaseTask
from scalesweep.tasks.metrics import Totals

if TYPE_CHECKING:
    import torch


class CountsRight(BaseTask):
    """A task with the metric `eval_token_accuracy`."""

    def measured(self, logits: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
        import torch

        right = (logits.argmax(-1) == targets).sum()
        return torch.cat([super().measured(logits, targets, classes), right.double().reshape(1)])

    def n_sums(self, classes: int) -> int:  # noqa: ARG002
        return 2

    def totals(self, sums: np.ndarray, count: float, n_bytes: float, classes: int) -> Totals:  # noqa: ARG002
        return Totals(float(sums[0]), count, n_bytes, correct=float(sums[1]))

    def guessed(self, nll: float, train: np.ndarray, validation: np.ndarray, n_bytes: float) -> Totals:
        right = float(validation[int(train.argmax())])
        return Totals(nll, float(validation.sum()), n_bytes, correct=right)
