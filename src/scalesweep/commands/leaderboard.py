"""The command `leaderboard`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalesweep.commands.parts import at_places, json_option, print_json, say
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from scalesweep.record import Record

ROWS = 20  # on a terminal
AROUND = 12  # lines around the rows
WATCH_SECONDS = 2.0


@click.command()
@click.argument("runs", metavar="RUN_DIR [RUN_DIR …]", nargs=-1, required=True, callback=at_places)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV to stdout.")
@click.option(
    "--by",
    type=click.Choice(["forecast", "rung", "metric"]),
    help="forecast: rank by the metric expected at the end; the default where forecasts drive the sweep. rung: rank by the highest "
    "rung reached, then by the metric there; the default elsewhere. metric: rank by the best value at any report.",
)
@click.option(
    "--sort",
    default="",
    metavar="KEY",
    help="Order the rows by a key: a metric (best first), or another field or setting (lowest first). -KEY turns the order.",
)
@click.option(
    "--where",
    default="",
    metavar="EXPR",
    help="Keep the trials that fulfil comparisons joined by 'and': 'lora_rank>=16 and unfreezing=gradual'.",
)
@click.option(
    "--columns",
    default="",
    metavar="KEY,…",
    help="Columns of the table or of --csv, in this order. Default: those that tell the trials apart and fit.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Print only the first N trials. Default: 20 on a terminal, else all.")
@click.option("--watch", is_flag=True, help="Show the table again and again until the sweep ends or Ctrl-C.")
def leaderboard(
    runs: tuple[Path | UrlPath, ...],
    as_json: bool,
    as_csv: bool,
    by: Any,
    sort: str,
    where: str,
    columns: str,
    limit: int | None,
    watch: bool,
) -> None:
    """Rank the trials of running or finished sweeps. Needs only the run folders, no server.

    ★ marks the Pareto front: no other trial beats these in both metric and GPU seconds. ± is the standard error of the metric
    over the validation rows. ≈ marks trials that can't be told apart from the first. Several run folders make one table.

    A KEY is a field of `--json`, a metric, a parameter or another setting of the trials: rank, eval_accuracy, learning_rate.

    \b
    The most accurate:    scalesweep leaderboard runs/x --sort eval_accuracy --limit 5
    A part of the space:  scalesweep leaderboard runs/x --where "adapter=lora and lora_rank>=16"
    For a spreadsheet:    scalesweep leaderboard runs/x --csv > x.csv
    """
    from scalesweep.record import read_record
    from scalesweep.record.evaluations import absent
    from scalesweep.report.leaderboard import leaderboard_csv, leaderboard_json
    from scalesweep.report.select import Selection, parsed, unmet
    from scalesweep.report.terminal import print_leaderboard
    from scalesweep.search.pick import with_forecasts

    if as_json and as_csv:
        raise click.UsageError("--json and --csv can't be combined")
    if as_json and columns:
        raise click.UsageError("--columns is for the table and --csv; --json has every field")
    if watch and (as_json or as_csv or not sys.stdout.isatty()):
        raise click.UsageError("--watch draws on a terminal: leave out --json, --csv and pipes")
    shown = [name.strip() for name in columns.split(",") if name.strip()]
    selection = Selection(parsed(where) if where else (), sort)

    def read() -> list[Record]:
        records = [with_forecasts(read_record(run)) for run in runs]
        if by == "forecast" and any(record.expected is None for record in records):
            raise click.UsageError("--by forecast needs a sweep with sampler: forecast or survival: forecast")
        return records

    if watch:
        lines = max(shutil.get_terminal_size().lines - AROUND, 1)
        follow(read, lambda records: print_leaderboard(records, by, limit or min(lines, ROWS), selection, shown, found=False))
        return
    records = read()
    for record in records:
        if record.folder is not None and (files := absent(record.folder, record.examples)):
            say(f"note: {record.folder / files[0]} is missing: trials whose validation rows it held have no ± and no ≈")
    if as_json:
        boards = [leaderboard_json(record, by, limit, selection) for record in records]
        print_json(boards[0] if len(boards) == 1 else boards)
        empty = not any(one["trials"] for one in boards)
    elif as_csv:
        text = leaderboard_csv(records, by, limit, selection, shown)
        click.echo(text, nl=False)
        empty = text.count("\n") == 1  # the header
    else:
        print_leaderboard(records, by, limit or (ROWS if sys.stdout.isatty() else None), selection, shown)
        return
    if empty and (why := unmet(records, selection.where)):
        say(f"note: {why}")


def follow(
    read: Callable[[], list[Record]], show: Callable[[list[Record]], object], pause: Callable[[float], object] = time.sleep
) -> None:
    """Show the records until all have ended. The pause grows with the time that a picture takes, so that watching costs little."""
    from scalesweep.report.leaderboard import is_over

    while True:
        began = time.monotonic()
        records = read()
        click.clear()
        show(records)
        if all(map(is_over, records)):
            return
        pause(max(WATCH_SECONDS, 4 * (time.monotonic() - began)))
