"""Weights of the classes in the training loss, against torch's and scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from jobs import job, manifest
from scalesweep.training.loop import Trainer
from tiny_sweeps import tiny_sweep

CONFIG = {"dropout": 0.0, "attention_dropout": 0.0, "unfreezing": "full", "rungs": [], "label_smoothing_factor": 0.1}


def weighted(weights: Any, **changes: Any) -> Any:
    sweep = tiny_sweep() | {"training": {"global_batch_size": 16, "class_weights": weights}}
    return job({"global_batch_size": 16, **CONFIG}, sweep=sweep, **changes)


def test_weights_are_those_of_scikit_learn_or_of_the_user() -> None:
    assert weighted("none").class_weights is None
    assert weighted({"poor": 3}).class_weights == (1.0, 3.0)
    counts = manifest(**tiny_sweep()).data["splits"]["train"]["classes"]
    labels = [name for name, count in counts.items() for _ in range(count)]
    balanced = compute_class_weight("balanced", classes=np.array(["good", "poor"]), y=np.array(labels))
    assert weighted("balanced").class_weights == pytest.approx(tuple(balanced))


@pytest.mark.parametrize("train_on", [("train",), ("train", "validation")])
def test_the_loss_is_the_weighted_mean_of_the_batch_and_metrics_are_not_weighted(train_on: tuple[str, ...]) -> None:
    trainer, plain = (Trainer(weighted(weights, train_on=train_on)) for weights in ({"good": 0.2, "poor": 0.5}, "none"))
    indices = trainer.plan.batch(0)
    batch = trainer.train_split.batch(indices, 0)
    targets = torch.from_numpy(batch.pop("targets"))
    with torch.no_grad():
        logits = trainer.model.eval()(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1).numpy()
    assert len(set(targets.tolist())) == 2
    assert trainer.evaluate() == pytest.approx(plain.evaluate())
    trainer.train_step()
    assert float(trainer._loss) == pytest.approx(np.average(losses, weights=np.array([0.2, 0.5])[targets.numpy()]), rel=1e-5)
    hard = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.2, 0.5]))(logits, targets)
    by_task = trainer.task.loss_sum(logits, targets, class_weights=torch.tensor([0.2, 0.5])) / trainer.weights[indices].sum()
    assert float(by_task) == pytest.approx(float(hard), rel=1e-5)
