"""The FLOPs of a model with adapters, measured for two ranks on each node. Every other rank follows from them.

A measurement takes seconds for a deep model, and a sweep may draw many ranks. Each product of an adapter costs in proportion to
its rank, so the profile is a straight line over ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft

from scalesweep.costs import FlopProfile, Gradient, Growth
from scalesweep.models.base import base_key
from scalesweep.models.flops import flop_profile
from scalesweep.models.groups import LayerGroup
from scalesweep.storage import cache_dir
from scalesweep.training.job import TrialJob

_known: dict[str, dict[int, FlopProfile]] = {}  # of this process: rank → profile, by key


def adapted_profile(job: TrialJob, model: Any, groups: Sequence[LayerGroup], trained: Collection[str]) -> FlopProfile:
    """The FLOPs of `model`, which has the job's adapters, if `trained` are the names of the parameters that may train."""
    config, rank = job.config, int(job.config.lora_rank)
    base = base_key(job.size, job.task, len(job.classes) or None, config.seed, None)
    content = [base, peft.__version__, config.adapter, config.lora_target_modules, config.lora_dropout > 0]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    file = cache_dir() / f"flops-{key}.json"
    known = _known.setdefault(key, {})
    if rank not in known:
        known |= _read(file)
    if rank not in known:
        known[rank] = at_rank(known, rank) or flop_profile(model, groups, trained)
        _write(file, known)
    return known[rank]


def at_rank(known: Mapping[int, FlopProfile], rank: int) -> FlopProfile | None:
    """The profile of a rank on the line through two known ones; None if there are fewer, or they are estimated."""
    if len(known) < 2 or any(profile.estimated for profile in known.values()):
        return None
    (first, one), (second, other) = list(known.items())[:2]
    share = (rank - first) / (second - first)

    def mixed(low: Sequence[Growth], high: Sequence[Growth]) -> tuple[Growth, ...]:
        # Counts are halves of whole numbers, so rounding makes them equal to measured ones on every worker.
        return tuple(
            tuple(round(2 * (a + share * (b - a))) / 2 for a, b in zip(x, y, strict=True))
            for x, y in zip(low, high, strict=True)
        )

    if [gradient.needed_by for gradient in one.gradients] != [gradient.needed_by for gradient in other.gradients]:
        return None
    growths = mixed([gradient.growth for gradient in one.gradients], [gradient.growth for gradient in other.gradients])
    gradients = (Gradient(a.needed_by, growth) for a, growth in zip(one.gradients, growths, strict=True))
    forwards, recomputed = mixed(one.forwards, other.forwards), mixed(one.recomputed, other.recomputed)
    return FlopProfile(forwards, recomputed, tuple(gradients), one.estimated)


def _read(file: Path) -> dict[int, FlopProfile]:
    try:
        return {int(rank): FlopProfile.from_dict(values) for rank, values in json.loads(file.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # missing or unreadable: measured again


def _write(file: Path, known: Mapping[int, FlopProfile]) -> None:
    """Keep the first two ranks for the node's other processes."""
    content = {rank: asdict(profile) for rank, profile in list(known.items())[:2]}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # without a cache that can be written, each process measures
        temporary.write_text(json.dumps(content))
        temporary.replace(file)
