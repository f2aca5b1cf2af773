"""Every parallel strategy, on real processes: it computes what one process computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gloo import on_workers
from scalesweep.models.groups import layer_groups
from scalesweep.training.parallel import STRATEGIES, strategy
from scalesweep.training.peers import Peers
from tiny_models import tiny_model

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
    if peers.rank < sharers:
        model(input_ids=WORDS[peers.rank :: sharers]).logits[:, 0].sum().div(4).backward()
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    parallel.reduce(trained)
    parallel.clip(trained, 0.1)
    torch.optim.SGD(trained, lr=0.5).step()
    found = {name: value.detach().clone() for name, value in parallel.gather(parameters).items()}
    parts = {name: parallel.part(value, parameters[name]) for name, value in found.items()}
    again = parallel.gather(parts)
    assert all(torch.equal(again[name], found[name]) for name in found)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("world", "sharers"), [(2, 2), (4, 3)], ids=["2", "4, one without examples"])
def test_a_step_is_the_same_on_any_number_of_workers(name: str, world: int, sharers: int) -> None:
    alone = one_step(Peers(), name, 1)
    for found in on_workers(world, one_step, name, sharers)[:1]:
        for parameter, value in alone.items():
            assert found[parameter] == pytest.approx(value, abs=1e-6), parameter
