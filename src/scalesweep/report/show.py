"""One trial, or the differences between several: what `show` prints. All numbers come from `record.table.entries`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scalesweep.errors import UserError, command, counted, did_you_mean
from scalesweep.record import Record, Report, Trial, best, rank
from scalesweep.record.table import Entry, entries
from scalesweep.record.uncertainty import differences
from scalesweep.report import words
from scalesweep.report.curve import drawn_curves
from scalesweep.report.leaderboard import finite, is_over

LABEL = 10  # columns of the labels
LONGEST = 10  # digits of a trial's number
GAP = 3  # between two settings of one line
ERROR_LINES = 12


@dataclass(frozen=True)
class Decision:
    """The decision on a trial at a report: at which rung (None: at none), by which value, and why."""

    rung: int | None
    fidelity: float
    value: float
    cutoff: float | None
    action: str
    reason: str | None
    text: str


def named(record: Record, names: Sequence[str]) -> list[Trial]:
    """The trials of these names, `best` for the first of the ranking.

    Raises:
        UserError: the record has no such trial.
    """
    found: dict[str, Trial] = {}
    for name in names or ["best"]:
        trial = best(record) if name == "best" else record.trials.get(name)
        if trial is None and name == "best":
            hint = f"see how each trial stands: {command('leaderboard', record.folder)}"
            raise UserError(f"no trial in {record.folder} has a usable {record.metric}", hint)
        if trial is None:
            raise UserError(f"{record.folder} has no trial {name!r}", _nearest(record, name))
        found[trial.name] = trial
    return list(found.values())


def _nearest(record: Record, name: str) -> str:
    """A hint for an unknown trial: the trial of that number, as t0007 for 7 and t7, or the nearest name."""
    number = name.lower().removeprefix("t")
    near = f"t{int(number):04d}" if number.isascii() and number.isdigit() and len(number) < LONGEST else ""
    return did_you_mean(near if near in record.trials else name, [*record.trials, "best"])


def show_json(record: Record, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trials as JSON can say it: the fields of the leaderboard, and what lies behind them."""
    chosen = _entries(record, trials)
    return {
        "sweep": record.manifest.name,
        "metric": record.metric,
        "run": None if record.folder is None else str(record.folder),
        "trials": [
            finite(
                {
                    **chosen[trial.name],
                    "config": trial.config,
                    "attempts": trial.attempts,
                    "error_text": trial.error,
                    "reports": [_report(report) for report in trial.reports],
                    "decisions": [vars(one) for one in decisions(record, trial)],
                }
            )
            for trial in trials
        ],
        "differences": [finite(_difference(record, trials[0], other)) for other in trials[1:]],
    }


def _report(report: Report) -> dict[str, Any]:
    names = ("fidelity", "step", "tokens", "flops", "gpu_seconds", "dollars", "metrics")
    return {**{name: getattr(report, name) for name in names}, "rungs": list(report.rungs)}


def _difference(record: Record, one: Trial, other: Trial) -> dict[str, Any]:
    """The settings in which a trial differs from the first, and the paired interval of each metric less the first one's."""
    names = list(dict.fromkeys([*one.config, *other.config]))
    pairs = {name: [one.config.get(name), other.config.get(name)] for name in names}
    return {
        "trials": [one.name, other.name],
        "settings": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        "metrics": {name: list(ends) for name, ends in differences(record, one, other).items()},
    }


def _entries(record: Record, trials: Sequence[Trial]) -> dict[str, Entry]:
    names = {trial.name for trial in trials}
    found = entries(record, None, select=lambda every: [entry for entry in every if entry["trial"] in names])
    return {entry["trial"]: entry for entry in found}


def decisions(record: Record, trial: Trial) -> list[Decision]:
    """The decisions on a trial: at each rung, and where it ended at none."""
    found = []
    for place, report in enumerate(trial.reports):
        at = {mark.rung: (mark.fidelity, mark.value) for mark in report.marks}
        here, continued = (report.fidelity, report.metrics[record.metric]), place + 1 < len(trial.reports)
        for rung in report.rungs[:-1]:  # the report lies beyond these, and the verdict is that of the last
            found.append(Decision(rung, *at.get(rung, here), None, "continue", None, "continued"))
        if report.rungs or report.action in ("stop", "complete"):
            last = report.rungs[-1] if report.rungs else None
            value = here if last is None else at.get(last, here)
            text = _verdict(record, report, continued, trial.state.ended)
            found.append(Decision(last, *value, report.cutoff, report.action, report.reason, text))
    return found


def _verdict(record: Record, report: Report, continued: bool, ended: bool) -> str:
    """A decision in words: what the rung required, and what followed."""
    required = ""
    if report.cutoff is not None:
        required = f"required at {'most' if record.minimize else 'least'} {words.score(report.cutoff)}, so it "
    if report.action == "continue":
        rule = record.manifest.spec.get("early_terminate", {}).get("survival")
        by = {"forecast": " by its forecast", "pareto": " by metric and cost"}.get(str(rule), ", as the first at this rung")
        return f"{required}continued" + ("" if required else by)
    if report.action == "pause":
        if continued:
            return "waited here, then continued"
        return "waited here to the end" if ended else "waits here until it is among the most promising"
    if report.action == "complete":
        return f"complete ({report.reason})"
    return f"{required}stopped" if report.reason == "rung" else f"stopped: {report.reason}"


# ---- the page -------------------------------------------------------------------------------------------------------------------


def render_trials(record: Record, trials: Sequence[Trial], width: int) -> RenderableType:
    """One trial in full, or several side by side."""
    chosen = _entries(record, trials)
    if len(trials) == 1:
        return Group(*_one(record, trials[0], chosen[trials[0].name], width))
    return Group(*_several(record, trials, chosen, width))


def _one(record: Record, trial: Trial, entry: Entry, width: int) -> list[RenderableType]:
    ranked = sum(row.rank is not None for row in rank(record))
    place = f"rank {entry['rank']} of {ranked:,}" if entry["rank"] is not None else "not ranked"
    state = words.activity(trial, is_over(record))
    reason = f" ({trial.stop_reason})" if trial.stop_reason else ""
    head = Text.assemble(
        (_plain(record.manifest.name), "bold"), " · ", (trial.name, "bold"), f" · {place} · {state}{_plain(reason)}"
    )
    parts: list[RenderableType] = [head, Text("")]
    rows = [("metrics", _metrics(record, entry)), ("cost", _cost(trial, entry))]
    rows += [("rungs", text) for text in _rungs(record, trial)]
    parts.append(_grid(rows))
    curve = drawn_curves({trial.name: _curve(record, trial)}, record, width)
    if curve:
        parts += [Text(""), Text("\n".join(curve))]
    parts += [Text("\nSettings", "bold"), *_settings(record, trial, width)]
    if trial.error:
        lines = trial.error.strip().splitlines()
        shown = [words.plain(line) for line in lines[-ERROR_LINES:]]
        more = ["…"] * (len(lines) > ERROR_LINES)
        parts += [Text("\nError", "bold red"), Text("\n".join([*more, *shown]), "red")]
    if trial.traceback:
        parts.append(Text(_plain(f"The traceback is in {_place(record, trial.traceback)}."), "red"))
    following = [Text.assemble((label.ljust(LABEL + 3), "bold"), _plain(line)) for label, line in _next(record, trial)]
    for text in following:  # a line that is broken can't be copied
        text.no_wrap, text.overflow = True, "ignore"
    return [*parts, Text("\nNext", "bold"), *following]


def _place(record: Record, name: str) -> str:
    return str(record.folder / name if record.folder is not None else Path(name))


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    above = ""
    for label, text in rows:
        grid.add_row("" if label == above else label.ljust(LABEL), Text(_plain(text)))
        above = label
    return grid


def _plain(text: object) -> str:
    return "\n".join(map(words.plain, str(text).split("\n")))


def _metrics(record: Record, entry: Entry) -> str:
    """Every metric where the trial is ranked, with its standard error and the interval to the first trial."""
    if entry["fidelity"] is None:
        return "no report yet"
    at = f"{words.rung(entry['rung'], record)} · {words.amount(entry['fidelity'], record.manifest.time_attr)}"
    shown = []
    for name, value in {record.metric: entry["metric"], **entry["metrics"]}.items():
        error = entry["standard_errors"].get(name)
        shown.append(f"{name} {words.score(value)}" + (f" ± {words.score(error)}" if error is not None else ""))
    lines = [f"{', '.join(shown)} at {at}"]
    if last := words.later(record.trials[entry["trial"]], record):
        lines.append(f"{record.metric} at its last report: {last}; it is ranked by that at the rung")
    if entry["repeats"]:
        spread = "" if entry["seed_sd"] is None else f", ± {words.score(entry['seed_sd'])} between them"
        lines.append(f"{record.metric} is the mean over {entry['repeats'] + 1} seeds{spread}")
    if entry["repeat_of"] is not None:
        lines.append(f"it trains {entry['repeat_of']} again, with another seed")
    if entry["difference_to_first"] is not None:
        low, high = (f"{end:+.4f}" for end in entry["difference_to_first"])
        told = "can't be told apart from the first" if entry["tied_with_first"] else "differs from the first"
        lines.append(f"{record.metric} less the first trial's: {low} … {high} (95 %, paired)")
        lines.append(f"{told}, corrected for the number of trials")
    if entry["expected"] is not None and entry["expected_sd"]:
        lines.append(
            f"{record.metric} expected at the end: {words.score(entry['expected'])} ± {words.score(entry['expected_sd'])}"
        )
    return "\n".join(lines)


def _cost(trial: Trial, entry: Entry) -> str:
    if not trial.attempts:
        return "none: it has not started"
    parts = [f"{words.seconds(entry['gpu_seconds'])} GPU s", f"{words.seconds(entry['wall_seconds'])} s with workers"]
    parts += [f"${words.money(entry['dollars'])}"] if entry["dollars"] is not None else []
    parts += [f"{words.count(entry[key])} {key}" for key in ("tokens", "flops") if entry[key] is not None]
    return ", ".join([*parts, counted(trial.attempts, "attempt")])


def _rungs(record: Record, trial: Trial) -> list[str]:
    found = []
    for one in decisions(record, trial):
        at = words.amount(one.fidelity, record.manifest.time_attr)
        place = f"rung {one.rung}/{record.manifest.rung_count} ({at})" if one.rung is not None else at
        found.append(f"{place}: {record.metric} {words.score(one.value)}; {one.text}")
    return found


def _curve(record: Record, trial: Trial) -> list[tuple[float, float]]:
    return [(report.fidelity, report.metrics[record.metric]) for report in trial.reports]


def _settings(record: Record, trial: Trial, width: int) -> list[RenderableType]:
    """The searched settings, marked, then all others."""
    searched = [name for name, one in record.manifest.parameters.items() if one.get("value") is None]
    searched = list(dict.fromkeys([*searched, *(name for one in record.trials.values() for name in one.params)]))
    marked = [(f"● {name}", _setting(record, trial, name)) for name in searched]
    others = [(name, _setting(record, trial, name)) for name in trial.config if name not in searched]
    return [
        _columns(marked, width, "bold"),
        Text("● searched; – does not exist in this trial. The same in all trials:", "dim"),
        _columns([pair for pair in others if pair[1] != ""], width, "dim"),
    ]


def _columns(pairs: Sequence[tuple[str, str]], width: int, style: str) -> Text:
    """Names and values in as many columns as fit, from top to bottom."""
    cells = [(_plain(name), words.short(value, 2 * words.WIDEST)) for name, value in pairs]
    wide = max((words.width(name) for name, _ in cells), default=0) + 1
    whole = wide + max((words.width(value) for _, value in cells), default=0)
    across = max((width + GAP) // (whole + GAP), 1)
    down = -(-len(cells) // across)
    found = Text()
    for row in range(down):
        line = Text()
        for name, value in cells[row::down]:
            line.append(
                " "
                * ((whole + GAP) * (len(line.plain) // (whole + GAP) + bool(len(line.plain) % (whole + GAP))) - len(line.plain))
            )
            line.append(name.ljust(wide), "dim" if style == "dim" else "")
            line.append(value, style)
        found.append(line).append("\n" if row < down - 1 else "")
    return found


def _setting(record: Record, trial: Trial, name: str) -> str:
    """A setting's value in short; – for a parameter that does not exist in the trial."""
    drawn = any(name in one.params for one in record.trials.values())
    value = trial.params.get(name) if drawn else trial.config.get(name)
    if value is None:
        return words.MISSING if drawn else ""
    if name == "model_size" and (n_params := words.ladder_size(trial.config, record).get("n_params")):
        return f"{value} ({words.count(n_params)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return words.value(value) if isinstance(value, int | float) else str(value)


def _next(record: Record, trial: Trial) -> list[tuple[str, str]]:
    folder = record.folder if record.folder is not None else "RUN_DIR"
    rows = []
    if trial.finite(record.metric):
        rows.append(("promote it", command("promote", folder, "--trial", trial.name)))
    rows.append(("run it here", command("run", folder, "--trial", trial.name)))
    return rows


def _several(record: Record, trials: Sequence[Trial], chosen: Mapping[str, Entry], width: int) -> list[RenderableType]:
    """The settings in which trials differ, their metrics, costs and curves, and how they compare with the first one."""
    over, found = is_over(record), [chosen[trial.name] for trial in trials]
    names = list(dict.fromkeys(name for trial in trials for name in trial.config))
    unlike = [name for name in names if len({str(trial.config.get(name)) for trial in trials}) > 1]
    rows: list[tuple[str, list[str], str]] = [
        ("rank", [str(entry["rank"] or words.MISSING) for entry in found], ""),
        ("state", [words.activity(trial, over) for trial in trials], ""),
        ("stop_reason", [trial.stop_reason or "" for trial in trials], ""),
        ("rung", [str(entry["rung"] or words.MISSING) for entry in found], ""),
        (record.manifest.time_attr, [_number(entry["fidelity"], words.level) for entry in found], ""),
    ]
    intervals = [differences(record, trials[0], other).get(record.metric) for other in trials[1:]]
    for name in dict.fromkeys([record.metric, *(name for entry in found for name in entry["metrics"])]):
        rows.append((name, [_value(entry, name) for entry in found], "bold" if name == record.metric else ""))
        if name == record.metric and any(intervals):
            rows.append((f"less {trials[0].name}'s", ["", *map(_interval, intervals)], ""))
    rows.append(("gpu_seconds", [_number(entry["gpu_seconds"], words.seconds) for entry in found], ""))
    rows.append(("dollars", [_number(entry["dollars"], words.money) for entry in found], ""))
    rows += [(name, [_setting(record, trial, name) for trial in trials], "cyan") for name in unlike]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for _ in trials:
        table.add_column(justify="right", overflow="fold")
    table.add_row("", *(Text(trial.name, "bold") for trial in trials))
    for label, texts, style in rows:
        if any(texts):
            table.add_row(Text(_plain(label), style), *(Text(words.short(text, 2 * words.WIDEST), style) for text in texts))
    same = f"{counted(len(names) - len(unlike), 'setting')} are the same."
    if any(intervals):
        same += f" less {trials[0].name}'s: the 95 % interval of the difference in {record.metric}, paired over the validation rows."
    curves = drawn_curves({trial.name: _curve(record, trial) for trial in trials}, record, width)
    drawn = [Text(""), Text("\n".join(curves))] if curves else []
    return [Text(_plain(record.manifest.name), "bold"), table, Text(same, "dim"), *drawn]


def _number(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None else show(value)


def _value(entry: Entry, name: str) -> str:
    value, error = entry["metrics"].get(name), entry["standard_errors"].get(name)
    if value is None:
        return ""
    return words.score(value) + (f" ± {words.score(error)}" if error is not None else "")


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:+.4f} … {ends[1]:+.4f}"
