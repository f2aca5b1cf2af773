"""Summaries of a whole record: the front of metric and cost, its hypervolume, and the order flips of the rungs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from records import curve, make_events, make_record
from scalesweep.record import rank
from scalesweep.record.curves import value_at
from scalesweep.record.flips import order_flips, rung_correlations
from scalesweep.record.fronts import hypervolume, pareto_front
from scalesweep.record.table import FIELDS
from scalesweep.report.board import render_leaderboard
from scalesweep.report.leaderboard import leaderboard_json


def test_the_front_is_what_the_ranking_marks_and_the_area_is_counted_square_by_square() -> None:
    rng = np.random.default_rng(1)
    points = [(float(loss), int(cost)) for loss, cost in zip(rng.integers(1, 30, 25), rng.integers(1, 30, 25), strict=True)]
    events = [event for i, (loss, cost) in enumerate(points) for event in curve(i, "L1", [loss] * 3, cost / 3)]
    record = make_record(events)
    assert {point.trial for point in pareto_front(record)} == {row.trial.name for row in rank(record) if row.pareto}
    worst, dearest = max(loss for loss, _ in points), max(cost for _, cost in points)
    squares = sum(
        any(loss <= x and cost <= y for loss, cost in points) for x in range(int(worst)) for y in range(dearest) if x >= 0
    )
    assert hypervolume(record) == pytest.approx(squares)
    up = make_record(events, metric={"name": "eval_loss", "goal": "maximize"})
    low = min(loss for loss, _ in points)
    squares = sum(any(loss > x and cost <= y for loss, cost in points) for x in range(int(low), 30) for y in range(dearest))
    assert hypervolume(up) == pytest.approx(squares)


def test_no_usable_trial_has_no_front() -> None:
    record = make_record(curve(0, "L1", [math.nan]))
    assert (pareto_front(record), hypervolume(record)) == ([], None)


def test_pairs_that_change_places_are_counted_at_each_rung() -> None:
    events = [
        *curve(0, "L1", [0.5, 0.4, 0.1]),
        *curve(1, "L1", [0.4, 0.3, 0.2]),  # overtaken by t0000 after rung 2
        *curve(2, "L4", [0.3, 0.35]),  # stopped at rung 2: compared there with the others
        *curve(3, "L4", [0.1]),  # it has no later reports
    ]
    first, second = order_flips(make_record(events))
    assert (first.rung, first.fidelity, second.rung) == (1, 40.0, 2)
    assert (first.pairs_within, first.flipped_within) == (1, 1)
    assert (first.pairs_between, first.flipped_between) == (2, 1)  # t1 and t2: 0.4 > 0.3, then 0.3 < 0.35
    assert (second.pairs_within, second.flipped_within, second.pairs_between) == (1, 1, 0)


def test_flips_are_counted_as_by_comparing_every_pair() -> None:
    rng = np.random.default_rng(3)
    told = [(str(rng.choice(["L1", "L4"])), rng.random(rng.integers(1, 4)).round(1).tolist()) for _ in range(40)]  # with ties
    record = make_record([event for number, (size, losses) in enumerate(told) for event in curve(number, size, losses)])
    for at, found in enumerate(order_flips(record)):
        compared = [
            (size == other_size, (losses[at] > other[at]) != (losses[top] > other[top]))
            for place, (size, losses) in enumerate(told)
            for other_size, other in told[:place]
            if (top := min(len(losses), len(other)) - 1) > at and losses[at] != other[at] and losses[top] != other[top]
        ]
        within = [flipped for same, flipped in compared if same]
        assert (found.pairs, found.pairs_within, found.flipped_within) == (len(compared), len(within), sum(within))
        assert found.flipped_between == sum(flipped for _, flipped in compared) - sum(within)
        assert found.flipped_within > 0


def test_the_rank_correlation_of_a_rung_is_that_of_the_trials_that_reached_the_end() -> None:
    values = np.random.default_rng(0).random((12, 3)).round(1)  # with ties
    stopped = [event for number in range(12, 15) for event in curve(number, "L1", [0.5, 0.6])]
    whole = [event for number, row in enumerate(values) for event in curve(number, "L1", row.tolist())]
    first, second = rung_correlations(make_record([*whole, *stopped]))
    for found, at in ((first, 0), (second, 1)):
        expected = float(spearmanr(values[:, at], values[:, 2]).statistic)
        half = 1.959964 * np.sqrt((1 + expected**2 / 2) / 9)  # Bonett & Wright
        assert (found.rung, found.trials, found.value) == (at + 1, 12, pytest.approx(expected))
        assert (found.low, found.high) == pytest.approx(tuple(np.tanh(np.arctanh(expected) + np.array([-half, half]))))
    assert rung_correlations(make_record([*whole[:20], *stopped])) == []  # four reached the end
    same = rung_correlations(make_record([event for n in range(6) for event in curve(n, "L1", [n / 9, 0.5, n / 9])]))
    assert [(one.rung, one.value, one.high) for one in same] == [(1, 1.0, 1.0)]  # all are equal at rung 2
    assert 0.3 < same[0].low < 0.8


def test_flips_need_no_report_on_the_rung() -> None:
    reports = make_record(curve(0, "L1", [0.6, 0.2], at=(30, 60))).trials["t0000"].reports
    assert value_at(reports, "eval_loss", 40) == pytest.approx(np.interp(np.log(40), np.log([30, 60]), [0.6, 0.2]))
    assert value_at(reports, "eval_loss", 61) is None


def test_the_leaderboard_shows_the_front_of_a_pareto_sweep_and_its_json_stays_as_it_was() -> None:
    rng = np.random.default_rng(0)
    events = [event for i in range(8) for event in curve(i, "L1" if i % 2 else "L4", rng.random(3).tolist(), 10.0 + i)]
    spec = make_record().manifest["spec"]
    spec["early_terminate"]["survival"] = "pareto"
    record = make_record(events, spec=spec)
    legend = str(render_leaderboard(record).renderables[2])  # type: ignore[attr-defined]
    assert f"hypervolume {hypervolume(record):.4g}" in legend
    assert set(leaderboard_json(record)) == {"sweep", "metric", "floor", "trials"}
    assert tuple(leaderboard_json(record)["trials"][0]) == FIELDS


def test_the_ranking_takes_the_value_at_the_rung_where_the_record_tells_it() -> None:
    events = make_events()
    told = next(e for e in events if e["event"] == "report" and e["trial"] == "t0002" and e["rungs"] == [2])
    told["marks"] = [{"rung": 2, "fidelity": 110.0, "value": 0.44, "gpu_seconds": 5.0}]
    [row] = [row for row in rank(make_record(events)) if row.trial.name == "t0002"]
    assert (row.metric, row.fidelity, row.rung) == (0.44, 110.0, 2)
