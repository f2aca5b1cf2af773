"""Warm start from the records of earlier sweeps: the used trials, their effect on each sampler, and refused records."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from command_line import refused, run
from scalesweep.control.conductor import Conductor
from scalesweep.errors import SpecError
from scalesweep.record import Past, Record, RecordWriter, State, best, rank, read_record
from scalesweep.record.manifest import SCHEMA_VERSION
from scalesweep.search.pick import pick, with_forecasts
from scalesweep.search.proposals import Proposer
from scalesweep.simulation.driver import Everywhere, SweepDriver, manifest
from scalesweep.simulation.parametric import FAMILIES, ParametricSource, family_spec
from scalesweep.simulation.replay import replay_decisions
from scalesweep.simulation.simulator import Clock, Cluster, simulate
from scalesweep.spec import SweepSpec, earlier_trials, load_sweep, sweep_from_dict
from scalesweep.sweep.preflight import preflight
from sweeps import sweep, sweep_dict

MANIFEST = {
    "schema_version": SCHEMA_VERSION,
    "name": "tiny",
    "metric": {"name": "eval_loss", "goal": "minimize"},
    "time_attr": "steps",
    "ladder": [{"name": "L1", "n_params": 1e6}, {"name": "L2", "n_params": 2e6}],
}
COUNTS = {"step": 1, "tokens": 0, "flops": 0.0}


def loss_of(params: dict[str, Any], step: int) -> float:
    return abs(math.log10(params["learning_rate"]) + 3) + 2 / step


def earlier(folder: Path, trials: int = 12, spec: SweepSpec | None = None, **changes: Any) -> Path:
    """The run folder of a sweep: some trials complete, one diverged, one failed, the first and the last left unfinished."""
    writer = RecordWriter(folder, {**MANIFEST, **changes})
    spec = spec or sweep(budget={"run_cap": trials}, search={"sampler": "random", "seed": 7})
    clock = Clock(1000.0)
    proposer = Proposer(spec, InMemoryStorage())
    made = Conductor(spec, writer, proposer, lambda: 2, Everywhere(), clock)
    for number in range(trials):
        trial = made.next_trial()
        assert trial is not None
        for step in {0: (4,), trials - 1: ()}.get(number, (4, 8, 12)):
            clock.now += 1
            loss = math.nan if number == 2 else loss_of(trial.params, step)
            if number == 3:
                made.failed(trial.name, "broken")
            if not made.report(trial.name, step, {"eval_loss": loss}, **COUNTS):
                break
        made.running.pop(trial.name, None)  # unfinished, because the driver died
    writer.close()
    return folder


def past_of(spec: SweepSpec, base: Path = Path()) -> list[Past]:
    return [Past.of(name, trial, "eval_loss") for name, trial in earlier_trials(spec, base, read_record)[0]]


def warm(folder: Path, *sources: Path, **search: Any) -> SweepSpec:  # noqa: ARG001
    return sweep(search={"seed": 1, "n_startup_trials": 3, "warm_start": [str(path) for path in sources], **search})


def begun(folder: Path, spec: SweepSpec) -> RecordWriter:
    """The new sweep's run folder, as a launch begins it."""
    past = [asdict(past) for past in past_of(spec)]
    return RecordWriter(folder, {**MANIFEST, "spec": spec.model_dump(mode="json"), "past": past})


def proposer_of(spec: SweepSpec, record: Record, cold: bool = False) -> Proposer:
    past = [] if cold else record.past
    trials = record.by_number()
    return Proposer(spec, InMemoryStorage(), trials, n_params=record.n_params, past=past)


# ---- effect on samplers ----------------------------------------------------------------------------------------------------


def test_the_models_know_the_past_from_the_first_trial_on(tmp_path: Path) -> None:
    spec = warm(tmp_path, earlier(tmp_path / "a"), sampler="forecast")
    record = begun(tmp_path / "new", spec).record
    proposer, cold = proposer_of(spec, record), proposer_of(spec, record, cold=True)
    assert proposer.outlook.history.judged > 9
    assert cold.outlook.history.judged == 0
    assert len(proposer.study.trials) == 0  # they do not belong to this sweep
    numbers = range(12)
    drawn = [proposer.propose(number, f"t{number:04d}").params for number in numbers]
    assert drawn != [cold.propose(number, f"t{number:04d}").params for number in numbers]
    near = [abs(math.log10(params["learning_rate"]) + 3) for params in drawn]
    assert sorted(near)[4] < 0.4  # where earlier trials were good, within two decades


@pytest.mark.parametrize("sampler", ["tpe", "random", "forecast"])
def test_a_proposer_made_anew_from_the_record_alone_proposes_the_same(sampler: str, tmp_path: Path) -> None:
    source = earlier(tmp_path / "a")
    spec = warm(tmp_path, source, sampler=sampler)
    with_past = begun(tmp_path / "new", spec)
    first = proposer_of(spec, with_past.record).propose(0, "t0000")
    with_past.close()
    source.rename(tmp_path / "gone")
    record = read_record(tmp_path / "new")
    again = sweep_from_dict(record.manifest["spec"])
    assert proposer_of(again, record).propose(0, "t0000") == first
    cold = proposer_of(again, record, cold=True).propose(0, "t0000")
    assert (cold == first) == (sampler == "random")


def test_the_study_of_tpe_has_them_as_they_ended(tmp_path: Path) -> None:
    spec = warm(tmp_path, earlier(tmp_path / "a"))
    record = begun(tmp_path / "new", spec).record
    source = read_record(tmp_path / "a")
    states = {f"a/{trial.name}": trial.state for trial in source.by_number() if trial.reports}
    study = {trial.user_attrs["trial"]: trial for trial in proposer_of(spec, record).study.trials}
    assert {name for name, state in states.items() if state != State.FAIL} == set(study)
    assert {State.COMPLETE, State.PRUNED, State.RUNNING} <= set(states.values())
    for name, trial in study.items():
        told = source.trials[name.partition("/")[2]]
        running = told.state is State.RUNNING  # here it counts as stopped
        assert trial.state == (TrialState.PRUNED if running else TrialState[told.state])
        assert list(trial.intermediate_values) == [report.fidelity for report in told.reports]
        last = told.last.metrics["eval_loss"]
        assert trial.value == (None if math.isnan(last) else last)
        assert trial.params.items() <= told.params.items()


def test_complete_at_a_smaller_end_is_part_of_the_way(tmp_path: Path) -> None:
    source = earlier(tmp_path / "a")
    data = sweep_dict(search={"warm_start": [str(source)]}, early_terminate__={"max_t": 36})
    spec = sweep_from_dict(data)
    proposer = Proposer(spec, InMemoryStorage(), past=past_of(spec))
    assert {trial.state for trial in proposer.study.trials} == {TrialState.PRUNED}


def test_past_trials_are_none_of_the_sweep(tmp_path: Path) -> None:
    spec = warm(tmp_path, earlier(tmp_path / "a"), sampler="forecast")
    writer = begun(tmp_path / "new", spec)
    clock = Clock(2000.0)
    made = Conductor(spec, writer, proposer_of(spec, writer.record), lambda: 2, Everywhere(), clock)
    record = writer.record
    assert pick(record, made.proposer.outlook) is None
    while (trial := made.next_trial()) is not None:
        for step in (4, 8, 12):
            clock.now += 1
            if not made.report(trial.name, step, {"eval_loss": 5 + loss_of(trial.params, step)}, **COUNTS):
                break
    made.end_sweep()
    assert list(record.trials) == [f"t{number:04d}" for number in range(6)]  # run_cap counts its own
    assert len(rank(record)) == 6
    assert {name for rung in made.rungs.of(0) for name in rung} <= set(record.trials)
    picked = best(with_forecasts(read_record(tmp_path / "new")))
    assert picked is not None
    assert picked.name == made.proposer.outlook.pick()
    assert picked.name in record.trials
    assert record.gpu_seconds == sum(trial.gpu_seconds for trial in record.trials.values())


def test_the_record_says_what_it_was_told_not_finite_values_too(tmp_path: Path) -> None:
    spec = warm(tmp_path, earlier(tmp_path / "a"))
    begun(tmp_path / "new", spec).close()
    told, read = past_of(spec), read_record(tmp_path / "new").past
    assert repr(read) == repr(told)  # a NaN is not equal to itself
    assert any(math.isnan(report[1]) for past in read for report in past.reports)


@pytest.mark.simulates
@pytest.mark.parametrize(
    ("sampler", "early"),
    [
        ("tpe", {}),
        ("forecast", {"variant": "stopping", "survival": "by_size"}),
        ("forecast", {"variant": "promotion", "survival": "forecast"}),
    ],
)
def test_a_warm_sweep_simulated_is_decided_again_as_it_was(sampler: str, early: dict[str, str]) -> None:
    data = family_spec("trend")
    early_terminate = {**data["early_terminate"], "variant": "stopping", "survival": "metric", **early}
    search = {"sampler": sampler, "n_startup_trials": 5}
    spec = sweep_from_dict({**data, "early_terminate": early_terminate, "search": search, "budget": {"run_cap": 12}})
    source = ParametricSource(FAMILIES["trend"], spec)
    first = driven(spec, source, seed=3)[0]
    past = [Past.of(f"a/{trial.name}", trial, first.metric) for trial in first.by_number()]
    record, events = driven(spec, source, seed=4, past=past)
    assert len(record.past) == 12
    assert [trial.params for trial in record.by_number()] != [t.params for t in driven(spec, source, seed=4)[0].by_number()]
    replayed = replay_decisions(events, manifest(_seeded(spec, 4), source.n_params, past))
    assert replayed.differences == []
    assert replayed.decisions > 12


def _seeded(spec: SweepSpec, seed: int) -> SweepSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update={"seed": seed})})


class _Kept:
    def __init__(self, record: Record) -> None:
        self.record, self.events = record, []

    def append(self, event: dict[str, Any]) -> None:
        self.events.append(json.loads(json.dumps(event)))
        self.record.apply(event)


def driven(spec: SweepSpec, source: ParametricSource, seed: int, past: Any = ()) -> tuple[Record, list[dict[str, Any]]]:
    clock = Clock(1000.0)
    driver = SweepDriver(spec, source.n_params, 4, clock, seed, past)
    made = driver.conductor
    kept = _Kept(driver.record)
    kept.events = [{"event": "session", "time": 1000.0, "resumed": False}]
    made.writer = kept
    simulate(driver, source, Cluster(4), clock, 1000.0)
    made.end_sweep()
    return driver.record, kept.events


# ---- used trials -------------------------------------------------------------------------------------------------------------


def space(**changes: Any) -> dict[str, Any]:
    parameters = {**sweep_dict()["search_space"]["parameters"], **changes}
    return {"parameters": {name: value for name, value in parameters.items() if value is not None}}


@pytest.mark.parametrize(
    ("changes", "fits", "why"),
    [
        ({"learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-2}},
         lambda p: p["learning_rate"] >= 1e-3, "learning_rate is not in"),
        ({"num_gpus": {"values": [1]}}, lambda p: p["num_gpus"] == 1, "num_gpus is not in 1"),
        ({"unfreezing": {"values": ["full", "gradual"]}}, lambda p: p["unfreezing"] != "head", "unfreezing is not in full | gradual"),
        ({"unfreeze_interval": {"min": 3, "max": 4, "when": {"unfreezing": "gradual"}}},
         lambda p: p.get("unfreeze_interval", 3) >= 3, "unfreeze_interval is not in"),
        ({"unfreeze_interval": {"min": 2, "max": 4, "when": {"unfreezing": ["gradual", "head"]}}},
         lambda p: p["unfreezing"] != "head", "unfreeze_interval is missing"),
        ({"unfreeze_interval": {"min": 2, "max": 4, "when": {"unfreezing": "gradual", "num_gpus": 1}}},
         lambda p: (p["unfreezing"], p["num_gpus"]) != ("gradual", 2), "unfreeze_interval does not apply with that unfreezing and num_gpus"),
        ({"unfreeze_interval": None}, lambda p: p["unfreezing"] != "gradual", "unfreeze_interval is not a parameter"),
    ],
)  # fmt: skip
def test_trials_outside_the_space_are_left_out_and_counted(changes: Any, fits: Any, why: str, tmp_path: Path) -> None:
    source = earlier(tmp_path / "a", trials=16)
    spec = sweep(search={"warm_start": ["a"]}, search_space=space(**changes))
    used, note = earlier_trials(spec, tmp_path, read_record)
    trials = read_record(source).by_number()
    expected = [f"a/{trial.name}" for trial in trials if trial.reports and fits(trial.params)]
    assert [name for name, _ in used] == expected
    assert 0 < len(expected) < sum(bool(trial.reports) for trial in trials)
    assert f"the search uses {len(expected)} of {len(trials)} trials of a" in note
    assert why in note or "the trial reported nothing" in note


def test_a_number_of_another_kind_is_no_choice(tmp_path: Path) -> None:
    source = earlier(tmp_path / "a")
    text = (source / "record.jsonl").read_text().replace('"num_gpus": 1', '"num_gpus": true')
    (source / "record.jsonl").write_text(text)
    spec = warm(tmp_path, source)
    assert {past.params["num_gpus"] for past in past_of(spec)} == {2}


def test_two_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    spec = warm(tmp_path, earlier(tmp_path / "x" / "a"), earlier(tmp_path / "y" / "a"))
    names = [past.name for past in past_of(spec)]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == {"a", "a (2)"}


def test_a_sweep_without_earlier_ones_is_as_it_was(tmp_path: Path) -> None:
    assert earlier_trials(sweep(), tmp_path, read_record) == ([], "")
    assert sweep().search.warm_start == []


# ---- refused records ---------------------------------------------------------------------------------------------------------


def written(folder: Path, warm_start: list[str], **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    data = sweep_dict(**changes)
    data.pop("search")
    lines = "".join(f"    - {name}\n" for name in warm_start)
    path.write_text(yaml.safe_dump(data) + f"search:\n  warm_start:\n{lines}", encoding="utf-8")
    return path


REFUSED = {
    "missing folder": (["nowhere"], {}, "warm_start[0]", "nowhere does not exist", "run folders in"),
    "no run folder": (["a", "other"], {}, "warm_start[1]", "other is not a run folder", "hint: "),
    "other metric": (["accuracy"], {}, "warm_start[0]", "a sweep to maximize eval_accuracy, and this one is to minimize eval_loss", "eval_accuracy"),
    "other fidelity": (["a", "tokens"], {}, "warm_start[1]", "tokens counts tokens, and this sweep counts steps", "time_attr: tokens"),
    "twice": (["a", "./a"], {}, "warm_start[1]", "./a is the same folder as warm_start[0]", "once"),
    "nothing fits": (["a"], {"search_space": space(weight_decay={"min": 0.0, "max": 0.1})}, "warm_start",
                     "none of the 12 trials can be used", "weight_decay is missing"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("earlier")
    earlier(root / "a")
    earlier(root / "accuracy", metric={"name": "eval_accuracy", "goal": "maximize"})
    earlier(root / "tokens", time_attr="tokens")
    (root / "other").mkdir()
    return root


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_line_key_and_remedy(case: str, sources: Path) -> None:
    names, changes, key, says, hint = REFUSED[case]
    path = written(sources, names, **changes)
    with pytest.raises(SpecError) as caught:
        preflight(load_sweep(path), None, path.parent)
    [problem] = caught.value.problems
    lines = path.read_text().splitlines()
    place = lines.index("  warm_start:") + 1 + (0 if key == "warm_start" else int(key[-2]) + 1)
    assert (problem.file, problem.key, problem.line) == (str(path), f"search.{key}", place)
    assert says in problem.message
    assert hint in str(problem)
    assert problem.hint


def test_launch_exits_2_and_makes_nothing(sources: Path, tmp_path: Path) -> None:
    path = written(sources, ["a", "tokens"])
    says = refused("launch", path, "--run-dir", tmp_path / "new", "--num-gpus", "2")
    line = len(path.read_text().splitlines())
    assert f"{path}:{line}  search.warm_start[1]: tokens counts tokens, and this sweep counts steps" in says
    assert not (tmp_path / "new").exists()


@pytest.mark.simulates
def test_simulate_reads_them_too_and_says_how_many_are_used(tmp_path: Path) -> None:
    data = {**family_spec("trend"), "search": {"sampler": "tpe", "n_startup_trials": 4}, "budget": {"run_cap": 6}}
    spec = sweep_from_dict(data)
    metric = {"name": spec.metric.name, "goal": "minimize"}
    writer = RecordWriter(tmp_path / "a", {**MANIFEST, "metric": metric, "time_attr": spec.early_terminate.time_attr})
    for event in driven(spec, ParametricSource(FAMILIES["trend"], spec), seed=3)[1]:
        writer.append(event)
    writer.close()
    data["search"] = {**data["search"], "warm_start": ["a"]}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    few = ["--seeds", "1", "--gpu-hours", "2"]
    done = run("simulate", path, "--curves", "family:trend", *few, "--against", "search.warm_start=[]")
    assert done.returncode == 0, done.stderr
    assert "warm start: the search uses 6 of 6 trials of a" in " ".join((done.stdout + done.stderr).split())
