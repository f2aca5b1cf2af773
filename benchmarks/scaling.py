"""Fits and predictions of `scalesweep scaling`: coverage of its intervals on generated data, and ladders that others have measured.

    python benchmarks/scaling.py [--only coverage,combined,ladder,lora,selection,choice] [--repetitions 300] [--shared ../shared]

`coverage`: sizes lie a factor of 3 apart; laws of two axes have four amounts of data a factor of 4 apart. In each cell, the best of
trials is taken: a trial's true value is the law's × exp(an exponential excess of 4 % in the mean), and noise is added, whose size is
known except in the last cases. Printed is the share of repetitions in which the 90 % interval of each parameter, and of the law at
4 × the largest size (and 4 × the data), holds the truth. `single` are points of one trial without excess, by which the law and normal
noise alone are tested. `combined`: the same for predictions of two laws combined. The other parts need recorded results of others
beside the repository and are skipped without them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from scalesweep.scaling.analysis import Analysis, analyse
from scalesweep.scaling.best import STATED, best_of, scatter
from scalesweep.scaling.choice import choose_among
from scalesweep.scaling.fit import SPARE, Batch, best_fits, fit, robust_delta
from scalesweep.scaling.intervals import profile, quantile, variance
from scalesweep.scaling.laws import LAWS, Law
from scalesweep.scaling.selection import full_data_losses
from scalesweep.scaling.tables import points_of_table

TRUTHS = {
    ("hoffmann", 2): {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    ("multiplicative", 2): {"E": 0.6, "A": 60.0, "alpha": 0.12, "beta": 0.15},
    ("saturating", 1): {"E": 0.5, "A": 200.0, "alpha": 0.3},
    ("rectified", 1): {"E": 1.0, "B": 300.0, "D_l": 100.0, "beta": 0.5},
    ("bounded", 1): {"E": 0.1, "A": 300.0, "alpha": 0.35},
    ("bounded", 2): {"E": 0.1, "A": 100.0, "B": 300.0, "alpha": 0.3, "beta": 0.3},
}
NOISES = (0.001, 0.005, 0.02)
TRIALS, EXCESS = 8, 0.04
DRAWS = 40_000  # of a cell, for the true mean excess of its best trial


# ---- generated data -------------------------------------------------------------------------------------------------------


def places(law: Law, sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells of a case, and the places to predict."""
    axis = 3.0 ** np.arange(sizes)
    if law.axes == 1:
        x = axis[:, None] * (500 if law.name == "rectified" else 1e8)
        return x, 4 * x[-1:]
    data = 4.0 ** np.arange(4) * (2e3 if law.name == "multiplicative" else 2e9)
    x = np.array([(n, d) for n in 1e8 * axis for d in data])
    return x, np.array([[4 * x[-1, 0], x[-1, 1]], [4 * x[-1, 0], 4 * x[-1, 1]]])


def coefficients(law: Law, truth: dict[str, float], centre: np.ndarray) -> np.ndarray:
    """The coefficients with these published parameters."""
    nothing = np.zeros((1, len(law.parameters)))
    offset, slopes = law.described(nothing, centre)
    wanted = [np.log(truth[one.name]) if one.logged else truth[one.name] for one in law.parameters]
    return np.linalg.solve(slopes[0], np.array(wanted) - offset[0])[None]


def cells(random: np.random.Generator, shape: tuple[int, ...], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """True excesses and observed values of the trials of cells, (…, trials)."""
    excess = random.exponential(EXCESS, size=(*shape, TRIALS))
    return excess, excess + noise * random.standard_normal((*shape, TRIALS))


def case(law: Law, sizes: int, noise: float, repetitions: int, single: bool, known: bool = True) -> dict[str, object]:
    """Coverage of one law, number of sizes and noise."""
    random = np.random.default_rng(1)
    x, ahead = places(law, sizes)
    centre = np.log(x).mean(axis=0)
    u, u_ahead = (np.log(x) - centre)[None], np.log(ahead) - centre
    theta = coefficients(law, TRUTHS[law.name, law.axes], centre)
    value, told = law.log_value(theta, u)[0], law.log_value(theta, u_ahead[None])[0][0]
    count, free = len(x), len(x) - len(law.parameters)
    shift, prior, within = 0.0, np.zeros(repetitions), np.zeros(repetitions)
    if single:
        log_y = value + noise * random.standard_normal((repetitions, count))
    else:
        _, observed = cells(random, (repetitions, count), noise)
        observed.sort(axis=-1)
        stated = np.full(TRIALS, noise if known else 0.0)
        found = [best_of(trials, stated) for cell in observed for trials in cell]
        log_y = value + np.array([best for best, _ in found]).reshape(repetitions, count)
        errors = np.array([error for _, error in found]).reshape(repetitions, count)
        within, prior = scatter(observed[..., 1] - observed[..., 0], np.full(count, TRIALS), errors, STATED)
        excess, seen = cells(random, (DRAWS,), noise)
        shift = float(np.take_along_axis(excess, seen.argmin(axis=-1)[:, None], axis=-1).mean())
    batch = Batch.of(law, log_y, u)
    best, losses = best_fits(batch)
    batch = replace(batch, delta=robust_delta(batch.residuals(best), len(law.parameters)))
    if free >= SPARE:
        best, losses = best_fits(batch)
    own = variance(batch, best) if free > 0 else np.zeros(repetitions)
    freedom = free + prior
    spread = np.sqrt((free * own + prior * within**2) / freedom)
    which = np.concatenate([np.arange(len(law.parameters)), np.full(len(ahead), -1)])
    where = np.concatenate([np.zeros((len(law.parameters), law.axes)), u_ahead])
    low, high = profile(batch, best, losses, spread, quantile(freedom), which, where, centre)
    moved = np.array([shift * (one.name in "EAB") for one in law.parameters])
    if law.name == "bounded":
        moved = 0 * moved  # an error rate's excess is no factor of its terms; those of the parameters are then only nearly true
    truth = np.concatenate([law.described(theta, centre)[0][0] + moved, told + shift])
    covered = ((low <= truth) & (truth <= high)).mean(axis=0)
    names = [*(one.name for one in law.parameters), *(["4x size", "4x both"] if law.axes == 2 else ["4x"])]
    return {
        "law": law.name,
        "axes": law.axes,
        "sizes": sizes,
        "noise": noise,
        "cells": "single" if single else f"best of {TRIALS}" if known else f"best of {TRIALS}, noise unknown",
        "covered": dict(zip(names, map(float, covered.round(3)), strict=True)),
        "width": float(np.median(high[:, -1] - low[:, -1]).round(4)),
    }


def coverage(repetitions: int) -> Iterator[dict[str, object]]:
    """The cases of all laws."""
    for (name, axes), _ in TRUTHS.items():
        law = next(form for form in LAWS[name] if form.axes == axes)
        for sizes in (5, 6) if name == "rectified" else (3, 4, 5, 6):
            for noise in NOISES:
                yield case(law, sizes, noise, repetitions, single=False)
                if len(places(law, sizes)[0]) > len(law.parameters):
                    yield case(law, sizes, noise, repetitions, single=True)
    for name in ("hoffmann", "saturating"):
        for noise in NOISES:
            yield case(LAWS[name][0], 4, noise, repetitions, single=False, known=False)


def combined(repetitions: int) -> Iterator[dict[str, object]]:
    """Coverage where `hoffmann` and `multiplicative` are compared and combined, and either is the truth."""
    for name in ("hoffmann", "multiplicative"):
        (law,) = LAWS[name]
        x, ahead = places(LAWS["hoffmann"][0], 4)
        if name == "multiplicative":
            x, ahead = (part * np.array([1.0, 1e-6]) for part in (x, ahead))
        centre = np.log(x).mean(axis=0)
        theta = coefficients(law, TRUTHS[name, 2], centre)
        told = np.exp(law.log_value(theta, (np.log(ahead) - centre)[None])[0][0])
        value = law.log_value(theta, (np.log(x) - centre)[None])[0][0]
        for noise in NOISES:
            random, held, right = np.random.default_rng(1), [], []
            for _ in range(repetitions):
                losses = np.exp(value + noise * random.standard_normal(len(x)))
                points = points_of_table({"n_params": x[:, 0], "tokens": x[:, 1], "loss": losses})
                found = analyse(points, None, [{"n_params": n, "tokens": d} for n, d in ahead])
                held.append(within(found, told))
                right.append(next(one.weight for one in found.laws if one.name == name))
            share = np.mean(held, axis=0).round(3)
            yield {
                "truth": name,
                "noise": noise,
                "covered": dict(zip(("4x size", "4x both"), map(float, share), strict=True)),
                "weight_of_the_truth": float(np.mean(right).round(2)),
            }


def within(found: Analysis, truth: np.ndarray, run: bool = False) -> list[bool]:
    """Whether each prediction's interval holds the truth."""
    ranges = [one.run if run else one.law for one in found.predictions]
    return [(one.low or 0.0) <= value <= (one.high or np.inf) for one, value in zip(ranges, truth, strict=True)]


# ---- recorded results of others -------------------------------------------------------------------------------------------


def ladder(shared: Path) -> Iterator[dict[str, object]]:
    """OLMo ladder: 190M to 1.3B at five budgets predict the 3B rows, for every metric."""
    table = pd.read_parquet(shared / "scaling/olmo_ladder/curves.parquet")
    ends = table.sort_values("step").groupby("run").tail(1)
    ends = ends.assign(n_params=ends["n_params"].fillna(ends["tokens"] / ends["chinchilla_multiple"] / 20))
    largest = ends["size_label"] == "3B"
    ends.loc[largest, "n_params"] = ends.loc[largest, "n_params"].min()
    small, large = ends[~largest], ends[largest & ~ends["rerun"]]
    at = [{"n_params": row.n_params, "tokens": row.tokens} for row in large.itertuples()]
    for metric in [name for name in ends if name.endswith(("_loss", "_acc", "_bpb"))]:
        columns = {"n_params": small["n_params"], "tokens": small["tokens"], "seed": small["rerun"], metric: small[metric]}
        points = points_of_table({name: list(column) for name, column in columns.items()}, metric=metric)
        found = analyse(points, None, at)
        truth = large[metric].to_numpy()
        gaps = np.array([one.law.value for one in found.predictions]) / truth - 1
        yield {
            "metric": metric,
            "laws": {one.name: round(one.weight, 2) for one in found.laws},
            "mean_error": float(np.abs(gaps).mean().round(4)),
            "mean_signed": float(gaps.mean().round(4)),
            "held_law": int(sum(within(found, truth))),
            "held_run": int(sum(within(found, truth, run=True))),
            "of": len(truth),
        }


def lora(shared: Path) -> Iterator[dict[str, object]]:
    """LoRA ladder: Llama 1B, 3B and 8B predict the best value and the best rate of 70B."""
    table = pd.read_csv(shared / "curves/lora_sft/results.csv")
    base = table[table["n_params"].notna() & ~table["model"].str.contains("Instruct")]
    small, large = base[base["n_params"] < 1e10], base[base["n_params"] > 1e10]
    names = ["n_params", "learning_rate", "lora_rank", "test_nll"]
    points = points_of_table({name: list(small[name]) for name in names}, metric="test_nll")
    found = analyse(points, None, [{"n_params": 70.6e9}])
    (told,), best = found.predictions, large.loc[large["test_nll"].idxmin()]
    rate = next(trend for trend in found.trends if trend.setting == "learning_rate").at({"n_params": 70.6e9})
    ends = [round(float(end or 0), 4) for end in (told.run.low, told.run.high)]
    yield {"predicted": round(told.run.value, 4), "interval": ends, "reached": float(best["test_nll"])}
    assert rate is not None
    yield {"predicted_rate": [float(f"{end:.2g}") for end in rate], "best_rate": float(best["learning_rate"])}


def selection(shared: Path) -> Iterator[dict[str, object]]:
    """Which model to fine-tune, from 1/8, 1/16 and 1/32 of the data: correlation with the true losses on all data.

    Published (Lin et al., results/tab2.txt) at 1/8: rectified law 0.779, their selection 0.909, plain power law 0.347.
    """
    table = pd.read_csv(shared / "curves/rectified_finetuning/losses_flan.csv")
    losses = table.pivot(index="model", columns="finetune_samples", values="test_loss")
    whole = float(losses.columns.max())
    truth = losses[whole].to_numpy()
    for part in (8, 16, 32):
        data = np.array([size for size in losses.columns if 0 < size <= whole / part], dtype=float)
        seen = losses[data].to_numpy()
        told = {"selection": full_data_losses(data, seen, whole)}
        for name in ("rectified", "power"):
            (law,) = LAWS[name]
            told[name] = np.array([fit(law, data[:, None], row).predict(np.array([[whole]]))[0] for row in seen])
        ranks = {name: int((truth < truth[values.argmin()]).sum()) + 1 for name, values in told.items()}
        yield {
            "part": f"1/{part}",
            "correlation": {name: float(np.corrcoef(values, truth)[0, 1].round(3)) for name, values in told.items()},
            "true_rank_of_the_choice": ranks,
        }


def choice(shared: Path) -> Iterator[dict[str, object]]:
    """The choice as `choose` makes it, from six subsets, among all models and in groups of three to eight drawn at random.

    `held`: shares of 90 % intervals that hold the true loss. `best_in_group`: how often the truly best one is the choice or can't be
    told apart from it. `right`: how often it is the choice. `regret`: of ln(loss); beside it that of the lowest loss at the largest
    subset, without a law.
    """
    table = pd.read_csv(shared / "curves/rectified_finetuning/losses_flan.csv")
    table = table.rename(columns={"finetune_samples": "examples"})[["model", "examples", "test_loss"]]
    whole = float(table["examples"].max())
    truth = table[table["examples"] == whole].set_index("model")["test_loss"]
    for part in (4, 8, 16, 32):
        largest = whole / part
        seen = table[(table["examples"] <= largest) & (table["examples"] > largest / 2**5.5)]
        found = choose_among({name: list(seen[name]) for name in seen}, whole=whole)
        actual = np.array([truth[one.name] for one in found.ranking])
        row = {
            "correlation": np.corrcoef([one.predicted.value for one in found.ranking], actual)[0, 1],
            "power_law": np.corrcoef([one.power for one in found.ranking], actual)[0, 1],
            "held": np.mean(
                [
                    (one.predicted.low or 0) <= t <= (one.predicted.high or np.inf)
                    for one, t in zip(found.ranking, actual, strict=True)
                ]
            ),
        }
        random, groups = np.random.default_rng(0), []
        for _ in range(100):
            names = random.choice(truth.index, random.integers(3, 9), replace=False)
            own = seen[seen["model"].isin(names)]
            told = choose_among({name: list(own[name]) for name in own}, whole=whole)
            best = truth[names].idxmin()
            seen_best = own[own["examples"] == largest].set_index("model")["test_loss"].idxmin()
            gaps = [float(np.log(truth[name] / truth[best])) for name in (told.best.name, seen_best)]
            groups.append((best in {one.name for one in (told.best, *told.tied)}, told.best.name == best, *gaps))
        means = np.mean(np.array(groups, dtype=float), axis=0)
        row |= dict(zip(("best_in_group", "right", "regret", "regret_without_law"), means, strict=True))
        yield {"part": f"1/{part}", **{name: float(np.round(value, 3)) for name, value in row.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="coverage,combined,ladder,lora,selection,choice")
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    arguments = parser.parse_args()
    generated = {"coverage": coverage, "combined": combined}
    recorded = {"ladder": ladder, "lora": lora, "selection": selection, "choice": choice}
    results: dict[str, list[dict[str, object]]] = {}
    for part in arguments.only.split(","):
        if part in recorded and not arguments.shared.is_dir():
            print(f"{part}: skipped, {arguments.shared} is absent")
            continue
        made = generated[part](arguments.repetitions) if part in generated else recorded[part](arguments.shared)
        for row in made:
            print(part, json.dumps(row), flush=True)
            results.setdefault(part, []).append(row)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
