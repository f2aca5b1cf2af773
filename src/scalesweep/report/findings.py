"""Findings of a sweep in words: how good the best trial is, which settings did well, what early stopping saved.

Each finding is a label and a sentence. All of them read the record and the one ranking.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from scalesweep.errors import counted
from scalesweep.record import Record, Row, State, rank
from scalesweep.record.curves import value_at
from scalesweep.record.flips import order_flips, rung_correlations
from scalesweep.record.ranking import order_of
from scalesweep.record.seeds import seeds
from scalesweep.record.table import Ranking
from scalesweep.record.throughput import throughput
from scalesweep.record.uncertainty import Certainty
from scalesweep.report import words
from scalesweep.spec.configurations import OF_ADAPTERS

PAIRS_NEEDED = 10  # pairs of trials; fewer say nothing about a rung
BEST_SHARE = 4  # one in four ranked trials counts as good
GOOD_NEEDED = 3  # trials; fewer don't make a range
TIES_NAMED = 6  # trials that can't be told apart from the first
LEVELS_SHOWN = 6  # values of one setting; more don't fit a line
COMPARED = {
    "model_size": "size",
    "unfreezing": "unfreezing",
    "adapter": "adapter",
    "lora_rank": "rank",
    "lora_target_modules": "layers",
    "use_rslora": "rslora",
    "lr_scheduler_type": "schedule",
}

NO_BETTER = "No trial beats"

Line = tuple[str, str]


def findings(record: Record, ranking: Ranking | None = None) -> list[Line]:
    """(label, sentence) of everything that the record supports, the most important first; empty before the first report.

    `ranking` is that of the record in its own order, where it is known already.
    """
    ranking = ranking or Ranking.of(record)
    rows = [row for row in ranking.rows if row.rank is not None]
    if not rows:
        return []
    found = [("best", _best(record, rows[0]))]
    found += [("ties", text) for text in _ties(rows, ranking.sure, record)]
    found += [("seeds", text) for text in _seeds(record, rows)]
    by_rung = rows if order_of(record) == "rung" else [row for row in rank(record, "rung") if row.rank is not None]
    found += [(label, text) for name, label in COMPARED.items() if (text := _levels(record, by_rung, name))]
    found += [("rate", text) for text in _rates(rows)]
    found += [("stopping", text) for text in _saved(record)]
    found += [("rungs", text) for text in _by_chance(record)]
    found += [("rungs", text) for text in _reliability(record)]
    found += [("speed", text) for text in _speed(record)]
    return found


def beats_guessing(record: Record, value: float) -> bool | None:
    """Whether a value of the sweep's metric is better than guessing; None where the record has no baseline of it."""
    baseline = record.manifest.baseline
    if baseline is None or record.metric not in baseline["metrics"]:
        return None
    guess = baseline["metrics"][record.metric]
    return bool(value < guess if record.minimize else value > guess)


def floor(record: Record) -> tuple[str, float] | None:
    """The size whose untrained model is best in the sweep's metric, and its value; None where the record has none."""
    values = [(metrics[record.metric], size) for size, metrics in record.untrained.items()]
    finite = [(value, size) for value, size in values if math.isfinite(value)]
    value, size = (min if record.minimize else max)(finite, default=(math.nan, ""))
    return (size, value) if size else None


def worth_promoting(record: Record) -> bool:
    """Whether the best trial beats guessing and the untrained model, as far as the record knows them."""
    row = rank(record)[0] if record.trials else None
    if row is None or row.rank is None or row.metric is None:
        return False
    untrained = floor(record)
    learnt = untrained is None or (row.metric < untrained[1] if record.minimize else row.metric > untrained[1])
    return learnt and beats_guessing(record, row.metric) is not False


def unusable(record: Record) -> tuple[str, str]:
    """Why no trial of an ended sweep is usable, and what to do."""
    reported = [trial for trial in record.trials.values() if trial.reports]
    metric, ended = record.metric, f"the sweep ended ({record.ended_reason})"
    broken = [size for size, metrics in record.untrained.items() if not math.isfinite(metrics[metric])]
    if broken:
        hint = "set training.mixed_precision to no; if it stays so, the checkpoint can't be used"
        return f"{ended}; the untrained model of {', '.join(broken)} has no finite {metric}, so no training can", hint
    if reported and all(trial.stop_reason == "diverged" for trial in reported):
        at_once = all(not trial.finite(metric) for trial in reported)
        rates = [trial.config["learning_rate"] for trial in reported if "learning_rate" in trial.config]
        lowest = f" below {min(rates):.1e}, the lowest that was tried" if rates else ""
        when = "at its first report" if at_once else "after a while"
        return (
            f"{ended}; every trial diverged {when}: its {metric} was not a finite number",
            f"a larger budget does not help: lower learning_rate{lowest}, or set training.mixed_precision to no",
        )
    hint = "\n".join(words.failures(record)) or "increase the budget, or lower grace_period"
    return f"{ended}, and no trial has a usable {metric}", hint


def _best(record: Record, row: Row) -> str:
    assert row.metric is not None  # ranked rows have one
    text = (
        f"{row.trial.name}, {words.brief(row.trial)}: {record.metric} {words.score(row.metric)}{words.not_ended(row, record)}"
    )
    if last := words.later(row.trial, record):
        text += f" ({last})"
    untrained = floor(record)
    if untrained is not None and (row.metric >= untrained[1] if record.minimize else row.metric <= untrained[1]):
        text = f"the best {record.metric} is {words.score(row.metric)} ({row.trial.name})"
        return f"{NO_BETTER} the untrained model: {text}; {untrained[0]} reaches {words.score(untrained[1])} without training"
    baseline = record.manifest.baseline
    if baseline is None or record.metric not in baseline["metrics"]:
        return text
    guess = baseline["metrics"][record.metric]
    if not beats_guessing(record, row.metric):
        text = f"the best {record.metric} is {words.score(row.metric)} ({row.trial.name})"
        return f"{NO_BETTER} guessing: {text}; guessing from {baseline['guess']} reaches {words.score(guess)}"
    gap = abs(row.metric - guess)
    share = f" ({gap / abs(guess):.1%})" if guess and record.minimize else ""  # of a share of hits, it would be misread
    text += f", {words.score(gap)}{share} {'below' if record.minimize else 'above'} guessing ({words.score(guess)})"
    if untrained is not None and beats_guessing(record, untrained[1]):  # then it is the stricter floor
        text += f"; untrained, {untrained[0]} has {words.score(untrained[1])}"
    report, also = row.trial.judged, "eval_accuracy"
    if report is not None and also in report.metrics and also in baseline["metrics"] and also != record.metric:
        text += f"; {also} {words.score(report.metrics[also])} (guessing {words.score(baseline['metrics'][also])})"
    return text


def _ties(rows: list[Row], sure: Mapping[str, Certainty], record: Record) -> Iterable[str]:
    """The trials that can't be told apart from the first. Of those that came as far, the cheapest and the smallest are named."""
    first = rows[0].trial
    ties = [row.trial for row in rows if sure[row.trial.name].tied]
    if not ties:
        if any(one.tied is False for one in sure.values()):
            yield f"every other trial can be told apart from {first.name} on the same validation rows"
        return
    names = ", ".join(trial.name for trial in ties[:TIES_NAMED]) + (", …" if len(ties) > TIES_NAMED else "")
    text = f"{counted(len(ties), 'trial')} can't be told apart from {first.name} on the same validation rows: {names}"
    as_far = [trial for trial in ties if trial.rung >= first.rung]  # one that stopped early is cheap because it stopped
    cheapest = min((first, *as_far), key=lambda trial: trial.gpu_seconds)
    if cheapest is not first:
        costs = [words.seconds(trial.gpu_seconds) for trial in (cheapest, first)]
        text += f"; the cheapest is {cheapest.name} ({costs[0]} GPU s, {first.name} {costs[1]})"
    params = {trial.name: words.ladder_size(trial.config, record).get("n_params", math.inf) for trial in (first, *as_far)}
    smallest = min((first, *as_far), key=lambda trial: params[trial.name])
    if params[smallest.name] < params[first.name]:
        sizes = [f"{trial.config['model_size']}, {words.count(params[trial.name])}" for trial in (smallest, first)]
        text += f"; the smallest is {smallest.name} ({sizes[0]}; {first.name} {sizes[1]})"
    yield text


def _seeds(record: Record, rows: list[Row]) -> Iterable[str]:
    """The noise of training, and how far it leaves the repeated configurations apart."""
    known = seeds(record)
    repeated = [row for row in rows if row.repeats]
    if not repeated:
        return
    parts = []
    for row in repeated:
        values = known.values[row.trial.name]
        finite = [value for value in values if math.isfinite(value)]
        spread = f"{words.score(min(finite))} … {words.score(max(finite))}"
        diverged = f", {len(values) - len(finite)} diverged" * (len(finite) < len(values))
        parts.append(f"{row.trial.name} {words.score(row.metric)} (mean of {len(values)}: {spread}{diverged})")
    noise = ""
    if known.sd is not None:
        degrees = f"{known.freedom} degree{'s' * (known.freedom > 1)} of freedom"
        noise = f"; the standard deviation between seeds is {words.score(known.sd)} (pooled, {degrees}), beside the error of the rows"
    yield f"trained with several seeds: {', '.join(parts)}{noise}"


def _levels(record: Record, rows: list[Row], name: str) -> str:
    """The best value of each level of a setting, among trials that were judged at the highest rung; the best first. Where these
    trials differ in size, each size is named. A setting of adapters is compared among trials that have one."""
    if name in OF_ADAPTERS:
        rows = [row for row in rows if row.trial.config.get("adapter", "none") != "none"]
    tried = {row.trial.config.get(name) for row in rows} - {None}
    if len(tried) < 2:
        return ""
    top = max(row.rung for row in rows)
    best: dict[object, Row] = {}
    for row in rows:  # best first
        best.setdefault(row.trial.config.get(name), row)
    at_top = {level: row for level, row in best.items() if row.rung == top}
    sizes = {level: row.trial.config.get("model_size") for level, row in at_top.items()}
    named = {
        level: f" ({size})" if len(set(sizes.values())) > 1 and name != "model_size" else "" for level, size in sizes.items()
    }
    shown = [f"{_level(level)} {words.score(row.metric)}{named[level]}" for level, row in at_top.items()]
    below = [_level(level) for level, row in best.items() if row.rung < top]
    where = f" at {words.rung(top, record)}" if top else ""
    text = f"{' · '.join(shown[:LEVELS_SHOWN])} (best of each{where})"
    return text + (f"; none reached {words.rung(top, record)} with {', '.join(below[:LEVELS_SHOWN])}" if below else "")


def _level(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else words.short(str(value))


def _rates(rows: list[Row]) -> Iterable[str]:
    rates = [row.trial.config["learning_rate"] for row in rows if "learning_rate" in row.trial.params]
    good = rates[: len(rates) // BEST_SHARE]
    if len(good) >= GOOD_NEEDED:
        yield (
            f"the {len(good)} best trials used {min(good):.1e} … {max(good):.1e}; "
            f"all {len(rates)} span {min(rates):.1e} … {max(rates):.1e}"
        )


def _saved(record: Record) -> Iterable[str]:
    """The GPU time that early stopping saved: what each stopped trial would have used at its own pace up to the end."""
    stopped = [trial for trial in record.trials.values() if trial.state is State.PRUNED and trial.last is not None]
    ended = sum(trial.state.ended for trial in record.trials.values())
    saved = 0.0
    for trial in stopped:
        assert trial.last is not None
        if trial.last.fidelity:
            saved += trial.gpu_seconds * (record.manifest.max_t / trial.last.fidelity - 1)
    if saved and record.gpu_seconds:
        yield (
            f"{len(stopped)} of {ended} trials ended early; in full, the sweep would have used about "
            f"{(record.gpu_seconds + saved) / record.gpu_seconds:.1f} times its GPU time"
        )


def _by_chance(record: Record) -> Iterable[str]:
    """The rungs at which no trial beat guessing."""
    manifest, metric = record.manifest, record.metric
    if manifest.baseline is None or metric not in manifest.baseline["metrics"]:
        return
    guess = words.score(manifest.baseline["metrics"][metric])
    for number, level in enumerate(manifest.rungs, 1):
        reached = [value_at(trial.reports, metric, float(level)) for trial in record.trials.values()]
        values = [value for value in reached if value is not None]
        if level < manifest.max_t and len(values) > 1 and not any(beats_guessing(record, value) for value in values):
            at = words.amount(level, manifest.time_attr)
            yield (
                f"at rung {number} ({at}) none of {len(values):,} trials beat guessing ({guess}), so it chose among them by "
                "chance; trials learn for longer before it with a larger grace_period"
            )


def _reliability(record: Record) -> Iterable[str]:
    correlations = {one.rung: one for one in rung_correlations(record)}
    for flips in order_flips(record):
        if flips.pairs >= PAIRS_NEEDED:
            at = words.amount(flips.fidelity, record.manifest.time_attr)
            kinds = (
                (flips.flipped_within, flips.pairs_within, "same-size"),
                (flips.flipped_between, flips.pairs_between, "cross-size"),
            )
            shares = [f"{flipped / pairs:.0%} of {pairs:,} {kind} pairs" for flipped, pairs, kind in kinds if pairs]
            text = f"rung {flips.rung} ({at}) ordered {' and '.join(shares)} differently from the end"
            if (one := correlations.get(flips.rung)) is not None:
                text += f"; rank correlation {one.value:.2f} (95 %: {one.low:.2f} … {one.high:.2f}, {one.trials} trials)"
            yield text


def _speed(record: Record) -> Iterable[str]:
    several = [row for row in throughput(record) if row.num_gpus > 1 and row.efficiency is not None]
    if several:
        speeds = ", ".join(
            f"{row.num_gpus} GPUs train {row.model_size} {row.efficiency * row.num_gpus:.1f} times as fast as one"
            for row in several
            if row.efficiency is not None
        )
        yield speeds
