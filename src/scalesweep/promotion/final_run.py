"""The final run of a promotion: training to the end, export, and the check of the export. Its job as JSON, and hashes of weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from scalesweep.errors import OutsideError, UserError
from scalesweep.promotion.unfinished import Unfinished
from scalesweep.tasks import task_of
from scalesweep.training.job import ADAPTER_FOLDER, TrialJob
from scalesweep.workers.one_job import JobFailed, train_here, train_on_workers

Progress = Callable[[int, int], None]  # called with (steps done, total steps)


def as_json(job: TrialJob) -> dict[str, Any]:
    """A job as plain values for JSON, without the folder of its checkpoints."""
    values: dict[str, Any] = TypeAdapter(TrialJob).dump_python(job, mode="json")
    return {**values, "checkpoint_dir": None}


def from_json(values: dict[str, Any]) -> TrialJob:
    """The job that `as_json` wrote.

    Raises:
        ValueError: the values are no job.
    """
    return TypeAdapter(TrialJob).validate_python(values)


def weight_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in an exported folder, by its path in it."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as content:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def train(job: TrialJob, work: Unfinished, progress: Progress | None, address: str | None) -> Any:
    """Train to the end, export to `work.model`, verify the export, and return the last report.

    Raises:
        UserError, OutsideError: if the workers don't fit, training fails, or the export predicts other values.
    """

    def show(step: int, total: int) -> None:
        work.reached(step, total)
        if progress is not None:
            progress(step, total)

    try:
        if job.config.num_gpus == 1 and address is None:
            report, logits = train_here(job, work.model, show)
        else:
            report, logits = train_on_workers(job, work.model, show, address)
    except JobFailed as failure:
        raise work.failed(str(failure), failure.traceback) from None
    if not np.isfinite(logits).all():
        work.discard()  # it would diverge again
        hint = "choose another trial; this configuration is on the edge of divergence, and a longer run went over it"
        raise UserError(f"the final run of {job.trial} diverged: its predictions are not finite numbers", hint)
    verify(job, work.model, logits)
    return report


def verify(job: TrialJob, folder: Path, expected: np.ndarray) -> None:
    """Load the exported folder with plain transformers and compare its predictions with the trained model's.

    Where the folder has an adapter, that one is loaded too, with peft on the base model.

    Raises:
        OutsideError: if the predictions differ by more than 1e-3, or the tokenizers differ.
    """
    from transformers import AutoTokenizer

    from scalesweep.models.ladder import load_tokenizer, quiet
    from scalesweep.training.export import validation_logits

    with quiet():
        model = task_of(job.task).auto_class().from_pretrained(folder, trust_remote_code=job.size.trust_remote_code).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=job.size.trust_remote_code)
    exported = {"model": model}
    if (folder / ADAPTER_FOLDER).is_dir():
        exported["adapter"] = _with_adapter(job, folder / ADAPTER_FOLDER)
    for what, loaded in exported.items():
        got = np.concatenate(list(validation_logits(loaded, job, len(expected))))
        if not np.allclose(got, expected, atol=1e-3, rtol=1e-3):
            worst = float(np.abs(got - expected).max())
            raise OutsideError(
                f"the exported {what} predicts other values than the trained model (logits differ by {worst:.2g})",
                f"to train again, delete {folder.parent}",
            )
    sample = "An exported tokenizer must split this sentence — 1,234 words — as the first one did."
    if tokenizer(sample)["input_ids"] != load_tokenizer(job.size)(sample)["input_ids"]:
        raise OutsideError("the exported tokenizer splits text differently from the tokenizer used in training")


def _with_adapter(job: TrialJob, folder: Path) -> Any:
    """Load the base model with an exported adapter, its weights rounded as they were in training."""
    from peft import PeftModel

    from scalesweep.models.groups import layer_groups
    from scalesweep.models.ladder import load_model, quiet
    from scalesweep.models.low_bits import lower, widen
    from scalesweep.training.methods import method_class

    base = load_model(job.size, job.task, len(job.classes) or None, {}, job.config.seed, dict(enumerate(job.classes)) or None)
    types = method_class(job.config.adapter).weight_types(job, layer_groups(base))
    if not types.plain:
        widen(lower(base, types, next(base.parameters()).device))
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers renames
        return PeftModel.from_pretrained(base, str(folder)).eval()
