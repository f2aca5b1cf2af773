"""The runs that a budget buys: sizes, lengths and GPU counts with their cost, wall-clock and predicted metric, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalesweep.costs import GIB, WEIGHT_BYTES, training_memory_bytes
from scalesweep.errors import UserError, counted
from scalesweep.record import Record
from scalesweep.scaling.analysis import Analysis, Prediction, predict
from scalesweep.scaling.carried import Base, base_of, carried
from scalesweep.scaling.comparable import source_of
from scalesweep.scaling.further import TRIALS, Further, further_sweep
from scalesweep.scaling.intervals import LEVEL, quantile
from scalesweep.scaling.mixture import mixture
from scalesweep.scaling.points import Points
from scalesweep.scaling.refusal import LONGER, gpu_hours
from scalesweep.scaling.sizes import n_params_of, sizes_of
from scalesweep.scaling.speeds import FULL, Speeds, speeds
from scalesweep.spec import price_of
from scalesweep.spec.resources import Prices

GROWTH = 2.0  # between two lengths
REPEATS = 4.0  # passes over the data up to which repeated data are worth almost as much as new ones (Muennighoff et al., 2023)
REACH = 10.0  # times the longest run of the sweeps, at most
ROWS = 12  # of the frontier, at most
BEYOND = 2  # rows of the frontier that the budget does not buy, at most
SMALL = 0.01  # of ln of the metric; a doubt that is smaller is not worth a sweep
CLOSE = 1.3  # factor between a length of the grid and that which spends the budget, within which the latter is enough


@dataclass(frozen=True)
class Budget:
    """The limits: GPU hours or dollars of the run, and seconds of its wall-clock."""

    gpu_hours: float | None = None
    dollars: float | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Other:
    """A size outside the ladders, with its parameters as the points count them. `model`: its checkpoint, None for a number of
    parameters alone. `total`: all its parameters, where they are known."""

    name: str
    n_params: float
    model: str | None = None
    total: float | None = None


@dataclass(frozen=True)
class Size:
    """A size that can be bought. `n_params`: as the points count them. `base`: the trial whose settings it takes. `price`: dollars
    per GPU hour."""

    name: str
    n_params: float
    base: Base
    price: float | None
    least_gpus: int
    other: Other | None = None


@dataclass(frozen=True)
class Alternative:
    """A run that could be bought.

    Attributes:
        passes: over the train split; None where the records don't tell its tokens.
        basis: where its speed comes from, as of `Speed`.
        affordable: within the budget and the deadline.
    """

    size: Size
    tokens: float
    passes: float | None
    num_gpus: int
    seconds: float
    gpu_hours: float
    dollars: float | None
    basis: str
    affordable: bool
    predicted: Prediction

    @property
    def cost(self) -> float:
        return self.gpu_hours if self.dollars is None else self.dollars


@dataclass(frozen=True)
class SweepFirst:
    """Why another sweep comes first, and that sweep. `gpu_hours`: of its trials at most, where that is known."""

    reasons: tuple[str, ...]
    further: Further | None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class BudgetPlan:
    """The answer.

    Attributes:
        choice: the best predicted run within the budget and the deadline; None where a sweep comes `first`.
        cheapest: the cheapest run that the fit can't tell from it; the choice itself where there is none.
        frontier: runs that no cheaper one beats, the cheapest first; some beyond the budget.
        counts: the choice on every GPU count.
        settings: those of the choice that differ from its base trial's. `said`: a sentence about each.
    """

    budget: Budget
    analysis: Analysis
    speeds: Speeds
    choice: Alternative | None = None
    cheapest: Alternative | None = None
    frontier: tuple[Alternative, ...] = ()
    counts: tuple[Alternative, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    first: SweepFirst | None = None
    remarks: tuple[str, ...] = ()


def plan_budget(
    records: Sequence[Record],
    analysis: Analysis,
    budget: Budget,
    others: Sequence[Other] = (),
    prices: Prices | None = None,
    max_gpus: int | None = None,
) -> BudgetPlan:
    """Choose the run that a budget should buy.

    Args:
        records: finished sweeps. `analysis`: the fit to their points.
        others: sizes outside the ladders.
        prices: dollars per GPU hour in place of those of the sweeps.
        max_gpus: most GPUs of a run; default: the most that a trial had.

    Raises:
        UserError: the budget buys no run, or it is in dollars and no size has a price.
    """
    points, measured = analysis.points, speeds(records, analysis.points.counting)
    running = tuple(
        f"{source_of(record)} has not ended; its trials so far count" for record in records if record.status != "ended"
    )
    blank = BudgetPlan(budget, analysis, measured, remarks=running)
    if analysis.refused is not None:
        why = analysis.refused
        longer = why.length * _longest(points) if why.length > 1 else 0.0
        mend = [{**cell, "tokens": longer} if longer else cell for cell in why.mend]
        return replace(blank, first=_sweep_first(records, points, why.reasons, mend, others))
    sizes, left_out = _sizes(records, analysis, others, prices)
    remarks = [*running, *left_out]
    if budget.dollars is not None and not any(size.price for size in sizes):
        raise UserError(
            "a budget in dollars needs a price of a GPU hour", "give it: --price 2.5, or by GPU type: --price H100=2.5"
        )
    most = max_gpus or max(measured.counts, default=1)
    if budget.dollars is not None and (left := [size.name for size in sizes if not size.price]):
        remarks.append(f"left out: {', '.join(left)}, which has no price of a GPU hour")
        sizes = [size for size in sizes if size.price]
    rows = _alternatives(analysis, budget, sizes, measured, most)
    affordable = [row for row in rows if row.affordable]
    if not affordable:
        raise _nothing(rows, budget, most)
    choice = min(affordable, key=lambda row: (_loss(row, points), row.cost, row.seconds))
    open_ended = None in (choice.predicted.run.low, choice.predicted.run.high)
    told = [(row, *_gap(analysis, choice, row)) for row in affordable]
    _, difference, doubt, reach = max(told, key=lambda one: one[1])
    if open_ended or (difference > 0 and reach >= difference and doubt > SMALL):
        reason = (
            f"the points set no limit to the {points.metric} of {choice.size.name}"
            if open_ended
            else "the intervals are wider than the differences: they can't separate the best run that the budget buys from the worst one"
        )
        cells = _wanted(analysis, sizes)
        return replace(blank, first=_sweep_first(records, points, (reason,), cells, others), remarks=tuple(remarks))
    cheapest = min((row for row, gap, _, reach in told if gap <= reach), key=lambda row: (row.cost, row.seconds))
    settings, said = carried(choice.size.base, analysis.trends, choice.predicted.at)
    same = [row for row in rows if row.size is choice.size and row.tokens == choice.tokens]
    return replace(
        blank,
        choice=choice,
        cheapest=cheapest,
        frontier=tuple(_frontier(rows, choice, cheapest, points)),
        counts=tuple(sorted(same, key=lambda row: row.num_gpus)),
        settings=settings,
        said=tuple(said),
        remarks=tuple(remarks),
    )


def target_of(plan: BudgetPlan) -> dict[str, Any]:
    """The keys of the target file that trains the choice (`promote --target`)."""
    choice = plan.choice
    assert choice is not None
    run, base = choice.predicted.run, choice.size.base
    model = {} if choice.size.other is None else {"model": choice.size.other.model}
    return {
        "sweep": base.record.manifest.name,
        "trial": base.trial.name,
        "model_size": choice.size.other.name if choice.size.other else _ladder_name(plan, choice.size),
        **model,
        "tokens": round(choice.tokens),
        "num_gpus": choice.num_gpus,
        "settings": dict(plan.settings),
        "predicted": {
            "metric": plan.analysis.points.metric,
            **{name: None if end is None else float(f"{end:.6g}") for name, end in vars(run).items()},
            "gpu_hours": float(f"{choice.gpu_hours:.4g}"),
            "wall_seconds": float(f"{choice.seconds:.4g}"),
        },
    }


def _ladder_name(plan: BudgetPlan, size: Size) -> str:
    """The size's name in the sweep whose trial it takes."""
    known = sizes_of(size.base.record, plan.analysis.points.counting)
    return next(name for name, n_params in known.items() if n_params == size.n_params)


# ---- sizes and lengths --------------------------------------------------------------------------------------------------------


def _sizes(
    records: Sequence[Record], analysis: Analysis, others: Sequence[Other], prices: Prices | None
) -> tuple[list[Size], list[str]]:
    """The sizes that can be bought, and remarks on those left out."""
    found: dict[float, Size] = {}
    remarks: list[str] = []
    counting = analysis.points.counting
    ladder = [(record, size) for record in records for size in record.manifest.ladder if size.n_params]
    typed = any(size.accelerator_type for _, size in ladder)
    only = next(iter(prices.values())) if isinstance(prices, dict) and len(prices) == 1 and not typed else None
    taken: set[str] = set()
    for record, row in ladder:
        n_params = n_params_of(row.json, counting) or 0.0
        if n_params in found:
            continue
        base = base_of(analysis.points, records, n_params)
        price = record.manifest.price(row.name) if prices is None else only or price_of(prices, row.accelerator_type)
        name = row.name if row.name not in taken else f"{row.name} of {source_of(record)}"
        hopeless = [entry for entry in record.manifest.hopeless if entry[0] == row.name and len(entry) == 2]
        if any(str(entry[1]) in (base.method[0], f"{base.method[0]} with {base.method[1]}") for entry in hopeless):
            remarks.append(f"left out: {name}, which does not fit a GPU with unfreezing {base.method[0]}")
            continue
        taken.add(name)
        found[n_params] = Size(name, n_params, base, price, int(row.entry.get("min_gpus") or 1))
    for other in others:
        base = base_of(analysis.points, records, other.n_params)
        memory = base.record.manifest.spec["resources"].get("gpu_memory_gib")
        needed = memory_gib(other.total or other.n_params, base)
        if memory and needed > memory:
            remarks.append(
                f"left out: {other.name}, which needs {needed:,.0f} GiB of each GPU's {memory:g}, because every worker holds the whole model"
            )
            continue
        nearest = min(found.values(), key=lambda size: abs(math.log(size.n_params / other.n_params)), default=None)
        price = nearest.price if nearest is not None else only
        found[other.n_params] = Size(other.name, other.n_params, base, price, nearest.least_gpus if nearest else 1, other)
    if "n_params" not in analysis.chosen.axes:  # a law of length alone holds for its own size
        here = float(analysis.points.cells[0].axes["n_params"])
        left = [size.name for size in found.values() if size.n_params != here]
        if left:
            remarks.append(f"left out: {', '.join(left)}, because the trials that reached the end have one size")
        found = {size.n_params: size for size in found.values() if size.n_params == here}
    return list(found.values()), remarks


def memory_gib(n_params: float, base: Base) -> float:
    """The memory that a worker needs at least: weights, and gradients and moments where all of the model trains."""
    return training_memory_bytes(WEIGHT_BYTES["float32"] * n_params, n_params if base.method == FULL else 0) / GIB


def _epoch(record: Record) -> float | None:
    """The tokens of one pass over the train split; None where the record does not tell."""
    told = [
        trial.last.tokens / trial.last.metrics["epoch"]
        for trial in record.by_number()
        if trial.last is not None and trial.last.metrics.get("epoch", 0) > 0 and trial.last.tokens
    ]
    return float(np.median(told)) if told else None


def _lengths(analysis: Analysis, epoch: float | None) -> list[float]:
    """The lengths in tokens that the data support: from the shortest run of the sweeps to the longest, and on from there."""
    known = analysis.points.axis("tokens")
    known = np.unique(known[np.isfinite(known)])
    if not len(known):
        raise UserError("the records don't tell how many tokens their trials were trained on", "run a sweep with this version")
    if "tokens" not in analysis.chosen.axes:
        return [float(known[-1])]
    return sorted({*map(float, known), *_further(float(known[-1]), _most(float(known[-1]), epoch))})


def _most(longest: float, epoch: float | None) -> float:
    return max(longest, min(REACH * longest, REPEATS * epoch if epoch else math.inf))


def _further(longest: float, most: float) -> list[float]:
    steps = int(math.log(most / longest) / math.log(GROWTH) + 1e-9)
    return [*(longest * GROWTH**step for step in range(1, steps + 1)), most]


# ---- alternatives -------------------------------------------------------------------------------------------------------------


def _alternatives(analysis: Analysis, budget: Budget, sizes: Sequence[Size], measured: Speeds, most: int) -> list[Alternative]:
    """Every size at every length on every GPU count, with its cost and prediction."""
    counts = sorted(
        {*(count for count in measured.counts if count <= most), *(2**power for power in range(most.bit_length())), most}
    )
    drafts: list[tuple[Size, float, float | None, int, float, str]] = []
    varies, ran = "tokens" in analysis.chosen.axes, set(map(float, analysis.points.axis("tokens")))
    for size in sizes:
        epoch = _epoch(size.base.record)
        lengths = _lengths(analysis, epoch)
        usable = [count for count in counts if count >= size.least_gpus] or [size.least_gpus]
        rates = {count: measured.of(size.n_params, count, size.base.method) for count in usable}
        known = {count: rate for count, rate in rates.items() if rate is not None}
        bought = [
            tokens
            for count, rate in known.items()
            if (tokens := _seconds_bought(budget, size, count) * rate.tokens_per_second) and math.isfinite(tokens)
        ]
        if varies and bought and lengths[0] < (exact := min(max(bought), lengths[-1])):
            exact = float(f"{exact * (1 - 5e-4):.3g}") if exact < lengths[-1] else exact
            lengths = sorted({*(one for one in lengths if one in ran or not 1 / CLOSE < one / exact < CLOSE), exact})
        for tokens in lengths:
            for count, rate in known.items():
                drafts.append(
                    (size, tokens, tokens / epoch if epoch else None, count, tokens / rate.tokens_per_second, rate.basis)
                )
    if not drafts:
        raise UserError("no trial of these sweeps has a measured speed", "run a sweep with this version")
    data = analysis.points.axis("examples")
    rest = {"examples": float(data.max())} if np.isfinite(data).all() else {}
    places = {(size.n_params, tokens): {"n_params": size.n_params, "tokens": tokens, **rest} for size, tokens, *_ in drafts}
    told = dict(zip(places, predict(analysis.points, analysis.laws, list(places.values())), strict=True))
    found = []
    for size, tokens, passes, count, seconds, basis in drafts:
        hours = seconds * count / 3600
        dollars = None if size.price is None else hours * size.price
        within = (
            (budget.gpu_hours is None or hours <= budget.gpu_hours)
            and (budget.dollars is None or (dollars is not None and dollars <= budget.dollars))
            and (budget.deadline is None or seconds <= budget.deadline)
        )
        found.append(
            Alternative(size, tokens, passes, count, seconds, hours, dollars, basis, within, told[size.n_params, tokens])
        )
    return found if all(size.price for size in sizes) else [replace(row, dollars=None) for row in found]


def _seconds_bought(budget: Budget, size: Size, count: int) -> float:
    """The seconds that the budget and the deadline allow on a GPU count; infinite without a limit."""
    limits = [math.inf if budget.deadline is None else budget.deadline]
    if budget.gpu_hours is not None:
        limits.append(budget.gpu_hours * 3600 / count)
    if budget.dollars is not None and size.price:
        limits.append(budget.dollars / size.price * 3600 / count)
    return min(limits)


def _loss(row: Alternative, points: Points) -> float:
    return -row.predicted.law.value if points.maximize else row.predicted.law.value


def _nothing(rows: Sequence[Alternative], budget: Budget, most: int) -> UserError:
    """The error that the budget buys no run."""
    cheap = min(rows, key=lambda row: (row.cost, row.seconds))
    fast = min(rows, key=lambda row: row.seconds)
    price = "" if cheap.dollars is None else f" ({cheap.dollars:.3g} dollars)"
    what = f"the cheapest is {cheap.size.name} on {counted(cheap.num_gpus, 'GPU')}: {cheap.gpu_hours:.3g} GPU hours{price}"
    if budget.deadline is not None:
        what += f"; the fastest is {fast.size.name} on {counted(fast.num_gpus, 'GPU')}: {fast.seconds / 3600:.3g} hours of wall-clock"
    hint = "raise --budget" + (
        f" or --deadline, or allow more than {counted(most, 'GPU')} with --max-gpus" if budget.deadline else ""
    )
    return UserError(f"the budget buys none of these runs; {what}", hint)


# ---- choice -------------------------------------------------------------------------------------------------------------------


def _gap(analysis: Analysis, best: Alternative, row: Alternative) -> tuple[float, float, float]:
    """The distance of a run to the best, in ln; the doubt of the laws about that; and the doubt with the scatter of both runs.

    Two predictions of one law err together, so their difference is known more surely than each. Its doubt is that of the linearized
    law.
    """
    law, reaches = [], []
    for one in analysis.laws:
        u = one.fit.centred(np.array([[place.predicted.at[axis] for axis in one.axes] for place in (best, row)], dtype=float))
        value, slopes = one.fit.law.log_value(one.fit.theta[None], u[None])
        _, own = one.fit.law.log_value(one.fit.theta[None], one.fit.batch.u)
        information = own[0].T @ own[0]
        information += 1e-9 * np.trace(information) * np.eye(len(information))
        slope = slopes[0, 1] - slopes[0, 0]
        reach = (
            float(quantile(one.freedom)) * one.spread * math.sqrt(max(float(slope @ np.linalg.solve(information, slope)), 0.0))
        )
        middle = float(value[0, 1] - value[0, 0])
        law.append((one.weight, middle, middle - reach, middle + reach))
        reaches.append(one.weight * float(quantile(one.freedom)) * max(one.spread, one.deviation))
    middle, low, high = mixture(law, LEVEL)
    doubt = max(middle - low, high - middle)
    return middle, doubt, math.hypot(doubt, math.sqrt(2) * sum(reaches))


def _frontier(rows: Sequence[Alternative], choice: Alternative, cheapest: Alternative, points: Points) -> list[Alternative]:
    """The runs that no cheaper one beats: those within the budget, and the next beyond it."""
    kept: list[Alternative] = []
    for row in sorted(rows, key=lambda row: (not row.affordable, row.cost, _loss(row, points), row.seconds)):
        if not kept or _loss(row, points) < _loss(kept[-1], points):
            kept.append(row)
    within = [row for row in kept if row.affordable]
    beyond = [row for row in kept if not row.affordable][:BEYOND]
    if len(within) > ROWS - BEYOND:
        within = [within[place] for place in np.unique(np.linspace(0, len(within) - 1, ROWS - BEYOND).round().astype(int))]
    within += [row for row in (choice, cheapest) if row not in within]
    return [*sorted(within, key=lambda row: row.cost), *beyond]


def _longest(points: Points) -> float:
    """The tokens of the longest trials; 0 where they are unknown."""
    return max((cell.axes.get("tokens", 0.0) for cell in points.cells), default=0.0)


# ---- another sweep first ------------------------------------------------------------------------------------------------------


def _wanted(analysis: Analysis, sizes: Sequence[Size]) -> list[dict[str, float]]:
    """The cells that would narrow the interval most: longer runs of every size of the ladders, or the same ones again."""
    known = [size for size in sizes if size.other is None] or sizes
    longest = _longest(analysis.points)
    if "tokens" not in analysis.chosen.axes:
        return [{"n_params": size.n_params} for size in known]
    longer = min(LONGER * longest, max(_most(longest, _epoch(known[0].base.record)), longest))
    return [{"n_params": size.n_params, "tokens": longer} for size in known]


def _sweep_first(
    records: Sequence[Record],
    points: Points,
    reasons: Sequence[str],
    cells: Sequence[Mapping[str, float]],
    others: Sequence[Other],
) -> SweepFirst:
    record = max(records, key=lambda record: len(record.trials))
    models = [(other.name, other.n_params, other.model) for other in others if other.model is not None]
    further = further_sweep(record, cells, _longest(points) or None, models, points.counting)
    if further is None:
        return SweepFirst(tuple(reasons), None)
    data = {} if further.tokens is None else {"tokens": further.tokens}
    hours = [gpu_hours(points, {"n_params": size, **data}) for size in further.sizes]
    known = [hour for hour in hours if hour is not None]
    return SweepFirst(tuple(reasons), further, TRIALS * sum(known) if known and len(known) == len(hours) else None)
