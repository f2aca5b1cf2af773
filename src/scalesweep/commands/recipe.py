"""The command `recipe`."""

from __future__ import annotations

from pathlib import Path

import click

from scalesweep.commands.parts import OutputPath, run_argument, say
from scalesweep.storage import UrlPath


@click.command()
@run_argument
@click.option("--format", "format_", type=click.Choice(["trl", "axolotl"]), required=True, help="Trainer that reads the file.")
@click.option("--trial", default="best", metavar="NAME", help="Trial to write; 'best' is the search's choice.")
@click.option(
    "--max-t",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the run, in the unit of the sweep's rungs (time_attr). Default: the length of `promote`.",
)
@click.option(
    "--output",
    type=OutputPath(dir_okay=False),
    metavar="FILE",
    help="File to write; an existing one is replaced. Default: print it.",
)
def recipe(run_dir: Path | UrlPath, format_: str, trial: str, max_t: float | None, output: Path | None) -> None:
    """Write a trial's settings as a file for another trainer.

    The YAML file holds the model, the data, what is learnt, batches, rate, schedule, optimizer and adapter of the trial.
    What the trainer can't express stands in comments at the top of the file, and on stderr.

    For instruction-tuning and causal-lm. Trains nothing. A chat template of your own is written beside the file, for TRL.

    \b
    For `trl sft --config chat.yaml`:  scalesweep recipe runs/chat --format trl --output chat.yaml
    For `axolotl train chat.yaml`:     scalesweep recipe runs/chat --format axolotl --output chat.yaml
    """
    from scalesweep.promotion.recipes import recipe as write

    made = write(run_dir, format_, trial, max_t, output)
    if output is None:
        click.echo(made.text, nl=False)
    else:
        for path, text in {str(output): made.text, **made.files}.items():
            Path(path).write_text(text, encoding="utf-8")
    for line in made.lost:
        say(f"other than in the trial: {line}")
