"""The leaderboard as JSON, as CSV and as a table. All read the one ranking, `record.ranking.rank`."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scalesweep.errors import command, counted
from scalesweep.record import Record, Row, State, rank
from scalesweep.record.fronts import hypervolume, pareto_front
from scalesweep.record.lease import driven
from scalesweep.record.prices import paid, paid_in_all, start_price
from scalesweep.record.ranking import By, order_of
from scalesweep.record.table import columns, entries, flat
from scalesweep.record.uncertainty import Certainty, certainty
from scalesweep.report import words
from scalesweep.report.findings import NO_BETTER, findings

# As rich's SIMPLE_HEAD, with a line between sections.
LINED = box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")
ERROR = "±"
TIED = "≈ can't be told apart from the first (paired, 95 %, corrected for the number of trials); the line is below the last."

STYLES = {State.COMPLETE: "green", State.PRUNED: "", State.RUNNING: "cyan", State.FAIL: "red", State.INFEASIBLE: "red"}


def leaderboard_json(record: Record, by: By | None = None, limit: int | None = None) -> dict[str, Any]:
    """The trials, best first, as JSON can say it: what is not finite or not known is None. `limit` keeps the first ones.

    `error` is the first line of a failed trial's error, and `traceback` the file of the whole, relative to the run folder.
    `floor` holds what a trial must beat: the metrics of guessing (None in an old record) and of each size's untrained model.
    `metric` was reached at `fidelity`, and `standard_error` is its own. `difference_to_first` is the 95 % interval of the trial's
    metric less the first one's, paired over the validation rows; `tied_with_first` says whether the two can't be told apart,
    corrected for the number of trials. The three are None where the record lacks the rows' numbers. `metrics` has every metric at
    `fidelity`, and `standard_errors` those of them whose error is known. `gpu_seconds`, `wall_seconds`, `tokens`, `flops` and
    `dollars` are the trial's totals.
    """
    rows: list[dict[str, Any]] = [_finite(row) for row in entries(record, by, limit)]
    floor = _finite({"guessing": record.manifest.baseline, "untrained": record.untrained})
    return {"sweep": record.manifest.name, "metric": record.metric, "floor": floor, "trials": rows}


def leaderboard_csv(record: Record, by: By | None = None, limit: int | None = None) -> str:
    """The same rows with each sampled parameter and each metric as a column of its own; what is not known is empty."""
    trials = leaderboard_json(record, by, limit)["trials"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(record), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(flat(trial) for trial in trials)
    return text.getvalue()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class _Column:
    """A column of the table. Where the terminal is too narrow for all, the highest `importance` numbers go first."""

    title: str
    importance: int
    cell: Callable[[Row], str]
    right: bool = False


def _columns(record: Record, by: By | None, over: bool, sure: Mapping[str, Certainty]) -> list[_Column]:
    time_attr = record.manifest.time_attr

    def reached(row: Row) -> str:
        if row.fidelity is None:
            return words.MISSING
        at = words.amount(row.fidelity, time_attr)
        # By metric, the best value may come from any report, so the rung would not say where.
        return f"{words.rung(row.rung, record)} · {at}" if by != "metric" else at

    def size(row: Row) -> str:
        n_params = words.ladder_size(row.trial.config, record).get("n_params")
        name = row.trial.config.get("model_size", words.MISSING)
        return f"{name} ({words.count(n_params)})" if n_params else str(name)

    def cost(row: Row) -> str:
        return f"{row.trial.gpu_seconds:,.0f}" if row.trial.attempts else words.MISSING

    def price_paid(row: Row) -> str:
        cost = paid(record, row.trial) if row.trial.attempts else None
        return f"{cost:,.2f}" if cost is not None else words.MISSING

    def error(value: float | None) -> str:
        return "" if value is None else words.score(value)

    def expected(row: Row) -> str:
        if row.expected is None:
            return words.MISSING
        value, sd = row.expected
        return f"{words.score(value)} ± {words.score(sd)}" if sd else words.score(value)

    searched = {name for name, parameter in record.manifest.parameters.items() if parameter.get("value") is None}
    schedules = {trial.config.get("lr_scheduler_type") for trial in record.trials.values()}
    of_adapters = [
        _Column(title, 11, cell)
        for name, title, cell in (
            ("lora_target_modules", "layers", lambda row: words.layers(row.trial.config)),
            ("use_rslora", "rslora", lambda row: "yes" if words.rslora(row.trial.config) else ""),
        )
        if name in searched
    ]
    of_certainty = [
        _Column(ERROR, 6, lambda row: error(sure[row.trial.name].standard_error), right=True),
        _Column("", 1, lambda row: "≈" if sure[row.trial.name].tied else ""),
    ]
    if all(one.standard_error is None for one in sure.values()):
        of_certainty = []
    of_forecasts = [_Column("expected", 5, expected, right=True)] if record.expected is not None else []
    columns = [
        _Column("#", 0, lambda row: str(row.rank or words.MISSING), right=True),
        _Column("", 1, lambda row: "★" if row.pareto else ""),
        _Column("trial", 0, lambda row: row.trial.name),
        _Column(record.metric, 0, lambda row: words.score(row.metric), right=True),
        *of_certainty,
        *of_forecasts,
        _Column("reached", 4, reached),
        _Column("size", 3, size),
        _Column("GPUs", 10, lambda row: str(row.trial.config.get("num_gpus", words.MISSING)), right=True),
        _Column("unfreezing", 5, lambda row: words.unfreezing(row.trial.config)),
        *of_adapters,
        _Column("schedule", 11, lambda row: str(row.trial.config.get("lr_scheduler_type", words.MISSING))),
        _Column("lr", 2, lambda row: words.rate(row.trial.config), right=True),
        _Column("GPU s", 8, cost, right=True),
        _Column("state", 7, lambda row: words.activity(row.trial, over)),
        _Column("reason", 9, lambda row: row.trial.stop_reason or ""),
    ]
    if "lr_scheduler_type" not in searched and len(schedules) == 1:
        columns = [column for column in columns if column.title != "schedule"]
    if start_price(record) is not None:
        columns.insert(-2, _Column("$", 12, price_paid, right=True))
    return columns


def render_leaderboard(record: Record, by: By | None = None, width: int = 100, limit: int | None = None) -> RenderableType:
    """A rich table that fits `width` columns: columns are left out, the least important first, rather than wrapped.

    `limit` shows the first rows only and says how many follow.
    """
    rows, over = rank(record, by), _over(record)
    sure = certainty(record, rows)
    shown = rows if limit is None else rows[:limit]
    columns = _columns(record, by, over, sure)
    kept, dropped = _fitting([(column, [column.cell(row) for row in shown]) for column in columns], width)
    ties = [index for index, row in enumerate(shown) if sure[row.trial.name].tied]
    # One cell of padding and one of the box between two columns; `_fitting` counts on these two.
    table = Table(box=LINED, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, _ in kept:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for index, row in enumerate(shown):
        style = "bold" if row.rank == 1 else ("dim" if row.rank is None else "")
        cells = [Text(cells[index], STYLES[row.trial.state] if column.title == "state" else "") for column, cells in kept]
        table.add_row(*cells, style=style, end_section=bool(ties) and index == ties[-1])
    legend = Text(
        "\n".join(_legend(record, by, len(rows) - len(shown), [column.title for column, _ in kept], dropped, sure)), style="dim"
    )
    failed = [Text(line, "red") for line in words.failures(record)]
    if over and record.status != "ended":
        failed.insert(0, Text(f"No process runs this sweep; `{command('resume', record.folder)}` continues it.", "yellow"))
    return Group(_title(record, over), table, legend, *failed, *_found(record))


def _over(record: Record) -> bool:
    """Whether nothing runs any more: the sweep has ended, or the record was read and no process writes to its folder."""
    return record.status == "ended" or (record.folder is not None and not driven(record.folder))


def _fitting(columns: list[tuple[_Column, list[str]]], width: int) -> tuple[list[tuple[_Column, list[str]]], list[str]]:
    """The columns that fit beside each other, and the titles of those left out."""
    kept, dropped = list(columns), []

    def needed() -> int:
        widths = [max(cell_len(text) for text in (column.title, *cells)) for column, cells in kept]
        return sum(widths) + 2 * (len(kept) - 1)  # what lies between two neighbours

    while needed() > width and any(column.importance for column, _ in kept):
        least = max(kept, key=lambda item: item[0].importance)
        kept.remove(least)
        dropped.append(least[0].title)
    return kept, dropped


def _title(record: Record, over: bool) -> Text:
    counts = Counter(words.activity(trial, over) for trial in record.trials.values())
    ended = [words.STATES[state] for state in State if state.ended]
    states = ", ".join(f"{counts[word]} {word}" for word in (*words.ACTIVITIES, *ended) if counts[word])
    direction = "lower is better" if record.minimize else "higher is better"
    trials = counted(len(record.trials), "trial")
    parts = [f"{record.metric} ({direction})", f"{trials}: {states}" if states else "no trials yet"]
    gpu_seconds = record.gpu_seconds
    total = paid_in_all(record)
    parts.append(f"{gpu_seconds:,.0f} GPU s" + (f", ${total:,.2f}" if total is not None else ""))
    return Text.assemble((str(record.manifest.name), "bold"), " · ", " · ".join(parts))


def _legend(
    record: Record, by: By | None, hidden_rows: int, shown: list[str], dropped: list[str], sure: Mapping[str, Certainty]
) -> list[str]:
    lines = [
        f"Ranked {words.order(by or order_of(record), record)}. ★ no other trial beats it in both {record.metric} and GPU seconds."
    ]
    if hidden_rows:
        lines.insert(0, f"… and {counted(hidden_rows, 'more trial')}")
    if record.manifest.spec.get("early_terminate", {}).get("survival") == "pareto" and (area := hypervolume(record)):
        lines.append(f"Front of {record.metric} and GPU seconds: {len(pareto_front(record))} ★, hypervolume {area:.4g}.")
    explained = ["± standard error over the validation rows."] * (ERROR in shown) + [TIED] * any(
        one.tied for one in sure.values()
    )
    if explained:
        lines.append(" ".join(explained))
    named = [title for title in reversed(dropped) if title]
    if named:
        lines.append(f"Left out at this width: {', '.join(named)}.")
    return lines


def _found(record: Record) -> list[RenderableType]:
    """The findings below the table, each label once; whether the best trial beats guessing stands out."""
    found = findings(record)
    if not found:
        return []
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    above = ""
    for label, text in found:
        style = "" if label != "best" else ("green" if not text.startswith(NO_BETTER) else "bold yellow")
        grid.add_row("" if label == above else label, Text(text, style))
        above = label
    over = record.status == "ended"
    return [Text(f"\nFindings{'' if over else ' so far'}", "bold"), grid]
