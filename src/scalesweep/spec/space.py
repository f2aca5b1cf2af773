"""The search space: which parameters exist, how each may vary, and when it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str


@dataclass(frozen=True)
class ParameterInfo:
    """What a parameter may be. `low` and `high` bound it inclusively (numbers only), unless `above_low`: then it lies above
    `low`. `choices` lists its words, where they are known without the sweep (`None`: they depend on the sweep)."""

    kind: Literal["int", "float", "word"]
    default: Scalar | None
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    above_low: bool = False


UNFREEZING_MODES = ("full", "head", "gradual", "chain_thaw", "lp_ft")
THAWING_MODES = ("gradual", "chain_thaw", "lp_ft")  # those that change what is trained as they go
CADENCES = ("steps", "epoch", "fraction", "plateau")

# The joint space. A parameter that a space leaves out keeps its default; None means "as the checkpoint has it".
PARAMETERS: dict[str, ParameterInfo] = {
    "model_size": ParameterInfo("word", None, "name of a ladder size"),
    "num_gpus": ParameterInfo("int", 1, "workers of the trial, one GPU each (CPU workers where there is no GPU)", 1, 4096),
    "unfreezing": ParameterInfo(
        "word", "full", "what is trained, and in which stages (thaws lead from one to the next)", choices=UNFREEZING_MODES
    ),
    "unfreeze_cadence": ParameterInfo("word", "steps", "what the time between two thaws is counted in", choices=CADENCES),
    "unfreeze_interval": ParameterInfo("int", 100, "steps between two thaws (unfreeze_cadence: steps)", 1, 10**9),
    "unfreeze_fraction": ParameterInfo(
        "float", 0.1, "share of the run between two thaws (unfreeze_cadence: fraction)", 0.0, 1.0, above_low=True
    ),
    "unfreeze_patience": ParameterInfo(
        "int", 1, "evaluations without improvement before the next thaw (unfreeze_cadence: plateau)", 1, 10**9
    ),
    "thaw_warmup_steps": ParameterInfo("int", 0, "steps of a newly thawed group's own linear warm-up", 0, 10**9),
    "learning_rate": ParameterInfo("float", 5e-5, "peak learning rate of the head", 0.0, 10.0),
    "layerwise_lr_decay": ParameterInfo("float", 1.0, "factor on the rate per layer group downwards", 0.0, 1.0),
    "lr_scheduler_type": ParameterInfo("word", "linear", "learning-rate schedule"),
    "warmup_ratio": ParameterInfo("float", 0.0, "share of the steps that warm up", 0.0, 1.0),
    "decay_ratio": ParameterInfo("float", 0.2, "share of the steps that decay (warmup_stable_decay)", 0.0, 1.0),
    "min_lr_ratio": ParameterInfo("float", 0.1, "last rate ÷ peak (cosine_with_min_lr)", 0.0, 1.0),
    "lr_power": ParameterInfo("float", 2.0, "exponent of the polynomial schedule", 0.0, 10.0),
    "weight_decay": ParameterInfo("float", 0.01, "AdamW weight decay (never on biases and norms)", 0.0, 10.0),
    "adam_beta1": ParameterInfo("float", 0.9, "AdamW first-moment decay", 0.0, 0.9999999),
    "adam_beta2": ParameterInfo("float", 0.999, "AdamW second-moment decay", 0.0, 0.9999999),
    "adam_epsilon": ParameterInfo("float", 1e-8, "AdamW epsilon", 0.0, 1.0),
    "dropout": ParameterInfo("float", None, "dropout on hidden states", 0.0, 0.999),
    "attention_dropout": ParameterInfo("float", None, "dropout on attention probabilities", 0.0, 0.999),
    "embedding_dropout": ParameterInfo("float", None, "dropout on embeddings", 0.0, 0.999),
    "classifier_dropout": ParameterInfo("float", None, "dropout before the classifier", 0.0, 0.999),
    "layerdrop": ParameterInfo("float", None, "probability to skip a whole block", 0.0, 0.999),
    "label_smoothing_factor": ParameterInfo("float", 0.0, "label smoothing of the training loss", 0.0, 0.999),
    "max_grad_norm": ParameterInfo("float", 1.0, "gradient clipping norm; 0 switches it off", 0.0, 1e9),
    "global_batch_size": ParameterInfo("int", None, "examples per optimizer step over all workers", 1, 10**9),
}

# Names with which W&B, transformers or papers call the same thing: used for hints alone.
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
}
# The same for words that a parameter takes, in lower case and with `_` for `-`.
VALUE_ALIASES = {
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

Distribution = Literal["constant", "categorical", "int_uniform", "uniform", "log_uniform_values"]


class Parameter(BaseModel):
    """How one parameter varies: `value` fixes it, `values` lists choices, `min` and `max` span a range."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    value: Scalar | None = None
    values: list[Scalar] | None = None
    min: float | int | None = None
    max: float | int | None = None
    distribution: Distribution | None = None
    prior: Scalar | None = Field(None, description="the value you believe to be best: tried first, and near it more often")
    when: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)

    @property
    def kind(self) -> Distribution:
        """The distribution, spelled out where the user left it to W&B's defaults."""
        if self.distribution is not None:
            return self.distribution
        if self.value is not None:
            return "constant"
        if self.values is not None:
            return "categorical"
        return "int_uniform" if isinstance(self.min, int) and isinstance(self.max, int) else "uniform"

    def choices(self) -> list[Scalar] | None:
        """The finite choices, or None for a range."""
        if self.value is not None:
            return [self.value]
        return list(self.values) if self.values is not None else None

    def describe(self) -> str:
        """One line for a person: `log_uniform_values 1e-05 … 0.01`."""
        if self.kind == "constant":
            return f"{self.value}"
        if self.kind == "categorical":
            return " | ".join(str(v) for v in self.values or [])
        return f"{self.kind} {self.min:g} … {self.max:g}"

    def holds(self, params: dict[str, Any]) -> bool:
        """Whether this parameter exists beside `params` (all parameters drawn before it)."""
        for name, wanted in self.when.items():
            if name not in params or params[name] not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True


class SearchSpace(BaseModel):
    """The parameters that a sweep varies or fixes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    parameters: dict[str, Parameter]

    def depends_on(self, name: str) -> set[str]:
        """What has to be drawn before `name`: what its `when` names, and the size before the GPU count (`min_gpus`)."""
        implied = {"model_size"} if name == "num_gpus" else set()
        return (set(self.parameters[name].when) | implied) & self.parameters.keys()

    def ordered(self) -> list[tuple[str, Parameter]]:
        """Parameters, each after those it depends on. Raises ValueError on a cycle (checked at load)."""
        done: dict[str, Parameter] = {}
        waiting = dict(self.parameters)
        while waiting:
            ready = [name for name in waiting if not waiting.keys() & self.depends_on(name)]
            if not ready:
                raise ValueError(f"cycle of `when` among {', '.join(waiting)}")
            for name in ready:
                done[name] = waiting.pop(name)
        return list(done.items())
