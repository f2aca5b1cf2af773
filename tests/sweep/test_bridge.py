"""The messages between Tune and the bridge, without Tune."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from scalesweep.sweep.bridge import ROUND_SECONDS, BridgeScheduler, BridgeSearcher, BridgeStopper


class Decides:
    """A conductor that pauses every trial at its first report."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.deaths, self.running = names, [], {}  # type: ignore[var-annotated]

    def finished(self) -> bool:
        return False

    def next_trial(self) -> Any:
        return SimpleNamespace(name=self.names.pop(0)) if self.names else None

    def report(self, name: str, **report: Any) -> bool:  # noqa: ARG002
        assert report["examples"] == b"0123"
        return False

    def died(self, name: str, traceback: str) -> None:
        self.deaths.append((name, traceback))

    def failed(self, *failure: Any) -> None:
        self.failures = failure


def test_a_paused_trial_comes_again_as_a_new_one_and_the_process_it_had_kept_is_no_part_of_it() -> None:
    conductor = Decides(["t0000", "t0001", "t0000"])
    scheduler = BridgeScheduler(conductor)  # type: ignore[arg-type]
    searcher = BridgeSearcher(conductor, lambda trial: {"trial": trial.name}, scheduler)  # type: ignore[arg-type]
    controller = SimpleNamespace(stop_trial=lambda _: None)
    tunes = {}
    for trial_id in ("a", "b"):
        config = searcher.suggest(trial_id)
        tunes[trial_id] = SimpleNamespace(config=config)
        kept = {"report": {"fidelity": 4}, "examples": b"0123"}
        result = {"report/fidelity": 4, "report/metrics/eval_loss": 0.5, "examples": kept["examples"]}
        assert not BridgeStopper(conductor)(trial_id, kept)  # type: ignore[arg-type]
        assert list(kept) == ["report"], "Tune keeps no numbers of rows"
        assert scheduler.on_trial_result(controller, tunes[trial_id], result) == "NOOP"
        scheduler.choose_trial_to_run(controller)
    assert searcher.suggest("c") == {"trial": "t0000"}
    searcher.on_trial_complete("a", error=True)
    assert conductor.deaths == [], "the parked process of the first attempt: the second runs on"
    scheduler.on_trial_error(controller, SimpleNamespace(trial_id="c", get_error=lambda: "Failure # 1: killed"))
    searcher.on_trial_complete("c", error=True)
    assert conductor.deaths == [("t0000", "Failure # 1: killed")]
    failure = {"failure": "ValueError: no", "failure_kind": "out_of_memory", "traceback": "File model.py, line 3"}
    scheduler.on_trial_result(controller, tunes["b"], failure)
    assert conductor.failures == ("t0001", "ValueError: no", True, "File model.py, line 3", False)


def test_tunes_loop_leaves_the_cpu_to_starting_workers_after_a_failed_trial() -> None:
    conductor = Decides(["t0000"])
    scheduler = BridgeScheduler(conductor)  # type: ignore[arg-type]
    searcher = BridgeSearcher(conductor, lambda trial: {"trial": trial.name}, scheduler)  # type: ignore[arg-type]
    failed = SimpleNamespace(config=searcher.suggest("a"))
    failure = {"failure": "UserError: the model can't be read", "failure_kind": "user", "traceback": ""}
    assert scheduler.on_trial_result(SimpleNamespace(), failed, failure) == "NOOP"
    assert conductor.failures == ("t0000", "UserError: the model can't be read", False, "", True)
    for running, shortest, longest in (({}, ROUND_SECONDS, 5.0), ({"t0001": object()}, 0.0, ROUND_SECONDS)):
        conductor.running, began = running, time.monotonic()
        assert searcher.suggest("b") is None
        assert shortest <= time.monotonic() - began < longest, "Tune itself waits for the reports of running trials"
