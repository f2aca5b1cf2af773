"""The command `choose`."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalesweep.commands.parts import address_option, at_place, json_option, launch_options, print_json, say
from scalesweep.commands.plan import checked_plan, load, slots_of
from scalesweep.commands.scaling import TABLES
from scalesweep.errors import UserError, command
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from scalesweep.scaling.choice import Choice


class Share(click.ParamType):
    """A share of the data: `1/8` or `0.125`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        above, _, below = str(value).partition("/")
        try:
            share = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            share = 0.0
        if not 0 < share <= 0.5:
            self.fail(f"{value!r} is not a share of the data, above 0 and at most 1/2, such as 1/8", param, ctx)
        return share


@click.command()
@click.argument("source", metavar="SWEEP.yaml | RUN_DIR | POINTS.csv", callback=at_place)
@click.option("--share", type=Share(), default="1/8", metavar="SHARE", help="Largest subset, as a share of the train split.")
@click.option(
    "--subsets", type=click.IntRange(min=6, max=12), default=6, help="Number of subsets, each half as large as the next."
)
@click.option("--rates", type=click.IntRange(min=1), default=3, help="Learning rates of each checkpoint and subset, at most.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost, and train nothing.")
@launch_options("runs/NAME-choose", address_option())
@click.option(
    "--examples",
    type=click.FloatRange(min=1),
    metavar="N",
    help="Size of all data, for a table. Default: eight times the largest subset.",
)
@click.option("--metric", metavar="NAME", help="Column of a table with the metric. Default: the only one that can be it.")
@click.option("--goal", type=click.Choice(["minimize", "maximize"]), help="Goal of a table's metric. Default: by its name.")
@json_option
@click.pass_context
def choose(
    ctx: click.Context,
    source: Path | UrlPath,
    share: float,
    subsets: int,
    rates: int,
    dry_run: bool,
    run_dir: Path | UrlPath | None,
    address: str | None,
    cluster: Path | None,
    num_gpus: int | None,
    overrides: tuple[str, ...],
    examples: float | None,
    metric: str | None,
    goal: str | None,
    as_json: bool,
) -> None:
    """Choose the checkpoint to start a task from, by training on small subsets of the data.

    Trains each checkpoint of the sweep's ladder on nested subsets, the largest 1/8 of the data. Predicts each one's metric with
    all data by the rectified law of fine-tuning, with a 90 % interval, and ranks the checkpoints. The plan with its cost comes
    first. The trainings are a sweep of their own: `resume` continues it, and `choose RUN_DIR` shows its ranking again.

    A table has a row per training: model, examples, the metric, and where known seed and the settings. Exit code 3 if the
    trainings can't carry a choice.

    \b
    What it costs:           scalesweep choose sweep.yaml --dry-run
    Train and choose:        scalesweep choose sweep.yaml --share 1/16
    The ranking again:       scalesweep choose runs/NAME-choose
    From a table:            scalesweep choose points.csv --examples 100000
    """
    kind = _kind(source)
    only = {
        "sweep": ("share", "subsets", "rates", "dry_run", "run_dir", "address", "cluster", "num_gpus", "overrides"),
        "table": ("examples", "metric", "goal"),
    }
    nouns = {"sweep": "a sweep file", "table": "a table of points"}
    for other, names in only.items():
        given = [name for name in names if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
        if given and other != kind:
            option = "set" if given[0] == "overrides" else given[0].replace("_", "-")
            raise click.UsageError(f"--{option} is for {nouns[other]}, and {source} is {nouns.get(kind, 'a run folder')}")
    if kind == "sweep":
        assert isinstance(source, Path)
        _train(source, (share, subsets, rates), dry_run, run_dir, address, cluster, num_gpus, overrides, as_json)
        return
    if kind == "table":
        from scalesweep.scaling.choice import choose_among
        from scalesweep.simulation.table_files import read_table

        assert isinstance(source, Path)
        table = read_table(source)
        columns = {str(name): list(table[name]) for name in table.columns}
        _show(choose_among(columns, str(source), metric, goal, examples), as_json)
        return
    _show(_of_record(source), as_json, source)


def _kind(source: Path | UrlPath) -> str:
    """The kind of a source by its name: `sweep`, `table` or `record`."""
    if isinstance(source, UrlPath):
        return "record"
    suffix = source.suffix.lower()
    return "table" if suffix in TABLES else "sweep" if suffix in (".yaml", ".yml") else "record"


def _of_record(run_dir: Path | UrlPath) -> Choice:
    from scalesweep.record import read_record
    from scalesweep.scaling.choice import choice_of_record

    return choice_of_record(read_record(run_dir))


def _train(
    path: Path,
    amounts: tuple[float, int, int],
    dry_run: bool,
    run_dir: Path | UrlPath | None,
    address: str | None,
    cluster: Path | None,
    num_gpus: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Plan the trainings, run them as a sweep, and show the choice."""
    from scalesweep.report.choice import print_choice_plan
    from scalesweep.report.page.write import PAGE, write_page
    from scalesweep.sweep.choosing import as_json as plan_json
    from scalesweep.sweep.choosing import check_budget, design, parts
    from scalesweep.sweep.jobs import is_job_address
    from scalesweep.sweep.launch import check_unused, launch

    if address is not None and is_job_address(address):
        raise UserError(
            f"--address {address}: choose can't run as a Ray job",
            "run it on a node of the cluster with --address auto, or give HOST:PORT of the head",
        )
    spec = load(path, overrides, None if address or cluster else partial(slots_of, num_gpus=num_gpus, planning=dry_run))
    made = design(spec, *amounts)
    folder = run_dir or Path("runs") / made.spec.name
    if not dry_run:
        check_unused(folder)  # before models and data are read
    checked = checked_plan(made.spec, path.parent, address, num_gpus, cluster, planning=dry_run)
    costs = parts(made, checked)
    check_budget(spec, costs)
    plan = plan_json(made, checked, costs)
    if dry_run and as_json:
        print_json(plan)
        return
    print_choice_plan(plan, stderr=not dry_run)
    if dry_run:
        return
    say()
    try:
        record = launch(checked, folder, address, num_gpus)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            if (folder / "sweep.json").exists():
                say("\ninterrupted; nothing that was reported is lost. Continue with:")
                say(f"{command('resume', folder)}\n{command('choose', folder)}")
                sys.exit(130)
        raise
    with contextlib.suppress(OSError):
        write_page([record], folder / PAGE)
    say()
    _show(_of_record(folder), as_json, folder, path, plan)


def _show(
    choice: Choice,
    as_json: bool,
    run_dir: Path | UrlPath | None = None,
    sweep: Path | None = None,
    plan: dict[str, Any] | None = None,
) -> None:
    """Print a choice and the next command; exit code 3 if there is none."""
    from scalesweep.report.choice import choice_json, print_choice

    if as_json:
        print_json(choice_json(choice, plan))
    else:
        print_choice(choice)
    if choice.missing:
        say(f"\n{choice.missing} trainings are missing; continue with: {command('resume', run_dir)}")
    elif choice.ranking and run_dir is not None:
        one = f"search_space.parameters.model_size.values=[{choice.best.name}]"
        say(f"\nnext          {command('launch', sweep or 'SWEEP.yaml', '--set', one)}")
    if choice.refused:
        sys.exit(3)
