"""The last lines of a promotion: the scores, where the model is, and how to use it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from scalesweep.errors import counted, shell
from scalesweep.record.confirmed import Confirmed
from scalesweep.report import words
from scalesweep.spec.tasks import TASKS

COLUMN = 14  # characters
UNITS = {"gpu_hours": lambda number: f"{number:.3g}", "dollars": words.money, "kwh": lambda number: f"{number:.3g}"}
WIDTHS = (COLUMN, 11, 19, 9, 11)  # characters of the columns of a confirmation


def confirmation(found: Sequence[Confirmed], chosen: str, metric: str) -> list[str]:
    """The lines about a confirmation: each configuration's value in the sweep and on new seeds, and the gap."""
    if not found:
        return []
    titles = ("in the sweep", "new seeds", "confirmed", "gap", "all seeds")
    rows = [f"{metric:<{COLUMN}}" + "".join(f"{title:>{wide}}" for title, wide in zip(titles, WIDTHS, strict=True))]
    for one in found:
        half = "" if one.half is None else f" ± {words.score(one.half)}"
        value = "diverged" if one.values and one.value is None else f"{words.score(one.value)}{half}"
        cells = words.score(one.sweep), str(len(one.values)), value, signed(one.gap), words.score(one.mean)
        line = "".join(f"{cell:>{wide}}" for cell, wide in zip(cells, WIDTHS, strict=True))
        rows.append(f"{one.trial:<{COLUMN}}{line}" + "  ← promoted" * (one.trial == chosen))
    return [
        *rows,
        "confirmed: the mean of the new seeds, with its 95 % interval. The best mean over all seeds is promoted.",
        "",
    ]


def signed(gap: float | None) -> str:
    """A difference of a metric with its sign; empty for None."""
    return "" if gap is None else f"{'+' if gap >= 0 else '−'}{words.score(abs(gap))}"


def promoted(result: dict[str, Any]) -> str:
    """The scores of a promoted model (`promote`'s result) beside those of its trial and of guessing."""
    final, trial = result["final_run"], result["trial"]
    columns = {
        "test": result["test"],
        "±": result.get("test_standard_errors", {}),
        "in the sweep": trial["validation"],
        "guessing": (result["baseline"] or {}).get("metrics", {}),
    }
    columns = {title: values for title, values in columns.items() if values}
    kept = final.get("kept")
    of_whole = f"; the model is the checkpoint of step {kept['step']:,}" if kept else ""
    lines = [
        f"promoted {trial['name']} ({words.summary(final['config'])}): {counted(kept['of'] if kept else final['steps'], 'step')} on "
        f"{'+'.join(final['train_on'])} in {words.clock(final['wall_seconds'])}{of_whole}",
        "",
        " " * COLUMN + "".join(f"{title:>{COLUMN}}" for title in columns),
    ]
    for name in result["test"]:
        cells = "".join(f"{words.score(values.get(name)):>{COLUMN}}" for values in columns.values())
        lines.append(f"{name.removeprefix('eval_'):<{COLUMN}}{cells}")
    beside = " and guessing" if "guessing" in columns else ""
    text, reached = prediction(result)
    lines += [
        "",
        f"test: the final model on the test split, with its standard error. The trial{beside} were scored on the validation split.",
        "",
        f"{'predicted':<{COLUMN}}{text}",
        f"{'reached':<{COLUMN}}{reached}",
    ]
    if told := result.get("spent"):
        parts = [f"{', '.join(_units(*row))} {name}" for name, *row in cost_parts(told)]
        lines += [f"{'cost':<{COLUMN}}{'; '.join(parts)}", f"{'energy':<{COLUMN}}{energy(told)}"]
    return "\n".join(lines)


def prediction(provenance: dict[str, Any]) -> tuple[str, str]:
    """The value that was predicted, and the one that was reached and whether that is inside, below or above the interval, in words."""
    name = (provenance.get("metric") or {}).get("name", "")
    told = provenance.get("predicted") or {"reason": "nothing was recorded"}
    if "reason" in told:
        return f"nothing: {told['reason']}", f"{name} {words.score(provenance['test'].get(name))}"
    ends = "" if told["inside"] is None else f" ({told['level']}: {_end(told['low'])} … {_end(told['high'])})"
    side = "below" if told["low"] is not None and told["reached"] < told["low"] else "above"
    verdict = {
        None: "; the width of the interval is not known",
        True: ", inside the interval",
        False: f", {side} the interval",
    }[told["inside"]]
    return (
        f"{name} {words.score(told['value'])}{ends} on {told['rows']}, from {told['source']}",
        f"{words.score(told['reached'])} on the test rows{verdict}. {told.get('besides') or ''}".rstrip(". "),
    )


def _end(value: float | None) -> str:
    return "no limit" if value is None else words.score(value)


def cost_parts(told: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The parts of a promotion's cost as texts: name, GPU hours, dollars, kWh; empty where unknown. The sum comes last."""
    parts = {"sweep": "in the sweep", "confirmation": "in the confirmation", "final_run": "in the final run"}
    rows = [(title, told[name]) for name, title in parts.items() if name in told]
    columns = {key: [row[key] for _, row in rows] for key in ("gpu_hours", "dollars", "kwh")}
    rows.append(("in all", {key: None if None in column else math.fsum(column) for key, column in columns.items()}))
    return [
        (title, *("" if row[key] is None else text(row[key]) for key, text in UNITS.items()))  # type: ignore[misc]
        for title, row in rows
    ]


def _units(hours: str, dollars: str, kwh: str) -> list[str]:
    return [f"{hours} GPU hours", *([f"{dollars} dollars"] if dollars else []), *([f"about {kwh} kWh"] if kwh else [])]


def energy(told: dict[str, Any]) -> str:
    """The way in which the energy was estimated, or why it is left out."""
    missing = f"left out: {told['no_energy']} (--board-watts gives it)"
    if told["final_run"]["kwh"] is None:
        return missing
    boards = ", ".join(f"{watts:g} W ({name})" for name, watts in told["watts"].items())
    whose = "as given" if told["given"] else "its maker's figure"
    text = f"an estimate: GPU hours × the power of a board, {boards}, {whose}; without the rest of the machine"
    return f"{text}. That of the sweep is {missing}" if told["no_energy"] else text


def adapted(judged: dict[str, Any]) -> str:
    """The adapted model beside the one that it started from (`adapted` of `promote`'s result): all metrics, on both test splits."""
    parts = {"new": judged["new"], "old": judged["old"]}
    titles = "".join(f"{title:>{COLUMN}}" for part in parts for title in (f"{part}: before", "after"))
    lines = [" " * COLUMN + titles]
    for name in parts["new"]["before"]:
        cells = [part[when].get(name) for part in parts.values() for when in ("before", "after")]
        lines.append(f"{name.removeprefix('eval_'):<{COLUMN}}" + "".join(f"{words.score(value):>{COLUMN}}" for value in cells))
    metric, margins = judged["metric"].removeprefix("eval_"), judged["margins"]
    lines.append("")
    for name, part in parts.items():
        gap, low, high = (signed(value) for value in part["better_by"])
        wanted = f"more than {margins['better_by']:g}" if name == "new" else f"at least −{margins['worse_by']:g}"
        rows = counted(part["rows"], "row")
        lines.append(f"{name} test split: {metric} better by {gap}, 95 % interval {low} … {high} over {rows}; wanted: {wanted}")
    return "\n".join(lines)


def reproduced(result: dict[str, Any]) -> str:
    """The comparison of a model with its reproduction (`reproduce`'s result)."""
    same, files = sum(result["weights"].values()), len(result["weights"])
    lines = [" " * COLUMN + "".join(f"{title:>{COLUMN}}" for title in ("test", "again"))]
    for name, values in result["test"].items():
        lines.append(f"{name.removeprefix('eval_'):<{COLUMN}}" + "".join(f"{words.score(value):>{COLUMN}}" for value in values))
    lines += ["", f"{result['verdict']}: {same} of {counted(files, 'file')} of weights the same, bit by bit"]
    return "\n".join(lines)


def after_promotion(result: dict[str, Any]) -> str:
    """Lines that show where the promoted model is and how to use it."""
    row = TASKS[result["task"]]
    folder, pipeline = (json.dumps(text, ensure_ascii=False) for text in (result["output"], row.pipeline))
    use = shell(
        "python", "-c", f"from transformers import pipeline; pipe = pipeline({pipeline}, {folder}); print(pipe({row.sample}))"
    )
    adapted = result["final_run"]["config"].get("adapter", "none") != "none"
    beside = ", and its adapter with peft: both predict the same" if adapted else ": it predicts the same"
    return f"model       {result['output']}  (reloaded with transformers{beside})\nnext        {use}"
