"""The scaling law of sweeps, as the page and W&B show it: a fit with predictions for larger runs, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalesweep.errors import UserError
from scalesweep.record import Record
from scalesweep.report.scaling import place, refusal_lines, symbols
from scalesweep.scaling.analysis import Analysis, Prediction, Range, analyse
from scalesweep.scaling.curves import curves
from scalesweep.scaling.points import Points
from scalesweep.scaling.recorded import points_of_records

LARGER = (2.0, 4.0)  # times the largest size and the most data, which are predicted


@dataclass(frozen=True)
class Law:
    """The fit, or None. `said`: remarks on it, or why there is none and what would mend that."""

    analysis: Analysis | None
    said: tuple[str, ...]


def law_of(records: Sequence[Record]) -> Law:
    """The law of one sweep, or of several together."""
    try:
        points = points_of_records(records)
    except UserError as error:
        return Law(None, (_sentence(error.message),))
    found = analyse(points, None, larger(points))
    if found.refused is not None:
        return Law(None, tuple(map(_sentence, refusal_lines(found.refused))))
    return Law(found, found.notes)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def larger(points: Points) -> list[dict[str, float]]:
    """Places beyond the points: larger sizes, more data, and both."""
    data = points.data
    most = {
        axis: float(values.max())
        for axis in ("n_params", "tokens", "examples")
        if np.isfinite(values := points.axis(axis)).all()
    }
    axes = [axis for axis in ("n_params", data) if axis is not None and axis in points.varied()]
    found = [{axis: factor} for axis in axes for factor in LARGER]
    if len(axes) > 1:
        found = [{axes[0]: LARGER[0]}, {axes[1]: LARGER[1]}, {axes[0]: LARGER[0], axes[1]: LARGER[1]}]
    places = [{axis: value * factors.get(axis, 1.0) for axis, value in most.items()} for factors in found]
    other = {"tokens": "examples", "examples": "tokens"}.get(data or "")  # follows, where it is in proportion
    return [{axis: value for axis, value in at.items() if axis != other} for at in places]


def law_json(law: Law) -> dict[str, Any]:
    """The data that the page draws. Numbers have six digits, and None stands for an end without a limit."""
    found = law.analysis
    if found is None:
        return {"said": list(law.said), "law": None}
    points, chosen = found.points, found.chosen
    second = points.axis(chosen.axes[1]) if len(chosen.axes) > 1 else None
    return {
        "said": list(law.said),
        "law": chosen.name,
        "formula": chosen.fit.law.formula,
        "symbols": symbols(chosen),
        "source": chosen.fit.law.source,
        "metric": points.metric,
        "maximize": points.maximize,
        "axes": list(chosen.axes),
        "trials": sum(len(cell.trials) for cell in points.cells),
        "parameters": [[name, *_ends(value)] for name, value in chosen.parameters.items()],
        "laws": [[one.name, _short(one.weight), None if one.held_out is None else _short(one.held_out)] for one in found.laws],
        "predictions": [
            {"at": place_of(found, one), "x": one.at[chosen.axes[0]], "law": _ends(one.law), "run": _ends(one.run)}
            for one in found.predictions
        ],
        "curves": [
            {"second": curve.second, **{name: [*map(_short, getattr(curve, name))] for name in ("x", "value", "low", "high")}}
            for curve in curves(found)
        ],
        "points": [
            {
                "x": cell.axes[chosen.axes[0]],
                "second": None if second is None else float(second[number]),
                "value": _short(points.shown(cell.log_value)),
                "residual": _short(residual),
                "trials": len(cell.trials),
            }
            for number, (cell, residual) in enumerate(zip(points.cells, chosen.fit.residuals, strict=True))
        ],
    }


def place_of(found: Analysis, one: Prediction) -> str:
    """The place of a prediction in words, without what the law does not use."""
    return place({axis: one.at[axis] for axis in found.chosen.axes})


def _ends(value: Range) -> list[float | None]:
    return [None if end is None else _short(end) for end in (value.value, value.low, value.high)]


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
