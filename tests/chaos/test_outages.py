"""A sweep loses for a while what it depends on: the disk, the shared folder, the W&B server, the patience of its user."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from intact import check, events_of
from sessions import ONE_GPU, Session

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

OUTAGE_SECONDS = float(os.environ.get("SCALESWEEP_OUTAGE_SECONDS", "60"))


def in_one(**changes: object) -> dict[str, object]:
    return {"search_space": ONE_GPU, "resources": {"max_concurrent_trials": 1, "max_failures": 3}, **changes}


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in a file."""
    image, folder = tmp_path / "disk.img", tmp_path / "shared"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(3 * 1024**3)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def goes_on(session: Session) -> None:
    session.wait_for_reports(session.count("report") + 1)


def stands_still(session: Session, seconds: float) -> None:
    """Nothing is recorded, and the driver lives."""
    time.sleep(3)  # what was under way
    before = session.count("report")
    time.sleep(seconds)
    assert session.driver.poll() is None, session.text()
    assert session.count("report") == before


def test_storage_that_is_full_frozen_or_away_for_a_while_is_waited_for(shared: Path, tmp_path: Path) -> None:
    run_dir = shared / "run"
    session = Session(None, tmp_path, run_dir, **in_one(budget={"run_cap": 4}))
    session.wait_for_reports(3)

    # Full, for the driver: the next line of the record fits in part only.
    driver = session.driver.pid
    _, hard = resource.prlimit(driver, resource.RLIMIT_FSIZE)
    resource.prlimit(driver, resource.RLIMIT_FSIZE, ((run_dir / "record.jsonl").stat().st_size + 20, hard))
    stands_still(session, OUTAGE_SECONDS / 10)
    resource.prlimit(driver, resource.RLIMIT_FSIZE, (hard, hard))
    goes_on(session)

    # Writes block, as on NFS when the server does not answer.
    subprocess.run(["fsfreeze", "-f", str(shared)], check=True)
    try:
        stands_still(session, OUTAGE_SECONDS)
    finally:
        subprocess.run(["fsfreeze", "-u", str(shared)], check=True)
    goes_on(session)

    # Paths lead nowhere, as after an unmount; what is open stays so.
    run_dir.rename(shared / "elsewhere")
    time.sleep(OUTAGE_SECONDS / 6)
    assert session.driver.poll() is None, session.text()
    assert not run_dir.exists(), "somebody began a new folder under the old name"
    (shared / "elsewhere").rename(run_dir)
    goes_on(session)

    session.finish()
    check(run_dir)
    assert {event["state"] for event in events_of(run_dir) if event["event"] == "end"} <= {"COMPLETE", "PRUNED"}


# ---- a dead W&B server, planted secrets, Ctrl-C twice, and pickles in the run folder -----------------------------------------

SECRETS = {
    "WANDB_API_KEY": "c0ffee" * 6 + "dead",
    "HF_TOKEN": "hf_PlantedTokenOfNobody000000000000",
    "AWS_SECRET_ACCESS_KEY": "Planted/Secret/Key/Of/Nobody/000000000000",
}
BOMB = b"cposix\nsystem\n(S'touch %s'\ntR."  # a pickle that runs a command when it is loaded

# A driver that says when a pickle of the run folder is opened.
GUARDED = """
import os, sys

def guard(event, args):
    if event == "open" and isinstance(args[0], str) and os.environ["GUARDED"] in args[0] and "r" in str(args[1] or "r"):
        # examples.bin holds bare numbers, which are read as such
        if args[0].endswith((".pkl", ".pickle", ".pt", ".bin")) and os.path.basename(args[0]) != "examples.bin":
            os.write(2, f"OPENED {args[0]}".encode())
            os._exit(99)

sys.addaudithook(guard)
from scalesweep.cli import main
main()
"""
GUARDED_CLI = [sys.executable, "-c", GUARDED]


def command_lines() -> str:
    found = []
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return "\n".join(found)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, str, Path]]:
    """A sweep whose W&B server does not answer, stopped by Ctrl-C twice. With it: command lines that were seen, Ray's folder."""
    folder = tmp_path_factory.mktemp("interrupted")
    ray_folder = Path(
        subprocess.run(["mktemp", "-d", "/tmp/ssrXXXX"], check=True, capture_output=True, text=True).stdout.strip()
    )
    env = {
        **SECRETS,
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "RAY_TMPDIR": str(ray_folder),
        "GUARDED": str(folder / "run"),
    }
    session = Session(
        None, folder, env=env, **in_one(budget={"run_cap": 3}, tracking={"wandb": {"mode": "online", "project": "tests"}})
    )
    session.wait_for_reports(3)
    seen = command_lines()
    session.driver.send_signal(signal.SIGINT)
    time.sleep(0.2)
    session.driver.send_signal(signal.SIGINT)
    session.end(120)
    yield session, seen, ray_folder
    session.kill_driver()
    subprocess.run(["rm", "-rf", str(ray_folder)], check=True)


def test_ctrl_c_twice_stops_at_once_and_says_how_to_go_on(interrupted: tuple[Session, str, Path]) -> None:
    session, _, _ = interrupted
    assert session.driver.poll() == 130, session.text()
    assert f"scalesweep resume {session.run_dir}" in session.text()
    assert "Traceback" not in session.text()


def test_no_pickle_of_the_run_folder_is_read_and_the_sweep_ends_as_it_should(interrupted: tuple[Session, str, Path]) -> None:
    session, _, _ = interrupted
    trap = session.folder / "sprung"
    tune = session.run_dir / ".tune" / "tune"
    tune.mkdir(parents=True, exist_ok=True)
    planted = [
        *session.run_dir.rglob("*.pkl"),
        *(tune / name for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl")),
    ]
    planted += [session.run_dir / "checkpoints" / "t0000" / "state.pkl", session.run_dir / "study.pkl"]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BOMB % str(trap).encode())
    session.resume(GUARDED_CLI)
    session.finish()
    assert session.count("trial") == 3
    check(session.run_dir)
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BOMB % str(trap).encode())
    for words in (["leaderboard", str(session.run_dir)], ["promote", str(session.run_dir), "--num-gpus", "1", "--max-t", "12"]):
        done = subprocess.run(
            [*GUARDED_CLI, *words], capture_output=True, text=True, check=False, env={**os.environ, **session.env}
        )
        assert done.returncode == 0, done.stderr
    assert not trap.exists()


def test_a_wandb_server_that_is_away_holds_nothing_up_and_is_told(interrupted: tuple[Session, str, Path]) -> None:
    session, _, _ = interrupted
    assert "W&B: http://127.0.0.1:9 can't be reached: Connection refused" in session.text()
    assert f"`scalesweep publish {session.run_dir}` sends what is missing" in session.text()


def test_secrets_are_nowhere(interrupted: tuple[Session, str, Path]) -> None:
    session, seen, ray_folder = interrupted
    assert "ray::" in seen
    logs = [path for path in ray_folder.rglob("*") if path.is_file()]
    assert logs, "Ray has logged elsewhere"
    written = [path for path in session.folder.rglob("*") if path.is_file()]
    for name, secret in SECRETS.items():
        assert secret not in seen, f"{name} is in a command line"
        for path in [*written, *logs]:
            assert secret.encode() not in path.read_bytes(), f"{name} is in {path}"
