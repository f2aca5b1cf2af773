"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from scalesweep.commands.parts import at_place, at_places, json_option, print_json, say
from scalesweep.storage import UrlPath


@click.command()
@click.argument("runs", metavar="RUN_DIR [RUN_DIR …]", nargs=-1, required=True, callback=at_places)
@click.option(
    "-o",
    "--output",
    metavar="FILE.html",
    callback=lambda ctx, param, value: Path(value) if value == "-" else at_place(ctx, param, value),
    help="Write a page with tables and charts in place of the words. It is one file, and needs no server. - prints it.",
)
@click.option("--watch", is_flag=True, help="Serve the page on this machine, with new numbers while the sweeps run.")
@json_option
def report(runs: tuple[Path | UrlPath, ...], output: Path | UrlPath | None, watch: bool, as_json: bool) -> None:
    """Print the findings of running or finished sweeps in words with numbers, or write them as a page.

    Names the best trial and those that can't be told apart from it, the axes that mattered with intervals, the values that did
    well, what was never tried, how well the rungs predict the end, and what to try next. Needs only the run folders.

    \b
    In words:              scalesweep report runs/quickstart
    As a page:             scalesweep report runs/quickstart -o report.html
    Side by side:          scalesweep report runs/a runs/b -o both.html
    While a sweep runs:    scalesweep report runs/quickstart --watch
    """
    if as_json + watch + (output is not None) > 1:
        raise click.UsageError("--output, --watch and --json can't be combined")
    from scalesweep.record import read_record
    from scalesweep.search.pick import with_forecasts

    if watch:
        from scalesweep.report.page.serve import serve

        serve(lambda: [with_forecasts(read_record(run)) for run in runs], click.echo)
        return
    records = [with_forecasts(read_record(run)) for run in runs]
    if output is not None:
        from scalesweep.report.page.write import page, write_page

        if output == Path("-"):
            click.echo(page(records), nl=False)
            return
        write_page(records, output)
        say(f"page          {output}")
        return
    from scalesweep.report.sentences import paragraph, paragraph_json
    from scalesweep.report.terminal import print_findings

    if as_json:
        print_json([paragraph_json(record) for record in records])
        return
    for place, record in enumerate(records):
        if place:
            click.echo()
        print_findings(record, paragraph(record))
