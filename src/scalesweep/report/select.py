"""The choice of trials by expressions, and their order by keys: `--where`, `--sort`.

A key is a field of an entry, a metric, a drawn parameter or another setting of the trial. Nothing is evaluated as code.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scalesweep.errors import UserError, nearest
from scalesweep.record import Record, Trial
from scalesweep.record.table import FIELDS, Entry, entries, metric_names
from scalesweep.spec.metrics import goal_of

Item = TypeVar("Item")
NESTED = ("metrics", "standard_errors", "params", "difference_to_first")  # fields that are no single value
TOKEN = re.compile(r"""\s*(?:(<=|>=|!=|==|=|<|>)|"([^"]*)"|'([^']*)'|([^\s<>=!"']+))""")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SHAPE = (
    "an expression is KEY OP VALUE [and …]; OP is one of = != < <= > >=; quote it for the shell: "
    "--where 'lora_rank>=16 and unfreezing=gradual'"
)
ERROR, TIED, FRONT, SEEDS = "±", "≈", "★", "seeds"  # in the table
SIGNS = {"rank": "#", "standard_error": ERROR, "tied_with_first": TIED, "pareto": FRONT, "repeats": SEEDS}
COMPOSED = ("run", "reached")  # columns that are no keys
VALUES = 12  # of a key that a hint lists


class Keys:
    """The keys of the trials of one or several records, and the values behind them."""

    def __init__(self, *records: Record) -> None:
        trials = [trial for record in records for trial in record.trials.values()]
        self._drawn = dict.fromkeys(name for trial in trials for name in trial.params)
        self.metrics = list(dict.fromkeys(name for record in records for name in metric_names(record)))
        self.fields = [name for name in FIELDS if name not in NESTED]
        self._known = {*self.fields, *self.metrics, *self._drawn, *(name for trial in trials for name in trial.config)}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def check(self, key: str, option: str) -> None:
        """Raises UserError, with the nearest spelling, for a key that no trial has."""
        if key not in self:
            near = next((name for name, sign in SIGNS.items() if sign == key), nearest(key, self._known))
            fields = [f"{name} ({SIGNS[name]})" if name in SIGNS else name for name in self.fields]
            rest = [name for name in self._known if name not in {*self.fields, *self.metrics, *self._drawn}]
            kinds = {
                "fields": fields,
                "metrics": self.metrics,
                "searched settings": self._drawn,
                "other settings": sorted(rest),
            }
            lines = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
            lines += [f"columns of the table alone: {', '.join(COMPOSED)}"] * (option == "--columns")
            raise UserError(
                f"{option}: no trial has {key!r}", "\n      ".join([f"did you mean {near!r}?"] * bool(near) + lines)
            )

    def getter(self, key: str) -> Callable[[Entry, Trial], Any]:
        """The function that returns the value of a known key; None where a trial has none, as a parameter that doesn't exist in it."""
        if key in FIELDS:
            return lambda entry, trial: entry[key]  # noqa: ARG005
        if key in self._drawn:
            return lambda entry, trial: entry["params"].get(key)  # noqa: ARG005
        if key in self.metrics:
            return lambda entry, trial: entry["metrics"].get(key)  # noqa: ARG005
        return lambda entry, trial: trial.config.get(key)  # noqa: ARG005


@dataclass(frozen=True)
class Comparison:
    """One comparison of an expression. `text` is the value as it was written."""

    key: str
    sign: str
    text: str

    def holds(self, value: Any) -> bool:
        """Whether a value fulfils the comparison. What a trial has not is unequal to everything.

        Raises:
            UserError: the order of two texts, or of a text and a number, is asked for.
        """
        if value is None:
            return self.sign == "!="
        if isinstance(value, bool):
            value = "yes" if value else "no"
            wanted = {"true": "yes", "false": "no"}.get(self.text.lower(), self.text)
        else:
            wanted = "FAIL" if self.key == "state" and self.text.lower() == "failed" else self.text  # as the table names it
        number = _number(wanted)
        if isinstance(value, int | float) and number is not None:
            return OPERATORS[self.sign](value, number)
        if self.sign not in ("=", "==", "!="):
            what = (
                "is no number" if isinstance(value, int | float) else f"can't be compared: {self.key} has texts such as {value}"
            )
            raise UserError(f"--where: {self.key}{self.sign}{self.text}: {self.text!r} {what}", "use = or != with texts")
        return OPERATORS[self.sign](str(value).casefold(), wanted.casefold())


@dataclass(frozen=True)
class Selection:
    """The trials to show and their order. `sort` is a key, with a `-` before it for the other direction; "" for the ranking."""

    where: Sequence[Comparison] = ()
    sort: str = ""

    @property
    def key(self) -> str:
        return self.sort.removeprefix("-")

    def apply(self, record: Record, entries: list[Entry]) -> list[Entry]:
        """The entries that fulfil every comparison, in order.

        Raises:
            UserError: no trial has one of the keys.
        """
        if self.where or self.sort:
            keys = Keys(record)
            for one in self.where:
                keys.check(one.key, "--where")
                value = keys.getter(one.key)
                entries = [entry for entry in entries if one.holds(value(entry, record.trials[entry["trial"]]))]
            if self.sort:
                keys.check(self.key, "--sort")
                value = keys.getter(self.key)
                values = [value(entry, record.trials[entry["trial"]]) for entry in entries]
                entries = ordered(entries, values, downwards(record, self.sort))
        return entries


def unmet(records: Sequence[Record], where: Sequence[Comparison]) -> str:
    """The values that the trials have of each key that a `KEY=VALUE` compares with none of them; empty if there is no such key."""
    keys, found = Keys(*records), []
    told = [(entry, record.trials[entry["trial"]]) for record in records for entry in entries(record, None, errors=False)]
    for one in where:
        value = keys.getter(one.key)
        had = [had for pair in told if (had := value(*pair)) is not None]
        if one.sign in ("=", "==") and not any(map(one.holds, had)):
            numbers = [number for number in had if not _worded(number)]
            shown = sorted(
                {text if isinstance(text, str) else "no" if text is False else "yes" for text in had if _worded(text)}
            )
            shown = shown[:VALUES] + ["…"] * (len(shown) > VALUES)
            if numbers:
                shown.append(" … ".join(f"{end:.4g}" for end in dict.fromkeys((min(numbers), max(numbers)))))
            values = f"its values are {', '.join(shown)}" if shown else "no trial has a value of it"
            found.append(f"No trial has {one.key}{one.sign}{one.text}: {values}.")
    return " ".join(found)


def _worded(value: object) -> bool:
    """Whether a value is a word, or yes or no."""
    return isinstance(value, str | bool)


def parsed(text: str) -> list[Comparison]:
    """The comparisons of an expression, joined by `and`.

    Raises:
        UserError: the text is no such expression.
    """
    tokens, place = list[tuple[str, str]](), 0
    while text[place:].strip():
        found = TOKEN.match(text, place)
        if found is None:
            raise UserError(f"--where: can't read {text[place:].strip()!r}", SHAPE)
        place = found.end()
        sign, word = found[1], next((part for part in found.groups()[1:] if part is not None), "")
        tokens.append(("sign", sign) if sign else ("and" if found[4] and word.lower() == "and" else "word", word))
    comparisons = []
    for start in range(0, len(tokens) + 1, 4):
        part = tokens[start : start + 3]
        if [kind for kind, _ in part] != ["word", "sign", "word"] or tokens[start + 3 : start + 4] not in (
            [],
            [("and", "and")],
        ):
            raise UserError(f"--where: can't read {text!r}", SHAPE)
        comparisons.append(Comparison(part[0][1], part[1][1], part[2][1]))
    return comparisons


def downwards(record: Record, sort: str) -> bool:
    """Whether a key orders from high to low: metrics where higher is better, and what has a `-` before it the other way round."""
    key = sort.removeprefix("-")
    primary = key in (record.metric, "metric", "expected")
    higher = not record.minimize if primary else goal_of(key) == "maximize"
    return higher != sort.startswith("-")


def ordered(items: Sequence[Item], values: Sequence[Any], down: bool) -> list[Item]:
    """The items by their values: numbers before texts, both in one direction, and what has none last. Equal ones stay as they are."""
    pairs = list(zip(values, items, strict=True))
    numbers = [pair for pair in pairs if isinstance(pair[0], int | float) and not _missing(pair[0])]
    texts = [pair for pair in pairs if isinstance(pair[0], str)]
    parts = (
        sorted(numbers, key=lambda pair: float(pair[0]), reverse=down),
        sorted(texts, key=lambda pair: pair[0].casefold(), reverse=down),
        [pair for pair in pairs if _missing(pair[0])],
    )
    return [item for part in parts for _, item in part]


def _missing(value: Any) -> bool:
    return not isinstance(value, int | float | str) or (isinstance(value, float) and math.isnan(value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
