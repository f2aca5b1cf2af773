"""Standard errors and ties on every surface, read from a run folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from events import end, report, trial
from records import make_manifest
from scalesweep.commands.leaderboard import leaderboard
from scalesweep.examples import Columns, Examples
from scalesweep.record import Record, RecordWriter, read_record
from scalesweep.record.uncertainty import differences, errors_of
from scalesweep.report.board import render_leaderboard
from scalesweep.report.findings import findings
from scalesweep.report.leaderboard import leaderboard_csv, leaderboard_json
from scalesweep.report.sentences import paragraph
from scalesweep.report.wandb.content import board_of, sweep_run, trial_run

ROWS = 200
HARD = np.exp(np.random.default_rng(0).standard_normal(ROWS))


def worse(seed: int, by: float, spread: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, spread, ROWS)
    return HARD + noise - noise.mean() + by


# size, GPU seconds, and the losses of the rows; the first is the best by a hair, and differs from the last on every row
TRIALS = {
    "t0": ("L6", 40.0, HARD),
    "t1": ("L4", 30.0, worse(1, 0.01, 0.2)),
    "t2": ("L1", 35.0, worse(2, 0.02, 0.3)),
    "t3": ("L1", 20.0, HARD + 0.1),
}


def swept(run_dir: Path, kept: bool = True, early: str = "") -> Record:
    """The record of `TRIALS`. `early` names a trial that was stopped at the first rung."""
    writer = RecordWriter(run_dir, make_manifest())
    data = Columns.of({"label": np.zeros(ROWS, dtype=np.uint8)})
    for number, (name, (size, seconds, losses)) in enumerate(TRIALS.items()):
        found = Columns.of({"loss": losses.astype(np.float16), "class": (losses > 1).astype(np.uint8)})
        config = {"model_size": size, "num_gpus": 1, "learning_rate": 1e-3}
        writer.append(trial(name, number) | {"config": config})
        writer.append({"event": "start", "time": 1.0, "trial": name, "attempt": 1})
        at = (40, 1, "stop") if name == early else (360, 3, "complete")
        told = report(name, at[0], float(losses.mean()), at[1], seconds, at[2])
        told["metrics"] |= {"eval_accuracy": float((losses <= 1).mean())}
        writer.append(told | ({"examples": Examples(ROWS, ROWS, found, data)} if kept else {}))
        state = ("PRUNED", "rung") if name == early else ("COMPLETE", "max_t")
        writer.append(end(name, *state) | {"wall_seconds": seconds, "gpu_seconds": seconds})
    writer.append({"event": "sweep_ended", "time": 9.0, "reason": "budget: run_cap"})
    writer.close()
    return read_record(run_dir)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return swept(tmp_path_factory.mktemp("errors") / "run")


def text_at(record: Record, width: int, limit: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render_leaderboard(record, width=width, limit=limit))
    return console.file.getvalue()


def test_json_and_csv_have_the_error_the_paired_interval_and_the_ties(record: Record) -> None:
    board = leaderboard_json(record)["trials"]
    assert [(row["trial"], row["tied_with_first"]) for row in board] == [
        ("t0", None), ("t1", True), ("t2", True), ("t3", False),
    ]  # fmt: skip
    assert board[0]["difference_to_first"] is None
    for row in board:
        losses = TRIALS[row["trial"]][2]
        assert row["standard_error"] == pytest.approx(losses.std(ddof=1) / np.sqrt(ROWS), rel=1e-3)
        if row["difference_to_first"]:
            half = 1.972 * (losses - HARD).std(ddof=1) / np.sqrt(ROWS)  # Student's t, 199 degrees of freedom
            gap = losses.mean() - HARD.mean()
            assert row["difference_to_first"] == pytest.approx([gap - half, gap + half], abs=1e-3)
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(record))))
    assert [float(rows[1][end]) for end in ("difference_low", "difference_high")] == board[1]["difference_to_first"]
    assert (rows[0]["difference_low"], rows[0]["tied_with_first"], rows[1]["tied_with_first"]) == ("", "", "True")
    assert record.to_frame()["standard_error"].tolist() == [row["standard_error"] for row in board]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_line_is_under_the_trials_that_cannot_be_told_apart(record: Record, width: int) -> None:
    lines = text_at(record, width).splitlines()
    rows = [index for index, line in enumerate(lines) if line.split()[:1] and line.split()[0] in "1234"]
    assert ["≈" in lines[index] for index in rows] == [False, True, True, False]
    assert rows[3] - rows[2] == 2
    assert set(lines[rows[2] + 1]) <= {"─", " "}
    error = f"{HARD.std(ddof=1) / np.sqrt(ROWS):.3f}"
    assert error in lines[rows[0]]
    assert "± standard error" in " ".join(lines)
    assert max(map(len, lines)) <= width
    assert "≈ can't be told apart from the first" in " ".join(" ".join(lines).split())
    cut = text_at(record, width, limit=2)
    assert cut.count("────") < text_at(record, width, limit=3).count("────"), "no line where the limit cuts the ties"
    assert "more such trials follow" in " ".join(cut.split())


def test_the_findings_name_the_cheapest_and_the_smallest_of_the_ties(record: Record) -> None:
    assert dict(findings(record))["ties"] == (
        "2 trials can't be told apart from t0 on the same validation rows: t1, t2; the cheapest is t1 (30 GPU s, t0 40); "
        "the smallest is t2 (L1, 12M; t0 L6, 22.7M)"
    )
    best = paragraph(record)[0]
    error = HARD.std(ddof=1) / np.sqrt(ROWS)
    assert f": eval_loss {HARD.mean():.4f} ± {best.facts['standard_error']:.4f} at 360 steps. It took 40 of" in best.text
    assert best.facts["standard_error"] == pytest.approx(error, rel=1e-3)
    assert best.text.endswith("2 of 3 other trials can't be told apart from it: t1, t2.")


def test_a_tie_that_stopped_early_is_not_named_as_the_cheapest(tmp_path: Path) -> None:
    text = dict(findings(swept(tmp_path / "run", early="t1")))["ties"]
    assert "2 trials can't be told apart from t0 on the same validation rows: t2, t1; the cheapest is t2 (35 GPU s" in text


def test_each_metric_has_an_error_and_two_trials_a_paired_difference(record: Record) -> None:
    first, last = record.trials["t0"], record.trials["t3"]
    right = HARD <= 1
    assert errors_of(record, first)["eval_accuracy"] == pytest.approx(right.std(ddof=1) / np.sqrt(ROWS))
    found = differences(record, first, last)
    assert found["eval_loss"] == pytest.approx((0.1, 0.1), abs=1e-3)
    entry = leaderboard_json(record)["trials"][0]
    assert entry["standard_errors"] == {
        "eval_loss": entry["standard_error"],
        "eval_accuracy": errors_of(record, first)["eval_accuracy"],
    }
    row = next(csv.DictReader(io.StringIO(leaderboard_csv(record))))
    assert float(row["standard_error/eval_accuracy"]) == entry["standard_errors"]["eval_accuracy"]
    assert found["eval_accuracy"][0] < (HARD + 0.1 <= 1).mean() - right.mean() < found["eval_accuracy"][1]
    board = {entry["trial"]: entry for entry in board_of(record)}
    run = trial_run(record, first, board["t0"], True)
    assert run.summary["standard_error/eval_accuracy"] == pytest.approx(errors_of(record, first)["eval_accuracy"])
    table = sweep_run(record, list(board.values()), [], True).boards["leaderboard"]
    assert {"standard_error", "difference_low", "difference_high", "tied_with_first"} <= set(table.columns)


def test_a_record_without_the_numbers_has_no_error_bar_and_is_shown_as_before(record: Record, tmp_path: Path) -> None:
    bare = swept(tmp_path / "bare", kept=False)
    assert record.folder is not None
    swept(tmp_path / "lost")
    (tmp_path / "lost" / "examples.bin").unlink()
    assert not (tmp_path / "bare" / "examples.bin").exists()
    notes = [CliRunner().invoke(leaderboard, [str(tmp_path / name)]).stderr for name in ("bare", "lost")]
    assert notes == [
        "",
        f"note: {tmp_path}/lost/examples.bin is missing: trials whose validation rows it held have no ± and no ≈\n",
    ]
    for found in (bare, read_record(tmp_path / "lost")):
        board = leaderboard_json(found)["trials"]
        assert {row[key] for row in board for key in ("standard_error", "difference_to_first", "tied_with_first")} == {None}
        text = text_at(found, 140)
        assert "±" not in text
        assert "≈" not in text
        assert "ties" not in dict(findings(found))
        assert errors_of(found, found.trials["t0"]) == {}
        assert differences(found, *list(found.trials.values())[:2]) == {}
