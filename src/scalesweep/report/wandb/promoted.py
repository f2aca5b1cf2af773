"""The W&B run of a promoted trial, from the record and the `provenance.json` of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalesweep.record import Record
from scalesweep.record.exports import PROVENANCE
from scalesweep.record.table import ERROR_OF, Entry
from scalesweep.report import words
from scalesweep.report.wandb import plain
from scalesweep.report.wandb.content import RunContent, tags, trial_name
from scalesweep.report.wandb.ids import group, run_id, settings
from scalesweep.spec.effects import in_effect

PROMOTED = "promoted"  # folder of the run folder


def promotions(record: Record, folder: Path, entries: list[Entry]) -> list[RunContent]:
    """The runs of the models that were promoted into the run folder."""
    found = []
    for path in sorted((folder / PROMOTED).glob(f"*/{PROVENANCE}")):
        provenance = read_provenance(path.parent)
        if provenance is not None and provenance["sweep"]["id"] == record.manifest.id:
            found.append(promotion_run(record, provenance, path.parent, entries))
    return found


def read_provenance(model: Path) -> dict[str, Any] | None:
    """The content of a model's `provenance.json`; None where it can't be read."""
    try:
        content: dict[str, Any] = json.loads((model / PROVENANCE).read_text(encoding="utf-8"))
        return content if content["trial"]["name"] and content["sweep"]["id"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def promotion_run(record: Record, provenance: Mapping[str, Any], model: Path, entries: list[Entry]) -> RunContent:
    """The run of a promotion: settings of the final run, test metrics, and the prediction where the sweep made one."""
    name, final, test = provenance["trial"]["name"], provenance["final_run"], provenance["test"]
    trial = record.trials[name]
    entry = next(entry for entry in entries if entry["trial"] == name)
    reached = test.get(record.metric)
    effective = in_effect(final["config"], rehearses=bool(provenance["data"].get("source", {}).get("earlier")))
    config = {
        "params": trial.params,
        "fixed": {key: value for key, value in effective.items() if key not in trial.params},
        "trial": name,
        "trial_run": run_id(record, name),
        "train_on": final["train_on"],
        "base_model": str(provenance["base_model"]["model"]).rpartition("/")[2],
        "n_params": provenance["n_params"],
        "data_fingerprint": provenance["data"].get("fingerprint"),
        "sweep": record.manifest.name,
        "sweep_id": record.manifest.id,
    }
    summary = {
        **{f"test/{metric}": value for metric, value in test.items()},
        **{f"test/{ERROR_OF.format(metric)}": error for metric, error in provenance.get("test_standard_errors", {}).items()},
        **{f"validation/{metric}": value for metric, value in provenance["trial"]["validation"].items()},
        "reached_metric": reached,
        "trial_rank": entry["rank"],
        **{key: final[key] for key in ("steps", "tokens", "flops", "wall_seconds")},
        "test_reads": provenance["test_reads"],
    }
    if entry["expected"] is not None:  # at the sweep's max_t, on the validation split
        summary |= {"predicted_metric": entry["expected"], "predicted_sd": entry["expected_sd"]}
        if reached is not None:
            summary["reached_minus_predicted"] = reached - entry["expected"]
    return RunContent(
        id=run_id(record, f"promote-{name}"),
        name=plain.line(f"promoted {trial_name(trial)}", plain.NAME_LENGTH),
        group=group(record),
        job_type="promote",
        notes=plain.line(
            f"{words.summary(final['config'])}: test {record.metric} {words.score(reached)} after {final['length']}"
        ),
        tags=tags(record, ["promoted"]),
        config=plain.value(config),
        rows=[(0, plain.value({f"test/{metric}": value for metric, value in test.items()}))],
        summary=plain.value(summary),
        axes={"*": "_step"},
        exit_code=0,
        model=model if settings(record).get("log_model") else None,
        aliases=("promoted", name),
    )
