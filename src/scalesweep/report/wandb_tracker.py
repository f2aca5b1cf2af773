"""Weights & Biases: one run per trial and one for the sweep, written under RUN/wandb.

One thread of the tracker makes all calls of wandb and reads them from a queue, so the sweep never waits for a server. If the
server fails, runs continue offline (`wandb sync` uploads them). The rows of every open run stay in memory, so its offline copy is
complete.
"""

from __future__ import annotations

import math
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from scalesweep.errors import first_line, shell
from scalesweep.record import Record, Report, State, Trial
from scalesweep.record.table import columns, flat
from scalesweep.record.uncertainty import errors_of
from scalesweep.report import words
from scalesweep.report.leaderboard import leaderboard_json
from scalesweep.report.standing import Standing

INIT_TIMEOUT = 20.0  # seconds; wandb's default of 90 would delay every later event
FINISH_TIMEOUT = 30.0  # seconds for one run's last upload; the rest stays on disk
CLOSE_TIMEOUT = 60.0  # seconds that `close` waits in total
PATIENCE = 2.0  # seconds before `close` prints that it waits


def make(record: Record, run_dir: Path) -> WandbTracker | None:
    """Return the tracker that `tracking.wandb` describes, or None if it is disabled."""
    mode = record.manifest.wandb["mode"]
    if mode == "auto":
        # W&B's own environment variable applies too.
        mode = {"dryrun": "offline", "run": "online"}.get(asked := os.environ.get("WANDB_MODE", ""), asked) or "auto"
    return None if mode == "disabled" else WandbTracker(record, run_dir, mode)


@dataclass
class _Run:
    """An unfinished run of W&B: the arguments to open it, and everything sent to it."""

    init: dict[str, Any]
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # (W&B step, row)
    step_metric: str = "step"
    summaries: dict[str, str] = field(default_factory=dict)  # metric → min | max
    handle: Any = None


class WandbTracker:
    """A sink. `mode` is online, offline or auto (online where the user is logged in); timeouts are in seconds."""

    def __init__(
        self,
        record: Record,
        run_dir: Path,
        mode: str,
        *,
        init_timeout: float = INIT_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
        stream: TextIO | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._mode = mode
        self._init_timeout = init_timeout
        self._close_timeout = close_timeout
        self._stream = stream
        self._offline = mode == "offline"  # certain only after the thread has checked the login
        self._off = False
        self._standing = Standing(record)
        self._counts = dict.fromkeys(State, 0)
        for trial in record.trials.values():
            self._counts[trial.state] += 1
        self._sweep_step = -1
        self._told: set[str] = set()  # trials with an open run, at the end of the queue
        self._runs: dict[str, _Run] = {}  # used only in the thread, as everything of wandb
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._queue.put(partial(self._open, "", _sweep_run(record)))
        # A daemon thread, because a hanging server must not keep the driver from ending.
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    # The methods up to `_say` run in the driver's thread: they read the event and queue the work.

    def handle(self, event: dict[str, Any], record: Record) -> None:
        kind = event["event"]
        if kind not in ("trial", "start", "report", "end"):
            return
        trial = record.trials[event["trial"]]
        if kind == "trial":
            self._counts[trial.state] += 1
        if trial.name not in self._told:
            # First event of this session. W&B gets those earlier reports of a resumed trial that it lacks.
            self._told.add(trial.name)
            earlier = trial.reports[:-1] if kind == "report" else trial.reports
            rows = [(index, _row(report, record.metric)) for index, report in enumerate(earlier)]
            self._queue.put(partial(self._open, trial.name, _trial_run(trial, record, rows)))
        if kind == "report":
            report = trial.reports[-1]
            row = _row(report, record.metric)
            self._queue.put(partial(self._log, trial.name, len(trial.reports) - 1, row))
        self._standing.update(trial)
        if kind == "end":
            self._counts[State.RUNNING] -= 1
            self._counts[trial.state] += 1
            self._told.discard(trial.name)
            self._queue.put(partial(self._finish, trial.name, _summary(trial, record), int(trial.state is State.FAIL)))
            self._queue.put(partial(self._log, "", self._next_sweep_step(record), self._sweep_row(record)))

    def close(self, record: Record) -> None:
        """Send the leaderboard, finish all runs, and wait for at most `close_timeout`."""
        board = leaderboard_json(record)["trials"]
        summary = {"status": record.status, "ended_reason": record.ended_reason, **self._sweep_row(record)}
        for name in sorted(self._told):  # the sweep was interrupted: a resume continues its trials in the same runs
            self._queue.put(partial(self._finish, name, _summary(record.trials[name], record), 1))
        self._queue.put(partial(self._leaderboard, self._next_sweep_step(record), columns(record), board))
        self._queue.put(partial(self._finish, "", summary, int(record.status != "ended")))
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._say(f"W&B: finishing, {self._queue.qsize()} messages left (waits at most {self._close_timeout:.0f} s)")
            self._thread.join(max(0.0, self._close_timeout - PATIENCE))
        folder = self._run_dir / "wandb"
        if self._thread.is_alive():
            self._say(
                f"W&B: not finished after {self._close_timeout:.0f} s; `{shell('wandb', 'sync', folder)}/*run-*` uploads the runs on disk"
            )
        elif self._offline and not self._off:
            self._say(f"W&B: offline runs in {folder}; `{shell('wandb', 'sync', folder)}/offline-run-*` uploads them")

    def _sweep_row(self, record: Record) -> dict[str, Any]:
        best = self._standing.best
        counts = {f"trials/{words.STATES[state]}": number for state, number in self._counts.items()}
        leader = {"best": best.metric, "best_trial": best.trial.name, "best_rung": best.rung} if best else {}
        return {"elapsed_seconds": record.elapsed_seconds, "gpu_seconds": record.gpu_seconds, **counts, **leader}

    def _next_sweep_step(self, record: Record) -> int:
        # W&B's steps must rise, also across resumed sessions that W&B may not know (offline). So a step is a time in ms.
        self._sweep_step = max(self._sweep_step + 1, int(record.elapsed_seconds * 1000))
        return self._sweep_step

    def _say(self, text: str) -> None:
        print(text, file=self._stream if self._stream is not None else sys.stderr, flush=True)

    # The methods below run in the tracker's thread.

    def _work(self) -> None:
        self._attempt(self._log_in)
        while (job := self._queue.get()) is not None:
            if not self._attempt(job):
                return

    def _attempt(self, job: Callable[[], None]) -> bool:
        """Run a job; if it fails online, run it again offline. Return False if W&B can't be used at all."""
        try:
            job()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no error of a tracker may stop the sweep
            if self._offline:
                self._off = True
                self._say(f"W&B: switched off ({first_line(error)}); the run folder's record is complete")
                return False
            self._go_offline(first_line(error))
            return self._attempt(job)
        return True

    def _go_offline(self, reason: str) -> None:
        self._say(f"W&B: continuing offline ({reason})")
        self._offline = True
        for run in self._runs.values():
            run.handle = None
        # wandb's service keeps the id of a run whose init failed ("run ID is in use"), so it must be restarted.
        try:
            import wandb

            wandb.teardown()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - teardown raises its service's last error
            self._say(f"W&B: {first_line(error)}")

    def _log_in(self) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        # Looks for credentials without a prompt and without a request to the server.
        if not self._offline and not wandb.login(prompt=False, verify=False):
            self._offline = True
            if self._mode == "online":
                self._say("W&B: not logged in, so runs are offline; run `wandb login` before the next launch")

    def _open(self, name: str, run: _Run) -> None:
        self._runs[name] = run
        self._ensure(name)

    def _log(self, name: str, step: int, row: dict[str, Any]) -> None:
        run = self._ensure(name)
        run.handle.log(row, step=step, commit=True)
        run.rows.append((step, row))

    def _leaderboard(self, step: int, names: list[str], board: list[dict[str, Any]]) -> None:
        import wandb

        data = [[row.get(name) for name in names] for row in map(flat, board)]
        wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(data))  # wandb's documented way to more rows
        table = wandb.Table(columns=names, data=data, allow_mixed_types=True)
        self._ensure("").handle.log({"leaderboard": table}, step=step, commit=True)

    def _finish(self, name: str, summary: dict[str, Any], exit_code: int) -> None:
        handle = self._ensure(name).handle
        handle.summary.update(summary)
        handle.finish(exit_code=exit_code)
        del self._runs[name]

    def _ensure(self, name: str) -> _Run:
        """Return the run of a trial ("" is the sweep's). Open it first if needed, and send it all its rows."""
        run = self._runs[name]
        if run.handle is None:
            import wandb

            handle = wandb.init(
                **run.init,
                mode="offline" if self._offline else "online",
                dir=str(self._run_dir),
                reinit="create_new",
                resume="allow",
                settings=self._settings(wandb),
            )
            handle.define_metric(run.step_metric)
            handle.define_metric("*", step_metric=run.step_metric)
            for metric, how in run.summaries.items():
                handle.define_metric(metric, step_metric=run.step_metric, summary=how)
            for step, row in run.rows:
                if step >= handle.step:  # a resumed run already has the earlier ones
                    handle.log(row, step=step, commit=True)
            run.handle = handle
        return run

    def _settings(self, wandb: Any) -> Any:
        """Return settings that send nothing about the machine or the user's code.

        This process is the driver: its host, arguments, packages, git diff and load do not describe a trial.
        """
        return wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            use_dot_wandb=False,
            host="",
            program="scalesweep",
            init_timeout=self._init_timeout,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            # By default, the stop button of one trial's page would interrupt the whole sweep.
            stop_fn=partial(self._say, "W&B: someone pressed a stop button; only Ctrl-C stops scalesweep"),
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )


def _run_id(record: Record, name: str) -> str:
    """Return an id that is equal in all sessions of a sweep, so that a resumed session continues the same runs."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{record.manifest.id[:16]}-{name}")


def _shared(record: Record) -> dict[str, Any]:
    wandb_spec = record.manifest.wandb
    return {"project": wandb_spec["project"], "entity": wandb_spec.get("entity"), "group": record.manifest.name}


def _sweep_run(record: Record) -> _Run:
    manifest, spec = record.manifest, record.manifest.spec
    kept = ("metric", "time_attr", "max_t", "rungs", "seeds", "versions")
    config = {key: manifest.get(key) for key in kept}
    config |= {"data_fingerprint": manifest.data.get("fingerprint"), "ladder": [size.name for size in manifest.ladder]}
    config |= {"early_terminate": spec["early_terminate"], "budget": spec["budget"], "sweep_id": manifest.id}
    init = {
        **_shared(record),
        "id": _run_id(record, "sweep"),
        "name": manifest.name,
        "job_type": "sweep",
        "tags": list(manifest.wandb.get("tags", [])),
        "config": config,
    }
    return _Run(init, step_metric="elapsed_seconds")  # the best value may get worse when a trial reaches a higher rung


def _trial_run(trial: Trial, record: Record, rows: list[tuple[int, dict[str, Any]]]) -> _Run:
    manifest = record.manifest
    size = words.ladder_size(trial.config, record)
    config = {
        **trial.config,
        **trial.params,
        "sampled": sorted(trial.params),
        "trial": trial.name,
        "trial_number": trial.number,
        "n_params": size.get("n_params"),
        "n_layers": size.get("n_layers"),
        "hidden_size": size.get("hidden_size"),
        "model": Path(str(size.get("model", ""))).name,  # the last part only: a local folder would reveal the machine
        "data_fingerprint": manifest.data.get("fingerprint"),
        "sweep_id": manifest.id,
    }
    chosen = [trial.config.get("model_size"), f"{trial.config.get('num_gpus', 1)}-gpu", trial.config.get("unfreezing")]
    chosen += {trial.config.get("adapter", "none")} - {"none"}
    tags = [str(tag) for tag in chosen if tag] + list(manifest.wandb.get("tags", []))
    init = {
        **_shared(record),
        "id": _run_id(record, trial.name),
        "name": trial.name,
        "job_type": "trial",
        "tags": list(dict.fromkeys(tags)),
        "config": config,
    }
    return _Run(init, rows, summaries={record.metric: "min" if record.minimize else "max"})


def _row(report: Report, metric: str) -> dict[str, Any]:
    """Return one report as a row of W&B's history."""
    # The first NaN would make W&B's running minimum NaN for good.
    metrics = {key: value for key, value in report.metrics.items() if key != metric or math.isfinite(value)}
    costs = {key: getattr(report, key) for key in ("step", "tokens", "flops", "wall_seconds", "gpu_seconds")}
    return {**costs, **metrics, "rung": max(report.rungs, default=0)}


def _summary(trial: Trial, record: Record) -> dict[str, Any]:
    totals = {"gpu_seconds": trial.gpu_seconds, "wall_seconds": trial.wall_seconds}
    if trial.last:
        totals |= {"tokens": trial.last.tokens, "flops": trial.last.flops}
    return {
        "state": str(trial.state),
        "stop_reason": trial.stop_reason,
        "rung": trial.rung,
        "attempts": trial.attempts,
        **totals,
        **{f"standard_error/{metric}": error for metric, error in errors_of(record, trial).items()},
    }
