"""The command `reproduce`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

from scalesweep.commands.parts import OutputPath, json_option, print_json, say, training_address
from scalesweep.errors import NothingUsableError, command


@click.command()
@click.argument("export", metavar="EXPORT", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--output",
    type=OutputPath(file_okay=False),
    metavar="FOLDER",
    help="Folder that keeps the new model. Default: it is compared and removed.",
)
@click.option(
    "--num-gpus",
    type=click.IntRange(min=1),
    help="Workers. Default: as many as the first time. With another number the result is equal up to rounding.",
)
@training_address()
@json_option
def reproduce(export: Path, output: Path | None, num_gpus: int | None, address: str | None, as_json: bool) -> None:
    """Train a promoted model again, and compare.

    EXPORT is a folder that `promote` wrote. Its provenance.json says how the model was trained. The command trains it again from
    the base checkpoint, and compares the weights bit by bit and the metrics on the test split. Exit code 3: they differ by more
    than rounding.
    """
    from scalesweep.promotion.reproduce import reproduce as run
    from scalesweep.promotion.summary import reproduced
    from scalesweep.report.terminal import step_progress

    bars = list[Callable[[int, int], None]]()
    try:
        with contextlib.ExitStack() as shown:

            def steps(done: int, total: int) -> None:
                if not bars:
                    bars.append(shown.enter_context(step_progress("training the model again")))
                bars[0](done, total)

            result = run(export, output, num_gpus, steps, address, say)
    except KeyboardInterrupt:
        say(f"\ninterrupted; the run continues from its last checkpoint with: {command(*sys.argv[1:])}")
        sys.exit(130)
    if as_json:
        print_json(result)
    else:
        click.echo(reproduced(result))
    if result["verdict"] == "different":
        raise NothingUsableError(
            f"{export} was not reproduced", "the lines above name what differs; so can a GPU of another kind"
        )
