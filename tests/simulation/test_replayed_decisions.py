"""The replay of a record: no difference without a change, and one difference for each change."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scalesweep.control.conductor import Conductor
from scalesweep.errors import UserError
from scalesweep.record import Record, RecordWriter
from scalesweep.record.manifest import SCHEMA_VERSION
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, SweepDriver, manifest, new_study
from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.simulation.replay import replay_decisions
from scalesweep.simulation.simulator import Clock, Cluster, simulate
from scalesweep.spec import SweepSpec, sweep_from_dict

Events = list[dict[str, Any]]


PLAIN = {"variant": "stopping", "survival": "metric"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # sampler and survival rule
    "random": ("random", PLAIN),
    "tpe": ("tpe", PLAIN),
    "by_size, stopping": ("forecast", {"variant": "stopping", "survival": "by_size"}),
    "promotion by metric": ("tpe", {"variant": "promotion", "survival": "metric"}),
    "by_size, promotion": ("random", {"variant": "promotion", "survival": "by_size"}),
    "forecast": ("forecast", {"variant": "promotion", "survival": "forecast"}),
}


def spec_of(way: str, space: dict[str, Any] | None = None, repeats: int | str = "auto", **budget: Any) -> SweepSpec:
    data = family_spec("trend") | ({"search_space": {"parameters": space}} if space else {})
    sampler, early = WAYS[way]
    points = [{"learning_rate": 1e-4}]  # tried first
    search = {"sampler": sampler, "n_startup_trials": 5, "seed": 3, "points_to_evaluate": points, "repeats": repeats}
    early = {**data["early_terminate"], **early}
    return sweep_from_dict({**data, "search": search, "early_terminate": early, "budget": budget or {"run_cap": 30}})


class Kept:
    """A record that keeps its events in the form of JSON."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.events: Events = []

    def append(self, event: dict[str, Any]) -> None:
        self.events.append(json.loads(json.dumps(event)))
        self.record.apply(event)


class Session(SweepDriver):
    """A session of a sweep that uses its record alone and dies after a number of reports."""

    def __init__(
        self, spec: SweepSpec, n_params: dict[str, float], gpus: int, clock: Clock, record: Kept, dies_at: int
    ) -> None:
        self.metric, self.record, self.left = spec.metric.name, record.record, dies_at
        trials = self.record.by_number()
        proposer = Proposer(spec, new_study(), trials, n_params=n_params)
        self.conductor = Conductor(spec, record, proposer, lambda: gpus, Everywhere(), clock)

    def report(self, name: str, fidelity: float, value: float, last: bool) -> bool:
        if self.left == 0:
            return False
        self.left -= 1
        return super().report(name, fidelity, value, last) and self.left != 0

    def finished(self) -> bool:
        return self.left == 0 or super().finished()


def simulated(
    way: str,
    gpus: int = 6,
    failures: float = 0.0,
    dies_at: Sequence[int] = (),
    space: dict[str, Any] | None = None,
    repeats: int | str = "auto",
    **budget: Any,
) -> tuple[Events, dict[str, Any]]:
    """A sweep's events and manifest. Each of `dies_at` ends a session after that many reports."""
    spec = spec_of(way, space, repeats, **budget)
    source = ParametricSource(FAMILIES["trend"], spec)
    clock, made = Clock(1000.0), manifest(spec, source.n_params)
    kept = Kept(Record(made))
    for reports in (*dies_at, -1):
        driver = Session(spec, source.n_params, gpus, clock, kept, reports)
        simulate(driver, source, Cluster(gpus, failures_per_gpu_hour=failures), clock, 1000.0)
    driver.conductor.end_sweep()
    return kept.events, made


@pytest.mark.parametrize("way", WAYS)
def test_a_simulated_record_is_decided_again_as_it_was(way: str) -> None:
    events, made = simulated(way, failures=1.0, repeats=1)
    result = replay_decisions(events, made)
    assert result.differences == []
    kinds = [event["event"] for event in events]
    assert result.decisions == kinds.count("trial") + kinds.count("promoted") + kinds.count("report") > 40
    assert next(event for event in events if event["event"] == "trial")["params"]["learning_rate"] == 1e-4
    assert (kinds.count("promoted") > 3) == (WAYS[way][1]["variant"] == "promotion")
    assert kinds.count("died") > 0
    assert any("counts" in event for event in events)  # GPU counts that not all trials may have
    assert any("repeat_of" in event for event in events)
    assert any(event.get("reason") == "rung" for event in events)
    paused = [event["trial"] for event in events if event.get("action") == "pause"]
    assert bool(paused) == (WAYS[way][1]["variant"] == "promotion")
    assert len(set(paused)) < len(paused) or not paused  # some continued to a second rung
    assert replay_decisions(copy.deepcopy(events), made) == result


def test_budgets_stop_trials_again() -> None:
    events, made = simulated("random", time=3000.0)
    assert any(event.get("reason") == "budget: time" for event in events if event["event"] == "report")
    assert replay_decisions(events, made).differences == []


@pytest.mark.parametrize("way", ["tpe", "by_size, promotion"])
def test_a_space_with_fewer_configurations_than_trials_ends_the_sweep_and_is_decided_again(way: str) -> None:
    space = {"model_size": {"values": ["70m", "160m"]}, "learning_rate": {"values": [1e-4, 3e-4, 1e-3]}}
    events, made = simulated(way, dies_at=(4,), space=space, run_cap=30)
    tried = [event["params"] for event in events if event["event"] == "trial"]
    assert len(tried) == 6
    assert len({(params["model_size"], params["learning_rate"]) for params in tried}) == 6
    assert events[-1]["event"] == "sweep_ended"
    assert events[-1]["reason"] == "every configuration of the search space was tried"
    result = replay_decisions(events, made)
    assert result.differences == []
    assert result.decisions == sum(event["event"] in ("trial", "promoted", "report") for event in events)


def test_a_larger_budget_extends_a_sweep_that_has_ended_and_is_replayed() -> None:
    spec, more = spec_of("tpe", run_cap=12), spec_of("tpe", run_cap=30)
    source = ParametricSource(FAMILIES["trend"], spec)
    clock, made = Clock(1000.0), manifest(spec, source.n_params)
    kept = Kept(Record(made))
    for session in (spec, more):
        simulate(Session(session, source.n_params, 6, clock, kept, -1), source, Cluster(6), clock, 1000.0)
        Session(session, source.n_params, 6, clock, kept, -1).conductor.end_sweep()
        ended = kept.record.status, kept.record.ended_reason, len(kept.record.trials)
        assert ended == ("ended", "budget: run_cap", session.budget.run_cap)
        if session is spec:
            cost = kept.record.gpu_seconds, kept.record.elapsed_seconds
            kept.append(
                {"event": "settings", "time": clock.now + 5e6, "changed": {"budget.run_cap": [12, 30]}, "by": "ada@login1"}
            )
            assert (kept.record.status, kept.record.ended_reason) == ("running", None)
            assert (kept.record.gpu_seconds, kept.record.elapsed_seconds) == cost, "the pause costs nothing"
    assert kept.record.manifest["spec"]["budget"]["run_cap"] == 30
    assert made["spec"]["budget"]["run_cap"] == 12, "what was launched stays as it was"
    result = replay_decisions(kept.events, made)
    assert result.differences == []
    assert result.decisions > 30
    without = [event for event in kept.events if event["event"] != "settings"]
    assert replay_decisions(without, made).differences, "the replay reads the change"


def test_what_is_left_of_a_budget_decides_again_as_it_did() -> None:
    events, made = simulated("forecast", gpu_hours=12.0)
    assert sum("left_gpu_seconds" in event for event in events) > 20
    assert replay_decisions(events, made).differences == []
    wrong = copy.deepcopy(events)
    for event in wrong:
        if "left_gpu_seconds" in event:
            event["left_gpu_seconds"] = 1.0  # nothing fits
    assert "proposal" in {difference.what for difference in replay_decisions(wrong, made).differences}


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_sweep_is_decided_again_as_it_was(way: str) -> None:
    events, made = simulated(way, dies_at=(12, 30), run_cap=45)
    sessions = [place for place, event in enumerate(events) if event["event"] == "session"]
    assert len(sessions) == 3
    assert sum(event["event"] == "trial" for event in events[sessions[2] :]) > 5
    assert replay_decisions(events, made).differences == []


def test_another_promotion_is_told() -> None:
    events, made = simulated("by_size, promotion")
    place = next(place for place, event in enumerate(events) if event["event"] == "promoted")
    promoted = events[place]["trial"]
    waiting = {event["trial"] for event in events[:place] if event.get("action") == "pause"} - {promoted}
    assert waiting
    wrong = [{**event, "trial": min(waiting)} if at == place else event for at, event in enumerate(events)]
    told = replay_decisions(wrong, made).differences[0]
    assert (told.event, told.trial) == (place + 1, promoted)


def test_what_was_decided_otherwise_is_told_and_the_replay_goes_on() -> None:
    events, made = simulated("tpe")
    place = next(place for place, event in enumerate(events) if event["event"] == "trial" and event["number"] == 12)
    events[place]["params"]["weight_decay"] = 0.2
    (difference,) = [d for d in replay_decisions(events, made).differences if d.event == place + 1]
    assert (difference.trial, difference.what) == ("t0012", "params")
    assert difference.recorded["weight_decay"] == 0.2
    assert difference.replayed["weight_decay"] != 0.2

    events, made = simulated("random")
    stop = next(place for place, event in enumerate(events) if event.get("reason") == "rung" and event["event"] == "report")
    events[stop]["cutoff"] *= 1.01
    assert [(d.event, d.what) for d in replay_decisions(events, made).differences] == [(stop + 1, "cutoff")]
    events[stop]["cutoff"] /= 1.01
    events[stop] |= {"action": "continue", "reason": None}
    differences = replay_decisions(events, made).differences
    assert {(d.event, d.what) for d in differences} >= {(stop + 1, "action"), (stop + 1, "reason")}
    assert all(d.event in (stop + 1, stop + 2) for d in differences)  # a stopped trial's value stays at its rung


def test_another_seed_proposes_otherwise() -> None:
    events, made = simulated("random")
    made["spec"]["search"]["seed"] = 4
    result = replay_decisions(events, made)
    assert {d.what for d in result.differences} == {"params"}
    assert len(result.differences) == 30
    kinds = [event["event"] for event in events]
    assert result.decisions == kinds.count("trial") + kinds.count("report")


def test_a_record_that_breaks_off_anywhere(tmp_path: Path) -> None:
    events, made = simulated("random", run_cap=8)
    for length in range(0, len(events), 3):
        result = replay_decisions(events[:length], made)
        assert result.differences == []
    writer = RecordWriter(tmp_path / "run", {"schema_version": SCHEMA_VERSION, **made})
    for event in events:
        writer.append(event)
    writer.close()
    assert replay_decisions(tmp_path / "run").decisions > 8


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        replay_decisions(tmp_path)
