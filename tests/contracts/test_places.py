"""Properties of a run folder wherever it is: a folder, or a URL of an object store (a real S3 server process)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from events import MANIFEST, end, report, trial
from jobs import job, reports
from s3_server import BUCKET, CREDENTIALS, Server, s3_server
from scalesweep.errors import OutsideError, UserError
from scalesweep.examples import Columns, Examples
from scalesweep.record import RecordWriter, read_record
from scalesweep.record import store as record_store
from scalesweep.record.evaluations import read_evaluations
from scalesweep.record.lease import Lease
from scalesweep.record.store import clear_unless_began
from scalesweep.report.words import failures
from scalesweep.storage import UrlPath, check_writable, place, working_folder
from scalesweep.sweep.checkpoints import CheckpointSweeper
from scalesweep.sweep.launch import check_unused
from scalesweep.training import checkpoint

Place = Path | UrlPath


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as started:
        yield started


@pytest.fixture(scope="module", params=["folder", "url"])
def anew(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """Gives a run folder that is not there yet, of one kind or the other."""
    if request.param == "folder":
        return lambda: tmp_path_factory.mktemp("place") / "run"
    server: Server = request.getfixturevalue("server")
    return lambda: place(server.url(f"runs/{uuid.uuid4().hex}"))


@pytest.fixture
def run_dir(anew: Callable[[], Place]) -> Place:
    return anew()


def leases(run_dir: Place) -> list[str]:
    names = run_dir.names() if isinstance(run_dir, UrlPath) else [path.name for path in run_dir.iterdir()]
    return sorted(name for name in names if name.startswith("lease-"))


# ---- the record -------------------------------------------------------------------------------------------------------------


def test_events_survive_over_sessions_and_pieces(run_dir: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_store, "SEGMENT_BYTES", 300)
    events = [event for n in range(6) for event in (trial(f"t{n}", n), report(f"t{n}", 4, 0.5, 1), end(f"t{n}", "PRUNED"))]
    writer = RecordWriter(run_dir, MANIFEST)
    for number, event in enumerate(events):
        if number == 7:
            writer.close()
            writer = RecordWriter(run_dir)
            assert len(writer.record.trials) == 3
        writer.append(event)
        assert record_store.read_events(run_dir) == events[: number + 1], "an event is there before it has any effect"
    writer.close()
    assert [t.name for t in read_record(str(run_dir)).by_number()] == [f"t{n}" for n in range(6)]
    if isinstance(run_dir, UrlPath):
        assert len((run_dir / "record").names()) > 6
        assert not [name for name in run_dir.names() if name.startswith(".probe")]


def test_the_numbers_of_rows_survive_over_sessions_and_what_is_lost_of_them_has_no_error_bar(
    run_dir: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_store, "SEGMENT_BYTES", 40)
    data = Columns.of({"label": np.array([0, 1, 1, 0], dtype=np.uint8)})
    losses = {f"t{n}": np.array([0.5, 0.25, 1.0, n], dtype=np.float16) for n in range(5)}
    writer = RecordWriter(run_dir, MANIFEST)
    for number, (name, values) in enumerate(losses.items()):
        if number == 2:
            if isinstance(run_dir, Path):  # the remains of a process that was killed during a write
                with (run_dir / "examples.bin").open("ab") as file:
                    file.write(b"torn")
            writer.close()
            writer = RecordWriter(run_dir)
        if number == 4:
            monkeypatch.setattr(record_store, "EXAMPLES_BYTES", 40)
        writer.append(trial(name, number))
        for fidelity in (4, 8):
            examples = Examples(4, 4, Columns.of({"loss": values, "class": np.full(4, fidelity, dtype=np.uint8)}), data)
            writer.append(report(name, fidelity, 0.5, None) | {"examples": examples})
    writer.close()
    assert writer.record.notes == ["the numbers of validation rows fill 0 MiB: later trials have no standard errors"]
    record = read_record(str(run_dir))
    assert record.trials == writer.record.trials
    assert len({str(kept["data"]) for kept in record.examples}) == 1, "what depends on the data alone is there once"
    assert {type(event.get("examples")) for event in record_store.read_events(run_dir)} == {dict, type(None)}
    places = {name: kept for name, trial in record.trials.items() if (kept := trial.reports[1].examples) is not None}
    found = read_evaluations(run_dir, places)
    assert list(found) == ["t0", "t1", "t2", "t3"], "the bound was hit"
    for name, evaluation in found.items():
        assert (evaluation.rows, evaluation.of) == (4, 4)
        assert list(evaluation.columns["loss"]) == list(losses[name])
        assert list(evaluation.columns["label"]) == [0, 1, 1, 0]
        assert list(evaluation.columns["class"]) == [8] * 4
    last = places["t3"]["found"]
    if isinstance(run_dir, Path):
        (run_dir / last["file"]).write_bytes((run_dir / last["file"]).read_bytes()[: last["start"] + 3])
    else:
        (run_dir / last["file"]).unlink()
    left = read_evaluations(run_dir, places)
    assert "t0" in left
    assert "t3" not in left
    assert all(np.array_equal(evaluation.columns["loss"], losses[name]) for name, evaluation in left.items())


def test_each_failed_attempt_leaves_its_traceback_in_a_file_without_secrets(
    run_dir: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AbCdEfGh12345678")
    writer = RecordWriter(run_dir, MANIFEST)
    error = "OSError: http://me:pass@hub/x?token=abc&n=1 refused hf_AbCdEfGh12345678"
    text = f'Traceback (most recent call last):\n  File "model.py", line 7, in forward\n{error}\n'
    start = {"event": "start", "time": 1.0, "trial": "t0"}
    for event in (
        trial("t0", 0),
        start | {"attempt": 1},
        {"event": "died", "time": 2.0, "trial": "t0", "traceback": "The actor died unexpectedly"},
        start | {"attempt": 2},
        end("t0", "FAIL", "error") | {"error": error, "traceback": text},
    ):
        writer.append(event)
    writer.close()
    shown = "OSError: http://***@hub/x?token=***&n=1 refused ***"
    assert (run_dir / "errors/t0-1.txt").read_bytes() == b"The actor died unexpectedly\n"
    assert (run_dir / "errors/t0-2.txt").read_bytes() == text.replace(error, shown).encode()
    record = read_record(str(run_dir))
    assert (record.trials["t0"].error, record.trials["t0"].traceback) == (shown, "errors/t0-2.txt")
    assert failures(record) == [f"t0 failed: {shown} (traceback: {run_dir / 'errors/t0-2.txt'})"]
    assert record.trials == writer.record.trials


def test_what_is_no_run_folder_gets_a_clear_error(run_dir: Place) -> None:
    with pytest.raises(UserError, match=r"does not exist|is not a run folder"):
        read_record(run_dir)
    with pytest.raises(UserError, match=r"does not exist|is not a run folder"):
        RecordWriter(run_dir)
    writer = RecordWriter(run_dir, MANIFEST)
    writer.append(trial("t0", 0))
    writer.close()
    with pytest.raises(UserError, match="already contains a sweep"):
        RecordWriter(run_dir, MANIFEST)
    record_store.write_atomic(run_dir / "sweep.json", json.dumps({**MANIFEST, "schema_version": 99}))
    with pytest.raises(UserError, match="record version 99"):
        read_record(run_dir)
    record_store.write_atomic(run_dir / "sweep.json", "{")
    with pytest.raises(UserError, match="can't be read"):
        read_record(run_dir)


def test_a_sweep_in_which_no_trial_has_started_gives_its_folder_to_another(run_dir: Place) -> None:
    writer = RecordWriter(run_dir, MANIFEST)
    writer.append({"event": "session", "time": 1.0, "resumed": False})
    writer.append(trial("t0", 0))
    with pytest.raises(UserError, match="in use by another"):
        clear_unless_began(run_dir)
    writer.close()
    check_unused(run_dir)
    clear_unless_began(run_dir)
    writer = RecordWriter(run_dir, {**MANIFEST, "name": "another"})
    assert (writer.record.manifest["name"], writer.record.trials) == ("another", {})
    writer.append(trial("t0", 0))
    writer.append({"event": "start", "time": 2.0, "trial": "t0", "attempt": 1})
    writer.close()
    clear_unless_began(run_dir)
    with pytest.raises(UserError, match="already contains a sweep"):
        check_unused(run_dir)
    assert read_record(run_dir).trials["t0"].attempts == 1


def test_a_writer_killed_while_it_writes_leaves_whole_lines_and_its_host_goes_on_at_once(run_dir: Place) -> None:
    code = (
        "import sys; from scalesweep.storage import place; from scalesweep.record import RecordWriter; import events\n"
        "writer, number = RecordWriter(place(sys.argv[1]), events.MANIFEST), 0\n"
        "while True: writer.append(events.trial(f't{number}', number)); number += 1"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code, str(run_dir)], env={**os.environ, "PYTHONPATH": path})
    while not read_trials(run_dir) > 20:
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(UserError, match="in use by another"):
        RecordWriter(run_dir)
    process.kill()
    process.wait()
    before = read_trials(run_dir)
    writer = RecordWriter(run_dir)
    writer.append(trial("last", before))
    writer.close()
    assert read_trials(run_dir) == before + 1


def read_trials(run_dir: Place) -> int:
    try:
        return len(read_record(run_dir).trials)
    except UserError:
        return 0


# ---- the lease --------------------------------------------------------------------------------------------------------------


def test_a_lease_of_another_host_is_waited_for(run_dir: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease(run_dir)
    monkeypatch.setattr(Lease, "_lock_file", lambda _: True)
    for kernel in ("_kernel", "_kernel_and_file"):
        monkeypatch.setattr(f"scalesweep.record.lease.{kernel}", lambda *_: "another")
    with pytest.raises(UserError, match=r"which was alive \d s ago"):
        Lease(run_dir)
    assert len(leases(run_dir)) == 1
    first.close()
    second = Lease(run_dir)
    assert len(leases(run_dir)) == 1
    second.close()
    assert not leases(run_dir)


def test_one_that_was_taken_over_writes_no_more(run_dir: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease(run_dir, renew_seconds=0.2)
    monkeypatch.setattr(Lease, "_lock_file", lambda _: True)  # the other host's
    second = Lease(run_dir, seconds=-1.0, renew_seconds=0.2)  # to whom the first has not answered for long enough
    deadline = time.monotonic() + 20
    while not first._lost:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(OutsideError, match="taken over this sweep"):
        first.check()
    second.check()
    first.close()
    assert leases(run_dir) == [second.path.name]
    second.close()


def test_of_many_drivers_at_the_same_moment_never_two_get_the_folder(run_dir: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "_lock_file", lambda _: False)  # as if each were on a host of its own
    for _ in range(5):
        got: list[Lease] = []
        barrier = threading.Barrier(4)

        def claim(got: list[Lease] = got, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with contextlib.suppress(UserError):
                got.append(Lease(run_dir))

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) <= 1
        for lease in got:
            lease.close()
        assert not leases(run_dir)


def test_a_server_that_does_not_answer_for_a_while_is_waited_for(server: Server) -> None:
    run_dir = place(server.url("runs/halted"))
    writer = RecordWriter(run_dir, MANIFEST)
    writer.append(trial("t0", 0))
    server.halt()
    threading.Timer(5.0, server.wake).start()
    writer.append(trial("t1", 1))
    writer.close()
    assert list(read_record(run_dir).trials) == ["t0", "t1"]


# ---- what a URL may be ------------------------------------------------------------------------------------------------------


def test_what_can_not_be_written_is_told_at_once(server: Server) -> None:
    missing, nobody = server.url("x", bucket="no-such-bucket"), f"s3://{BUCKET}/x?scheme=http&endpoint_override=127.0.0.1:1"
    tries: list[Callable[[Place], object]] = [check_writable, lambda run_dir: RecordWriter(run_dir, MANIFEST)]
    with ThreadPoolExecutor() as pool:  # side by side: the client asks for seconds where nobody answers
        outcomes = {(url, write): pool.submit(write, place(url)) for url in (missing, nobody) for write in tries}
    for (url, _), outcome in outcomes.items():
        with pytest.raises(OutsideError, match="NO_SUCH_BUCKET" if url == missing else "Could not connect") as caught:
            outcome.result()
        assert caught.value.hint
    began = time.monotonic()
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        checkpoint.save(place(server.url("x", bucket="no-such-bucket")), 1, *tiny_tensors(), {"step": 1})
    assert time.monotonic() - began < 200, "what never comes back is not waited for"


@pytest.mark.parametrize(
    "url",
    ["s3://id:secret@bucket/x", "s3://id@bucket/x", "gs://bucket/x?access_token=secret", "abfs://a:secret@host/x"],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError, match="credentials") as caught:
        place(url)
    assert "secret" not in str(caught.value).replace("AWS_SECRET", "")
    assert "environment" in caught.value.hint


def test_what_is_no_url_of_pyarrow_is_a_users_error() -> None:
    for url in ("ftp://host/x", "s3://bucket/x?nonsense=1"):
        with pytest.raises(UserError, match=r"Unrecognized|Unexpected"):
            place(url).exists()
    with pytest.raises(UserError, match="is a URL that was made a Path"):
        place(Path("s3://bucket/x"))


def test_names_and_joins() -> None:
    url = place("s3://bucket/a/b/?region=eu-west-1")
    assert isinstance(url, UrlPath)
    assert (url.name, str(url / "c" / "d")) == ("b", "s3://bucket/a/b/c/d?region=eu-west-1")
    assert place(str(url / "c")).name == "c"
    assert place("file:///tmp/x") == Path("/tmp/x") == place("/tmp/x")
    assert working_folder(url) != working_folder(place("s3://bucket/a/c"))
    assert working_folder(Path("/tmp/x")) == Path("/tmp/x").resolve()


def test_no_credentials_reach_the_run_folder(server: Server) -> None:
    run_dir = place(server.url("runs/planted"))
    writer = RecordWriter(run_dir, MANIFEST)
    writer.append(trial("t0", 0))
    for name in run_dir.names(inside=True):
        content = (run_dir / name).read_bytes().decode()
        assert not [value for key, value in CREDENTIALS.items() if "REGION" not in key and value in content]
    writer.close()


# ---- checkpoints ------------------------------------------------------------------------------------------------------------


def tiny_model() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(30, 30)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    return dict(model.named_parameters()), optimizer


def tiny_tensors() -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.Tensor]]:
    weights, optimizer = tiny_model()
    return weights, checkpoint.moments_of(optimizer, weights)


def checkpoints_of(run_dir: Place) -> Place:
    """As a session begins: a checkpoint makes no folder above its trial's, for storage that is away has none."""
    folder = run_dir / "checkpoints"
    if isinstance(folder, Path):
        folder.mkdir(parents=True)
    return folder


def test_a_checkpoint_comes_back_and_the_older_one_goes(run_dir: Place) -> None:
    folder = checkpoints_of(run_dir) / "t0000"
    assert checkpoint.steps(folder) == []
    trained, moments = tiny_tensors()
    for step in (1, 2):
        checkpoint.save(folder, step, trained, moments, {"step": step})
        assert checkpoint.steps(folder) == [step]
    found = checkpoint.read(folder, 2, lambda _: True)
    assert found.state == {"step": 2}
    assert all(torch.equal(found.weights[name], value) for name, value in trained.items())
    other, fresh = tiny_model()
    for value in other.values():
        value.data.zero_()
    checkpoint.apply(found, other, fresh)
    assert all(torch.equal(other[name], value) for name, value in trained.items())


def files_of(folder: Place) -> dict[str, Path | UrlPath]:
    if isinstance(folder, UrlPath):
        return {name: folder / name for name in folder.names(inside=True)}
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


# Of the head alone, so that checkpoints are small.
CONFIG: dict[str, Any] = {
    "unfreezing": "head",
    "dropout": 0.1,
    "learning_rate": 1e-3,
    "eval_interval": 4,
    "max_t": 12,
    "rungs": [],
}


def cut_weights(files: dict[str, Any]) -> None:
    path = files["step-00000004/weights.safetensors"]
    path.write_bytes(path.read_bytes()[:-1000])


def lose_state(files: dict[str, Any]) -> None:
    files["step-00000004/state.json"].unlink()


def foreign_state(files: dict[str, Any]) -> None:
    files["step-00000004/state.json"].write_bytes(b'{"step": 4}')


def lose_all(files: dict[str, Any]) -> None:
    for path in files.values():
        path.unlink()


@pytest.fixture(scope="module")
def undisturbed() -> list[Any]:
    return list(reports(job(CONFIG)))


@pytest.fixture(scope="module")
def left(anew: Callable[[], Place]) -> dict[str, bytes]:
    """The files of a trial that reported at 8 and then died: the checkpoint at 4 is there."""
    folder = checkpoints_of(anew()) / "t0000"
    for found in reports(job(CONFIG, folder)):
        if found.step == 8:
            break
    return {name: path.read_bytes() for name, path in files_of(folder).items()}


def died_at_8(run_dir: Place, left: dict[str, bytes]) -> Place:
    folder = checkpoints_of(run_dir) / "t0000"
    for name, content in left.items():
        path = folder / name
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize("damage", [None, cut_weights, lose_state, foreign_state, lose_all])
def test_a_trial_goes_on_from_its_checkpoint_or_says_that_it_starts_again(
    run_dir: Place, damage: Callable[[dict[str, Any]], None] | None, left: dict[str, bytes], undisturbed: list[Any]
) -> None:
    folder = died_at_8(run_dir, left)
    if damage is not None:
        damage(files_of(folder))
    resumed = list(reports(job(CONFIG, folder, reached=8.0)))
    assert resumed == undisturbed, "the first one from the checkpoint, or trained again"
    notes = [note for found in resumed for note in found.notes]
    if damage is None:
        assert not notes
    else:
        assert len(notes) == 1
        assert "t0000" in notes[0]
        assert "the trial starts again" in notes[0]
    assert checkpoint.steps(folder) == [12]


def test_a_damaged_checkpoint_falls_back_to_an_older_one(
    run_dir: Place, left: dict[str, bytes], undisturbed: list[Any]
) -> None:
    folder = died_at_8(run_dir, left)
    for name, path in files_of(folder).items():  # as if it had died after the newer one and before the older was dropped
        newer = folder / "step-00000008"
        if isinstance(newer, Path):
            newer.mkdir(exist_ok=True)
        content = path.read_bytes()
        (newer / Path(name).name).write_bytes(content[: len(content) // 2])
    resumed = list(reports(job(CONFIG, folder, reached=8.0)))
    assert resumed == undisturbed
    assert [note for found in resumed for note in found.notes] == [
        "the checkpoint of t0000 at step 8 is damaged; the trial continues from step 4"
    ]


def test_checkpoints_of_ended_trials_go_at_once_and_what_a_dead_driver_left_at_the_next_start(run_dir: Place) -> None:
    folder = checkpoints_of(run_dir)
    for name in ("t0", "t1", "t2"):
        checkpoint.save(folder / name, 1, *tiny_tensors(), {"step": 1})
    writer = RecordWriter(run_dir, MANIFEST)
    for number in range(3):
        writer.append(trial(f"t{number}", number))
    writer.append(end("t0", "PRUNED"))  # and here a driver died
    sweeper = CheckpointSweeper(folder, writer.record)
    wait_for(lambda: not checkpoint.steps(folder / "t0"))
    writer.append(end("t1", "FAIL"))
    sweeper.handle(end("t1", "FAIL"), writer.record)
    wait_for(lambda: not checkpoint.steps(folder / "t1"))
    sweeper.close(writer.record)
    writer.close()
    assert checkpoint.steps(folder / "t2") == [1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
