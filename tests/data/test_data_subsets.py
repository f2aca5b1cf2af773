"""Shares of a train split: nested, the same rows for every tokenizer, and read as the split itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from scalesweep.data.subsets import part_of
from scalesweep.data.tokens import FORMAT, LAYOUT, TokenizedData

ROWS = 100


def folder(path: Path, per_row: int) -> TokenizedData:
    """A token folder of 100 rows; a tokenizer makes `per_row` examples of each, and none of row 7."""
    rows = np.repeat(np.array([row for row in range(ROWS) if row != 7]), per_row)
    lengths = 1 + rows % 5
    path.mkdir()
    arrays = {
        "tokens": np.repeat(rows, lengths).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "bytes": np.ones(len(rows), np.int64),
        "rows": rows,
        "labels": rows % 3,
    }
    for name, array in arrays.items():
        np.save(path / f"train.{name}.npy", array)
    meta = {"task": "x", "classes": [], "data": "x", "max_length": 9, "notes": [], "splits": {"train": {"rows": ROWS}}}
    (path / "meta.json").write_text(json.dumps({"format": FORMAT, "layout": LAYOUT, **meta}))
    return TokenizedData.open(path)


def rows_of(data: TokenizedData, share: float, seed: int = 0) -> set[int]:
    part = part_of(data, ["train"], share, seed)
    batch = part.batch(np.arange(len(part)), pad_id=0)
    return set(batch["input_ids"][:, 0].tolist())


def test_a_smaller_share_is_part_of_a_larger_one_and_every_tokenizer_gets_the_same_rows(tmp_path: Path) -> None:
    one, several = folder(tmp_path / "one", 1), folder(tmp_path / "several", 3)
    shares = [0.03, 0.07, 0.125, 0.25, 0.5]
    chosen = [rows_of(one, share) for share in shares]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(chosen))
    for share, rows in zip(shares, chosen, strict=True):
        assert len(rows) in (np.ceil(round(share * ROWS, 6)), np.ceil(round(share * ROWS, 6)) - 1)  # row 7 has no example
        assert rows_of(several, share) == rows
        assert len(part_of(several, ["train"], share, 0)) == 3 * len(rows)
    assert rows_of(one, 0.25, seed=1) != rows_of(one, 0.25)
    assert len(rows_of(one, 1e-9)) == 1


def test_a_share_reads_as_the_split_does(tmp_path: Path) -> None:
    data = folder(tmp_path / "one", 2)
    assert part_of(data, ["train"], 1, 0) is not None
    assert len(part_of(data, ["train"], 1, 0)) == len(data.train)
    part, wanted = part_of(data, ["train"], 0.2, 0), np.array([3, 0, 5])
    ((owner, places, at),) = part.owners(wanted)
    assert owner is part.owners(wanted)[0][0]
    assert at.tolist() == [0, 1, 2]
    for name, array in part.batch(wanted, 9).items():
        assert np.array_equal(array, owner.batch(places, 9)[name])
    assert np.array_equal(part.lengths[wanted], owner.lengths[places])
    assert np.array_equal(part.labels[wanted], owner.labels[places])
    with pytest.raises(ValueError, match="unpack"):
        part_of(data, ["train", "validation"], 0.5, 0)
