"""Rungs over what a run costs: FLOPs, GPU seconds, dollars."""

from __future__ import annotations

import pytest

from jobs import job, reports

BASE = {"eval_interval": None, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}


def test_a_run_measured_in_flops_ends_and_reports_where_they_are_reached() -> None:
    steps = list(reports(job({**BASE, "max_t": 10, "rungs": [4, 7]})))
    levels = [report.model_flops for report in steps]
    found = list(reports(job({**BASE, "time_attr": "flops", "max_t": levels[2], "rungs": levels[:2]})))
    assert [report.step for report in found] == [4, 7, 10]
    assert [report.fidelity for report in found] == pytest.approx(levels)
    rates = [report.metrics["learning_rate"] for report in found]
    assert rates == sorted(rates, reverse=True), "the schedule runs over the share of the budget that is spent"


@pytest.mark.parametrize(("attr", "price"), [("gpu_seconds", None), ("dollars", 3600.0)])
def test_a_run_measured_by_the_clock_ends_when_it_is_spent(attr: str, price: float | None) -> None:
    found = list(reports(job({**BASE, "time_attr": attr, "max_t": 2.0, "rungs": [1.0]}, price=price)))
    assert len(found) == 2
    assert 1.0 <= found[0].fidelity < 2.0 <= found[1].fidelity
    assert found[1].fidelity < 6.0
