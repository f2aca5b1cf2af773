"""Weights & Biases: one run per trial and one for the sweep, written under RUN/wandb.

All calls of wandb happen in one thread of the tracker's own, fed by a queue: the sweep never waits for a server. Where the
server fails, runs go on offline (`wandb sync` uploads them); the rows of every open run are kept, so its offline copy is whole.
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

from scalesweep.record import Record, Report, State, Trial
from scalesweep.report import words
from scalesweep.report.leaderboard import FIELDS, leaderboard_json
from scalesweep.report.standing import Standing

INIT_TIMEOUT = 20.0  # seconds; wandb's own 90 would hold back every later event
FINISH_TIMEOUT = 30.0  # seconds for one run's last upload; what is not up by then stays on disk
CLOSE_TIMEOUT = 60.0  # seconds that `close` waits for all of it
PATIENCE = 2.0  # seconds of waiting before `close` says that it waits


def make(record: Record, run_dir: Path) -> WandbTracker | None:
    """The tracker that `tracking.wandb` asks for; None where it is disabled."""
    mode = record.manifest["spec"]["tracking"]["wandb"]["mode"]
    if mode == "auto":
        # W&B's own switches hold here too.
        mode = {"dryrun": "offline", "run": "online"}.get(asked := os.environ.get("WANDB_MODE", ""), asked) or "auto"
    return None if mode == "disabled" else WandbTracker(record, run_dir, mode)


@dataclass
class _Run:
    """A run of W&B that is not finished: how to open it, and all it was told."""

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
        self._offline = mode == "offline"  # known for sure only once the thread has looked
        self._off = False
        self._standing = Standing(record)
        self._counts = dict.fromkeys(State, 0)
        for trial in record.trials.values():
            self._counts[trial.state] += 1
        self._sweep_step = -1
        self._told: set[str] = set()  # trials with an open run, as far as the queue goes
        self._runs: dict[str, _Run] = {}  # the thread's own, like everything of wandb
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._queue.put(partial(self._open, "", _sweep_run(record)))
        # A daemon: a server that hangs must not keep the driver from ending.
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    # What follows runs in the driver's thread: it takes what an event says and queues the rest.

    def handle(self, event: dict[str, Any], record: Record) -> None:
        kind = event["event"]
        if kind not in ("trial", "start", "report", "end"):
            return
        trial = record.trials[event["trial"]]
        if kind == "trial":
            self._counts[trial.state] += 1
        if trial.name not in self._told:
            # First seen in this session: of a resumed trial, W&B gets those earlier reports that it does not have.
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
            self._queue.put(partial(self._finish, trial.name, _summary(trial), int(trial.state is State.FAIL)))
            self._queue.put(partial(self._log, "", self._next_sweep_step(record), self._sweep_row(record)))

    def close(self, record: Record) -> None:
        """Send the leaderboard, finish all runs, and wait for that, but not for ever."""
        board = leaderboard_json(record)["trials"]
        summary = {"status": record.status, "ended_reason": record.ended_reason, **self._sweep_row(record)}
        for name in sorted(self._told):  # the sweep was left off: its trials go on in the same runs on resume
            self._queue.put(partial(self._finish, name, _summary(record.trials[name]), 1))
        self._queue.put(partial(self._leaderboard, self._next_sweep_step(record), board))
        self._queue.put(partial(self._finish, "", summary, int(record.status != "ended")))
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._say(f"W&B: finishing, {self._queue.qsize()} messages to go (at most {self._close_timeout:.0f} s)")
            self._thread.join(max(0.0, self._close_timeout - PATIENCE))
        folder = self._run_dir / "wandb"
        if self._thread.is_alive():
            self._say(f"W&B: not done after {self._close_timeout:.0f} s; `wandb sync {folder}/*run-*` sends what is on disk")
        elif self._offline and not self._off:
            self._say(f"W&B: offline runs in {folder}; `wandb sync {folder}/offline-run-*` uploads them")

    def _sweep_row(self, record: Record) -> dict[str, Any]:
        best = self._standing.best
        counts = {f"trials/{words.STATES[state]}": number for state, number in self._counts.items()}
        leader = {"best": best.metric, "best_trial": best.trial.name, "best_rung": best.rung} if best else {}
        return {"elapsed_seconds": record.elapsed_seconds, "gpu_seconds": record.gpu_seconds, **counts, **leader}

    def _next_sweep_step(self, record: Record) -> int:
        # W&B's steps must rise, also over resumed sessions, of which it may know nothing (offline): so time, in ms.
        self._sweep_step = max(self._sweep_step + 1, int(record.elapsed_seconds * 1000))
        return self._sweep_step

    def _say(self, text: str) -> None:
        print(text, file=self._stream if self._stream is not None else sys.stderr, flush=True)

    # What follows runs in the tracker's thread.

    def _work(self) -> None:
        self._attempt(self._log_in)
        while (job := self._queue.get()) is not None:
            if not self._attempt(job):
                return

    def _attempt(self, job: Callable[[], None]) -> bool:
        """Do a job, offline where it fails online. False: W&B can't be used at all."""
        try:
            job()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tracker meets, the sweep goes on
            if self._offline:
                self._off = True
                self._say(f"W&B: switched off ({_first_line(error)}); the sweep's record holds everything")
                return False
            self._go_offline(_first_line(error))
            return self._attempt(job)
        return True

    def _go_offline(self, reason: str) -> None:
        self._say(f"W&B: going on offline ({reason})")
        self._offline = True
        for run in self._runs.values():
            run.handle = None
        # wandb's service keeps the id of a run whose init failed ("run ID is in use"), so it has to be started anew.
        try:
            import wandb

            wandb.teardown()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it ends by what its service ended with
            self._say(f"W&B: {_first_line(error)}")

    def _log_in(self) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        # Credentials are looked for, with no prompt and no request to the server.
        if not self._offline and not wandb.login(prompt=False, verify=False):
            self._offline = True
            if self._mode == "online":
                self._say("W&B: not logged in, so runs are offline; `wandb login` before the next launch")

    def _open(self, name: str, run: _Run) -> None:
        self._runs[name] = run
        self._ensure(name)

    def _log(self, name: str, step: int, row: dict[str, Any]) -> None:
        run = self._ensure(name)
        run.handle.log(row, step=step, commit=True)
        run.rows.append((step, row))

    def _leaderboard(self, step: int, board: list[dict[str, Any]]) -> None:
        import wandb

        params = list(dict.fromkeys(name for trial in board for name in trial["params"]))
        columns = [name for name in FIELDS if name != "params"]
        data = [[trial[name] for name in columns] + [trial["params"].get(name) for name in params] for trial in board]
        wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(data))  # wandb's documented way to more rows
        table = wandb.Table(columns=columns + params, data=data, allow_mixed_types=True)
        self._ensure("").handle.log({"leaderboard": table}, step=step, commit=True)

    def _finish(self, name: str, summary: dict[str, Any], exit_code: int) -> None:
        handle = self._ensure(name).handle
        handle.summary.update(summary)
        handle.finish(exit_code=exit_code)
        del self._runs[name]

    def _ensure(self, name: str) -> _Run:
        """The open run of a trial ("" is the sweep's), opened and told everything where it is not open yet."""
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
                if step >= handle.step:  # a resumed run has the ones before
                    handle.log(row, step=step, commit=True)
            run.handle = handle
        return run

    def _settings(self, wandb: Any) -> Any:
        """Nothing of the machine or the user's code leaves it: this process is the driver, and its host, arguments,
        packages, git diff and load say nothing of a trial."""
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
            stop_fn=partial(self._say, "W&B: a stop button was pressed; scalesweep stops with Ctrl-C only"),
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )


def _run_id(record: Record, name: str) -> str:
    """The same for every session of a sweep, so that a resumed one goes on in the same runs."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"{record.manifest['id'][:16]}-{name}")


def _shared(record: Record) -> dict[str, Any]:
    wandb_spec = record.manifest["spec"]["tracking"]["wandb"]
    return {"project": wandb_spec["project"], "entity": wandb_spec.get("entity"), "group": record.manifest["name"]}


def _sweep_run(record: Record) -> _Run:
    manifest, spec = record.manifest, record.manifest["spec"]
    kept = ("metric", "time_attr", "max_t", "rungs", "seeds", "versions")
    config = {key: manifest.get(key) for key in kept}
    config |= {"data_fingerprint": manifest["data"].get("fingerprint"), "ladder": [size["name"] for size in manifest["ladder"]]}
    config |= {"early_terminate": spec["early_terminate"], "budget": spec["budget"], "sweep_id": manifest["id"]}
    init = {
        **_shared(record),
        "id": _run_id(record, "sweep"),
        "name": manifest["name"],
        "job_type": "sweep",
        "tags": list(spec["tracking"]["wandb"].get("tags", [])),
        "config": config,
    }
    return _Run(init, step_metric="elapsed_seconds")  # the best so far may get worse in value: at a higher rung


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
        "model": Path(str(size.get("model", ""))).name,  # the last part only: a local folder would tell of the machine
        "data_fingerprint": manifest["data"].get("fingerprint"),
        "sweep_id": manifest["id"],
    }
    chosen = (trial.config.get("model_size"), f"{trial.config.get('num_gpus', 1)}-gpu", trial.config.get("unfreezing"))
    tags = [str(tag) for tag in chosen if tag] + list(manifest["spec"]["tracking"]["wandb"].get("tags", []))
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
    """One report as a row of W&B's history."""
    # W&B's running minimum of a metric turns NaN for good at the first NaN.
    metrics = {key: value for key, value in report.metrics.items() if key != metric or math.isfinite(value)}
    costs = {key: getattr(report, key) for key in ("step", "tokens", "flops", "wall_seconds", "gpu_seconds")}
    return {**costs, **metrics, "rung": max(report.rungs, default=0)}


def _summary(trial: Trial) -> dict[str, Any]:
    totals = {"gpu_seconds": trial.gpu_seconds, "wall_seconds": trial.wall_seconds}
    if trial.last:
        totals |= {"tokens": trial.last.tokens, "flops": trial.last.flops}
    return {
        "state": str(trial.state),
        "stop_reason": trial.stop_reason,
        "rung": trial.rung,
        "attempts": trial.attempts,
        **totals,
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
