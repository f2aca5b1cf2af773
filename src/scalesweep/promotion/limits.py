"""The limits of a promoted model, as sentences of its card: what it was not tested on, and where its figures are rough."""

from __future__ import annotations

from typing import Any

from scalesweep.errors import counted
from scalesweep.record.uncertainty import quantile
from scalesweep.report import words
from scalesweep.spec.tasks import TASKS

FEW_ROWS = 100  # of the test split: the standard errors of fewer are guesses
FEW_OF_A_CLASS = 30
MANY = 1000  # draws: the errors are taken as known


def limits(provenance: dict[str, Any]) -> list[str]:
    """The sentences, from the content of `provenance.json`. Numbers that an older one lacks are left out."""
    data, metric = provenance["data"], (provenance.get("metric") or {}).get("name", "")
    test, kept_apart = (data.get("splits") or {}).get("test", {}), data["source"].get("group")
    rows = int(test.get("rows") or 0)
    found = [_tested(rows, kept_apart)]
    length = data["source"].get("max_length")
    if length:
        cut = [note for note in data.get("notes", ()) if note.startswith("rows truncated")]
        found.append(
            f"It has learnt from inputs of at most {length:,} tokens{f' ({cut[0]})' if cut else ''}; longer ones are untested."
        )
    error, value = provenance.get("test_standard_errors", {}).get(metric), provenance["test"].get(metric)
    if error is not None and value is not None:
        half = quantile(MANY) * error
        found = [*_no_better(provenance, value, half), *found]
        found.append(
            f"The {metric.removeprefix('eval_')} of {words.score(value)} on the test split is known up to ± {words.score(half)} (95 %)."
        )
    else:
        found.append("The error of the test metric is not known.")
    if 0 < rows < FEW_ROWS:
        found.append(f"The test split has only {counted(rows, 'row')}: its metrics, and their errors, are rough guesses.")
    rare = [f"{name} ({count})" for name, count in (test.get("classes") or {}).items() if count < FEW_OF_A_CLASS]
    if rare and rows >= FEW_ROWS:
        found.append(f"The test split has few rows of {words.several(rare)}: what holds for all classes need not hold there.")
    final = provenance["final_run"]
    spread = provenance.get("seed_sd")
    varies = f" In the sweep, {metric} varied by a standard deviation of {words.score(spread)} between seeds." if spread else ""
    found.append(f"It was trained once, with one seed; another seed makes another model.{varies}")
    if final.get("kept"):
        found.append("Its checkpoint was chosen on the validation split, so its value there is a little too good.")
    found.append("What the base model learnt before, in which languages, and its own limits stand in its card.")
    untested = "Fairness, safety and unusual or hostile inputs were not tested"
    words_of = "; it may write what is wrong or harmful" if TASKS[provenance["task"]].pipeline == "text-generation" else ""
    found.append(f"{untested}{words_of}.")
    return found


def _no_better(provenance: dict[str, Any], value: float, half: float) -> list[str]:
    """A sentence if the model is not clearly better than guessing; `half`: of the 95 % interval of its test metric."""
    name, goal = provenance["metric"]["name"], provenance["metric"].get("goal")
    guess = (provenance.get("baseline") or {}).get("metrics", {}).get(name)
    if guess is None or (guess - value if goal == "minimize" else value - guess) > half:
        return []
    return [f"**It is not clearly better than guessing**, whose {name.removeprefix('eval_')} is {words.score(guess)}."]


def _tested(rows: int, group: str | None) -> str:
    apart = f", of which no {group} is in another split" if group else ""
    tested = f"It was tested on {counted(rows, 'row')}" if rows else "It was tested on rows"
    return f"{tested} of the data set that it learnt from{apart}. Other sources, later data and other languages are untested."
