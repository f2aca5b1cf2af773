"""The trained model as a folder that plain transformers loads, and the values to verify it by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalesweep.data.tokens import text_tokenizer
from scalesweep.models.ladder import quiet, restore_use_cache
from scalesweep.tasks import task_of
from scalesweep.training.job import TrialJob, open_data
from scalesweep.training.methods.method import Method


@torch.no_grad()
def export(
    method: Method,
    tokenizer: Any,
    job: TrialJob,
    folder: Path,
    gather: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]],
    writes: bool = True,
    examples: int = 32,
) -> np.ndarray | None:
    """Write the model and its tokenizer as a `save_pretrained` folder (safetensors). Adapters are merged, and written beside it.

    Weights in fewer bits become float32 first, on the CPU, so that the model of the export computes as it will be loaded.

    Args:
        gather: makes tensors whole that the workers hold in parts.
        writes: whether this worker writes. The others take part in the passes and in `gather`, and return None.

    Returns:
        float32 logits of the first `examples` validation examples, for comparison with a reloaded model.
    """
    model = method.model.eval()
    method.widen()
    logits = np.concatenate(list(validation_logits(model, job, examples)))
    own = gather(method.own())
    method.merge()
    weights = gather(model.state_dict())
    if not writes:
        return None
    method.write(folder, own)
    restore_use_cache(model.config, job.size)
    with quiet():
        model.save_pretrained(folder, state_dict=weights)
    tokenizer = tokenizer if task_of(job.task).control_words else text_tokenizer(tokenizer)
    if job.data.chat_template is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = job.data.chat_template
    tokenizer.save_pretrained(folder)
    return logits


@torch.no_grad()
def validation_logits(model: torch.nn.Module, job: TrialJob, examples: int) -> Iterator[np.ndarray]:
    """Float32 logits of the first validation examples, one at a time (without padding): of classes, or of the last token."""
    split = open_data(job).split("validation")
    device, per_token = next(model.parameters()).device, task_of(job.task).per_token
    for index in range(min(examples, len(split))):
        arrays = split.batch(np.array([index]), pad_id=0)
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if name != "targets"}
        logits = model(**inputs).logits.float().cpu().numpy()
        yield logits[:, -1] if per_token else logits
