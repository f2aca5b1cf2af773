"""The judgement of an adapted model: better on the new data and no worse on the old than the model that it started from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalesweep.errors import NothingUsableError, UserError
from scalesweep.promotion.summary import signed
from scalesweep.record import Manifest, Record, Trial
from scalesweep.record.evaluations import Evaluation
from scalesweep.record.exports import NEW, OLD, metrics_of
from scalesweep.record.ranking import rank
from scalesweep.record.store import encode
from scalesweep.record.uncertainty import interval, standard_error, standard_errors
from scalesweep.report import words
from scalesweep.spec import LadderSize
from scalesweep.training.job import TrainReport, TrialJob
from scalesweep.workers.one_job import untrained

REFUSED = ".refused.json"  # ends the name of the file that keeps the judgement of a model that was not promoted


class RefusedError(NothingUsableError):
    """An adapted model has been tested and is not promoted. `kept` is the content of the file about it."""

    def __init__(self, message: str, hint: str, kept: Mapping[str, Any]) -> None:
        super().__init__(message, hint)
        self.kept = kept

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.message, self.hint, self.kept)


@dataclass(frozen=True)
class Part:
    """The model that was adapted, and the adapted one, on the same rows: of the new test split or of the old one.

    `gap` is how much better the second is, in units of the metric, with its paired 95 % interval. Without the numbers of the rows, the
    interval is the gap alone.
    """

    rows: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    gap: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "before": dict(self.before),
            "after": dict(self.after),
            "better_by": [self.gap, self.low, self.high],
        }


@dataclass(frozen=True)
class Judgement:
    """Whether an adapted model is promoted, and why."""

    metric: str
    new: Part
    old: Part
    better_by: float  # least improvement on the new rows
    worse_by: float  # most worsening on the old rows

    @property
    def better(self) -> bool:
        return self.new.low > self.better_by

    @property
    def keeps(self) -> bool:
        return self.old.low >= -self.worse_by

    def as_json(self) -> dict[str, Any]:
        margins = {"better_by": self.better_by, "worse_by": self.worse_by}
        return {"metric": self.metric, "margins": margins, "new": self.new.as_json(), "old": self.old.as_json()}

    def reasons(self) -> list[str]:
        """Why the model is not promoted."""
        name, faults = self.metric.removeprefix("eval_"), []
        if not self.better:
            beyond = f" by more than {words.score(self.better_by)}" if self.better_by else ""
            faults.append(f"is not surely better on the new test split{beyond} ({name} {_change(self.new)})")
        if not self.keeps:
            faults.append(
                f"may be worse on the old test split by more than {words.score(self.worse_by)} ({name} {_change(self.old)})"
            )
        return faults


def _change(part: Part) -> str:
    return f"better by {signed(part.gap)}, 95 % {signed(part.low)} … {signed(part.high)}"


def choose_adapted(record: Record, run_dir: Any) -> Trial:
    """Return the first trial of the ranking that is better than the adapted model on the new validation rows and keeps the old.

    Raises:
        NothingUsableError: there is none.
    """
    adapts, margins, sign = record.manifest.adapts or {}, record.manifest.spec["adapt"], 1.0 if record.minimize else -1.0
    name = record.metric.removeprefix("eval_")
    start = record.untrained.get(adapts.get("size") or "", {})
    before = {part: start.get(f"{part}{name}", math.nan) for part in (NEW, OLD)}
    for row in rank(record):
        metrics = row.trial.judged.metrics if row.rank is not None and row.trial.judged is not None else {}
        gain = {part: sign * (before[part] - metrics[f"{part}{name}"]) for part in (NEW, OLD) if f"{part}{name}" in metrics}
        if gain and not gain[NEW] <= margins["better_by"] and not gain[OLD] < -margins["worse_by"]:  # unknown is no obstacle
            return row.trial
    beyond = f" by more than {margins['better_by']:g}" if margins["better_by"] else ""
    message = (
        f"nothing to promote: no trial in {run_dir} is better than {adapts.get('model')} on the new validation rows{beyond} and worse by "
        f"at most {margins['worse_by']:g} on the old ones ({record.metric}). That model stays"
    )
    raise NothingUsableError(message, "run more or longer trials, or set other margins: --better-by, --worse-by")


def start_job(job: TrialJob, manifest: Manifest) -> TrialJob:
    """The job that evaluates the model that is adapted on the test splits, without any training."""
    from scalesweep.models.ladder import resolve

    adapts = manifest.adapts or {}
    flags = {name: getattr(job.size, name) for name in ("trust_remote_code", "accelerator_type", "min_gpus")}
    size = LadderSize(name="start", model=adapts["model"], keep_head=True, **flags)
    found = resolve(size, job.task, len(job.classes) or None)
    plain = {"adapter": "none", "unfreezing": "full", "rehearsal_share": 0.0, "model_size": size.name}
    knobs = dict.fromkeys(job.config.knobs())
    config = job.config.model_copy(update={**plain, **knobs})
    return replace(
        job, trial=f"{job.trial}-start", size=size, config=config, flops=found.flops, head_groups=found.head_groups,
        train_on=("train",), checkpoint_dir=None, thaw_at=None, untrained=True,
    )  # fmt: skip


def start_report(job: TrialJob, manifest: Manifest, address: str | None) -> TrainReport:
    """The evaluation of the model that is adapted. Raises UserError if its folder has changed since the sweep began."""
    from scalesweep.promotion.final_run import weight_hashes

    folder = Path((manifest.adapts or {})["model"])
    if weight_hashes(folder) != (manifest.adapts or {})["provenance"]["weights"]:
        raise UserError(
            f"{folder} has changed since the sweep began: its weights are others", "restore the folder, or adapt it anew"
        )
    return untrained(start_job(job, manifest), address)


def judge(manifest: Manifest, before: TrainReport, after: TrainReport) -> Judgement:
    """Compare two models on the new and on the old test split."""
    margins = manifest.spec["adapt"]
    new, old = (_part(manifest, number, name, before, after) for number, name in enumerate((NEW, OLD)))
    return Judgement(manifest.metric, new, old, margins["better_by"], margins["worse_by"])


def _part(manifest: Manifest, number: int, name: str, before: TrainReport, after: TrainReport) -> Part:
    from scalesweep.record.influence import influence

    first, second = (metrics_of(name, report.metrics) for report in (before, after))
    metric, sign = manifest.metric, -1.0 if manifest.minimize else 1.0
    gap = sign * (second[metric] - first[metric])
    low = high = gap
    rows = [of_part(report, number) for report in (before, after)]
    found = [influence(one, metric) for one in rows if one is not None]
    if len(found) == 2 and found[0] is not None and found[1] is not None and rows[0] is not None:
        low, high = interval(gap, standard_error(found[1][1] - found[0][1], rows[0].kept), len(found[0][1]))
    return Part(0 if rows[0] is None else rows[0].of, first, second, gap, low, high)


def of_part(report: TrainReport, number: int | None) -> Evaluation | None:
    """The numbers of the rows of an evaluation: of the split itself (0), of the earlier data beside it (1), or of all (None)."""
    whole = None if report.examples is None else Evaluation.of_examples(report.examples)
    return whole if whole is None or number is None or "part" not in whole.columns else whole.part(number)


def errors_of(report: TrainReport, number: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """The standard errors of the metrics of one part."""
    rows = of_part(report, number)
    return {} if rows is None else standard_errors(rows, metrics)


def kept_judgement(output: Path) -> Path:
    return output.with_name(f"{output.name}{REFUSED}")


def refuse(output: Path, judgement: Judgement, trial: str, manifest: Manifest, reads: int) -> RefusedError:
    """Keep the judgement of a model that is not promoted, and return the error for the user."""
    adapts = manifest.adapts or {}
    reasons = judgement.reasons()
    content = encode({"trial": trial, "reasons": reasons, "adapted": judgement.as_json(), "test_reads": reads})
    kept_judgement(output).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    message = f"nothing to promote: the model of {trial} {' and '.join(reasons)}. {adapts['model']} stays"
    hint = "more new data, or more and longer trials, may do; so may other margins: --better-by, --worse-by"
    return RefusedError(message, hint, content)


def refusal(error: NothingUsableError) -> dict[str, Any]:
    """The outcome of an adaptation that ended with `error`: the verdict, its reasons, and what `refuse` kept.

    `adapted` is None where no trial came as far as the test splits.
    """
    kept = error.kept if isinstance(error, RefusedError) else {}
    return {"verdict": "refused", "reasons": [error.message], "trial": None, "adapted": None, "test_reads": 0, **kept}


def ancestry(manifest: Manifest, judgement: Judgement) -> dict[str, Any]:
    """The part of `provenance.json` about the model that was adapted."""
    adapts = manifest.adapts or {}
    return {"model": adapts["model"], **judgement.as_json(), "from": adapts["provenance"]}
