"""A prediction made before its outcome, on real fine-tuning: small sizes on a quarter of the data predict a larger size on all of it.

    python benchmarks/ladders.py [--only quickstart,instruct] [--runs runs/ladders] [--until prediction]

Each ladder (`ladders/NAME.yaml`) is swept with three amounts of data up to a quarter, and as many passes over each: six trials, three
sizes at two rates. `scalesweep scaling` fits the nine cells. The prediction for the next size on all of the data is written to
`RUNS/NAME.prediction.json`; `--until prediction` ends there. Then that size is trained on three seeds, with the settings that the
fit carries over (`scaling/carried.py`), and the outcome is compared on the same validation rows. A finished part is not run again,
an interrupted one continues. `instruct` needs prepared/: python scripts/quickstart_llm.py prepare prepared.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep import Sweep, read_record, resume
from scalesweep.record import Record
from scalesweep.report.scaling import scaling_json
from scalesweep.scaling.analysis import Analysis, analyse
from scalesweep.scaling.carried import base_of, carried
from scalesweep.scaling.recorded import points_of_records

FOLDER = Path(__file__).parent / "ladders"
SEEDS = 3


@dataclass(frozen=True)
class Ladder:
    """One proof: the amounts of data to sweep, the size and the amount to predict, and the passes of every run."""

    rows: tuple[int, ...]
    layers: int
    all_rows: int
    batch: int
    passes: int

    def steps(self, rows: int) -> int:
        return round(rows * self.passes / self.batch)


LADDERS = {
    "quickstart": Ladder(rows=(250, 500, 1000), layers=6, all_rows=4000, batch=16, passes=2),
    "instruct": Ladder(rows=(50, 100, 200), layers=6, all_rows=800, batch=4, passes=2),
}


def swept(name: str, run: Path, overrides: list[str]) -> Record:
    """The record of a sweep, run or continued if need be."""
    if not (run / "sweep.json").exists():
        return Sweep.load(FOLDER / f"{name}.yaml", overrides).launch(run)
    record = read_record(run)
    return record if record.status == "ended" else resume(run)


def n_params(records: list[Record], layers: int) -> float:
    """The parameters of a deeper cut, counted as the points count: every block has as many."""
    known = {
        float(size.layers or 0): size.json["n_params"] - size.json["n_params_embedding"] for size in records[0].manifest.ladder
    }
    few, many = min(known), max(known)
    return known[many] + (layers - many) * (known[many] - known[few]) / (many - few)


def predicted(name: str, ladder: Ladder, records: list[Record], at: dict[str, float], file: Path) -> dict[str, Any]:
    """The prediction, written once, with the settings that the run will have."""
    if file.exists():
        return dict(json.loads(file.read_text()))
    points = points_of_records(records)
    found: Analysis = analyse(points, None, [at])
    if found.refused is not None:
        return {"ladder": name, "refused": list(found.refused.reasons)}
    base = base_of(points, records, at["n_params"])
    settings, said = carried(base, found.trends, found.predictions[0].at)
    told = {
        "ladder": name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "size": f"L{ladder.layers}",
        "train_rows": ladder.all_rows,
        "base_trial": f"{base.record.manifest.name}/{base.trial.name}",
        "settings": {key: value for key, value in base.trial.params.items() if key != "model_size"} | settings,
        "carried": said,
        "fit": scaling_json(found),
    }
    file.write_text(json.dumps(told, indent=1) + "\n")
    return told


def outcome(name: str, ladder: Ladder, told: dict[str, Any], runs: Path) -> dict[str, Any]:
    """The predicted run on several seeds, and whether it came as predicted."""
    records = [predicted_run(name, ladder, told, runs, seed) for seed in range(SEEDS)]
    lasts = [trial.last for record in records for trial in record.by_number() if trial.last is not None]
    values = [last.metrics[told["fit"]["metric"]] for last in lasts]
    prediction = told["fit"]["predictions"][0]
    run_range, mean = prediction["run"], sum(values) / len(values)
    return {
        "ladder": name,
        "predicted": {key: round(run_range[key], 4) for key in ("value", "low", "high")},
        "of_the_law": [round(prediction[key], 4) for key in ("low", "high")],
        "reached": [round(value, 4) for value in values],
        "mean": round(mean, 4),
        "error": round(prediction["value"] / mean - 1, 4),
        "seeds_in_the_interval": sum(run_range["low"] <= value <= run_range["high"] for value in values),
        "hit": run_range["low"] <= mean <= run_range["high"],
        "gpu_seconds": {"outcome": round(sum(record.gpu_seconds for record in records))},
    }


def predicted_run(name: str, ladder: Ladder, told: dict[str, Any], runs: Path, seed: int) -> Record:
    """The predicted size, trained on all of the data with the carried settings."""
    overrides = [
        f"name=ladder-{name}-outcome-{seed}",
        f"ladder.layers=[{ladder.layers}]",
        f"search_space.parameters.model_size.values=[{told['size']}]",
        f"search_space.parameters.learning_rate={{value: {told['settings']['learning_rate']:.6g}}}",
        f"data.splits.train={ladder.all_rows}",
        f"early_terminate.max_t={ladder.steps(ladder.all_rows)}",
        f"training.seed={seed}",
        "budget.run_cap=1",
    ]
    return swept(name, runs / f"{name}-outcome-{seed}", overrides)


def prove(name: str, runs: Path, until: str) -> dict[str, Any]:
    ladder = LADDERS[name]
    records = []
    for rows in ladder.rows:
        overrides = [f"name=ladder-{name}-{rows}", f"data.splits.train={rows}", f"early_terminate.max_t={ladder.steps(rows)}"]
        records.append(swept(name, runs / f"{name}-{rows}", overrides))
    at = {"n_params": n_params(records, ladder.layers), "examples": float(ladder.all_rows)}
    told = predicted(name, ladder, records, at, runs / f"{name}.prediction.json")
    if "refused" in told or until == "prediction":
        return told
    found = outcome(name, ladder, told, runs)
    found["gpu_seconds"]["sweeps"] = round(sum(record.gpu_seconds for record in records))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(LADDERS))
    parser.add_argument("--runs", type=Path, default=Path("runs/ladders"))
    parser.add_argument("--until", choices=["prediction", "outcome"], default="outcome")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    for name in given.only.split(","):
        print(json.dumps(prove(name, given.runs, given.until)), flush=True)


if __name__ == "__main__":
    main()
