"""The `metric` rule compared with Ray's scheduler on the same streams of reports; the other rules compared with the papers."""

from __future__ import annotations

import math
import pkgutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from scalesweep.record import Mark
from scalesweep.search import samplers, survival
from scalesweep.search.survival import Point, Rungs, draw_bracket
from scalesweep.search.survival.pareto import pareto_order
from scalesweep.spec import rung_count, rung_levels
from scalesweep.spec.sweep import SAMPLERS, SURVIVAL_RULES
from sweeps import sweep

STREAMS = 1200


def random_stream(rng: np.random.Generator) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Settings and an order of reports: trials report at rungs and in between, with ties and late starts."""
    settings = {
        "grace_period": int(rng.integers(1, 60)),
        "reduction_factor": float(rng.choice([2, 3, 4, 2.5, 1.7])),
    }
    settings["max_t"] = int(settings["grace_period"] * rng.integers(1, 40))
    turns = int(rng.integers(5, 80))
    return settings, [(f"t{rng.integers(0, 12)}", float(np.round(rng.normal(), int(rng.integers(0, 4))))) for _ in range(turns)]


@pytest.mark.simulates
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("brackets", [1, 3])
def test_decides_as_ray_does_on_random_streams(mode: str, brackets: int) -> None:
    rng = np.random.default_rng(7 if mode == "max" else 8)
    stops = judged = 0
    for number in range(STREAMS // 2):
        settings, stream = random_stream(rng)
        spec = sweep(early_terminate={"type": "asha", "time_attr": "steps", **settings})
        levels = rung_levels(spec)
        held = min(brackets, rung_count(levels, settings["max_t"]))
        # The rules differ between two rungs by design, so trials report at each rung, and sometimes in between.
        places = sorted({*levels, settings["max_t"], *rng.integers(1, settings["max_t"] + 1, size=3).tolist()})
        ours = Rungs(levels, settings["reduction_factor"], settings["max_t"])
        theirs = ASHAScheduler(time_attr="steps", metric="value", mode=mode, brackets=held, **settings)
        trials: dict[str, SimpleNamespace] = {}
        at: Counter[str] = Counter()
        ended: set[str] = set()
        for name, value in stream:
            if name in ended:
                continue
            if name not in trials:
                trials[name] = SimpleNamespace(trial_id=name, bracket=draw_bracket(held, number, int(name[1:])))
                theirs.on_trial_add(None, trials[name])
                theirs._trial_info[name] = theirs._brackets[trials[name].bracket]  # the drawn bracket does not concern the rule
            steps = places[at[name]]
            at[name] += 1
            expected = theirs.on_trial_result(None, trials[name], {"steps": steps, "value": value})
            verdict = ours.report(name, steps, value if mode == "max" else -value, bracket=trials[name].bracket)
            assert ("CONTINUE" if verdict.action == "continue" else "STOP") == expected, (number, settings, name, steps)
            judged += verdict.rung is not None
            if verdict.action != "continue":
                ended.add(name)
                stops += verdict.action == "stop"
    assert stops > STREAMS / 4, "the streams are too easy to distinguish two rules"
    assert judged > STREAMS


def test_brackets_are_drawn_as_ray_weighs_them() -> None:
    theirs = ASHAScheduler(max_t=81, grace_period=1, reduction_factor=3, brackets=3)
    sizes = np.array([len(bracket._rungs) for bracket in theirs._brackets])
    weights = np.exp(sizes - sizes.max())
    drawn = Counter(draw_bracket(3, 0, number) for number in range(3000))
    for bracket, share in enumerate(weights / weights.sum()):
        assert drawn[bracket] / 3000 == pytest.approx(share, abs=0.03)
    assert draw_bracket(3, 5, 17) == draw_bracket(3, 5, 17)
    assert {draw_bracket(1, 0, number) for number in range(20)} == {0}


def test_a_rung_between_two_reports_is_judged_at_the_value_in_between() -> None:
    rungs = Rungs([10, 30], 3, 90)
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        rungs.report(name, 10, value, cost=100.0)
        rungs.report(name, 30, value, cost=300.0)
    assert rungs.report("d", 8, 1.9, cost=80.0).action == "continue"
    verdict = rungs.report("d", 40, 3.1, cost=240.0)
    rates = [np.interp(np.log(level), np.log([8, 40]), [1.9, 3.1]) for level in (10, 30)]
    costs = [np.interp(level, [8, 40], [80.0, 240.0]) for level in (10, 30)]
    # 2.07 is below the quantile 2.33 at rung 1, although the report itself shows 3.1: it stops there, and rung 2 sees nothing.
    assert (verdict.action, verdict.rung, verdict.cutoff) == ("stop", 1, pytest.approx(np.percentile([1, 2, 3], 200 / 3)))
    assert (verdict.marks[0].value, verdict.marks[0].gpu_seconds) == pytest.approx((rates[0], costs[0]))
    assert list(rungs.of(0)[1]) == ["a", "b", "c"]

    assert rungs.report("e", 8, 2.9, cost=80.0).action == "continue"
    verdict = rungs.report("e", 40, 3.5, cost=240.0)
    values = [np.interp(np.log(level), np.log([8, 40]), [2.9, 3.5]) for level in (10, 30)]
    assert verdict.action == "continue"
    assert [(mark.rung, mark.fidelity, mark.value, mark.gpu_seconds) for mark in verdict.marks] == [
        (rung, level, pytest.approx(value), pytest.approx(cost))
        for rung, level, value, cost in zip((1, 2), (10, 30), values, costs, strict=True)
    ]
    first = rungs.report("f", 35, 2.8, cost=70.0)  # without an earlier report: the report's own value, with a proportional cost
    assert [(mark.value, mark.gpu_seconds) for mark in first.marks] == [(2.8, pytest.approx(20.0)), (2.8, pytest.approx(60.0))]


def test_a_replayed_record_gives_the_same_state() -> None:
    live, again = Rungs([10, 30], 3, 90), Rungs([10, 30], 3, 90)
    rng = np.random.default_rng(0)
    for number in range(60):
        name, bracket, cost = f"t{number}", number % 2, 0.0
        for fidelity in (7, 33, 90):
            value, cost = float(rng.normal()), cost + 10
            verdict = live.report(name, fidelity, value, cost, bracket)
            again.restore(name, fidelity, value, cost, bracket, verdict.marks)
            if verdict.action != "continue":
                break
    assert again.recorded == live.recorded


def test_the_end_is_the_last_rung() -> None:
    assert rung_count([40, 120, 360], 360) == 3
    assert rung_count([40, 120], 300) == 3
    assert Rungs([40, 120], 3, 300).report("a", 300, 0.0).rung == 3
    assert Rungs([], 3, 50).report("a", 50, 0.0).action == "complete"
    jumped = Rungs([40, 120], 3, 300).report("a", 300, 0.0, cost=30.0, bracket=1)
    assert jumped.marks == (Mark(2, 120, 0.0, 12.0), Mark(3, 300, 0.0, 30.0))


# ---- promotion ---------------------------------------------------------------------------------------------------------------


def test_the_best_third_at_a_rung_is_promoted_and_nobody_is_stopped() -> None:
    rungs = Rungs([1, 3], 3, 9, pauses=True)
    paused: set[str] = set()
    for number, value in enumerate([5.0, 1.0, 4.0, 3.0, 2.0]):
        assert rungs.report(f"t{number}", 1, value).action == "pause"
        paused.add(f"t{number}")
        # Alg. 2: the best int(n / 3) of those at the rung, unless they were promoted before
        assert rungs.promotable(paused) == ("t0" if number >= 2 else None)
    paused.remove("t0")
    assert rungs.promotable(paused) is None
    rungs.report("t5", 1, 0.5)
    paused.add("t5")
    assert rungs.promotable(paused) == "t2", "six at the rung: two continue, regardless of their order of arrival"
    for name, value in (("t0", 9.0), ("t2", 8.0)):
        assert rungs.report(name, 3, value).action == "pause"
    paused |= {"t0", "t2"}
    for number in range(6, 9):
        rungs.report(f"t{number}", 1, 0.0)
    assert rungs.promotable(paused) == "t3"
    rungs.report("t3", 3, 7.0)
    assert rungs.promotable(paused) == "t0", "the highest rung first"
    assert rungs.report("t0", 9, 9.0).action == "complete"


def test_a_diverged_trial_counts_in_the_quota_as_the_worst() -> None:
    rungs = Rungs([1, 3], 3, 9, pauses=True)
    rungs.diverged("a")
    rungs.diverged("b")
    rungs.report("c", 1, 0.1)
    assert rungs.promotable({"c"}) == "c"


def test_brackets_keep_rungs_of_their_own() -> None:
    rungs = Rungs([1, 3], 3, 9, pauses=True)
    for number in range(3):
        rungs.report(f"a{number}", 1, float(number))
    assert rungs.report("b", 1, 9.0, bracket=1).action == "continue", "the second bracket starts at the second rung"
    assert rungs.report("b", 3, 9.0, bracket=1).action == "pause"
    assert rungs.promotable({"a0", "a1", "a2", "b"}) == "a2"
    assert rungs.report("c", 3, 1.0, bracket=2).action == "continue", "the third has no rung before the end"


# ---- metric and cost at once ---------------------------------------------------------------------------------------------


def dominated(one: Point, others: list[Point]) -> bool:
    return any(o.value >= one.value and o.cost <= one.cost and o != one for o in others)


def test_fronts_are_peeled_as_defined() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        points = {f"t{i}": Point(float(v), float(c)) for i, (v, c) in enumerate(rng.integers(0, 12, size=(30, 2)))}
        order = pareto_order({**points, "x": Point(-math.inf, math.inf)})
        assert order.pop() == "x"
        assert sorted(order) == sorted(points)
        left = dict(points)
        while left:
            front = {name for name, point in left.items() if not dominated(point, list(left.values()))}
            taken = set(order[: len(front)])
            assert taken == front
            order = order[len(front) :]
            left = {name: point for name, point in left.items() if name not in front}


def test_within_a_front_the_best_value_is_first_and_the_farthest_next() -> None:
    front = {"a": Point(10.0, 100.0), "b": Point(9.0, 90.0), "c": Point(5.0, 50.0), "d": Point(0.0, 0.0)}
    assert pareto_order(front) == ["a", "d", "c", "b"]


def test_a_cheap_trial_survives_where_the_metric_alone_would_stop_it() -> None:
    actions = {}
    for rule in ("metric", "pareto"):
        rungs = Rungs([10], 3, 90, rule)
        for number in range(5):
            rungs.report(f"t{number}", 10, 5.0 - number, cost=100.0 + number)
        actions[rule] = [rungs.report("cheap", 10, 0.5, cost=1.0).action, rungs.report("bad", 10, 0.4, cost=200.0).action]
    assert actions == {"metric": ["stop", "stop"], "pareto": ["continue", "stop"]}


# ---- by size ----------------------------------------------------------------------------------------------------------------


def sized(pauses: bool) -> Rungs:
    """Trials `small…` and `large…`; three rungs before the end."""
    return Rungs([1, 3, 9], 3, 27, "by_size", pauses, lambda name: name.rstrip("0123456789"))


def test_each_size_is_judged_among_its_own_until_the_last_rung() -> None:
    rungs = sized(pauses=True)
    for number in range(3):
        rungs.report(f"small{number}", 1, 5.0 + number)
        rungs.report(f"large{number}", 1, float(number))
    paused = {f"{size}{number}" for size in ("small", "large") for number in range(3)}
    promoted = []
    while (name := rungs.promotable(paused)) is not None:
        promoted.append(name)
        paused.remove(name)
        rungs.report(name, 3, 1.0)
        paused.add(name)
    assert promoted == ["large2", "small2"], "the best third of each, though every small one is ahead"
    for number in range(3):
        rungs.report(f"small{number}", 9, 5.0 + number)
        rungs.report(f"large{number}", 9, float(number))
    last = {"small1", "small2", "large1", "large2"}
    assert rungs.promotable(last - {"small2"}) == "small1", "six at the last rung: the best two of all continue"
    rungs.report("small1", 27, 7.0)
    rungs.report("small2", 27, 7.0)
    assert rungs.promotable({"large1", "large2"}) is None


def test_a_size_of_few_trials_waits_for_others_only_as_long_as_some_may_come() -> None:
    rungs = sized(pauses=True)
    for number in range(5):
        rungs.report(f"small{number}", 1, float(number))
    rungs.report("large0", 1, 9.0)
    assert rungs.promotable({"large0"}) is None
    assert rungs.promotable({"large0"}, closing=True) == "large0"


def test_stopping_by_size() -> None:
    rungs = sized(pauses=False)
    for number in range(3):
        assert rungs.report(f"small{number}", 1, 5.0 + number).action == "continue"
    assert rungs.report("large0", 1, 0.0).action == "continue", "the first of its size"
    assert rungs.report("large1", 1, -1.0).action == "stop"
    assert rungs.report("small3", 1, 4.0).action == "stop"
    assert rungs.report("small2", 9, 5.0).action == "continue"
    assert rungs.report("large0", 9, 4.0).action == "stop", "at the last rung, all are compared"


def test_every_row_of_the_tables_has_a_file_and_every_file_a_row() -> None:
    for package, table in ((survival, SURVIVAL_RULES), (samplers, SAMPLERS)):
        assert {module.name for module in pkgutil.iter_modules(package.__path__)} == set(table)
