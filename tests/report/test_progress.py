"""Progress: the plain lines, the live display, and that the running best is the ranking's best."""

from __future__ import annotations

import io
import itertools
import random
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from records import MAX_T, START, make_events, make_manifest
from scalesweep.record import Record, rank
from scalesweep.report.progress import STARTING, ProgressSink, budget_uses
from scalesweep.report.standing import Standing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(sink: ProgressSink, record: Record, events: list[dict[str, Any]]) -> None:
    for event in events:
        record.apply(event)
        sink.handle(event, record)


def plain_lines(events: list[dict[str, Any]], **changes: Any) -> list[str]:
    stream = io.StringIO()
    sink, record = ProgressSink(stream), Record(make_manifest(**changes))
    play(sink, record, events)
    sink.close(record)
    return stream.getvalue().splitlines()


def test_the_opening_names_sizes_rungs_budget_and_what_to_beat() -> None:
    guess = {"guess": "class shares in train", "metrics": {"eval_loss": 0.6811, "eval_accuracy": 0.578}}
    parameters = {
        "model_size": {"values": ["L1", "L4"]},
        "learning_rate": {"min": 1e-4, "max": 1e-2},
        "dropout": {"value": 0.1},
    }
    spec = make_manifest()["spec"] | {"search_space": {"parameters": parameters}}
    lines = plain_lines(make_events()[:1], baseline=guess, spec=spec)
    assert lines[:-1] == [
        "[0:00] sweep quick starts",
        "       sizes    L1 12M · L4 18.9M · L6 22.7M parameters",
        "       search   2 settings together: model_size, learning_rate",
        "       trials   judged at 40, 120 steps, where about 1 in 3 continues; the end is at 360",
        "       to beat  eval_loss 0.6811, eval_accuracy 0.5780 (guessing from class shares in train)",
        "       budget   24 trials, 5:00",
        "       first    workers are starting; the first trial follows within a minute or so",
    ]
    whole = plain_lines(make_events()[:1], rungs=[], rung_count=0)
    assert "       trials   360 steps for every trial" in whole
    assert not any("to beat" in line or "search" in line for line in whole)  # a record of earlier days has neither


def test_each_start_report_and_end_is_one_line() -> None:
    events = make_events()
    lines = [line for line in plain_lines(events) if line.startswith("[") and " ── " not in line]
    said = [event for event in events if event["event"] in ("session", "start", "report", "end")]
    ending = [event for event in said if event.get("action") in ("stop", "complete")]  # the line of the end shows it
    assert len(lines) == len(said) - len(ending) + 1  # and one for leaving off
    assert "[0:08] t0001 starts: L6 · 2 GPUs · gradual/40 · lr 1.2e-04 cosine" in lines


def test_a_report_line_says_value_verdict_and_whether_it_leads() -> None:
    lines = plain_lines(make_events())
    assert "[0:40] t0000 at 40/360 steps: eval_loss 0.6800, passes rung 1/3 ← new best" in lines
    assert "[0:50] t0004 at 40/360 steps: eval_loss 0.6500, passes rung 1/3" in lines
    assert "[1:14] t0006 at 80/360 steps: eval_loss 0.5400" in lines
    assert sum("← new best" in line for line in lines) == 8  # once for each change of the leader


def test_ends_say_why() -> None:
    lines = plain_lines(make_events())
    assert "[0:48] t0003 stopped at rung 1/3: eval_loss 0.7100 at 40/360 steps (needed 0.5500) · 75 GPU s" in lines
    assert "[1:40] t0001 finished: eval_loss 0.4400 at 360/360 steps · 818 GPU s ← new best" in lines
    assert "[1:28] t0006 stopped (budget): eval_loss 0.5000 at 120/360 steps · 113 GPU s ← new best" in lines
    assert "[1:12] t0004 failed · diverged: eval_loss is NaN at step 80 · 91 GPU s" in lines
    assert "[0:58] t0007 failed · error: RayActorError: node lost · 0 GPU s" in lines  # the first line of the error only
    assert "[1:00] t0008 infeasible · placement: 4 GPUs never free" in lines
    assert lines[-1].startswith(
        "[1:40] not finished: 2 done · 4 stopped · 2 failed · 1 infeasible · 1 unfinished · 1,550 GPU s"
    )


def test_the_whole_sweep_is_shown_as_trials_end_and_not_too_often() -> None:
    def baseline(loss: float) -> dict[str, Any]:
        return {"guess": "class shares in train", "metrics": {"eval_loss": loss}}

    lines = plain_lines(make_events(), baseline=baseline(0.6811))
    status = [line for line in lines if " ── " in line]
    assert status[0] == (
        "[0:48] ── 0 done · 1 stopped · 0 failed · 8 running · 1 waiting"
        " | best t0002 eval_loss 0.5000 at rung 1/3 (guessing: 0.6811) | left: 14 trials to start, 4:12"
    )
    at = [int(line[1]) * 60 + int(line[3:5]) for line in status]
    assert all(later - earlier >= 15 for earlier, later in itertools.pairwise(at))
    stopped = [line for line in plain_lines(make_events(), baseline=baseline(0.51)) if "stopped at rung" in line]
    assert ["no trial beats guessing there yet" in line for line in stopped] == [False, False, True]


def test_a_resumed_sweep_counts_time_and_trials_of_all_sessions() -> None:
    first, later = make_events(), START + 10_000
    resumed = [{"event": "session", "time": later, "resumed": True}, {"event": "note", "time": later + 3, "text": "node back"}]
    record, stream = Record(make_manifest()), io.StringIO()
    for event in first:
        record.apply(event)
    sink = ProgressSink(stream)
    play(sink, record, resumed)
    restart = [
        {"event": "start", "time": later + 10, "trial": "t0009", "attempt": 2},
        {"event": "end", "time": later + 20, "trial": "t0009", "state": "PRUNED", "reason": "budget", "error": None},
        {"event": "sweep_ended", "time": later + 20, "reason": "time"},
    ]
    play(sink, record, restart)
    sink.close(record)
    lines = stream.getvalue().splitlines()
    assert (
        lines[0]
        == "[1:40] sweep quick resumes: 2 done · 4 stopped · 2 failed · 1 infeasible · 0 running · 1 waiting; " + STARTING
    )
    assert lines[1] == "[1:43] node back"
    assert lines[2].startswith("[1:50] t0009 starts again (attempt 2): L4")
    assert lines[3].startswith("[2:00] t0009 stopped (budget): eval_loss 0.5300 at 80/360 steps")
    assert lines[-1].startswith(
        "[2:00] sweep ended (time): 2 done · 5 stopped · 2 failed · 1 infeasible · 0 running · 1,550 GPU s"
    )
    assert len(lines) == 6  # with one of how the sweep stands


def test_dollars_left_follow_the_trials_and_the_start_of_workers() -> None:
    events = make_events()
    spec = make_manifest()["spec"] | {"budget": {"dollars": 10.0}, "resources": {"dollars_per_gpu_hour": 3.6}}
    last = next(event for event in reversed(events) if event["event"] == "report" and event["trial"] == "t0009")
    more = [
        {"event": "worker", "time": events[-1]["time"] + 1, "gpu_seconds": 2000.0},
        {**last, "time": events[-1]["time"] + 2, "fidelity": 120, "gpu_seconds": last["gpu_seconds"] + 500},
    ]
    end = {
        "event": "end",
        "time": events[-1]["time"] + 20,
        "trial": "t0009",
        "state": "PRUNED",
        "reason": "rung",
        "error": None,
    }
    record = Record(make_manifest(spec=spec))
    for seen_from_the_start in (True, False):
        stream = io.StringIO()
        sink = ProgressSink(stream)
        if seen_from_the_start:
            play(sink, record, [*events, *more, end])
        else:  # a resumed sweep
            play(sink, record, [{**more[1], "fidelity": 160}, {**end, "time": end["time"] + 20}])
        assert f"left: ${10 - record.gpu_seconds / 1000:.2f}" in stream.getvalue().splitlines()[-1]
    assert record.gpu_seconds > 4000


def test_budget_uses() -> None:
    budget = {"run_cap": 24, "time": 300.0, "gpu_hours": 2.0, "dollars": 10.0}
    uses = {use.limit: use for use in budget_uses(budget, ended=6, elapsed=330.0, gpu_seconds=3600.0, paid=2.5)}
    assert {name: use.share for name, use in uses.items()} == {"run_cap": 0.25, "time": 1.1, "gpu_hours": 0.5, "dollars": 0.25}
    assert uses["run_cap"].left == "18 trials"
    assert uses["time"].used == "5:30 of 5:00"
    assert uses["time"].left == "0:00"
    assert uses["gpu_hours"].left == "1.00 GPU h"
    assert uses["dollars"].left == "$7.50"
    assert [use.left for use in budget_uses({"run_cap": 7}, ended=6, elapsed=0.0, gpu_seconds=0.0, paid=0.0)] == ["1 trial"]
    for begun, left in ((0, "7 trials to start"), (6, "1 trial to start"), (7, "0 trials to start")):
        [use] = budget_uses({"run_cap": 7}, ended=0, elapsed=0.0, gpu_seconds=0.0, paid=0.0, begun=begun)
        assert (use.left, use.used) == (left, "0 of 7 trials")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_display_shows_budget_counts_best_and_running_trials(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    events = make_events()
    sink, record = ProgressSink(stream, clock=lambda: events[-1]["time"] + 30), Record(make_manifest())
    play(sink, record, events)
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(sink._render())
    text = console.file.getvalue()
    sink.close(record)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "43% of time (2:10 of 5:00)" in text
    assert "left   14 trials to start · 2:50 (2:10 elapsed)" in text
    assert "trials 2 done · 4 stopped · 2 failed · 1 infeasible" in text
    assert ("1 running" in text) == (width >= 80)
    assert "rungs  8 at 40 → 4 at 120 → 2 at 360 steps" in text
    assert "best   t0001 eval_loss 0.4400 at rung 3/3" in text
    assert re.search(r"t0009  ━+─+ 80/360 steps · 0.5300", text)
    assert "t0003 stopped at rung 1/3" in stream.getvalue()  # ends stay above the display
    assert "not finished" in stream.getvalue()


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("seed", range(4))
def test_the_running_best_is_the_first_of_the_ranking_after_every_event(goal: str, seed: int) -> None:
    record = Record(make_manifest(metric={"name": "eval_loss", "goal": goal}))
    standing = Standing(record)
    for event in random_events(random.Random(seed), trials=25):
        record.apply(event)
        if "trial" in event:
            standing.update(record.trials[event["trial"]])
        rows = rank(record)
        first = rows[0] if rows and rows[0].rank is not None else None
        best = standing.best
        assert (best and (best.trial.name, best.metric, best.rung)) == (first and (first.trial.name, first.metric, first.rung))


def random_events(rng: random.Random, trials: int) -> list[dict[str, Any]]:
    """Trials that report side by side, with ties, NaN, failures and stops."""
    events: list[dict[str, Any]] = []
    for number in range(trials):
        events.append({"event": "trial", "time": 0.0, "trial": f"t{number}", "number": number, "params": {}, "config": {}})
    alive, fidelity = list(range(trials)), dict.fromkeys(range(trials), 0)
    while alive:
        number = rng.choice(alive)
        fidelity[number] += 40
        value = rng.choice([float("nan"), *(rng.randint(1, 9) / 10 for _ in range(9))])
        rungs = {80: [1], 120: [2], 360: [3]}.get(fidelity[number], [])
        events.append(
            {
                **{"event": "report", "time": 1.0, "trial": f"t{number}", "fidelity": fidelity[number], "step": 1, "tokens": 1},
                **{"flops": 1.0, "wall_seconds": 1.0, "gpu_seconds": float(fidelity[number]), "metrics": {"eval_loss": value}},
                **{"rungs": rungs, "action": "continue", "reason": None, "cutoff": None},
            }
        )
        if fidelity[number] == MAX_T or rng.random() < 0.2:
            alive.remove(number)
            end = {"state": rng.choice(["FAIL", "PRUNED", "COMPLETE"]), "reason": "x", "error": None}
            events.append({"event": "end", "time": 2.0, "trial": f"t{number}", **end})
    return events


def test_an_event_costs_no_more_after_5000_trials_than_after_500() -> None:
    """Counted in lines of Python, which a busy machine does not change."""

    def lines(trials: int) -> int:
        record, sink, count = Record(make_manifest()), ProgressSink(io.StringIO()), 0
        for event in random_events(random.Random(0), trials):
            record.apply(event)
        more = random_events(random.Random(1), trials=60)
        for event in more:
            event["trial"] = f"x{event['trial']}"
        play(sink, record, more[:1])

        def trace(_frame: Any, kind: str, _arg: Any) -> Any:
            nonlocal count
            count += kind == "line"
            return trace

        sys.settrace(trace)
        try:
            play(sink, record, more[1:])
        finally:
            sys.settrace(None)
        return count

    assert lines(5000) < 1.5 * lines(500)
