"""A record as the plain values that the page shows.

The fields of the trials are those of `leaderboard --json`, digit for digit. They are written as rows without names, because a page
of 5,000 trials has to stay small. Curves are drawn and not read, so they have six digits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scalesweep.costs import dollars
from scalesweep.errors import command, first_line, shell
from scalesweep.record import Record, State, Trial
from scalesweep.record.curves import levels, values_at
from scalesweep.record.flips import order_flips
from scalesweep.record.prices import paid_in_all, start_price
from scalesweep.record.ranking import order_of
from scalesweep.record.throughput import throughput
from scalesweep.report import words
from scalesweep.report.axes import searched
from scalesweep.report.findings import worth_promoting
from scalesweep.report.leaderboard import is_over, leaderboard_json
from scalesweep.report.sentences import paragraph

ERRORS_IN_FULL = 50  # different errors; of further ones, the first line is kept
ERROR_LENGTH = 4000  # characters

UNUSABLE = (State.FAIL, State.INFEASIBLE)
_ABSENT = object()

Row = dict[str, Any]


def page_data(record: Record) -> dict[str, Any]:
    """Everything that the page shows of one sweep, as JSON can say it.

    `trials` has `fields` and a row of values for each trial, in the order of the ranking. A field that is a mapping has its keys in
    `keys`, and in each row the values in that order; None stands for a key that the trial lacks.
    """
    board = leaderboard_json(record)
    rows: list[Row] = board["trials"]
    trials = [record.trials[row["trial"]] for row in rows]
    manifest, found = record.manifest, paragraph(record)
    over = is_over(record)
    activities = [words.activity(trial, over) for trial in trials]
    return {
        "name": manifest.name,
        "run": None if record.folder is None else str(record.folder),
        "metric": record.metric,
        "goal": manifest["metric"]["goal"],
        "ranked": words.order(order_of(record), record),
        "unit": words.unit(manifest.time_attr),
        "max_t": manifest.max_t,
        "levels": levels(manifest),
        "status": record.status,
        "ended": record.ended_reason,
        "created": manifest.get("created"),
        "elapsed_seconds": record.elapsed_seconds,
        "over": over,
        "states": Counter(activities),
        "gpu_seconds": record.gpu_seconds,
        "dollars": paid_in_all(record),
        "floor": board["floor"],
        "worth_promoting": worth_promoting(record),
        "findings": [{"about": one.about, "text": one.text} for one in found],
        "facts": {one.about: one.facts for one in found},
        "axes": _axes(record),
        "trials": packed(rows),
        "configs": _configs(trials),
        "methods": [words.unfreezing(trial.config) for trial in trials],
        "activities": activities,
        "errors": _errors(trials),
        "commands": _commands(record),
        "quoted": {trial.name: shell(trial.name) for trial in trials if shell(trial.name) != trial.name},
        "curves": [_curve(trial, record.metric) for trial in trials],
        "groups": [_groups(trial) for trial in trials],
        "group_counts": {size.name: len(size.json.get("group_names", ())) for size in manifest.ladder},
        "best": _best_so_far(record),
        "orders": _orders(record, trials),
        "sizes": _sizes(record, rows),
    }


def _commands(record: Record) -> dict[str, str]:
    """The command lines that the page shows. The trials of `choose` are points of its curves, so `choose` comes next, not `promote`."""
    folder = record.folder or "RUN_DIR"
    lines = {name: command(name, folder, "--trial", "TRIAL") for name in ("promote", "run")}
    return lines | ({"choose": command("choose", folder)} if record.manifest.chooses else {})


def packed(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows of named fields as rows of values."""
    fields = list(rows[0]) if rows else []
    keys = {
        field: list(dict.fromkeys(key for row in rows for key in row[field]))
        for field in fields
        if any(isinstance(row[field], Mapping) for row in rows)
    }

    def value(field: str, told: Any) -> Any:
        return [told.get(key) for key in keys[field]] if field in keys else told

    return {"fields": fields, "keys": keys, "rows": [[value(field, row[field]) for field in fields] for row in rows]}


def _axes(record: Record) -> list[dict[str, Any]]:
    """The parameters that were drawn, in the order of the search space. `low`, `high` and `log` are those of its range; `when` names
    the parameters for which it exists."""
    ranges = {axis.name: axis for axis in searched(record)}
    told = record.manifest.parameters
    names = dict.fromkeys([*told, *(name for trial in record.by_number() for name in trial.params)])
    used = {name for trial in record.trials.values() for name in trial.params}
    found = []
    for name in names:
        axis = ranges.get(name)
        if name in used:
            ends = {"low": axis.low, "high": axis.high, "log": axis.log} if axis is not None and axis.ordered else {}
            found.append({"name": name, "when": (told.get(name) or {}).get("when") or {}, **ends})
    return found


def _configs(trials: Sequence[Trial]) -> dict[str, Any]:
    """Every setting of every trial: its parameters, else `own` (the values that are rare), else `common`."""
    common: dict[str, Any] = {}
    own: list[dict[str, Any]] = [{} for _ in trials]
    for name in dict.fromkeys(name for trial in trials for name in trial.config):
        plain = [trial.config.get(name, _ABSENT) for trial in trials]
        if plain.count(plain[0]) == len(plain) and len(set(map(type, plain))) == 1:  # True equals 1
            common[name] = plain[0]
            continue
        values = [(type(value), value) for value in plain]
        drawn = [trial.params.get(name, _ABSENT) for trial in trials]
        other = [mine for mine, param in zip(values, drawn, strict=True) if mine != (type(param), param)]
        times = Counter(map(repr, other))
        usual = next((mine for mine in other if repr(mine) == times.most_common(1)[0][0]), (type(_ABSENT), _ABSENT))
        if usual[1] is not _ABSENT:
            common[name] = usual[1]
        for mine, param, kept in zip(values, drawn, own, strict=True):
            if mine not in (usual, (type(param), param)):
                kept[name] = None if mine[1] is _ABSENT else mine[1]
    return {"common": common, "own": [kept or None for kept in own]}


def _errors(trials: Sequence[Trial]) -> dict[str, str]:
    """The errors of more than one line, by trial."""
    long = {trial.name: trial.error for trial in trials if trial.error and trial.error.strip() != first_line(trial.error)}
    kept = set(list(dict.fromkeys(long.values()))[:ERRORS_IN_FULL])
    return {name: error[:ERROR_LENGTH] for name, error in long.items() if error in kept}


def _short(value: float) -> float | None:
    """A number of a curve: six digits, and None where it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _curve(trial: Trial, metric: str) -> list[float | None]:
    """Fidelity, metric and GPU seconds of each report, one after the other."""
    return [
        value
        for report in trial.reports
        for value in (report.fidelity, _short(report.metrics.get(metric, math.nan)), _short(report.gpu_seconds))
    ]


def _groups(trial: Trial) -> list[float]:
    """The fidelity of each report at which another number of layer groups trained than before, and that number, one after the
    other."""
    found: list[float] = []
    for report in trial.reports:
        groups = report.metrics.get("trainable_groups")
        if groups is not None and (not found or groups != found[-1]):
            found += [report.fidelity, int(groups)]
    return found


def _best_so_far(record: Record) -> list[list[Any]]:
    """Each improvement of the best value at any report, in order of time: the GPU seconds and dollars that the sweep had spent, the
    value, the trial. The last row is the state now. The start of workers counts at the beginning. Repeats with other seeds cost,
    and improve nothing."""
    manifest, sign = record.manifest, 1.0 if record.minimize else -1.0
    start, trials = start_price(record), [trial for trial in record.by_number() if trial.stop_reason != "diverged"]
    told = sorted((report.order, trial, report) for trial in trials for report in trial.reports)
    prices = {size: manifest.price(size) for size in record.trial_gpu_seconds}
    priced = start is not None or any(price is not None for price in prices.values())
    spent, paid = record.boot_gpu_seconds, dollars(record.boot_gpu_seconds, start) or 0.0
    before: dict[str, float] = {}
    best, found = math.inf, list[list[Any]]()
    for _, trial, report in told:
        more = report.gpu_seconds - before.get(trial.name, 0.0)
        before[trial.name] = report.gpu_seconds
        spent += more
        paid += dollars(more, prices.get(str(trial.config.get("model_size")))) or 0.0
        value = report.metrics.get(record.metric, math.nan)
        if trial.repeat_of is None and trial.state not in UNUSABLE and sign * value < best:
            best = sign * value
            found.append([spent, paid if priced else None, value, trial.name])
    if found:
        found.append([record.gpu_seconds, paid_in_all(record), *found[-1][2:]])
    return found


def _orders(record: Record, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Each rung below the end: of the trials that reached the end, their places in the order at the rung and at the end (from 1,
    the best first), and the order flips."""
    at = levels(record.manifest)
    values = {}
    for place, trial in enumerate(trials):
        known = values_at(trial.reports, record.metric, at)
        whole = len(known) == len(at) and all(map(math.isfinite, known))
        if whole and trial.repeat_of is None and trial.state not in UNUSABLE and trial.stop_reason != "diverged":
            values[place] = known
    sign = 1.0 if record.minimize else -1.0
    places = [
        {row: n for n, row in enumerate(sorted(values, key=lambda row: sign * values[row][rung]), 1)} for rung in range(len(at))
    ]
    return [
        {**asdict(flips), "trials": [[row, places[flips.rung - 1][row], end] for row, end in places[-1].items()]}
        for flips in order_flips(record)
    ]


def _sizes(record: Record, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each size of the ladder: what its trials cost, and the place of its first trial in the ranking."""
    speeds = {(row.model_size, row.num_gpus): row.tokens_per_second for row in throughput(record)}
    found = []
    for size in record.manifest.ladder:
        mine = [trial for trial in record.by_number() if trial.config.get("model_size") == size.name]
        whole = sorted(trial.gpu_seconds for trial in mine if trial.state is State.COMPLETE)
        spent = record.trial_gpu_seconds.get(size.name, 0.0)
        first = next((n for n, row in enumerate(rows) if row["rank"] and _size_of(record, row) == size.name), None)
        found.append(
            {
                "name": size.name,
                "n_params": size.n_params,
                "trials": len(mine),
                "complete": len(whole),
                "gpu_seconds": spent,
                "dollars": dollars(spent, record.manifest.price(size.name)),
                "whole_gpu_seconds": whole[len(whole) // 2] if whole else None,
                "tokens_per_second": speeds.get((size.name, 1)),
                "first": first,
            }
        )
    return found


def _size_of(record: Record, row: Row) -> Any:
    return record.trials[row["trial"]].config.get("model_size")
