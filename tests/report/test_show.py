"""`show`: one trial in full, and several side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from records import make_events, make_manifest, make_record
from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.report.leaderboard import leaderboard_json
from scalesweep.report.sentences import paragraph
from scalesweep.report.show import decisions, named, render_trials, show_json
from scalesweep.report.terminal import print_findings


def shown(record: Record, *names: str, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render_trials(record, named(record, names), width))
    return console.file.getvalue()


@pytest.fixture
def record() -> Record:
    found = make_record(spec=make_manifest()["spec"] | {"resources": {"dollars_per_gpu_hour": 2.5}})
    found.folder = Path("runs/my sweep")
    return found


def test_a_trial_has_the_numbers_of_the_leaderboard(record: Record) -> None:
    board = {one["trial"]: one for one in leaderboard_json(record)["trials"]}
    document = show_json(record, named(record, list(board)))
    for one in document["trials"]:
        assert {key: one[key] for key in board[one["trial"]]} == board[one["trial"]]
        assert one["config"] == record.trials[one["trial"]].config
        assert len(one["reports"]) == len(record.trials[one["trial"]].reports)
    json.dumps(document, allow_nan=False)


def test_a_trial_is_shown_in_full(record: Record) -> None:
    text = " ".join(shown(record).split())
    for part in (
        "quick · t0001 · rank 1 of 7 · complete (max_t)",
        "eval_loss 0.4400, eval_accuracy 0.7800, train_loss 0.3960 at rung 3/3 · 360 steps",
        "818 GPU s, 409 s with workers, $0.57, 461k tokens",
        "rung 1/3 (40 steps): eval_loss 0.6000; continued, as the first at this rung",
        "rung 3/3 (360 steps): eval_loss 0.4400; complete (max_t)",
        "● model_size L6 (22.7M)",
        "● unfreeze_interval 40",
        "weight_decay 0.01",
        "scalesweep promote 'runs/my sweep' --trial t0001",
        "scalesweep run 'runs/my sweep' --trial t0001",
    ):
        assert part in text, part
    assert "● unfreeze_interval –" in " ".join(shown(record, "t0000").split())  # it does not exist there


def test_a_stopped_trial_says_why_and_a_failed_one_shows_its_error_and_its_log(record: Record) -> None:
    assert "rung 2/3 (120 steps): eval_loss 0.5700; required at most 0.5500, so it stopped" in shown(record, "t0002")
    [_, last] = decisions(record, record.trials["t0002"])
    assert (last.rung, last.value, last.cutoff, last.action, last.reason) == (2, 0.57, 0.55, "stop", "rung")
    record.trials["t0007"].traceback = "errors/t0007-1.txt"
    text = shown(record, "t0007")
    assert "RayActorError: node lost\n  at 10.0.0.3" in text
    assert "The traceback is in runs/my sweep/errors/t0007-1.txt." in " ".join(text.split())
    assert "no report yet" in text
    assert "promote" not in text
    diverged = shown(record, "t0004")
    assert "80 steps: eval_loss –; stopped: diverged" in diverged


def test_several_trials_are_compared_by_what_differs(record: Record) -> None:
    lines = shown(record, "best", "t0006", "t0009", width=120).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert cells["learning_rate"] == ["1.2e-04", "5.0e-04", "6.0e-04"]
    assert cells["eval_loss"] == ["0.4400", "0.5000", "0.5700"]
    assert cells["model_size"] == ["L6", "(22.7M)", "L4", "(18.9M)", "L4", "(18.9M)"]
    assert not {"weight_decay", "unfreezing"} & cells.keys()  # the same in all
    found = show_json(record, named(record, ["best", "t0006"]))["differences"]
    assert found[0]["settings"]["learning_rate"] == [1.2e-4, 5e-4]
    assert "● t0001, ○ t0006, ◆ t0009" in "\n".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_the_curve_falls(record: Record, width: int) -> None:
    for names in (["t0001"], ["t0001", "t0006"]):
        lines = shown(record, *names, width=width).splitlines()
        assert max(map(len, lines)) <= width
    plot = [line for line in shown(record, "t0001", width=width).splitlines() if "┤" in line]
    heights = [row for column in range(len(plot[0])) for row, line in enumerate(plot) if line[column : column + 1] == "●"]
    assert heights == sorted(heights)  # a lower loss is drawn lower
    assert len(heights) == 5
    assert plot[0].startswith(" 0.6000")


def test_an_unknown_trial_is_refused_with_the_nearest_name(record: Record) -> None:
    for name in ("t001", "1", "T1", "T0001"):
        with pytest.raises(UserError, match=f"has no trial '{name}'\n\nhint: did you mean 't0001'"):
            named(record, [name])
    with pytest.raises(UserError, match="has a usable eval_loss"):
        named(make_record([]), [])


def test_hostile_texts_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[dict[str, Any]] = make_events()
    for event in events:
        if event["event"] == "trial":
            event["params"]["lr_scheduler_type"] = event["config"]["lr_scheduler_type"] = "[b]\x1b[2J" + "x" * 10_000
        if event["event"] == "end" and event["error"]:
            event["error"] = "boom\x1b]0;owned\x07\nsecond [line]"
    record = make_record(events, name="\x1b[31mred")
    for names in (["t0001"], ["t0007"], ["t0001", "t0007"]):
        text = shown(record, *names)
        assert not set(text) & {"\x1b", "\x07"}
        assert len(text) < 10_000
        assert "\\x1b[31mred" in text
    print_findings(record, paragraph(record))
    found = capsys.readouterr().out
    assert found.startswith("\\x1b[31mred · ")
    assert "\x1b" not in found
    assert "[b]\\x1b[2J" in shown(record, "t0001")
    assert "boom\\x1b]0;owned\\x07\nsecond [line]" in shown(record, "t0007")
