"""Training jobs for tests: a checked sweep's manifest, and a job in it with a config bent where a test needs it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from preflights import sizes_resolved_once
from scalesweep.record import Manifest
from scalesweep.spec import sweep_from_dict, trial_config
from scalesweep.storage import UrlPath
from scalesweep.sweep.launch import make_manifest
from scalesweep.sweep.preflight import preflight
from scalesweep.training.job import TrialJob, job_from_manifest
from sweeps import sweep_dict

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@functools.cache
def manifest_of(data: str) -> Manifest:
    with sizes_resolved_once():
        return make_manifest(preflight(sweep_from_dict(json.loads(data)), slots=4, base=Path.cwd()))


def manifest(**changes: Any) -> Manifest:
    return manifest_of(json.dumps(sweep_dict(**changes)))


def job(
    config: dict[str, Any], checkpoint_dir: Path | UrlPath | None = None, sweep: dict[str, Any] | None = None, **changes: Any
) -> TrialJob:
    """A job of the tiny sweep; `config` overrides fields of its TrialConfig."""
    made = manifest(**(sweep or {}))
    spec = sweep_from_dict(made.spec)
    filled = trial_config(spec, {}).model_copy(update=config)
    return job_from_manifest(made, spec, "t0000", filled, checkpoint_dir, **changes)


def reports(job: TrialJob) -> Iterator[Any]:
    """Train in this process."""
    from scalesweep.training.loop import Trainer, train

    yield from train(Trainer(job))
