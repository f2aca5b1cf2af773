"""The command line: parse, call, print, exit code. Data go to stdout; progress and messages go to stderr.

The commands import heavy libraries inside their functions, which keeps `--help` fast.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from scalesweep import __version__
from scalesweep.commands.adapt import adapt
from scalesweep.commands.choose import choose
from scalesweep.commands.leaderboard import leaderboard
from scalesweep.commands.parts import (
    Group,
    OutputPath,
    as_a_job,
    at_place,
    gpus_option,
    json_option,
    launch_options,
    override_option,
    print_json,
    run_argument,
    say,
    set_option,
)
from scalesweep.commands.plan import checked_plan, load, plan, slots_of
from scalesweep.commands.promote import promote
from scalesweep.commands.publish import publish
from scalesweep.commands.recipe import recipe
from scalesweep.commands.report import report
from scalesweep.commands.reproduce import reproduce
from scalesweep.commands.run import run
from scalesweep.commands.scaling import scaling
from scalesweep.commands.show import show
from scalesweep.errors import OutsideError, ScalesweepError, UserError, check_interpreter, command
from scalesweep.storage import UrlPath, working_folder
from scalesweep.streams import give_up_stdout, usable_streams

if TYPE_CHECKING:
    from scalesweep.sweep.jobs import Jobs


_spec_argument = click.argument("spec", metavar="SWEEP.yaml", type=click.Path(path_type=Path))


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
)
@click.version_option(__version__, prog_name="scalesweep")
def cli() -> None:
    """Search jointly over model size, GPU count, unfreezing, adapters, learning-rate schedule and regularization.

    \b
    A sweep from start to end:
      scalesweep plan        sweeps/quickstart.yaml    check everything, print the maximum cost
      scalesweep launch      sweeps/quickstart.yaml    run the trials, stop the poor ones early
      scalesweep leaderboard runs/quickstart           compare them
      scalesweep show        runs/quickstart           look into the best one, or into others
      scalesweep run         runs/quickstart --trial t0007  train one by hand, log on screen
      scalesweep report      runs/quickstart           say what it found, and what to try next
      scalesweep scaling     runs/quickstart           fit a scaling law, predict larger models
      scalesweep plan        --from runs/quickstart --budget "20 gpu-hours"  say what to buy
      scalesweep promote     runs/quickstart           train the best one to the end and export it
      scalesweep reproduce   runs/quickstart/promoted/t0013  train that model again and compare
      scalesweep adapt       runs/quickstart/promoted/t0013 --data new.csv  adapt it to new data
      scalesweep resume      runs/quickstart           continue after any interruption
      scalesweep attach      runs/quickstart --address http://HEAD:8265  follow a Ray job
      scalesweep simulate    sweeps/quickstart.yaml --curves runs/quickstart  search again, in seconds
      scalesweep recipe      runs/chat --format trl   write its settings for another trainer
      scalesweep choose      sweeps/models.yaml        predict the best checkpoint to start from
      scalesweep publish     runs/quickstart          make its W&B runs from the record

    Exit codes: 0 done; 2 error in your input; 3 nothing usable came of it: no usable trial or model, a difference
    found, or a fit, choice or budget plan refused; 4 a cluster, disk or hub failed; 130 interrupted (`resume` continues a sweep).
    """


@cli.command()
@_spec_argument
@launch_options("runs/NAME", as_a_job)
@json_option
def launch(
    spec: Path,
    run_dir: Path | UrlPath | None,
    address: str | None,
    cluster: Path | None,
    num_gpus: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a sweep and stop poor trials early.

    The run folder holds the record (record.jsonl), the Optuna study (study.log), the checkpoints and the W&B runs.
    Ctrl-C stops the sweep cleanly and prints the command to `resume` it.

    \b
    On this machine:       scalesweep launch sweeps/quickstart.yaml
    On a Ray cluster:      scalesweep launch sweeps/bert-ladder.yaml --address auto --run-dir /shared/runs/bert
    As a Ray job:          … --address http://HEAD:8265    Ctrl-C leaves it running, `attach` follows it again
    With a larger budget:  scalesweep launch sweeps/bert-ladder.yaml --set budget.gpu_hours=200
    """
    from scalesweep.sweep.jobs import is_job_address

    if address is not None and is_job_address(address):
        _refuse_gpus(num_gpus)
        _launch_job(spec, run_dir, address, cluster, overrides, as_json)
    from scalesweep.sweep.launch import check_unused
    from scalesweep.sweep.launch import launch as run

    loaded = load(spec, overrides, None if address else partial(slots_of, num_gpus=num_gpus))
    folder = run_dir or Path("runs") / loaded.name
    check_unused(folder)  # before models and data are read
    checked = checked_plan(loaded, spec.parent, address, num_gpus, cluster)
    _drive(lambda: run(checked, folder, address, num_gpus), folder, as_json)


@cli.command()
@run_argument
@as_a_job
@gpus_option
@set_option(help="Change a budget or a limit from here on, e.g. --set budget.run_cap=60. Repeatable.")
@json_option
def resume(
    run_dir: Path | UrlPath, address: str | None, num_gpus: int | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Continue a sweep that was interrupted or whose driver died, or extend one that has ended.

    Needs only the run folder. Finished trials stay as they are. Unfinished trials continue from their last checkpoints.
    The rungs and the Optuna study are rebuilt from the record.

    With --set, budgets and limits change, and the record keeps who changed them. A sweep that has ended continues with a
    larger budget: it proposes new trials; those that have ended stay so.

    Resume only a folder that you trust: it names the models and the data to read. `resume` prints these names. From the
    folder itself it reads JSON and safetensors, never pickle.
    """
    from scalesweep.sweep.jobs import is_job_address

    if address is not None and is_job_address(address):
        from scalesweep.sweep.jobs import Jobs, shared_folder

        _refuse_gpus(num_gpus)
        folder = shared_folder(run_dir)
        jobs = Jobs(address)
        sets = [word for setting in overrides for word in ("--set", setting)]
        _follow(jobs, jobs.submit(folder, ["resume", folder, "--address", "auto", *sets]), folder, as_json)
    from scalesweep.sweep.launch import resume as run

    _drive(lambda: run(run_dir, address, num_gpus, overrides=overrides), run_dir, as_json)


def _refuse_gpus(num_gpus: int | None) -> None:
    if num_gpus is not None:
        raise click.UsageError("--num-gpus sets the size of a local cluster; leave it out for a running cluster")


def _launch_job(
    spec_path: Path,
    run_dir: Path | UrlPath | None,
    address: str,
    cluster: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> NoReturn:
    """Launch a sweep as a Ray job and follow it.

    The checks that need neither models nor data run here. The job runs the others on the cluster, before any training.
    """
    import json

    from scalesweep.sweep.cluster import workers_by_file
    from scalesweep.sweep.jobs import Jobs, check_paths, shared_folder
    from scalesweep.sweep.preflight import check_static

    spec = load(spec_path, overrides, None)
    if cluster is not None:
        workers_by_file(spec, cluster)
    check_static(spec, None)
    check_paths(spec, spec_path.parent)
    folder = shared_folder(run_dir)
    files, settings = {spec_path.name: str(spec_path)}, list(overrides)
    if spec.space_file is not None:
        there = f"search_space/{Path(spec.space_file).name}"
        files[there] = spec.space_file
        settings.append(f"search_space={json.dumps(there)}")  # JSON is YAML
    sets = [word for setting in settings for word in ("--set", setting)]
    jobs = Jobs(address)
    job = jobs.submit(folder, ["launch", spec_path.name, "--run-dir", folder, "--address", "auto", *sets], files)
    _follow(jobs, job, folder, as_json)


@cli.command()
@click.argument("target", metavar="RUN_DIR|JOB")
@click.option(
    "--address",
    metavar="ADDR",
    required=True,
    help="Cluster of the job: http://HOST:8265, ray://HOST:10001, or 'auto' on one of its nodes.",
)
@click.option("--stop", is_flag=True, help="Stop the sweep cleanly; `resume` continues it.")
def attach(target: str, address: str, stop: bool) -> None:
    """Follow a sweep that runs as a Ray job, or stop it.

    Prints the job's log from its first line. Ctrl-C leaves the sweep running. Exits with the exit code of the sweep.
    """
    from scalesweep.sweep.jobs import Jobs

    jobs = Jobs(address)
    job, folder = jobs.find(target)
    if stop:
        jobs.stop(job)
    _follow(jobs, job, folder, stopping=stop)


def _follow(jobs: Jobs, job: str, run_dir: str, as_json: bool = False, stopping: bool = False) -> NoReturn:
    """Print a job's log until the job ends or the user presses Ctrl-C, then exit with the job's code.

    The log ends with the leaderboard.
    """
    again = command("attach", run_dir, "--address", jobs.address)
    say(f"job {job}\nCtrl-C leaves it running; to follow it again: {again}\n")
    try:
        status, code = jobs.follow(job, lambda text: click.echo(text, nl=False, err=True))
    except KeyboardInterrupt:
        say(f"\nthe sweep continues without this terminal\nfollow it     {again}\nstop it       {again} --stop")
        sys.exit(130)
    if status == "STOPPED":
        line = command("resume", run_dir, "--address", jobs.address)
        say(f"\nstopped; nothing that was reported is lost. Continue with: {line}")
    if as_json and code == 0:
        from scalesweep.record import read_record
        from scalesweep.report.leaderboard import leaderboard_json
        from scalesweep.search.pick import with_forecasts

        print_json(leaderboard_json(with_forecasts(read_record(run_dir))))
    sys.exit(0 if stopping and status == "STOPPED" else code)


def _drive(run: Callable[[], Any], run_dir: Path | UrlPath, as_json: bool) -> None:
    """Run or resume a sweep, then show its leaderboard and what to do next."""

    from scalesweep.report.leaderboard import leaderboard_json
    from scalesweep.report.page.write import PAGE, write_page
    from scalesweep.report.terminal import print_leaderboard, where_it_is

    folder = run_dir if isinstance(run_dir, Path) else working_folder(run_dir)
    try:
        record = run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            if (run_dir / "sweep.json").exists():
                say(f"\ninterrupted; nothing that was reported is lost. Continue with: {command('resume', run_dir)}")
                sys.exit(130)
        raise
    page: Path | UrlPath | None = run_dir / PAGE
    try:
        write_page([record], run_dir / PAGE)
    except OSError as error:
        say(f"the page {page} could not be written: {error.strerror}")
        page = None
    if as_json:
        print_json(leaderboard_json(record))
        return
    print_leaderboard(record, limit=10)
    say("\n" + where_it_is(str(run_dir), folder, record, page))


@cli.command()
@click.argument("spec", metavar="SWEEP.yaml", callback=at_place)
@click.option(
    "--curves",
    metavar="SOURCE",
    help="Source of the curves: a finished run folder, a table (.csv, .parquet), or family:NAME (modelled curves).",
)
@click.option("--workers", metavar="N", type=click.IntRange(min=1), default=8, help="GPUs of the virtual cluster.")
@click.option("--seeds", metavar="K", type=click.IntRange(min=1), default=5, help="Number of sweeps to simulate, one per seed.")
@click.option(
    "--gpu-hours",
    metavar="B",
    type=click.FloatRange(min=0, min_open=True),
    help="Budget of each simulated sweep. Default: the sweep file's, or the cost of 50 full trials.",
)
@click.option(
    "--startup", metavar="SECONDS", type=click.FloatRange(min=0), default=5.0, help="Seconds that each trial takes to start."
)
@click.option("--failures", metavar="RATE", type=click.FloatRange(min=0), default=0.0, help="Trial failures per GPU hour.")
@click.option(
    "--efficiency",
    metavar="E",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    help="Parallel efficiency for each doubling of GPUs, if the table does not hold it.",
)
@override_option
@click.option(
    "--against",
    multiple=True,
    metavar="KEY=VALUE[,…]",
    help="Also simulate the sweep with these settings, to compare. Repeatable.",
)
@click.option("--plot", type=OutputPath(), metavar="FILE.png", help="Plot regret against GPU hours and wall-clock time.")
@click.option("--processes", metavar="P", type=click.IntRange(min=1), default=1, help="Processes that share the seeds.")
@click.option(
    "--replay",
    is_flag=True,
    help="Take a run folder in place of SWEEP.yaml, and check that the search repeats its recorded decisions.",
)
@json_option
def simulate(
    spec: Path | UrlPath,
    curves: str | None,
    workers: int,
    seeds: int,
    gpu_hours: float | None,
    startup: float,
    failures: float,
    efficiency: float,
    overrides: tuple[str, ...],
    against: tuple[str, ...],
    plot: Path | None,
    processes: int,
    replay: bool,
    as_json: bool,
) -> None:
    """Simulate a sweep on known learning curves.

    Takes seconds: the curves are recorded or modelled, and the cluster is virtual. The simulation proposes, stops and
    places trials as a live sweep does. The sweep file's budgets apply to the virtual clock.

    \b
    Curves of a finished sweep:  scalesweep simulate sweeps/x.yaml --curves runs/x --workers 16
    Compare two settings:        … --curves family:trend --against search.sampler=random --plot regret.png
    Replay the decisions:        scalesweep simulate runs/x --replay    (exit code 3 if one differs)
    """
    import os

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the models are small, and one thread gives a seed the same result in every process
    if replay:
        unread = {"--curves": curves, "--set": overrides, "--against": against, "--plot": plot}
        if given := [name for name, value in unread.items() if value]:
            raise click.UsageError(f"--replay repeats the decisions of the run folder alone: leave out {', '.join(given)}")
        _replay(spec, as_json)
        return
    if isinstance(spec, Path) and (spec / "sweep.json").is_file():
        raise UserError(
            f"{spec} is a run folder, not a sweep file",
            f"check its decisions with `{command('simulate', spec, '--replay')}`, or search on its curves with "
            f"`{command('simulate', 'SWEEP.yaml', '--curves', spec)}`",
        )
    if isinstance(spec, UrlPath):
        raise UserError(
            f"{spec} is not a sweep file", "copy the file to this machine; only --replay and --curves read from a URL"
        )
    if curves is None:
        raise click.UsageError("Missing option '--curves': a run folder, a table, or family:NAME")
    from scalesweep.report.simulation import check_plot_path, plot_simulation, print_simulation, simulation_json
    from scalesweep.report.terminal import step_progress
    from scalesweep.simulation.run import Options, open_variants, run_simulation

    if plot is not None:
        check_plot_path(plot)
    options = Options(workers, seeds, gpu_hours, startup, failures, processes)
    variants = open_variants(spec, curves, overrides, against, efficiency)
    with step_progress("simulating") as progress:
        result = run_simulation(variants, curves, options, progress)
    if plot is not None:
        plot_simulation(result, plot)
    if as_json:
        print_json(simulation_json(result))
    else:
        print_simulation(result)
    if plot is not None:
        say(f"\nplot          {plot}")


def _replay(run_dir: Path | UrlPath, as_json: bool) -> None:
    """Repeat the decisions of a record and print the differences; exit code 3 if there are any."""
    from dataclasses import asdict

    from scalesweep.report.simulation import print_replay
    from scalesweep.simulation.replay import replay_decisions

    result = replay_decisions(run_dir)
    if as_json:
        print_json(asdict(result))
    else:
        print_replay(result)
    if result.differences:
        sys.exit(3)


cli.add_command(adapt)
cli.add_command(choose)
cli.add_command(leaderboard)
cli.add_command(plan)
cli.add_command(promote)
cli.add_command(publish)
cli.add_command(recipe)
cli.add_command(report)
cli.add_command(reproduce)
cli.add_command(run)
cli.add_command(scaling)
cli.add_command(show)


def main() -> None:
    """Entry point of the `scalesweep` command."""
    usable_streams()
    try:
        check_interpreter()
        cli.main(prog_name="scalesweep", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ScalesweepError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has seen enough, as in `| head`
        give_up_stdout()
        sys.exit(141)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"error: {OutsideError(what, 'check for a full disk or a read-only folder')}")
        sys.exit(OutsideError.exit_code)


if __name__ == "__main__":
    main()
