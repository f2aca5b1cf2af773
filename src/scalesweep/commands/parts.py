"""Parts that commands share: printing, the run folder, `--json`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scalesweep.errors import did_you_mean
from scalesweep.storage import UrlPath, place


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


def at_place(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | UrlPath | None:  # noqa: ARG001
    return None if value is None else place(value)


def at_places(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Path | UrlPath, ...]:  # noqa: ARG001
    return tuple(map(place, values))


run_argument = click.argument("run_dir", metavar="RUN_DIR", callback=at_place)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def training_address(also: str = "") -> Callable[[Any], Any]:
    """The option `--address` of commands that train one model. `also` is a further sentence of its help."""
    return click.option(
        "--address",
        metavar="ADDR",
        help="Running Ray cluster that trains the model: 'auto' on one of its nodes, or HOST:PORT of its head. "
        f"{also}Default: train on this machine alone.",
    )
