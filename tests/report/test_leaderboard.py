"""The leaderboard: its JSON contract, its CSV, and how the table reads at each width."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from events import report
from records import START, make_events, make_manifest, make_record
from scalesweep.errors import UserError
from scalesweep.record import Record, RecordWriter, read_record
from scalesweep.record.prices import paid, paid_in_all
from scalesweep.record.table import FIELDS
from scalesweep.report import words
from scalesweep.report.board import render_leaderboard
from scalesweep.report.findings import findings
from scalesweep.report.leaderboard import leaderboard_csv, leaderboard_json
from scalesweep.report.select import Selection, parsed
from scalesweep.report.sentences import paragraph
from scalesweep.report.terminal import print_leaderboard

KEYS = list(FIELDS)
CONFIG = {"model_size": "L4", "num_gpus": 1, "unfreezing": "head", "unfreeze_interval": 9, "learning_rate": 0.001}


def small_record(*trials: tuple[str, list[tuple[int, list[int], float]]], **changes: object) -> Record:
    """Trials of (name, [(fidelity, rungs, metric)]), all complete."""
    events: list[dict] = [{"event": "session", "time": 0.0, "resumed": False}]
    for number, (name, reports) in enumerate(trials):
        events.append({"event": "trial", "time": 1.0, "trial": name, "number": number, "params": {}, "config": CONFIG})
        for fidelity, rungs, value in reports:
            cost = {"step": fidelity, "tokens": fidelity, "flops": 1.0, "wall_seconds": 1.0, "gpu_seconds": float(fidelity)}
            verdict = {"rungs": rungs, "action": "continue", "cutoff": None, "metrics": {"eval_loss": value}}
            events.append({"event": "report", "time": 2.0, "trial": name, "fidelity": fidelity, **cost, **verdict})
        events.append({"event": "end", "time": 3.0, "trial": name, "state": "COMPLETE", "reason": "max_t", "error": None})
    return make_record(events, **changes)


def text_at(record: Any, width: int, by: Any = "rung", limit: int | None = None, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render_leaderboard(record, by, width, limit, **options))
    return console.file.getvalue()


def test_json_holds_the_contract() -> None:
    board = leaderboard_json(make_record())
    assert list(board) == ["sweep", "metric", "floor", "trials"]
    assert (board["sweep"], board["metric"]) == ("quick", "eval_loss")
    assert len(board["trials"]) == 10
    assert all(list(trial) == KEYS for trial in board["trials"])
    assert {trial["state"] for trial in board["trials"]} == {"COMPLETE", "PRUNED", "FAIL", "RUNNING", "INFEASIBLE"}
    first = board["trials"][0]
    assert (first["rank"], first["trial"], first["metric"], first["fidelity"], first["rung"]) == (1, "t0001", 0.44, 360, 3)
    assert first["params"]["unfreeze_interval"] == 40
    assert first["pareto"] is True
    json.dumps(board, allow_nan=False)


def test_json_holds_the_scores_to_beat() -> None:
    guess = {"guess": "class shares in train", "metrics": {"eval_loss": 0.6811, "eval_accuracy": 0.58}}
    sizes = {"L4": {"eval_loss": 0.7}, "L6": {"eval_loss": float("nan")}}
    untrained = [
        {"event": "untrained", "time": START + 999, "trial": "t0000", "model_size": size, "metrics": metrics}
        for size, metrics in sizes.items()
    ]
    board = leaderboard_json(make_record([*make_events(), *untrained], baseline=guess))
    assert board["floor"] == {"guessing": guess, "untrained": {"L4": {"eval_loss": 0.7}, "L6": {"eval_loss": None}}}
    assert leaderboard_json(make_record())["floor"] == {"guessing": None, "untrained": {}}  # of earlier days


def test_a_trial_stopped_at_a_lower_rung_never_stands_above_one_at_a_higher_rung() -> None:
    ranked = [trial for trial in leaderboard_json(make_record())["trials"] if trial["rank"] is not None]
    assert [trial["rung"] for trial in ranked] == sorted((trial["rung"] for trial in ranked), reverse=True)
    record = small_record(("lucky", [(40, [1], 0.1)]), ("patient", [(40, [1], 0.9), (120, [2], 0.8)]))
    assert [trial["trial"] for trial in leaderboard_json(record)["trials"]] == ["patient", "lucky"]


def test_by_metric_takes_the_best_value_wherever_it_was_reached() -> None:
    record = small_record(("lucky", [(40, [1], 0.1)]), ("patient", [(40, [1], 0.7), (120, [2], 0.8)]))
    trials = leaderboard_json(record, by="metric")["trials"]
    assert [(trial["trial"], trial["metric"], trial["fidelity"]) for trial in trials] == [
        ("lucky", 0.1, 40),
        ("patient", 0.7, 40),
    ]


def test_a_maximized_metric_turns_the_order() -> None:
    trials = (("low", [(40, [1], 0.1)]), ("high", [(40, [1], 0.9)]))
    goal = {"name": "eval_loss", "goal": "maximize"}
    assert [t["trial"] for t in leaderboard_json(small_record(*trials, metric=goal))["trials"]] == ["high", "low"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_null_and_has_no_rank(value: float) -> None:
    record = small_record(("broken", [(40, [1], value)]), ("sound", [(40, [1], 3.0)]))
    trials = leaderboard_json(record)["trials"]
    assert [(trial["trial"], trial["rank"], trial["metric"]) for trial in trials] == [("sound", 1, 3.0), ("broken", None, None)]


def test_csv_reads_back_as_the_json_rows() -> None:
    record = make_record()
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(record))))
    board = leaderboard_json(record)["trials"]
    assert [row["trial"] for row in rows] == [trial["trial"] for trial in board]
    assert float(rows[0]["learning_rate"]) == board[0]["params"]["learning_rate"]
    assert rows[-1]["metric"] == ""
    frame = pd.read_csv(io.StringIO(leaderboard_csv(record, "metric")))
    assert frame["rank"].notna().sum() == 7
    assert frame.loc[frame["unfreezing"] != "gradual", "unfreeze_interval"].isna().all()


def test_a_failed_trial_shows_the_first_line_of_its_error_and_the_file_of_the_whole() -> None:
    events = make_events()
    [failed] = [event for event in events if event["event"] == "end" and event["trial"] == "t0007"]
    failed["traceback"] = "errors/t0007-1.txt"
    record = make_record(events)
    record.folder = Path("runs/x")
    [entry] = [trial for trial in leaderboard_json(record)["trials"] if trial["trial"] == "t0007"]
    assert (entry["error"], entry["traceback"]) == ("RayActorError: node lost", "errors/t0007-1.txt")
    frame = pd.read_csv(io.StringIO(leaderboard_csv(record))).set_index("trial")
    assert frame.loc["t0007", "error"] == "RayActorError: node lost"
    assert frame["error"].notna().sum() == 3
    for width in (60, 140):
        text = " ".join(text_at(record, width).split())
        assert "t0007 failed: RayActorError: node lost (traceback: runs/x/errors/t0007-1.txt)" in text
        assert "t0008 infeasible: 4 GPUs never free" in text


def test_what_has_not_ended_runs_only_while_a_process_does(tmp_path: Path) -> None:
    def shown() -> str:
        return " ".join(text_at(read_record(tmp_path / "run"), 200).split())

    writer = RecordWriter(tmp_path / "run", make_manifest())
    for event in make_events():
        writer.append(event)
    config = {**CONFIG, "num_gpus": 2}
    for number, name in ((10, "t0010"), (11, "t0011")):
        writer.append({"event": "trial", "time": START + 900, "trial": name, "number": number, "params": {}, "config": config})
    writer.append({"event": "start", "time": START + 901, "trial": "t0010", "attempt": 1})
    writer.append(report("t0010", 40, 0.7, 1, action="pause") | {"time": START + 902})
    assert "1 running, 1 waiting, 1 paused, 2 complete" in shown()
    assert "No process runs" not in shown()
    writer.close()
    assert "12 trials: 3 unfinished, 2 complete" in shown()
    assert "Stopped between rungs, with a later report: t0009 0.5300 at 80 steps." in shown()
    stopped = read_record(tmp_path / "run")
    stopped.trials = {"t0009": stopped.trials["t0009"]}  # with which the findings begin
    assert "eval_loss 0.5700 (0.5300 at 80 steps)" in dict(findings(stopped))["best"]
    assert "its last report has 0.5300 at 80 steps." in paragraph(stopped)[0].text
    assert f"No process runs this sweep; `scalesweep resume {tmp_path}/run` continues it." in shown()
    assert "running" not in shown()
    lease = tmp_path / "run" / "lease-000002.json"
    lease.write_text("{}")  # of a driver on another host
    assert "1 running" in shown()
    os.utime(lease, (START, START))  # it was killed
    assert "3 unfinished" in shown()


def test_csv_quotes_what_needs_it() -> None:
    record = small_record(('a,"b"', [(40, [1], 1.0)]))
    assert next(csv.DictReader(io.StringIO(leaderboard_csv(record))))["trial"] == 'a,"b"'


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("by", ["rung", "metric"])
def test_no_line_is_wider_than_the_terminal(width: int, by: str) -> None:
    assert max(len(line) for line in text_at(make_record(), width, by).splitlines()) <= width


def test_a_terminal_too_narrow_for_the_table_gets_the_narrowest_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_leaderboard(make_record())
    narrowest = [line.rstrip() for line in text_at(make_record(), 60).splitlines()]
    assert capsys.readouterr().out.splitlines() == narrowest


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_tells_what_matters_at_each_width(width: int) -> None:
    text = text_at(make_record(), width)
    flat = " ".join(text.split())
    assert "quick · eval_loss (lower is better) · 10 trials: 1 running, 2 complete, 4 pruned, 2 failed, 1 infeasible" in flat
    assert "1,550 GPU s" in flat
    best = next(line for line in text.splitlines() if "t0001" in line)
    for part in ("★", "0.4400", "rung 3/3 · 360 steps", "L6 (22.7M)", "gradual/40", "1.2e-04"):
        assert part in best
    assert "no other trial beats it" in flat
    assert "…" not in text
    assert ("infeasible" in text.split("t0003")[1].split("Ranked")[0]) == (width >= 100)  # the state of the last trial


def test_a_wide_terminal_gets_every_column_and_the_narrow_one_is_told_what_is_left_out() -> None:
    wide, narrow = text_at(make_record(), 140), text_at(make_record(), 80)
    for part in ("gpus", "lr_scheduler_type", "warmup_stable_decay", "seconds", "complete", "diverged", "0.7800"):
        assert part in wide
    assert "max_t" not in wide  # goes without saying
    assert "Left out" not in wide
    assert "Left out at this width: gpu_seconds, lr_scheduler_type, state, num_gpus, eval_accuracy." in " ".join(narrow.split())


def test_searched_settings_of_adapters_are_shown_and_a_constant_schedule_is_not() -> None:
    space = {"lora_target_modules": {"values": ["all-linear", "q_proj, v_proj"]}, "use_rslora": {"values": [True, False]}}
    spec = make_manifest()["spec"] | {"search_space": {"parameters": space}}
    record = small_record(*((name, [(40, [1], value)]) for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3))), spec=spec)
    adapters = [("lora", 16, "q_proj, v_proj", True), ("lora", 8, "all-linear", False), ("none", 8, "all-linear", False)]
    keys = ("adapter", "lora_rank", "lora_target_modules", "use_rslora")
    for trial, values in zip(record.trials.values(), adapters, strict=True):
        trial.config = CONFIG | {"lr_scheduler_type": "linear"} | dict(zip(keys, values, strict=True))
    text = text_at(record, 140)
    assert "lr_scheduler_type linear" in text.split("The same in these rows: ")[1]
    assert "lr_scheduler" not in text.split("The same")[0]
    lines = {line.split()[2 if "★" in line else 1]: line for line in text.splitlines() if line[:1] in ("1", "2", "3")}
    assert "head, lora 16  q_proj,v_proj  yes" in lines["a"]
    assert "head, lora 8   all-linear" in lines["b"]
    assert "yes" not in lines["b"]
    assert "all-linear" not in lines["c"]
    assert words.brief(record.trials["a"]) == "L4 · 1 GPU · head, lora 16 · q_proj,v_proj · rslora · lr 1.0e-03 linear"
    assert words.brief(record.trials["b"]) == "L4 · 1 GPU · head, lora 8 · lr 1.0e-03 linear"
    found = dict(findings(record))
    assert found["rank"] == "16 0.1000 · 8 0.2000 (best of each at rung 1/3)"
    assert found["layers"] == "q_proj, v_proj 0.1000 · all-linear 0.2000 (best of each at rung 1/3)"
    assert found["rslora"] == "yes 0.1000 · no 0.2000 (best of each at rung 1/3)"


def test_a_priced_sweep_shows_dollars() -> None:
    spec = make_manifest()["spec"] | {"resources": {"dollars_per_gpu_hour": 2.5}}
    text = text_at(make_record(spec=spec), 140)
    assert "1,550 GPU s, $1.08" in text
    assert "0.57" in next(line for line in text.splitlines() if "t0001" in line)


def test_each_size_is_paid_at_the_price_of_its_gpus() -> None:
    prices = {"H100": 7.2, "default": 3.6}
    spec = make_manifest()["spec"] | {"resources": {"dollars_per_gpu_hour": prices}}
    ladder = [
        {**size, "entry": {"accelerator_type": "H100" if size["name"] == "L6" else None}} for size in make_manifest()["ladder"]
    ]
    record = make_record(spec=spec, ladder=ladder)
    costs = {
        trial.name: trial.gpu_seconds * (0.002 if trial.params["model_size"] == "L6" else 0.001)
        for trial in record.trials.values()
    }
    assert {name: paid(record, record.trials[name]) for name in costs} == pytest.approx(costs)
    record.boot_gpu_seconds = 1000.0  # at the price of the first size
    assert paid_in_all(record) == pytest.approx(sum(costs.values()) + 1.0)
    text = text_at(record, 160)
    assert f"${sum(costs.values()) + 1:,.2f}" in text
    assert f"{costs['t0001']:.2f}" in next(line for line in text.splitlines() if "t0001" in line)


@pytest.mark.parametrize(
    ("fidelity", "time_attr", "short", "full"),
    [
        (120, "steps", "120 steps", "120"),
        (6750, "steps", "6,750 steps", "6,750"),
        (1_200_000, "tokens", "1.2M tokens", "1,200,000"),
        (9e14, "flops", "900T flops", "9e+14"),
        (1.25e15, "flops", "1.25e+15 flops", "1.25e+15"),
        (62.5, "gpu_seconds", "62.5 GPU seconds", "62.5"),
        (1234.5, "gpu_seconds", "1,234 GPU seconds", "1234"),
        (0.15000000000000002, "dollars", "0.15 dollars", "0.15"),
    ],
)
def test_a_fidelity_reads_well(fidelity: float, time_attr: str, short: str, full: str) -> None:
    assert words.amount(fidelity, time_attr) == short
    assert words.level(fidelity) == full


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unfreezing": "full"}, "full"),
        ({"unfreezing": "head", "unfreeze_cadence": "epoch"}, "head"),
        ({"unfreezing": "gradual"}, "gradual/9"),
        ({"unfreezing": "chain_thaw", "unfreeze_cadence": "steps"}, "chain_thaw/9"),
        ({"unfreezing": "lp_ft", "unfreeze_cadence": "fraction", "unfreeze_fraction": 0.25}, "lp_ft/0.25"),
        ({"unfreezing": "gradual", "unfreeze_cadence": "epoch"}, "gradual/epoch"),
        ({"unfreezing": "gradual", "unfreeze_cadence": "plateau", "unfreeze_patience": 2}, "gradual/plateau 2"),
        ({"unfreezing": "full", "adapter": "none", "lora_rank": 8}, "full"),
        ({"unfreezing": "gradual", "adapter": "lora", "lora_rank": 8}, "gradual/9, lora 8"),
    ],
)
def test_unfreezing_reads_with_its_cadence(changes: dict[str, Any], text: str) -> None:
    assert words.unfreezing({"unfreeze_interval": 9, **changes}) == text


def test_a_limit_says_how_many_trials_follow() -> None:
    text = text_at(make_record(), 100, limit=3)
    assert "t0006" in text
    assert "t0002" not in text
    assert "… and 7 more trials" in text


def test_every_number_is_the_same_in_the_table_in_json_and_in_csv() -> None:
    record = make_record(spec=make_manifest()["spec"] | {"resources": {"dollars_per_gpu_hour": 2.5}})
    keys = ["rank", "trial", "eval_loss", "eval_accuracy", "gpu_seconds", "dollars", "learning_rate", "rung", "tokens"]
    entries = {one["trial"]: {**one, **one["metrics"], **one["params"]} for one in leaderboard_json(record)["trials"]}
    written = list(csv.DictReader(io.StringIO(leaderboard_csv(record, shown=keys))))
    assert [list(row) for row in written] == [keys] * 10
    for row in written:
        known = {key: entries[row["trial"]].get(key) for key in keys}
        assert row == {key: "" if value is None else str(value) for key, value in known.items()}
    shown = {"eval_loss": words.score, "eval_accuracy": words.score, "gpu_seconds": words.seconds, "dollars": words.money}
    lines = text_at(record, 200, selection=Selection(sort="trial"), shown=keys).splitlines()
    cells = next(line.split() for line in lines if " t0006 " in line)
    assert cells[:6] == ["3", "t0006", *(format_(entries["t0006"][key]) for key, format_ in shown.items())]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("unfreezing=gradual and model_size=L4", ["t0006", "t0009"]),
        ("learning_rate<=2e-4 and learning_rate > 1.2e-4", ["t0007", "t0008"]),
        ("eval_loss < 0.55", ["t0001", "t0006"]),
        ("state=failed", ["t0004", "t0007"]),
        ("state!=COMPLETE and rung>=2", ["t0006", "t0002"]),
        ("pareto=yes and model_size!='L1'", ["t0001", "t0006", "t0009"]),
        ("unfreeze_interval=40", ["t0001", "t0006", "t0009"]),
        ("max_t=360 and eval_loss>1", []),
    ],
)
def test_an_expression_keeps_the_trials_that_fulfil_it(where: str, names: list[str]) -> None:
    record = make_record()
    found = leaderboard_json(record, selection=Selection(parsed(where)))["trials"]
    assert [one["trial"] for one in found] == names
    everywhere = {one["trial"]: one for one in leaderboard_json(record)["trials"]}
    assert [everywhere[one["trial"]] for one in found] == found  # ranks and all other fields stay
    if not found:
        misspelt = Selection(parsed("model_size=l1 and unfreezing=heed and num_gpus = 9"))
        text = " ".join(text_at(record, 200, selection=misspelt).split())
        assert (
            "No trial has unfreezing=heed: its values are full, gradual, head. No trial has num_gpus=9: its values are 1 … 4."
            in text
        )


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("lerning_rate<1", "no trial has 'lerning_rate'\n\nhint: did you mean 'learning_rate'?"),
        ("unfreezing>head", "unfreezing has texts such as"),
        ("eval_loss<low", "'low' is no number"),
        ("±<1", "did you mean 'standard_error'?\n      fields: rank (#), trial, "),
        ("eval_loss", "quote it for the shell: --where 'lora_rank>=16 and unfreezing=gradual'"),
        ("rung=1 or rung=2", "an expression is KEY OP VALUE"),
        ("rung=1 and", "an expression is KEY OP VALUE"),
        ("__import__('os')", "an expression is KEY OP VALUE"),
    ],
)
def test_an_expression_that_says_nothing_is_refused_with_its_remedy(where: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        leaderboard_json(make_record(), selection=Selection(parsed(where)))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("eval_accuracy", "t0001", "t0008"),  # the best first, and without a value last
        ("-eval_accuracy", "t0003", "t0008"),
        ("gpu_seconds", "t0007", "t0008"),
        ("unfreeze_interval", "t0001", "t0008"),
        ("stop_reason", "t0006", "t0009"),
    ],
)
def test_any_key_orders_the_trials(sort: str, first: str, last: str) -> None:
    trials = leaderboard_json(make_record(), selection=Selection(sort=sort))["trials"]
    assert (trials[0]["trial"], trials[-1]["trial"], len(trials)) == (first, last, 10)
    short = leaderboard_json(make_record(), limit=3, selection=Selection(sort=sort))["trials"]
    assert short == trials[:3]
    text = text_at(make_record(), 100, selection=Selection(sort=sort))
    assert "sorted by " + sort.removeprefix("-") in " ".join(text.split())
    assert "Findings" not in text


def test_several_sweeps_are_ranked_together() -> None:
    one = make_record(name="one")
    other = small_record(("a", [(40, [1], 0.65)]), ("b", [(40, [1], 0.1), (120, [2], 0.2), (360, [3], 0.3)]), name="other")
    text = text_at([one, other], 140)
    rows = [line.split() for line in text.splitlines() if line.startswith(("one ", "other "))]
    assert [row[0] for row in rows[:3]] == ["one", "other", "other"]  # the titles, and the first row
    assert [row[2 + ("★" in row)] for row in rows[2:5]] == ["b", "t0001", "t0000"]
    assert ["a" in row for row in rows].index(True) - 2 == 6  # after the better ones of its rung
    table = list(csv.DictReader(io.StringIO(leaderboard_csv([one, other]))))
    assert [(row["run"], row["trial"]) for row in table[:2]] == [("other", "b"), ("one", "t0001")]
    accuracy = make_record(name="third", metric={"name": "eval_accuracy", "goal": "maximize"})
    with pytest.raises(UserError, match="one ranks by eval_loss, and third by eval_accuracy"):
        text_at([one, accuracy], 140)
    nothing = text_at(one, 140, selection=Selection(parsed("rank>99")))
    assert "No trial fulfils --where." in nothing
    assert "Ranked" not in nothing


def test_costs_below_one_do_not_read_as_nothing() -> None:
    record = make_record(spec=make_manifest()["spec"] | {"resources": {"dollars_per_gpu_hour": 0.01}})
    for trial in record.trials.values():
        trial.gpu_seconds /= 2000
    text = text_at(record, 200)
    assert " 0.41 " in next(line for line in text.splitlines() if " t0001 " in line)
    assert "1.1e-06" in next(line for line in text.splitlines() if " t0001 " in line)
    assert [words.seconds(number) for number in (0, 0.004, 9.96, 12345.6)] == ["0", "0.004", "10", "12,346"]
    assert [words.money(number) for number in (0, 0.004, 0.4, 1234.5)] == ["0.00", "0.004", "0.40", "1,234.50"]


HOSTILE = "=cmd|'/C calc'!A0 [bold]\x1b[2J\x9b1m\u202e" + "x" * 10_000


def test_hostile_texts_are_shown_as_they_are_written() -> None:
    events = make_events()
    for event in events:
        if event["event"] == "trial":
            event["config"]["lr_scheduler_type"] = event["params"]["lr_scheduler_type"] = HOSTILE + event["trial"]
        if event["event"] == "end" and event["error"]:
            event["error"] = HOSTILE
    record = make_record(events, name="[red]\x1b]0;owned\x07")
    text = text_at(record, 200, shown=["trial", "lr_scheduler_type", "error"])
    assert not set(text) & {"\x1b", "\x9b", "\x07", "\u202e"}
    assert "[red]\\x1b]0;owned\\x07" in text
    row = next(line for line in text.splitlines() if line.startswith("t0001"))
    assert "=cmd|'/C calc'!A0 [bold]\\x1b[2" in row
    assert len(row) <= 80
    assert all(len(line) <= 100 for line in text_at(record, 100).splitlines())
    assert len(text_at(record, 100)) < 10_000
    written = leaderboard_csv(record)
    assert not set(written) & {"\x1b", "\x9b", "\x07", "\u202e"}
    cell = next(csv.DictReader(io.StringIO(written)))["lr_scheduler_type"]
    assert cell.startswith("'=cmd|'/C calc'!A0 [bold]\\x1b[2J\\x9b1m\\u202ex")
    assert len(cell) > 10_000


def test_an_empty_record_is_a_table_too() -> None:
    assert "no trials yet" in text_at(make_record([]), 80)
    assert leaderboard_json(make_record([]))["trials"] == []


def test_metrics_are_those_at_the_rung_even_between_two_reports() -> None:
    events = make_events()
    [late] = [
        event for event in events if event["event"] == "report" and event["trial"] == "t0000" and event["fidelity"] == 120
    ]
    late |= {"fidelity": 130, "marks": [{"rung": 2, "fidelity": 120, "value": 0.63, "gpu_seconds": 80.0}]}
    record = make_record([event for event in events if event.get("trial") != "t0000" or event.get("fidelity", 0) <= 130])
    [entry] = [one for one in leaderboard_json(record)["trials"] if one["trial"] == "t0000"]
    share = math.log(120 / 80) / math.log(130 / 80)
    accuracy = 0.67 + share * (0.69 - 0.67)
    assert entry["metrics"] == {
        "eval_loss": entry["metric"],
        "eval_accuracy": pytest.approx(accuracy),
        "train_loss": pytest.approx(0.9 * (0.66 - share * 0.04)),
    }
    assert (entry["metric"], entry["fidelity"]) == (0.63, 120)
    row = next(row for row in csv.DictReader(io.StringIO(leaderboard_csv(record))) if row["trial"] == "t0000")
    assert {name: float(row[name]) for name in entry["metrics"]} == entry["metrics"]
    at_best = {one["trial"]: one["metrics"] for one in leaderboard_json(make_record(), "metric")["trials"]}
    assert at_best["t0002"] == {"eval_loss": 0.49, "eval_accuracy": 1 - 0.49 / 2, "train_loss": 0.49 * 0.9}
