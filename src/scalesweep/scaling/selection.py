"""Which of several models to fine-tune, told from subsets of the data.

The rectified law expects a floor, and a power law through the largest subsets expects none; their errors mostly have opposite signs.
The prediction is the geometric mean of both. The power law alone is the fast form of Lin et al. (ICML 2024, arXiv 2402.02314), with a
fixed number of points in place of their test for the end of the flat phase.
"""

from __future__ import annotations

import numpy as np

from scalesweep.scaling.fit import Batch, best_fits
from scalesweep.scaling.laws import LAWS

LAST = 3  # subsets of the power phase


def full_data_losses(data: np.ndarray, losses: np.ndarray, at: float) -> np.ndarray:
    """The loss of each model after fine-tuning on all data.

    Args:
        data: sizes of the subsets, ascending, above 0, (subsets,).
        losses: (models, subsets), above 0.
        at: size of the whole data.

    Raises:
        ValueError: there are fewer than five subsets.
    """
    if len(data) < 5:
        raise ValueError(f"{len(data)} subsets: the rectified law needs five")
    (law,) = LAWS["rectified"]
    x, log_y = np.log(data), np.log(losses)
    place = np.log(at) - x.mean()
    theta, _ = best_fits(Batch.of(law, log_y, (x - x.mean())[None, :, None]), steps=200)
    rectified = law.log_value(theta, np.full((1, 1, 1), place))[0][:, 0]
    last, centre = x[-LAST:] - x[-LAST:].mean(), x[-LAST:].mean()
    slopes = log_y[:, -LAST:] @ last / (last @ last)
    power = log_y[:, -LAST:].mean(axis=1) + slopes * (np.log(at) - centre)
    return np.exp((rectified + power) / 2)
