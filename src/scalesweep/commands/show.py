"""The command `show`."""

from __future__ import annotations

from pathlib import Path

import click

from scalesweep.commands.parts import json_option, print_json, run_argument
from scalesweep.storage import UrlPath


@click.command()
@run_argument
@click.argument("trials", metavar="[TRIAL …]", nargs=-1)
@json_option
def show(run_dir: Path | UrlPath, trials: tuple[str, ...], as_json: bool) -> None:
    """Show a trial, or the differences between several. Needs only the run folder.

    One trial: its metrics with their standard errors, cost, learning curve, what was decided at each rung and why, every setting
    with the searched ones marked, the error that ended it, and the commands that promote it or run it by hand. Default: the best.

    Several: the settings in which they differ, their metrics and costs side by side, the interval of the difference to the first
    one, and their curves in one plot.

    \b
    The best trial:  scalesweep show runs/x
    Two compared:    scalesweep show runs/x best t0007
    """
    from scalesweep.record import read_record
    from scalesweep.report.show import named, show_json
    from scalesweep.report.terminal import print_trials
    from scalesweep.search.pick import with_forecasts

    record = with_forecasts(read_record(run_dir))
    chosen = named(record, trials)
    if as_json:
        print_json(show_json(record, chosen))
    else:
        print_trials(record, chosen)
