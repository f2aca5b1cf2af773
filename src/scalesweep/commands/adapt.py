"""The command `adapt`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scalesweep.commands.parts import address_option, gpus_option, json_option, print_json, say, set_option
from scalesweep.commands.plan import checked_plan, load, slots_of
from scalesweep.errors import NothingUsableError, UserError, command


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    from scalesweep.spec.sweep import seconds_of

    try:
        seconds = float(value) if value.replace(".", "", 1).isdecimal() else float(seconds_of(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if seconds <= 0:
        raise click.BadParameter(f"{value!r} is not above 0", ctx, param)
    return seconds


@click.command()
@click.argument("export", metavar="EXPORT", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    metavar="NEW",
    help="New data: a file, a folder of data files, a saved data set, a hub data set or package:NAME/FILE. Columns as in the old data.",
)
@click.option(
    "--watch",
    "watched",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that data files are added to. Adapt each time it has grown by --grown, until Ctrl-C.",
)
@click.option(
    "--grown",
    type=click.FloatRange(min=0, min_open=True),
    default=0.2,
    help="With --watch: share by which the data must have grown: new rows ÷ rows of the model's data.",
)
@click.option(
    "--every",
    default="60s",
    metavar="TIME",
    callback=_seconds,
    help="With --watch: time between two looks. A file counts when it has not changed between two.",
)
@click.option(
    "--better-by",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Least improvement on the new test split, in units of the sweep's metric. All of its paired 95 % interval must be better by more.",
)
@click.option(
    "--worse-by",
    type=click.FloatRange(min=0),
    default=0.02,
    help="Most worsening on the old test split, in units of the sweep's metric: 0.02 is 2 points of accuracy, or 0.02 nats of loss. All "
    "of its paired 95 % interval must be within.",
)
@click.option(
    "--max-t",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the final run, in the unit of the sweep's rungs (time_attr). Default: as `promote` chooses it.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Run folder of the adaptation; with --watch, the folder of all of them. Default: runs/NAME-adapted, or runs/NAME-watch.",
)
@click.option(
    "--sweep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN_DIR",
    help="Run folder of the sweep that chose the model. Default: the one that EXPORT lies in.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the sweep file that would run, and stop.",
)
@set_option(help="Override a key of the sweep file that is written, e.g. --set budget.run_cap=12. Repeatable.")
@address_option(default="this machine")
@gpus_option
@json_option
def adapt(
    export: Path,
    data: str | None,
    watched: Path | None,
    grown: float,
    every: float,
    better_by: float,
    worse_by: float,
    max_t: float | None,
    run_dir: Path | None,
    sweep: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    address: str | None,
    num_gpus: int | None,
    as_json: bool,
) -> None:
    """Adapt a promoted model to new data, and keep what it has learnt.

    EXPORT is a folder that `promote` wrote. A sweep starts from that model. It searches the same space, and how much of the old
    training data is trained again (rehearsal_share). The best trial is trained to the end, and the two models are compared on the new
    and on the old test split. The new one is exported if it is better on the new data and not worse on the old, by the margins. Otherwise
    the old model stays, and the exit code is 3.

    \b
    Once:                      scalesweep adapt runs/reviews/promoted/t0013 --data new.csv
    Look at the sweep first:   … --data new.csv -o adapt.yaml
    Whenever a folder grows:   … --watch incoming/ --grown 0.2
    """
    if (data is None) == (watched is None):
        raise click.UsageError("give one of --data NEW and --watch DIR")
    context = click.get_current_context()
    for name in ("grown", "every") if watched is None else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} needs --watch DIR")
    if watched is not None and (output is not None or as_json):
        raise click.UsageError("--watch runs until Ctrl-C: leave out --output and --json")
    from scalesweep.promotion.adapt import adapt as run
    from scalesweep.promotion.adapt import adaptation, in_place
    from scalesweep.promotion.adapted import refusal
    from scalesweep.promotion.choice import check_length
    from scalesweep.promotion.summary import adapted, after_promotion
    from scalesweep.record.exports import read_provenance
    from scalesweep.spec import sweep_from_dict

    name = read_provenance(export)["sweep"]["name"].removesuffix("-adapted")

    def once(model: Path, source: str, folder: Path, chosen_by: Path | None) -> dict[str, Any]:
        made = in_place(adaptation(model, source, chosen_by, better_by, worse_by), folder, overrides)
        check_length(max_t, sweep_from_dict(made).early_terminate.time_attr)
        return run(made, folder, partial(_drive, address, num_gpus), partial(_promote, address, max_t), say)

    def show(result: dict[str, Any]) -> None:
        click.echo(adapted(result["adapted"]))
        say("\n" + after_promotion(result))

    try:
        if watched is not None:
            _watch(export, watched, run_dir or Path("runs") / f"{name}-watch", grown, every, sweep, once, show)
            return
        assert data is not None
        if output is not None:
            _write(adaptation(export, data, sweep, better_by, worse_by), output, overrides)
            return
        result = once(export, data, run_dir or Path("runs") / f"{name}-adapted", sweep)
    except NothingUsableError as error:
        if as_json:
            print_json(refusal(error))
        raise
    except KeyboardInterrupt:
        say(f"\ninterrupted; nothing that was reported is lost. Continue with: {command(*sys.argv[1:])}")
        sys.exit(130)
    if as_json:
        print_json({"verdict": "promoted", "reasons": [], **result})
    else:
        show(result)


def _write(made: dict[str, Any], file: Path, overrides: tuple[str, ...]) -> None:
    """Write the sweep file, check it, and print what to do with it."""
    from scalesweep.promotion.adapt import in_place, write_adaptation

    if file.exists():
        raise UserError(f"{file} exists already", "name another file, or remove it")
    write_adaptation(in_place(made, file.parent, overrides, f"{file.stem}-new.parquet"), file)
    spec = load(file, (), None)
    run_dir = Path("runs") / spec.name
    say(
        f"wrote {file}\nplan        {command('plan', file)}\nrun         {command('launch', file)}\nthen        {command('promote', run_dir)}"
    )


def _drive(address: str | None, num_gpus: int | None, file: Path, run_dir: Path, resumes: bool) -> None:
    """Run the sweep, or resume it."""
    from scalesweep.report.page.write import PAGE, write_page
    from scalesweep.report.terminal import print_leaderboard
    from scalesweep.sweep.launch import launch, resume

    if resumes:
        record = resume(run_dir, address, num_gpus)
    else:
        spec = load(file, (), None if address else partial(slots_of, num_gpus=num_gpus))
        record = launch(checked_plan(spec, file.parent, address, num_gpus, None), run_dir, address, num_gpus)
    with contextlib.suppress(OSError):
        write_page([record], run_dir / PAGE)
    with contextlib.redirect_stdout(sys.stderr):
        print_leaderboard(record, limit=5)


def _promote(address: str | None, max_t: float | None, run_dir: Path) -> dict[str, Any]:
    """Promote the choice of the sweep, if it is better."""
    from scalesweep.promotion.promote import promote
    from scalesweep.report.terminal import step_progress

    with contextlib.ExitStack() as shown:
        bars = list[Callable[[int, int], None]]()

        def steps(done: int, total: int) -> None:
            if not bars:
                bars.append(shown.enter_context(step_progress("training the final run")))
            bars[0](done, total)

        return promote(run_dir, max_t=max_t, progress=steps, address=address, say=say)


def _watch(
    export: Path,
    folder: Path,
    root: Path,
    grown: float,
    every: float,
    sweep: Path | None,
    once: Callable[[Path, str, Path, Path | None], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> None:
    from scalesweep.promotion.watch import watch

    def adapt_to(model: Path, rows: Path, run_dir: Path) -> dict[str, Any]:
        result = once(model, str(rows), run_dir, sweep if model == export.resolve() else None)
        show(result)
        return result

    watch(export, folder, root, grown, every, adapt_to, say)
