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

    measures = ("loss", "right")

    def measured(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        import torch

        right = logits.argmax(-1) == targets
        return torch.cat([super().measured(logits, targets), right.double()[:, None]], dim=1)

    def totals(self, found: np.ndarray, count: float, n_bytes: float, labels: np.ndarray | None, classes: int) -> Totals:  # noqa: ARG002
        loss, right = found.sum(axis=0)
        return Totals(float(loss), count, n_bytes, correct=float(right))

    def guessed(self, nll: float, train: np.ndarray, validation: np.ndarray, n_bytes: float) -> Totals:
        right = float(validation[int(train.argmax())])
        return Totals(nll, float(validation.sum()), n_bytes, correct=right)
