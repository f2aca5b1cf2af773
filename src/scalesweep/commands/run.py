"""The command `run`."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalesweep.commands.parts import at_place, json_option, print_json, say
from scalesweep.errors import NothingUsableError, ScalesweepError, first_line
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from scalesweep.training.job import TrainReport, TrialJob

Recorded = Mapping[float, float]  # fidelity → metric


@click.command()
@click.argument("target", metavar="SWEEP.yaml|RUN_DIR", callback=at_place)
@click.option("--trial", metavar="NAME", help="Trial of the run folder whose configuration to train, or 'best'.")
@click.option(
    "--params",
    multiple=True,
    metavar="KEY=VALUE",
    help="Parameter to change, or with SWEEP.yaml alone to set; the others have their defaults. Repeatable.",
)
@click.option("--run-dir", metavar="PLACE", callback=at_place, help="Run folder of the trial. Default: runs/NAME.")
@click.option(
    "--max-t",
    type=click.FloatRange(min=0, min_open=True),
    help="End of the training, in the unit of the sweep's rungs (time_attr). Default: the sweep's max_t.",
)
@json_option
def run(
    target: Path | UrlPath,
    trial: str | None,
    params: tuple[str, ...],
    run_dir: Path | UrlPath | None,
    max_t: float | None,
    as_json: bool,
) -> None:
    """Train one configuration by hand in this process, with its log on the screen.

    For a trial that fails or surprises: no Ray, one worker, no rung that stops it, and the whole traceback of an error. The
    reports of the trial in the run folder stand beside the new ones. A trial of several GPUs trains here with one worker, on the
    same global batches. Nothing is written to the run folder.

    Exits with 3 if the training fails or diverges.

    \b
    A trial of a sweep:        scalesweep run sweeps/x.yaml --trial t0007
    The same, half the rate:   scalesweep run runs/x --trial t0007 --params learning_rate=1e-4
    A configuration of yours:  scalesweep run sweeps/x.yaml --params unfreezing=gradual --params learning_rate=3e-4
    """
    from scalesweep.promotion.by_hand import given, train_by_hand
    from scalesweep.report.terminal import step_progress
    from scalesweep.storage import check_cache

    changes = given(params)
    check_cache()
    recorded: Recorded = {}
    in_folder = run_dir is not None or (target / "sweep.json").exists()
    if not in_folder and trial is None:
        job = _of_sweep(target, changes, max_t)
    else:
        if trial is None:
            raise click.UsageError("a run folder has many configurations: name one with --trial NAME, or --trial best")
        job, recorded = _of_trial(target, run_dir, trial, changes, max_t)
    say(f"training {job.trial} here: {job.config.model_size} to {job.config.max_t:g} {job.config.time_attr}, one worker")
    try:
        with contextlib.ExitStack() as stack:
            advance = stack.enter_context(step_progress("training")) if sys.stderr.isatty() else None
            reports = train_by_hand(job, lambda report: _tell(report, job, recorded, advance, as_json))
    except ScalesweepError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the training raises is what the user looks for
        say(traceback.format_exc())
        raise NothingUsableError(f"the training failed: {type(error).__name__}: {first_line(error)}") from None
    if as_json:
        told = [{"step": one.step, "fidelity": one.fidelity, "tokens": one.tokens, "metrics": one.metrics} for one in reports]
        print_json({"trial": job.trial, "config": job.config.model_dump(), "reports": told})


def _of_trial(
    target: Path | UrlPath, run_dir: Path | UrlPath | None, trial: str, changes: dict[str, Any], max_t: float | None
) -> tuple[TrialJob, Recorded]:
    """The job of a recorded trial, and its recorded values where it trains the same configuration."""
    from scalesweep.promotion.by_hand import job_of_trial
    from scalesweep.record import read_record
    from scalesweep.report.show import named
    from scalesweep.search.pick import with_forecasts
    from scalesweep.spec import load_sweep

    folder = run_dir or (target if (target / "sweep.json").exists() else Path("runs") / load_sweep(str(target)).name)
    record = with_forecasts(read_record(folder))
    [chosen] = named(record, [trial])
    recorded = {} if changes or max_t else {report.fidelity: report.metrics[record.metric] for report in chosen.reports}
    return job_of_trial(record, chosen, folder, changes, max_t), recorded


def _of_sweep(target: Path | UrlPath, changes: dict[str, Any], max_t: float | None) -> TrialJob:
    """The job of a configuration of a sweep file: its fixed parameters, `changes`, and defaults."""
    from scalesweep.promotion.by_hand import job_of_sweep
    from scalesweep.report.terminal import step_progress
    from scalesweep.spec import load_sweep, trial_config
    from scalesweep.sweep.launch import make_manifest
    from scalesweep.sweep.preflight import preflight

    spec = load_sweep(str(target))
    fixed = {name: one.value for name, one in spec.search_space.parameters.items() if one.value is not None}
    with step_progress("checking models and data") as progress:
        manifest = make_manifest(preflight(spec, None, Path(str(target)).parent, progress))
    return job_of_sweep(manifest, trial_config(spec, {**fixed, **changes}), changes, max_t)


def _tell(
    report: TrainReport, job: TrialJob, recorded: Recorded, advance: Callable[[int, int], None] | None, as_json: bool
) -> None:
    """Move the bar, and print the notes and the metrics of a report."""
    from scalesweep.report import words

    if advance is not None:
        advance(report.step, report.total_steps)
    for note in report.notes:
        say(note)
    if not report.metrics:
        return
    shown = {job.metric: report.metrics[job.metric], **report.metrics}
    parts = [
        f"{name} {words.score(value)}" for name, value in shown.items() if name.startswith("eval_") or name == "train_loss"
    ]
    if report.fidelity in recorded:
        parts[0] += f" (in the sweep {words.score(recorded[report.fidelity])})"
    parts += [f"learning_rate {words.rate(report.metrics)}", f"epoch {report.metrics['epoch']:.2f}"]
    parts += [f"{report.metrics['trainable_groups']:.0f} layer groups train", f"{report.train_seconds:.0f} s"]
    click.echo(f"step {report.step:>5}  " + ", ".join(parts), err=as_json)
