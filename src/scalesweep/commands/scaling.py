"""The command `scaling`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalesweep.commands.parts import OutputPath, at_places, json_option, print_json, say
from scalesweep.errors import UserError, did_you_mean
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from scalesweep.scaling.sizes import Counting

TABLES = (".csv", ".parquet", ".pq", ".gz", ".bz2", ".xz", ".zip")
PLACES = ("n_params", "tokens", "examples", "flops")


@click.command()
@click.argument("sources", metavar="RUN_DIR [RUN_DIR …] | POINTS.csv", nargs=-1, required=True, callback=at_places)
@click.option(
    "--law",
    metavar="NAME",
    help="Law to fit: hoffmann, multiplicative, rectified, saturating, power or bounded. Default: those that suit the points, compared "
    "by predicting the held-out largest size.",
)
@click.option(
    "--at",
    multiple=True,
    metavar="KEY=VALUE[,…]",
    help="Place to predict, e.g. --at n_params=7e9,tokens=1e12. Keys: n_params, tokens, examples, flops. Repeatable.",
)
@click.option(
    "--n-params",
    "counting",
    type=click.Choice(["non-embedding", "total"]),
    help="Parameters that n_params counts in sweeps. Default: those without embeddings, where the records know them.",
)
@click.option("--metric", metavar="NAME", help="Column of a table with the metric. Default: the only one that can be it.")
@click.option("--goal", type=click.Choice(["minimize", "maximize"]), help="Goal of a table's metric. Default: by its name.")
@click.option(
    "--delta",
    type=click.FloatRange(min=0, min_open=True),
    help="Delta of the Huber loss on residuals of ln(metric). Default: 1e-3, as published, from 8 points per parameter on; 1.345 standard "
    "deviations for fewer.",
)
@click.option("--plot", type=OutputPath(), metavar="FILE", help="Plot points, curves, bands and residuals (.png, .svg).")
@json_option
def scaling(
    sources: tuple[Path | UrlPath, ...],
    law: str | None,
    at: tuple[str, ...],
    counting: Counting | None,
    metric: str | None,
    goal: str | None,
    delta: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Fit a scaling law to finished sweeps, or to a table of runs, and predict larger ones.

    Takes the best trial of each size and amount of data. Prints the law's parameters, predictions and the trends of the best
    settings, each with a 90 % interval. Exit code 3 if the points can't carry a fit; then it says which trials would mend that.

    A table has a row per run: n_params, tokens or examples (or flops), the metric, and where known seed and the settings.

    \b
    Finished sweeps:     scalesweep scaling runs/small runs/large --at n_params=7e9,tokens=2e10
    A table of points:   scalesweep scaling points.csv --law hoffmann --plot fit.png
    """
    from scalesweep.report.scaling import check_plot_path, plot_scaling, print_scaling, scaling_json
    from scalesweep.scaling.analysis import analyse
    from scalesweep.scaling.laws import LAWS

    if plot is not None:
        check_plot_path(plot)
    if law is not None and law not in LAWS:
        raise UserError(f"there is no law {law!r}", did_you_mean(law, LAWS))
    places = [_place(text) for text in at]
    tables = [source for source in sources if isinstance(source, Path) and source.suffix.lower() in TABLES]
    if tables and len(sources) > 1:
        raise UserError("a table can't be combined with other sources", "write all points into one table")
    if tables:
        from scalesweep.scaling.tables import points_of_table
        from scalesweep.simulation.table_files import read_table

        if counting:
            raise click.UsageError("--n-params is for sweeps; a table has its own column n_params")
        points = points_of_table(read_table(tables[0]), str(tables[0]), metric, goal)
    else:
        if metric or goal:
            raise click.UsageError("--metric and --goal are for tables; a sweep has its own metric")
        from scalesweep.record import read_record
        from scalesweep.scaling.recorded import points_of_records

        points = points_of_records([read_record(source) for source in sources], counting)
    found = analyse(points, law, places, delta)
    if plot is not None and found.refused is None:
        plot_scaling(found, plot)
    if as_json:
        print_json(scaling_json(found))
    else:
        print_scaling(found)
    if found.refused is not None:
        if plot is not None:
            say("no plot, because nothing was fitted")
        sys.exit(3)
    if plot is not None:
        say(f"plot          {plot}")


def _place(text: str) -> dict[str, float]:
    """Parse `n_params=7e9,tokens=1e12`."""
    found = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or key not in PLACES:
            raise UserError(f"--at {text}: {part!r} is not KEY=VALUE", did_you_mean(key, PLACES))
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = 0.0
        if not 0 < found[key] < float("inf"):
            raise UserError(
                f"--at {text}: {key} must be a number above 0, not {value!r}", f"write a plain number, such as {key}=7e9"
            )
    return found
