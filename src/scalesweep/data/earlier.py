"""Data that a model has learnt before (`data.earlier`), beside new data: what may be rehearsed, and what judges.

No row leaks. A new row whose text the earlier data have is dropped. A new row of one of their groups goes to that group's split. Only
their train split is rehearsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scalesweep.data.problems import DataProblem
from scalesweep.data.splits import normalise
from scalesweep.spec.sweep import SPLITS, EarlierData
from scalesweep.tasks import BaseTask

if TYPE_CHECKING:
    from scalesweep.data.prepare import PreparedText

PREFIX = "earlier_"  # of the names of their splits
AT_MOST = 3  # the test split, divided by this, may be held out for the sweep


def splits_of(split: str) -> tuple[str, str]:
    """The split of the new data and the one of the earlier data that belong together."""
    return split, f"{PREFIX}{split}"


@dataclass(frozen=True)
class Known:
    """The texts of the earlier data in their normal form, and the split of each of their groups.

    Rows of data before those that are in no split any more, because a model was trained on what would judge it, count too.
    """

    texts: frozenset[str]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, earlier: PreparedText, rule: BaseTask) -> Known:
        texts = set[str]() if earlier.known is None else set(earlier.known.texts)
        for split, first in earlier.texts.items():
            columns = [first] if earlier.pairs is None else [first, earlier.pairs[split]]
            texts |= {normalise(*map(rule.words, row)) for row in zip(*columns, strict=True)}
        named = (earlier.group_names or {}).items()
        groups = {} if earlier.known is None else dict(earlier.known.groups)
        groups |= {name: split.removeprefix(PREFIX) for split, names in named for name in names if name}
        return cls(frozenset(texts), groups)

    def placed(self, names: Sequence[str | None]) -> np.ndarray:
        """The number of the split in which each row's group is, by its name; -1 for a group that is new. int64 [rows]."""
        number = {name: SPLITS.index(split) for name, split in self.groups.items()}
        return np.array([-1 if name is None else number.get(name, -1) for name in names], dtype=np.int64)


def with_earlier(
    new: PreparedText, earlier: PreparedText, known: Known, spec: EarlierData, summary: Mapping[str, Any]
) -> PreparedText:
    """The new data with three further splits, `earlier_train`, `earlier_validation` and `earlier_test`.

    Where the model has been trained on the earlier validation split, `earlier_validation` is a part of their test split, of about as
    many rows as the new validation split. It always is the same part, and `earlier_test` is without it.

    Args:
        known: all texts and groups of the earlier data.

    Raises:
        DataProblem: the earlier data leave nothing to judge by.
    """
    most, test = len(new.texts["validation"]), len(earlier.texts["test"])
    held, source = np.zeros(test, dtype=bool), "validation"
    if "validation" in spec.trained_on:
        held, source = _part(earlier, min(most, test // AT_MOST), spec.split_seed), "test"
    everything = {split: np.arange(len(texts)) for split, texts in earlier.texts.items()}
    rows = {
        "train": [("train", everything["train"])],
        "validation": [(source, np.flatnonzero(held) if source == "test" else everything["validation"])],
        "test": [("test", np.flatnonzero(~held))],
    }
    for split in SPLITS:  # of data that were themselves an adaptation's
        before = f"{PREFIX}{split}"
        rows[split] += [(before, everything[before])] if before in everything else []
    for split in SPLITS:
        if not sum(len(places) for _, places in rows[split]):
            key = ("data", "earlier", "splits")
            raise DataProblem(key, f"no row is left for {split} of the earlier data", "use data with a larger test split")

    def taken(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        return {
            f"{PREFIX}{s}": [columns[of][row] for of, places in parts for row in places.tolist()] for s, parts in rows.items()
        }

    def arrays(columns: Mapping[str, np.ndarray], offset: int = 0) -> dict[str, np.ndarray]:
        empty = {split: not len(array) for split, array in columns.items()}
        found = {s: [columns[of][places] for of, places in parts if not empty[of]] for s, parts in rows.items()}
        return {f"{PREFIX}{s}": np.concatenate([np.zeros(0, np.int64), *parts]) + offset for s, parts in found.items()}

    groups = names = None
    if new.groups is not None or earlier.groups is not None:
        ours = _groups(new, 0)
        groups = {**ours, **arrays(_groups(earlier, 0), 1 + max(int(one.max(initial=-1)) for one in ours.values()))}
        unnamed = {split: [None] * len(texts) for split, texts in {**new.texts, **earlier.texts}.items()}
        names = {
            **{s: unnamed[s] for s in new.texts},
            **(new.group_names or {}),
            **taken(earlier.group_names or _unnamed(earlier)),
        }
    labels = {**new.labels, **arrays(earlier.labels)}
    splits = {split: {"rows": len(texts)} for split, texts in taken(earlier.texts).items()}
    for split, one in splits.items() if new.classes else ():
        counts = np.bincount(labels[split], minlength=len(new.classes)).tolist()
        one["classes"] = dict(zip(new.classes, counts, strict=True))  # type: ignore[assignment]
    digest = hashlib.sha256("\n".join([new.fingerprint, earlier.fingerprint, *spec.trained_on]).encode())
    return replace(
        new,
        texts={**new.texts, **taken(earlier.texts)},
        pairs=None if new.pairs is None else {**new.pairs, **taken(earlier.pairs or {})},
        labels=labels,
        groups=groups,
        group_names=names,
        fingerprint=digest.hexdigest(),
        earlier_fingerprint=earlier.fingerprint,
        known=known,
        summary={**summary, "splits": {**summary["splits"], **splits}},
        notes=[*new.notes, *(f"earlier data: {note}" for note in earlier.notes)],
    )


def _unnamed(prepared: PreparedText) -> dict[str, list[str | None]]:
    return {split: [None] * len(texts) for split, texts in prepared.texts.items()}


def _groups(prepared: PreparedText, start: int) -> dict[str, np.ndarray]:
    """The group of each row; without groups, each row is one."""
    if prepared.groups is not None:
        return prepared.groups
    found = {}
    for split, texts in prepared.texts.items():
        found[split], start = np.arange(start, start + len(texts)), start + len(texts)
    return found


def _part(earlier: PreparedText, most: int, seed: int) -> np.ndarray:
    """Some rows of the earlier test split, at most `most`, in whole groups. bool [rows]."""
    groups = _groups(earlier, 0)["test"]
    names, dense = np.unique(groups, return_inverse=True)
    sizes, chosen, taken = np.bincount(dense), np.zeros(len(names), dtype=bool), 0
    for group in np.random.default_rng(seed).permutation(len(names)):
        if taken + sizes[group] <= most:
            chosen[group], taken = True, taken + int(sizes[group])
    return chosen[dense]
