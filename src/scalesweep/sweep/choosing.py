"""The sweep that `choose` launches: every checkpoint of a ladder on nested subsets of the training data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scalesweep.errors import Problem, SpecError, UserError, counted
from scalesweep.spec import PARAMETERS, SweepSpec, allowed_gpus, sweep_from_dict
from scalesweep.spec.checks import values_drawn
from scalesweep.spec.config import length_of_share, rows_of_share
from scalesweep.spec.space import CADENCES, THAWING_MODES, Parameter, Scalar
from scalesweep.sweep.preflight import Plan, training_flops

if TYPE_CHECKING:
    from scalesweep.models.ladder import ResolvedSize

SHARE = 1 / 8  # of the training data, the largest subset
SUBSETS = 6  # each half as large as the next; a law needs five, and one more tells its error
RATES = 3
STEP = 10**0.5  # factor between learning rates around one that the sweep names
COUNTED = ("steps", "tokens")  # fidelities in which a share of the data takes that share of the length


@dataclass(frozen=True)
class Design:
    """The trainings of a choice.

    Attributes:
        candidates: names of sizes. `shares`: of the training data, the largest first. `rates`: learning rates.
        fixed: the other parameters of the space, the same in all trainings.
        spec: the sweep that has these trainings.
    """

    candidates: tuple[str, ...]
    shares: tuple[float, ...]
    rates: tuple[float, ...]
    fixed: dict[str, Scalar]
    spec: SweepSpec

    @property
    def trainings(self) -> int:
        return len(self.candidates) * len(self.shares) * len(self.rates)


def design(spec: SweepSpec, share: float = SHARE, subsets: int = SUBSETS, rates: int = RATES) -> Design:
    """The trainings that predict which checkpoint of a sweep's ladder is best with all data.

    Settings are fixed: those of the first of `search.points_to_evaluate`, else the parameter's `prior`, its default where the space
    can draw it, or the middle of its range. Learning rates differ: they lie around the named one, or spread evenly over the range.

    Raises:
        SpecError: the sweep has one candidate, its length counts neither steps nor tokens, or its thaws can't be scaled.
    """
    candidates = tuple(str(name) for name in values_drawn(spec, "model_size") if name is not None) or (spec.sizes()[0].name,)
    _check(spec, candidates)
    shares = tuple(share / 2**step for step in range(subsets))
    named: dict[str, Any] = next(iter(spec.search.points_to_evaluate), {})
    drawn = {name: _settings(spec, name, named) for name in candidates}
    fixed = {name: value for settings in drawn.values() for name, value in settings.items()}
    chosen = _rates(spec, named, rates)
    space: dict[str, Any] = {
        "model_size": {"values": list(candidates)},
        "train_share": {"values": list(shares)},
        "learning_rate": {"values": list(chosen)},
    }
    for name, value in fixed.items():
        owners = [owner for owner, settings in drawn.items() if name in settings]
        space[name] = {"value": value} | ({"when": {"model_size": owners}} if len(owners) < len(candidates) else {})
    gpus = {name: min(allowed_gpus(spec, spec.size(name))) for name in candidates}
    if "num_gpus" in spec.search_space.parameters:
        space["num_gpus"] = {"values": sorted(set(gpus.values()))}
    points = [
        {"model_size": name, "train_share": part, "learning_rate": rate}
        | ({"num_gpus": gpus[name]} if "num_gpus" in space else {})
        for part in shares
        for name in reversed(candidates)  # the largest first, so that workers end together
        for rate in chosen
    ]
    early, budget = spec.early_terminate, spec.budget
    changed: dict[str, Any] = {
        "name": f"{spec.name}-choose",
        "search_space": {"parameters": space},
        "early_terminate": {"type": "none", "time_attr": early.time_attr, "max_t": early.max_t},
        "search": {"sampler": "random", "repeats": "off", "seed": spec.search.seed, "points_to_evaluate": points},
        "budget": {"run_cap": len(points), "gpu_hours": budget.gpu_hours, "dollars": budget.dollars},
    }
    data = spec.model_dump(mode="json") | changed
    if CADENCES[str(fixed.get("unfreeze_cadence", "steps"))].by_metric is False:
        data["training"] |= {"eval_interval": None, "checkpoint_interval": None}  # what counts is the end
    return Design(candidates, shares, chosen, fixed, sweep_from_dict(data))


def _check(spec: SweepSpec, candidates: Sequence[str]) -> None:
    early, problems = spec.early_terminate, list[Problem]()
    if len(candidates) < 2:
        hint = "list the checkpoints to choose from under ladder, and their names under model_size"
        problems.append(spec.problem(("ladder",), "has one candidate, and choose compares at least two", hint))
    if early.time_attr not in COUNTED:
        message = f"with {early.time_attr}, candidates would pass over the data less often the larger they are"
        problems.append(spec.problem(("early_terminate", "time_attr"), message, "use time_attr: steps or tokens"))
    if "train_share" in spec.search_space.parameters:
        path = ("search_space", "parameters", "train_share")
        problems.append(spec.problem(path, "is what choose varies itself", "remove it; --share sets the largest subset"))
    if problems:
        raise SpecError(problems)


def _settings(spec: SweepSpec, candidate: str, named: dict[str, Any]) -> dict[str, Scalar]:
    """The fixed parameters of one candidate."""
    params: dict[str, Any] = {"model_size": candidate}
    for name, parameter in spec.search_space.ordered():
        if name == "num_gpus":
            params[name] = min(allowed_gpus(spec, spec.size(candidate)))
        elif name not in params and parameter.holds(params):
            value = _value(spec, name, parameter, named)
            params |= {} if value is None else {name: value}
    if params.get("unfreezing") in THAWING_MODES and params.get("unfreeze_cadence", "steps") == "steps":
        params = _by_share(spec, params)
    return {name: value for name, value in params.items() if name not in ("model_size", "num_gpus", "learning_rate")}


def _value(spec: SweepSpec, name: str, parameter: Parameter, named: dict[str, Any]) -> Scalar | None:
    """The fixed value of a parameter; None for a knob that stays as the checkpoint has it."""
    info = PARAMETERS[name]
    default = spec.training.global_batch_size if name == "global_batch_size" else info.default
    for wanted in (named.get(name), parameter.prior, parameter.value, default):
        if wanted is not None and parameter.takes(wanted):
            return wanted
    if info.knob:
        return None
    choices = parameter.choices()
    if choices is not None:
        numbers = sorted(choice for choice in choices if isinstance(choice, int | float) and not isinstance(choice, bool))
        return numbers[len(numbers) // 2] if len(numbers) == len(choices) else choices[0]
    (middle,) = _spread(parameter, 1)
    return round(middle) if parameter.kind == "int_uniform" else middle


def _by_share(spec: SweepSpec, params: dict[str, Any]) -> dict[str, Any]:
    """The settings with thaws at shares of the run, because trials differ in length."""
    early = spec.early_terminate
    if early.time_attr != "steps":
        path = ("search_space", "parameters", "unfreezing")
        hint = "use unfreeze_cadence: fraction, or time_attr: steps"
        raise SpecError([spec.problem(path, "thaws every so many steps don't fit trials of different lengths", hint)])
    interval = (
        params["unfreeze_interval"] if "unfreeze_interval" in params else float(PARAMETERS["unfreeze_interval"].default or 1)
    )
    rest = {name: value for name, value in params.items() if name not in ("unfreeze_interval", "thaw_warmup_steps")}
    share = min(1.0, float(f"{interval / early.max_t:.3g}"))
    return rest | {"unfreeze_cadence": "fraction", "unfreeze_fraction": share}


def _rates(spec: SweepSpec, named: dict[str, Any], count: int) -> tuple[float, ...]:
    """The learning rates, ascending: at most `count`."""
    parameter = spec.search_space.parameters.get("learning_rate")
    if parameter is None:
        return (float(PARAMETERS["learning_rate"].default or 0),)
    choices = parameter.choices()
    if choices is not None:
        known = sorted(float(choice) for choice in choices)
        places = [round((place + 0.5) * len(known) / count - 0.5) for place in range(count)]
        return tuple(known) if len(known) <= count else tuple(dict.fromkeys(known[place] for place in places))
    middle = named.get("learning_rate", parameter.prior)
    if middle is None:
        return _spread(parameter, count)
    around = [float(f"{middle * STEP ** (place - (count - 1) / 2):.3g}") for place in range(count)]
    return tuple(rate for rate in around if parameter.takes(rate)) or (float(middle),)


def _spread(parameter: Parameter, count: int) -> tuple[float, ...]:
    """Values in the middle of equal parts of a range."""
    low, high = float(parameter.min or 0), float(parameter.max or 0)
    shares = [(place + 0.5) / count for place in range(count)]
    if parameter.kind == "log_uniform_values":
        return tuple(min(max(float(f"{low * (high / low) ** share:.3g}"), low), high) for share in shares)
    return tuple(min(max(float(f"{low + (high - low) * share:.3g}"), low), high) for share in shares)


# ---- cost -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The cost of one candidate's trainings."""

    name: str
    n_params: int
    flops: float
    evaluation_flops: float  # of these
    gpu_hours: float
    whole_gpu_hours: float  # of one training on all data


def subsets_of(made: Design, plan: Plan) -> list[int]:
    """The rows of each subset, ascending."""
    rows = plan.data_summary["splits"]["train"]["rows"]
    return [rows_of_share(rows, share) for share in reversed(made.shares)]


def parts(made: Design, plan: Plan) -> list[Part]:
    """The cost of each candidate, by the FLOPs that `plan` measured and the speed of a worker.

    Raises:
        UserError: the smallest subsets hold the same rows, or less than a step.
    """
    sizes, batch = subsets_of(made, plan), int(made.fixed.get("global_batch_size", plan.spec.training.global_batch_size))
    if sizes[0] < batch or len(set(sizes)) < len(sizes):
        least = math.ceil(batch * 2 ** (len(sizes) - 1) / made.shares[0])
        raise UserError(
            f"the smallest of {counted(len(sizes), 'subset')} has {counted(sizes[0], 'row')}, fewer than global_batch_size ({batch})",
            f"{'raise --share, ' if made.shares[0] < 0.5 else ''}lower the batch, or use at least {least:,} training rows",
        )
    assert plan.speed is not None
    found, early, width = [], made.spec.early_terminate, plan.tokens_per_example
    per_step = 1.0 if early.time_attr == "steps" else batch * width
    evaluated = plan.data_summary["splits"]["validation"]["examples"]
    for size in plan.sizes:
        if size.name not in made.candidates:
            continue
        step, evaluation = _step_flops(made, size, batch, width), size.flops.forward(evaluated, width)
        steps = sum(length_of_share(made.spec, share) for share in made.shares) / per_step
        evaluations = len(made.rates) * len(made.shares) * evaluation
        flops = len(made.rates) * steps * step + evaluations
        hours = [amount / plan.speed.flops_per_second / 3600 for amount in (flops, early.max_t / per_step * step + evaluation)]
        found.append(Part(size.name, size.n_params, flops, evaluations, *hours))
    return found


def _step_flops(made: Design, size: ResolvedSize, rows: int, width: float) -> float:
    """The FLOPs of a step; where the head alone trains, those of its gradients. A cache of the frozen prefix saves more."""
    if made.fixed.get("unfreezing") != "head" or made.fixed.get("adapter", "none") != "none":
        return training_flops(made.spec, size, rows, width)
    frozen = len(size.group_names) - size.head_groups
    return size.flops.forward(rows, width) + size.flops.backward(rows, width, [False] * frozen + [True] * size.head_groups)


def as_json(made: Design, plan: Plan, costs: Sequence[Part]) -> dict[str, Any]:
    """The plan of a choice as plain data."""
    hours = sum(part.gpu_hours for part in costs)
    assert plan.speed is not None
    return {
        "sweep": made.spec.name,
        "metric": made.spec.metric.name,
        "rows": plan.data_summary["splits"]["train"]["rows"],
        "subsets": subsets_of(made, plan),
        "largest_share": made.shares[0],
        "passes": _passes(made, plan),
        "steps": [math.ceil(round(share * _steps(made, plan), 6)) for share in reversed(made.shares)],
        "learning_rates": list(made.rates),
        "fixed": made.fixed,
        "trainings": made.trainings,
        "candidates": [asdict(part) for part in costs],
        "flops": sum(part.flops for part in costs),
        "evaluation_share": sum(part.evaluation_flops for part in costs) / sum(part.flops for part in costs),
        "gpu_hours": hours,
        "gpu_hours_on_all_data": len(made.rates) * sum(part.whole_gpu_hours for part in costs),
        "dollars": _paid(made.spec, costs),
        "speed": asdict(plan.speed),
    }


def _steps(made: Design, plan: Plan) -> float:
    """The steps of a training on all data."""
    early = made.spec.early_terminate
    batch = int(made.fixed.get("global_batch_size", plan.spec.training.global_batch_size))
    return early.max_t if early.time_attr == "steps" else early.max_t / (batch * plan.tokens_per_example)


def _passes(made: Design, plan: Plan) -> float:
    """The passes of a training over its data."""
    batch = int(made.fixed.get("global_batch_size", plan.spec.training.global_batch_size))
    return _steps(made, plan) * batch / plan.train_examples


def _paid(spec: SweepSpec, costs: Sequence[Part]) -> float | None:
    """Dollars; None without a price."""
    prices = [(part, spec.price(part.name)) for part in costs]
    paid = [part.gpu_hours * price for part, price in prices if price is not None]
    return sum(paid) if paid else None


def check_budget(spec: SweepSpec, costs: Sequence[Part]) -> None:
    """Refuse a choice that needs more than the sweep's budget of hours or dollars.

    Raises:
        SpecError: with what it needs.
    """
    hours = sum(part.gpu_hours for part in costs)
    needs = ("gpu_hours", hours, spec.budget.gpu_hours), ("dollars", _paid(spec, costs) or 0.0, spec.budget.dollars)
    for key, needed, limit in needs:
        if limit is not None and needed > limit:
            message = f"choose needs about {needed:.2g} {key.replace('_', ' ')}, and the budget is {limit:g}"
            hint = "lower --share or --rates, or raise the budget with --set"
            raise SpecError([spec.problem(("budget", key), message, hint)])
