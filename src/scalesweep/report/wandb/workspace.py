"""A saved workspace at W&B for each sweep: its trials by rank, parameters beside the metric, curves over tokens and GPU hours."""

from __future__ import annotations

import unicodedata
from typing import Any

from scalesweep.record import Record
from scalesweep.report.axes import searched
from scalesweep.report.wandb import plain
from scalesweep.report.wandb.content import TOP_RUNG
from scalesweep.report.wandb.ids import group

PINNED = (
    "rank",
    "ranked_metric",
    "ranked_standard_error",
    "ranked_fidelity",
    "rung",
    "pareto",
    "gpu_seconds",
    "dollars",
    "state",
)
CURVES = {"tokens": "tokens", "gpu_hours": "GPU hours"}  # axis of a trial's curve → its name
MISSING = "W&B: a saved workspace of the sweep needs `pip install wandb-workspaces`"


def save(record: Record, entity: str, project: str) -> str:
    """Save a new workspace and return its URL.

    Raises:
        ImportError: wandb-workspaces is not installed.
        Exception: the server did not take it.
    """
    from wandb_workspaces import workspaces

    saved = workspaces.Workspace(
        entity=entity, project=project, name=_name(record), sections=_sections(record), runset_settings=_runs(record)
    ).save()
    return str(saved.url)


def _name(record: Record) -> str:
    """The group's name without symbols, which workspaces refuse."""
    return plain.line("".join(letter for letter in group(record) if unicodedata.category(letter) != "So"), plain.NAME_LENGTH)


def _runs(record: Record) -> Any:
    """The sweep's runs, sorted by rank, with the columns that say most."""
    from wandb_workspaces import expr, workspaces

    params = [f"config:params.value.{axis.name}" for axis in searched(record)]
    return workspaces.RunsetSettings(
        filters=[expr.Config("sweep_id") == record.manifest.id],  # the group's name is the user's text
        order=[expr.Ordering(expr.Summary("rank"), ascending=True)],
        pinned_columns=[*(f"summary:{name}" for name in PINNED), *params],
    )


def _sections(record: Record) -> list[Any]:
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as panels

    axes, metric = searched(record), record.metric
    columns = [
        panels.ParallelCoordinatesPlotColumn(panels.Config(f"params.{axis.name}"), display_name=axis.name, log=axis.log)
        for axis in axes
    ]
    result = panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric("ranked_metric"), display_name=metric)
    scatters = [
        panels.ScatterPlot(
            title=f"{metric} of the top rung over {axis.name}",
            x=panels.Config(f"params.{axis.name}"),
            y=panels.SummaryMetric(TOP_RUNG),
            log_x=axis.log,
        )
        for axis in axes
        if axis.ordered
    ]
    trials = [
        panels.ParallelCoordinatesPlot(title="searched parameters", columns=[*columns, result]),
        panels.ParameterImportancePlot(with_respect_to=TOP_RUNG),
        panels.ScatterPlot(
            title=f"{metric} over GPU seconds", x=panels.SummaryMetric("gpu_seconds"), y=panels.SummaryMetric("ranked_metric")
        ),
        *scatters,
    ]
    curves = [panels.LinePlot(title=f"{metric} over {name}", x=x, y=[metric]) for x, name in CURVES.items()]
    best = {"best": "gpu_hours", "best_by_dollars": "dollars"}
    progress = [panels.LinePlot(title=f"best {metric} so far", x=x, y=[y]) for y, x in best.items()]
    tables = [
        panels.WeavePanelSummaryTable(table_name=name)
        for name in ("leaderboard", "rungs", "pareto_front", "importance", "scaling_law")
    ]
    return [
        workspaces.Section(name="Trials", panels=trials, is_open=True),
        workspaces.Section(name="Curves", panels=curves, is_open=True),
        workspaces.Section(name="Sweep", panels=[*progress, *tables], is_open=True),
    ]
