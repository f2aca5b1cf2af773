"""One configuration trained by hand in this process, outside a sweep: how one debugs a trial. Nothing is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalesweep.errors import NothingUsableError, UserError, did_you_mean
from scalesweep.promotion.choice import checked_config
from scalesweep.record import Manifest, Record, Trial
from scalesweep.spec import PARAMETERS, TrialConfig, sweep_from_dict
from scalesweep.spec.effects import lacks
from scalesweep.spec.space import ALIASES
from scalesweep.storage import UrlPath
from scalesweep.training.job import TrainReport, TrialJob, job_from_manifest
from scalesweep.workers.session import usable_cpus

YES_OR_NO = {"true": True, "yes": True, "false": False, "no": False}
KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "word": str, "bool": lambda text: YES_OR_NO[text.lower()]}
HEARTBEAT_STEPS = 1  # so that a bar moves between two reports


def given(settings: Sequence[str]) -> dict[str, Any]:
    """The parameters that `KEY=VALUE` texts set.

    Raises:
        UserError: a key is no parameter, or its value is not of the parameter's kind or outside its range.
    """
    return dict(_given(*setting.partition("=")[::2]) for setting in settings)


def _given(name: str, text: str) -> tuple[str, Any]:
    info = PARAMETERS.get(name)
    if info is None:
        hint = f"scalesweep calls it {ALIASES[name]!r}" if name in ALIASES else did_you_mean(name, PARAMETERS)
        raise UserError(f"--params {name}: this is no parameter", hint)
    try:
        value = KINDS[info.kind](text)
    except (KeyError, ValueError):
        raise UserError(f"--params {name}={text}: this is no {info.kind}", f"{name}: {info.help}") from None
    if info.choices and value not in info.choices:
        raise UserError(f"--params {name}={text}", did_you_mean(text, info.choices))
    low, high = -math.inf if info.low is None else info.low, math.inf if info.high is None else info.high
    if isinstance(value, int | float) and not low <= value <= high:  # so NaN is outside too
        raise UserError(f"--params {name}={text}: this is outside {low:g} … {high:g}", f"{name}: {info.help}")
    return name, value


def job_of_trial(
    record: Record, trial: Trial, run_dir: Path | UrlPath, params: dict[str, Any], max_t: float | None
) -> TrialJob:
    """The job that trains a recorded trial here, with some of its parameters changed.

    Raises:
        UserError: the record holds a value that no sweep could have drawn, or `params` name an unknown size or schedule, or a
            parameter that has no effect.
    """
    return _job(record.manifest, trial.name, checked_config(record, trial, run_dir), params, max_t)


def job_of_sweep(manifest: Manifest, config: TrialConfig, params: dict[str, Any], max_t: float | None) -> TrialJob:
    """The job that trains a configuration of a checked sweep here. Raises UserError as `job_of_trial`."""
    return _job(manifest, "by-hand", config, params, max_t)


def _job(manifest: Manifest, name: str, config: TrialConfig, params: dict[str, Any], max_t: float | None) -> TrialJob:
    from scalesweep.training.schedules import SCHEDULES

    known: dict[str, Sequence[str]] = {
        "model_size": [size.name for size in manifest.ladder],
        "lr_scheduler_type": list(SCHEDULES),
    }
    for key, words in known.items():
        if params.get(key, words[0]) not in words:
            raise UserError(f"--params {key}={params[key]}", did_you_mean(params[key], words))
    changes = {**params, "num_gpus": 1, **({} if max_t is None else {"max_t": int(max_t) if max_t == int(max_t) else max_t})}
    changed, spec = config.model_copy(update=changes), sweep_from_dict(manifest.spec)
    for key in params:
        if (lack := lacks(key, changed.model_dump())) is not None:
            other, needed = lack
            hint = f"it applies to {other} {', '.join(needed)}: give --params {other}={needed[0]} too, or leave it out"
            raise UserError(f"--params {key}={params[key]} has no effect: {other} is {getattr(changed, other)}", hint)
    return job_from_manifest(manifest, spec, name, changed, None, heartbeat_steps=HEARTBEAT_STEPS, saves_first="never")


def train_by_hand(job: TrialJob, tell: Callable[[TrainReport], object]) -> list[TrainReport]:
    """Train a job to its end in this process, on all its cores. `tell` gets each report; those between two evaluations have no
    metrics.

    Returns:
        The reports of all evaluations.

    Raises:
        NothingUsableError: the metric is not a finite number any more.
        Exception: any error of the training, as it is.
    """
    from scalesweep.training.loop import Trainer, train
    from scalesweep.training.precision import use_threads

    use_threads(usable_cpus())
    trainer, reports = Trainer(job), list[TrainReport]()
    try:
        for report in train(trainer):
            tell(report)
            if not report.metrics:
                continue
            reports.append(report)
            if not math.isfinite(report.metrics[job.metric]):
                raise NothingUsableError(
                    f"{job.metric} is {report.metrics[job.metric]} at step {report.step}: a sweep stops such a trial as diverged",
                    "lower learning_rate, or set training.mixed_precision to no",
                )
        return reports
    finally:
        trainer.close()
