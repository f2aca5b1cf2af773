"""Exact, seeded, stratified splits that share no text and no group. Pure: no file, no data set library.

How rows are drawn: all usable rows are put into one seeded order in which every stretch has the class mix of the whole;
test takes the first stretch, validation the next, train what follows. So a smaller train split is a subset of a larger
one with the same seed, while validation and test stay as they were.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from scalesweep.data.problems import DataProblem
from scalesweep.errors import did_you_mean
from scalesweep.spec.sweep import SPLITS

SPLITS_KEY = ("data", "splits")
DRAW_ORDER = ("test", "validation", "train")
# Groups looked at ahead when choosing the next one: enough to keep the class mix, few enough to stay random.
WINDOW = 12

DROPPED = {
    "missing_text": "without text",
    "missing_label": "without a label",
    "other_classes": "of other classes",
    "ambiguous": "whose text occurs with two labels",
    "duplicates": "whose text occurred before (case, width and spacing aside)",
    "overlap": "whose text also occurs in a split that is fixed by name",
    "group_overlap": "whose group also occurs in a split that is fixed by name",
}


def dropped_words(dropped: Mapping[str, int]) -> list[str]:
    """['1,097 rows of other classes', …] for every count above zero."""
    return [f"{dropped[why]:,} rows {words}" for why, words in DROPPED.items() if dropped.get(why)]


def normalise(*texts: str) -> str:
    """The form in which two texts (or pairs) count as the same: NFKC, casefolded, white space collapsed."""
    # No normalised text contains a newline, so joining by one keeps ('a b', 'c') apart from ('a', 'b c').
    return "\n".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)


def resolve(wanted: Mapping[str, int | float | str], available: Sequence[str]) -> dict[str, str]:
    """Which source split each wanted split comes from.

    Counts and fractions are drawn from the only source split, or from the one named train. A split that names the
    source that others are drawn from gets what they leave.

    Raises:
        DataProblem: an unknown name, one source named twice, no split to draw from, or a number that is no size.
    """
    origin: dict[str, str] = {}
    for split, size in wanted.items():
        key = (*SPLITS_KEY, split)
        if split not in SPLITS:
            raise DataProblem(key, f"{split!r} is no split", did_you_mean(split, SPLITS))
        if isinstance(size, str):
            if size not in available:
                raise DataProblem(key, f"the source has no split {size!r}", did_you_mean(size, available))
            if any(wanted[other] == size for other in origin):
                raise DataProblem(
                    key, f"{size!r} is named twice, so two splits would share rows", "give each its own, or counts"
                )
            origin[split] = size
            continue
        if size <= 0 or (isinstance(size, float) and not size <= 1):
            raise DataProblem(
                key, f"{size} is no size of a split", "write a count of rows (an integer) or a fraction up to 1.0"
            )
        if len(available) > 1 and "train" not in available:
            hint = f"name splits of the source instead: {', '.join(available)}"
            raise DataProblem(key, "rows are drawn from the source split 'train', and there is none", hint)
        origin[split] = available[0] if len(available) == 1 else "train"
    fractions = sum(size for size in wanted.values() if isinstance(size, float))
    if fractions > 1 + 1e-9:
        raise DataProblem(SPLITS_KEY, f"the fractions sum to {fractions:g}, above 1", "they share the same rows; lower one")
    return origin


@dataclass(frozen=True)
class Splits:
    """Row numbers of each split (ascending), rows dropped per reason, usable rows that no split took, and remarks."""

    rows: dict[str, np.ndarray]
    dropped: dict[str, int]
    unused: int
    notes: list[str]


def split_rows(
    keys: Sequence[str],
    labels: np.ndarray,
    groups: np.ndarray | None,
    sources: Sequence[str],
    wanted: Mapping[str, int | float | str],
    seed: int,
    dropped: Mapping[str, int] | None = None,
    available: Sequence[str] | None = None,
) -> Splits:
    """Choose the rows of every split.

    Args:
        keys: normalised text of every row; equal keys never stand in two splits.
        labels: class of every row, int64; all zero where there are none.
        groups: group of every row, int64, or None. Rows of one group never stand in two splits.
        sources: the source split that every row is from.
        wanted: rows (int), fraction of the usable rows of the source (float) or source split (str) per split.
        seed: the same rows, in the same order, with the same seed give the same splits.
        dropped: rows that were dropped before, for the messages.
        available: names of all source splits, also of one that lost its last row; default: those in `sources`.

    Texts with two labels are dropped wholly, repeated texts down to one; of rows that also stand in a source split
    named as test or validation, the row there is kept. Sizes are exact. With groups, whole groups are taken while they
    fit; where none fits, the smallest is cut, and the rest of it goes to no split. A fraction is rounded down to rows.

    Raises:
        DataProblem: a split would be empty, or more rows are asked for than are usable.
    """
    origin = resolve(wanted, available or list(dict.fromkeys(sources)))
    counts = dict(dropped or {})
    drawn_from = {origin[split] for split, size in wanted.items() if not isinstance(size, str)}
    # Fixed splits first, test foremost: a published test set stays whole, the rows drawn or trained on give way.
    fixed = [split for split in DRAW_ORDER if split in origin and origin[split] not in drawn_from]
    rank_of = {origin[split]: rank for rank, split in enumerate(fixed)}
    rank = np.array([rank_of.get(source, len(DRAW_ORDER)) for source in sources], dtype=np.int64)

    kept = _without_repeats(keys, labels, rank, counts)
    if groups is not None:
        first = np.full(groups.max(initial=-1) + 1, len(DRAW_ORDER), dtype=np.int64)
        np.minimum.at(first, groups[kept], rank[kept])
        own = rank[kept] == first[groups[kept]]
        counts["group_overlap"] = int((~own).sum())
        kept = kept[own]

    rows = {split: kept[rank[kept] == rank_of[origin[split]]] for split in fixed}
    notes: list[str] = []
    if drawn_from:
        pool = kept[rank[kept] == len(DRAW_ORDER)]
        sizes = _sizes(wanted, origin, drawn_from, pool.size)
        rng = np.random.default_rng(seed)
        if groups is None:
            chosen = _draw(pool[_stratified_order(labels[pool], rng)], sizes)
        else:
            chosen = _draw_groups(pool, labels, groups, sizes, rng)
        for split, size in sizes.items():
            taken = chosen[split].size
            if size is not None and taken < size and not (groups is not None and isinstance(wanted[split], float)):
                raise _too_few(split, size, sizes, pool.size, taken, counts)
            if size is not None and 0 < taken < size:
                notes.append(f"{split} has {taken:,} instead of {size:,} rows, because groups stay whole")
        rows |= chosen
    for split, taken in rows.items():
        if not taken.size:
            raise DataProblem((*SPLITS_KEY, split), f"no usable row is left for {split}", "; ".join(dropped_words(counts)))
    return Splits(
        rows={split: np.sort(rows[split]) for split in SPLITS if split in rows},
        dropped={why: counts[why] for why in DROPPED if counts.get(why)},
        unused=int(kept.size - sum(taken.size for taken in rows.values())),
        notes=notes,
    )


def _without_repeats(keys: Sequence[str], labels: np.ndarray, rank: np.ndarray, counts: dict[str, int]) -> np.ndarray:
    """Ascending numbers of the rows that stay; adds what was dropped to `counts`."""
    number: dict[str, int] = {}
    ids = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
    low, high = np.full(len(number), np.iinfo(np.int64).max), np.full(len(number), -1, dtype=np.int64)
    np.minimum.at(low, ids, labels)
    np.maximum.at(high, ids, labels)
    clear = np.flatnonzero((low == high)[ids])
    counts["ambiguous"] = len(keys) - clear.size

    by_rank = clear[np.argsort(rank[clear], kind="stable")]
    firsts, inverse = np.unique(ids[by_rank], return_index=True, return_inverse=True)[1:]
    kept = by_rank[firsts]
    overlap = int((rank[by_rank] != rank[kept][inverse]).sum())
    counts["overlap"] = overlap
    counts["duplicates"] = clear.size - kept.size - overlap
    return np.sort(kept)


def _sizes(
    wanted: Mapping[str, int | float | str], origin: Mapping[str, str], drawn_from: set[str], pool: int
) -> dict[str, int | None]:
    """Rows that each drawn split takes, in the order of drawing; None, last, takes what is left."""
    sizes: dict[str, int | None] = {}
    for split in DRAW_ORDER:
        size = wanted.get(split)
        if isinstance(size, float):
            sizes[split] = int(size * pool + 1e-9)  # the small term keeps 0.29 × 100 at 29
        elif isinstance(size, int):
            sizes[split] = size
    return sizes | {split: None for split, size in wanted.items() if isinstance(size, str) and origin[split] in drawn_from}


def _stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of positions 0 … n-1 in which any stretch has the class mix of the whole, up to rounding.

    The i-th of n_c rows of class c (in random order) is put at (i + ½) / n_c; equal places are shuffled.
    """
    place = np.empty(labels.size)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(members.size) + 0.5) / members.size
    return np.lexsort((rng.random(labels.size), place))


def _draw(order: np.ndarray, sizes: Mapping[str, int | None]) -> dict[str, np.ndarray]:
    chosen, at = {}, 0
    for split, size in sizes.items():
        chosen[split] = order[at:] if size is None else order[at : at + size]
        at += chosen[split].size
    return chosen


def _draw_groups(
    pool: np.ndarray, labels: np.ndarray, groups: np.ndarray, sizes: Mapping[str, int | None], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Whole groups for every split, near the class mix of the whole (which is a best effort)."""
    pool = rng.permutation(pool)
    names, dense = np.unique(groups[pool], return_inverse=True)
    members = np.split(pool[np.argsort(dense, kind="stable")], np.cumsum(np.bincount(dense))[:-1]) if pool.size else []
    classes = np.unique(labels[pool], return_inverse=True)[1]
    mix = np.zeros((names.size, classes.max(initial=0) + 1), dtype=np.int64)
    np.add.at(mix, (dense, classes), 1)

    waiting = rng.permutation(names.size).tolist()
    chosen = {}
    for position, (split, size) in enumerate(sizes.items()):
        need = len(pool) if size is None else size
        # The last split wastes nothing by cutting, and must not skip groups: then a smaller one would not be a subset.
        last = position == len(sizes) - 1
        taken = [members[group] for group in _choose_groups(waiting, mix, need, may_cut_any=last)]
        chosen[split] = np.concatenate([pool[:0], *taken])[:need]
    return chosen


def _choose_groups(waiting: list[int], mix: np.ndarray, need: int, may_cut_any: bool) -> list[int]:
    """Take groups out of `waiting` until they hold `need` rows (the last may overshoot). `mix`: [groups, classes] rows."""
    size, target = mix.sum(axis=1), mix.sum(axis=0) / max(1, mix.sum())
    have = np.zeros(mix.shape[1], dtype=np.int64)
    chosen: list[int] = []
    while waiting and have.sum() < need:
        left = need - have.sum()
        window = list(islice((group for group in waiting if may_cut_any or size[group] <= left), WINDOW))
        if window:
            total = (have.sum() + size[window])[:, None]
            best = window[int(np.abs((have + mix[window]) / total - target).sum(axis=1).argmin())]
        else:
            best = min(waiting, key=lambda group: size[group])
        waiting.remove(best)
        chosen.append(best)
        have += mix[best]
    return chosen


def _too_few(
    split: str, size: int, sizes: Mapping[str, int | None], usable: int, taken: int, counts: Mapping[str, int]
) -> DataProblem:
    others = [f"{other} takes {count:,}" for other, count in sizes.items() if other != split and count is not None]
    message = f"{split} needs {size:,} rows, but {taken:,} of {usable:,} usable ones are left for it"
    if others:
        message += f" ({', '.join(others)})"
    words = dropped_words(counts)
    hint = "lower a count, or write fractions"
    return DataProblem((*SPLITS_KEY, split), message, f"{hint}; not usable: {', '.join(words)}" if words else hint)
