"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from scalesweep.commands.parts import at_places, json_option, print_json
from scalesweep.storage import UrlPath


@click.command()
@click.argument("runs", metavar="RUN_DIR [RUN_DIR …]", nargs=-1, required=True, callback=at_places)
@json_option
def report(runs: tuple[Path | UrlPath, ...], as_json: bool) -> None:
    """Print the findings of running or finished sweeps in words with numbers.

    Names the best trial and those that can't be told apart from it, the axes that mattered with intervals, the values that did
    well, what was never tried, how well the rungs predict the end, and what to try next. Needs only the run folders.
    """
    from scalesweep.record import read_record
    from scalesweep.report.sentences import paragraph, paragraph_json
    from scalesweep.report.terminal import print_findings
    from scalesweep.search.pick import with_forecasts

    records = [with_forecasts(read_record(run)) for run in runs]
    if as_json:
        print_json([paragraph_json(record) for record in records])
        return
    for place, record in enumerate(records):
        if place:
            click.echo()
        print_findings(record, paragraph(record))
