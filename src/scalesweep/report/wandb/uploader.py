"""The calls of the W&B library: runs are opened, get their rows and summaries, and are finished."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalesweep.errors import first_line
from scalesweep.report.scaling import plot_scaling
from scalesweep.report.wandb.boards import Board
from scalesweep.report.wandb.content import SPACING, RunContent
from scalesweep.report.wandb.server import Server, ServerError
from scalesweep.scaling.analysis import Analysis

INIT_SECONDS = 60.0
FINISH_SECONDS = 120.0  # for one run's last rows, from a server that answers
CONTENT_FILE = "scalesweep.digest"  # in the folder of an offline run: what it was made from
MOST_DELETED = 3  # runs of one id that the user deleted in W&B, which never gives an id out again
UNPUBLISHED = {"provenance.json"}  # it names folders of the machine
_PLACE = re.compile(r'(name_or_path": ")/(?:[^"/]+/)*([^"/]*)')  # of a base model in a folder: its last part stays
DATA_DIR = "WANDB_DATA_DIR"
TEMPORARY = "scalesweep-wandb-"
STAGING = "staging"  # W&B keeps tables here until they are uploaded; its default is in the home directory


def log_in(mode: str, folder: Path, say: Callable[[str], None]) -> Server | None:
    """The server that the user is logged in at; None if runs go to files. `mode` is online, offline or auto."""
    # W&B's manifests of tables name this folder. Its default is in the home directory; offline, the files have to stay.
    os.environ[DATA_DIR] = str(folder / "wandb" / STAGING)
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if mode == "offline":
        return None
    # Looks for credentials without a prompt and without a request to the server.
    if not wandb.login(prompt=False, verify=False):
        if mode == "online":
            say("W&B: not logged in, so runs are offline; run `wandb login` before the next launch")
        return None
    settings = wandb.setup().settings
    os.environ[DATA_DIR] = tempfile.mkdtemp(prefix=TEMPORARY)
    return Server(settings.base_url, settings.api_key)


def clear() -> None:
    """Remove what `log_in` made outside the run folder."""
    if Path(os.environ.get(DATA_DIR, "")).name.startswith(TEMPORARY):
        shutil.rmtree(os.environ[DATA_DIR], ignore_errors=True)


class Uploader:
    """The open runs of one sweep. `folder` gets W&B's files; `offline`: nothing is sent."""

    def __init__(self, folder: Path, project: str, entity: str | None, offline: bool, say: Callable[[str], None]) -> None:
        self._folder, self._project, self._entity, self._offline, self._say = folder, project, entity, offline, say
        self._open: dict[str, tuple[Any, int, RunContent]] = {}  # handle, rows sent

    @property
    def open(self) -> set[str]:
        return set(self._open)

    def write(self, run: RunContent) -> None:
        """Bring a run up to its content, and finish it if that has an exit code.

        Rows that the server has already are left out by W&B's client.

        Raises:
            ServerError: with the client's reason.
        """
        try:
            self._write(run)
        except (Exception, SystemExit) as error:
            raise ServerError(_reason(error)) from error

    def _write(self, run: RunContent) -> None:
        handle, sent, before = self._open.get(run.id) or (self._init(run), 0, None)
        self._open[run.id] = (handle, sent, run)
        for step, row in run.rows[sent:]:
            handle.log(row, step=step, commit=True)
        if before is not None and before.digest != run.digest:
            handle.config.update(run.config, allow_val_change=True)
            handle.notes, handle.name = run.notes, run.name
        handle.summary.update(run.told)
        if before is None or before.boards != run.boards:
            tables = {name: _table(board, handle.project_url) for name, board in run.boards.items()}
            handle.summary.update(tables)
        self._open[run.id] = (handle, len(run.rows), run)
        if run.exit_code is not None:
            charts = {f"charts/{name}": _chart(name, board) for name, board in run.boards.items() if board.chart}
            with tempfile.TemporaryDirectory() as folder:  # W&B copies an image when it is logged
                if run.law is not None and run.law.analysis is not None:
                    charts["charts/scaling_law"] = _image(run.law.analysis, Path(folder) / "law.png")
                if charts:
                    handle.log(charts, step=(run.rows[-1][0] if run.rows else 0) + SPACING // 2, commit=True)
            _keep(handle, run)
            del self._open[run.id]
            handle.finish(exit_code=run.exit_code)
            if self._offline:
                (self._offline_folders(run.id)[-1] / CONTENT_FILE).write_text(_content(run, self._folder))

    def has(self, run: RunContent) -> bool:
        """Whether the files of a run hold this content already."""
        folders = self._offline_folders(run.id)
        try:
            return len(folders) == 1 and (folders[0] / CONTENT_FILE).read_text() == _content(run, self._folder)
        except OSError:
            return False

    def _offline_folders(self, run_id: str) -> list[Path]:
        return sorted((self._folder / "wandb").glob(f"offline-run-*-{run_id}"))

    def _init(self, run: RunContent) -> Any:
        import wandb

        for older in self._offline_folders(run.id) if self._offline else ():
            shutil.rmtree(older)  # two parts of one run would repeat its steps when they are synced
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, MOST_DELETED + 2):
            try:
                handle = self._begin(wandb, run, run.id if number == 1 else f"{run.id}-{number}")
                break
            except Exception as error:
                if "previously created and deleted" not in str(error) or number > MOST_DELETED:
                    raise
        for metric, axis in run.axes.items():
            if metric != "*":
                handle.define_metric(axis)
                handle.define_metric(metric, step_metric=axis, summary=run.best.get(metric))
        handle.define_metric(run.axes["*"])
        handle.define_metric("*", step_metric=run.axes["*"])
        return handle

    def _begin(self, wandb: Any, run: RunContent, run_id: str) -> Any:
        return wandb.init(
            project=self._project,
            entity=self._entity,
            id=run_id,
            name=run.name,
            group=run.group,
            job_type=run.job_type,
            notes=run.notes,
            tags=run.tags,
            config=run.config,
            mode="offline" if self._offline else "online",
            dir=str(self._folder),
            reinit="create_new",
            resume=None if self._offline else "allow",
            allow_val_change=True,
            settings=self._settings(wandb),
        )

    def close(self) -> None:
        """End W&B's service when it has written what it was given."""
        import wandb

        self._open.clear()
        with contextlib.suppress(Exception, SystemExit):  # teardown raises its service's last error
            wandb.teardown()

    def end(self) -> None:
        """End W&B's service at once. It would wait for its server, and it never opens a run again that failed."""
        for children in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread or a child has ended meanwhile
                for child in children.read_text().split():
                    if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(int(child), signal.SIGKILL)
        self.close()

    def _settings(self, wandb: Any) -> Any:
        """Settings that send nothing about the machine or the user's code.

        This process is not a trial's: its host, arguments, packages, git diff and load do not describe one.
        """
        say = self._say

        def stop_pressed() -> None:  # a plain function: W&B copies its settings deeply, and what a method holds can't be copied
            say("W&B: someone pressed a stop button; only Ctrl-C stops scalesweep")

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
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            # By default, the stop button of one trial's page would interrupt the whole sweep.
            stop_fn=stop_pressed,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )


def _table(board: Board, project_url: str | None) -> Any:
    import wandb

    wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(board.rows))  # wandb's documented way to more rows
    if board.runs is None:
        return wandb.Table(columns=board.columns, data=board.rows, allow_mixed_types=True)
    links = [f"{project_url}/runs/{run_id}" if project_url else run_id for run_id in board.runs]
    data = [[*row, link] for row, link in zip(board.rows, links, strict=True)]
    return wandb.Table(columns=[*board.columns, "run"], data=data, allow_mixed_types=True)


def _chart(name: str, board: Board) -> Any:
    import wandb

    assert board.chart is not None
    kind, x, y = board.chart
    draw = {"bar": wandb.plot.bar, "scatter": wandb.plot.scatter}[kind]
    return draw(wandb.Table(columns=board.columns, data=board.rows, allow_mixed_types=True), x, y, title=name.replace("_", " "))


def _image(analysis: Analysis, path: Path) -> Any:
    import wandb

    plot_scaling(analysis, path)
    return wandb.Image(str(path))


def _keep(handle: Any, run: RunContent) -> None:
    import wandb

    if run.files:
        artifact = wandb.Artifact(run.id, type="sweep", description="sweep file, search space and record")
        for name, text in run.files.items():
            with artifact.new_file(name, encoding="utf-8") as file:
                file.write(text)
        handle.log_artifact(artifact)
    if run.model is not None:
        model = wandb.Artifact(f"{run.id}-model", type="model", description=run.notes)
        there = Path(os.environ[DATA_DIR]) / run.id  # the manifest names this path in place of the run folder's
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        there.symlink_to(run.model.resolve())
        for path in sorted(there.glob("*")) + sorted(there.glob("*/*")):
            name = path.relative_to(there).as_posix()
            if path.suffix == ".json" and path.name not in UNPUBLISHED:
                with model.new_file(name, encoding="utf-8") as file:
                    file.write(_PLACE.sub(r"\1\2", path.read_text(encoding="utf-8")))
            elif path.is_file() and path.name not in UNPUBLISHED:
                model.add_file(str(path), name, policy="immutable")
        handle.log_artifact(model, aliases=list(run.aliases))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the server did not take a run's last rows in time"
    return f"a run can't be written: {first_line(error)}"


def _content(run: RunContent, folder: Path) -> str:
    """A text that differs where the files of a run would. They name their folder, so a moved one makes them anew."""
    return f"{run.digest} {len(run.rows)} {folder.resolve()} {sorted(run.summary.items(), key=lambda item: item[0])}"
