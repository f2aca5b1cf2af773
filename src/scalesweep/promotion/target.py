"""Target files: a final run of another size, length or settings than its trial, as `plan --from` writes them. A plain YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from scalesweep.errors import OutsideError, Problem, SpecError, UserError, did_you_mean
from scalesweep.record import Manifest, Record, Trial
from scalesweep.record.final_length import FinalLength
from scalesweep.spec import PARAMETERS, LadderSize
from scalesweep.spec.effects import lacks
from scalesweep.spec.loading import Document, KeyPath, read_yaml
from scalesweep.spec.tasks import TASKS

KEYS = {
    "sweep": "name of the sweep that the trial is from",
    "trial": "trial whose settings hold where `settings` has no other",
    "model_size": "name of the size",
    "model": "checkpoint of a size that is not in the sweep's ladder",
    "tokens": "length of the run in tokens",
    "num_gpus": "workers",
    "settings": "parameters that differ from those of the trial",
    "predicted": "what `plan` predicted; kept in provenance.json",
}
NEEDED = ("sweep", "trial", "model_size", "tokens", "num_gpus")
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "word": (str,), "bool": (bool,)}
WORDS = {"int": "a whole number", "float": "a number", "word": "text", "bool": "true or false"}


@dataclass(frozen=True)
class Target:
    """A checked target file."""

    file: str
    sweep: str
    trial: str
    model_size: str
    tokens: int
    num_gpus: int
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Its keys as plain values, without the file's name."""
        return {name: value for name, value in asdict(self).items() if name != "file" and value not in (None, {})}

    @property
    def length(self) -> FinalLength:
        return FinalLength(self.tokens, None, f"as {self.file} says")

    @property
    def folder(self) -> str:
        """The name of the model's folder."""
        return f"{self.model_size}-{self.tokens}-tokens"

    def aimed(self, record: Record, trial: Trial) -> tuple[Record, Trial]:
        """The record and the trial as if the sweep had been about this target: its size in the ladder, lengths in tokens.

        Raises:
            UserError: it is of another sweep, its size is in no ladder, or the size's model does not suit the sweep.
            OutsideError: the hub can't be reached.
        """
        manifest = record.manifest
        if self.sweep != manifest.name:
            message = f"{self.file} is for the sweep {self.sweep}, and this run folder holds {manifest.name}"
            raise UserError(message, f"give the run folder of {self.sweep}: its trial {self.trial} has the settings")
        ladder = [dict(size.json) for size in manifest.ladder]
        known = [row["name"] for row in ladder]
        if self.model is not None and self.model_size in known and self.model != manifest.size(self.model_size).model:
            message = f"{self.file}: model {self.model} has no effect: {self.model_size} is a size of the ladder"
            raise UserError(message, "give it another model_size, or remove model")
        if self.model is not None and self.model_size not in known:
            ladder.append(ladder_row(record, self.model_size, self.model))
        elif self.model_size not in known:
            hint = f"{did_you_mean(self.model_size, known)}; for another size, give its checkpoint as model"
            raise UserError(f"{self.file}: model_size {self.model_size!r} is not a size of the ladder", hint)
        changed = {**manifest, "ladder": ladder, "time_attr": "tokens", "max_t": self.tokens}
        config = {**trial.config, **self.settings, "model_size": self.model_size, "num_gpus": self.num_gpus}
        config |= {"time_attr": "tokens", "max_t": self.tokens, "rungs": []}
        self._check_effects(config)
        return replace(record, manifest=Manifest(changed)), replace(trial, config=config)

    def _check_effects(self, config: dict[str, Any]) -> None:
        for name, value in self.settings.items():
            if (lack := lacks(name, config)) is not None:
                other, words = lack
                hint = f"it applies to {other} {', '.join(words)}: add '{other}: {words[0]}' to settings, or remove {name}"
                raise UserError(f"{self.file}: settings.{name}: {value} has no effect: {other} is {config.get(other)}", hint)


def ladder_row(record: Record, name: str, model: str) -> dict[str, Any]:
    """The row of a ladder for a model that the sweep has not trained. Loads no weights.

    Raises:
        UserError: the model does not exist or does not suit the task, or its tokenizer is not that of a size of the ladder.
        OutsideError: the hub can't be reached.
    """
    from scalesweep.models.ladder import resolve

    size, manifest = LadderSize(name=name, model=model), record.manifest
    classes = len(manifest.get("data", {}).get("classes") or ()) or None
    lacks = "classes" if classes is None and TASKS[manifest.spec["task"]].label else None
    lacks = lacks or (None if any(row.json.get("tokenizer_fingerprint") for row in manifest.ladder) else "tokenizers")
    if lacks is not None:
        hint = (
            f"take a size of its ladder; `plan` also takes a number of parameters in place of a checkpoint: --size {name}=7e9"
        )
        where = record.folder or manifest.name
        raise UserError(f"{where}: the record does not tell its {lacks}, which a checkpoint must suit", hint)
    resolved = resolve(size, manifest.spec["task"], classes)
    same = [row for row in manifest.ladder if row.json.get("tokenizer_fingerprint") == resolved.tokenizer_fingerprint]
    if not same:
        hint = "its tokens can't be compared with those of the sweep; run a sweep that has the model in its ladder"
        raise UserError(f"{model} has another tokenizer than the sizes of {manifest.name}", hint)
    return {**asdict(resolved), "entry": size.model_dump(), "data_key": same[0].json["data_key"]}


def read_target(path: Path) -> Target:
    """Read and check a target file.

    Raises:
        SpecError: with file, line, key and remedy of every problem.
    """
    document = read_yaml(path, "target file")
    if not isinstance(document.data, dict):
        hint = "write one: scalesweep plan --from RUN_DIR --budget … --write FILE"
        raise SpecError([Problem("a target file must be a mapping of keys", file=str(path), line=1, hint=hint)])
    data = {key: value for key, value in document.data.items() if value is not None}
    problems = [document.problem((key,), "unknown key", did_you_mean(key, KEYS)) for key in data if key not in KEYS]
    problems += [document.problem((key,), "is missing", f"add '{key}': {KEYS[key]}") for key in NEEDED if key not in data]
    for key in ("sweep", "trial", "model_size", "model"):
        problems += _wrong(document, (key,), data.get(key), "word")
    problems += _wrong(document, ("tokens",), data.get("tokens"), "int", least=1)
    problems += _wrong(document, ("num_gpus",), data.get("num_gpus"), "int", least=1, most=PARAMETERS["num_gpus"].high)
    for key in ("settings", "predicted"):
        if not isinstance(data.get(key, {}), dict):
            problems.append(document.problem((key,), "must be a mapping", f"{KEYS[key]}, as KEY: VALUE"))
    if isinstance(predicted := data.get("predicted"), dict):
        problems += _wrong(document, ("predicted", "metric"), predicted.get("metric"), "word")
        for key in ("value", "low", "high"):
            problems += _wrong(document, ("predicted", key), predicted.get(key), "float")
    settings = data.get("settings")
    for name, value in settings.items() if isinstance(settings, dict) else ():
        problems += _setting(document, name, value)
    if problems:
        raise SpecError(problems)
    return Target(file=str(path), **data)


def _setting(document: Document, name: str, value: Any) -> list[Problem]:
    from scalesweep.training.schedules import SCHEDULES

    path, info = ("settings", name), PARAMETERS.get(name)
    if info is None:
        return [document.problem(path, "is no parameter", did_you_mean(name, PARAMETERS))]
    if name in ("model_size", "num_gpus"):
        return [document.problem(path, "has its own key in a target file", f"write {name} beside settings")]
    if name == "train_share":
        return [document.problem(path, "has no effect: a final run trains on all rows", "remove it")]
    choices = tuple(SCHEDULES) if name == "lr_scheduler_type" else info.choices
    if choices and value not in choices:
        return [document.problem(path, f"{value!r} is not allowed", did_you_mean(str(value), choices))]
    return _wrong(document, path, value, info.kind, info.low, info.high)


def _wrong(
    document: Document, path: KeyPath, value: Any, kind: str, least: float | None = None, most: float | None = None
) -> list[Problem]:
    if value is None:
        return []
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
        return [document.problem(path, f"must be {WORDS[kind]}, not {value!r}", f"write {WORDS[kind]}")]
    number: Any = value
    if (least is not None and not number >= least) or (most is not None and not number <= most):
        ends = f"at least {least:g}" if most is None else f"between {least:g} and {most:g}"
        return [document.problem(path, f"is {number:g}, which is out of range", f"write a value {ends}")]
    return []


def write_yaml(path: Path, values: dict[str, Any], comments: Sequence[str]) -> None:
    """Write a file for the user to edit: comments, then the keys in order.

    Raises:
        OutsideError: the file can't be written.
    """
    head = "".join(f"# {line}\n" for line in comments)
    try:
        path.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    except OSError as error:
        raise OutsideError(f"{path} can't be written: {error.strerror}", "name another file") from None
