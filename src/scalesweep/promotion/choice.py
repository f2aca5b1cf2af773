"""The trial to promote, its configuration, checked again, and the length of its final run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from scalesweep.errors import UserError, command, did_you_mean
from scalesweep.promotion.adapted import choose_adapted
from scalesweep.record import Record, State, Trial
from scalesweep.record.final_length import FinalLength, final_length
from scalesweep.record.ranking import best
from scalesweep.record.store import events_path
from scalesweep.search.pick import with_forecasts
from scalesweep.spec import PARAMETERS, TrialConfig
from scalesweep.storage import UrlPath


def choose(record: Record, run_dir: Path | UrlPath, name: str) -> Trial:
    """Return the trial to promote: the named one, or for `best` the search's choice.

    Raises:
        UserError: if there is no such trial, or it can't be promoted.
    """
    if name == "best":
        if record.status != "ended":
            hint = f"finish it: {command('resume', run_dir)}; or name the trial yourself: --trial NAME"
            raise UserError(f"the sweep in {run_dir} has not ended, so its best trial is not known yet", hint)
        if record.manifest.adapts is not None:
            return choose_adapted(with_forecasts(record), run_dir)
        trial = best(with_forecasts(record))
        if trial is None:
            hint = f"see how each trial ended: {command('leaderboard', run_dir)}"
            raise UserError(f"no trial in {run_dir} has a usable {record.metric}", hint)
        return trial
    trial = record.trials.get(name)
    if trial is None:
        raise UserError(f"{run_dir} has no trial {name!r}", did_you_mean(name, record.trials))
    if trial.state in (State.FAIL, State.INFEASIBLE):
        hint = f"choose another; it ended with: {trial.error or trial.stop_reason}"
        raise UserError(f"trial {name} is {trial.state} and can't be promoted", hint)
    if trial.last is None:
        raise UserError(f"trial {name} has no report yet", "choose a trial that the leaderboard ranks")
    if not trial.finite(record.metric):
        hint = "choose a trial that the leaderboard ranks; a longer run of this configuration diverges as well"
        raise UserError(f"trial {name} diverged: it never had a finite {record.metric}", hint)
    return trial


def checked_config(record: Record, trial: Trial, run_dir: Path | UrlPath) -> TrialConfig:
    """Return the trial's configuration, checked again, because users can edit a record.

    Raises:
        UserError: for a value that no sweep could have drawn.
    """
    where = f"{events_path(run_dir)}, trial {trial.name}"
    hint = "restore the record from a copy; don't edit its configurations"
    try:
        config = TrialConfig(**trial.config)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("config",), "msg": str(error)}
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}", hint) from None
    sizes = [size.name for size in record.manifest.ladder]
    if config.model_size not in sizes:
        raise UserError(
            f"{where}: model_size {config.model_size!r} is not a size of the ladder", did_you_mean(config.model_size, sizes)
        )
    for name, info in PARAMETERS.items():
        value = getattr(config, name)
        if value is None or info.kind == "word":
            if info.choices and value not in info.choices:
                raise UserError(f"{where}: {name} is {value!r}", did_you_mean(str(value), info.choices))
            continue
        if value in info.fractions:
            continue
        if info.fractions and value % 1:
            raise UserError(f"{where}: {name} is {value}, which is neither a whole number nor a share of a GPU", hint)
        if not (info.low is None or value >= info.low) or not (info.high is None or value <= info.high):
            raise UserError(f"{where}: {name} is {value}, outside {info.low:g} … {info.high:g}", hint)
    from scalesweep.training.schedules import SCHEDULES

    if config.lr_scheduler_type not in SCHEDULES:
        raise UserError(
            f"{where}: lr_scheduler_type is {config.lr_scheduler_type!r}", did_you_mean(config.lr_scheduler_type, SCHEDULES)
        )
    return config


def check_length(max_t: float | None, time_attr: str) -> None:
    """Check a length that was asked for, before anything is trained.

    Raises:
        UserError: it is a fraction of a step or of a token.
    """
    if max_t is not None and time_attr in ("steps", "tokens") and max_t != int(max_t):
        raise UserError(f"max_t {max_t} is not a whole number of {time_attr}", f"write {max(round(max_t), 1)}")


def length_of(record: Record, trial: Trial, config: TrialConfig, max_t: float | None, train_on: tuple[str, ...]) -> FinalLength:
    """Return the length of the final run: the one asked for, or the default.

    Raises:
        UserError: a fraction of a step or of a token was asked for.
    """
    if max_t is None:
        return final_length(record, trial, train_on)
    check_length(max_t, config.time_attr)
    return FinalLength(int(max_t) if max_t == int(max_t) else max_t, None, "as asked for by --max-t")
