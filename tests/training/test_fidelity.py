"""Rungs over what a run costs: FLOPs, GPU seconds, dollars."""

from __future__ import annotations

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs import job, reports
from scalesweep.training.loop import Trainer, train
from tiny_sweeps import tiny_sweep

BASE = {"eval_interval": None, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}


def test_a_run_measured_in_flops_ends_and_reports_where_they_are_reached() -> None:
    spec = tiny_sweep()
    steps = list(reports(job({**BASE, "max_t": 10, "rungs": [4, 7]}, sweep=spec)))
    levels = [report.model_flops for report in steps]
    found = list(reports(job({**BASE, "time_attr": "flops", "max_t": levels[2], "rungs": levels[:2]}, sweep=spec)))
    assert [report.step for report in found] == [4, 7, 10]
    assert [report.fidelity for report in found] == pytest.approx(levels)
    rates = [report.metrics["learning_rate"] for report in found]
    assert rates == sorted(rates, reverse=True), "the schedule runs over the share of the budget that is spent"


@pytest.mark.parametrize(("attr", "price", "gpus"), [("gpu_seconds", None, 0.25), ("dollars", 3600.0, 1)])
def test_a_run_measured_by_the_clock_ends_when_it_is_spent(attr: str, price: float | None, gpus: float) -> None:
    """A quarter of a GPU takes four seconds for each GPU second."""
    config = {**BASE, "time_attr": attr, "max_t": 2 * gpus, "rungs": [gpus], "num_gpus": gpus}
    trainer = Trainer(job(config, sweep=tiny_sweep(), price=price))
    found = list(train(trainer))
    assert len(found) == 2
    assert gpus <= found[0].fidelity < 2 * gpus <= found[1].fidelity
    assert found[1].fidelity < 6 * gpus
    assert found[1].fidelity == trainer.clock.agreed_seconds * gpus


@pytest.mark.parametrize(("kind", "task"), [("bert", "sequence-classification"), ("gpt2", "causal-lm")])
@pytest.mark.parametrize(
    ("cache", "adapter", "error"),
    [
        ("auto", "none", 0.01),
        ("off", "none", 1e-9),
        ("auto", "lora", 0.01),
        ("off", "lora", 1e-9),
        ("off", "dora", 0.02),  # the norms of its weights have no backward pass, and are counted with one
    ],
)
def test_the_flops_of_a_run_are_those_that_torch_counts(kind: str, task: str, cache: str, adapter: str, error: float) -> None:
    """A whole gradual run with evaluations, the prefix cached or recomputed. Padding is in, what was read is not."""
    spec = tiny_sweep(kind, task)
    config = {
        "adapter": adapter,
        "lora_rank": 4,
        "unfreezing": "gradual",
        "unfreeze_interval": 2,
        "max_t": 9,
        "rungs": [],
        "eval_interval": 3,
        "prefix_cache": cache,
    }
    list(reports(job(config, sweep=spec)))  # fills the cache: what the probes compute is no part of a trial's own count
    trainer = Trainer(job(config, sweep=spec))
    # The counter does not know the CPU's fused attention; this one is made of products that it knows.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        list(train(trainer))
    assert trainer.clock.flops == pytest.approx(counter.get_total_flops(), rel=error)
