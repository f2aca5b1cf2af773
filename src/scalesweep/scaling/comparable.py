"""Sweeps whose values can stand in one law: one task and metric, measured on the same validation rows in the same way.

The train split may differ in size: that is the axis of data. Test plays no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.spec.metrics import METRICS

# Keys of `data` that change what the metric measures on the same rows.
MEASURED = ("max_length", "learn", "truncate", "chat_template", "max_new_tokens")
# Keys of `data` that decide which rows there are, in the order in which a difference is named.
CHOSEN = ("path", "name", "revision", "text", "label", "labels", "format", "group", "split_seed")
MANY = 60  # letters of a value that a message shows


def check_comparable(records: Sequence[Record]) -> None:
    """Raise UserError, which names the difference, where the values of these sweeps can't stand in one law, or one is there twice."""
    first, folders = records[0], [str(record.folder) for record in records if record.folder is not None]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder} is named twice, and its trials would count twice", "name each sweep once")
    for other in records[1:]:
        for what, one, another, hint in differences(first, other):
            raise UserError(
                f"the sweeps have different {what}: {_short(one)} in {source_of(first)}, {_short(another)} in {source_of(other)}",
                hint,
            )


def remarks(records: Sequence[Record]) -> list[str]:
    """Remarks on data that may differ without being known to."""
    paths = dict.fromkeys(str(_source(record).get("path")) for record in records if _source(record))
    if len(paths) < 2 or len({record.manifest.get("data", {}).get("fingerprint") for record in records}) < 2:
        return []
    return [f"The train splits are of different files ({', '.join(map(_short, paths))}), taken as amounts of the same data."]


def source_of(record: Record) -> str:
    """The run folder, or the sweep's name where the record has none."""
    return str(record.folder) if record.folder is not None else record.manifest.name


def differences(first: Record, other: Record) -> Iterator[tuple[str, Any, Any, str]]:
    """The differences that keep the values of two sweeps from being compared: name, both values, and a remedy."""
    one_metric = "give sweeps with one metric and one goal"
    for what, value in (("metrics", lambda record: record.metric), ("goals", lambda record: record.manifest["metric"]["goal"])):
        if value(first) != value(other):
            yield what, value(first), value(other), one_metric
    one, another = (_function(record) for record in (first, other))
    if one != another:
        yield "functions that compute the metric", one, another, "give sweeps whose metric one version of the function computed"
    one, another = (record.manifest.spec.get("task") for record in (first, other))
    if one != another:
        yield "tasks", one, another, "give sweeps of one task"
    yield from _data(first, other)
    metric = METRICS.get(first.metric)
    known, others = (_tokenizers(record) for record in (first, other))
    if metric is not None and metric.per_token and one != "sequence-classification" and known and others and known != others:
        one, another = (", ".join(size.name for size in record.manifest.ladder) for record in (first, other))
        yield f"tokenizers, and {first.metric} counts per token", one, another, "run the sweeps with eval_bits_per_byte"


def same_data(first: Record, other: Record) -> bool:
    """Whether two sweeps measured their metrics on the same validation rows in the same way."""
    return next(_data(first, other), None) is None


def _tokenizers(record: Record) -> set[str]:
    return {str(found) for size in record.manifest.ladder if (found := size.json.get("tokenizer_fingerprint"))}


def _function(record: Record) -> str | None:
    """The user's function that computes the metric, with the version of its file."""
    name = record.manifest["metric"].get("function")
    scorer = _source(record).get("scorer") if record.metric == "eval_score" else None
    used = name or scorer
    digest = record.manifest.functions.get(used) if used else None
    return f"{used} (file {digest[:12]})" if used and digest else used


def _data(first: Record, other: Record) -> Iterator[tuple[str, Any, Any, str]]:
    """The differences of the data, of the validation rows above all."""
    here, there = (record.manifest.get("data", {}) for record in (first, other))
    source, another = _source(first), _source(other)
    if here.get("classes") and there.get("classes") and here["classes"] != there["classes"]:
        yield "classes", here["classes"], there["classes"], "give sweeps of the same classes"
    for key in MEASURED:
        if source and another and source.get(key) != another.get(key):
            yield f"data.{key}", source.get(key), another.get(key), "give sweeps that measure the metric in the same way"
    if _alike(here, there):
        return
    hint = "give sweeps with the same validation split; train may differ in size"
    for key in CHOSEN:
        if source.get(key) != another.get(key):
            yield f"validation splits, because data.{key} differs", source.get(key), another.get(key), hint
    for split in ("test", "validation"):  # test is drawn first
        size, size_there = ((keys.get("splits") or {}).get(split) for keys in (source, another))
        if size != size_there:
            yield f"validation splits, because data.splits.{split} differs", size, size_there, hint
    rows, rows_there = (_validation(facts).get("rows") for facts in (here, there))
    if rows != rows_there:
        yield "validation splits, with as many rows", rows, rows_there, hint
    yield "validation splits, in texts or labels, with fingerprints", _mark(here)[:12], _mark(there)[:12], hint


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sweeps have the same validation rows, as far as their records tell.

    Records of older versions have a fingerprint of all splits alone. Where that differs, the source and the counts of the validation
    split decide.
    """
    marks = _validation(one).get("fingerprint"), _validation(other).get("fingerprint")
    if None not in marks:
        return marks[0] == marks[1]
    if one.get("fingerprint") == other.get("fingerprint"):
        return True
    sources = one.get("source") or {}, other.get("source") or {}
    counts = [{key: value for key, value in _validation(fact).items() if key != "fingerprint"} for fact in (one, other)]
    return bool(counts[0]) and counts[0] == counts[1] and all(sources[0].get(key) == sources[1].get(key) for key in CHOSEN)


def _validation(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    split = (facts.get("splits") or {}).get("validation")
    return split if isinstance(split, Mapping) else {}


def _mark(facts: Mapping[str, Any]) -> str:
    return str(_validation(facts).get("fingerprint") or facts.get("fingerprint"))


def _source(record: Record) -> Mapping[str, Any]:
    source: Mapping[str, Any] = record.manifest.get("data", {}).get("source") or {}
    return source


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= MANY else f"…{text[-MANY:]}"
