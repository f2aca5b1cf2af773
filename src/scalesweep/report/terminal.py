"""Prints to a terminal: the leaderboard on stdout, a progress bar for long steps on stderr."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.errors import command, counted, shell
from scalesweep.record import Record, Trial, best
from scalesweep.record.final_length import final_length
from scalesweep.record.ranking import By
from scalesweep.report import words
from scalesweep.report.findings import worth_promoting
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from scalesweep.report.select import Selection
    from scalesweep.report.sentences import Finding

PIPED_WIDTH = 140  # columns if stdout is not a terminal and COLUMNS is not set
NARROWEST = 60  # columns; on a narrower terminal the lines run over, because tables would lose their numbers
LABEL_WIDTH = 7


def console(**options: Any) -> Console:
    """A console that prints every text as it is: a user's names may look like rich's markup or emoji codes."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself exits with the code 1

    return Plain(markup=False, emoji=False, **options)


def page_width() -> int:
    """The columns of what is printed to stdout: those of the terminal, but at least `NARROWEST`."""
    return max(shutil.get_terminal_size((PIPED_WIDTH, 24)).columns, NARROWEST)


def print_labelled(console: Console, label: str, text: str, style: str = "") -> None:
    """Print a bold label and a text beside it; the text's further lines begin below its first."""
    from rich.text import Text

    head = label.ljust(LABEL_WIDTH) if len(label) < LABEL_WIDTH else f"{label} "
    for line in Text(text, style).wrap(console, console.width - len(head)):
        line.rstrip()
        console.print(Text.assemble((head, "bold"), line))
        head = " " * len(head)


def headed(head: str, text: str) -> Text:
    """A line that begins with a bold word."""
    from rich.text import Text

    return Text.assemble((head, "bold"), text)


def print_leaderboard(
    records: Record | Sequence[Record],
    by: By | None = None,
    limit: int | None = None,
    selection: Selection | None = None,
    shown: Sequence[str] = (),
    found: bool = True,
) -> None:
    """Print the ranked table to stdout, as wide as the terminal; and what was `found`, below it."""
    from scalesweep.report.board import render_leaderboard
    from scalesweep.report.leaderboard import EVERY

    width = page_width()
    target = console(width=width)
    board = render_leaderboard(records, by, width, limit, selection or EVERY, shown, found)
    if target.is_terminal:
        target.print(board)
        return
    with target.capture() as text:  # rich fills lines with blanks, which a file need not keep
        target.print(board)
    target.out("\n".join(line.rstrip() for line in text.get().splitlines()), highlight=False)


def print_trials(record: Record, trials: Sequence[Trial]) -> None:
    """Print one trial in full, or several side by side, to stdout."""
    from scalesweep.report.show import render_trials

    width = page_width()
    console(width=width).print(render_trials(record, trials, width), crop=False)


def print_findings(record: Record, found: Sequence[Finding]) -> None:
    """Print a sweep's findings to stdout below its name, as wide as the terminal."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for one in found:
        grid.add_row(one.about, Text(words.plain(one.text)))
    page = console(width=page_width())
    page.print(headed(words.plain(str(record.manifest.name)), f" · {counted(len(record.trials), 'trial')}"))
    page.print(grid)


def where_it_is(run_dir: str, folder: Path, record: Record | None = None, page: Path | UrlPath | None = None) -> str:
    """Lines that show where the results of a sweep are, and the next command.

    `run_dir` is a path or a URL. `folder` is the folder on this machine: the run folder itself, unless that is a URL. With a
    `record` of short trials, the next line names the length of the final run.
    """
    chooses = record is not None and record.manifest.chooses
    rows = {
        "run folder": run_dir,
        **({"page": str(page)} if page is not None else {}),
        "study": shell("optuna-dashboard", folder / "study.log"),
        "next": command("choose" if chooses else "promote", run_dir),
    }
    if record is not None and not chooses:
        first = best(record)
        length = None if first is None else final_length(record, first, ("train", "validation"))
        if length is not None and length.short:
            rows["next"] += f"  # trains {words.final_length(length, record)}, because the trials were short"
        if not worth_promoting(record):
            rows["next"] = "nothing to promote: change learning_rate or the data, and launch again"
    return "\n".join(f"{label:<12}{text}" for label, text in rows.items())


@contextmanager
def step_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of work that reports (done, total): a bar on a terminal, else a line per tenth. Writes to stderr."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    tenth = 0
    print(f"{what} …", file=sys.stderr, flush=True)

    def advance(done: int, total: int) -> None:
        nonlocal tenth
        if total and done * 10 // total > tenth:
            tenth = done * 10 // total
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance
