"""Every parallel strategy, on real processes: it computes what one process computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import gloo
from gloo import on_workers
from jobs import job, needs_bitsandbytes, reports
from scalesweep.models.groups import layer_groups
from scalesweep.training.job import TrialJob
from scalesweep.training.parallel import STRATEGIES, strategy
from scalesweep.training.peers import Peers
from tiny_models import WIDE, tiny_checkpoint, tiny_model
from tiny_sweeps import tiny_sweep

WORDS = torch.arange(1, 25).view(4, 6)


def one_step(peers: Peers, name: str, sharers: int) -> dict[str, Any]:
    """A clipped step of SGD on a mean over 4 examples, which the first `sharers` workers share."""
    torch.manual_seed(0)
    parallel = strategy(name, peers, torch.device("cpu"))
    whole = tiny_model("bert")
    names = [name for name, _ in whole.named_parameters()]
    model = parallel.place(lambda device: whole.to(device), layer_groups(whole))
    assert [name for name, _ in model.named_parameters()] == names
    parallel.before_thaw(model)
    model.eval()
    parameters = dict(model.named_parameters())
    parameters[names[0]].requires_grad_(False)
    if peers.rank < sharers or parallel.equal_passes:
        loss = model(input_ids=WORDS[peers.rank :: sharers]).logits[:, 0].sum().div(4)
        (loss if peers.rank < sharers else 0 * loss).backward()
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    assert not parallel.reduce(trained, ran_out=False)
    parallel.clip(trained, 0.1)
    torch.optim.SGD(trained, lr=0.5).step()
    found = {name: value.detach().clone() for name, value in parallel.gather(parameters).items()}
    parts = {name: parallel.part(value, parameters[name]) for name, value in found.items()}
    again = parallel.gather(parts)
    assert all(torch.equal(again[name], found[name]) for name in found)
    return {name: value.numpy() for name, value in found.items()}


ALL = [*STRATEGIES, "meeting"]  # the last one is that of gloo.py


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("world", "sharers"), [(2, 2), (4, 3)], ids=["2", "4, one without examples"])
def test_a_step_is_the_same_on_any_number_of_workers(name: str, world: int, sharers: int) -> None:
    alone = one_step(Peers(), "replicated", 1)
    for found in on_workers(world, one_step, name, sharers)[:1]:
        for parameter, value in alone.items():
            assert found[parameter] == pytest.approx(value, abs=1e-6), parameter


@pytest.mark.parametrize(
    ("kind", "task", "config"),
    [
        ("bert", "sequence-classification", {"dropout": 0.0}),
        ("llama", "instruction-tuning", {}),
        ("gpt2", "causal-lm", {"dropout": 0.0, "embedding_dropout": 0.0, "adapter": "lora"}),
    ],
    ids=["bert", "llama", "gpt2 with lora"],
)
def test_one_two_and_four_workers_give_the_same_losses(kind: str, task: str, config: dict[str, Any]) -> None:
    here = list(reports(gloo.uneven(kind, task=task, **config)))
    for world in (2, 4):
        for found in on_workers(world, gloo.trained, gloo.uneven(kind, world, task, **config))[:1]:
            gloo.assert_same_losses(found, here)


CONFIG = {
    "dropout": 0.0, "attention_dropout": 0.0, "learning_rate": 1e-3, "max_t": 8, "rungs": [], "eval_interval": 4,
    "global_batch_size": 19, "unfreezing": "gradual", "unfreeze_interval": 3,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_sizes")


def made(
    parallel: str = "replicated",
    weights: tuple[float, ...] | None = None,
    task: str = "sequence-classification",
    **config: Any,
) -> TrialJob:
    """60 examples in batches of 19: the last of an epoch has 3, which leaves the last of 4 workers without any. 21 are evaluated."""
    sweep = tiny_sweep("llama" if task == "instruction-tuning" else "bert", task)
    sweep["data"]["splits"]["validation"] = 21
    return job({**CONFIG, **config}, sweep=sweep, parallel=parallel, class_weights=weights)


def alone(**changes: Any) -> tuple[Any, Any]:
    """The losses of one process with memory enough, and the numbers of each row, which are rounded to float16."""
    found = gloo.trial(Peers(), made(**changes))
    return pytest.approx(found["losses"], abs=1e-6), [pytest.approx(values, rel=1e-3) for values in found["rows"]]


PACKED = {"dropout": None, "unfreezing": "full", "group_by_length": False}


@pytest.mark.parametrize(
    ("world", "size", "short", "task", "config"),
    [(2, 10, None, "instruction-tuning", PACKED), (4, 8, 2, "sequence-classification", {})],
    ids=["2, packed", "4, one short of memory"],
)
def test_where_workers_meet_in_passes_all_run_as_many_of_them(
    world: int, size: int, short: int | None, task: str, config: dict[str, Any]
) -> None:
    """Uneven shares, an empty one, a short last batch, an evaluation that one worker ends first, and one out of memory."""
    expected = alone(task=task, **config, **({"packing": "off"} if config else {}))
    found = on_workers(world, gloo.trial, made("meeting", task=task, micro_batch_size=size, **config), short, 3, 5)
    assert any(worker["packed"] for worker in found) == bool(config)
    for worker in found:
        assert (worker["losses"], worker["rows"]) == expected
        assert len(worker["passes"]) == len(found[0]["passes"])
        assert worker["sizes"] == found[0]["sizes"]
        assert worker["eval_tokens"] == found[0]["eval_tokens"]


def test_all_workers_halve_where_one_runs_out_of_memory() -> None:
    short, weights = 1, (5.0, 0.25)
    expected = alone(weights=weights)
    for worker in (found := on_workers(2, gloo.trial, made(weights=weights), short, 3)):
        assert (worker["losses"], worker["rows"]) == expected
        assert set(worker["sizes"].values()) == {2}, "10, 8, 4, 2"
        assert worker["eval_tokens"] == found[short]["eval_tokens"] < 64 * 3
    again = on_workers(2, gloo.trial, made(), short, 3)
    assert max(again[short]["passes"]) <= 3, "known to the next trial"


def trials(peers: Peers, jobs: Sequence[TrialJob]) -> list[Any]:
    return [gloo.trial(peers, one)["losses"] for one in jobs]


@needs_bitsandbytes
def test_few_bits_train_alike_on_any_number_of_workers() -> None:
    """Moments of 8 bits up to their rounding: where sums of gradients differ in their last bit, a code may be the next one."""
    task = "instruction-tuning"
    spec = tiny_sweep("llama", task, tiny_checkpoint("llama", task, **WIDE))
    config = {**CONFIG, "dropout": None}
    jobs = [job({**config, **few}, sweep=spec) for few in ({"optimizer": "adamw_8bit"}, {"adapter": "qlora"})]
    one, other = on_workers(2, trials, jobs)
    assert one == other
    for found, expected, most in zip(one, trials(Peers(), jobs), (1e-4, 1e-6), strict=True):
        assert found == pytest.approx(expected, abs=most)


def test_where_one_example_does_not_fit_on_one_worker_all_say_so() -> None:
    with pytest.raises(AssertionError) as caught:
        on_workers(2, gloo.trial, made(), 1, 0)
    assert str(caught.value).count("one example of 16 tokens does not fit in memory") == 2


def test_workers_use_the_smallest_micro_batch_of_their_nodes(tmp_path: Path) -> None:
    for case, (fits, stored, size, tried) in enumerate(
        [
            ((64, 20), (None, None), 16, [128, 64, 32, 16]),
            ((64, 20), (64, 8), 8, []),
            ((64, 20), (None, 32), 16, [32, 16]),
        ]
    ):
        (folder := tmp_path / str(case)).mkdir()
        assert on_workers(2, gloo.searched, made(), fits, stored, folder) == [(size, tried)] * 2
