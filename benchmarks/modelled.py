"""Modelled curves beside those of the package: laws with random constants, and tables of curves that rise at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scalesweep.simulation.parametric import Family as Law

RANDOM = 6
OPTIONAL = ("num_gpus", "warmup_ratio", "weight_decay", "dropout")  # parameters that a random space may lack
OVERFITTING = {"overfitting": (0.15, 0.010), "overfitting_noisy": (0.5, 0.025)}  # loss per unit of memorizing; noise of a seed
EVALUATIONS, STEPS = 24, 2400


def random_law(number: int) -> tuple[Law, list[str]]:
    """A law whose constants are drawn around those of `trend`, and the parameters that its space lacks.

    The settings of a search can be tuned to a few laws. No setting was chosen on these.
    """
    rng = np.random.default_rng([41, number])

    def about(value: float, factor: float = 2.0) -> float:
        return float(value * factor ** rng.uniform(-1, 1))

    def within(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    count = int(rng.integers(3, 7))
    counts = 10 ** within(7.3, 8.5) * within(1.6, 3.0) ** np.arange(count)
    tokens = rng.random() < 0.5
    schedules = ("linear", "cosine", "warmup_stable_decay", "constant_with_warmup", "inverse_sqrt")
    law = Law(
        f"random-{number}",
        "constants drawn at random",
        sizes={f"{n / 1e6:.0f}m": float(n) for n in counts},
        gpus=((1, 2, 4), (1, 2, 4, 8))[rng.integers(2)],
        batches=() if rng.random() < 0.5 else (16, 32, 64, 128, 256),
        time_attr="tokens" if tokens else "steps",
        max_t=81_000_000 if tokens else 2430,
        size_loss=about(0.25),
        size_exponent=within(0.1, 0.5),
        bowl=within(0.01, 0.06) if rng.random() < 1 / 3 else 0.0,
        bowl_at=float(rng.choice(counts)),
        data_loss=about(0.15),
        data_exponent=within(0.15, 0.4),
        headroom=about(1.2),
        lr_best=about(1.2e-4, 4),
        lr_size_exponent=within(-0.2, 0.9),
        lr_data_exponent=within(0.0, 0.4),
        lr_loss=about(0.012),
        lr_steep=within(1, 3),
        lr_diverges=within(2, 5),
        head_lr_octaves=within(1, 4),
        batch_best=about(19_000, 3),
        batch_data_exponent=within(0.2, 0.7),
        batch_size_exponent=within(0.0, 0.3),
        batch_loss=about(0.01),
        mode_loss=(within(0, 0.05), within(0.05, 0.25), *(within(0, 0.05) for _ in range(3))),
        mode_slow=tuple(within(0.5, 2.5) for _ in range(5)),
        interval_best=about(0.03, 3),
        interval_loss=about(0.004, 3),
        schedule_loss={name: within(0, 0.02) for name in schedules},
        anneal_loss=about(0.03, 3),
        warmup_best=within(0, 0.2),
        warmup_loss=about(0.006, 3),
        decay_best=about(0.01, 5),
        decay_exponent=within(-0.4, 0.6),
        decay_loss=about(0.0015, 3),
        dropout_best=within(0, 0.25),
        dropout_slope=within(-0.03, 0.05),
        dropout_loss=about(0.02),
        slow_loss=within(0.1, 1.6),
        slow_share=within(0.04, 0.2),
        slow_exponent=within(-0.2, 0.7),
        slow_lr=within(-0.1, 0.8),
        run_noise=about(0.004, 4),
        evaluation_noise=about(0.003, 4),
        overhead=about(0.05, 4),
        overhead_exponent=within(0.2, 0.6),
    )
    return law, [name for name in OPTIONAL if rng.random() < 0.4]


def overfitting_table(name: str, configurations: int = 300, repeats: int = 3) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Configurations that are each trained with several seeds, and their space.

    The loss falls with progress, which is faster at a high rate and a small batch. Beyond a point the model memorizes: the loss
    rises, the more the larger the model and the less it is regularized. It rises by more than 0.05 in 11 % of the configurations
    (in `overfitting_noisy` 22 %), and ranks at the first rung and at the end correlate with 0.72 (0.24).
    """
    memorizing, noise = OVERFITTING[name]
    rng = np.random.default_rng([43, list(OVERFITTING).index(name)])
    sizes = {"60m": 60e6, "180m": 180e6, "540m": 540e6}
    batches = [16, 32, 64, 128]
    size, batch = rng.choice(list(sizes), configurations), rng.choice(batches, configurations)
    rate = np.exp(rng.uniform(np.log(5e-6), np.log(1e-3), configurations))
    dropout, decay = rng.uniform(0, 0.4, configurations), np.exp(rng.uniform(np.log(1e-4), np.log(0.3), configurations))
    own = rng.normal(0, noise, configurations)  # what the parameters do not explain
    n_params = np.array([sizes[word] for word in size])
    octaves = np.log2(n_params / 180e6)
    z = np.log2(rate / 2e-4) + 0.4 * octaves  # octaves above the usual rate of the size
    share = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
    progress = share * (2 ** (0.5 * z) * np.sqrt(32 / batch))[:, None]
    fallen = 0.9 * np.exp(-3.5 * progress**0.5)
    regularized = 2 ** (0.4 * octaves) * (1 - 1.4 * dropout) * (1 - 0.12 * np.log10(decay / 1e-4))
    memorized = memorizing * regularized[:, None] * np.maximum(progress - 0.8, 0) ** 1.2
    lost = 0.04 * np.maximum(z - 2, 0) ** 2 + 0.15 * dropout**2 - 0.04 * octaves + own
    loss = 0.45 + fallen + 1.5 * (1 - np.exp(-memorized / 1.5)) + lost[:, None]
    steps = STEPS * share
    frames = []
    for seed in range(repeats):
        noisy = loss + rng.normal(0, noise, (configurations, 1)) + rng.normal(0, noise / 2, loss.shape)
        columns = {
            "model_size": size,
            "learning_rate": rate,
            "global_batch_size": batch,
            "dropout": dropout,
            "weight_decay": decay,
        }
        rows = {key: np.repeat(value, EVALUATIONS) for key, value in {**columns, "n_params": n_params}.items()}
        rows |= {
            "seed": np.full(loss.size, seed),
            "steps": np.tile(steps, configurations).astype(int),
            "eval_loss": noisy.ravel(),
        }
        frames.append(pd.DataFrame(rows))
    frame = pd.concat(frames, ignore_index=True)
    frame["tokens"] = frame.steps * frame.global_batch_size * 64
    space = {
        "model_size": {"values": list(sizes)},
        "learning_rate": {"distribution": "log_uniform_values", "min": 5e-6, "max": 1e-3},
        "global_batch_size": {"values": batches},
        "dropout": {"min": 0.0, "max": 0.4},
        "weight_decay": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.3},
    }
    return frame, space
