"""Settings of a larger run: those of the best trial, carried over by the fitted trends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalesweep.record import Record, Trial
from scalesweep.scaling.comparable import source_of
from scalesweep.scaling.points import Points
from scalesweep.scaling.trends import Trend
from scalesweep.spec.effects import lacks
from scalesweep.spec.space import PARAMETERS, THAWING_MODES

STEP = "unfreeze_fraction"
LEAST = 0.01  # of ln of a setting; a smaller change is rounding


@dataclass(frozen=True)
class Base:
    """The trial whose settings a run takes, its sweep, and its place in size and data."""

    record: Record
    trial: Trial
    at: Mapping[str, float]

    @property
    def method(self) -> tuple[str, str]:
        """The unfreezing mode and the adapter."""
        return str(self.trial.config.get("unfreezing", "full")), str(self.trial.config.get("adapter", "none"))


def base_of(points: Points, records: Sequence[Record], n_params: float) -> Base:
    """The best trial of the nearest size, at its longest."""
    cell = min(points.cells, key=lambda cell: (abs(math.log(cell.axes["n_params"] / n_params)), -cell.axes.get("tokens", 0.0)))
    source, _, name = str(cell.trials[0].settings["trial"]).rpartition("/")
    record = next(record for record in records if source_of(record) == source)
    return Base(record, record.trials[name], cell.axes)


def carried(base: Base, trends: Sequence[Trend], at: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """The settings that differ from those of the base trial, and a sentence about each.

    A setting keeps its distance from the trend: it changes by the factor by which the trend changes between the two places. Trends
    whose every exponent may be 0 change nothing. A cadence in steps or epochs becomes the same share of the run.
    """
    config = base.trial.config
    changed, said = _cadence(base)
    for trend in trends:
        old = changed.get(trend.setting, config.get(trend.setting))
        told = trend.at(at), trend.at(base.at)
        if not old or told[0] is None or told[1] is None or not _sure(trend):
            continue
        if lacks(trend.setting, {**config, **changed}) is not None:
            continue
        info = PARAMETERS[trend.setting]
        new = float(old) * told[0][0] / told[1][0]
        new = min(new, math.inf if info.high is None else info.high)
        new = max(round(new), 1) if info.kind == "int" else float(f"{new:.3g}")
        if abs(math.log(new / float(old))) > LEAST:
            changed[trend.setting] = new
            powers = ", ".join(f"{axis}^{trend.law.exponent(place)[0]:.2f}" for place, axis in enumerate(trend.axes))
            said.append(f"{trend.setting} {old:.3g} → {new:.3g}, by its trend ({powers})")
    return changed, said


def _sure(trend: Trend) -> bool:
    """Whether an exponent differs from 0 as surely as its interval."""
    ends = [trend.law.exponent(place)[1:] for place in range(len(trend.axes))]
    return any(low > 0 or high < 0 for low, high in ends)


def _cadence(base: Base) -> tuple[dict[str, Any], list[str]]:
    config, last = base.trial.config, base.trial.last
    if config.get("unfreezing") not in THAWING_MODES or last is None:
        return {}, []
    cadence = config.get("unfreeze_cadence", "steps")
    if cadence == "steps":
        share, old = config["unfreeze_interval"] / max(last.step, 1), f"every {config['unfreeze_interval']} steps"
    elif cadence == "epoch" and last.metrics.get("epoch", 0.0) > 1:
        share, old = 1 / last.metrics["epoch"], "every epoch"
    else:
        return {}, []
    share = float(f"{min(share, 1.0):.3g}")
    said = f"the next layer group is unfrozen every {share:.3g} of the run, as by {base.trial.name} ({old})"
    return {"unfreeze_cadence": "fraction", STEP: share}, [said]
