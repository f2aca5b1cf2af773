"""The tables and charts of the sweep's run: leaderboard, survival by rung, importance of parameters, Pareto front; and the record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scalesweep.record import Record
from scalesweep.record.table import Entry, columns, flat
from scalesweep.report.axes import effects
from scalesweep.report.law import Law, place_of
from scalesweep.report.wandb import plain
from scalesweep.report.wandb.ids import run_id

# Fields of events and of the manifest that name hosts, people or files of a machine.
LEFT_OUT = {"by", "workers", "traceback", "reported_at", "first_step_at", "functions", "function", "git", "data_key"}


@dataclass(frozen=True)
class Board:
    """A table. `runs` has the id of the W&B run of each row, if each row is one; it becomes a link.

    `chart` names its kind (bar or scatter) and the two columns that it draws.
    """

    columns: list[str]
    rows: list[list[Any]]
    runs: list[str] | None = None
    chart: tuple[str, str, str] | None = None


def boards(record: Record, entries: list[Entry]) -> dict[str, Board]:
    """All tables that the record supports, by their keys in the run."""
    found = {"leaderboard": leaderboard(record, entries), "rungs": rungs(record), "pareto_front": front(record, entries)}
    return {name: board for name, board in {**found, "importance": importance(record)}.items() if board.rows}


def leaderboard(record: Record, entries: list[Entry]) -> Board:
    """The leaderboard as `leaderboard --csv` has it."""
    names = [name for name in columns(record) if name != "traceback"]  # a file of the run folder
    rows = [flat(entry) for entry in entries]
    ids = [run_id(record, entry["trial"]) for entry in entries]
    return Board(names, [[plain.value(row.get(name)) for name in names] for row in rows], ids)


def rungs(record: Record) -> Board:
    """The trials that were judged at each rung, and the best value there."""
    best = min if record.minimize else max
    rows = []
    reached = {trial.name: trial.rung for trial in record.trials.values()}
    judged = [
        (rung, report.metrics[record.metric])
        for trial in record.trials.values()
        for report in trial.reports
        for rung in report.rungs
    ]
    for rung in range(1, max(reached.values(), default=0) + 1):
        trials = sum(highest >= rung for highest in reached.values())
        level = record.manifest.rungs[rung - 1] if rung <= len(record.manifest.rungs) else record.manifest.max_t
        values = [value for at, value in judged if at == rung and value == value]
        rows.append([f"rung {rung}", level, trials, plain.value(best(values, default=None))])
    return Board(["rung", record.manifest.time_attr, "trials", f"best {record.metric}"], rows, chart=("bar", "rung", "trials"))


def front(record: Record, entries: list[Entry]) -> Board:
    """The trials that no other one beats in both metric and cost, the cheapest first."""
    names = ["trial", "metric", "standard_error", "gpu_seconds", "dollars", "rank"]
    best = sorted((entry for entry in entries if entry["pareto"]), key=lambda entry: entry["gpu_seconds"])
    rows = [[plain.value(entry[name]) for name in names] for entry in best]
    ids = [run_id(record, entry["trial"]) for entry in best]
    return Board(names, rows, ids, ("scatter", "gpu_seconds", "metric"))


def importance(record: Record) -> Board:
    """The difference in the metric that each parameter makes; no rows where the trials are too few to tell."""
    names = ["parameter", "difference", "low", "high", "better", "worse", "trials", "matters"]
    rows = [
        [
            effect.axis,
            effect.difference,
            effect.low,
            effect.high,
            str(effect.better),
            str(effect.worse),
            effect.trials,
            effect.matters,
        ]
        for effect in effects(record)
    ]
    return Board(names, [plain.value(row) for row in rows], chart=("bar", "parameter", "difference"))


def law_boards(law: Law) -> dict[str, Board]:
    """The fitted scaling law and its predictions as a table; no table where nothing was fitted."""
    if law.analysis is None:
        return {}
    chosen, names = law.analysis.chosen, ["what", "value", "low", "high"]
    rows: list[list[Any]] = [[name, *(vars(value).values())] for name, value in chosen.parameters.items()]
    rows += [[f"predicted: {place_of(law.analysis, one)}", *(vars(one.run).values())] for one in law.analysis.predictions]
    return {"scaling_law": Board(names, [[plain.value(told) for told in row] for row in rows])}


def law_summary(law: Law) -> dict[str, Any]:
    """The law in the sweep's summary: its name and parameters, or why there is none."""
    if law.analysis is None:
        return {"scaling/law": None, "scaling/refused": plain.line(" ".join(law.said))}
    chosen = law.analysis.chosen
    ends = {f"scaling/{name}": value.value for name, value in chosen.parameters.items()}
    return {"scaling/law": f"{chosen.name}: {chosen.fit.law.formula}", **ends, "scaling/points": len(law.analysis.points.cells)}


def files(record: Record, events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The sweep file, the search space and the record as texts by file name, without hosts and paths of a machine."""
    spec = {key: told for key, told in record.manifest.spec.items() if key not in ("search_space", "space_file")}
    lines = [json.dumps(_published(event), ensure_ascii=False) + "\n" for event in events]
    return {
        "sweep.json": json.dumps(_published(spec), indent=2, ensure_ascii=False) + "\n",
        "search_space.json": json.dumps(_published({"parameters": record.manifest.parameters}), indent=2, ensure_ascii=False)
        + "\n",
        "record.jsonl": "".join(lines),
    }


def _published(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {plain.value(key): _published(told) for key, told in given.items() if key not in LEFT_OUT}
    if isinstance(given, list | tuple):
        return [_published(told) for told in given]
    return plain.value(given)
