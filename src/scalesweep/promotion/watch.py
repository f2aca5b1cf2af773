"""Adapts a model whenever a folder has grown by a share. The file `watch.jsonl` remembers what was adapted to what, and its outcome."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalesweep.data.folder import copy_rows, data_files, described, new_rows, settled
from scalesweep.data.problems import DataProblem
from scalesweep.errors import NothingUsableError, OutsideError, UserError
from scalesweep.promotion.adapt import ROWS, adaptation, data_spec
from scalesweep.record.lease import Lease

EVENTS = "watch.jsonl"
AdaptTo = Callable[[Path, Path, Path], dict[str, Any]]  # model, data, run folder → what `promote` returns


@dataclass
class History:
    """The adaptations so far.

    Attributes:
        model: the model that is to be adapted next.
        number: the adaptations that have begun.
        tried: new rows to which the model could not be adapted for the better.
        unfinished: the event of an adaptation that has not ended.
    """

    model: Path
    number: int = 0
    tried: int = 0
    unfinished: dict[str, Any] | None = None
    first: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "watch":
            self.first, self.model = event["model"], Path(event["model"])
        elif event["event"] == "begin":
            self.number, self.unfinished = event["number"], event
        elif event["event"] == "end" and self.unfinished is not None:
            promoted, self.tried = event["promoted"], self.unfinished["rows"]
            if promoted is not None:
                self.model, self.tried = Path(promoted), 0
            self.unfinished = None

    def wanted(self, grown: float, earlier: int) -> int:
        """The new rows that there must be. `earlier`: the rows that the model's data have."""
        return max(1, self.tried + round(grown * (earlier + self.tried)))


def read_history(root: Path, model: Path) -> History:
    """Read what has happened. Without a file, nothing has.

    Raises:
        UserError: the file can't be read, or is that of another model.
    """
    history, path = History(model), root / EVENTS
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                history.take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                if number == len(path.read_text(encoding="utf-8").splitlines()):  # the writer was killed in the middle of it
                    break
                hint = "restore it from a copy, or choose another --run-dir"
                raise UserError(f"{path}:{number} is not an event of a watched folder", hint) from None
    if history.first not in (None, str(model)):
        hint = f"watch with that model, which has been adapted {history.number} times, or choose another --run-dir"
        raise UserError(f"{root} watches for {history.first}, not for {model}", hint)
    return history


def watch(
    model: Path,
    folder: Path,
    root: Path,
    grown: float,
    every: float,
    adapt_to: AdaptTo,
    say: Callable[[str], object],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Look into a folder again and again, and adapt the model when it has grown. Ends with KeyboardInterrupt.

    Args:
        model: folder that `promote` wrote.
        folder: folder that data files are added to. A file counts when it has not changed between two looks.
        root: folder for the runs (`001`, `002`, …) and for `watch.jsonl`.
        grown: share by which the data must have grown: new rows ÷ rows of the model's data.
        every: seconds between two looks.
        adapt_to: adapts a model to a file in a run folder, or continues that.
        say: called with a line when something has changed.
        wait: sleeps.

    Raises:
        UserError: another process watches in `root`, `model` is no promoted model, or `folder` does not exist.
        OutsideError: the disk or a cluster failed.
    """
    model = model.resolve()
    adaptation(model, folder)  # before anything is written, that it can be adapted at all
    data_files(folder)
    with closing(Lease(root)):
        history = read_history(root, model)
        if history.first is None:
            _keep(root, history, {"event": "watch", "model": str(model), "folder": str(folder.resolve())})
        say(f"watching {folder} for {history.model}, every {every:g} s; Ctrl-C ends it, and the same command continues")
        before: dict[str, tuple[int, int]] = {}
        looked: dict[str, tuple[int, int]] = {}
        told = ""
        while True:
            if history.unfinished is not None:
                _adapt(root, history, history.unfinished, adapt_to, say)
            now = data_files(folder)
            ready, before = settled(now, before), now
            if ready and ready != looked:
                looked, line, event = ready, *_look(folder, root, history, ready, grown)
                if line != told:
                    told = line
                    say(line)
                if event is not None:
                    _keep(root, history, event)
                    looked = {}
                    continue
            wait(every)


def _look(
    folder: Path, root: Path, history: History, ready: dict[str, tuple[int, int]], grown: float
) -> tuple[str, dict[str, Any] | None]:
    """Count the new rows. Return a line about them, and the event of an adaptation if there are enough."""
    rows, number = root / ROWS, history.number + 1
    made = adaptation(history.model, rows)
    try:
        copy_rows(folder, list(ready), data_spec(made), made["task"], rows)
        fresh, earlier = new_rows(data_spec(made), made["task"])
    except DataProblem as problem:  # often a file that is written slowly, or no new row yet
        return f"waiting for more new rows; {described(ready)}: {problem.message}", None
    wanted = history.wanted(grown, earlier)
    line = f"{described(ready)}: {fresh:,} new rows beside the {earlier:,} of the model; {wanted:,} are wanted"
    if fresh < wanted:
        return line, None
    run_dir = root / f"{number:03}"
    run_dir.mkdir(exist_ok=True)
    rows.replace(run_dir / ROWS)
    return line, {
        "event": "begin",
        "number": number,
        "model": str(history.model),
        "rows": fresh,
        "earlier": earlier,
        "files": ready,
    }


def _adapt(root: Path, history: History, begun: dict[str, Any], adapt_to: AdaptTo, say: Callable[[str], object]) -> None:
    """Adapt the model, and keep the outcome."""
    run_dir = root / f"{begun['number']:03}"
    try:
        promoted = str(Path(adapt_to(Path(begun["model"]), (run_dir / ROWS).resolve(), run_dir)["output"]).resolve())
        reason = "better"
    except NothingUsableError as error:
        promoted, reason = None, error.message
        say(error.message)
    _keep(root, history, {"event": "end", "number": begun["number"], "promoted": promoted, "reason": reason})


def _keep(root: Path, history: History, event: dict[str, Any]) -> None:
    """Append an event. Raises OutsideError if the disk fails."""
    event = {"time": time.time(), **event}
    path = root / EVENTS
    try:
        whole = path.read_bytes() if path.exists() else b""
        with path.open("ab") as file:
            if whole and not whole.endswith(b"\n"):  # of a line that was cut by a crash
                file.truncate(whole.rfind(b"\n") + 1)
            file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutsideError(f"{path} can't be written: {error.strerror}", "check the free space and the permissions") from None
    history.take(event)
