"""Recipes: a trial's settings as the file of another trainer, a file per format. `FORMATS` is the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from scalesweep.errors import UserError
from scalesweep.promotion.recipes import axolotl, trl
from scalesweep.promotion.recipes.shared import Format
from scalesweep.promotion.recipes.winner import winner_of
from scalesweep.record import read_record
from scalesweep.storage import UrlPath

FORMATS: Mapping[str, Format] = {"trl": trl, "axolotl": axolotl}


@dataclass(frozen=True)
class Recipe:
    """The text of the file, with `lost` as comments at its top, and the further files that it names, by path."""

    text: str
    lost: list[str]
    files: Mapping[str, str]


def recipe(run_dir: Path | UrlPath, format: str, trial: str, max_t: float | None, output: Path | None) -> Recipe:
    """Write a trial's settings for another trainer.

    Args:
        format: a name of FORMATS.
        trial: its name, or `best` for the search's choice.
        max_t: length of the run, in the unit of the sweep's rungs; default: the length of a final run.
        output: the place of the file, beside which a chat template of the user's has to be; None for stdout.

    Raises:
        UserError: no such trial, a task that the trainers lack, or a chat template without a place.
    """
    record = read_record(run_dir)
    winner = winner_of(record, run_dir, trial, max_t)
    made = FORMATS[format].settings(winner, str(output.with_suffix(".jinja")) if output else "")
    if made.files and output is None:
        hint = "write both with --output FILE"
        raise UserError(f"the sweep has a chat template of its own, and {FORMATS[format].TITLE} reads it from a file", hint)
    lost = [" ".join(line.split()) for line in (*winner.lost, *made.lost)]
    head = [
        f"{record.manifest.name}, trial {winner.name}, for {FORMATS[format].TITLE}: {FORMATS[format].command(winner)}",
        f"{winner.steps:,} steps, {winner.config.global_batch_size} examples each: {winner.length}",
        *(["", "Other than in the trial:"] if lost else []),
        *(f"- {line}" for line in lost),
    ]
    body = yaml.safe_dump(dict(made.values), sort_keys=False, allow_unicode=True, width=1000)
    comments = "".join(f"# {' '.join(line.split())}".rstrip() + "\n" for line in head)
    return Recipe(f"{comments}\n{body}", lost, made.files)
