"""Brings W&B up to the record. The same code follows a running sweep and publishes one that is over.

Nothing is kept between two calls but what makes the second one cheap: whatever W&B lacks is found and sent again. So the server may
fail at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scalesweep.errors import first_line
from scalesweep.record import Record, Trial
from scalesweep.record.table import Entry
from scalesweep.report.wandb import workspace
from scalesweep.report.wandb.content import DIGEST, VIEW, RunContent, board_of, sweep_run, trial_run
from scalesweep.report.wandb.ids import SWEEP, run_id, settings
from scalesweep.report.wandb.promoted import promotion_run, promotions, read_provenance
from scalesweep.report.wandb.server import ServedRun, Server, ServerError
from scalesweep.report.wandb.uploader import Uploader

REFRESH_SECONDS = 60.0  # between two updates of the ranks of trials that have ended, at least
SHARE = 0.05  # of the time that these updates may take
RECHECK_SECONDS = 3.0  # after which the server is asked again whether it is there, while its client is at work
AT_ONCE = 8  # runs that are written at the same time

Say = Callable[[str], None]
Events = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Sent:
    """The part of a trial that W&B has: its state, and its row of the leaderboard."""

    state: tuple[Any, ...]
    entry: Entry


class Publisher:
    """W&B's view of one sweep. `server` is None if the runs go to files under `folder`."""

    def __init__(self, record: Record, folder: Path, server: Server | None, say: Say) -> None:
        self._project, self._entity = settings(record)["project"], settings(record)["entity"]
        self._folder, self._server, self._say = folder, server, say
        self._uploader = self._new_uploader()
        self._sent: dict[str, _Sent] = {}
        self._next_refresh = 0.0
        self._view: str | None = None  # URL of the saved workspace
        self.written = 0  # runs that were opened
        self.total = 0  # runs of the sweep
        self.promotions = 0  # runs of promoted trials beside them

    def _new_uploader(self) -> Uploader:
        return Uploader(self._folder, self._project, self._entity, self._server is None, self._say)

    @property
    def missing(self) -> int:
        """Runs that are not known to be complete."""
        return self.total - len(self._sent)

    def update(self, record: Record, events: Events, over: bool) -> None:
        """Bring all runs up to the record. While the sweep runs, ranks and the sweep's own run follow at intervals.

        Args:
            events: those that made the record.
            over: no process works on the sweep, so all runs are finished.

        Raises:
            ServerError: the server failed; the next call sends what is missing.
        """
        self.total = len(record.trials) + 1
        try:
            self._update(record, events, over)
        except ServerError:
            self._forget()
            raise

    def promoted(self, record: Record, model: Path) -> None:
        """Write the run of one promoted model.

        Raises:
            ServerError: the server failed.
        """
        if provenance := read_provenance(model):
            self._work([partial(self._write, promotion_run(record, provenance, model, board_of(record)))])

    def _update(self, record: Record, events: Events, over: bool) -> None:
        begun = time.monotonic()
        refreshes = over or begun >= self._next_refresh
        board = board_of(record)
        self._work(
            partial(self._trial, record, entry, over)
            for entry in board
            if self._lags(record.trials[entry["trial"]], entry, over, refreshes)
        )
        if refreshes and (self._server is not None or over):
            self._work([partial(self._sweep, record, board, events, over)])
        if over:
            promoted = promotions(record, self._folder, board)
            self.promotions = len(promoted)
            self._work([partial(self._write, run) for run in promoted])
        if refreshes:
            now = time.monotonic()
            self._next_refresh = now + max(REFRESH_SECONDS, (now - begun) / SHARE)

    def _lags(self, trial: Trial, entry: Entry, over: bool, refreshes: bool) -> bool:
        """Whether a trial's run is written now: it has news, or another rank and ranks are refreshed."""
        sent = self._sent.get(trial.name)
        if self._server is None and not over:
            return trial.state.ended and sent is None  # files are written when a trial has ended, and at the end of the sweep
        if sent is None or sent.state != _state(trial, over):
            return trial.state.ended or over or sent is not None or (trial.placed and bool(trial.reports))
        return refreshes and trial.state.ended and sent.entry != entry

    def _trial(self, record: Record, entry: Entry, over: bool) -> None:
        trial = record.trials[entry["trial"]]
        self._write(trial_run(record, trial, entry, over))
        self._sent[trial.name] = _Sent(_state(trial, over), entry)

    def _sweep(self, record: Record, board: list[Entry], events: Events, over: bool) -> None:
        if self._server is not None and self._view is None:
            self._view = self._workspace(record, over)
        self._write(sweep_run(record, board, events, over, self._view or ""))
        if over:
            self._sent[""] = _Sent((), {})

    def _workspace(self, record: Record, over: bool) -> str | None:
        """The URL of the sweep's saved workspace, which is made once; empty where that failed, None where it may be tried again."""
        assert self._server is not None
        there = self._server.run(self._project, self._entity, run_id(record, SWEEP)) if self._server.answers else None
        if there is not None and VIEW in there.summary:
            return str(there.summary[VIEW])
        try:
            return workspace.save(record, self._entity or self._server.entity(), self._project)
        except ImportError:
            if over:
                self._say(workspace.MISSING)
            return None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a view is no reason to lose runs
            self._say(f"W&B: the workspace of the sweep was not saved: {first_line(error)}")
            return ""

    def _write(self, run: RunContent) -> None:
        if run.exit_code is not None and run.id not in self._uploader.open:
            if self._server is None:
                if self._uploader.has(run):
                    return
            elif self._server.answers and (there := self._server.run(self._project, self._entity, run.id)) is not None:
                if there.rows > len(run.rows) and run.job_type == "trial":
                    self._say(_repeated(run, there))
                if there.ended and there.rows >= len(run.rows) and there.summary.get(DIGEST) == run.digest:
                    self._change(there, run.told)
                    return
        self.written += 1
        self._uploader.write(run)

    def _change(self, there: ServedRun, told: Mapping[str, Any]) -> None:
        """Change the summary of a run that has ended, without opening it."""
        changes = {key: value for key, value in told.items() if there.summary.get(key) != value}
        if changes and self._server is not None:
            self._server.change_summary(there, changes)

    def _work(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make the calls, several at once. W&B's client waits long for a server that fails, so the server is asked meanwhile.

        Raises:
            ServerError: the server failed. The calls that wait for it end when the client is ended.
        """
        pool = ThreadPoolExecutor(AT_ONCE if self._server is not None else 1)
        try:
            left: set[Future[None]] = {pool.submit(call) for call in calls}
            if left:
                self._check()
            while left:
                done, left = wait(left, RECHECK_SECONDS, FIRST_EXCEPTION)
                for one in done:
                    if error := one.exception():
                        self._check()  # the server's own word is better than its client's
                        raise error
                if left:
                    self._check()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._server is not None:
            self._server.check()

    def _forget(self) -> None:
        """Drop the open runs. Nobody knows how much of them has arrived, so the next update opens them again."""
        names = {run_id.partition("-")[2] for run_id in self._uploader.open}
        self._sent = {name: sent for name, sent in self._sent.items() if name not in names}
        self._uploader.end()
        self._uploader = self._new_uploader()

    def close(self) -> None:
        self._uploader.close()


def _state(trial: Trial, over: bool) -> tuple[Any, ...]:
    """The state of a trial on which its run depends, apart from its place among the others."""
    return trial.state, len(trial.reports), trial.attempts, over and not trial.state.ended


def _repeated(run: RunContent, there: ServedRun) -> str:
    return (
        f"W&B: {run.name} has {there.rows} rows, and the record has {len(run.rows)}; delete that run in W&B and publish again"
    )
