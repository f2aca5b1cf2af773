"""Parts that commands share: printing, the run folder, options."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from scalesweep.errors import did_you_mean
from scalesweep.storage import UrlPath, place

NO_NAME = "'-' is no name here: it can't go to stdout. Name a file or a folder."


class Group(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}\n\nhint: {did_you_mean(args[0], self.commands)}", ctx=ctx)
        return super().resolve_command(ctx, args)


def hide_failing_threads() -> None:
    """Print no traceback of threads: those of W&B's client fail when it is ended because its server failed."""
    threading.excepthook = lambda _: None


def say(text: str = "") -> None:
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Print one JSON document to stdout. Where stdout is not UTF-8, other letters than ASCII are escaped."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=(sys.stdout.encoding or "utf-8").lower() != "utf-8"))


def at_place(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | UrlPath | None:
    """The place that an option or argument names. `-` is refused: nobody wants a folder of that name."""
    if value == "-":
        raise click.BadParameter(NO_NAME, ctx, param)
    return None if value is None else place(value)


def at_places(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Path | UrlPath, ...]:  # noqa: ARG001
    """The places, each once: a folder that is given twice, as it is or through a link, would count its trials twice."""
    found: dict[Path | UrlPath, Path | UrlPath] = {}
    for one in map(place, values):
        found.setdefault(one.resolve() if isinstance(one, Path) else one, one)
    return tuple(found.values())


class OutputPath(click.Path):
    """A file or folder to write, as a Path. `-` is refused as by `at_place`."""

    def __init__(self, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            self.fail(NO_NAME, param, ctx)
        return super().convert(value, param, ctx)


run_argument = click.argument("run_dir", metavar="RUN_DIR", callback=at_place)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def address_option(use: str = "to use", also: str = "", default: str = "start a local cluster") -> Callable[[Any], Any]:
    """The option `--address`. `also` is a further sentence of its help."""
    return click.option(
        "--address",
        metavar="ADDR",
        help=f"Running Ray cluster {use}: 'auto' on one of its nodes, or HOST:PORT of its head. {also}Default: {default}.",
    )


def training_address(also: str = "") -> Callable[[Any], Any]:
    """The option `--address` of commands that train one model."""
    return address_option("that trains the model", also, "train on this machine alone")


as_a_job = address_option(also="http://HOST:8265 and ray://HOST:10001 work from any machine and run the sweep as a Ray job. ")
gpus_option = click.option(
    "--num-gpus", type=click.IntRange(min=0), help="GPUs of the local cluster. Ray adds logical GPUs if the machine has fewer."
)
cluster_option = click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Cluster file for `ray up`, or a RayCluster manifest. Checks that the cluster can hold every trial of the sweep.",
)
set_option = partial(click.option, "--set", "overrides", multiple=True, metavar="KEY=VALUE")
override_option = set_option(help="Override a key of the sweep file, e.g. --set budget.gpu_hours=40. Repeatable.")


def launch_options(run_dir: str, address: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The options of commands that launch a sweep file. `run_dir`: the default of its run folder."""
    help_text = f"Run folder to create: a path, or a URL such as s3://BUCKET/NAME. Default: {run_dir}."
    folder = click.option("--run-dir", metavar="PLACE", callback=at_place, help=help_text)

    def add(function: Any) -> Any:
        for option in (override_option, gpus_option, cluster_option, address, folder):  # the last one is the first in the help
            function = option(function)
        return function

    return add
