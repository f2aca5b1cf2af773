"""Modelled learning curves of fine-tuning over the joint space, for testing a search where the truth is known.

The loss of a configuration x on a model of N parameters, after the share u of a run of D tokens:

    L(x, u) = E + A(N) + H·(1 − exp(−(data + wrong + anneal + slow) / H))

    A(N)    irreducible part of the size, a power law (Hoffmann et al. 2022, L = E + A/N^α + B/D^β); or a bowl over sizes
    data    the D-term at u·D tokens
    wrong   the loss from hyperparameters: quadratic around optima, some of which move with N and D as in the step law
            (Li et al. 2025, arXiv 2503.04715: lr = 1.79 N^−0.713 D^0.307, batch = 0.58 D^0.571 tokens)
    anneal  loss that disappears as the learning rate decays
    slow    a slow start, 0 at the end: larger models, low learning rates and late thaws take longer
    H       headroom: no run is worse than no fine-tuning, unless it diverges

An absent parameter counts as optimal. `FAMILIES` holds the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalesweep.costs import FLOPS_PER_GPU_SECOND
from scalesweep.simulation.source import Curve
from scalesweep.spec.config import WHOLE, rung_levels
from scalesweep.spec.space import UNFREEZING_MODES
from scalesweep.spec.sweep import SweepSpec

Array = np.ndarray
Columns = dict[str, Array]  # parameter → one float per configuration (words as below); NaN, or no column, if it is absent

REF_PARAMS = 4e8  # N and D to which the numbers below refer
REF_TOKENS = 8e7
GROUPS = 12  # layer groups that gradual unfreezing thaws one by one
EVALUATIONS = 27  # evaluations of a curve, besides those at its rungs

# Learning rate ÷ peak at the share u of the run, without warm-up.
RATES: dict[str, Callable[[Array], Array]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + np.cos(np.pi * u)) / 2,
    "cosine_with_min_lr": lambda u: 0.1 + 0.45 * (1 + np.cos(np.pi * u)),
    "polynomial": lambda u: (1 - u) ** 2,
    "inverse_sqrt": lambda u: (1 + u / 0.06) ** -0.5,
    "warmup_stable_decay": lambda u: np.minimum(1, (1 - u) / 0.2),
    "slanted_triangular": lambda u: np.maximum(1 - u, 1 / 32),
    "constant_with_warmup": np.ones_like,
    "constant": np.ones_like,
}
_SCHEDULES = tuple(RATES)
_MODES = tuple(UNFREEZING_MODES)
_SIZE_AND_COST = ("model_size", "num_gpus", "unfreezing", "unfreeze_interval", "global_batch_size")
_OTHERS = ("learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "dropout", "label_smoothing_factor")
_MATTER = (*_SIZE_AND_COST, *_OTHERS)
_ABSENT = np.full((1, 1), np.nan)


@dataclass(frozen=True)
class Family:
    """The numbers of the law; losses are in nats per token. Exponents come from the named papers. The other numbers were chosen
    before any search ran on them (the slow starts by the share of random pairs that change order between first rung and end)."""

    name: str
    description: str

    # The sweep of the family (`family_spec`).
    sizes: Mapping[str, float]  # model size → parameters, smallest first
    gpus: tuple[int, ...] = (1, 2, 4)
    batches: tuple[int, ...] = ()  # global_batch_size, examples; empty: 64, not searched
    time_attr: str = "steps"
    max_t: int = 2430  # of time_attr; the first rung is at 1/27 of it
    lr_range: tuple[float, float] = (3e-6, 3e-3)

    # Best loss.
    floor: float = 1.69  # E (Hoffmann et al. 2022)
    size_loss: float = 0.25  # A(REF_PARAMS)
    size_exponent: float = 0.34  # α (Hoffmann et al. 2022)
    bowl: float = 0.0  # loss per squared octave between a size and the best one; replaces A(N) if it isn't 0
    bowl_at: float = REF_PARAMS  # parameters of that best size
    data_loss: float = 0.15  # B-term at REF_TOKENS
    data_exponent: float = 0.28  # β (Hoffmann et al. 2022)
    headroom: float = 1.2  # H: loss before fine-tuning, above E + A(N)

    # Learning rate: lr* = lr_best (N/REF_PARAMS)^−lr_size_exponent (D/REF_TOKENS)^lr_data_exponent × 8 for a head alone.
    lr_best: float = 1.2e-4  # about a third of the step law's rate for pre-training
    lr_size_exponent: float = 0.713  # step law
    lr_data_exponent: float = 0.307  # step law
    lr_loss: float = 0.012  # per squared octave below lr*
    lr_steep: float = 2.0  # factor on lr_loss above lr*
    lr_diverges: float = 3.5  # octaves above lr* from which training diverges, the earlier the larger the distance
    head_lr_octaves: float = 3.0

    # Batch: batch* = batch_best (D/REF_TOKENS)^batch_data_exponent (N/REF_PARAMS)^batch_size_exponent tokens.
    batch_best: float = 19_000.0  # step law: 0.58 × REF_TOKENS^0.571
    batch_data_exponent: float = 0.571  # step law
    batch_size_exponent: float = 0.0  # a better model has a larger critical batch (McCandlish et al. 2018)
    batch_loss: float = 0.010  # per squared octave

    # Unfreezing: the loss that each mode adds, and the factor on its slow start.
    mode_loss: tuple[float, ...] = (0.0, 0.20, 0.010, 0.020, 0.005)  # of UNFREEZING_MODES: full, head, gradual, …
    mode_slow: tuple[float, ...] = (1.0, 0.5, 1.8, 1.8, 1.3)
    interval_best: float = 0.03  # share of the run between two thaws
    interval_loss: float = 0.004  # per squared octave

    # Schedule and regularization. A larger model needs more regularization.
    schedule_loss: Mapping[str, float] = field(  # of the schedules with one
        default_factory=lambda: {"linear": 0.002, "polynomial": 0.006, "slanted_triangular": 0.003}
    )
    anneal_loss: float = 0.03  # at the full rate lr*; grows with the square root of the rate
    warmup_best: float = 0.06
    warmup_loss: float = 0.006  # per squared tenth of the run
    decay_best: float = 0.01  # weight_decay* at REF_PARAMS
    decay_exponent: float = 0.4  # in N
    decay_loss: float = 0.0015  # per squared octave
    dropout_best: float = 0.10  # dropout* at REF_PARAMS
    dropout_slope: float = 0.03  # per octave of N
    dropout_loss: float = 0.02  # per squared tenth
    smoothing_best: float = 0.05  # label_smoothing_factor* at REF_PARAMS
    smoothing_slope: float = 0.01  # per octave of N
    smoothing_loss: float = 0.02  # per squared tenth

    # Slow start: slow_loss (exp(−u/τ) − exp(−1/τ)), τ = slow_share (N/REF)^slow_exponent (lr*/lr)^slow_lr × mode_slow.
    slow_loss: float = 0.35
    slow_share: float = 0.10  # of the run
    slow_exponent: float = 0.25
    slow_lr: float = 0.25

    # Noise, and cost: efficiency = 1 / (1 + overhead (gpus − 1) (REF_PARAMS/N)^overhead_exponent).
    run_noise: float = 0.004  # sd between seeds, the same along a run
    evaluation_noise: float = 0.003  # sd of each evaluation
    overhead: float = 0.02  # of each further GPU
    overhead_exponent: float = 0.4


_PYTHIA = {"70m": 70e6, "160m": 160e6, "410m": 410e6, "1.4b": 1.4e9}
_GPT3 = {"125m": 125e6, "350m": 350e6, "760m": 760e6, "1.3b": 1.3e9, "2.7b": 2.7e9}
_TREND = Family("trend", "optima move with size by power laws; larger sizes are better at equal steps and cost more", _PYTHIA)
_DEEP = Family(
    "trend_deep",
    "like trend, with five sizes; the best batch size also moves with size, and the best rate moves less",
    _GPT3,
    time_attr="tokens",
)
_CROSSING = Family("crossing", "curves cross: large sizes, low rates and gradual unfreezing start slowly but end best", _PYTHIA)
_POOR = Family("poor_scaling", "GPU seconds grow fast with the GPU count, most for small sizes", _PYTHIA, gpus=(1, 2, 4, 8))
_NONE = Family("no_trend", "a medium size is best, and no optimum moves with size, so assuming a size trend is wrong", _PYTHIA)
_SLOPES = ("lr_size_exponent", "decay_exponent", "dropout_slope", "smoothing_slope", "slow_exponent")
_STILL: dict[str, Any] = dict.fromkeys(_SLOPES, 0.0)
_SLOW: dict[str, Any] = {"slow_loss": 1.5, "slow_share": 0.06, "slow_exponent": 0.6, "slow_lr": 0.8, "headroom": 2.5}
_ALL = (
    _TREND,
    replace(_DEEP, batches=(8, 16, 32, 64, 128, 256), max_t=81_000_000, lr_size_exponent=0.5, batch_size_exponent=0.25),
    replace(_CROSSING, mode_loss=(0.03, 0.20, 0.0, 0.02, 0.01), mode_slow=(1.0, 0.4, 2.5, 2.5, 1.7), **_SLOW),
    replace(_POOR, overhead=0.25),
    replace(_NONE, bowl=0.05, bowl_at=410e6, **_STILL),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def family_space(family: Family) -> dict[str, Any]:
    """The joint search space of a family, in the form of a search-space file."""
    low, high = family.lr_range
    parameters: dict[str, Any] = {
        "model_size": {"values": list(family.sizes)},
        "num_gpus": {"values": list(family.gpus)},
        "unfreezing": {"values": ["full", "head", "gradual", "lp_ft"]},
        "unfreeze_interval": {"min": 10, "max": 300, "when": {"unfreezing": ["gradual", "lp_ft"]}},
        "learning_rate": {"distribution": "log_uniform_values", "min": low, "max": high},
        "lr_scheduler_type": {"values": ["linear", "cosine", "warmup_stable_decay", "constant_with_warmup", "inverse_sqrt"]},
        "warmup_ratio": {"min": 0.0, "max": 0.2},
        "weight_decay": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.3},
        "dropout": {"min": 0.0, "max": 0.3},
    }
    batches = {"global_batch_size": {"values": list(family.batches)}} if family.batches else {}
    return {"parameters": parameters | batches}


def family_spec(named: str | Family) -> dict[str, Any]:
    """A complete sweep for a family or its name, in the form of a sweep file. Its data and models are placeholders that nothing
    reads."""
    family = FAMILIES[named] if isinstance(named, str) else named
    return {
        "name": family.name,
        "task": "causal-lm",
        "data": {"path": "none", "max_length": 512, "splits": {"train": 0.8, "validation": 0.1, "test": 0.1}},
        "ladder": [{"name": size, "model": "none"} for size in family.sizes],
        "search_space": family_space(family),
        "metric": {"name": "eval_loss", "goal": "minimize"},
        "training": {"global_batch_size": 64},
        "early_terminate": {"time_attr": family.time_attr, "grace_period": family.max_t // 27, "max_t": family.max_t},
        "budget": {"run_cap": 1000},
    }


class ParametricSource:
    """A family's curves on the space of a sweep.

    Args:
        family: the numbers of the law.
        spec: provides the space, the sizes, the fidelity and the rungs. The parameter counts of sizes come from the family's
            table; if it lacks one, they are spread geometrically over its range, in ladder order. With a metric
            to maximize, the value is exp(−loss), the likelihood per token, instead of the loss.
    """

    def __init__(self, family: Family, spec: SweepSpec) -> None:
        self.family, self.spec = family, spec
        self.notes: list[str] = [f"these curves are modelled, not measured: {family.description}"]
        names = [size.name for size in spec.sizes()]
        spread = np.geomspace(min(family.sizes.values()), max(family.sizes.values()), len(names))
        counts = [family.sizes[name] for name in names] if set(names) <= family.sizes.keys() else spread
        self.n_params: dict[str, float] = {name: float(n) for name, n in zip(names, counts, strict=True)}
        self._words: dict[str, dict[Any, float]] = {
            "model_size": dict(self.n_params),
            "unfreezing": {mode: index for index, mode in enumerate(_MODES)},
            "lr_scheduler_type": {schedule: index for index, schedule in enumerate(_SCHEDULES)},
        }
        self._space = spec.search_space.ordered()
        for name, parameter in self._space:  # words without effect, which a `when` may refer to
            if any(isinstance(choice, str) for choice in parameter.choices() or []):
                self._words.setdefault(name, {choice: index for index, choice in enumerate(parameter.choices() or [])})
        self._mode_loss, self._mode_slow = np.array(family.mode_loss), np.array(family.mode_slow)
        early = spec.early_terminate
        if early.time_attr not in WHOLE:
            raise ValueError(f"time_attr: {early.time_attr} is not supported; use one of {', '.join(WHOLE)}")
        rungs = [level for level in rung_levels(spec) if level <= early.max_t]
        fidelity = np.concatenate([early.max_t * np.arange(1, EVALUATIONS + 1) / EVALUATIONS, rungs])
        self._fidelity = np.unique(np.maximum(1, np.ceil(fidelity)))

    # ---- the Source interface ---------------------------------------------------------------------------------------

    @cached_property
    def median(self) -> float:
        return float(self._shown(np.median(self._random)))

    @cached_property
    def best(self) -> float:
        return float(self._shown(self._search_best()))

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        x = self._column(params)
        steps = self._steps(x, self._fidelity)
        total = steps[:, -1:]
        rng = np.random.default_rng(seed)
        noise = self.family.run_noise * rng.standard_normal() + self.family.evaluation_noise * rng.standard_normal(steps.shape)
        loss = self._loss(x, total, steps / total) + noise
        gpu_seconds = self._flops(x, steps) / self._speed(x)
        return Curve(self._fidelity, self._shown(loss[0]), gpu_seconds[0])

    def final(self, params: Mapping[str, Any]) -> float:
        return float(self._shown(self._final_loss(self._column(params)))[0])

    def true_rank(self, value: float) -> int:
        """The rank of `value` among 20,000 random configurations: 1 + the number of better ones."""
        loss = value if self.spec.goal == "minimize" else -np.log(value)
        return 1 + int(np.searchsorted(self._random[self._random < np.inf], loss))

    def random_losses(self, count: int, seed: int) -> Array:
        """Losses at full fidelity of random configurations of the space, float [count]; NaN for diverged ones."""
        return self._final_loss(self._draw(np.random.default_rng(seed).random((count, len(self._space)))))

    @cached_property
    def _random(self) -> Array:
        """Losses of 20,000 random configurations in ascending order; infinite where they diverge."""
        return np.sort(np.nan_to_num(self.random_losses(20_000, seed=1), nan=np.inf))

    # ---- configurations as columns ----------------------------------------------------------------------------------

    def _encode(self, name: str, value: Any) -> float:
        return float(self._words[name][value] if name in self._words else value)

    def _column(self, params: Mapping[str, Any]) -> Columns:
        return {name: np.array([[self._encode(name, params[name])]]) for name in _MATTER if name in params}

    def _draw(self, unit: Array) -> Columns:
        """Configurations from numbers in 0 … 1, [count, parameters in the order of the space]."""
        x: Columns = {}
        for (name, parameter), at in zip(self._space, unit.T[:, :, None], strict=True):
            choices, low, high = parameter.choices(), float(parameter.min or 0), float(parameter.max or 0)
            if choices is not None:
                drawn = np.array([self._encode(name, choice) for choice in choices])[(at * len(choices)).astype(int)]
            elif parameter.kind == "int_uniform":
                drawn = np.floor(low + at * (high - low + 1))
            else:
                drawn = low * (high / low) ** at if parameter.kind == "log_uniform_values" else low + at * (high - low)
            for other, wanted in parameter.when.items():
                allowed = [self._encode(other, word) for word in (wanted if isinstance(wanted, list) else [wanted])]
                drawn = np.where(np.isin(x[other], allowed), drawn, np.nan)
            x[name] = drawn
        return x

    def _search_best(self) -> float:
        """The best loss of a dense random search, followed by ever smaller mutations of the best 64 with constant choices."""
        rng, loss = np.random.default_rng(0), np.zeros(0)
        unit = rng.random((200_000, len(self._space)))
        ranges = np.array([parameter.choices() is None for _, parameter in self._space])
        for spread in (*np.geomspace(0.1, 0.001, 20), 0.0):
            loss = self._final_loss(self._draw(unit))
            unit = unit[np.argsort(loss)[:64]]  # NaN last
            near = np.repeat(unit, 40, axis=0)
            near = np.clip(near + spread * ranges * rng.standard_normal(near.shape), 0, 1 - 1e-9)
            unit = np.concatenate([unit, near])
        return float(np.nanmin(loss))

    # ---- the law ----------------------------------------------------------------------------------------------------

    def _shown(self, loss: Any) -> Any:
        return loss if self.spec.goal == "minimize" else np.exp(-loss)

    def _final_loss(self, x: Columns) -> Array:
        return self._loss(x, self._steps(x, self._fidelity[-1:]), np.ones((1, 1)))[:, 0]

    def _loss(self, x: Columns, steps: Array, u: Array) -> Array:
        """The noise-free loss at the shares `u` of runs of `steps` steps, [configurations, shares]."""
        f, n = self.family, self._size(x)
        octaves, mode = np.log2(n / REF_PARAMS), _code(x.get("unfreezing", _ABSENT))
        tokens = steps * self._step_tokens(x)
        longer = np.log2(tokens / REF_TOKENS)
        z = np.log2(x.get("learning_rate", _ABSENT) / f.lr_best) + f.lr_size_exponent * octaves - f.lr_data_exponent * longer
        z = _known(z - f.head_lr_octaves * (mode == _MODES.index("head")))  # octaves above lr*
        wrong, overfit = f.lr_loss * np.where(z > 0, f.lr_steep, 1.0) * z * z, np.zeros((1, 1))
        if "global_batch_size" in x:
            batch = np.log2(x["global_batch_size"] * self.spec.data.max_length / f.batch_best)
            wrong = wrong + f.batch_loss * _squared(batch - f.batch_data_exponent * longer - f.batch_size_exponent * octaves)
        if "unfreeze_interval" in x:
            wrong = wrong + f.interval_loss * _squared(np.log2(x["unfreeze_interval"] / steps / f.interval_best))
        if "warmup_ratio" in x:
            wrong = wrong + f.warmup_loss * _squared((x["warmup_ratio"] - f.warmup_best) / 0.1)
        if "weight_decay" in x:
            decay = np.log2(np.maximum(x["weight_decay"], 1e-6) / f.decay_best) - f.decay_exponent * octaves
            overfit = overfit + f.decay_loss * _squared(decay)
        if "dropout" in x:
            best = np.maximum(f.dropout_best + f.dropout_slope * octaves, 0)
            overfit = overfit + f.dropout_loss * _squared((x["dropout"] - best) / 0.1)
        if "label_smoothing_factor" in x:
            best = np.maximum(f.smoothing_best + f.smoothing_slope * octaves, 0)
            overfit = overfit + f.smoothing_loss * _squared((x["label_smoothing_factor"] - best) / 0.1)
        data = f.data_loss * (u * tokens / REF_TOKENS) ** -f.data_exponent
        lag = f.slow_exponent * octaves - f.slow_lr * np.minimum(np.maximum(z, -4), 2)
        tau = f.slow_share * 2**lag * self._mode_slow[mode]
        slow = f.slow_loss * (np.exp(-u / tau) - np.exp(-1 / tau))
        above = wrong + self._mode_loss[mode] + u * overfit + data + slow
        if "lr_scheduler_type" in x:
            schedule, anneal = _code(x["lr_scheduler_type"]), f.anneal_loss * 2 ** (np.minimum(np.maximum(z, -4), 3) / 2)
            for code in set(schedule.flat):
                now = anneal * RATES[_SCHEDULES[code]](u) + f.schedule_loss.get(_SCHEDULES[code], 0.0)
                above = np.where(schedule == code, above + now, above)
        size = f.bowl * np.log2(n / f.bowl_at) ** 2 if f.bowl else f.size_loss * 2 ** (-f.size_exponent * octaves)
        loss = f.floor + size + f.headroom * (1 - np.exp(-above / f.headroom))
        diverged = (z > f.lr_diverges) & (u >= np.exp(np.minimum(f.lr_diverges - z, 0)))
        return np.where(diverged, np.nan, loss)

    # ---- cost -------------------------------------------------------------------------------------------------------

    def _size(self, x: Columns) -> Array:
        return _known(x.get("model_size", _ABSENT), next(iter(self.n_params.values())))

    def _step_tokens(self, x: Columns) -> Array:
        return _known(x.get("global_batch_size", _ABSENT), self.spec.training.global_batch_size) * self.spec.data.max_length

    def _speed(self, x: Columns) -> Array:
        """FLOPs per GPU second, including the time that GPUs wait for one another."""
        f, others = self.family, np.maximum(_known(x.get("num_gpus", _ABSENT), 1.0) - 1, 0)
        return FLOPS_PER_GPU_SECOND / (1 + f.overhead * others * (REF_PARAMS / self._size(x)) ** f.overhead_exponent)

    def _thaw(self, x: Columns) -> tuple[Array, Array, Array]:
        """The FLOPs of a full step (6 N per token), the mode, and the steps until everything is thawed. The forward pass is a
        third of a full step. So `head` costs a third, `lp_ft` costs a third until its thaw, and `gradual` rises linearly."""
        full, mode, early = (
            6 * self._size(x) * self._step_tokens(x),
            _code(x.get("unfreezing", _ABSENT)),
            self.spec.early_terminate,
        )
        per_step = {"steps": 1.0, "tokens": self._step_tokens(x), "flops": full}[early.time_attr]
        interval = _known(x.get("unfreeze_interval", _ABSENT), self.family.interval_best * early.max_t / per_step)
        return full, mode, interval * np.where(mode == _MODES.index("lp_ft"), 1, GROUPS)

    def _flops(self, x: Columns, steps: Array) -> Array:
        full, mode, k = self._thaw(x)
        gradual = np.where(steps < k, steps / 3 + steps**2 / (3 * k), steps - k / 3)
        return full * _by_mode(mode, steps, steps / 3, gradual, np.where(steps < k, steps / 3, steps - 2 * k / 3))

    def _steps(self, x: Columns, fidelity: Array) -> Array:
        """The optimizer steps of each fidelity, [configurations, fidelities]."""
        attr = self.spec.early_terminate.time_attr
        if attr == "steps":
            return fidelity[None]
        if attr == "tokens":
            return fidelity / self._step_tokens(x)
        full, mode, k = self._thaw(x)
        q = fidelity / full  # in full steps
        gradual = np.where(q < 2 * k / 3, k / 2 * (np.sqrt(1 + 12 * q / k) - 1), q + k / 3)
        return _by_mode(mode, q, 3 * q, gradual, np.where(3 * q < k, 3 * q, q + 2 * k / 3))


def _known(value: Array, absent: Any = 0.0) -> Array:
    """`value`, with NaN replaced by `absent`."""
    return np.where(value == value, value, absent)


def _squared(distance: Array) -> Array:
    """The squared distance from an optimum; 0 for an absent parameter."""
    return _known(distance) ** 2


def _code(column: Array) -> Array:
    """The index of each word; 0 for an absent parameter."""
    return _known(column).astype(int)


def _by_mode(mode: Array, full: Array, head: Array, gradual: Array, lp_ft: Array) -> Array:
    """Select by the index in UNFREEZING_MODES. `chain_thaw`, the fourth, costs as much as `gradual`."""
    return np.where(mode == 0, full, np.where(mode == 1, head, np.where(mode == 4, lp_ft, gradual)))
