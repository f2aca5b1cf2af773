"""The command `plan`: the check of a sweep, and what a budget buys. The check belongs to `launch` too."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalesweep.commands.parts import (
    OutputPath,
    at_places,
    cluster_option,
    gpus_option,
    json_option,
    override_option,
    print_json,
    say,
)
from scalesweep.errors import UserError, command
from scalesweep.storage import UrlPath, place

if TYPE_CHECKING:
    from scalesweep.record import Record
    from scalesweep.scaling.budget import Budget, BudgetPlan, Other
    from scalesweep.scaling.sizes import Counting
    from scalesweep.spec import SweepSpec
    from scalesweep.sweep.preflight import Plan

LETTERS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
UNITS = {"gpu-hours": "gpu_hours", "gpu hours": "gpu_hours", "gpu-hour": "gpu_hours", "gpuh": "gpu_hours"}
UNITS |= {"dollars": "dollars", "dollar": "dollars", "usd": "dollars", "$": "dollars"}


@click.command()
@click.argument("sources", metavar="SWEEP.yaml", nargs=-1)
@override_option
@cluster_option
@gpus_option
@click.option(
    "--from",
    "from_runs",
    multiple=True,
    callback=at_places,
    metavar="RUN_DIR [RUN_DIR …]",
    help="Finished sweeps, in place of SWEEP.yaml: say what a budget should buy.",
)
@click.option("--budget", metavar="AMOUNT", help='With --from: "500 gpu-hours", "$200" or "200 dollars".')
@click.option(
    "--deadline", metavar="TIME", help="With --from: the longest wall-clock time of the run, such as 12h, 2d or 1h30m."
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="[TYPE=]DOLLARS",
    help="With --from: price of a GPU hour, of all GPUs or of an accelerator type (H100=2.5). Repeatable. Default: the sweeps' own.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=MODEL",
    help="With --from: a size outside the ladders, as a checkpoint or as a number of parameters (70b=70B). Repeatable.",
)
@click.option(
    "--max-gpus", type=click.IntRange(min=1), help="With --from: most GPUs of the run. Default: the most that a trial had."
)
@click.option(
    "--write",
    type=OutputPath(),
    metavar="FILE.yaml",
    help="With --from: write the target for `promote --target`, or the sweep to run first.",
)
@json_option
def plan(
    sources: tuple[str, ...],
    overrides: tuple[str, ...],
    cluster: Path | None,
    num_gpus: int | None,
    from_runs: tuple[Path | UrlPath, ...],
    budget: str | None,
    deadline: str | None,
    prices: tuple[str, ...],
    sizes: tuple[str, ...],
    max_gpus: int | None,
    write: Path | None,
    as_json: bool,
) -> None:
    """Check a sweep and print its maximum cost, before any compute. With --from, say what a budget should buy.

    Reads the sweep file and the search space, finds the models and the data, and tokenizes the data once (later commands
    reuse the tokens). Prints the search space, the ladder, the rungs and the maximum cost. Trains nothing.

    With --from, fits a scaling law to finished sweeps. Prints which size to train, for how many tokens, on how many GPUs
    and with which settings, what that costs, and what it is predicted to reach. Exit code 3 if another sweep has to come
    first; then it says which.

    \b
    Check a sweep:         scalesweep plan sweeps/quickstart.yaml
    What to buy:           scalesweep plan --from runs/short runs/long --budget "500 gpu-hours" --deadline 12h
    Train what it chose:   … --write target.yaml, then scalesweep promote runs/long --target target.yaml
    """
    if from_runs:
        if overrides or cluster or num_gpus is not None:
            raise click.UsageError(
                "--set, --cluster and --num-gpus are for a sweep file; --max-gpus limits the run that --from plans"
            )
        places = (*from_runs, *map(place, sources))
        _plan_from(places, _budget(budget, deadline), _prices(prices), sizes, max_gpus, write, as_json)
        return
    options = {
        "--budget": budget,
        "--deadline": deadline,
        "--price": prices,
        "--size": sizes,
        "--max-gpus": max_gpus,
        "--write": write,
    }
    if given := [name for name, value in options.items() if value]:
        raise click.UsageError(f"{given[0]} needs --from RUN_DIR, the sweeps to plan from")
    if len(sources) != 1:
        raise click.UsageError(
            "Missing argument 'SWEEP.yaml'." if not sources else f"Got unexpected extra argument ({sources[1]})"
        )
    from scalesweep.report.plan import print_plan

    path = Path(sources[0])
    slots = None if cluster else partial(slots_of, num_gpus=num_gpus, planning=True)
    checked = checked_plan(load(path, overrides, slots), path.parent, None, num_gpus, cluster, planning=True)
    if as_json:
        print_json(checked.as_json())
    else:
        print_plan(checked.spec, checked.as_json())


# ---- the check of a sweep -----------------------------------------------------------------------------------------------------


def slots_of(spec: SweepSpec, num_gpus: int | None, planning: bool = False) -> int:
    """The workers of a local cluster. With `planning`, of a cluster as large as `resources.max_gpus`."""
    from scalesweep.sweep.launch import local_slots

    return max(local_slots(spec, num_gpus), planning * (spec.resources.max_gpus or 0))


def load(path: Path, overrides: tuple[str, ...], slots: Callable[[SweepSpec], int] | None) -> SweepSpec:
    """Load a sweep. One error reports every problem that needs neither models nor data. `slots` are None if not known yet."""
    from scalesweep.spec import load_sweep
    from scalesweep.sweep.preflight import static_problems

    return load_sweep(path, overrides, also=lambda spec: static_problems(spec, slots(spec) if slots else None))


def checked_plan(
    spec: SweepSpec,
    base: Path,
    address: str | None,
    num_gpus: int | None,
    cluster_file: Path | None,
    planning: bool = False,
) -> Plan:
    """Check a sweep. With `planning`, the cluster may be as large as `resources.max_gpus`.

    Raises SpecError, OutsideError, and click's UsageError for options that contradict each other.
    """
    from scalesweep.report.terminal import step_progress
    from scalesweep.sweep.cluster import workers_by_file
    from scalesweep.sweep.preflight import check_static, preflight

    if cluster_file is not None:
        if num_gpus is not None or not (address or planning):
            raise click.UsageError("--cluster describes a remote cluster: give its --address, and leave out --num-gpus")
        slots: int | None = workers_by_file(spec, cluster_file)
    else:
        slots = None if address else slots_of(spec, num_gpus, planning)
    check_static(spec, slots)  # first, because preflight takes seconds to import its libraries
    with step_progress("checking models and data") as progress:
        return preflight(spec, slots, base, progress)


# ---- what a budget buys -------------------------------------------------------------------------------------------------------


def _plan_from(
    runs: tuple[Path | UrlPath, ...],
    budget: Budget,
    prices: dict[str, float] | None,
    sizes: tuple[str, ...],
    max_gpus: int | None,
    write: Path | None,
    as_json: bool,
) -> None:
    from scalesweep.record import read_record
    from scalesweep.report.budget import budget_json, print_budget
    from scalesweep.scaling.analysis import analyse
    from scalesweep.scaling.budget import plan_budget
    from scalesweep.scaling.recorded import points_of_records

    records = [read_record(run) for run in runs]
    points = points_of_records(records)
    others = [_other(records[0], text, points.counting) for text in sizes]
    found = plan_budget(records, analyse(points), budget, others, prices, max_gpus)
    if as_json:
        print_json(budget_json(found))
    else:
        print_budget(found)
    if write is not None:
        _write(write, found)
    if found.first is not None:
        sys.exit(3)


def _write(path: Path, plan: BudgetPlan) -> None:
    """Write the target or the sweep, and say what to do with it."""
    from scalesweep.promotion.target import write_yaml
    from scalesweep.report.budget import first_lines, sentences
    from scalesweep.scaling.budget import target_of

    made = f"written by: {command(*sys.argv[1:])}"
    if plan.first is not None:
        if plan.first.further is None:
            return
        write_yaml(path, plan.first.further.spec, [made, *first_lines(plan.first, plan.budget)])
        say(f"\nthe sweep to run first: {path}\ncheck it      {command('plan', path)}")
        return
    choice = plan.choice
    assert choice is not None
    if choice.size.other is not None and choice.size.other.model is None:
        raise UserError(
            f"no target is written: {choice.size.name} is a number of parameters, and a target needs its checkpoint",
            f"name it: --size {choice.size.name}=MODEL",
        )
    folder = choice.size.base.record.folder
    write_yaml(path, target_of(plan), [made, *sentences(plan)])
    say(f"\nthe target: {path}\ntrain it      {command('promote', folder or 'RUN_DIR', '--target', path)}")


def _budget(text: str | None, deadline: str | None) -> Budget:
    """Parse --budget and --deadline."""
    from scalesweep.scaling.budget import Budget
    from scalesweep.spec.sweep import seconds_of

    if text is None and deadline is None:
        raise click.UsageError('--from needs a limit: --budget "500 gpu-hours", --budget "$200", or --deadline 12h')
    seconds: float | None = None
    if deadline is not None:
        try:
            seconds = float(seconds_of(deadline))
        except ValueError:
            seconds = 0.0
        if not seconds:
            raise UserError(f"--deadline {deadline}: this is not a time", "write for example --deadline 12h, 90m or 2d")
    if text is None:
        return Budget(deadline=seconds)
    parts = re.fullmatch(r"\s*(\$)?\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-z$ -]*?)\s*", text.lower())
    unit = UNITS.get(parts.group(1) or parts.group(3)) if parts and not (parts.group(1) and parts.group(3)) else None
    amount = float(parts.group(2).replace(",", "").replace("_", "")) if parts else 0.0
    if unit is None or amount <= 0:
        raise UserError(
            f"--budget {text}: this is no budget", 'write for example --budget "500 gpu-hours" or --budget "200 dollars"'
        )
    return Budget(**{unit: amount}, deadline=seconds)


def _prices(texts: tuple[str, ...]) -> dict[str, float] | None:
    """Parse `2.5` and `H100=2.5`."""
    found: dict[str, float] = {}
    for text in texts:
        kind, equals, value = text.rpartition("=")
        try:
            found[kind if equals else "default"] = float(value)
        except ValueError:
            found["default"] = math.nan
        if not all(0 < price < math.inf for price in found.values()) or (equals and not kind):
            raise UserError(f"--price {text}: this is no price", "write for example --price 2.5 or --price H100=2.5")
    return found or None


def _other(record: Record, text: str, counting: Counting) -> Other:
    """Parse `70b=70e9` and `7b=Qwen/Qwen2.5-7B`; a checkpoint's parameters are counted without its weights."""
    from scalesweep.promotion.target import ladder_row
    from scalesweep.scaling.budget import Other
    from scalesweep.scaling.sizes import n_params_of

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(
            f"--size {text}: this is not NAME=MODEL", "write for example --size 7b=Qwen/Qwen2.5-7B or --size 70b=70e9"
        )
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[+]?[0-9]+)?)([kmbt]?)", value.lower())
    if parts and (count := float(parts.group(1)) * LETTERS[parts.group(2)]) > 0:
        return Other(name, count)
    row: dict[str, Any] = ladder_row(record, name, value)
    return Other(name, n_params_of(row, counting) or 0.0, value, float(row["n_params"]))
