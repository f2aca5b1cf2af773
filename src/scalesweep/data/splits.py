"""Exact, seeded, stratified splits that share no text and no group, computed without files or a data set library.

All usable rows are put into one seeded order in which every section has the class mix of the whole. Test takes the first
section, validation the next, and train the one after. So a smaller train split is a subset of a larger one with the same
seed, and validation and test do not change.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from scalesweep.data.problems import DataProblem
from scalesweep.errors import counted, did_you_mean
from scalesweep.spec.sweep import SPLITS

SPLITS_KEY = ("data", "splits")
DRAW_ORDER = ("test", "validation", "train")
# Candidates for the next group: enough to keep the class mix, few enough to keep the choice random.
WINDOW = 12

DROPPED = {
    "missing_text": "without text",
    "unusable": "that can't be used",
    "missing_label": "without a label",
    "other_classes": "of other classes",
    "ambiguous": "whose text occurs with several labels",
    "duplicates": "with the text of an earlier row (ignoring case, width and spacing)",
    "overlap": "whose text also occurs in a split chosen by name",
    "group_overlap": "whose group also occurs in a split chosen by name",
    "earlier": "whose text the earlier data have",
    "earlier_groups": "whose group is in another split of the earlier data",
}


def dropped_words(dropped: Mapping[str, int]) -> list[str]:
    """A phrase for every count above zero, such as '1,097 rows of other classes'."""
    return [f"{counted(dropped[why], 'row')} {words}" for why, words in DROPPED.items() if dropped.get(why)]


def normalise(*texts: str) -> str:
    """The normal form by which texts (or pairs) are compared: NFKC, casefolded, white space collapsed."""
    # No normalised text contains a newline, so a newline between two keeps ('a b', 'c') distinct from ('a', 'b c').
    return "\n".join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts)


def resolve(wanted: Mapping[str, int | float | str], available: Sequence[str]) -> dict[str, str]:
    """The source split of each wanted split.

    Counts and fractions are drawn from the only source split, or from the one named train. A split that names the same
    source gets the rows that the others leave.

    Raises:
        DataProblem: a name is unknown, a source is named twice, there is no split to draw from, or a size is invalid.
    """
    origin: dict[str, str] = {}
    for split, size in wanted.items():
        key = (*SPLITS_KEY, split)
        if split not in SPLITS:
            raise DataProblem(key, f"{split!r} is not a split", did_you_mean(split, SPLITS))
        if isinstance(size, str):
            if size not in available:
                files = "; a file for each split is written in data.path: {train: FILE, validation: FILE, test: FILE}"
                hint = did_you_mean(size, available) + (files if "." in size else "")
                raise DataProblem(key, f"the source has no split {size!r}", hint)
            if any(wanted[other] == size for other in origin):
                raise DataProblem(
                    key,
                    f"two splits name the source split {size!r}, so they would share rows",
                    "name different splits, or write counts",
                )
            origin[split] = size
            continue
        if size <= 0 or (isinstance(size, float) and not size <= 1):
            raise DataProblem(
                key, f"{size} is not a valid split size", "write a count of rows (an integer) or a fraction up to 1.0"
            )
        if len(available) > 1 and "train" not in available:
            hint = f"name splits of the source instead: {', '.join(available)}"
            raise DataProblem(key, "counts and fractions need a source split named 'train', and there is none", hint)
        origin[split] = available[0] if len(available) == 1 else "train"
    fractions = sum(size for size in wanted.values() if isinstance(size, float))
    if fractions > 1 + 1e-9:
        raise DataProblem(SPLITS_KEY, f"the fractions add up to {fractions:g}, which is above 1", "lower one of them")
    return origin


@dataclass(frozen=True)
class Splits:
    """Row numbers of each split (ascending), rows dropped per reason, usable rows in no split, and remarks for the user."""

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
    placed: np.ndarray | None = None,
) -> Splits:
    """Choose the rows of every split.

    Args:
        keys: normalised text of each row; equal keys are never in two splits.
        labels: class of each row, int64; all zero if there are no classes.
        groups: group of each row, int64, or None. Rows of one group are never in two splits.
        sources: source split of each row.
        wanted: per split a count of rows (int), a fraction of the source's usable rows (float) or a source split (str).
        seed: the same rows in the same order with the same seed give the same splits.
        dropped: rows dropped earlier, for the messages.
        available: names of all source splits, including one that lost its last row; default: those in `sources`.
        placed: the number in `SPLITS` of the split that each row belongs to because its group is there already; -1 for the others,
            which are drawn. Sizes count both. A source split that a split names loses the rows that belong elsewhere.

    Texts with several labels are dropped. Of repeated texts, one row is kept: the one in a source split named as test or
    validation, if there is one. Sizes are exact. With groups, each split takes whole groups while they fit; if none fits,
    the smallest group is cut, and the rest of it goes to no split. A fraction is rounded down to whole rows.

    Raises:
        DataProblem: a split would be empty, or the splits need more rows than are usable.
    """
    origin = resolve(wanted, available or list(dict.fromkeys(sources)))
    counts = dict(dropped or {})
    drawn_from = {origin[split] for split, size in wanted.items() if not isinstance(size, str)}
    # Splits chosen by name keep their rows, test first: a published test set stays whole, and other splits lose the row.
    fixed = [split for split in DRAW_ORDER if split in origin and origin[split] not in drawn_from]
    rank_of = {origin[split]: rank for rank, split in enumerate(fixed)}
    rank = np.array([rank_of.get(source, len(DRAW_ORDER)) for source in sources], dtype=np.int64)

    kept = _without_repeats(keys, labels, rank, counts)
    drawn = np.array([split in origin and split not in fixed for split in SPLITS])
    of_source = np.array([SPLITS.index(split) for split in fixed] + [-1] * (len(DRAW_ORDER) + 1 - len(fixed)), dtype=np.int64)[
        rank
    ]
    if placed is not None:
        home = placed[kept]
        fits = (home < 0) | (home == of_source[kept]) | ((of_source[kept] < 0) & drawn[home])
        counts["earlier_groups"] = int((~fits).sum())
        kept = kept[fits]
    if groups is not None:
        first = np.full(groups.max(initial=-1) + 1, len(DRAW_ORDER), dtype=np.int64)
        np.minimum.at(first, groups[kept], rank[kept])
        own = rank[kept] == first[groups[kept]]
        counts["group_overlap"] = int((~own).sum())
        kept = kept[own]

    rows = {split: kept[rank[kept] == rank_of[origin[split]]] for split in fixed}
    notes: list[str] = []
    bound: dict[str, np.ndarray] = {}
    if placed is not None:
        free, home = of_source[kept] < 0, placed[kept]
        bound = {split: kept[free & (home == number)] for number, split in enumerate(SPLITS) if drawn[number]}
    if drawn_from:
        pool = kept[rank[kept] == len(DRAW_ORDER)]
        sizes = _sizes(wanted, origin, drawn_from, pool.size)
        if bound:
            pool = np.setdiff1d(pool, np.concatenate([*bound.values()]))
            sizes = {split: None if size is None else max(0, size - bound[split].size) for split, size in sizes.items()}
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
                notes.append(f"split {split!r} has {taken:,} instead of {counted(size, 'row')}, because groups stay whole")
        rows |= {split: np.concatenate([taken, bound.get(split, taken[:0])]) for split, taken in chosen.items()}
    for split, taken in rows.items():
        if not taken.size:
            message = f"no usable rows are left for split {split!r}; usable in all: {counted(kept.size, 'row')}"
            raise DataProblem(
                (*SPLITS_KEY, split), message, "; ".join(dropped_words(counts)) or "add rows, or change the sizes"
            )
    return Splits(
        rows={split: np.sort(rows[split]) for split in SPLITS if split in rows},
        dropped={why: counts[why] for why in DROPPED if counts.get(why)},
        unused=int(kept.size - sum(taken.size for taken in rows.values())),
        notes=notes,
    )


def _without_repeats(keys: Sequence[str], labels: np.ndarray, rank: np.ndarray, counts: dict[str, int]) -> np.ndarray:
    """The numbers of the rows that are kept, ascending. The numbers of dropped rows are added to `counts`."""
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
    """The size of each drawn split, in the order of drawing. The last may be None, which takes the remaining rows."""
    sizes: dict[str, int | None] = {}
    for split in DRAW_ORDER:
        size = wanted.get(split)
        if isinstance(size, float):
            sizes[split] = int(size * pool + 1e-9)  # the small term rounds 0.29 × 100 to 29
        elif isinstance(size, int):
            sizes[split] = size
    return sizes | {split: None for split, size in wanted.items() if isinstance(size, str) and origin[split] in drawn_from}


def _stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of positions 0 … n-1 in which any section has the class mix of the whole, up to rounding.

    The i-th of n_c rows of class c (in random order) is placed at (i + ½) / n_c; rows at equal places are shuffled.
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
    """Whole groups for each split, with a class mix as near to that of the whole as the groups allow."""
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
        # The last split loses no rows by cutting a group. It must not skip groups, or a smaller one would be no subset.
        last = position == len(sizes) - 1
        taken = [members[group] for group in _choose_groups(waiting, mix, need, may_cut_any=last)]
        chosen[split] = np.concatenate([pool[:0], *taken])[:need]
    return chosen


def _choose_groups(waiting: list[int], mix: np.ndarray, need: int, may_cut_any: bool) -> list[int]:
    """Take groups from `waiting` until they hold at least `need` rows. `mix`: rows per group and class, [groups, classes]."""
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
    message = f"split {split!r} needs {counted(size, 'row')}, but only {taken:,} of {counted(usable, 'usable row')} can be had"
    if others:
        message += f" ({', '.join(others)})"
    words = dropped_words(counts)
    hint = "lower a count, or write fractions"
    return DataProblem((*SPLITS_KEY, split), message, f"{hint}; not usable: {', '.join(words)}" if words else hint)
