"""The device of this process, and automatic mixed precision on it (torch.amp).

Variables that launchers leave behind (LOCAL_RANK, WORLD_SIZE, PMI_SIZE, ACCELERATE_…) mean nothing here: the number of workers
and the precision come from the job alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from accelerate.utils.memory import clear_device_cache

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Mixed precision by name. `auto` is bf16 on a GPU that supports it, fp16 on another GPU, float32 on CPU.

    fp16 scales the loss, and computes in float32 on CPU.
    """

    def __init__(self, name: str) -> None:
        on_gpu = torch.cuda.is_available()
        if name == "auto":
            name = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "no"
        self.name = name
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.dtype = None if name == "fp16" and not on_gpu else DTYPES.get(name)
        self.scaler = torch.amp.GradScaler("cuda") if self.dtype is torch.float16 else None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    @contextlib.contextmanager
    def casts_kept(self) -> Iterator[None]:
        """Within it, the passes share the casts of the weights, which may not change. Nothing outside the passes is cast."""
        with contextlib.ExitStack() as stack:
            if self.dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
                stack.enter_context(torch.autocast(self.device.type, enabled=False))
            yield

    def backward(self, loss: torch.Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the scale of the gradients, before they are clipped."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer step. A step whose scaled gradients overflow is skipped."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def free_memory(self) -> None:
        clear_device_cache(garbage_collection=True)


def device_name(device: torch.device) -> str:
    """The name of a GPU as its driver reports it, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def use_threads(count: int) -> None:
    """Compute with at most `count` threads in this process. torch's default knows no CPU quota."""
    torch.set_num_threads(min(count, torch.get_num_threads()))
