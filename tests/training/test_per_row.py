"""What an evaluation keeps of each row: a document is one row however many examples it became, and the metrics follow again."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import job
from scalesweep.data.tokens import TokenizedSplit
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


def test_a_sample_of_a_split_with_groups_is_of_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Trainer(job({"rungs": []}, sweep=tiny_sweep())).eval_split
    grouped = TokenizedSplit(split.folder, split.name)
    grouped.groups = np.arange(len(split)) // 3 + 7
    monkeypatch.setattr(per_row, "MOST_ROWS", 10)
    rows = per_row.Rows(grouped, 2)
    kept = [np.isin(rows.kept, group).sum() for group in np.split(np.arange(20), range(3, 20, 3))]
    assert sorted(kept) in ([0, 0, 0, 0, 3, 3, 3], [0, 0, 0, 2, 3, 3, 0], [0, 0, 0, 0, 2, 3, 3])
    assert rows.data.arrays(len(rows.kept))["group"].tolist() == (rows.kept // 3).tolist()


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
