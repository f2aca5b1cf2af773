"""Standard errors and paired differences, on repeated draws from a large held-out pool whose metrics are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from scalesweep.record.evaluations import Evaluation
from scalesweep.record.influence import INFLUENCE, influence
from scalesweep.record.uncertainty import quantile, standard_error, tied
from scalesweep.spec.tasks import TASKS
from scalesweep.tasks.metrics import COMPUTE

POOL, ROWS = 100_000, 400
Pair = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


def heavy_tailed(rng: np.random.Generator) -> Pair:
    """The losses of two language models: log-normal, correlated, of texts of different lengths."""
    hard, lengths = rng.standard_normal(POOL), rng.integers(5, 500, POOL)
    data = {"predictions": lengths, "bytes": 4 * lengths + rng.integers(0, 50, POOL)}
    losses = [np.exp(0.8 * hard + 0.5 * rng.standard_normal(POOL)) * scale for scale in (1.0, 1.1)]
    return tuple({"loss": loss, "right": np.exp(-loss), **data} for loss in losses)  # type: ignore[return-value]


def classified(shares: list[float]) -> Callable[[np.random.Generator], Pair]:
    """The classes that two models predict, which are right on the same easy rows and guess on others."""

    def draw(rng: np.random.Generator) -> Pair:
        true, easy = rng.choice(len(shares), POOL, p=shares), rng.random(POOL) < 0.7
        right = [easy | (rng.random(POOL) < share) for share in (0.4, 0.5)]
        predicted = [np.where(one, true, rng.integers(0, len(shares), POOL)) for one in right]
        return tuple({"loss": rng.random(POOL), "label": true, "class": one} for one in predicted)  # type: ignore[return-value]

    return draw


def drawn(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> Evaluation:
    return Evaluation(len(rows), len(rows), {name: array[rows] for name, array in columns.items()})


@pytest.mark.parametrize(
    ("population", "metrics"),
    [
        (heavy_tailed, ["eval_loss", "eval_bits_per_byte", "eval_perplexity", "eval_token_accuracy"]),
        (classified([0.5, 0.5]), ["eval_accuracy", "eval_f1_macro", "eval_matthews"]),
        (classified([0.9, 0.06, 0.04]), ["eval_accuracy", "eval_f1_macro", "eval_matthews"]),
    ],
    ids=["texts", "even classes", "rare classes"],
)
def test_95_percent_intervals_of_paired_differences_cover_in_92_to_97(
    population: Callable[[np.random.Generator], Pair], metrics: list[str]
) -> None:
    rng = np.random.default_rng(0)
    pair = population(rng)
    everything = np.arange(POOL)
    draws = [rng.integers(0, POOL, ROWS) for _ in range(600)]
    for metric in metrics:
        one, other = (influence(drawn(columns, everything), metric)[0] for columns in pair)
        covered = own = 0
        for rows in draws:
            (value, at), (value_other, at_other) = (influence(drawn(columns, rows), metric) for columns in pair)
            half = quantile(ROWS) * standard_error(at_other - at)
            covered += abs(value_other - value - (other - one)) <= half
            own += abs(value - one) <= quantile(ROWS) * standard_error(at)
        assert 0.92 <= covered / len(draws) <= 0.97, metric
        assert 0.90 <= own / len(draws) <= 0.98, metric


def test_rows_of_a_group_are_one_draw() -> None:
    """20 reviews of each of 40 films: what makes a film's reviews hard is drawn 40 times, not 800 times."""
    rng, groups, each = np.random.default_rng(4), 40, 20
    covered = {"films": 0, "reviews": 0}
    for _ in range(600):
        films = rng.standard_normal(groups).repeat(each)
        loss = np.exp(0.4 * films + 0.4 * rng.standard_normal(groups * each))
        columns = {"loss": loss, "group": np.arange(groups).repeat(each)}
        for drawn, kept in (("films", columns), ("reviews", {"loss": loss})):
            value, at = influence(Evaluation(groups * each, groups * each, kept), "eval_loss")
            covered[drawn] += abs(value - np.exp(0.16)) <= quantile(len(at)) * standard_error(at)
    assert 0.91 <= covered["films"] / 600 <= 0.97
    assert covered["reviews"] / 600 < 0.6


def equally_good(kind: str, rng: np.random.Generator, trials: int) -> np.ndarray:
    """The losses, or the hits, of trials with the same expected value, [trials, ROWS]."""
    shared = rng.standard_normal(ROWS)
    if kind == "losses":
        return np.exp(0.8 * shared + 0.5 * rng.standard_normal((trials, ROWS)))
    return ((shared > 0.8) ^ (rng.random((trials, ROWS)) < 0.04)).astype(float)


@pytest.mark.parametrize("kind", ["losses", "hits"])
def test_equal_trials_are_called_different_in_at_most_5_percent(kind: str) -> None:
    """Up to twice the standard error of so many draws. On 20,000 draws it is 4.8 % of the losses and 5.0 % of the hits of two."""
    rng = np.random.default_rng(1)
    for trials, draws in ((2, 4000), (20, 800)):
        different = 0
        for _ in range(draws):
            values = equally_good(kind, rng, trials)
            means = values.mean(axis=1)
            at = (values - means[:, None]) / ROWS
            first = int(means.argmin())
            gaps = {
                str(index): (means[index] - means[first], standard_error(at[index] - at[first]))
                for index in range(trials)
                if index != first
            }
            different += len(tied(gaps, ROWS)) < trials - 1
        assert different / draws <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws), trials


def test_a_trial_that_is_worse_on_every_row_is_told_apart_beside_many_equal_ones() -> None:
    """The interval of a pair is far narrower than those of the two: what makes a row hard is hard for both."""
    values = equally_good("losses", np.random.default_rng(2), 10)
    values[1] = values[0] + 0.2
    means = values.mean(axis=1)
    at = (values - means[:, None]) / ROWS
    gaps = {str(i): (means[i] - means[0], standard_error(at[i] - at[0])) for i in range(1, 10)}
    assert tied(gaps, ROWS) == set(gaps) - {"1"}
    assert standard_error(at[0]) * quantile(ROWS) > 0.1


def test_a_bootstrap_finds_the_same_standard_errors() -> None:
    rng = np.random.default_rng(3)
    texts, classes = heavy_tailed(rng)[0], classified([0.7, 0.3])(rng)[0]
    rows = rng.integers(0, POOL, ROWS)
    for metric, function in INFLUENCE.items():
        evaluation = drawn(texts if metric in TASKS["instruction-tuning"].metrics else classes, rows)
        again = [rng.integers(0, ROWS, ROWS) for _ in range(1000)]
        values = [function({name: array[sample] for name, array in evaluation.columns.items()})[0] for sample in again]
        found = influence(evaluation, metric)
        assert found is not None
        assert standard_error(found[1]) == pytest.approx(np.std(values), rel=0.1), metric


def test_a_metric_of_the_kept_rows_alone_has_an_error_bar_and_of_a_part_of_the_split_a_smaller_one() -> None:
    assert INFLUENCE.keys() == COMPUTE.keys()
    columns = {"loss": np.array([0.5, 1.5, 1.0]), "eval_score": np.array([1.0, np.nan, 3.0])}
    evaluation = Evaluation(3, 3, columns)
    value, at = influence(evaluation, "eval_loss")
    assert (value, standard_error(at)) == (1.0, pytest.approx(0.5 / np.sqrt(3)))
    assert standard_error(at, 3 / 12) == pytest.approx(0.5 / np.sqrt(12)), "the metric is of 12 rows, of which 3 are kept"
    assert influence(evaluation, "eval_score")[0] == 2.0, "a conversation that was cut has no score"
    assert influence(evaluation, "eval_mine") is None
    assert influence(Evaluation(3, 3, {"loss": np.array([1.0, np.inf, 2.0])}), "eval_loss") is None
    assert quantile(10_000) == pytest.approx(1.96, abs=0.001)
    assert quantile(11) == pytest.approx(2.228, abs=0.01)
