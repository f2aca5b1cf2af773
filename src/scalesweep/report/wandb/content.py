"""The content of W&B's runs as a function of the record: settings, rows and summary of each trial and of the sweep."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalesweep.record import Record, Report, State, Trial
from scalesweep.record.prices import paid_in_all
from scalesweep.record.table import ERROR_OF, Entry, entries
from scalesweep.report import words
from scalesweep.report.law import Law, law_of
from scalesweep.report.sentences import paragraph
from scalesweep.report.standing import Standing
from scalesweep.report.wandb import plain
from scalesweep.report.wandb.boards import Board, boards, files, law_boards, law_summary
from scalesweep.report.wandb.ids import SWEEP, group, run_id, settings

VIEW = "workspace"  # key of the summary: the URL of the saved workspace
DIGEST = "record_digest"  # key of the summary: what the settings of the run were made from
SPACING = 10  # between the steps of two rows of the sweep's run; what is drawn goes between them
# Fields of the leaderboard in a trial's summary, by their names there.
RANKED = {
    **{
        name: name
        for name in (
            "rank",
            "state",
            "rung",
            "pareto",
            "dollars",
            "tied_with_first",
            "stop_reason",
            "error",
            "repeats",
            "seed_sd",
            "repeat_of",
        )
    },
    **{name: name for name in ("gpu_seconds", "wall_seconds", "tokens", "flops")},
    "metric": "ranked_metric",
    "standard_error": "ranked_standard_error",
    "fidelity": "ranked_fidelity",
    "expected": "expected_metric",
    "top_rung_metric": "top_rung_metric",
}
TOP_RUNG = "top_rung_metric"  # the ranked metric of trials that reached the highest rung so far; plots of all rungs would mix
COSTS = ("step", "tokens", "flops", "wall_seconds", "gpu_seconds")


@dataclass(frozen=True)
class RunContent:
    """Everything that one run of W&B holds.

    `axes` are the metrics against which others are drawn: each metric's own, and that of all others under `*`. `best` says for a
    metric whether its least or its greatest value is kept. `exit_code` is None while the run goes on. `files` become an artifact
    when the run is finished, and the folder `model` another one, with `aliases`.
    """

    id: str
    name: str
    group: str
    job_type: str
    notes: str
    tags: list[str]
    config: dict[str, Any]
    rows: list[tuple[int, dict[str, Any]]]  # W&B step, row
    summary: dict[str, Any]
    axes: dict[str, str]
    best: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    boards: dict[str, Board] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    law: Law | None = None  # drawn as an image when the run is finished
    model: Path | None = None
    aliases: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of what only opening the run anew can change."""
        told = [self.name, self.group, self.notes, self.tags, self.config, self.exit_code, self.files, self.model is not None]
        told.append({name: [board.columns, board.rows] for name, board in self.boards.items()})
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def told(self) -> dict[str, Any]:
        """The summary with the digest."""
        return {**self.summary, DIGEST: self.digest}


def tags(record: Record, own: Iterable[Any] = ()) -> list[str]:
    """A run's tags: its own, and those of the sweep file."""
    found = [plain.line(tag, plain.TAG_LENGTH) for tag in (*own, *settings(record)["tags"])]
    return [tag for tag in dict.fromkeys(found) if tag]


def board_of(record: Record) -> list[Entry]:
    """The entries of all trials, with `top_rung_metric`."""
    found = entries(record, None)
    top = max((entry["rung"] for entry in found), default=0)
    return [{**entry, TOP_RUNG: entry["metric"] if entry["rung"] == top and entry["rank"] else None} for entry in found]


# ---- a trial ---------------------------------------------------------------------------------------------------------------------


def trial_run(record: Record, trial: Trial, entry: Entry, over: bool) -> RunContent:
    """The run of a trial. `entry` is its row of `record.table.entries`; `over`: no process works on the sweep."""
    size = words.ladder_size(trial.config, record)
    inactive = record.manifest.parameters.keys() - trial.params.keys()
    config = {
        "params": trial.params,
        "fixed": {
            key: told for key, told in trial.config.items() if key not in {*trial.params, *inactive} and told is not None
        },
        "trial": trial.name,
        "trial_number": trial.number,
        "n_params": size.get("n_params"),
        "n_layers": size.get("n_layers"),
        "hidden_size": size.get("hidden_size"),
        "model": str(size.get("model", "")).rpartition("/")[2],  # the last part only: a local folder would reveal the machine
        "data_fingerprint": record.manifest.get("data", {}).get("fingerprint"),
        "sweep": record.manifest.name,
        "sweep_id": record.manifest.id,
    }
    chosen = [trial.config.get("model_size"), f"{trial.config.get('num_gpus', 1)}-gpu", trial.config.get("unfreezing")]
    chosen += {trial.config.get("adapter", "none")} - {"none"}
    code = int(trial.state is State.FAIL) if trial.state.ended else 1 if over else None
    return RunContent(
        id=run_id(record, trial.name),
        name=trial_name(trial),
        group=group(record),
        job_type="trial",
        notes=plain.line(sentence(record, trial, entry, over)),
        tags=tags(record, [tag for tag in chosen if tag]),
        config=plain.value(config),
        rows=list(enumerate(_rows(trial.reports))),
        summary=trial_summary(trial, entry),
        axes={"*": "step", record.metric: "step"},
        best={record.metric: "min" if record.minimize else "max"},
        exit_code=code,
    )


def trial_name(trial: Trial) -> str:
    """A trial in short: 't0007 · L6 · lora-32 · 3e-4'."""
    config = trial.config
    adapter = config.get("adapter", "none")
    method = f"{adapter}-{config.get('lora_rank')}" if adapter != "none" else config.get("unfreezing")
    rate = config.get("learning_rate")
    parts = [trial.name, config.get("model_size"), method, None if rate is None else short(rate)]
    return plain.line(" · ".join(str(part) for part in parts if part is not None), plain.NAME_LENGTH)


def short(number: float) -> str:
    """0.0003 → '3e-4', 0.00012 → '1.2e-4'."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def sentence(record: Record, trial: Trial, entry: Entry, over: bool) -> str:
    """The configuration, and what became of the trial: 'L6 · 2 GPUs · full · lr 3e-04 linear: complete · max_t, eval_loss …'."""
    reached = ""
    if entry["metric"] is not None and entry["fidelity"] is not None:
        at = words.amount(entry["fidelity"], record.manifest.time_attr)
        reached = f", {record.metric} {words.score(entry['metric'])} at {at}"
    failed = f": {entry['error']}" if entry["error"] else ""
    why = f" · {trial.stop_reason}" if trial.stop_reason else ""
    return f"{words.brief(trial)}: {words.activity(trial, over)}{why}{reached}{failed}"


def trial_summary(trial: Trial, entry: Entry) -> dict[str, Any]:
    """The trial's row of the leaderboard, with each metric and its standard error where the trial is ranked."""
    ranked = {name: plain.value(entry[field]) for field, name in RANKED.items()}
    metrics = {f"ranked/{name}": plain.value(told) for name, told in entry["metrics"].items()}
    errors = {ERROR_OF.format(name): error for name, error in entry["standard_errors"].items()}
    return {**ranked, **metrics, **errors, "attempts": trial.attempts}


def _rows(reports: Iterable[Report]) -> Iterable[dict[str, Any]]:
    """Each report as a row of W&B's history."""
    rung = 0
    for report in reports:
        rung = max(rung, *report.rungs, 0)
        # The first NaN would make W&B's running minimum NaN for good.
        metrics = {key: value for key, value in report.metrics.items() if math.isfinite(value)}
        costs = {key: getattr(report, key) for key in COSTS} | {"gpu_hours": report.gpu_seconds / 3600}
        if report.dollars is not None:
            costs["dollars"] = report.dollars
        yield {**costs, **metrics, "rung": rung}


# ---- the sweep -------------------------------------------------------------------------------------------------------------------


def sweep_run(
    record: Record, board: list[Entry], events: Sequence[Mapping[str, Any]], over: bool, view: str = ""
) -> RunContent:
    """The run of the sweep. `board` are the entries of all trials, `events` made the record, and `view` is the saved workspace."""
    rows = sweep_rows(record, events)
    manifest, spec = record.manifest, record.manifest.spec
    kept = ("metric", "time_attr", "max_t", "rungs", "seeds", "versions")
    config = {key: manifest.get(key) for key in kept}
    config |= {
        "data_fingerprint": manifest.get("data", {}).get("fingerprint"),
        "ladder": [size.name for size in manifest.ladder],
    }
    config |= {"early_terminate": spec["early_terminate"], "budget": spec["budget"], "sweep_id": manifest.id}
    config["metric"] = {"name": record.metric, "goal": manifest["metric"]["goal"]}  # without the file of a user's function
    ended = record.status == "ended"
    law = law_of([record]) if ended or over else None
    last = rows[-1] if rows else {}
    return RunContent(
        id=run_id(record, SWEEP),
        name=plain.line(manifest.name, plain.NAME_LENGTH),
        group=group(record),
        job_type="sweep",
        notes=plain.line(paragraph(record)[0].text) if ended or over else "",
        tags=tags(record),
        config=plain.value(config),
        rows=[(place * SPACING, row) for place, row in enumerate(rows)],
        summary=plain.value({**last, "status": record.status, "ended_reason": record.ended_reason})
        | ({VIEW: view} if view else {})
        | (law_summary(law) if law else {}),
        axes={"*": "elapsed_seconds", "best": "gpu_hours", "best_by_dollars": "dollars"},
        exit_code=0 if ended else 1 if over else None,
        boards=boards(record, board) | (law_boards(law) if law else {}),
        law=law,
        files=files(record, events) if ended or over else {},
    )


def sweep_rows(record: Record, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each end of a trial: time and costs so far, trials by state, the best trial by then.

    `events` are those that made the record. They are applied to another record with the same manifest.
    """
    past = Record(record.manifest, folder=record.folder)
    standing = Standing(past)
    counts = dict.fromkeys(State, 0)
    rows = []
    for event in events:
        past.apply(dict(event))
        kind = event["event"]
        if kind == "trial":
            counts[State.RUNNING] += 1
        elif kind in ("report", "end"):
            standing.update(past.trials[event["trial"]])
        if kind == "end":
            trial = past.trials[event["trial"]]
            counts[State.RUNNING] -= 1
            counts[trial.state] += 1
            rows.append(_sweep_row(past, standing, counts))
    return rows


def _sweep_row(record: Record, standing: Standing, counts: Mapping[State, int]) -> dict[str, Any]:
    best, price = standing.best, paid_in_all(record)
    row: dict[str, Any] = {
        "elapsed_seconds": record.elapsed_seconds,
        "gpu_seconds": record.gpu_seconds,
        "gpu_hours": record.gpu_seconds / 3600,
    }
    row |= {f"trials/{words.STATES[state]}": number for state, number in counts.items()}
    leader = {"best": best.metric, "best_trial": best.trial.name, "best_rung": best.rung} if best else {}
    if price is not None:
        row |= {"dollars": price, **({"best_by_dollars": best.metric} if best else {})}
    return row | leader
