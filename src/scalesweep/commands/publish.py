"""The command `publish`."""

from __future__ import annotations

from pathlib import Path

import click

from scalesweep.commands.parts import hide_failing_threads, json_option, print_json, run_argument, say
from scalesweep.errors import command, counted, shell
from scalesweep.storage import UrlPath


@click.command()
@run_argument
@click.option("--offline", is_flag=True, help="Write the runs to files for `wandb sync`; earlier files are replaced.")
@json_option
def publish(run_dir: Path | UrlPath, offline: bool, as_json: bool) -> None:
    """Make the W&B runs of a sweep from its record.

    For sweeps that were not tracked, were tracked offline, or whose W&B server failed. Sends what W&B lacks and corrects what
    has changed; a second call changes nothing. Needs only the run folder, and `wandb login` unless --offline.
    """
    from scalesweep.report.wandb.publish import publish as made
    from scalesweep.search.pick import with_forecasts

    hide_failing_threads()
    result = made(run_dir, offline, with_forecasts, say)
    if as_json:
        print_json({"runs": result.runs, "written": result.written, "place": result.place})
        return
    same = result.runs - result.written
    say(f"{counted(result.written, 'run')} written to {result.place}" + (f", {same} were complete already" if same else ""))
    if offline:
        say(f"upload        {shell('wandb', 'sync', result.place)}/offline-run-*, or from here: {command('publish', run_dir)}")
