"""What an evaluation keeps of each row: a document is one row however many examples it became, and the metrics follow again."""

from __future__ import annotations

import pytest

from jobs import job
from scalesweep.record.evaluations import Evaluation
from scalesweep.record.influence import influence
from scalesweep.spec.tasks import TASKS
from scalesweep.training import per_row
from scalesweep.training.job import TrainReport
from scalesweep.training.loop import Trainer
from tiny_sweeps import tiny_sweep

pytestmark = pytest.mark.usefixtures("own_sizes")


def evaluation_of(report: TrainReport) -> Evaluation:
    assert report.examples is not None
    return Evaluation.of_examples(report.examples)


@pytest.mark.parametrize(("kind", "task"), [("llama", "causal-lm"), ("bert", "masked-lm")])
def test_documents_of_several_examples_are_rows(kind: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tiny_sweep(kind, task)
    sweep["data"]["max_length"] = 6
    made = job({"model_size": kind, "unfreezing": "full", "rungs": []}, sweep=sweep)
    trainer = Trainer(made)
    split = trainer.eval_split
    report = trainer.untrained()
    found = evaluation_of(report)
    assert found.rows == found.of == sweep["data"]["splits"]["validation"] < len(split)
    assert found.columns["bytes"].sum() == split.n_bytes
    assert found.columns["predictions"].sum() == split.predictions.sum()
    for name in TASKS[task].metrics:
        assert influence(found, name)[0] == pytest.approx(report.metrics[name], rel=1e-3), name
    monkeypatch.setattr(per_row, "MOST_ROWS", 5)
    kept, other = (evaluation_of(Trainer(made).untrained()) for _ in range(2))
    assert (kept.rows, kept.of) == (5, found.of)
    assert set(kept.columns["loss"]) <= set(found.columns["loss"])
    assert list(kept.columns["loss"]) == list(other.columns["loss"]), "all trials keep the same rows"
