"""The meaning of the two files: YAML's scalars, lines, `--set`, durations, defaults, rungs, and the way through the record."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalesweep.errors import SpecError, UserError
from scalesweep.spec import (
    PARAMETERS,
    Parameter,
    SearchSpace,
    SweepSpec,
    TrialConfig,
    load_sweep,
    price_of,
    rung_levels,
    sweep_from_dict,
    trial_config,
    unfreezing_modes,
)
from scalesweep.spec.checks import late_thaws
from scalesweep.spec.loading import key_text, parse_yaml
from sweeps import BASE, sweep, sweep_dict

ROOT = Path(__file__).parents[2]


def read(text: str) -> Any:
    return parse_yaml(text, "file.yaml").data


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """BASE as two files; the sweep's path."""
    data = sweep_dict()
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "space.yaml").write_text(yaml.safe_dump(data.pop("search_space")), encoding="utf-8")
    path = tmp_path / "sweeps" / "sweep.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({**data, "search_space": "../spaces/space.yaml"}, sort_keys=False), encoding="utf-8")
    return path


# ---- YAML ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),  # YAML 1.1 reads these three as text
        ("1E3", 1000.0),
        ("-2e+4", -2e4),
        ("1.0e-5", 1e-5),
        ("3", 3),
        ("-3", -3),
        ("0", 0),
        ("007", "007"),  # YAML 1.1 reads an octal number: a class 010 would be 8, or 10
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("true", True),
        ("False", False),
        ("no", "no"),  # YAML 1.1 reads these as booleans
        ("off", "off"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("2024-01-31", "2024-01-31"),  # … this as a date
        ("12:30:00", "12:30:00"),  # … this as a number to base 60
        ("0x1F", "0x1F"),
        ("0.5b", "0.5b"),
        ("1e", "1e"),
        ("'7'", "7"),
        ("null", None),
        ("~", None),
        ("", None),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{a: {b: [no]}}", {"a": {"b": ["no"]}}),
        ("1: x", {"1": "x"}),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read_value = read(text)
    assert read_value == value
    assert type(read_value) is type(value)


def test_aliases_are_copies() -> None:
    assert read("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]}


def test_every_key_has_its_line() -> None:
    document = parse_yaml("# first\na:\n  b: 1\n\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "file.yaml")
    expected = {("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1): 7, ("a", "c", 1, "e"): 8}
    assert {path: document.line(path) for path in expected} == expected
    assert document.line(("a", "c", 1, "unknown", 4)) == 7  # of what would hold it
    assert document.line(("unknown",)) == 2
    assert key_text(("a", "c", 1, "e")) == "a.c[1].e"


def test_the_space_is_found_beside_the_sweep_from_any_folder(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_sweep(files).search_space == sweep().search_space
    monkeypatch.chdir(tmp_path)
    assert load_sweep("sweeps/sweep.yaml").search_space == sweep().search_space


# ---- --set -----------------------------------------------------------------------------------------------------------------


def test_set_reaches_nested_keys_with_types(files: Path) -> None:
    overrides = (
        "budget.run_cap=3",
        "budget.time=2m",
        "training.mixed_precision=no",
        "training.gradient_checkpointing=true",
        "data.splits={train: 0.5, validation: 0.2, test: 0.2}",
        "ladder.layers=[1, 2, 4]",
        "resources.gpu_memory_gib=1e1",  # a section that the file does not have
        "metric.name=eval_accuracy",
        "name=a.b",
    )
    spec = load_sweep(files, overrides)
    assert (spec.budget.run_cap, spec.budget.time) == (3, 120.0)
    assert spec.training.mixed_precision == "no"
    assert spec.training.gradient_checkpointing is True
    assert spec.data.splits == {"train": 0.5, "validation": 0.2, "test": 0.2}
    assert [size.name for size in spec.sizes()] == ["L1", "L2", "L4"]
    assert spec.resources.gpu_memory_gib == 10.0
    assert (spec.metric.name, spec.name) == ("eval_accuracy", "a.b")
    assert load_sweep(files).budget.run_cap == BASE["budget"]["run_cap"]  # the file is as it was


def test_set_to_null_brings_the_default_back(files: Path) -> None:
    data = sweep_dict(search={"seed": 3, "points_to_evaluate": [{"learning_rate": 1e-4}]}, budget={"run_cap": 6, "time": "5m"})
    files.write_text(yaml.safe_dump(data))
    spec = load_sweep(files, ["search.points_to_evaluate=null", "budget.time=null", "resources.cache_gib=null"])
    assert (spec.search.points_to_evaluate, spec.search.seed, spec.budget.time) == ([], 3, None)
    for override, says in (
        ("data.path=null", "--set data.path=null  data.path: is missing"),
        ("budget.tiem=null", "budget.tiem: unknown key"),
        ("budget.run_cap=", "--set budget.run_cap=: the value is missing"),
    ):
        with pytest.raises(UserError) as caught:
            load_sweep(files, [override])
        assert says in str(caught.value)


def test_the_last_set_wins(files: Path) -> None:
    assert load_sweep(files, ("budget.run_cap=3", "budget.run_cap=5")).budget.run_cap == 5


def test_set_may_name_another_space(files: Path, tmp_path: Path) -> None:
    other = {"parameters": {"model_size": {"value": "L1"}}}
    (tmp_path / "spaces" / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    assert list(load_sweep(files, ("search_space=../spaces/other.yaml",)).search_space.parameters) == ["model_size"]


def test_set_of_an_unknown_key_names_the_option_not_a_line(files: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_sweep(files, ("budget.gpu_huors=40",))
    [problem] = caught.value.problems
    assert (problem.file, problem.line) == ("--set budget.gpu_huors=40", None)
    assert "'gpu_hours'" in problem.hint
    with pytest.raises(SpecError) as caught:
        load_sweep(files, ("foo.bar.baz=1", "resources.foo.bar=1"))  # the file has neither section
    assert [(problem.file, problem.line, problem.key) for problem in caught.value.problems] == [
        ("--set resources.foo.bar=1", None, "resources.foo"),
        ("--set foo.bar.baz=1", None, "foo"),
    ]
    with pytest.raises(UserError, match="not a mapping"):
        load_sweep(files, ("name.x=1",))
    with pytest.raises(SpecError) as caught:
        load_sweep(files, (f"ladder.layers={[0] * 60}",))
    assert {(problem.file[-1], len(problem.file)) for problem in caught.value.problems} == {("…", len("--set ") + 80)}


# ---- durations and distributions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("90s", 90), ("2h30m", 9000), ("1d", 86400), ("1.5h", 5400), ("1d2h3m4s", 93784), (45, 45), (0.5, 0.5)],
)
def test_durations(text: Any, seconds: float) -> None:
    assert sweep(budget={"time": text}).budget.time == seconds


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "m", "-5m", "1m2h", True])
def test_no_durations(text: Any) -> None:
    with pytest.raises(SpecError, match=r"budget\.time"):
        sweep(budget={"time": text})


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"value": 3}, "constant"),
        ({"value": 0}, "constant"),
        ({"value": False}, "constant"),
        ({"values": [1, 2]}, "categorical"),
        ({"min": 1, "max": 4}, "int_uniform"),
        ({"min": 0, "max": 1}, "int_uniform"),
        ({"min": 0.0, "max": 1}, "uniform"),
        ({"min": 1, "max": 2.5}, "uniform"),
        ({"min": 1, "max": 4, "distribution": "uniform"}, "uniform"),
        ({"min": 1e-5, "max": 1e-2, "distribution": "log_uniform_values"}, "log_uniform_values"),
    ],
)
def test_distribution_where_none_is_given_is_wandbs(given: dict[str, Any], kind: str) -> None:
    assert Parameter(**given).kind == kind


def test_whole_bounds_of_a_fraction_are_numbers_too() -> None:
    """`weight_decay: {min: 0, max: 1}` would draw 0 or 1 alone, as in W&B: hardly meant, so it is refused."""
    assert sweep_of({"weight_decay": {"min": 0, "max": 1, "distribution": "uniform"}}).search_space.parameters
    with pytest.raises(SpecError, match=r"write 0\.0 and 1\.0"):
        sweep_of({"weight_decay": {"min": 0, "max": 1}})


def sweep_of(parameters: dict[str, Any]) -> SweepSpec:
    return sweep(search_space={"parameters": {"model_size": {"values": ["L1", "L2"]}, **parameters}})


def test_when() -> None:
    parameter = Parameter(min=1, max=2, when={"unfreezing": ["head", "gradual"], "num_gpus": 1})
    assert parameter.holds({"unfreezing": "head", "num_gpus": 1})
    assert not parameter.holds({"unfreezing": "full", "num_gpus": 1})
    assert not parameter.holds({"unfreezing": "head", "num_gpus": 2})
    assert not parameter.holds({"num_gpus": 1})


def test_order_puts_conditions_first() -> None:
    space = SearchSpace(
        parameters={
            "decay_ratio": Parameter(value=0.1, when={"lr_scheduler_type": "linear"}),
            "lr_scheduler_type": Parameter(values=["linear"], when={"unfreezing": "full"}),
            "num_gpus": Parameter(values=[1, 2]),
            "unfreezing": Parameter(values=["full"]),
            "model_size": Parameter(values=["L1"]),
        }
    )
    names = [name for name, _ in space.ordered()]
    assert sorted(names) == sorted(space.parameters)
    for before, after in (
        ("lr_scheduler_type", "decay_ratio"),
        ("unfreezing", "lr_scheduler_type"),
        ("model_size", "num_gpus"),  # a size's min_gpus bounds the count
    ):
        assert names.index(before) < names.index(after)


# ---- rungs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grace", "max_t", "factor"),
    [(1, 9, 3), (40, 360, 3), (30, 270, 3), (4, 12, 3), (5, 5, 2), (1, 100, 4), (7, 100, 2.5), (3, 1000, 1.7), (10, 1000, 10)]
    + [(1, 3**k, 3) for k in range(2, 9)]  # where floating-point logarithms are a hair off
    + [(1, 10**k, 10) for k in range(2, 7)],
)
def test_rungs_are_those_of_rays_asha(grace: int, max_t: int, factor: float) -> None:
    from ray.tune.schedulers import ASHAScheduler

    early = {"type": "asha", "grace_period": grace, "max_t": max_t, "reduction_factor": factor}
    levels = rung_levels(sweep(early_terminate=early))
    theirs = ASHAScheduler(
        time_attr="steps", metric="m", mode="min", grace_period=grace, max_t=max_t, reduction_factor=factor, brackets=1
    ).debug_string()
    # "Bracket: Iter 9.000: None | Iter 3.000: None | Iter 1.000: None", highest first
    milestones = [float(part.split(":")[0].removeprefix("Iter ")) for part in theirs.split("Bracket: ")[1].split(" | ")]
    assert levels == [math.ceil(round(milestone, 3)) for milestone in reversed(milestones)]
    assert levels[0] == grace
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("time_attr", "grace", "max_t", "factor", "levels"),
    [
        ("flops", 1e14, 9e14, 3, [10**14, 3 * 10**14, 9 * 10**14]),
        ("flops", 1000.5, 3000, 2.5, [1001, 2502]),  # counted whole, so rounded up
        ("gpu_seconds", 10, 100, 2.5, [10, 25.0, 62.5]),
        ("dollars", 0.05, 0.45, 3, [0.05, pytest.approx(0.15), 0.45]),  # 0.05 · 3² is a hair above 0.45
        ("dollars", 0.7, 6.3, 3, [0.7, pytest.approx(2.1), 6.3]),  # … and 0.7 · 3² a hair below 6.3
    ],
)
def test_rungs_of_fidelities_that_are_no_whole_numbers(
    time_attr: str, grace: float, max_t: float, factor: float, levels: list[Any]
) -> None:
    early = {"time_attr": time_attr, "grace_period": grace, "max_t": max_t, "reduction_factor": factor}
    spec = sweep(early_terminate=early, resources={"dollars_per_gpu_hour": 2.0})
    made = rung_levels(spec)
    assert made == levels
    if time_attr == "flops":
        assert all(isinstance(level, int) for level in made)
    config = trial_config(spec, {})
    assert (config.rungs, config.max_t) == (made, max_t)
    assert type(config)(**json.loads(config.model_dump_json())) == config


def test_whole_fidelities_stay_whole() -> None:
    for time_attr in ("steps", "tokens"):
        config = trial_config(sweep(early_terminate={"time_attr": time_attr, "grace_period": 4, "max_t": 12}), {})
        assert [type(number) for number in (*config.rungs, config.max_t)] == [int, int, int]


def test_no_rungs_without_asha() -> None:
    assert rung_levels(sweep(early_terminate={"type": "none", "max_t": 12})) == []


# ---- a trial's configuration ---------------------------------------------------------------------------------------------------


def test_trial_config_fills_defaults_and_absent_conditional_parameters() -> None:
    spec = sweep()
    drawn = {"model_size": "L2", "num_gpus": 2, "unfreezing": "full", "learning_rate": 0.003}  # no unfreeze_interval: full
    config = trial_config(spec, drawn)
    for name, info in PARAMETERS.items():
        if name not in {*drawn, "global_batch_size"}:
            assert getattr(config, name) == info.default, name
    assert {name: getattr(config, name) for name in drawn} == drawn
    assert config.global_batch_size == 16  # of `training`
    assert (config.rungs, config.max_t, config.time_attr) == ([4, 12], 12, "steps")
    assert config.knobs() == dict.fromkeys(
        ("dropout", "attention_dropout", "embedding_dropout", "classifier_dropout", "layerdrop")
    )
    assert json.loads(config.model_dump_json()) == config.model_dump()


def test_a_searched_batch_size_stands_over_the_trainings() -> None:
    spec = sweep_of({"global_batch_size": {"values": [8, 32]}})
    assert trial_config(spec, {"model_size": "L1", "global_batch_size": 32}).global_batch_size == 32


def test_an_unsearched_size_is_the_only_one_and_brings_its_gpus() -> None:
    only = [{"name": "only", "model": "some/model"}]
    spec = sweep(ladder=only, search_space={"parameters": {"learning_rate": {"value": 1e-3}}})
    config = trial_config(spec, {"learning_rate": 1e-3})
    assert (config.model_size, config.num_gpus) == ("only", 1)


def test_the_trainings_switches_reach_the_trial() -> None:
    config = trial_config(sweep(), {})
    assert (config.prefix_cache, config.packing, config.group_by_length) == ("auto", "auto", True)
    config = trial_config(sweep(training={"prefix_cache": "off", "packing": "off", "group_by_length": False}), {})
    assert (config.prefix_cache, config.packing, config.group_by_length) == ("off", "off", False)


# ---- cadences ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"unfreezing": {"values": ["full", "chain_thaw"]}, "unfreeze_interval": {"value": 5}},  # absent `when`: it may matter
        {"unfreezing": {"value": "lp_ft"}, "unfreeze_cadence": {"value": "epoch"}, "thaw_warmup_steps": {"value": 3}},
        {
            "unfreezing": {"values": ["full", "gradual"]},
            "unfreeze_cadence": {"values": ["fraction", "plateau"], "when": {"unfreezing": "gradual"}},
            "unfreeze_fraction": {"min": 0.05, "max": 1.0, "when": {"unfreeze_cadence": "fraction"}},
            "unfreeze_patience": {"min": 1, "max": 3, "when": {"unfreeze_cadence": "plateau"}},
            # where there is no cadence the default holds, and counts steps
            "unfreeze_interval": {"min": 1, "max": 3, "when": {"unfreezing": "gradual"}},
        },
    ],
)
def test_cadences_that_may_matter_are_taken(parameters: dict[str, Any]) -> None:
    assert set(sweep_of(parameters).search_space.parameters) == {"model_size", *parameters}


def test_a_configuration_of_a_version_without_adapters_has_none() -> None:
    drawn = trial_config(sweep_of({}), {}).model_dump()
    older = {name: value for name, value in drawn.items() if "adapter" not in name and "lora" not in name}
    assert TrialConfig(**older).model_dump() == drawn


def test_thaws_that_never_come_are_remarked_on() -> None:
    def remarks(max_t: int, **parameters: Any) -> list[str]:
        sizes = {"model_size": {"values": ["L1", "L2"]}}
        early = {"grace_period": 4, "max_t": max_t}
        return late_thaws(sweep(search_space={"parameters": sizes | parameters}, early_terminate=early))

    gradual = {"unfreezing": {"values": ["full", "gradual"]}}
    says = "unfreezing (gradual) trains the head alone: unfreeze_interval is 100 by default, and a trial ends at 12 steps"
    assert remarks(12, **gradual) == [says]
    assert remarks(12, **gradual, unfreeze_interval={"min": 11, "max": 40, "when": {"unfreezing": "gradual"}}) == []
    assert remarks(12, **gradual, unfreeze_cadence={"value": "epoch"}) == []
    assert remarks(120, **gradual) == remarks(12, unfreezing={"value": "head"}) == []


def test_modes_of_unfreezing_are_those_that_a_trial_may_have() -> None:
    assert unfreezing_modes(sweep_of({})) == ["full"]
    assert unfreezing_modes(sweep_of({"unfreezing": {"value": "lp_ft"}})) == ["lp_ft"]
    sometimes = {"unfreezing": {"values": ["head", "gradual"], "when": {"model_size": "L2"}}}
    assert unfreezing_modes(sweep_of(sometimes)) == ["head", "gradual", "full"]


# ---- prices --------------------------------------------------------------------------------------------------------------------


def test_a_size_has_the_price_of_its_gpu() -> None:
    sizes = [{"name": "L1", "model": "a/b"}, {"name": "L2", "model": "c/d", "accelerator_type": "H100"}]
    for prices, expected in (
        (None, [None, None]),
        (2.5, [2.5, 2.5]),
        ({"H100": 4, "default": 1.5}, [1.5, 4]),
        ({"A100": 4, "default": 1.5}, [1.5, 1.5]),
    ):
        spec = sweep(ladder=sizes, resources={"dollars_per_gpu_hour": prices})
        assert [spec.price(name) for name in ("L1", "L2")] == expected
        assert price_of(prices, "H100") == expected[1]
    typed = [{"name": "L1", "model": "a/b", "accelerator_type": "A100"}, sizes[1]]
    spec = sweep(ladder=typed, resources={"dollars_per_gpu_hour": {"A100": 2, "H100": 3}})
    assert [spec.price(name) for name in ("L1", "L2")] == [2, 3]


# ---- through the record and from Python -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"time": "5m", "gpu_hours": 2.0}, "resources": {"dollars_per_gpu_hour": 1.5, "max_gpus": 8}},
        {"early_terminate": {"type": "none", "max_t": 12}, "metric": {"name": "eval_accuracy", "goal": "maximize"}},
        {"early_terminate": {"type": "asha", "grace_period": 2, "max_t": 12, "reduction_factor": 2.5}},
        {"early_terminate": {"time_attr": "flops", "grace_period": 1e14, "max_t": 9e14}, "training": {"prefix_cache": "off"}},
        {"resources": {"dollars_per_gpu_hour": {"A100": 3, "default": 1.5}, "cache_gib": 0}},
        {"tracking": {"wandb": {"mode": "auto", "tags": ["a"]}}, "data__": {"text": ["a", "b"], "labels": [0, 1]}},
        {"ladder": [{"name": "L1", "model": "a/b", "layers": 2}, {"name": "L2", "model": "c/d", "revision": "main"}]},
    ],
)
def test_a_spec_survives_the_record(changes: dict[str, Any]) -> None:
    spec = sweep(**changes)
    assert sweep_from_dict(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_sweeps_survive_the_record(path: Path) -> None:
    spec = load_sweep(path)
    assert sweep_from_dict(spec.model_dump(mode="json")) == spec


def test_from_python(files: Path) -> None:
    from scalesweep import Sweep

    assert Sweep.from_dict(sweep_dict()).spec == sweep()
    loaded = Sweep.load(files, ["budget.run_cap=2"])
    assert loaded.spec.budget.run_cap == 2
    assert loaded.base == files.parent
    before = sweep_dict()
    Sweep.from_dict(before)
    assert before == sweep_dict()  # what was passed is as it was
    with pytest.raises(SpecError, match=r"^early_terminate\.grace_period: 13 is above max_t \(12\)\n    hint: "):
        Sweep.from_dict(sweep_dict(early_terminate__={"grace_period": 13}))
    with pytest.raises(ImportError, match="'Sweeep'"):
        from scalesweep import Sweeep  # noqa: F401


def test_a_checked_spec_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        sweep().budget.run_cap = 5  # type: ignore[misc]


# ---- a table's sweep: parameters that training does not know ---------------------------------------------------------------

FOREIGN: dict[str, Any] = {
    "name": "table",
    "search_space": {
        "parameters": {
            "optimizer": {"values": ["adam", "sgd"]},
            "momentum": {"min": -5.0, "max": 1.0e6, "when": {"optimizer": "sgd"}},
            "model_size": {"values": ["215m", "537m"]},
        }
    },
    "metric": {"name": "smooth_loss", "goal": "minimize"},
    "early_terminate": {"type": "asha", "time_attr": "tokens", "grace_period": 100, "max_t": 900},
    "budget": {"run_cap": 9},
}


def foreign(**parameters: Any) -> SweepSpec:
    space = {"parameters": {**FOREIGN["search_space"]["parameters"], **parameters}}
    return sweep_from_dict({**FOREIGN, "search_space": space}, foreign=True)


def test_a_tables_sweep_needs_no_task_no_data_and_no_ladder(files: Path) -> None:
    spec = foreign()
    assert spec.foreign
    assert [size.name for size in spec.sizes()] == ["215m", "537m"]
    assert (spec.task, spec.data.label, spec.data.splits) == (
        "sequence-classification",
        "label",
        {"train": 1, "validation": 1, "test": 1},
    )
    assert trial_config(spec, {"optimizer": "adam", "model_size": "537m"}).model_size == "537m"
    one = {**FOREIGN, "search_space": {"parameters": {"beta1": {"min": 0.5, "max": 0.999}}}}
    assert [size.name for size in sweep_from_dict(one, foreign=True).sizes()] == ["model"]
    assert sweep_from_dict({**one, "task": "causal-lm"}, foreign=True).data.label is None

    text = {key: value for key, value in yaml.safe_load(files.read_text(encoding="utf-8")).items() if key != "data"}
    files.write_text(yaml.safe_dump(text), encoding="utf-8")
    assert load_sweep(files, foreign=True).ladder == sweep().ladder  # a ladder that was given stays
    with pytest.raises(SpecError, match=r"data: is missing"):
        load_sweep(files)


def test_a_given_ladder_gets_the_sizes_it_lacks() -> None:
    data = sweep_dict()
    data["search_space"]["parameters"]["model_size"] = {"values": ["L2", "7b"]}
    assert [size.name for size in sweep_from_dict(data, foreign=True).sizes()] == ["L1", "L2", "7b"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"momentum": {"min": 0.0}}, r"momentum\.max: is missing"),
        ({"momentum": {"values": []}}, "the list is empty"),
        ({"momentum": {"values": [0.0, math.nan]}}, r"values\[1\]: nan is not finite"),
        ({"momentum": {"min": 0.0, "max": 1.0, "when": {"optimiser": "sgd"}}}, "did you mean 'optimizer'"),
        ({"momentum": {"min": 0.0, "max": 1.0, "when": {"optimizer": "adamw"}}}, "optimizer can't be 'adamw'"),
        ({"learning_rate": {"min": -1.0, "max": 1.0}}, r"-1\.0 is outside 0"),  # what training knows is checked as ever
        ({"model_size": {"min": 1, "max": 3}}, "takes words"),
    ],
)
def test_a_tables_space_is_still_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        foreign(**parameters)


def test_one_error_does_not_hide_that_a_sweep_is_a_tables() -> None:
    with pytest.raises(SpecError) as caught:
        sweep_from_dict({**FOREIGN, "search": {"sampler": "tpe!"}}, foreign=True)
    assert [problem.key for problem in caught.value.problems] == ["search.sampler"]


def test_without_foreign_the_same_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        sweep_from_dict({**sweep_dict(), "search_space": FOREIGN["search_space"]})
    assert [problem.key.rpartition(".")[2] for problem in caught.value.problems][:2] == ["optimizer", "momentum"]
