"""The columns of the leaderboard's table: which there are, what they show, and which of them fit beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from scalesweep.record import Record, State
from scalesweep.record.ranking import By
from scalesweep.record.table import FIELDS, metric_names
from scalesweep.report import words
from scalesweep.report.leaderboard import Line
from scalesweep.report.select import COMPOSED, ERROR, FRONT, SEEDS, TIED, Keys

STYLES = {State.COMPLETE: "green", State.PRUNED: "", State.RUNNING: "cyan", State.FAIL: "red", State.INFEASIBLE: "red"}
GAP = 2  # between two columns
LEFT = ("pareto", "trial", "tied_with_first", "reached", "run", "unfreezing", "model_size", "state")
ALWAYS = ("rank", "trial", "metric")  # also where all cells are equal
USUAL = {State.COMPLETE: "max_t", State.PRUNED: "rung"}  # reasons that go without saying


@dataclass(frozen=True)
class Column:
    """A column of the table. Those with the lowest `importance` numbers get their place first; 0 is always shown."""

    key: str
    title: str
    importance: int
    cell: Callable[[Line], str]
    right: bool = False
    always: bool = False  # also where all cells are equal


@dataclass(frozen=True, eq=False)
class Filled:
    """A column with its cells."""

    column: Column
    cells: list[str]

    @cached_property
    def title(self) -> tuple[str, str]:
        """The title in two lines. A name wider than its cells is broken at the underscore nearest to its middle."""
        name, room = self.column.title, self._widest
        breaks = [place + 1 for place, letter in enumerate(name) if letter == "_" and 0 < place < len(name) - 1]
        if len(name) <= room or not breaks:
            return "", name
        at = min(breaks, key=lambda place: max(place, len(name) - place))
        return name[:at], name[at:]

    @cached_property
    def width(self) -> int:
        return max(*map(words.width, self.title), self._widest)

    @cached_property
    def _widest(self) -> int:
        """The width of the widest cell."""
        return max(map(len if "".join(self.cells).isascii() else words.width, self.cells), default=0)


def default_columns(records: Sequence[Record], by: By) -> list[Column]:
    """The columns of a leaderboard, in order. What is the same in all its trials is left out afterwards."""
    first, several = records[0], len(records) > 1
    other_metrics = [name for name in metric_names(first) if name != first.metric and name.startswith("eval_")]
    drawn = dict.fromkeys(name for record in records for name in record.manifest.parameters)
    drawn |= dict.fromkeys(name for record in records for trial in record.trials.values() for name in trial.params)
    kinds = Kinds(records, by)
    named = [
        *([kinds.column("run", 0)] if several else []),
        kinds.column("rank", 0),
        kinds.column("pareto", 1),
        kinds.column("trial", 0),
        kinds.column("metric", 0),
        kinds.column("standard_error", 6),
        *([] if several else [kinds.column("tied_with_first", 1)]),
        kinds.column("repeats", 6),
        kinds.column("expected", 5),
        kinds.column("reached", 4),
        kinds.column("model_size", 3),
        kinds.column("unfreezing", 5),
        kinds.column("learning_rate", 2),
        kinds.column("lr_scheduler_type", 8),
        kinds.column("num_gpus", 10),
        *(kinds.column(name, 11 + place) for place, name in enumerate(other_metrics[:1])),
    ]
    shown = {column.key for column in named} | {
        "unfreeze_interval",
        "unfreeze_cadence",
        "unfreeze_fraction",
        "unfreeze_patience",
    }
    shown |= {"adapter", "lora_rank"}  # beside the unfreezing
    rest = [name for name in drawn if name not in shown]
    ending = [kinds.column("gpu_seconds", 7), kinds.column("dollars", 10), kinds.column("state", 9)]
    parameters = [kinds.column(name, 20 + place) for place, name in enumerate(rest)]
    metrics = [kinds.column(name, 100 + place) for place, name in enumerate(other_metrics[1:])]
    return [*named, *metrics, *parameters, *ending]


def chosen_columns(records: Sequence[Record], by: By, names: Sequence[str]) -> list[Column]:
    """The columns of `--columns`.

    Raises:
        UserError: no trial has one of them.
    """
    kinds = Kinds(records, by)
    for name in names:
        if name not in COMPOSED:
            kinds.keys.check(name, "--columns")
    return [kinds.column(name, 0) for name in names]


class Kinds:
    """The columns by key."""

    def __init__(self, records: Sequence[Record], by: By) -> None:
        self._records, self._by = records, by
        self.keys = Keys(*records)

    def column(self, key: str, importance: int) -> Column:
        """The column of a key, as the table shows it."""
        titles = {
            "rank": "#",
            "pareto": "",
            "metric": self._records[0].metric,
            "standard_error": ERROR,
            "repeats": SEEDS,
            "tied_with_first": "",
        }
        cells: dict[str, Callable[[Line], str]] = {
            "run": lambda line: line.run,
            "rank": lambda line: str(line.entry["rank"] or words.MISSING),
            "pareto": lambda line: FRONT if line.entry["pareto"] else "",
            "metric": lambda line: words.score(line.entry["metric"]),
            "standard_error": lambda line: _score(line.entry["standard_error"]),
            "tied_with_first": lambda line: TIED if line.entry["tied_with_first"] else "",
            "repeats": _seeds,
            "expected": _expected,
            "reached": self._reached,
            "model_size": _size,
            "unfreezing": lambda line: words.unfreezing(line.trial.config),
            "learning_rate": lambda line: words.rate(line.trial.config),
            "num_gpus": lambda line: str(line.trial.config.get("num_gpus", words.MISSING)),
            "lora_target_modules": lambda line: words.layers(line.trial.config),
            "use_rslora": lambda line: "yes" if words.rslora(line.trial.config) else "",
            "state": _state,
        }
        cell = cells.get(key) or self._shown(key)
        right = key not in LEFT and not self._is_text(key)
        return Column(key, titles.get(key, key), importance, lambda line: words.short(cell(line)), right, key in ALWAYS)

    def _is_text(self, key: str) -> bool:
        """Whether a key has texts, by the first trial that has it."""
        if key in FIELDS or key in self.keys.metrics:
            return key in ("stop_reason", "error", "traceback")
        trials = (trial for record in self._records for trial in record.trials.values())
        return isinstance(next((trial.config[key] for trial in trials if trial.config.get(key) is not None), None), str | bool)

    def _shown(self, key: str) -> Callable[[Line], str]:
        """The function that shows the value of a key."""
        get = self.keys.getter(key)
        number: Callable[[float], str] = words.value
        if key in self.keys.metrics and key not in FIELDS:
            number = words.score
        elif key in ("gpu_seconds", "wall_seconds", "dollars"):
            number = words.money if key == "dollars" else words.seconds

        def shown(line: Line) -> str:
            value = get(line.entry, line.trial)
            if isinstance(value, bool):
                return "yes" if value else "no"
            return "" if value is None else number(value) if isinstance(value, int | float) else str(value)

        return shown

    def _reached(self, line: Line) -> str:
        if line.entry["fidelity"] is None:
            return words.MISSING
        at = words.amount(line.entry["fidelity"], line.record.manifest.time_attr)
        # By metric, the best value may come from any report, so the rung would not say where.
        return f"{words.rung(line.entry['rung'], line.record)} · {at}" if self._by != "metric" else at


def _state(line: Line) -> str:
    """The state in one word, or the reason where that says more."""
    reason = line.entry["stop_reason"]
    telling = reason and (reason == "diverged" or reason != USUAL.get(line.trial.state, reason))
    return reason if telling else words.activity(line.trial, line.over)


def _size(line: Line) -> str:
    n_params, name = line.entry["n_params"], line.trial.config.get("model_size", words.MISSING)
    return f"{name} ({words.count(n_params)})" if n_params else str(name)


def _score(value: float | None) -> str:
    return "" if value is None else words.score(value)


def _seeds(line: Line) -> str:
    """The number of seeds, where there are several, and the standard deviation between them; the trial that a repeat trains again."""
    repeats, sd, first = (line.entry[key] for key in ("repeats", "seed_sd", "repeat_of"))
    if first is not None:
        return f"again {first}"
    return "" if not repeats else f"{repeats + 1}" if sd is None else f"{repeats + 1} ± {words.score(sd)}"


def _expected(line: Line) -> str:
    value, sd = line.entry["expected"], line.entry["expected_sd"]
    if value is None:
        return ""
    return f"{words.score(value)} ± {words.score(sd)}" if sd else words.score(value)


def fitting(columns: Sequence[Filled], width: int) -> tuple[list[Filled], list[Filled], list[Filled]]:
    """The columns to show, those that all trials have in common, and those for which the width does not suffice."""
    common = [one for one in columns if _says_nothing(one)]
    telling = [one for one in columns if one not in common]
    kept: list[Filled] = []
    for one in sorted(telling, key=lambda one: one.column.importance):
        if not one.column.importance or sum(other.width + GAP for other in kept) + one.width <= width:
            kept.append(one)
    return [one for one in telling if one in kept], common, [one for one in telling if one not in kept]


def _says_nothing(one: Filled) -> bool:
    """Whether all trials have the same in a column, so that it doesn't tell them apart."""
    same = len(set(one.cells)) <= 1
    return same and not one.column.always and (len(one.cells) != 1 or not one.cells[0])
