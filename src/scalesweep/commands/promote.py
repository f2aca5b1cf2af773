"""The command `promote`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scalesweep.commands.parts import at_place, json_option, print_json, run_argument, say, training_address
from scalesweep.errors import NothingUsableError, UserError, command
from scalesweep.storage import UrlPath

if TYPE_CHECKING:
    from scalesweep.promotion.hub import Destination
    from scalesweep.promotion.promote import Keep


def _at_confirm(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    """The number of configurations of `--confirm`, or its word."""
    if value in ("auto", "off"):
        return value
    if value.isdecimal() and int(value) >= 2:
        return int(value)
    raise click.BadParameter(f"{value!r} is not auto, off or a whole number from 2 on", ctx, param)


@click.command()
@run_argument
@click.option("--trial", default="best", metavar="NAME", help="Trial to promote; 'best' is the search's choice.")
@click.option(
    "--target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Target file of `plan --from … --write FILE`: size, length, GPUs and settings of the final run.",
)
@click.option(
    "--output",
    metavar="FOLDER",
    callback=at_place,
    help="Folder for the model. Default: RUN_DIR/promoted/TRIAL, or ./promoted/RUN/TRIAL if the run folder is a URL.",
)
@click.option(
    "--train-on",
    type=click.Choice(["train+validation", "train"]),
    default="train+validation",
    help="Splits that the final run trains on.",
)
@click.option(
    "--keep",
    type=click.Choice(["last", "best"]),
    default="last",
    help="Checkpoint that becomes the model: the last, or the best on the validation split (needs --train-on train).",
)
@click.option(
    "--num-gpus",
    type=click.IntRange(min=1),
    help="Workers of the final run. Default: the trial's number. Changes the speed, not the result.",
)
@click.option(
    "--max-t",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the final run, in the unit of the sweep's rungs (time_attr). Default: the sweep's max_t, or "
    "longer if its trials were short and still improving.",
)
@click.option(
    "--confirm",
    default="auto",
    metavar="K|auto|off",
    callback=_at_confirm,
    help="Before the choice, train the best K trials again on new seeds, if they can't be told apart, and promote the best mean. "
    "auto: at most three, if that and earlier repeats take at most a tenth of the sweep's GPU seconds.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="New seeds of each trial that is confirmed.")
@training_address("It also runs the confirmation. ")
@click.option(
    "--push-to-hub",
    "push_to",
    metavar="REPO",
    help="Upload the model to the Hugging Face hub as NAMESPACE/NAME, privately. A trial that was promoted before is only uploaded.",
)
@click.option("--public", is_flag=True, help="With --push-to-hub: let everybody see the repository.")
@click.option(
    "--board-watts",
    type=click.FloatRange(min=0, min_open=True),
    metavar="WATTS",
    help="Power of a GPU board, or of a CPU worker, for the energy on the card. Default: its maker's figure.",
)
@click.option("--force", is_flag=True, help="Replace an earlier promotion and read the test split again.")
@json_option
def promote(
    run_dir: Path | UrlPath,
    trial: str,
    target: Path | None,
    output: Path | UrlPath | None,
    train_on: str,
    keep: Keep,
    num_gpus: int | None,
    max_t: float | None,
    confirm: int | str,
    seeds: int,
    address: str | None,
    push_to: str | None,
    public: bool,
    board_watts: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a trial to the end, test it once, export it.

    The output is a transformers folder (safetensors, tokenizer, model card, provenance.json). Before it finishes, `promote`
    loads the folder with plain transformers and checks that it predicts as the trained model does.

    \b
    The best trial:                    scalesweep promote runs/quickstart
    The best of three on three seeds:  scalesweep promote runs/quickstart --confirm 3 --seeds 3
    And to the hub:                    scalesweep promote runs/quickstart --push-to-hub ada/film-reviews
    """
    if public and push_to is None:
        raise click.UsageError("--public needs --push-to-hub REPO")
    if target is not None and (trial != "best" or max_t is not None):
        raise click.UsageError("--target names the trial and the length itself; leave out --trial and --max-t")
    if isinstance(confirm, int) and (trial != "best" or target is not None):
        raise click.UsageError(
            "--confirm compares the best trials, and --trial or --target names one: leave one of the two out"
        )
    from scalesweep.promotion.promote import check_keep

    check_keep(keep, train_on.split("+"))
    to = None
    if push_to is not None:
        from scalesweep.promotion.hub import check

        to = check(push_to, public)
        if not force and (done := _earlier(run_dir, trial, target, output)) is not None:
            _push(done, to, as_json)
            return
        say(f"the model will be pushed to {to.repo} ({to.visibility})")
    if trial == "best" and target is None:
        _confirm(run_dir, output, confirm, seeds, max_t, address, force)
    from scalesweep.promotion.adapted import refusal
    from scalesweep.promotion.promote import promote as run
    from scalesweep.promotion.summary import adapted, after_promotion, promoted
    from scalesweep.report.terminal import step_progress

    try:
        with contextlib.ExitStack() as shown:
            bars = list[Callable[[int, int], None]]()

            def begins(text: str) -> None:  # nothing is in the way of the training
                say(text)
                if not bars:
                    bars.append(shown.enter_context(step_progress("training the final run")))

            result = run(
                run_dir,
                trial,
                tuple(train_on.split("+")),
                output,
                num_gpus,
                max_t,
                force,
                lambda *steps: bars[0](*steps),
                address=address,
                say=begins,
                target=target,
                keep=keep,
                board_watts=board_watts,
            )
    except NothingUsableError as error:  # of an adaptation
        if as_json:
            print_json(refusal(error))
        raise
    except KeyboardInterrupt:
        say(f"\ninterrupted; the final run continues from its last checkpoint with: {command(*sys.argv[1:])}")
        sys.exit(130)
    if not as_json:
        click.echo(adapted(result["adapted"]) if "adapted" in result else promoted(result))
        say("\n" + after_promotion(result))
    if to is not None:
        _push(result, to, as_json)
    elif as_json:
        print_json(result)


def _earlier(run_dir: Path | UrlPath, trial: str, target: Path | None, output: Path | UrlPath | None) -> dict[str, Any] | None:
    """The model of an earlier promotion, which is pushed without another training.

    Raises:
        UserError: it was promoted with other settings than those of the command line.
    """
    from scalesweep.promotion.promote import finished

    done, context = finished(run_dir, trial, output, target), click.get_current_context()
    if done is None:
        return None
    final = done["final_run"]
    config, kept = final["config"], "best" if final.get("kept") else "last"
    made = {"num_gpus": config["num_gpus"], "max_t": config["max_t"], "train_on": "+".join(final["train_on"]), "keep": kept}
    given = [name for name in made if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if other := [name for name in given if context.params[name] != made[name]]:
        options = ", ".join(f"--{name.replace('_', '-')} {made[name]}" for name in other)
        raise UserError(
            f"{done['output']} holds a model that was promoted with {options}",
            "leave the option out to push that model as it is; choose another --output, or replace it with --force",
        )
    say(f"{done['output']} holds the promoted model; it is pushed as it is")
    return done


def _push(result: dict[str, Any], to: Destination, as_json: bool) -> None:
    """Push a promoted model. A failure loses nothing: the result is printed first, and the same command without --force pushes it."""
    from scalesweep.promotion.hub import push

    again = command(*(word for word in sys.argv[1:] if word != "--force"))
    try:
        result = {**result, "pushed": push(Path(result["output"]), to, again)}
    finally:
        if as_json:
            print_json(result)
    say(f"pushed      {result['pushed']}  ({to.visibility})")


def _confirm(
    run_dir: Path | UrlPath,
    output: Path | UrlPath | None,
    asked: int | str,
    seeds: int,
    max_t: float | None,
    address: str | None,
    force: bool,
) -> None:
    """Compare the leaders on new seeds, as far as that is asked for or cheap. A sweep that has not ended is left to `promote`."""
    from scalesweep.promotion.choice import check_length
    from scalesweep.promotion.promote import check_unused
    from scalesweep.record import read_record
    from scalesweep.report.page.write import PAGE, write_page
    from scalesweep.search.confirm import plan
    from scalesweep.search.pick import with_forecasts
    from scalesweep.spec import sweep_from_dict
    from scalesweep.sweep.launch import local_slots, resume
    from scalesweep.sweep.preflight import static_problems

    record = read_record(run_dir)
    check_length(max_t, record.manifest.time_attr)
    if asked == "off" or record.manifest.adapts is not None or not (record.status == "ended" or record.confirming):
        return
    planned = plan(with_forecasts(record), asked if isinstance(asked, int) else None, seeds)
    check_unused(output, run_dir, planned.trials, force)
    if planned.trials and asked == "auto" and address is None:
        spec = sweep_from_dict(record.manifest.spec)
        for problem in static_problems(spec, local_slots(spec, None)):  # nobody asked for it, so it refuses nothing
            say(f"not confirmed, because this machine can't run the sweep's trials: {problem.message}")
            return
    if planned.text:
        say(planned.text)
    if planned.trials:
        try:
            resume(run_dir, address, None, confirm=(planned.trials, planned.seeds))
        except KeyboardInterrupt:
            say(f"\ninterrupted; the confirmation continues with: {command(*sys.argv[1:])}")
            sys.exit(130)
        with contextlib.suppress(OSError, UserError):  # the page of the sweep's end lacks the new seeds
            write_page([with_forecasts(read_record(run_dir))], run_dir / PAGE)
