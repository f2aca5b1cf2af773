"""Checks models, data, metric, schedules and resources, before any compute.

The result is a `Plan`. It holds everything that launch needs and that `scalesweep plan` prints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.costs import share_of
from scalesweep.errors import OutsideError, Problem, SpecError, UserError, did_you_mean
from scalesweep.models.architectures import apply_knobs
from scalesweep.record import Past, Trial, read_record
from scalesweep.spec import (
    PARAMETERS,
    LadderSize,
    SweepSpec,
    allowed_gpus,
    earlier_trials,
    gpu_choices,
    rung_count,
    rung_levels,
    unfreezing_modes,
)
from scalesweep.spec.adapters import adapter_params, check_targets
from scalesweep.spec.checks import adapters, late_thaws, values_drawn
from scalesweep.spec.configurations import fits, least_ranks, listed_again, method_name, ranks, space_size
from scalesweep.spec.loading import KeyPath
from scalesweep.spec.metrics import METRICS
from scalesweep.spec.space import ADAPTERS, ALL_LINEAR, KNOBS, THAWING_MODES
from scalesweep.spec.sweep import DataSpec, DepthLadder
from scalesweep.spec.tasks import TASKS
from scalesweep.storage import cache_dir, check_cache
from scalesweep.sweep.adapted import adapted_model, check_heads
from scalesweep.sweep.local_files import absolute, placed_data
from scalesweep.sweep.memory import Hopeless, check_points_fit, hopeless_combinations, memory_gib, methods, rank_notes
from scalesweep.sweep.own_functions import own_function, with_own_metric
from scalesweep.tasks import task_of
from scalesweep.training.baseline import Baseline, guessing, strictest
from scalesweep.training.schedules import SCHEDULES
from scalesweep.training.speed import Speed, speed_of_worker

if TYPE_CHECKING:
    from scalesweep.models.ladder import ResolvedSize


@dataclass(frozen=True)
class Cost:
    """Upper bounds of a sweep's cost, if all `trials` run to the end. None where the spec sets no bound."""

    trials: int | None
    tokens: float | None
    flops: float | None
    gpu_hours: float | None
    dollars: float | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A checked sweep: its spec, and the facts found about its models and data."""

    spec: SweepSpec
    sizes: tuple[ResolvedSize, ...]
    ladder: dict[str, LadderSize]  # of the spec, with absolute local paths
    data: DataSpec  # of the spec, with an absolute local path
    data_keys: dict[str, str]  # size → folder of its tokenized data in a node's cache
    data_fingerprint: str
    data_summary: dict[str, Any]
    data_notes: list[str]
    classes: tuple[str, ...]
    train_examples: int
    tokens_per_example: float
    cost: Cost
    hopeless: list[Hopeless]  # that can't fit in GPU memory; the search skips them
    baseline: Baseline  # the score of guessing, on the validation split
    speed: Speed | None = None  # of a worker, measured or assumed
    function: str | None = None  # of the metric, by its place
    configurations: int | None = None  # different trials that the space holds; None without a limit
    example: tuple[tuple[str, bool], ...] = ()  # parts of an example, each with whether it is learnt
    packing: dict[str, float] | None = None  # what it saves in the first batches; None where nothing is packed
    past: tuple[Past, ...] = ()  # trials of earlier sweeps to learn from
    past_note: str = ""  # a sentence that counts them
    adapts: dict[str, Any] | None = None  # the promoted model that is adapted

    def __repr__(self) -> str:
        sizes = ", ".join(size.name for size in self.sizes)
        return f"<Plan {self.spec.name}: sizes {sizes}; {len(self.spec.search_space.parameters)} parameters>"

    @property
    def ladder_notes(self) -> list[str]:
        """Remarks on what trains: heads that can't learn alone, ranks above those of the layers, thaws that never come."""
        modes = [mode for mode in unfreezing_modes(self.spec) if mode in ("head", *THAWING_MODES)]
        heads: dict[tuple[tuple[str, ...], int], list[str]] = {}
        for size in self.sizes if modes else ():
            if size.head_groups > 1:
                heads.setdefault((size.head_parameters, size.group_params[-1]), []).append(size.name)
        notes = []
        for (held, count), names in heads.items():
            holds = f"only {' and '.join(held)} ({count:,} parameters)" if held else "no parameters"
            tied = f"{', '.join(names)}: the output layer is tied to the embeddings, so the head holds {holds}"
            notes.append(
                f"{tied}; the highest block trains with it where unfreezing ({', '.join(modes)}) trains the head alone"
            )
        return notes + rank_notes(self.spec, self.sizes) + late_thaws(self.spec)

    @property
    def hours(self) -> dict[str, Any] | None:
        """The GPU hours that the FLOPs of the cost take, the speed of a worker, and its source; None without a bound of FLOPs."""
        if self.cost.flops is None or self.speed is None:
            return None
        return {"gpu_hours": self.cost.flops / self.speed.flops_per_second / 3600, **asdict(self.speed)}

    @property
    def rungs(self) -> list[int | float]:
        return rung_levels(self.spec)

    @property
    def rung_count(self) -> int:
        return rung_count(self.rungs, self.spec.early_terminate.max_t)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Return the steps of an epoch for the smallest and the largest batch of the space, and `max_t` in epochs.

        `max_t` is None where it counts neither steps nor tokens, because it then depends on the configuration.
        """
        early, tokens, found = self.spec.early_terminate, self.tokens_per_example * self.train_examples, []
        for batch in sorted({min(_batches(self.spec)), max(_batches(self.spec))}):
            steps = -(-self.train_examples // batch)
            per_epoch = {"steps": steps, "tokens": tokens}.get(early.time_attr)
            found.append({"global_batch_size": batch, "steps": steps, "max_t": per_epoch and early.max_t / per_epoch})
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data, for `plan --json`."""
        spec = self.spec
        return {
            "sweep": spec.name,
            "task": spec.task,
            "metric": {"name": spec.metric.name, "goal": spec.goal},
            "space": {name: parameter.model_dump(exclude_none=True) for name, parameter in spec.search_space.ordered()},
            "defaults": {name: info.default for name, info in PARAMETERS.items() if name not in spec.search_space.parameters},
            "configurations": self.configurations,
            "ladder": [asdict(size) for size in self.sizes],
            "ladder_notes": self.ladder_notes,
            "hopeless": [list(found) for found in self.hopeless],
            "rungs": {"time_attr": spec.early_terminate.time_attr, "levels": self.rungs, "max_t": spec.early_terminate.max_t},
            "data": {
                "fingerprint": self.data_fingerprint,
                "classes": list(self.classes),
                "tokens_per_example": self.tokens_per_example,
                **self.data_summary,
                "notes": [*self.data_notes, *([self.past_note] if self.past_note else [])],
                "example": [{"text": text, "learnt": learnt} for text, learnt in self.example],
            },
            "epochs": self.epochs,
            "packing": self.packing,
            "baseline": asdict(self.baseline),
            "cost_at_most": asdict(self.cost),
            "hours_at_most": self.hours,
        }


def static_problems(spec: SweepSpec, slots: int | None) -> list[Problem]:
    """Return the problems that need neither models nor data, of a sweep whose file may have other problems too.

    Args:
        slots: workers that the cluster can hold; None if not known yet.
    """
    problems: list[Problem] = []
    metric = METRICS.get(spec.metric.name)
    fitting = (*TASKS[spec.task].metrics, *TASKS[spec.task].generated)
    if spec.metric.function is not None:
        problems += _check_own_metric(spec)
    elif metric is None or spec.metric.name not in fitting:
        message = f"{spec.metric.name!r} is unknown" if metric is None else f"{spec.task} has no metric {spec.metric.name}"
        problems.append(spec.problem(("metric", "name"), message, did_you_mean(spec.metric.name, fitting)))
    elif spec.metric.goal not in (None, metric.goal) and not metric.either:
        message = f"{spec.metric.name} must be {metric.goal}d, not {spec.metric.goal}d"
        problems.append(spec.problem(("metric", "goal"), message, f"write goal: {metric.goal}, or remove the key"))

    at: KeyPath = ("search_space", "parameters")
    scheduler = spec.search_space.parameters.get("lr_scheduler_type")
    for index, value in enumerate(scheduler.choices() or [] if scheduler else []):
        if value not in SCHEDULES:
            key = ("value",) if scheduler and scheduler.value is not None else ("values", index)
            path = (*at, "lr_scheduler_type", *key)
            problems.append(spec.problem(path, f"{value!r} is not a schedule", did_you_mean(str(value), SCHEDULES)))
    problems += _check_packages(spec)
    return problems if slots is None else problems + _check_slots(spec, slots)


def _check_packages(spec: SweepSpec) -> list[Problem]:
    """Find the settings that need bitsandbytes, where it is not installed."""
    wanted: list[tuple[KeyPath, str]] = []
    if spec.training.optimizer == "adamw_8bit":
        wanted.append((("training", "optimizer"), spec.training.optimizer))
    wanted += [(_adapter_path(spec, adapter), adapter) for adapter in _in_4_bits(spec)]
    if not wanted or find_spec("bitsandbytes") is not None:
        return []
    hint = "install it on every node: pip install bitsandbytes"
    return [spec.problem(path, f"{word} needs the package bitsandbytes, which is not installed", hint) for path, word in wanted]


def _in_4_bits(spec: SweepSpec) -> list[str]:
    """Return the adapters of the space whose base has 4 bits."""
    return [adapter for adapter in adapters(spec) if adapter in ADAPTERS and ADAPTERS[adapter].four_bits]


def _adapter_path(spec: SweepSpec, adapter: str) -> KeyPath:
    """Return the key that names an adapter of the space."""
    at, parameter = ("search_space", "parameters", "adapter"), spec.search_space.parameters["adapter"]
    return (*at, "value") if parameter.values is None else (*at, "values", parameter.values.index(adapter))


def _check_own_metric(spec: SweepSpec) -> list[Problem]:
    """Find what is wrong with a metric that a function of the user's computes, except for the function itself."""
    name, problems = spec.metric.name, []
    if not TASKS[spec.task].own_metric:
        others = ", ".join(task for task, row in TASKS.items() if row.own_metric)
        hint = f"remove it, or use another task: {others}"
        problems.append(spec.problem(("metric", "function"), f"{spec.task} has no predictions for a function", hint))
    if name in METRICS or not name.startswith("eval_"):
        what = "is a metric of scalesweep's own" if name in METRICS else "does not begin with eval_"
        problems.append(spec.problem(("metric", "name"), f"{name} {what}", "write a name of your own, such as eval_mine"))
    if spec.metric.goal is None:
        hint = "add goal: minimize or goal: maximize"
        problems.append(spec.problem(("metric",), "has a function and no goal", hint))
    return problems


def check_static(spec: SweepSpec, slots: int | None) -> None:
    """Run the checks that need neither models nor data.

    Args:
        slots: workers that the cluster can hold; None if not known yet.

    Raises:
        SpecError: with every problem found.
    """
    problems = static_problems(spec, slots)
    if problems:
        raise SpecError(problems)


def _check_slots(spec: SweepSpec, slots: int) -> list[Problem]:
    problems = []
    parameter = spec.search_space.parameters.get("num_gpus")
    counts: list[Any] = (parameter.choices() or [parameter.min, parameter.max]) if parameter else []
    if not all(isinstance(count, int | float) for count in counts):
        return []  # reported with the file's problems
    largest = max(gpu_choices(spec))
    if largest > slots:
        listed = spec.search_space.parameters["num_gpus"].values if "num_gpus" in spec.search_space.parameters else None
        tail: KeyPath = ("values", listed.index(largest)) if listed else ()
        path = ("search_space", "parameters", "num_gpus", *tail)
        hint = (
            f"use at most {slots}, or a larger cluster (--address), or set resources.max_gpus if it grows, or give the local cluster "
            "logical GPUs (--num-gpus)"
        )
        problems.append(spec.problem(path, f"{largest} is above the {slots} worker(s) that the cluster can hold", hint))
    return problems


def check_models(
    spec: SweepSpec, num_labels: int | None, base: Path | None = None
) -> tuple[list[ResolvedSize], dict[str, LadderSize]]:
    """Resolve each size without loading weights, and check knobs, GPU memory, tokenizers and lengths.

    Raises SpecError and, for a hub, OutsideError.
    """
    from scalesweep.models.ladder import DepthError, resolve

    problems: list[Problem] = []
    faults: dict[_Fault, list[str]] = {}  # fault → its sizes, so that each fault is reported once
    sizes: list[ResolvedSize] = []
    ladder: dict[str, LadderSize] = {}
    for index, size in enumerate(spec.sizes()):
        path: KeyPath = ("ladder", "layers", index) if isinstance(spec.ladder, DepthLadder) else ("ladder", index, "model")
        size = absolute(size, base)
        try:
            resolved = resolve(size, spec.task, num_labels)
        except UserError as error:
            if isinstance(spec.ladder, DepthLadder) and not isinstance(error, DepthError):
                path = ("ladder", "model")
            problems.append(spec.problem(path, error.message, error.hint))
            if path == ("ladder", "model"):
                break  # all sizes share one checkpoint and would repeat the error
            continue
        sizes.append(resolved)
        ladder[size.name] = size
        for fault in _check_size(spec, resolved, size, path):
            faults.setdefault(fault, []).append(size.name)
    for fault, names in faults.items():
        whose = f"size{'s' if len(names) > 1 else ''} {', '.join(names)}"
        problems.append(spec.problem(fault.path, fault.message.replace("SIZE", whose), fault.hint))
    if len(sizes) == len(spec.sizes()):
        problems += _check_tokenizers(spec, sizes)
    if problems:
        raise SpecError(problems)
    return sizes, ladder


@dataclass(frozen=True)
class _Fault:
    """A problem of a size. `SIZE` in the message stands for the size's name."""

    path: KeyPath
    message: str
    hint: str


def _check_size(spec: SweepSpec, resolved: ResolvedSize, size: LadderSize, path: KeyPath) -> list[_Fault]:
    from scalesweep.models.ladder import load_config

    faults = []
    for knob in KNOBS:
        parameter = spec.search_space.parameters.get(knob)
        if parameter is None:
            continue
        try:
            apply_knobs(load_config(size), {knob: 0.0})
        except UserError as error:
            faults.append(_Fault(("search_space", "parameters", knob), f"{error.message} (SIZE)", error.hint))
    faults += _check_targets(spec, resolved)
    faults += _check_4_bits(spec, resolved)
    if spec.training.gradient_checkpointing is True and not resolved.recomputes:
        message = f"transformers has no gradient checkpointing for {resolved.model_type} (SIZE)"
        faults.append(
            _Fault(("training", "gradient_checkpointing"), message, "write auto, which leaves it off there, or false")
        )
    modes = unfreezing_modes(spec)
    refused, share = least_ranks(hopeless_combinations(spec, [resolved])), share_of(max(allowed_gpus(spec, size), default=1))
    least = {method_name(mode, adapter): ranks(spec, adapter)[0] for mode, adapter in methods(spec)}
    if not any(fits((size.name, method, share), rank, refused) for method, rank in least.items()):
        memory, gpu = spec.resources.gpu_memory_gib or 0, "a GPU" if share == 1 else f"{share} of a GPU"
        needed = min(memory_gib(spec, resolved, mode, adapter, ranks(spec, adapter)[0]) for mode, adapter in methods(spec))
        message = (
            f"SIZE needs at least {needed:.3g} GiB for weights, gradients and optimizer, but {gpu} has {memory * share:g} GiB"
        )
        hint = "remove the size, train its head only or an adapter, or use larger GPUs and increase resources.gpu_memory_gib"
        if "head" in modes or adapters(spec) != ["none"]:
            hint = "remove the size, or use larger GPUs and increase resources.gpu_memory_gib"
        hint += ", or add 1 to num_gpus" if share < 1 else ""
        faults.append(_Fault(path, message, hint))
    if resolved.max_positions is not None and spec.data.max_length > resolved.max_positions:
        message = f"{spec.data.max_length} is above the {resolved.max_positions} positions of SIZE"
        faults.append(_Fault(("data", "max_length"), message, f"use at most {resolved.max_positions}"))
    return faults


def _check_targets(spec: SweepSpec, resolved: ResolvedSize) -> list[_Fault]:
    """Find the words of `lora_target_modules` that name no linear layer of the size."""
    faults: list[_Fault] = []
    parameter = spec.search_space.parameters.get("lora_target_modules")
    if adapters(spec) == ["none"]:
        return faults
    for index, targets in enumerate(values_drawn(spec, "lora_target_modules")):
        try:
            check_targets([name for name, *_ in resolved.linears], str(targets))
        except UserError as error:
            path: KeyPath = ("search_space", "parameters", "adapter")  # of the default
            if parameter is not None and parameter.takes(targets):
                path = (*path[:-1], "lora_target_modules", *(("values", index) if parameter.values else ("value",)))
            faults.append(_Fault(path, f"{error.message} (SIZE)", error.hint))
    return faults


def _check_4_bits(spec: SweepSpec, resolved: ResolvedSize) -> list[_Fault]:
    """Find adapters that need 4 bits on a size most of whose weights can't have them: experts of a mixture, GPT-2's Conv1D."""
    in_blocks = sum(resolved.group_params[1:-1])
    if 2 * resolved.linear_params >= in_blocks:
        return []
    share = f"{100 * resolved.linear_params / in_blocks:.0f} %"
    hint = "use lora with training.base_dtype: bf16"
    return [
        _Fault(
            _adapter_path(spec, adapter),
            f"{adapter} keeps linear layers (nn.Linear) in 4 bits, and they hold only {share} of the blocks of SIZE "
            f"({resolved.model_type})",
            hint,
        )
        for adapter in _in_4_bits(spec)
    ]


def _check_weights(spec: SweepSpec, classes: Sequence[str]) -> list[Problem]:
    """Find the classes of `training.class_weights` that the data lack."""
    weights = spec.training.class_weights
    unknown = [name for name in weights if str(name) not in classes] if isinstance(weights, dict) else []
    at: KeyPath = ("training", "class_weights")
    return [spec.problem((*at, name), "is not a class of the data", did_you_mean(str(name), classes)) for name in unknown]


def _check_tokenizers(spec: SweepSpec, sizes: list[ResolvedSize]) -> list[Problem]:
    row = METRICS.get(spec.metric.name)
    fingerprints = {size.tokenizer_fingerprint for size in sizes}
    if task_of(spec.task).per_token and row is not None and row.per_token and len(fingerprints) > 1:
        message = f"{spec.metric.name} is an average per token, and the sizes have different tokenizers"
        return [spec.problem(("metric", "name"), message, "use eval_bits_per_byte, which is comparable between tokenizers")]
    if spec.early_terminate.time_attr == "tokens" and len(fingerprints) > 1:
        message = "the sizes have different tokenizers, so equal tokens are unequal amounts of text"
        return [spec.problem(("early_terminate", "time_attr"), message, "use time_attr: steps or flops")]
    return []


def preflight(spec: SweepSpec, slots: int | None, base: Path, progress: Any = None) -> Plan:
    """Check a sweep completely and bound its cost.

    Args:
        slots: workers that the cluster can hold at once; None if not known yet.
        base: folder that relative paths start from.
        progress: called with (done, total) while text is tokenized.

    Raises:
        SpecError: with file, line, key and remedy of each problem.
        UserError: if the cache folder can't be written.
        OutsideError: if a hub can't be reached.
    """
    check_static(spec, slots)
    check_cache()  # before libraries are imported, which takes seconds
    from scalesweep.data.prepare import prepare
    from scalesweep.data.problems import DataProblem
    from scalesweep.data.tokens import TokenizedData, tokenize
    from scalesweep.models.ladder import load_tokenizer
    from scalesweep.tasks.chat_template import OwnTemplateError

    row, function = TASKS[spec.task], own_function(spec, base)
    earlier, past_note = earlier_trials(spec, base, read_record)
    try:
        data_spec = placed_data(spec, base)
        prepared = prepare(data_spec, spec.task, base)
    except DataProblem as error:
        problems = [spec.problem(error.key, error.message, error.hint)]
        # The number of classes is unknown; 2 is enough to check the models, so that one run reports both.
        with contextlib.suppress(OutsideError):
            try:
                check_models(spec, 2, base)
            except SpecError as others:
                problems += others.problems
        raise SpecError(problems) from None
    classes = tuple(prepared.classes)
    if problems := _check_weights(spec, classes):
        raise SpecError(problems)
    sizes, ladder = check_models(spec, len(classes) or None, base)
    check_heads(spec, ladder, classes)
    adapts = adapted_model(spec, base, prepared.earlier_fingerprint, sizes, ladder)
    hopeless = hopeless_combinations(spec, sizes)
    if problems := check_points_fit(spec, hopeless):
        raise SpecError(problems)
    keys, baselines, tokenizers = {}, [], []
    for index, size in enumerate(sizes):
        if size.tokenizer_fingerprint not in keys:
            tokenizer = load_tokenizer(ladder[size.name])
            try:
                folder = tokenize(
                    prepared, data_spec, spec.task, tokenizer, size.tokenizer_fingerprint, cache_dir(), progress=progress
                )
            except UserError as error:
                at: KeyPath = ("ladder", "model") if isinstance(spec.ladder, DepthLadder) else ("ladder", index, "model")
                at = ("data", "chat_template") if isinstance(error, OwnTemplateError) else at
                key = error.key if isinstance(error, DataProblem) else at
                raise SpecError([spec.problem(key, error.message, error.hint)]) from None
            keys[size.tokenizer_fingerprint] = folder
            tokenizers.append(tokenizer)
            answers = spec.metric.name in row.generated or (bool(row.generated) and function is not None)
            answering = task_of(spec.task).answering(data_spec, tokenizer) if answers else None
            try:
                baselines.append(guessing(spec.task, TokenizedData.open(folder), len(classes) or len(tokenizer), answering))
            except UserError as error:
                raise SpecError([spec.problem(("data", "max_length"), error.message, error.hint)]) from None
    data = TokenizedData.open(keys[sizes[0].tokenizer_fingerprint])
    baseline = with_own_metric(spec, data_spec, function, strictest(baselines, spec.metric.name), data, tokenizers[0])
    lengths = data.train.lengths
    configurations = space_size(spec, hopeless)
    trained = None if configurations is None else configurations + listed_again(spec)
    return Plan(
        spec=spec,
        sizes=tuple(sizes),
        ladder=ladder,
        data=data_spec,
        data_keys={size.name: keys[size.tokenizer_fingerprint].name for size in sizes},
        data_fingerprint=prepared.fingerprint,
        data_summary=_counted(prepared.summary, data.meta["splits"]),
        data_notes=[*prepared.notes, *_token_notes(sizes, keys)],
        classes=classes,
        train_examples=len(lengths),
        tokens_per_example=float(lengths.mean()),
        cost=_cost(spec, sizes, float(lengths.mean()), slots, trained),
        speed=speed_of_worker(spec, _speeds(trial for _, trial in earlier)),
        function=function,
        configurations=configurations,
        hopeless=hopeless,
        example=tuple(task_of(spec.task).shown(data.train.example(0), data.train.targets_of(0), tokenizers[0])),
        packing=_packing(spec, lengths),
        baseline=baseline,
        past=tuple(Past.of(name, trial, spec.metric.name) for name, trial in earlier),
        past_note=past_note,
        adapts=adapts,
    )


def _packing(spec: SweepSpec, lengths: Any) -> dict[str, float] | None:
    """Estimate what packing saves, on one worker whose memory is no limit; None without packing. `lengths`: of train's examples."""
    from scalesweep.data.batches import BatchPlan
    from scalesweep.training.packing import saving

    training, batch = spec.training, max(_batches(spec))
    if training.packing == "off" or not task_of(spec.task).packs:
        return None
    batches = BatchPlan(len(lengths), batch, training.seed, lengths if training.group_by_length else None)
    return saving(batches, lengths, training.micro_batch_size or batch)


def _counted(summary: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of the data with the examples and tokens that the task made of each split."""
    splits = summary["splits"].items()
    counts = {split: {key: figures[split][key] for key in ("examples", "tokens")} for split in figures}
    return {**summary, "splits": {split: {**rows, **counts[split]} for split, rows in splits}}


def _token_notes(sizes: Sequence[ResolvedSize], folders: dict[str, Path]) -> list[str]:
    """Return what each tokenizer did to the texts. `folders`: tokenizer fingerprint → token folder."""
    from scalesweep.data.tokens import TokenizedData, token_notes

    notes = []
    for fingerprint, folder in folders.items():
        names = ", ".join(size.name for size in sizes if size.tokenizer_fingerprint == fingerprint)
        whose = f"tokenizer of {names}: " if len(folders) > 1 else ""
        notes += [whose + note for note in token_notes(TokenizedData.open(folder).meta)]
    if len(folders) > 1:
        notes.append(f"examples and tokens are those of the tokenizer of {sizes[0].name}")
    return notes


def _cost(
    spec: SweepSpec, sizes: list[ResolvedSize], tokens_per_example: float, slots: int | None, configurations: int | None
) -> Cost:
    """Bound the cost: every trial runs to the end, on the largest size, trained in full. There are at most `configurations`.

    The bound in dollars uses the highest price of a size, the bound in hours the lowest.
    """
    early, budget = spec.early_terminate, spec.budget
    trials = min((limit for limit in (budget.run_cap, configurations) if limit is not None), default=None)
    at_most = None if trials is None else trials * early.max_t  # total fidelity of all trials
    counted = {early.time_attr: at_most}
    tokens, flops = counted.get("tokens"), counted.get("flops")
    if early.time_attr == "steps" and at_most is not None:
        tokens = at_most * max(_batches(spec)) * tokens_per_example
    if tokens is not None:
        rows = max(_batches(spec))
        batches = tokens / (rows * tokens_per_example)
        flops = batches * max(training_flops(spec, size, rows, tokens_per_example) for size in sizes)
    prices = [price for size in sizes if (price := spec.price(size.name)) is not None]
    dollars = _least(budget.dollars, counted.get("dollars"))
    gpu_seconds = counted.get("gpu_seconds")
    hours = [budget.gpu_hours, gpu_seconds and gpu_seconds / 3600, dollars and prices and dollars / min(prices)]
    if budget.time:
        concurrent = spec.resources.max_concurrent_trials
        workers = _least(slots, concurrent and concurrent * max(gpu_choices(spec)))
        hours.append(workers and budget.time / 3600 * workers)
    gpu_hours = _least(*hours)
    if gpu_hours and prices:
        dollars = _least(dollars, gpu_hours * max(prices))
    return Cost(trials, tokens, flops, gpu_hours, dollars, budget.time)


def training_flops(spec: SweepSpec, size: ResolvedSize, rows: int, width: float) -> float:
    """Return the FLOPs of a step on `rows` examples of `width` tokens that trains the whole model, or bound those with adapters."""
    whole = size.flops.forward(rows, width) + size.flops.backward(rows, width, [True] * len(size.group_names))
    if adapters(spec) == ["none"]:
        return whole
    return whole + 6 * rows * width * adapter_params(size.linears, "lora", max(values_drawn(spec, "lora_rank")), ALL_LINEAR)


def _speeds(trials: Iterable[Trial]) -> list[float]:
    """Return the training FLOPs per GPU second of each trial that reported."""
    last = [trial.last for trial in trials if trial.last is not None]
    return [report.model_flops / report.gpu_seconds for report in last if report.model_flops and report.gpu_seconds]


def _least(*bounds: Any) -> float | None:
    """Return the smallest bound that is set, or None."""
    return min((bound for bound in bounds if bound), default=None)


def _batches(spec: SweepSpec) -> list[int]:
    """Return the batch sizes of the space; of a range its ends."""
    batch = spec.search_space.parameters.get("global_batch_size")
    sizes: list[Any] = (batch.choices() or [batch.min, batch.max]) if batch else []
    return [int(value) for value in sizes if value is not None] or [spec.training.global_batch_size]
