"""The cache of the frozen prefix: the output of the frozen groups, stored on the node for every epoch and every trial.

A *cut* is the index of the lowest group that trains or has trained before. The groups below it have the weights of the
checkpoint, so their output for an example depends on checkpoint, example and precision alone. The keys of the cache consist
of these. Examples of equal length are computed together, without padding. A pass on a CPU always has as many of them, because
another number of rows gives other bits; so an entry does not depend on the process that wrote it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from scalesweep.costs import GIB
from scalesweep.data.subsets import Split
from scalesweep.data.tokens import TokenizedSplit
from scalesweep.errors import counted
from scalesweep.models.replay import NotReplayable, Replay, prefix_signature
from scalesweep.training.job import TrialJob
from scalesweep.training.methods.method import Method
from scalesweep.training.micro_batch import ran_out
from scalesweep.training.precision import device_name
from scalesweep.training.prefix_store import CacheBudget, PrefixStore

FORMAT = 2
AT_ONCE = {"cpu": 8, "cuda": 64}  # examples of equal length per pass: exactly so many on a CPU, at most on a GPU
AHEAD = 1024  # examples of the next batches that passes are filled up with, as long as their batch is not in the cache either
PROBE_EXAMPLES = 4
TALLY_TOKENS = 2000  # tokens to compute and to read on a GPU before deciding whether caching pays


@dataclass
class Tally:
    """Tokens computed and read, and the seconds for each."""

    computed: int = 0
    read: int = 0
    computing: float = 0.0
    reading: float = 0.0


# Findings of this process, by key (without the data):
_verdicts: dict[str, str] = {}  # why a prefix is not cached; "" if it is
_layouts: dict[str, tuple[torch.dtype, int]] = {}  # dtype and number of values per token
_tallies: dict[str, Tally] = {}


class PrefixCache:
    """Hidden states at the cut for batches of examples, read from the node's cache or computed and stored there."""

    def __init__(
        self,
        job: TrialJob,
        method: Method,
        group_hashes: Sequence[str],
        root: Path,
        device: torch.device,
        precision: str,
        autocast: Callable[[], AbstractContextManager[Any]],
        pad_id: int,
        fill: bool = True,
    ) -> None:
        """
        Args:
            fill: whether to compute and store missing examples. Otherwise only complete batches are read.
            group_hashes: hashes of each group's weights, bottom to top.
            root: the node's cache folder.
            precision: of the computation; part of the key.
            autocast: returns the context for forward passes.

        Raises:
            NotReplayable: the model can't run from hidden states.
        """
        self.job, self.model, self.groups = job, method.model, method.groups
        self.device, self.autocast, self.pad_id = device, autocast, pad_id
        self.fill = fill
        self.at_once, self.exactly = AT_ONCE[device.type], device.type == "cpu"  # examples in a pass that fills the cache
        self.replay = Replay(self.model, self.groups)
        self.group_hashes = group_hashes
        budget = None if job.cache_gib is None else int(job.cache_gib * GIB)
        self.budget = CacheBudget(root, budget)
        self._common = [FORMAT, precision, device_name(device), torch.__version__, transformers.__version__]
        self.cuts, self.own_cuts = method.cuts(*job.shared_modes, job.config.unfreezing), method.cuts()
        self.ahead: Callable[[], np.ndarray] = lambda: np.zeros(0, dtype=np.int64)  # examples of the split that come next
        self.notes: list[str] = []
        self.computed: list[tuple[int, int, int]] = []  # (tokens, first group, cut) of each computed example, for the FLOPs
        self._stores: dict[tuple[int, Path, str], PrefixStore] = {}
        self._keys: dict[int, str] = {}
        self._off: set[int] = set()

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def hidden(self, split: Split, indices: np.ndarray, cut: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Hidden states [examples, width, hidden] at the cut, zero at padding; None if they must be recomputed."""
        if cut < 2 or cut in self._off or not self._ready(split, indices, cut):
            return None
        width = int(inputs["input_ids"].shape[1])
        parts = []
        for part, local, rows in split.owners(indices):
            values = self._read(split, part, local, cut, width)
            if values is None:
                return None
            parts.append((rows, values))
        dtype, size = _layouts[self._key(cut)]
        if len(parts) == 1:
            flat = parts[0][1]
        else:
            flat = np.zeros((len(indices), width, parts[0][1].shape[2]), dtype=np.uint8)
            for rows, values in parts:
                flat[rows] = values
        tensor = torch.from_numpy(flat).view(dtype).view(len(indices), width, size)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    # ---- whether -------------------------------------------------------------------------------------------------------

    def _key(self, cut: int) -> str:
        """A hash of everything that determines the prefix's output, except the data."""
        if cut not in self._keys:
            content = [*self._common, prefix_signature(self.model, cut, self.groups), list(self.group_hashes[:cut])]
            self._keys[cut] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
        return self._keys[cut]

    def _ready(self, split: Split, indices: np.ndarray, cut: int) -> bool:
        """Whether the cut can be cached: probed at its first use, and with room on the disk. If not, a note states why."""
        key = self._key(cut)
        if key not in _verdicts:
            _verdicts[key] = self._probe(split, indices, cut)
        if _verdicts[key]:
            return self._refuse(cut, _verdicts[key])
        for part, _, _ in split.owners(indices):
            if (cut, part.folder, part.name) not in self._stores and not self.budget.fits(self._bytes(part, [cut])):
                room = "the cache's share of the disk" if self.job.cache_gib is None else f"{self.job.cache_gib:g} GiB"
                size = self._bytes(part, [cut]) / GIB
                return self._refuse(cut, f"the {part.name} split needs {size:.3g} GiB, which is more than {room}")
        return True

    def _refuse(self, cut: int, why: str) -> bool:
        self._off.add(cut)
        self.notes.append(f"{self.job.config.model_size}: the frozen prefix below group {cut} is not cached, because {why}")
        return False

    def _probe(self, split: Split, indices: np.ndarray, cut: int) -> str:
        """Compare logits from cached states with recomputed ones. Returns the reason if the prefix can't be replayed."""
        inputs = self._inputs(split, indices[:PROBE_EXAMPLES])
        try:
            with self.autocast():
                self.replay.check(cut, inputs)
                hidden = self.replay.capture([cut], inputs)[cut]
        except NotReplayable as error:
            return str(error)
        if hidden.dim() != 3 or hidden.shape[:2] != inputs["input_ids"].shape:
            return f"its hidden states have the shape {tuple(hidden.shape)}, not one row per token"
        _layouts[self._key(cut)] = (hidden.dtype, int(hidden.shape[2]))
        return ""

    def _bytes(self, part: TokenizedSplit, cuts: Sequence[int]) -> int:
        """Bytes of a split's examples at these cuts. A cut with an unknown layout counts like another one."""
        some = next(layout for layout in (_layouts.get(self._key(cut)) for cut in cuts) if layout)
        per_token = [size * dtype.itemsize for dtype, size in (_layouts.get(self._key(cut), some) for cut in cuts)]
        return sum(per_token) * int(part.lengths.sum(dtype=np.int64))

    def _wanted(self, part: TokenizedSplit, cut: int) -> list[int]:
        """The cuts to store while computing up to `cut`: all cuts of the sweep's trials, or this trial's cuts if the disk is
        too small for all, or this cut alone."""
        for cuts in (self.cuts, self.own_cuts):
            wanted = sorted({cut, *(c for c in cuts if c <= cut)})
            if self.budget.fits(self._bytes(part, wanted)):
                return wanted
        return [cut]

    # ---- reading and filling -------------------------------------------------------------------------------------------

    def _store(self, part: TokenizedSplit, cut: int) -> PrefixStore:
        place = (cut, part.folder, part.name)
        if place not in self._stores:
            dtype, size = _layouts[self._key(cut)]
            key = hashlib.sha256(f"{self._key(cut)} {part.folder.name} {part.name}".encode()).hexdigest()[:32]
            self._stores[place] = PrefixStore.open(self.budget, key, part.lengths, size * dtype.itemsize)
        return self._stores[place]

    def _read(self, split: Split, part: TokenizedSplit, indices: np.ndarray, cut: int, width: int) -> np.ndarray | None:
        """Bytes [examples, width, bytes per token], with missing examples computed; None if they can't be stored."""
        store = self._store(part, cut)
        began = time.perf_counter()
        values, present = store.read(indices, width)
        tally = _tallies.setdefault(self._key(cut), Tally())
        tally.read += int(part.lengths[indices[present]].sum())
        tally.reading += time.perf_counter() - began
        # A CPU reads even what it would compute faster: bit-equal results count for more than a tiny model's time.
        known = not self.exactly and min(tally.computed, tally.read) >= TALLY_TOKENS
        if known and tally.reading / tally.read > tally.computing / tally.computed:
            _verdicts[self._key(cut)] = "reading it takes longer than computing it"
        missing = indices[~present]
        if not len(missing) or not self.fill:
            return None if len(missing) else values
        began = time.perf_counter()
        ahead = next((local for owner, local, _ in split.owners(self.ahead()[:AHEAD]) if owner is part), missing[:0])
        passes = _passes(missing, ahead[~store.has(ahead)], part.lengths, self.at_once)
        computed: dict[int, np.ndarray] = {}
        lacked = ran_out(lambda: computed.update(self._fill(part, passes, cut)))  # their size is not the micro-batch's
        if lacked is not None and not self.exactly and self.at_once > 1:
            self.at_once //= 2
            return self._read(split, part, indices, cut, width)
        if lacked is not None:
            self._refuse(cut, f"memory is too small for a pass over {counted(self.at_once, 'example')}")
            return None
        tally.computed += sum(int(part.lengths[some].sum()) for some in passes)
        tally.computing += time.perf_counter() - began
        # The computed rows are used as they are. Reading them back could lack those that another process is writing now, and
        # a step that recomputed them in a batch of its own would differ in the last bits.
        for row in np.flatnonzero(~present):
            states = computed[int(indices[row])]
            values[row, : len(states)] = states
        return values

    def _fill(self, part: TokenizedSplit, passes: Sequence[np.ndarray], cut: int) -> dict[int, np.ndarray]:
        """Compute examples up to the cut and store every wanted cut on the way. Returns each example's bytes at `cut`."""
        wanted = self._wanted(part, cut)
        found: dict[int, np.ndarray] = {}
        for some in passes:
            rows = np.resize(some, self.at_once) if self.exactly else some  # repeated until the pass is full
            start, entering = self._deepest(part, rows, [c for c in wanted if c < cut])
            ahead = [c for c in wanted if start is None or c > start]
            with self.autocast():
                captured = self.replay.capture(ahead, self._inputs(part, rows), start=start, hidden=entering)
            for c, hidden in captured.items():
                _layouts.setdefault(self._key(c), (hidden.dtype, int(hidden.shape[2])))
                flat = list(hidden[: len(some)].contiguous().cpu().view(torch.uint8).numpy())
                if not self._store(part, c).write(some, flat) and c == cut and cut not in self._off:
                    self._refuse(cut, "the disk is full")
                if c == cut:
                    found.update(zip(some.tolist(), flat, strict=True))
            self.computed += [(int(part.lengths[index]), start or 0, cut) for index in rows]
        return found

    def _deepest(
        self, part: TokenizedSplit, some: np.ndarray, cuts: Sequence[int]
    ) -> tuple[int, torch.Tensor] | tuple[None, None]:
        """The highest of `cuts` at which these examples (of equal length) are stored, and their hidden states."""
        for cut in sorted(cuts, reverse=True):
            layout = _layouts.get(self._key(cut))
            if layout is not None:
                values, present = self._store(part, cut).read(some)
                if present.all():
                    tensor = torch.from_numpy(values).view(layout[0]).view(len(some), -1, layout[1])
                    return cut, tensor.to(self.device)
        return None, None

    def _inputs(self, split: Split, indices: np.ndarray) -> dict[str, torch.Tensor]:
        arrays = split.batch(indices, self.pad_id)
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items() if name != "targets"}


def _passes(missing: np.ndarray, ahead: np.ndarray, lengths: np.ndarray, at_most: int) -> list[np.ndarray]:
    """`missing` in pieces of examples of equal length, which need no padding; those of `ahead` fill up the last of a length."""
    found = []
    for length in np.unique(lengths[missing]):
        ours, others = missing[lengths[missing] == length], ahead[lengths[ahead] == length]
        others = np.array([index for index in dict.fromkeys(others.tolist()) if index not in ours], dtype=ours.dtype)
        run = np.concatenate([ours, others[: -len(ours) % at_most]])
        found += [run[at : at + at_most] for at in range(0, len(run), at_most)]
    return found
