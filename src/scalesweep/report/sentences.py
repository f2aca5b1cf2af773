"""A sweep's findings as sentences with numbers, and the same facts as data: what was best, which axes mattered, which values did
well, what was never tried, how well the rungs predict, and what to try next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from scalesweep.errors import command, counted
from scalesweep.record import Record, Row, State, rank
from scalesweep.record.flips import rung_correlations
from scalesweep.record.prices import paid
from scalesweep.record.uncertainty import Certainty, certainty
from scalesweep.report import words
from scalesweep.report.axes import TRIALS_NEEDED, Axis, Effect, effects, searched
from scalesweep.report.findings import BEST_SHARE, GOOD_NEEDED, unusable, worth_promoting
from scalesweep.report.suggestions import suggestions
from scalesweep.spec.configurations import method_name
from scalesweep.spec.space import Parameter

PASSED = 2  # trials beyond the first rung; fewer did not really try a value
PARTS = ("lower", "middle", "upper")  # of a range, on its scale


@dataclass(frozen=True)
class Finding:
    """A finding: its subject in one word, its sentences, and the facts in them as plain values."""

    about: str
    text: str
    facts: Mapping[str, Any]


def paragraph(record: Record) -> list[Finding]:
    """Everything that the record supports, in the order in which to read it."""
    rows = [row for row in rank(record) if row.rank is not None]
    if not rows:
        waiting = f"none of {counted(len(record.trials), 'trial')} has a usable {record.metric} yet"
        why = unusable(record) if record.status == "ended" else [waiting if record.trials else "no trial has been proposed yet"]
        return [Finding("best", " ".join(f"{one[:1].upper()}{one[1:]}." for one in why), {"trial": None})]
    sure, axes, found = certainty(record, rows), searched(record), effects(record)
    ties = [row for row in rows[1:] if sure[row.trial.name].tied]
    leaders = [rows[0], *ties]
    untried = _untried(record, axes)
    return [
        _best(record, rows, sure, ties),
        _axes(record, rows, axes, found),
        *_values(rows, leaders, axes, found),
        *([untried] if untried.text else []),
        *_rungs(record),
        _next(record, leaders, sure, axes, found, untried.facts),
    ]


def paragraph_json(record: Record) -> dict[str, Any]:
    """The same as JSON can say it. What is not known is None."""
    found = [{"about": one.about, "text": one.text, **one.facts} for one in paragraph(record)]
    run = str(record.folder) if record.folder is not None else None
    return {"sweep": record.manifest.name, "run": run, "metric": record.metric, "goal": record.manifest["metric"]["goal"]} | {
        "trials": len(record.trials),
        "findings": found,
    }


def _best(record: Record, rows: list[Row], sure: Mapping[str, Certainty], ties: list[Row]) -> Finding:
    row, trial = rows[0], rows[0].trial
    error, cost = sure[trial.name].standard_error, paid(record, trial)
    compared = sum(one.tied is not None for one in sure.values())
    value = words.score(row.metric) + (f" ± {words.score(error)}" if error is not None else "")
    at = f" at {words.amount(row.fidelity, record.manifest.time_attr)}" if row.fidelity is not None else ""
    at = words.not_ended(row, record) or at
    last = words.later(trial, record)
    price = f" (${words.money(cost)})" if cost is not None else ""
    which = f"The best of {counted(len(rows), 'trial')}" if len(rows) > 1 else f"The only trial with a usable {record.metric}"
    parts = [
        f"{which} is {trial.name} ({words.brief(trial)}): {record.metric} {value}{at}{f'; its last report has {last}' * bool(last)}.",
        f"It took {words.seconds(trial.gpu_seconds)} of the sweep's {words.seconds(record.gpu_seconds)} GPU seconds{price}.",
    ]
    if len(rows) == 1:
        pass  # there is no other one to compare it with
    elif not compared:
        parts.append("The record has no numbers of validation rows that would show which trials differ from it.")
    elif ties:
        names = words.several([one.trial.name for one in ties])
        parts.append(f"{len(ties)} of {counted(compared, 'other trial')} can't be told apart from it: {names}.")
    else:
        parts.append(f"{counted(compared, 'other trial')} can be told apart from it.")
    if not worth_promoting(record):
        parts.append("It does not beat guessing or the untrained model.")
    facts = {
        "trial": trial.name,
        "params": trial.params,
        "metric": row.metric,
        "standard_error": error,
        "fidelity": row.fidelity,
        "gpu_seconds": trial.gpu_seconds,
        "dollars": cost,
        "tied": [one.trial.name for one in ties],
        "compared": compared,
    }
    return Finding("best", " ".join(parts), facts)


def _axes(record: Record, rows: list[Row], axes: list[Axis], found: list[Effect]) -> Finding:
    facts = {"effects": [{**asdict(effect), "matters": effect.matters} for effect in found]}
    if not axes:
        return Finding("axes", "The record has no axis that was searched and may change a result.", facts)
    if not found:
        verb = "are" if len(rows) > 1 else "is"
        few = f"{counted(len(rows), 'trial')} {verb} too few to rank the axes; about {TRIALS_NEEDED} are needed."
        same = "The axes can't be ranked: too few trials have each, or their values are all equal."
        return Finding("axes", few if len(rows) < TRIALS_NEEDED else same, facts)
    named = {axis.name: axis for axis in axes}
    mattered = [effect for effect in found if effect.matters]
    rest = [effect.axis for effect in found if not effect.matters]
    parts = []
    for place, effect in enumerate(mattered):
        better, worse = (named[effect.axis].shown(value) for value in (effect.better, effect.worse))
        finest = min(effect.low, (effect.high - effect.low) / 5)  # has a digit that isn't 0
        digits = min(max(0, -math.floor(math.log10(finest))), 6)
        size, low, high = (f"{number:.{digits}f}" for number in (effect.difference, effect.low, effect.high))
        name = effect.axis if place else f"On average over the other axes, {effect.axis}"
        text = f"{record.metric} is {size} (5–95 %: {low} … {high}) better with {better} than with {worse}"
        parts.append(f"{name} matters{' most' if not place and len(mattered) > 1 else ''}: {text}.")
    if rest:
        parts.append(f"The trials don't show that {words.several(rest, len(rest))} {'matter' if len(rest) > 1 else 'matters'}.")
    missing = [axis.name for axis in axes if axis.name not in {effect.axis for effect in found}]
    if missing:
        parts.append(f"Too few trials have different values of {words.several(missing, len(missing))} to compare them.")
    return Finding("axes", " ".join(parts), facts | {"not_judged": missing})


def _values(rows: list[Row], leaders: list[Row], axes: list[Axis], found: list[Effect]) -> Iterator[Finding]:
    """The values of the trials that can't be told apart from the first, or of the best quarter if these are fewer than three."""
    tied = len(leaders) >= GOOD_NEEDED
    good = leaders if tied else rows[: len(rows) // BEST_SHARE]
    mattered = {effect.axis for effect in found if effect.matters}
    if len(good) < GOOD_NEEDED or not mattered:
        return
    parts: list[str] = []
    facts: dict[str, Any] = {}
    for axis in axes:
        used = [value for row in good if (value := axis.of(row.trial)) is not None]
        if axis.name not in mattered or not used:
            continue
        if axis.ordered:
            ends = min(used), max(used)
            facts[axis.name] = list(ends)
            parts.append(f"{axis.name} {' … '.join(dict.fromkeys(axis.shown(end) for end in ends))}")
        else:
            counts = sorted(((used.count(value), value) for value in dict.fromkeys(used)), key=lambda one: -one[0])
            facts[axis.name] = {str(value): number for number, value in counts}
            parts.append(f"{axis.name} {words.several([f'{axis.shown(value)} ({number})' for number, value in counts])}")
    which = f"{len(good)} leading trials, which can't be told apart," if tied else f"{len(good)} best trials"
    text = f"The {which} have {'; '.join(parts)}."
    yield Finding("values", text, {"trials": [row.trial.name for row in good], "values": facts})


def _untried(record: Record, axes: list[Axis]) -> Finding:
    trials = [trial for trial in record.by_number() if trial.reports]
    listed: dict[str, dict[str, list[int]]] = {}
    ranges: dict[str, list[list[float]]] = {}
    parts = []
    for axis in axes:
        told = [(value, trial.rung) for trial in trials if (value := axis.of(trial)) is not None]
        if axis.listed is None:
            places = [axis.place(value) for value, _ in told]
            free = [part for part in range(3) if not any(part <= 3 * place <= part + 1 for place in places)]
            if free and told:
                ranges[axis.name] = [[axis.value(part / 3), axis.value((part + 1) / 3)] for part in free]
                ends = [" … ".join(axis.shown(end) for end in part) for part in ranges[axis.name]]
                named = " and ".join(PARTS[part] for part in free)
                parts.append(f"No trial has {axis.name} in the {named} third of its range ({', '.join(ends)}).")
        elif record.manifest.rung_count > 1:
            counts = {value: [rung for one, rung in told if one == value] for value in axis.listed}
            passed = {value: sum(rung > 1 for rung in some) for value, some in counts.items()}
            if least := {axis.shown(value): [some, len(counts[value])] for value, some in passed.items() if some < PASSED}:
                listed[axis.name] = least
    if listed:
        shown = []
        for name, some in listed.items():
            few = [f"{value} ({f'{beyond} of {tried}' if tried else 'no trial'})" for value, (beyond, tried) in some.items()]
            shown.append(f"{name} {words.several(few)}")
        parts.insert(0, f"Fewer than {PASSED} trials passed rung 1 with {'; '.join(shown)}.")
    pairs, possible = _combinations(record)
    if pairs:
        text = words.several([f"{size} with {method}" for size, method in pairs])
        were = "were" if len(pairs) > 1 else "was"
        parts.append(f"{len(pairs)} of {possible} combinations of size and method {were} never tried: {text}.")
    lost = {trial.name: words.state(trial) for trial in record.by_number() if trial.state in (State.FAIL, State.INFEASIBLE)}
    lost |= {trial.name: "diverged" for trial in record.by_number() if trial.stop_reason == "diverged"}
    if lost:
        named = words.several([f"{name} ({why})" for name, why in lost.items()])
        parts.append(f"{counted(len(lost), 'trial')} could not run to an end: {named}.")
    facts = {"passed_rung_1_of_tried": listed, "ranges": ranges, "combinations": pairs, "could_not_run": lost}
    return Finding("untried", " ".join(parts), facts)


def _combinations(record: Record) -> tuple[list[tuple[str, str]], int]:
    """The pairs of size and method that the space has and no trial trained, and the number of all that can run."""
    names = ("model_size", "unfreezing", "adapter")
    told = {name: Parameter.model_validate(raw) for name, raw in record.manifest.parameters.items() if name in names}
    ladder = [size.name for size in record.manifest.ladder]
    default: dict[str, Any] = {"model_size": ladder[0] if ladder else None, "unfreezing": "full", "adapter": "none"}
    possible: dict[tuple[str, str], None] = {}
    for drawn in product(*(told[name].choices() or [] for name in names if name in told)):
        params = dict(zip((name for name in names if name in told), drawn, strict=True))
        known = {name: value for name, value in params.items() if told[name].holds(params)}
        size, mode, adapter = ({**default, **known}[name] for name in names)
        possible[str(size), method_name(str(mode), str(adapter))] = None
    hopeless = {(row[0], row[1]) for row in record.manifest.hopeless if len(row) == 2}
    able = [pair for pair in possible if pair not in hopeless]
    tried = {
        (str(trial.config.get("model_size")), method_name(*(str(trial.config.get(name, default[name])) for name in names[1:])))
        for trial in record.trials.values()
        if trial.reports
    }
    several = len({size for size, _ in able}) > 1 and len({method for _, method in able}) > 1
    return [pair for pair in able if pair not in tried] if several else [], len(able)


def _rungs(record: Record) -> Iterator[Finding]:
    found = rung_correlations(record)
    if found:
        parts = [
            f"{one.value:.2f} (95 %: {one.low:.2f} … {one.high:.2f}) at rung {one.rung} "
            f"({words.amount(one.fidelity, record.manifest.time_attr)})"
            for one in found
        ]
        text = (
            f"The rank correlation with the end is, among the {found[0].trials:,} trials that reached it, {', '.join(parts)}."
        )
        yield Finding("rungs", text, {"correlations": [asdict(one) for one in found]})


def _next(
    record: Record,
    leaders: list[Row],
    sure: Mapping[str, Certainty],
    axes: list[Axis],
    found: list[Effect],
    untried: Mapping[str, Any],
) -> Finding:
    if record.manifest.chooses:
        line = command("choose", record.folder or "RUN_DIR")
        return Finding(
            "next", f"The trials are points of learning curves; `{line}` ranks the checkpoints.", {"suggestions": []}
        )
    error = sure[leaders[0].trial.name].standard_error
    tried = suggestions(record, [row.trial for row in leaders], error, axes, found, untried)
    rest = f"Nothing in the record asks for another sweep: promote {leaders[0].trial.name}."
    return Finding("next", " ".join(tried) or rest, {"suggestions": tried})
