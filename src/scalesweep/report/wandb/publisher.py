"""Brings W&B up to the record. The same code follows a running sweep and publishes one that is over.

Nothing is kept between two calls but what makes the second one cheap: whatever W&B lacks is found and sent again. So the server may
fail at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.record import Record, Trial
from scalesweep.record.table import entries
from scalesweep.report.wandb import plain
from scalesweep.report.wandb.content import RunContent, project, sweep_run, trial_run, trial_summary
from scalesweep.report.wandb.server import ServedRun, Server, ServerError
from scalesweep.report.wandb.uploader import INIT_SECONDS, Uploader

REFRESH_SECONDS = 60.0  # between two updates of the ranks of trials that have ended, at least
SHARE = 0.05  # of the time that these updates may take
RECHECK_SECONDS = 10.0  # after which the server is asked again whether it is there
REQUESTS = 8  # at once

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Sent:
    """What W&B has of a trial: the state that was sent, and the summary."""

    state: tuple[Any, ...]
    summary: Mapping[str, Any]


class Publisher:
    """W&B's view of one sweep. `server` is None if the runs go to files under `folder`."""

    def __init__(self, record: Record, folder: Path, server: Server | None, say: Say, init_seconds: float = INIT_SECONDS) -> None:
        self._project, self._entity = project(record)
        self._folder, self._server, self._say, self._init_seconds = folder, server, say, init_seconds
        self._uploader = self._new_uploader()
        self._sent: dict[str, _Sent] = {}
        self._checked = self._next_refresh = 0.0
        self.written = 0  # runs that were opened
        self.total = 0  # runs of the sweep

    @property
    def missing(self) -> int:
        """Runs that are not known to be complete."""
        return self.total - len(self._sent)

    def _new_uploader(self) -> Uploader:
        return Uploader(self._folder, self._project, self._entity, self._server is None, self._say, self._init_seconds)

    def update(self, record: Record, rows: list[dict[str, Any]], over: bool) -> None:
        """Bring all runs up to the record. While the sweep runs, ranks and the sweep's own run follow at intervals.

        Args:
            rows: of the sweep's run, from `sweep_rows`.
            over: no process works on the sweep, so all runs are finished.

        Raises:
            ServerError: the server failed; the next call sends what is missing.
        """
        self.total = len(record.trials) + 1
        try:
            self._update(record, rows, over)
        except ServerError:
            self._forget()
            raise

    def _update(self, record: Record, rows: list[dict[str, Any]], over: bool) -> None:
        board = entries(record, None)
        moved: list[tuple[Trial, dict[str, Any]]] = []  # trials whose rank changed, and nothing else
        for entry in board:
            trial = record.trials[entry["trial"]]
            state = _state(trial, over)
            sent = self._sent.get(trial.name)
            if sent is not None and sent.state == state:
                if sent.summary != entry and trial.state.ended:
                    moved.append((trial, entry))
            elif self._server is not None or trial.state.ended or over:  # files are written once, when the trial has ended
                self._trial(record, trial, entry, over)
        if over or time.monotonic() >= self._next_refresh:
            begun = time.monotonic()
            self._move(record, moved, over)
            if self._server is not None or over:
                self._sweep(record, rows, over)
            now = time.monotonic()
            self._next_refresh = now + max(REFRESH_SECONDS, (now - begun) / SHARE)

    def _trial(self, record: Record, trial: Trial, entry: dict[str, Any], over: bool) -> None:
        run = trial_run(record, trial, entry, over)
        if run.exit_code is None and not (trial.placed and trial.reports):
            if run.id not in self._uploader.open:
                return  # a run of a trial that waits is opened later, and one that is open stays so
        self._write(run)
        self._sent[trial.name] = _Sent(_state(trial, over), entry)

    def _write(self, run: RunContent, extra: dict[str, Any] | None = None) -> None:
        self._check()
        if run.exit_code is not None and run.id not in self._uploader.open:
            if self._server is None:
                if self._uploader.has(run):
                    return
            elif self._server.answers and (there := self._server.run(self._project, self._entity, run.id)) is not None:
                if there.rows > len(run.rows) and run.job_type == "trial":
                    self._say(_repeated(run, there))
                if there.rows >= len(run.rows) and there.summary.get("record_digest") == run.digest and not extra:
                    self._change(there, run.told)
                    return
        self.written += 1
        self._uploader.write(run, extra)

    def _change(self, there: ServedRun, told: Mapping[str, Any]) -> None:
        changes = {key: value for key, value in told.items() if there.summary.get(key) != value}
        if changes and self._server is not None:
            self._server.change_summary(there, changes)

    def _move(self, record: Record, moved: list[tuple[Trial, dict[str, Any]]], over: bool) -> None:
        """Update the summaries of trials that have ended."""
        if self._server is None or not self._server.answers:
            if over:  # a run's files are written anew, so once
                for trial, entry in moved:
                    self._trial(record, trial, entry, over)
            return
        self._check()
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda one: self._move_one(record, *one), moved))

    def _move_one(self, record: Record, trial: Trial, entry: dict[str, Any]) -> None:
        assert self._server is not None
        run_id = trial_run(record, trial, entry, True).id
        there = self._server.run(self._project, self._entity, run_id)
        if there is not None:
            self._change(there, trial_summary(record, trial, entry))
            self._sent[trial.name] = _Sent(self._sent[trial.name].state, entry)

    def _sweep(self, record: Record, rows: list[dict[str, Any]], over: bool) -> None:
        run = sweep_run(record, rows, over)
        self._write(run)
        if over:
            self._sent[""] = _Sent((), {})

    def _check(self) -> None:
        """Ask the server from time to time whether it is there: its client waits long for one that is not.

        Raises:
            ServerError: it is not.
        """
        if self._server is not None and time.monotonic() >= self._checked + RECHECK_SECONDS:
            self._server.check()
            self._checked = time.monotonic()

    def _forget(self) -> None:
        """Drop the open runs. Nobody knows how much of them has arrived, so the next update opens them again."""
        open_runs = {run_id.partition("-")[2] for run_id in self._uploader.open}
        self._sent = {name: sent for name, sent in self._sent.items() if name not in open_runs}
        self._checked = 0.0
        self._uploader.close()
        self._uploader = self._new_uploader()

    def close(self) -> None:
        self._uploader.close()


def _state(trial: Trial, over: bool) -> tuple[Any, ...]:
    """What a trial's run depends on, apart from its place among the others."""
    return trial.state, len(trial.reports), trial.attempts, over and not trial.state.ended


def _repeated(run: RunContent, there: ServedRun) -> str:
    return f"W&B: {plain.line(run.name)} has {there.rows} rows, and the record has {len(run.rows)}: delete that run and publish again"
