"""The typed contents of `sweeps/NAME.yaml`: checked once, never changed afterwards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scalesweep.errors import Problem, UserError
from scalesweep.spec.functions import named
from scalesweep.spec.loading import Document, KeyPath, key_text
from scalesweep.spec.metrics import Goal, goal_of
from scalesweep.spec.resources import Price, ResourcesSpec, Strict, price_of
from scalesweep.spec.space import Scalar, SearchSpace
from scalesweep.spec.tasks import TASKS

if TYPE_CHECKING:
    Task = str  # a name of TASKS
else:
    Task = Literal[tuple(TASKS)]
TimeAttr = Literal["steps", "tokens", "flops", "gpu_seconds", "dollars"]
SPLITS = ("train", "validation", "test")


def seconds_of(value: Any) -> Any:
    """'5m', '2h30m', '90s', '1d' or a number of seconds → seconds."""
    if isinstance(value, str):
        parts = re.fullmatch(
            r"\s*(?:(\d+(?:\.\d+)?)d)?\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s)?\s*", value
        )
        if not parts or not any(parts.groups()):
            raise ValueError(f"{value!r} is not a duration; write for example 90s, 5m, 2h30m or 1d")
        return sum(float(part or 0) * scale for part, scale in zip(parts.groups(), (86400, 3600, 60, 1), strict=True))
    return value


def _delimiter(value: str) -> str:
    if len(value) != 1 or value in '"\r\n':
        raise ValueError(f'{value!r} is not one character; write for example ";", or "\\t" in double quotes for a tab')
    return value


Seconds = Annotated[float, BeforeValidator(seconds_of)]


class DataSpec(Strict):
    path: str | dict[str, str] = Field(
        description="hub id, local file, folder that `save_to_disk` wrote, or `package:NAME/FILE`. A relative path starts at "
        "the sweep file's folder if it exists there, else at the working folder. URLs are refused. Or a mapping of split to file, "
        "such as `{train: a.jsonl, validation: b.jsonl, test: c.jsonl}`; the files need not have one format."
    )
    name: str | None = Field(None, description="configuration of a hub data set")
    revision: str | None = Field(None, description="revision of a hub data set")
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = Field(
        None,
        description="character between the cells of a .csv or .tsv file. Default: that of a first line such as `sep=;`, else a "
        'comma in .csv, a tab (`"\\t"`) in .tsv.',
    )
    quoting: Literal["minimal", "none"] | None = Field(
        None,
        description="quoting of a .csv or .tsv file, in the words of Python's `csv`. `minimal`: a cell may be in double quotes; "
        "it may then hold delimiters, line breaks and, doubled, quote marks. `none`: quote marks are part of the texts. "
        "Default: minimal in .csv; none in .tsv, unless only quoting explains the file. A .csv that contradicts it is refused.",
    )
    text: str | list[str] = Field(
        "text", description="text column, or a list of one or two. Two columns make a sentence pair (classification only)."
    )
    format: Literal["messages", "prompt-completion", "alpaca", "sharegpt"] | None = Field(
        None,
        description="format of conversations (instruction-tuning). Default: the one that the columns fit. messages: a list of "
        "{role, content}; prompt-completion: two texts, or two lists of messages; alpaca: instruction, input and output; "
        "sharegpt: a list of {from, value}. A list may be JSON text.",
    )
    messages: str | None = Field(None, description="column of the messages, where it has another name (instruction-tuning)")
    conversations: str | None = Field(None, description="column of the conversations of sharegpt, where it has another name")
    prompt: str | None = Field(None, description="column of the prompt, where it has another name (instruction-tuning)")
    completion: str | None = Field(None, description="column of the completion, where it has another name (instruction-tuning)")
    instruction: str | None = Field(None, description="column of alpaca's instruction, where it has another name")
    input: str | None = Field(None, description="column of alpaca's input, where it has another name")
    output: str | None = Field(None, description="column of alpaca's output, where it has another name")
    system: str | None = Field(None, description="column of the system prompt, where it has another name (instruction-tuning)")
    chat_template: str | None = Field(
        None,
        description="file with a chat template (Jinja), or the template itself (instruction-tuning). Default: the tokenizer's. "
        "A relative path starts like that of `path`. The exported model has the template.",
    )
    learn: Literal["assistant", "last", "all"] = Field(
        "assistant",
        description="tokens that are learnt (instruction-tuning): every answer of the assistant, the last answer, or everything",
    )
    truncate: Literal["cut", "drop"] = Field(
        "cut",
        description="conversations of more than `max_length` tokens (instruction-tuning): cut them at the end, or leave them out. "
        "What has no learnt token left is left out, and counted.",
    )
    scorer: Annotated[str, AfterValidator(named)] | None = Field(
        None,
        description="function of your own that scores answers, `module:function` (instruction-tuning, with the metric `eval_score`). "
        "It is called with a generated answer and the answer of the data, two texts, and returns a number. With a third parameter it "
        "also gets the prompt: all that stands before the answer, as the chat template writes it. The module is a "
        "file beside the sweep file, or in the working folder, or an installed one.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens that a generated answer has at most (instruction-tuning, with a metric of generated answers). "
        "Default: those of the longest answer of the split.",
    )
    label: str | None = Field(
        None,
        description="label column. Required for classification, refused for other tasks. Labels may be whole numbers, words, dates "
        "or booleans. In a .csv or .tsv file they are words as written: `001` and `1` are two classes.",
    )
    labels: list[str | int] | None = Field(
        None,
        description="classes to keep, numbered in this order. Rows of other classes are dropped and counted. Without it, the "
        "data set's declared class names hold, else all values that occur, sorted (at most 1,000). A word that YAML reads "
        'otherwise needs quotes: `"true"`, `"+1"`, `"1.0"`.',
    )
    group: str | None = Field(
        None,
        description="column whose equal values stay in one split. A row whose value is missing (none, empty, blank or NaN) is a "
        "group of its own; `plan` counts these.",
    )
    splits: dict[str, int | float | str] = Field(
        description="sizes of train, validation and test: counts of rows, fractions, or names of splits of the source. A count "
        "is a whole number. A fraction is of the usable rows; it is at most 1.0, and so is the sum. All three are needed. "
        "Rows that `max_length` leaves without an example count too. With a file for each split in `path`, the key may be left out."
    )
    split_seed: int = Field(0, ge=0, description="seed of the split. The same rows and seed give the same splits.")
    max_length: int = Field(
        128,
        ge=2,
        description="tokens that an example may have. Classification cuts longer rows and counts them; causal-lm and "
        "masked-lm lay a document out over several examples and cut nothing; instruction-tuning follows `truncate`.",
    )

    earlier: EarlierData | None = Field(
        None,
        description="data that the model has learnt before, with the keys of `data`. Trials rehearse the share `rehearsal_share` of its "
        "train split. Evaluations are on both: the metrics of both together, and those of each as `new_…` and `old_…`. `scalesweep "
        "adapt` writes it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _splits_of_files(cls, data: Any) -> Any:
        """Let each file of a mapping be the split of its name where `splits` is left out."""
        if isinstance(data, dict) and isinstance(files := data.get("path"), dict) and "splits" not in data:
            return {**data, "splits": {name: name for name in files if name in SPLITS}}
        return data

    @property
    def files(self) -> dict[str, str]:
        """The files that `path` maps, by name; empty for a single source."""
        return self.path if isinstance(self.path, dict) else {}

    @property
    def shown(self) -> str:
        """The words for the source in a message."""
        return self.path if isinstance(self.path, str) else ", ".join(self.path.values())


class EarlierData(DataSpec):
    """The data of a model that is to be adapted."""

    trained_on: list[Literal["train", "validation"]] = Field(
        ["train", "validation"],
        description="splits that the model has been trained on. Where validation is one of them, evaluations in the sweep take a part of "
        "the test split in its place, at most a third, which then counts no more as test.",
    )


class _Checkpoint(Strict):
    """Keys that one checkpoint cut by depth and each size of a list share."""

    model: str = Field(
        description="hub id, local folder, or `package:NAME/FOLDER`. A relative folder starts at the sweep file's folder if it "
        "exists there, else at the working folder."
    )
    revision: str | None = Field(None, description="revision of a hub model")
    min_gpus: int | None = Field(
        None, ge=1, description="fewest GPUs that a trial of the size may have. Without it, the size may also share a GPU."
    )
    accelerator_type: str | None = Field(
        None, description="Ray's name of a GPU model, such as `A100`. The size's workers run on nodes with that GPU only."
    )
    trust_remote_code: bool = Field(False, description="permission to run the model code that a hub repository contains")
    keep_head: bool = Field(
        False,
        description="keep the head of a checkpoint that was fine-tuned for the same classes (sequence-classification). Default: it is "
        "drawn anew.",
    )
    allow_pickle: bool = Field(
        False, description="permission to load weights stored as pickle. It matters only where there is no safetensors file."
    )


class LadderSize(_Checkpoint):
    """One model size. `name` is what `model_size` chooses; `layers` keeps the lowest blocks only."""

    name: str = Field(description="name of the size, which `model_size` chooses. Names are unique.")
    layers: int | None = Field(None, ge=1, description="lowest blocks to keep. Without it, all are kept.")


class DepthLadder(_Checkpoint):
    """One checkpoint cut by depth: size L4 keeps the lowest 4 blocks (Sajjad et al., 2020)."""

    layers: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1,
        description="depths of the sizes. 4 makes a size `L4` with the lowest 4 blocks (of an encoder–decoder: 4 of each half).",
    )

    def sizes(self) -> list[LadderSize]:
        shared = self.model_dump(exclude={"layers"})
        return [LadderSize(name=f"L{layers}", layers=layers, **shared) for layers in self.layers]


class MetricSpec(Strict):
    name: str = Field("eval_loss", description="metric that rungs, sampler and leaderboard compare")
    goal: Goal | None = Field(
        None,
        description="direction of the metric. It follows from the metric; the other direction is an error. Required with `function`.",
    )
    function: Annotated[str, AfterValidator(named)] | None = Field(
        None,
        description="function of your own that computes the metric, `module:function`. It is called with all predictions of the "
        "validation split. `name` is then a name of yours that begins with `eval_`. The module is found as that of `data.scorer`.",
    )


OPTIMIZERS: dict[str, str] = {  # each has a row in `costs.MOMENT_BYTES`
    "adamw": "moments in float32, 8 bytes per trained parameter.",
    "adamw_8bit": "moments in 8 bits, 2 bytes per trained parameter (Dettmers et al., 2021, arXiv 2110.02861; needs "
    "bitsandbytes). Embeddings and tensors of fewer than 4,096 parameters keep theirs in float32.",
}
if TYPE_CHECKING:
    Optimizer = str
else:
    Optimizer = Literal[tuple(OPTIMIZERS)]


class TrainingSpec(Strict):
    global_batch_size: int = Field(
        32,
        ge=1,
        description="examples per optimizer step over all workers. A parameter of this name in the space replaces it.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="most examples per forward pass of one worker. Accumulation makes up the rest. Without it, a GPU takes as "
        "many as fit and a CPU 32. Halved where memory runs out. Evaluations have sizes of their own.",
    )
    eval_interval: int | None = Field(
        None, ge=1, description="steps between evaluations. Every rung and the end are evaluated in any case."
    )
    checkpoint_interval: int | None = Field(
        None,
        ge=1,
        description="steps between checkpoints. A checkpoint follows an evaluation after which the trial continues: each such "
        "evaluation by default, else the first after each multiple of this. Rungs are always saved.",
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        "auto",
        description="precision of the computation. auto: bf16 on a GPU that supports it, fp16 on another GPU, float32 on CPU. "
        "Weights that train are always float32.",
    )
    optimizer: Optimizer = Field(
        "adamw", description=f"optimizer. {' '.join(f'{name}: {help}' for name, help in OPTIMIZERS.items())}"
    )
    base_dtype: Literal["float32", "bf16"] = Field(
        "float32",
        description="type of the frozen weights in trials with an adapter; with qlora, of those that have no 4 bits. What trains "
        "is float32 in any case, and so is every weight in trials without an adapter.",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="recomputation of activations in the backward pass: less memory for more time. auto: only in trials of which "
        "one example does not fit otherwise.",
    )
    prefix_cache: Literal["auto", "off"] = Field(
        "auto",
        description="cache of the frozen prefix's output on each node's disk. auto: used where a probe shows that it is exact.",
    )
    packing: Literal["auto", "off"] = Field(
        "auto",
        description="rows that hold several examples, end to end, where padding would take more tokens (causal-lm and "
        "instruction-tuning). auto: used where a probe of the model shows that no example influences another. A step has the same examples "
        "either way.",
    )
    group_by_length: bool = Field(
        True,
        description="batches of examples of similar length, which need less padding. Every epoch still contains every example "
        "once, and any number of workers sees the same batches.",
    )
    class_weights: Literal["none", "balanced"] | dict[str | int, Price] = Field(
        "none",
        description="weights of the classes in the training loss (sequence-classification). balanced: inversely proportional to the "
        "rows of the class in train. Or a mapping of class to weight; a class that it lacks has weight 1. The loss of a batch is "
        "the weighted mean over its examples. Metrics are never weighted.",
    )
    seed: int = Field(0, ge=0, description="seed of example order, new weights and dropout. All trials share it.")


TIME_ATTRS: dict[TimeAttr, str] = {
    "steps": "optimizer steps; whole numbers",
    "tokens": "tokens trained on, without padding; whole numbers. Sizes with different tokenizers are refused.",
    "flops": "FLOPs of training with each global batch padded to its longest example, such as `1.0e15`. A cache and the number "
    "of workers don't change them.",
    "gpu_seconds": "seconds on the workers × workers, loading and evaluation included, such as `90` or `0.5`. They depend on the "
    "machine.",
    "dollars": "GPU seconds at the price of the size, such as `0.05`. They need `resources.dollars_per_gpu_hour`.",
}
Variant = Literal["stopping", "promotion"]
VARIANTS: dict[Variant, str] = {
    "stopping": "A trial that does not pass a rung stops for good; the others continue at once.",
    "promotion": "Every trial waits at each rung, with its checkpoint and without workers, until it is among the best "
    "1/`reduction_factor` of those that reached the rung (Li et al., 2018, Alg. 2). A waiting trial that may continue comes "
    "before new trials. Needs a rung before `max_t`.",
}
SURVIVAL_RULES: dict[str, str] = {  # each has a file of its name in search/survival/
    "forecast": "the best by what each trial is expected to reach at `max_t`; never more than the quota. With `variant: stopping` as "
    "`metric`",
    "metric": "the best by the metric at the rung (ASHA: Li et al., 2018, arXiv 1810.05934)",
    "by_size": "the best of each model size; at the last rung before `max_t`, the best of all sizes",
    "pareto": "the best by metric and GPU seconds at once: non-dominated sorting, then an ε-net (MO-ASHA: Schmucker et al., "
    "2021, arXiv 2106.12639)",
}
if TYPE_CHECKING:
    Survival = str
else:  # the words that the key may have
    Survival = Literal[tuple(SURVIVAL_RULES)]


class EarlyTerminateSpec(Strict):
    type: Literal["asha", "none"] = Field(
        "asha", description="early termination. asha: trials are compared at rungs. none: every trial runs to `max_t`."
    )
    time_attr: TimeAttr = Field("steps", description="fidelity that rungs and `max_t` count")
    grace_period: Annotated[int | float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="fidelity of the first rung, at most `max_t`. auto: `max_t` ÷ `reduction_factor`³, in steps at a multiple of "
        "`training.eval_interval`. Refused with `type: none`.",
    )
    max_t: int | float = Field(
        gt=0,
        description="fidelity of a finished trial. Learning-rate schedules run to it, also in a trial that stops early.",
    )
    reduction_factor: float = Field(
        3,
        gt=1,
        description="number of trials of which about one passes a rung. With `survival: forecast` and `variant: promotion`, more pass "
        "where a rung's order differs from that at the end. Rungs are at `grace_period` × `reduction_factor`^k.",
    )
    variant: Variant = Field(
        "promotion", description="fate of a trial that does not pass a rung: it stops for good, or it waits there"
    )
    survival: Survival = Field("forecast", description="rule that decides which trials pass a rung")
    brackets: int = Field(
        1,
        ge=1,
        description="number of brackets. The seed and a trial's number assign it to one bracket; bracket 1 compares its trials "
        "from the first rung on, bracket 2 from the second, and so on (Hyperband: Li et al., 2018, arXiv 1603.06560). Each "
        "bracket is drawn e times less often than the one before, as in Ray's `ASHAScheduler`. At most the number of rungs, the "
        "end included; 1 with `type: none`.",
    )

    @field_validator("grace_period", mode="before")
    @classmethod
    def _open(cls, value: Any) -> Any:
        return "auto" if value is None else value  # an old record without rungs has null

    @field_validator("grace_period", "max_t")
    @classmethod
    def _whole(cls, value: float | str, info: ValidationInfo) -> float | str:
        """Steps and tokens as integers, also where they are written as `2.0e9`."""
        whole = info.data.get("time_attr") in ("steps", "tokens") and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value


SAMPLERS: dict[str, str] = {  # each has a file of its name in search/samplers/
    "forecast": "half of the trials evenly over the space, half where a model of all trials' forecasts promises most",
    "tpe": "Optuna's `TPESampler` with `multivariate`, `group` and `constant_liar` (Bergstra et al., 2011)",
    "random": "Optuna's `RandomSampler`",
}
if TYPE_CHECKING:
    Sampler = str
else:
    Sampler = Literal[tuple(SAMPLERS)]


class SearchSpec(Strict):
    sampler: Sampler = Field("forecast", description="method that proposes the parameters of new trials")
    n_startup_trials: int = Field(
        10,
        ge=1,
        description="trials before the sampler uses its model. forecast counts trials that have reached the first rung, at "
        "least 3, and spreads them evenly over the space; tpe draws them at random.",
    )
    points_to_evaluate: list[dict[str, Scalar]] = Field(
        default_factory=list,
        description="configurations to try first, in this order, with any sampler: each a mapping of parameters of the space to "
        "their values. The sampler draws the parameters that a point leaves open. As in Ray Tune.",
    )
    warm_start: list[str] = Field(
        default_factory=list,
        description="run folders of earlier sweeps to learn from. A relative path starts at the sweep file's folder if it exists there, "
        "else at the working folder. Metric, "
        "goal and `time_attr` must be the same. Trials that this space could not have drawn are left out.",
    )
    repeats: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="trainings of the best three again, with other seeds, at the end of the sweep. A number: as often for each. auto: "
        "twice, as far as a tenth of the GPU hours spent pays for it; not without a budget of hours, time or dollars. off: never.",
    )
    seed: int = Field(0, ge=0, description="seed of proposals and brackets")


class BudgetSpec(Strict):
    run_cap: int | None = Field(None, ge=1, description="trials at most")
    time: Seconds | None = Field(
        None,
        gt=0,
        description="wall-clock time of the sweep: `90s`, `5m`, `2h30m`, `1d`, or a number of seconds. All sessions count, "
        "pauses between them don't.",
    )
    gpu_hours: float | None = Field(
        None,
        gt=0,
        description="`num_gpus` × hours, summed over trials. CPU workers count in the same way.",
    )
    dollars: float | None = Field(None, gt=0, description="dollars in all. Needs `resources.dollars_per_gpu_hour`.")
    trial_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="GPU hours of one trial. The trial stops at the report after which another stretch as long as its last "
        "would exceed them. forecast proposes no trial that is expected to need more.",
    )


class WandbSpec(Strict):
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto",
        description="where W&B runs go. auto: `WANDB_MODE` if it is set, else online if you are logged in, else offline.",
    )
    project: str = Field("scalesweep", description="W&B project")
    entity: str | None = Field(None, description="W&B user or team. Without it, your default one.")
    tags: list[str] = Field(default_factory=list, description="tags that every run gets beside its own")
    log_model: bool = Field(
        False, description="upload a promoted model as an artifact, with the aliases `promoted` and its trial"
    )


class TrackingSpec(Strict):
    wandb: WandbSpec = Field(
        default_factory=lambda: WandbSpec(mode="disabled"), description="Weights & Biases. Without it, nothing is logged there."
    )


class AdaptSpec(Strict):
    """The promoted model that a sweep adapts, and what a better one has to reach."""

    model: str = Field(description="folder that `promote` wrote. A relative path starts like that of `data.path`.")
    better_by: float = Field(
        0.0,
        ge=0,
        description="least improvement on the new test split, in units of the metric. All of its 95 % interval has to be better by more "
        "than this.",
    )
    worse_by: float = Field(
        0.02,
        ge=0,
        description="most worsening on the old test split, in units of the metric: 0.02 is 2 points of accuracy. All of its 95 % interval "
        "has to be within.",
    )


class SweepSpec(Strict):
    """A whole sweep. Build it with `load_sweep(path)` or `sweep_from_dict(data)`, which also check fields against each other."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run folder (`runs/NAME`), the Optuna study and the W&B group: letters, digits, `.`, `_`, `-`; "
        "the first is a letter or digit",
    )
    task: Task = Field(
        description=f"what the model learns to predict. {'; '.join(f'{name}: {row.help}' for name, row in TASKS.items())}."
    )
    data: DataSpec = Field(description="rows to learn from, and how they are split")
    ladder: DepthLadder | list[LadderSize] = Field(
        description="model sizes: one checkpoint cut by depth, or a list of checkpoints, smallest first"
    )
    search_space: SearchSpace = Field(
        description="path of a search space relative to the sweep file, or the mapping itself. From `Sweep.from_dict`, the path "
        "is relative to the working folder."
    )
    metric: MetricSpec = Field(default_factory=MetricSpec, description="metric that decides")
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="settings that all trials share")
    early_terminate: EarlyTerminateSpec = Field(description="fidelity, length of a trial, and rungs")
    search: SearchSpec = Field(default_factory=SearchSpec, description="method that proposes trials")
    budget: BudgetSpec = Field(description="limits of the sweep. At least one of the first four is needed.")
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec, description="workers, nodes, memory and prices")
    tracking: TrackingSpec = Field(default_factory=TrackingSpec, description="experiment trackers")
    adapt: AdaptSpec | None = Field(
        None, description="model that is adapted. `promote` then exports only what is better. `scalesweep adapt` writes it."
    )

    _documents: tuple[Document, Document | None] | None = PrivateAttr(default=None)
    _foreign: bool = PrivateAttr(default=False)

    def __eq__(self, other: object) -> bool:
        # Two equal sweeps may come from different files.
        return self.model_dump() == other.model_dump() if isinstance(other, SweepSpec) else NotImplemented

    def __repr__(self) -> str:
        return f"<SweepSpec {self.name}: {self.task}, {len(self.search_space.parameters)} parameters>"

    @property
    def foreign(self) -> bool:
        """Whether the space may hold parameters that training does not know (table columns, in a simulation)."""
        return self._foreign

    @property
    def space_file(self) -> str | None:
        """The file that the search space was read from; None if it is part of the sweep file."""
        space = self._documents[1] if self._documents else None
        return space.file if space else None

    @property
    def goal(self) -> Goal:
        """The direction of the metric, as the sweep states it or the metric's name shows it.

        Raises:
            UserError: neither shows it, which happens only for metrics of a table.
        """
        goal = self.metric.goal or goal_of(self.metric.name)
        if goal is None:
            hint = "write metric.goal: minimize or maximize, or use --set metric.goal=minimize"
            raise UserError(f"the direction of {self.metric.name} is unknown", hint)
        return goal

    @property
    def loss_sign(self) -> float:
        """The sign that turns the metric into a loss, which is lower for better trials."""
        return 1.0 if self.goal == "minimize" else -1.0

    def sizes(self) -> list[LadderSize]:
        """Return the sizes of the ladder in the user's order, which is smallest first."""
        return self.ladder.sizes() if isinstance(self.ladder, DepthLadder) else list(self.ladder)

    def size(self, name: str) -> LadderSize:
        return next(size for size in self.sizes() if size.name == name)

    def price(self, size_name: str) -> float | None:
        """Return the dollars per GPU hour of a size; None without a price."""
        return price_of(self.resources.dollars_per_gpu_hour, self.size(size_name).accelerator_type)

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """Build a problem at a key of this spec, with the file and line of that key."""
        if self._documents is None:
            return Problem(message, key_text(path), hint=hint)
        sweep, space = self._documents
        if space is not None and path[:1] == ("search_space",) and len(path) > 1:
            return space.problem(path[1:], message, hint)
        return sweep.problem(path, message, hint)
