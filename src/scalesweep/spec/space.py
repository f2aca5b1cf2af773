"""The search space: the known parameters, and how a sweep varies each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str


@dataclass(frozen=True)
class ParameterInfo:
    """Type, default and range of a parameter.

    `low` and `high` are inclusive bounds of a number; with `above_low`, `low` itself is excluded. `fractions` are further
    values of a whole number. `choices` lists the allowed words; None means that they depend on the sweep. The first sentence
    of `help` also appears in hints.
    """

    kind: Literal["int", "float", "word", "bool"]
    default: Scalar | None
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    above_low: bool = False
    knob: bool = False  # of regularization; without a value, the checkpoint's own holds
    fractions: tuple[float, ...] = ()


# Modes of unfreezing, with what trains in which stage. A thaw leads from one stage to the next.
UNFREEZING_MODES: dict[str, str] = {
    "full": "everything, from the first step",
    "head": "the head alone, throughout",
    "gradual": "the head; then one more layer group per stage, from the top (Howard & Ruder, 2018, arXiv 1801.06146)",
    "chain_thaw": "the head; then every other group alone, from the bottom up; then everything (Felbo et al., 2017, arXiv "
    "1708.00524)",
    "lp_ft": "the head; then everything (Kumar et al., 2022, arXiv 2202.10054)",
}
THAWING_MODES = ("gradual", "chain_thaw", "lp_ft")  # the modes that unfreeze further layer groups during training


class CadenceInfo(NamedTuple):
    """One row of `CADENCES`. `training/methods/cadence.py` has its function.

    `parameter` is the one that it reads. `short` is its form in a line about a trial. With `by_metric`, thaws follow the
    evaluations of the trial, so a run without evaluations takes them from an earlier one.
    """

    help: str
    parameter: str | None
    short: str
    by_metric: bool = False


# When a thaw comes.
CADENCES: dict[str, CadenceInfo] = {
    "steps": CadenceInfo("every `unfreeze_interval` optimizer steps", "unfreeze_interval", "{unfreeze_interval}"),
    "epoch": CadenceInfo("at the beginning of every epoch", None, "epoch"),
    "fraction": CadenceInfo("every `unfreeze_fraction` of the run", "unfreeze_fraction", "{unfreeze_fraction:.3g}"),
    "plateau": CadenceInfo(
        "after `unfreeze_patience` evaluations in a row that did not improve the sweep's metric. Evaluations are at rungs and "
        "every `training.eval_interval` steps.",
        "unfreeze_patience",
        "plateau {unfreeze_patience}",
        by_metric=True,
    ),
}


# Adapters: small matrices beside the linear layers, which train in place of the weights.
class AdapterInfo(NamedTuple):
    """One row of `ADAPTERS`: its `file` in `training/methods/`, and what it does beside a low-rank update."""

    help: str
    file: str = "adapters"
    magnitudes: bool = False  # the magnitude of each output trains too
    four_bits: bool = False  # the linear layers of the blocks are kept in 4 bits


ADAPTERS: dict[str, AdapterInfo] = {
    "none": AdapterInfo("no adapter: the weights themselves train", file="method"),
    "lora": AdapterInfo("a low-rank update of each linear layer (Hu et al., 2021, arXiv 2106.09685)"),
    "dora": AdapterInfo(
        "LoRA with the magnitude of each output trained apart (Liu et al., 2024, arXiv 2402.09353)", magnitudes=True
    ),
    "qlora": AdapterInfo(
        "LoRA on linear layers that are kept in 4 bits (NF4 with double quantization: Dettmers et al., 2023, arXiv "
        "2305.14314). Needs bitsandbytes.",
        four_bits=True,
    ),
}
ALL_LINEAR = "all-linear"

_BETA, _RATE, _BIG = 0.9999999, 0.999, 10**9

# The joint space. A parameter that a space leaves out keeps its default; None means "as the checkpoint has it".
PARAMETERS: dict[str, ParameterInfo] = {
    "model_size": ParameterInfo("word", None, "name of a ladder size. The default is the first size."),
    "num_gpus": ParameterInfo(
        "int",
        1,
        "workers of the trial, one GPU each. They are CPU workers where the cluster has no GPU. 0.5, 0.25 or 0.125 is one "
        "worker on that share of a GPU, which other trials share. A size draws from the values that reach its `min_gpus`.",
        1,
        4096,
        fractions=(0.125, 0.25, 0.5),
    ),
    "unfreezing": ParameterInfo("word", "full", "layer groups that train, by stage", choices=tuple(UNFREEZING_MODES)),
    "unfreeze_cadence": ParameterInfo("word", "steps", "rule for when the next thaw comes", choices=tuple(CADENCES)),
    "unfreeze_interval": ParameterInfo(
        "int",
        100,
        "steps between two thaws. Only for `unfreeze_cadence: steps`.",
        1,
        _BIG,
    ),
    "unfreeze_fraction": ParameterInfo(
        "float",
        0.1,
        "share of the run between two thaws. Only for `unfreeze_cadence: fraction`.",
        0.0,
        1.0,
        above_low=True,
    ),
    "unfreeze_patience": ParameterInfo(
        "int",
        1,
        "evaluations without improvement before the next thaw. Only for `unfreeze_cadence: plateau`.",
        1,
        _BIG,
    ),
    "thaw_warmup_steps": ParameterInfo(
        "int",
        0,
        "steps over which a newly thawed group's rate rises linearly. Groups that train from the start have no such warm-up.",
        0,
        _BIG,
    ),
    "adapter": ParameterInfo("word", "none", "adapters that train in place of the weights", choices=tuple(ADAPTERS)),
    "lora_rank": ParameterInfo("int", 8, "rank of an adapter's two matrices", 1, 65536),
    "lora_alpha": ParameterInfo("int", 32, "scale of an adapter: its update counts `lora_alpha` ÷ `lora_rank` times", 1, _BIG),
    "lora_dropout": ParameterInfo("float", 0.0, "dropout on the input of an adapter", 0.0, _RATE),
    "lora_target_modules": ParameterInfo(
        "word",
        ALL_LINEAR,
        "linear layers of the blocks that get an adapter: `all-linear`, or the last parts of their names, with commas "
        "(`q_proj,v_proj`).",
    ),
    "use_rslora": ParameterInfo(
        "bool", False, "scale by `lora_alpha` ÷ √`lora_rank` instead (Kalajdzievski, 2023, arXiv 2312.03732)"
    ),
    "adapter_lr_ratio": ParameterInfo(
        "float",
        10.0,
        "factor on `learning_rate` in a trial with an adapter, so that one axis of rates serves both kinds. The best rate with "
        "LoRA is about 10 times that of full fine-tuning (Schulman et al., LoRA Without Regret, 2025).",
        0.0,
        1e6,
        above_low=True,
    ),
    "learning_rate": ParameterInfo("float", 5e-5, "peak learning rate of the head", 0.0, 10.0),
    "layerwise_lr_decay": ParameterInfo(
        "float", 1.0, "factor on the peak learning rate per layer group, from the head downwards", 0.0, 1.0
    ),
    "lr_scheduler_type": ParameterInfo("word", "linear", "learning-rate schedule"),
    "warmup_ratio": ParameterInfo("float", 0.0, "share of the steps that warm up", 0.0, 1.0),
    "decay_ratio": ParameterInfo(
        "float",
        0.2,
        "share of the steps that decay. Only for `warmup_stable_decay`.",
        0.0,
        1.0,
    ),
    "min_lr_ratio": ParameterInfo("float", 0.1, "last learning rate ÷ peak. Only for `cosine_with_min_lr`.", 0.0, 1.0),
    "lr_power": ParameterInfo("float", 2.0, "exponent of the decay. Only for `polynomial`.", 0.0, 10.0),
    "weight_decay": ParameterInfo(
        "float", 0.01, "AdamW weight decay. Parameters of one dimension (biases and norms) have none.", 0.0, 10.0
    ),
    "adam_beta1": ParameterInfo("float", 0.9, "decay of AdamW's first moment", 0.0, _BETA),
    "adam_beta2": ParameterInfo("float", 0.999, "decay of AdamW's second moment", 0.0, _BETA),
    "adam_epsilon": ParameterInfo("float", 1e-8, "AdamW epsilon", 0.0, 1.0),
    "dropout": ParameterInfo("float", None, "dropout on hidden states", 0.0, _RATE, knob=True),
    "attention_dropout": ParameterInfo("float", None, "dropout on attention probabilities", 0.0, _RATE, knob=True),
    "embedding_dropout": ParameterInfo("float", None, "dropout on embeddings", 0.0, _RATE, knob=True),
    "classifier_dropout": ParameterInfo("float", None, "dropout before the classifier", 0.0, _RATE, knob=True),
    "layerdrop": ParameterInfo("float", None, "probability of skipping a whole block", 0.0, _RATE, knob=True),
    "label_smoothing_factor": ParameterInfo("float", 0.0, "label smoothing, in the training loss alone", 0.0, _RATE),
    "max_grad_norm": ParameterInfo("float", 1.0, "largest norm of all gradients together; 0 switches clipping off", 0.0, 1e9),
    "rehearsal_share": ParameterInfo(
        "float",
        0.0,
        "share of each epoch's examples that are drawn from the train split of `data.earlier`. All examples of `data` are in each epoch.",
        0.0,
        0.95,
    ),
    "global_batch_size": ParameterInfo(
        "int",
        None,
        "examples per optimizer step over all workers. The default is `training.global_batch_size`.",
        1,
        _BIG,
    ),
    "train_share": ParameterInfo(
        "float",
        1.0,
        "share of the train split's rows that a trial trains on; a smaller share is part of a larger one. The trial's length is "
        "this share of `max_t`, so every share is passed over as often. Needs `early_terminate.type: none`.",
        0.0,
        1.0,
        above_low=True,
    ),
}

KNOBS = tuple(name for name, info in PARAMETERS.items() if info.knob)

# Names for the same parameter in W&B, transformers and papers. Only hints use them.
ALIASES = {
    "lr": "learning_rate",
    "peak_lr": "learning_rate",
    "batch_size": "global_batch_size",
    "per_device_train_batch_size": "global_batch_size",
    "num_workers": "num_gpus",
    "gpus": "num_gpus",
    "model": "model_size",
    "size": "model_size",
    "scheduler": "lr_scheduler_type",
    "lr_schedule": "lr_scheduler_type",
    "label_smoothing": "label_smoothing_factor",
    "warmup_steps": "warmup_ratio",
    "hidden_dropout": "dropout",
    "layer_decay": "layerwise_lr_decay",
    "llrd": "layerwise_lr_decay",
    "cadence": "unfreeze_cadence",
    "unfreeze_schedule": "unfreeze_cadence",
    "unfreeze_steps": "unfreeze_interval",
    "unfreeze_every": "unfreeze_interval",
    "patience": "unfreeze_patience",
    "thaw_warmup": "thaw_warmup_steps",
    "gradual_unfreezing": "unfreezing",
    "freezing": "unfreezing",
    "grad_clip": "max_grad_norm",
    **dict.fromkeys(("r", "rank", "lora_r"), "lora_rank"),
    "alpha": "lora_alpha",
    "target_modules": "lora_target_modules",
    **dict.fromkeys(("lora", "peft", "use_dora", "load_in_4bit"), "adapter"),
    "rslora": "use_rslora",
    "lora_lr_ratio": "adapter_lr_ratio",
    **dict.fromkeys(("rehearsal", "replay", "replay_ratio", "rehearsal_ratio"), "rehearsal_share"),
}
# The same for the words of a parameter, in lower case and with `_` for `-`.
# Names of `TrainingArguments` and other tools for what is a key of the sweep file here. Only hints use them.
_LENGTH = "early_terminate.max_t, the length of a trial; `plan` prints it in epochs"
_BATCH = "training.global_batch_size, the examples of a step over all workers; training.micro_batch_size is a worker's share"
KEY_ALIASES = {
    **dict.fromkeys(("num_train_epochs", "num_epochs", "epochs", "max_epochs"), _LENGTH),
    **dict.fromkeys(
        ("max_steps", "num_train_steps", "num_training_steps", "steps"), "early_terminate.max_t with time_attr: steps"
    ),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size", "batch_size"), _BATCH),
    "gradient_accumulation_steps": "training.micro_batch_size; accumulation follows from it and from global_batch_size",
    **dict.fromkeys(
        ("eval_steps", "eval_strategy", "evaluation_strategy", "logging_steps"), "training.eval_interval, in steps"
    ),
    **dict.fromkeys(("save_steps", "save_strategy"), "training.checkpoint_interval, in steps"),
    **dict.fromkeys(("fp16", "bf16", "precision", "amp"), "training.mixed_precision: auto, no, fp16 or bf16"),
    **dict.fromkeys(("sample_packing", "pack"), "training.packing: auto or off"),
    **dict.fromkeys(("optim", "optimizer"), "training.optimizer: adamw or adamw_8bit"),
    **dict.fromkeys(("dtype", "torch_dtype", "model_dtype"), "training.base_dtype: float32 or bf16, for frozen weights"),
    "metric_for_best_model": "metric.name",
    "greater_is_better": "metric.goal: maximize or minimize",
    "data_seed": "data.split_seed",
    "report_to": "tracking",
    "run_name": "name",
    "output_dir": "the option --run-dir of `launch`",
    **dict.fromkeys(("model", "model_name", "model_name_or_path", "checkpoint"), "ladder.model"),
    **dict.fromkeys(("max_seq_length", "max_seq_len"), "data.max_length"),
    **dict.fromkeys(("num_trials", "n_trials", "num_samples"), "budget.run_cap"),
    **dict.fromkeys(("timeout", "time_budget_s"), "budget.time"),
}
_SWITCH = {"true": "auto", "on": "auto", "false": "off"}
VALUE_ALIASES = {  # of parameters and of keys of the sweep file
    "base_dtype": {"bfloat16": "bf16", "fp32": "float32"},
    "mixed_precision": {"bfloat16": "bf16", "float16": "fp16", "fp32": "no", "float32": "no"},
    "optimizer": {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"},
    "packing": _SWITCH,
    "prefix_cache": _SWITCH,
    "unfreezing": {
        "all": "full",
        "fine_tuning": "full",
        "linear_probe": "head",
        "linear_probing": "head",
        "probe": "head",
        "ulmfit": "gradual",
        "chainthaw": "chain_thaw",
        "lpft": "lp_ft",
        "linear_probe_then_fine_tune": "lp_ft",
    },
    "unfreeze_cadence": {
        "step": "steps",
        "interval": "steps",
        "epochs": "epoch",
        "ratio": "fraction",
        "share": "fraction",
        "patience": "plateau",
    },
}


def alias_of(name: str | int, value: Any) -> str | None:
    """Return scalesweep's word for a value of a parameter or key that other tools know by `value`; None if there is none."""
    return VALUE_ALIASES.get(str(name), {}).get(str(value).lower().replace("-", "_"))


Distribution = Literal["constant", "categorical", "int_uniform", "uniform", "log_uniform_values"]


class Parameter(BaseModel):
    """The variation of one parameter: `value` fixes it, `values` lists choices, `min` and `max` span a range."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    value: Scalar | None = Field(None, description="fixed value")
    values: list[Scalar] | None = Field(None, description="values to choose from")
    min: float | int | None = Field(None, description="smallest value of a range")
    max: float | int | None = Field(None, description="largest value of a range, which includes both ends")
    distribution: Distribution | None = Field(
        None,
        description="distribution of the draws. By default `constant` with `value`, `categorical` with `values`, `int_uniform` "
        "where `min` and `max` are whole numbers, else `uniform`. A range may have `log_uniform_values` (`min` above 0).",
    )
    prior: Scalar | None = Field(
        None,
        description="value that you believe to be best. The sampler forecast tries it first and then stays near it more often; other "
        "samplers don't read it. Refused beside `value`.",
    )
    when: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict,
        description="other parameters, each with the value or values for which this one exists. All entries must hold.",
    )

    @property
    def kind(self) -> Distribution:
        """Return the distribution. Where the user names none, W&B's defaults apply."""
        if self.distribution is not None:
            return self.distribution
        if self.value is not None:
            return "constant"
        if self.values is not None:
            return "categorical"
        return "int_uniform" if isinstance(self.min, int) and isinstance(self.max, int) else "uniform"

    def choices(self) -> list[Scalar] | None:
        """Return the listed values, or None for a range."""
        if self.value is not None:
            return [self.value]
        return list(self.values) if self.values is not None else None

    def takes(self, value: Any) -> bool:
        """Return whether the parameter can have this value."""
        choices = self.choices()
        if choices is not None:  # True == 1 in Python, but not here
            return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)
        kind = int if self.kind == "int_uniform" else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.min <= value <= self.max  # type: ignore[operator]

    def describe(self) -> str:
        """Describe the parameter in one line, e.g. `log_uniform_values 1e-05 … 0.01`."""
        if self.kind == "constant":
            return f"{self.value}"
        if self.kind == "categorical":
            return " | ".join(str(v) for v in self.values or [])
        return f"{self.kind} {self.min:g} … {self.max:g}"

    def holds(self, params: dict[str, Any]) -> bool:
        """Return whether `when` holds for `params`, the parameters drawn before this one."""
        for name, wanted in self.when.items():
            if name not in params or params[name] not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True


class SearchSpace(BaseModel):
    """The parameters that a sweep varies or fixes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    parameters: dict[str, Parameter] = Field(description="how each parameter varies, by name")

    def depends_on(self, name: str) -> set[str]:
        """Return the parameters that must be drawn before `name`: those in its `when`, and model_size before num_gpus (`min_gpus`)."""
        implied = {"model_size"} if name == "num_gpus" else set()
        return (set(self.parameters[name].when) | implied) & self.parameters.keys()

    def ordered(self) -> list[tuple[str, Parameter]]:
        """Return the parameters, each after those it depends on. Raises ValueError on a cycle, which loading excludes."""
        done: dict[str, Parameter] = {}
        waiting = dict(self.parameters)
        while waiting:
            ready = [name for name in waiting if not waiting.keys() & self.depends_on(name)]
            if not ready:
                raise ValueError(f"cycle of `when` among {', '.join(waiting)}")
            for name in ready:
                done[name] = waiting.pop(name)
        return list(done.items())
