"""Promotion of a tiny trial in this process: sessions, locks, full disks. Whole commands are in end_to_end/."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from command_line import refused, run
from hub_server import hub_server
from jobs import manifest
from scalesweep import confirm, storage
from scalesweep.errors import OutsideError
from scalesweep.promotion.final_run import from_json
from scalesweep.promotion.promote import promote
from scalesweep.promotion.reproduce import reproduce
from scalesweep.promotion.summary import after_promotion, promoted
from scalesweep.promotion.unfinished import Unfinished
from scalesweep.report.terminal import where_it_is
from scalesweep.spec import sweep_from_dict, trial_config
from scalesweep.training.job import open_data
from scalesweep.training.loop import Trainer
from scalesweep.training.methods.adapters import Adapters
from tiny_models import tiny_checkpoint
from tiny_sweeps import tiny_sweep


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder, with a blank in its name, whose only trial was trained to the end."""
    folder = tmp_path / "my runs"
    folder.mkdir()
    made = dict(manifest(**tiny_sweep()))
    (folder / "sweep.json").write_text(json.dumps(made))
    params = {"unfreezing": "head", "learning_rate": 0.003}
    config = trial_config(sweep_from_dict(made["spec"]), params).model_dump() | {"prefix_cache": "off"}
    report = {"fidelity": 12, "step": 12, "tokens": 1200, "flops": 1e6, "wall_seconds": 2.0, "gpu_seconds": 2.0}
    report |= {
        "metrics": {"eval_loss": 0.6, "epoch": 3.0},
        "rungs": [1],
        "action": "complete",
        "reason": "max_t",
        "cutoff": None,
    }
    events: list[dict[str, Any]] = [
        {"event": "session", "resumed": False},
        {"event": "trial", "trial": "t0000", "number": 0, "params": params, "config": config},
        {"event": "start", "trial": "t0000", "attempt": 1},
        {"event": "report", "trial": "t0000", **report},
        {"event": "end", "trial": "t0000", "state": "COMPLETE", "reason": "max_t", "error": None},
        {"event": "sweep_ended", "reason": "budget: run_cap"},
    ]
    (folder / "record.jsonl").write_text("".join(json.dumps({"time": 1e9 + i, **e}) + "\n" for i, e in enumerate(events)))
    return folder


DIES = """
import os, signal, sys
from scalesweep.promotion import promote as module
from scalesweep.training import loop

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

loop.SAVE_SECONDS = 0.0
if sys.argv[2] == "exporting":
    module.model_card = die
module.promote(sys.argv[1], max_t=40, progress=lambda step, _: die() if sys.argv[2] == str(step) else None)
"""


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_promotion_continues_as_if_it_had_not_been_and_counts_all_its_sessions(
    run_dir: Path, tmp_path: Path, killed: bool
) -> None:
    """Ctrl-C in the middle; or the driver killed twice, in training and when its model is written but not yet in its place."""
    (own := tmp_path / "own.py").write_text("def score(answer, reference): return 0")
    manifest = json.loads((run_dir / "sweep.json").read_text())
    (run_dir / "sweep.json").write_text(json.dumps({**manifest, "functions": {f"{own}:score": "0" * 64}}))
    said: list[str] = []
    whole = promote(run_dir, max_t=40, output=tmp_path / "whole", say=said.append)
    assert said[0].splitlines()[1].startswith(f"the file of {own}:score has changed since the launch")
    assert whole["functions"]["final_run"] == {f"{own}:score": hashlib.sha256(own.read_bytes()).hexdigest()}
    seen: list[int] = []

    def ctrl_c(step: int, total: int) -> None:  # noqa: ARG001
        seen.append(step)
        if step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    if killed:
        for place in ("20", "exporting"):
            driver = subprocess.run([sys.executable, "-c", DIES, run_dir, place], capture_output=True, text=True, check=False)
            assert driver.returncode == -signal.SIGKILL, driver.stderr
            assert list(run_dir.glob("promoted/.*/checkpoint/step-*"))
    else:
        with pytest.raises(KeyboardInterrupt):
            promote(run_dir, max_t=40, progress=ctrl_c)
        assert seen[-1] == 20, "the first Ctrl-C waits for a checkpoint at the next report"
    first = time.monotonic() - began
    done = promote(run_dir, max_t=40, progress=lambda step, total: seen.append(step))  # noqa: ARG005
    assert seen == ([40] if killed else [5, 10, 15, 20, 20, 25, 30, 35, 40])
    for name in ("steps", "tokens", "flops"):
        assert done["final_run"][name] == pytest.approx(whole["final_run"][name], rel=1e-12), name
    assert done["final_run"]["sessions"] == 2 + killed
    assert first * 0.5 * (not killed) < done["final_run"]["wall_seconds"] < time.monotonic() - began
    assert done["test"] == whole["test"]
    one, other = (load_file(Path(result["output"]) / "model.safetensors") for result in (whole, done))
    assert all((one[name] == other[name]).all() for name in one)
    assert f"in {2 + killed} sessions" in (Path(done["output"]) / "README.md").read_text()
    assert not list(run_dir.glob("promoted/.*")), "nothing unfinished is left"


def test_a_promotion_is_reproduced_bit_by_bit_and_what_differs_is_named(run_dir: Path, tmp_path: Path) -> None:
    """The promotion is that of a target file: a model outside the ladder, other settings, a length in tokens."""
    (target := tmp_path / "target.yaml").write_text(
        "sweep: tiny\n"
        f"trial: t0000\nmodel_size: deep\nmodel: {tiny_checkpoint('bert', num_hidden_layers=3)}\n"
        "tokens: 1000\nnum_gpus: 1\nsettings: {learning_rate: 0.001}\npredicted: {metric: eval_loss, value: 0.5}\n"
    )
    first = promote(run_dir, target=target, output=tmp_path / "first")
    assert first["final_run"]["tokens"] >= 1000
    assert first["final_run"]["config"]["learning_rate"] == 0.001
    assert first["final_run"]["config"]["unfreezing"] == "head"
    assert json.loads((tmp_path / "first" / "config.json").read_text())["num_hidden_layers"] == 3
    assert first["target"]["predicted"] == {"metric": "eval_loss", "value": 0.5}
    assert (first["predicted"]["value"], first["predicted"]["source"], first["chosen"]["by"]) == (0.5, "the plan", "plan")
    target.write_text("trial: t0000\nmodel_size: 7\ntokens: 1.5\nnum_gpus: 1\nsettings: {learning_rat: 0.1, dropout: 2}\n")
    errors = refused("promote", run_dir, "--target", target)
    for line in (
        "sweep: is missing",
        "target.yaml:2  model_size: must be text, not 7",
        "target.yaml:3  tokens: must be a whole number, not 1.5",
        "settings.learning_rat: is no parameter",
        "settings.dropout: is 2, which is out of range",
    ):
        assert line in errors, errors
    head = "sweep: tiny\ntrial: t0000\ntokens: 1000\nnum_gpus: 1\n"
    for rest, said in (
        ("model_size: bert\nsettings: {lora_rank: 4}\n", "settings.lora_rank: 4 has no effect: adapter is none"),
        ("model_size: bert\nsettings: {lr_power: 3}\n", "settings.lr_power: 3 has no effect: lr_scheduler_type is linear"),
        (
            "model_size: bert\nsettings: {train_share: 0.5}\n",
            "settings.train_share: has no effect: a final run trains on all rows",
        ),
        ("model_size: bert\nsettings: {lr_scheduler_type: cosin}\n", "settings.lr_scheduler_type: 'cosin' is not allowed"),
        ("model_size: bert\nmodel: other/one\n", "model other/one has no effect: bert is a size of the ladder"),
        ("model_size: bert\npredicted: {metric: eval_loss, value: low}\n", "predicted.value: must be a number, not 'low'"),
    ):
        target.write_text(head + rest)
        assert said in refused("promote", run_dir, "--target", target, "--output", tmp_path / "none")
    assert "is a file" in refused("promote", run_dir, "--trial", "t0000", "--output", target)
    again = run("reproduce", tmp_path / "first", "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["verdict"] == "bit-equal"
    assert result["weights"] == {"model.safetensors": True}
    assert result["test"] == {name: [value, value] for name, value in first["test"].items()}
    assert result["differences"] == []
    assert [path.name for path in tmp_path.iterdir() if "first" in path.name] == ["first"], "the new model is removed"

    path = tmp_path / "first" / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["job"]["config"]["learning_rate"] = 1.0
    provenance["versions"]["final_run"]["torch"] = "1.0.0"
    path.write_text(json.dumps(provenance))
    other = reproduce(tmp_path / "first", output=tmp_path / "kept")
    assert other["verdict"] == "different"
    assert other["weights"] == {"model.safetensors": False}
    assert other["differences"][0].startswith("other versions: torch ")
    assert (tmp_path / "kept" / "model.safetensors").exists()
    assert "is not empty" in refused("reproduce", tmp_path / "first", "--output", tmp_path / "kept")
    path.write_text(json.dumps({name: value for name, value in provenance.items() if name != "job"}))
    assert "an older version wrote it" in refused("reproduce", tmp_path / "first")
    assert "holds no provenance.json" in refused("reproduce", run_dir)


def test_the_best_checkpoint_on_validation_becomes_the_model_also_after_an_interruption(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one comes before all layers train, so that those which thaw later have to be the base model's again."""
    text = refused("promote", run_dir, "--keep", "best")
    assert "the best checkpoint is told by the validation split, and the final run trains on it" in text
    assert "--train-on train" in text
    config = json.loads((run_dir / "record.jsonl").read_text().splitlines()[1])["config"]
    thaws = {"unfreezing": "gradual", "unfreeze_interval": 10, "eval_interval": 8, "learning_rate": 0.05}
    rewrite(run_dir, 1, config=config | thaws)
    to: dict[str, Any] = {"train_on": ("train",), "max_t": 40, "keep": "best", "output": tmp_path / "model"}

    def ctrl_c(step: int, total: int) -> None:  # noqa: ARG001
        if step == 35:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        promote(run_dir, progress=ctrl_c, **to)
    assert "keep best instead of None" in refused("promote", run_dir, "--output", tmp_path / "model", "--train-on", "train")
    done = promote(run_dir, **to)
    curve: list[float] = []
    report = Trainer.report
    monkeypatch.setattr(Trainer, "report", lambda self: [found := report(self), curve.append(found.metrics["eval_loss"])][0])
    assert reproduce(tmp_path / "model")["verdict"] == "bit-equal", "as if it had not been interrupted"
    kept = done["final_run"]["kept"]
    assert len(curve) == 5
    assert kept == {"step": 8 * (curve.index(min(curve)) + 1), "of": 40, "metric": "eval_loss", "value": min(curve)}
    assert kept["step"] < 30, "otherwise this test shows nothing"
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    job = from_json(done["job"])
    for split, value in (("validation", kept["value"]), ("test", done["test"]["eval_loss"])):
        rows = open_data(job).split(split)
        losses = []
        for index in range(len(rows)):
            batch = {name: torch.from_numpy(array) for name, array in rows.batch(np.array([index]), pad_id=0).items()}
            targets = batch.pop("targets")
            with torch.no_grad():
                losses.append(torch.nn.functional.cross_entropy(exported(**batch).logits, targets).item())
        assert np.mean(losses) == pytest.approx(value, rel=1e-4)
    card, final = (tmp_path / "model" / "README.md").read_text(), done["final_run"]
    assert re.search(r"Trained on train \(60 rows\): 40 steps,\s\d+ s on 1 worker on a CPU, in 2 sessions\.", card)
    assert (
        f"The model is the checkpoint of step {kept['step']}, after {final['tokens']:,} tokens, {final['flops']:.3g} FLOPs"
        in card
    )
    listed = set(re.findall(r"^\| `(\w+)` \|", card, re.MULTILINE))
    assert {"unfreezing", "unfreeze_interval", "learning_rate", "eval_interval"} <= listed
    idle = {"unfreeze_fraction", "lora_rank", "lr_power", "decay_ratio", "rehearsal_share", "rungs", "dropout"}
    assert not idle & listed
    assert ": 40 steps on train in 0:0" in promoted(done)
    assert f"; the model is the checkpoint of step {kept['step']}\n" in promoted(done)


def test_a_model_is_pushed_to_the_hub_and_what_would_fail_is_refused_before_any_compute(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = run_dir / "own.py"
    own.write_text("def score(answer, reference): return 0")
    manifest = json.loads((run_dir / "sweep.json").read_text())
    (run_dir / "sweep.json").write_text(json.dumps({**manifest, "functions": {f"{own}:score": "0" * 64}}))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        hub.repos["ada/known"] = False
        for token, repo, more, part in (
            (None, "ada/new", [], "nobody is logged in to the hub"),
            ("hf_wrong", "ada/new", [], "the hub does not accept this token"),
            ("hf_read", "ada/new", [], "the token of ada may read the hub and not write to it"),
            ("hf_write", "ada/new--one", [], "--push-to-hub ada/new--one: this is no name of a repository"),
            ("hf_write", "bob/new", [], "ada can't write to bob"),
            ("hf_write", "known", [], "ada/known exists and is public"),
        ):
            monkeypatch.delenv("HF_TOKEN", raising=False)
            if token:
                monkeypatch.setenv("HF_TOKEN", token)
            text = refused("promote", run_dir, "--push-to-hub", repo, *more)
            assert part in text
            assert "hf_" not in text
        assert "--public needs --push-to-hub" in refused("promote", run_dir, "--public")
        assert not (run_dir / "promoted").exists()
        assert not hub.files
        hub.refuses = True
        done = run("promote", run_dir, "--max-t", "12", "--push-to-hub", "film", "--force")
        assert done.returncode == 4, done.stderr
        assert "the model was not pushed to ada/film: " in done.stderr
        again = re.search(r"To push it later: (.*)", done.stderr.replace("\n", ""))
        assert again is not None
        assert shlex.split(again[1])[1:] == ["promote", str(run_dir), "--max-t", "12", "--push-to-hub", "film"]
        assert "in the sweep" in done.stdout, "the result is printed all the same"
        hub.refuses = False
        (error,) = re.findall("error: (.*)", refused("promote", run_dir, "--max-t", "13", "--push-to-hub", "film"))
        assert error.endswith("holds a model that was promoted with --max-t 12")
        written = json.loads((run_dir / "promoted" / "t0000" / "provenance.json").read_text())
        done = run("promote", run_dir, "--push-to-hub", "film", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pushed"] == f"{hub.url}/ada/film"
        assert json.loads(done.stdout)["test_reads"] == 1, "nothing was trained or tested again"
        pushed = hub.files["ada/film"]
        assert hub.repos["ada/film"], "private"
        folder = run_dir / "promoted" / "t0000"
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert pushed.keys() == files.keys()
        assert [name for name in files if files[name] != pushed[name]] == ["provenance.json"]
        assert str(own) in json.dumps(written)
        assert json.loads(pushed["provenance.json"])["functions"]["sweep"] == {"own.py:score": "0" * 64}
        assert b'"/' not in pushed["provenance.json"], "no folder of this machine is published"
    assert "can't be asked who is logged in" in refused("promote", run_dir, "--push-to-hub", "film", code=4)


def test_ctrl_c_says_how_to_continue(run_dir: Path) -> None:
    assert confirm(run_dir, most=3).confirmation is None, "there is nothing to compare"
    ended = threading.Event()

    def press() -> None:
        while not (run_dir / "promoted" / ".t0000.unfinished" / "settings.json").exists():
            if ended.wait(0.01):
                return
        while True:  # until it ends: an interrupt in the middle of an import may get lost
            os.kill(os.getpid(), signal.SIGINT)
            if ended.wait(5):
                return

    threading.Thread(target=press).start()
    try:
        done = run("promote", run_dir, "--max-t", "100000", "--confirm", "2")
    finally:
        ended.set()
    assert done.returncode == 130
    assert (
        f"continues from its last checkpoint with: scalesweep promote '{run_dir}' --max-t 100000 --confirm 2\n" in done.stderr
    )
    assert "nothing to confirm: t0000 alone ran to the end\n" in done.stderr


def test_one_promotion_at_a_time_writes_to_a_folder(run_dir: Path) -> None:
    output = run_dir / "promoted" / "t0000"
    with closing(Unfinished(output, {}, discard=False)):
        for length in ("12", "40"):
            text = refused("promote", run_dir, "--max-t", length, "--force")
            assert f"another promote writes to {output}" in text
            assert "the final run trains" not in text
            assert "training the final run" not in text


def test_training_of_other_settings_is_not_thrown_away_unasked(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    with closing(Unfinished(output, {"config": {"max_t": 240}}, discard=False)) as work:
        (work.folder / "checkpoint" / "step-00000100").mkdir(parents=True)
    text = refused("promote", run_dir, "--output", output, "--max-t", "12")
    assert "max_t 240 instead of 12" in text
    assert "--force" in text
    with closing(Unfinished(output, {"config": {"max_t": 240}}, discard=False)) as work:
        assert (work.folder / "checkpoint" / "step-00000100").is_dir()
        assert work.sessions == 2
    with closing(Unfinished(output, {"config": {"max_t": 12}}, discard=True)) as work:
        assert not (work.folder / "checkpoint").exists()
        assert work.sessions == 1


def test_space_is_checked_before_the_training(tmp_path: Path) -> None:
    with closing(Unfinished(tmp_path / "model", {}, discard=False)) as work:
        work.check_space(1000, 1000)
        with pytest.raises(OutsideError, match=r"GiB free, and the final run needs 2.24e\+05 GiB") as caught:
            work.check_space(10**13, 10**13)  # two checkpoints of 12 bytes per parameter
    assert "free some space" in caught.value.hint


def test_waiting_for_a_full_disk_is_reported_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    tries = iter([OSError(errno.ENOSPC, "No space left on device")] * 3)

    def write() -> None:
        if (error := next(tries, None)) is not None:
            raise error

    storage.patiently(write, 300)
    assert caplog.messages == ["waiting up to 300 s for the storage: [Errno 28] No space left on device"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file may be larger than `size` bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_an_export_that_fails_ends_in_an_error_and_nothing_is_trained_again(run_dir: Path) -> None:
    with largest_file(64_000):  # the head's checkpoint fits, and the model does not
        text = refused("promote", run_dir, "--max-t", "40", code=4)
    assert "the final run failed: SafetensorError: " in text
    assert "continues from the last checkpoint" in text
    (error,) = run_dir.glob("promoted/.t0000.unfinished/error.txt")
    assert str(error) in text.replace("\n", "")
    assert "Traceback" in error.read_text()
    seen: list[int] = []
    promote(run_dir, max_t=40, progress=lambda step, total: seen.append(step))  # noqa: ARG005
    assert seen == [40], "the checkpoint of the last step was enough"


def test_an_error_of_training_is_no_traceback(run_dir: Path) -> None:
    made = json.loads((run_dir / "sweep.json").read_text())
    made["data"]["classes"] = ["good"]  # labels reach beyond the only class
    (run_dir / "sweep.json").write_text(json.dumps(made))
    text = refused("promote", run_dir, code=4)
    assert "the final run failed: IndexError: " in text


def rewrite(run_dir: Path, place: int, **changes: Any) -> None:
    """Change the event in one line of the record."""
    path = run_dir / "record.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    events[place].update(changes)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_trial_without_a_finite_value_is_not_promoted(run_dir: Path) -> None:
    rewrite(run_dir, 3, metrics={"eval_loss": "NaN", "epoch": 3.0}, action="stop", reason="diverged")
    rewrite(run_dir, 4, state="PRUNED", reason="diverged")
    text = refused("promote", run_dir, "--trial", "t0000")
    assert "error: trial t0000 diverged: it never had a finite eval_loss\n" in text
    assert "hint: choose a trial that the leaderboard ranks" in text
    assert f"no trial in {run_dir} has a usable eval_loss" in refused("promote", run_dir)
    assert not (run_dir / "promoted").exists()


def test_a_final_run_that_diverges_is_not_exported(run_dir: Path) -> None:
    config = json.loads((run_dir / "record.jsonl").read_text().splitlines()[1])["config"]
    # Each step of 10 with a weight decay of 1 multiplies the weights by -9.
    rewrite(run_dir, 1, config=config | {"learning_rate": 10.0, "weight_decay": 1.0, "lr_scheduler_type": "constant"})
    text = refused("promote", run_dir, "--max-t", "60")
    assert "error: the final run of t0000 diverged: its predictions are not finite numbers\n" in text
    assert "hint: choose another trial" in text
    assert list((run_dir / "promoted").iterdir()) == [], "no checkpoint is left of it either"


@pytest.mark.parametrize("name", ["promoted", "my models", 'it\'s "here" $HOME'])
def test_printed_commands_survive_the_shell(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    result = {"output": str(folder), "task": "causal-lm", "final_run": {"config": {}}}
    line = after_promotion(result).splitlines()[-1].removeprefix("next").strip()
    python, option, source = shlex.split(line)
    assert (python, option) == ("python", "-c")
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    assert {"text-generation", str(folder)} <= set(texts)
    lines = {line.partition(" ")[0]: shlex.split(line)[1:] for line in where_it_is(str(folder), folder).splitlines()[1:]}
    assert lines["study"] == ["optuna-dashboard", str(folder / "study.log")]
    assert lines["next"] == ["scalesweep", "promote", str(folder)]


def test_an_adapter_is_exported_beside_the_merged_model_and_checked(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = json.loads((run_dir / "record.jsonl").read_text().splitlines()[1])
    kind, base = ("qlora", ", in 4 bits") if find_spec("bitsandbytes") is not None else ("lora", ":")
    adapter = {"adapter": kind, "base_dtype": "bf16", "unfreezing": "gradual", "unfreeze_interval": 4}
    rewrite(run_dir, 1, config=event["config"] | adapter)
    result = promote(run_dir, max_t=12)
    done = Path(result["output"])
    assert "(reloaded with transformers, and its adapter with peft: both predict the same)" in after_promotion(result)
    card = (done / "README.md").read_text()
    assert f"An adapter of rank 8 was trained ({kind})" in card
    assert f"peft loads it over the base model{base}" in card
    config = json.loads((done / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["task_type"]) == (8, "SEQ_CLS")
    assert "/" not in config["base_model_name_or_path"], "no folder of this machine is published"
    assert not [name for name in load_file(done / "model.safetensors") if "lora" in name]
    write = Adapters.write
    monkeypatch.setattr(Adapters, "write", lambda self, folder, own: write(self, folder, {n: 2 * t for n, t in own.items()}))
    text = refused("promote", run_dir, "--max-t", "12", "--output", run_dir / "other", code=4)
    assert "the exported adapter predicts other values than the trained model" in text
