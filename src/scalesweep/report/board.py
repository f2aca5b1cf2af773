"""The leaderboard as a table, with its legend, the errors that ended trials, and the findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from scalesweep.errors import command, counted
from scalesweep.record import Record, State
from scalesweep.record.fronts import hypervolume, pareto_front
from scalesweep.record.prices import paid_in_all
from scalesweep.record.ranking import By, order_of
from scalesweep.record.table import Ranking
from scalesweep.report import words
from scalesweep.report.columns import GAP, STYLES, Filled, chosen_columns, default_columns, fitting
from scalesweep.report.findings import NO_BETTER, findings
from scalesweep.report.leaderboard import EVERY, Line, board, is_over, order_of_all, run_names
from scalesweep.report.select import ERROR, TIED, Selection, downwards, unmet
from scalesweep.scaling.comparable import same_data

TIES = "can't be told apart from the first (paired, 95 %, corrected for the number of trials)"
NAMED = 8  # columns in a sentence


def render_leaderboard(
    records: Record | Sequence[Record],
    by: By | None = None,
    width: int = 100,
    limit: int | None = None,
    selection: Selection = EVERY,
    shown: Sequence[str] = (),
    found: bool = True,
) -> RenderableType:
    """The leaderboard of one or several records, at most `width` columns wide.

    What all trials have in common is no column. Columns are left out, the least important first, rather than wrapped.

    Args:
        limit: shows the first rows only and says how many follow.
        shown: the keys of the columns to show, whatever their width.
        found: adds the findings, where nothing is selected.
    """
    several = [records] if isinstance(records, Record) else list(records)
    made = board(several, by, limit, selection, errors=False)
    trials = made.lines
    order = order_of_all(several, by) if len(several) > 1 else by or order_of(several[0])
    columns = chosen_columns(several, order, shown) if shown else default_columns(several, order)
    filled = [Filled(column, [column.cell(line) for line in trials]) for column in columns]
    kept, common, left_out = (filled, [], []) if shown else fitting(filled, width)
    ties = [index for index, line in enumerate(trials) if line.entry["tied_with_first"]]
    ranked, whole = len(several) == 1 and not selection.sort, len(several) == 1 and selection == EVERY and not shown
    hidden = {name for ranking in made.rankings for name, sure in ranking.sure.items() if sure.tied}
    hidden -= {line.trial.name for line in trials}
    below = ranked and not (hidden and ties and ties[-1] == len(trials) - 1)  # else the limit cuts the tied ones
    table = Rows(kept, trials, ties[-1] if ties and below else None)
    legend = _legend(several, order, selection, made.selected - len(trials), kept, common, left_out)
    if ties and any(one.column.key == "tied_with_first" for one in kept):
        where = "; the line is below the last" if below else "; more such trials follow" * (ranked and not selection.where)
        legend.append(f"{TIED} {TIES}{where}.")
    if order != "metric" and (further := [line for line in trials if line.over or line.trial.state.ended]):
        last = [(line.trial.name, words.later(line.trial, line.record)) for line in further]
        if beyond := [f"{name} {text}" for name, text in last if text]:
            shared = f"{several[0].metric} is that at the rung, after equal training"
            legend.append(f"{shared}. Stopped between rungs, with a later report: {words.several(beyond)}.")
    names = run_names(several) if len(several) > 1 else [""]
    parts: list[RenderableType] = [_title(record, is_over(record), name) for record, name in zip(several, names, strict=True)]
    if trials:
        parts += [table, Text("\n".join(map(words.plain, legend)), style="dim")]
    elif any(record.trials for record in several):
        parts.append(Text("No trial fulfils --where.", "dim"))
        if why := unmet(several, selection.where):
            parts.append(Text(words.plain(why), "dim"))
    for record in several:
        if is_over(record) and record.status != "ended":
            text = f"No process runs this sweep; `{command('resume', record.folder)}` continues it."
            parts.append(Text(words.plain(text), "yellow"))
        parts += [Text(words.plain(text), "red") for text in words.failures(record)]
    return Group(*parts, *(_found(several[0], by, made.rankings[0]) if found and whole else ()))


@dataclass
class Rows:
    """The rows as lines of text. Rich's own table takes seconds for thousands of rows."""

    columns: list[Filled]
    lines: list[Line]
    line_below: int | None  # number of the row that a line follows

    def __rich_console__(self, console: object, options: object) -> Iterator[Segment]:
        widths = [one.width for one in self.columns]
        line = "─" * (sum(widths) + GAP * (len(widths) - 1))
        for texts in zip(*(one.title for one in self.columns), strict=True):
            if any(texts):
                yield Segment(self._joined(texts, widths), Style(bold=True))
                yield Segment.line()
        yield Segment(line)
        yield Segment.line()
        for number, row in enumerate(self.lines):
            cells = [one.cells[number] for one in self.columns]
            whole = Style(bold=row.entry["rank"] == 1, dim=row.entry["rank"] is None)
            state = next((place for place, one in enumerate(self.columns) if one.column.key == "state"), None)
            if state is None or not STYLES[row.trial.state]:
                yield Segment(self._joined(cells, widths), whole)
            else:
                head, end = self._joined(cells[:state], widths), self._joined(cells[state + 1 :], widths[state + 1 :])
                yield Segment(head + " " * GAP * bool(head), whole)
                padded = self._padded(cells[state], widths[state], self.columns[state].column.right)
                yield Segment(padded if end else cells[state], whole + Style.parse(STYLES[row.trial.state]))
                yield Segment(" " * GAP * bool(end) + end, whole)
            yield Segment.line()
            if number == self.line_below:
                yield Segment(line)
                yield Segment.line()

    def _joined(self, texts: Sequence[str], widths: Sequence[int]) -> str:
        first = len(self.columns) - len(widths) if len(widths) < len(self.columns) else 0
        rights = [one.column.right for one in self.columns[first:]]
        cells = (self._padded(*cell) for cell in zip(texts, widths, rights, strict=False))
        return (" " * GAP).join(cells).rstrip()

    @staticmethod
    def _padded(text: str, width: int, right: bool) -> str:
        space = " " * (width - words.width(text))
        return space + text if right else text + space


def _title(record: Record, over: bool, run: str) -> Text:
    """The sweep, its trials and its cost in one line. `run` names its folder, where there are several."""
    counts = Counter(words.activity(trial, over) for trial in record.trials.values())
    ended = [words.STATES[state] for state in State if state.ended]
    states = ", ".join(f"{counts[word]} {word}" for word in (*words.ACTIVITIES, *ended) if counts[word])
    direction = "lower is better" if record.minimize else "higher is better"
    trials = counted(len(record.trials), "trial")
    parts = [f"{record.metric} ({direction})", f"{trials}: {states}" if states else "no trials yet"]
    total = paid_in_all(record)
    parts.append(f"{words.seconds(record.gpu_seconds)} GPU s" + (f", ${words.money(total)}" if total is not None else ""))
    name = str(record.manifest.name)
    head = f"{run}: {name}" if run not in ("", name) else name
    return Text.assemble((words.plain(head), "bold"), " · ", words.plain(" · ".join(parts)))


def _legend(
    records: Sequence[Record],
    order: By,
    selection: Selection,
    hidden: int,
    kept: Sequence[Filled],
    common: Sequence[Filled],
    left_out: Sequence[Filled],
) -> list[str]:
    first, found = records[0], []
    if hidden:
        found.append(f"… and {counted(hidden, 'more trial')}")
    ranked = f"Ranked {words.order(order, first)}."
    if selection.sort:
        ranked = (
            f"# is the rank {words.order(order, first)}; sorted by {selection.key}, {_direction(first, selection.sort)} first."
        )
    if any(one.column.key == "pareto" for one in kept):
        ranked += (
            f" ★ no other trial{' of its sweep' if len(records) > 1 else ''} beats it in both {first.metric} and GPU seconds."
        )
    found.append(ranked)
    if len(records) > 1:
        found += list(unlike(records))
    elif first.manifest.spec.get("early_terminate", {}).get("survival") == "pareto" and (area := hypervolume(first)):
        found.append(f"Front of {first.metric} and GPU seconds: {len(pareto_front(first))} ★, hypervolume {area:.4g}.")
    same = [f"{one.column.key} {one.cells[0]}" for one in common if one.cells and one.cells[0] not in ("", words.MISSING)]
    if same:
        found.append(f"The same in these rows: {words.several(same, NAMED)}.")
    named = [one.column.key for one in sorted(left_out, key=lambda one: one.column.importance)]
    if named:
        found.append(f"Left out at this width: {words.several(named, NAMED)}.")
    if any(one.column.title == ERROR for one in kept):
        found.append("± standard error over the validation rows.")
    if any(one.column.key == "repeats" for one in kept):
        found.append("seeds: the trainings whose mean is shown ± the standard deviation between seeds (pooled).")
    return found


def _direction(record: Record, sort: str) -> str:
    return "highest" if downwards(record, sort) else "lowest"


def unlike(records: Sequence[Record]) -> Iterator[str]:
    """The differences between sweeps that keep their values from being compared."""
    if not all(same_data(records[0], record) for record in records[1:]):
        yield "The sweeps have different data or splits: their values don't compare."
    elif len({record.manifest.get("data", {}).get("fingerprint") for record in records}) > 1:
        yield "The sweeps have different train splits. Their validation rows are the same."
    if len({(record.manifest.max_t, *record.manifest.rungs) for record in records}) > 1:
        yield "The sweeps have different rungs."


def _found(record: Record, by: By | None, ranking: Ranking) -> list[RenderableType]:
    """The findings below the table, each label once; whether the best trial beats guessing stands out."""
    found = findings(record, ranking if by in (None, order_of(record)) else None)
    if not found:
        return []
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    above = ""
    for label, text in found:
        style = "" if label != "best" else ("green" if not text.startswith(NO_BETTER) else "bold yellow")
        grid.add_row("" if label == above else label, Text(words.plain(text), style))
        above = label
    over = record.status == "ended"
    return [Text(f"\nFindings{'' if over else ' so far'}", "bold"), grid]
