"""Packing: several examples laid end to end in a row, where padding would take more tokens.

The positions of each example begin at 0. transformers sees that from `position_ids` and lets no token attend to another example
(`masking_utils.find_packed_sequence_indices`), if there is no attention mask and no cache of keys and values. Some architectures
ignore it, in silence. So a probe decides for each model, and what it can't prove is padded. An optimizer step has the same
examples either way, so packing changes nothing but speed and the draws of dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from scalesweep.data.batches import BatchPlan, micro_batches
from scalesweep.models.ladder import quiet
from scalesweep.models.meta import evaluation_mode
from scalesweep.models.replay import TOLERANCES
from scalesweep.tasks import IGNORED

WORTH = 0.9  # the share of the padded tokens from which on packing pays: the mask of packed rows costs up to 8 % of a step
PROBED = (7, 5, 4)  # tokens of the examples of a probe
PADDING = 2  # tokens of padding behind them
COUNTED = 50  # batches from which a plan estimates what packing saves


@dataclass(frozen=True, eq=False)
class Piece:
    """Examples that a worker takes through the model at once.

    indices: example numbers, row by row.
    width: tokens of a row, padding included.
    counts: the examples in each row; None if each has a row of its own.
    """

    indices: np.ndarray
    width: int
    counts: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self.indices if self.counts is None else self.counts), self.width

    @property
    def tokens(self) -> int:
        """The tokens, padding included."""
        rows, width = self.shape
        return rows * width


def padded(indices: np.ndarray, lengths: np.ndarray) -> Piece:
    """Examples with a row each. `lengths`: tokens of each example of the split."""
    return Piece(indices, int(lengths[indices].max()))


def pieces(share: np.ndarray, lengths: np.ndarray, rows: int, packs: Callable[[], bool]) -> list[Piece]:
    """A worker's share of a batch in pieces of at most `rows` rows.

    Args:
        lengths: tokens of each example of the split.
        packs: whether the model may get packed rows; asked only where that pays.
    """
    share = share[np.argsort(lengths[share], kind="stable")]  # similar lengths together save padding
    found = [padded(piece, lengths) for piece in micro_batches(share, rows)]
    if len(share) < 2:
        return found
    width = int(lengths[share[-1]])
    filled = filled_rows(share[::-1], lengths, width)
    if len(filled) * width > WORTH * sum(piece.tokens for piece in found) or not packs():
        return found
    parts = [filled[start : start + rows] for start in range(0, len(filled), rows)]
    return [Piece(np.concatenate(part), width, np.array([len(row) for row in part])) for part in parts]


def filled_rows(examples: np.ndarray, lengths: np.ndarray, width: int) -> list[np.ndarray]:
    """Examples in rows of at most `width` tokens: each goes to the first row with room for it.

    With the longest examples first, this takes at most 11/9 of the fewest rows (Johnson et al., 1974).
    """
    room = np.full(len(examples), width, dtype=np.int64)
    rows: list[list[int]] = [[] for _ in examples]
    for example in examples.tolist():
        first = int(np.argmax(room >= lengths[example]))
        room[first] -= lengths[example]
        rows[first].append(example)
    return [np.array(row, dtype=np.int64) for row in rows if row]


def saving(plan: BatchPlan, lengths: np.ndarray, rows: int) -> dict[str, float]:
    """Count, for one worker, the first batches, those of them that are packed, and the share of their tokens that this saves.

    The model may refuse packed rows; only a probe in training shows it.
    """
    batches, packed = min(COUNTED, plan.steps_per_epoch), 0
    before = after = 0
    for step in range(batches):
        made = pieces(plan.batch(step), lengths, rows, lambda: True)
        packed += any(piece.counts is not None for piece in made)
        after += sum(piece.tokens for piece in made)
        before += sum(piece.tokens for piece in pieces(plan.batch(step), lengths, rows, lambda: False))
    return {"batches": batches, "packed": packed, "saved": 1 - after / before}


def pack(arrays: Mapping[str, np.ndarray], piece: Piece, pad_id: int) -> dict[str, np.ndarray]:
    """The padded `arrays` of a piece's examples (`TokenizedSplit.batch`) in packed rows, int64 [rows, width] each.

    Returns input_ids, targets and position_ids. Padding at the end of a row has positions from 0 on, as if it were an example.
    """
    assert piece.counts is not None
    real = arrays["attention_mask"].astype(bool)
    lengths, first = real.sum(axis=1), np.cumsum(piece.counts) - piece.counts
    before = np.cumsum(lengths) - lengths  # tokens in front of each example
    starts = before - np.repeat(before[first], piece.counts)  # of each example in its row
    rows = np.repeat(np.arange(len(piece.counts)), piece.counts)
    within = np.arange(lengths.sum()) - np.repeat(before, lengths)
    places = np.repeat(rows * piece.width + starts, lengths) + within
    positions = np.arange(piece.width) - np.add.reduceat(lengths, first)[:, None]
    np.put(positions, places, within)
    packed = {"position_ids": positions}
    for name, fill in (("input_ids", pad_id), ("targets", IGNORED)):
        packed[name] = np.full(piece.shape, fill, dtype=np.int64)
        np.put(packed[name], places, arrays[name][real])
    return packed


@torch.no_grad()
def refusal(model: nn.Module, pad_id: int) -> str:
    """The reason why `model` can't compute packed examples each by itself; "" if it can.

    The probe compares the logits of packed examples with those of each example alone. It then changes one example at a time, and
    the logits of the others may not move.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    draws = np.random.default_rng(0)
    examples = [draws.integers(1, config.get_text_config().vocab_size, size) for size in PROBED]
    width = sum(PROBED) + PADDING

    def logits(rows: list[np.ndarray]) -> list[torch.Tensor]:
        """Those of the examples in one packed row."""
        real = np.arange(max(PROBED)) < np.array(PROBED)[:, None]
        tokens = np.zeros(real.shape, dtype=np.int64)
        tokens[real] = np.concatenate(rows)
        arrays = {"input_ids": tokens, "attention_mask": real, "targets": tokens}
        packed = pack(arrays, Piece(np.arange(len(rows)), width, np.array([len(rows)])), pad_id)
        inputs = {name: torch.from_numpy(packed[name]).to(device) for name in ("input_ids", "position_ids")}
        return list(model(**inputs).logits[0, :-PADDING].split(PROBED))

    with evaluation_mode(model), torch.autocast(device.type, enabled=False), quiet():
        try:
            alone = [model(input_ids=torch.from_numpy(row[None]).to(device)).logits[0] for row in examples]
            found = logits(examples)
            largest = max(one.abs().max().item() for one in alone)
            tolerances = [TOLERANCES[alone[0].dtype]] * len(PROBED)
            if not _all_close(found, alone, tolerances, largest):
                return "packed examples get other logits than each alone"
            for changed in range(len(PROBED)):
                others = [*examples]
                others[changed] = draws.integers(1, config.get_text_config().vocab_size, PROBED[changed])
                # The shapes are the same, so nothing is rounded otherwise, whatever the precision.
                allowed = [float("inf") if index == changed else TOLERANCES[torch.float32] for index in range(len(PROBED))]
                if not _all_close(logits(others), found, allowed, largest):
                    return "an example changes the logits of those packed beside it"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - model code that takes no positions can raise anything
            return f"packed examples fail: {type(error).__name__}: {error}"
    return ""


@torch.no_grad()
def reads_padding(model: nn.Module, pad_id: int) -> bool:
    """Whether padding on the right changes an example's logits where no attention mask hides it. In causal models it does not."""
    config: Any = model.config
    device = next(model.parameters()).device
    tokens = np.random.default_rng(0).integers(1, config.get_text_config().vocab_size, (2, max(PROBED)))
    tokens[1, PROBED[1] :] = pad_id
    with evaluation_mode(model), torch.autocast(device.type, enabled=False), quiet():
        try:
            found = list(model(input_ids=torch.from_numpy(tokens).to(device)).logits)
            alone = [model(input_ids=torch.from_numpy(tokens[row : row + 1, :size]).to(device)).logits[0]
                     for row, size in enumerate(PROBED[:2])]  # fmt: skip
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - model code without a mask can raise anything
            return True
    found[1] = found[1][: PROBED[1]]
    return not _all_close(found, alone, [TOLERANCES[alone[0].dtype]] * 2, max(one.abs().max().item() for one in alone))


def _all_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerances: list[float], largest: float) -> bool:
    """Whether no logit differs by more than its example's tolerance × the largest logit. NaN counts as a difference."""
    pairs = zip(found, expected, tolerances, strict=True)
    return all((one.float() - other.float()).abs().max().item() <= share * largest for one, other, share in pairs)
