"""The study's file: what Optuna and its dashboard read there, also where the disk was full for a while."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from scalesweep.sweep.study import new_study_storage

FILL = """
import resource, sys
import optuna
from pathlib import Path
from scalesweep.sweep.study import new_study_storage

path = Path(sys.argv[1])
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(storage=new_study_storage(path), study_name="s")

def one():
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 3)
    study.tell(trial, trial.number / 10)

one()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))  # a part of a line still fits
for _ in range(3):
    one()
assert path.read_bytes()[-1:] != b"\\n"
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
one()
"""


def as_optuna_reads_it(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


def test_others_read_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=new_study_storage(path), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    seen = as_optuna_reads_it(path)
    assert [(t.params, t.value, t.state) for t in seen.trials] == [(t.params, t.value, t.state) for t in study.trials]
    # A note made in the dashboard stays, and does no harm.
    seen.set_user_attr("note", "mine")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    again = as_optuna_reads_it(path)
    assert again.user_attrs == {"note": "mine"}
    assert [(t.params, t.value) for t in again.trials] == [(t.params, t.value) for t in study.trials]


def test_what_is_enqueued_runs_next_and_once(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=new_study_storage(path), study_name="s")
    drawn = []
    for number in range(30):
        if number % 3 == 0:
            study.enqueue_trial({"x": number / 30})
        trial = study.ask()
        assert trial.number == number
        drawn.append(trial.suggest_float("x", 0, 1))
        if number % 2:  # the others go on
            study.tell(trial, drawn[-1])
    assert drawn[::3] == [number / 30 for number in range(0, 30, 3)]
    assert len(set(drawn)) == 30
    seen = as_optuna_reads_it(path).trials
    assert [(t.params, t.value, t.state) for t in seen] == [(t.params, t.value, t.state) for t in study.trials]
    assert [t.params["x"] for t in seen] == drawn


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE") or not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes")
def test_a_full_disk_is_no_end_and_what_it_refused_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    subprocess.run([sys.executable, "-c", FILL, str(path)], check=True, timeout=100)
    assert [(t.value, t.intermediate_values) for t in as_optuna_reads_it(path).trials] == [(n / 10, {3: 0.5}) for n in range(5)]
