"""The quickstart over several search seeds: what it finds, whether that beats a simple baseline, and how long it takes.

    python benchmarks/quickstart.py --seeds 5 [--json]

Each seed runs `scripts/quickstart` as a user does: sweep, leaderboard, promotion. The baseline is TF-IDF with logistic
regression on the same examples (`baseline.py`). How well the first rung predicts the end is read off the recorded sweep of the
same space in which every trial runs to the end (`curves/quickstart.parquet`). Ends with one JSON line. Five seeds take half an
hour on two cores; finished seeds in `--folder` are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from baseline import prepared_of, tune
from scipy.stats import spearmanr

from scalesweep import read_record
from scalesweep.record import State, rank
from scalesweep.spec import load_sweep
from scalesweep.spec.config import first_rung

ROOT = Path(__file__).parents[1]
CURVES = ROOT / "benchmarks" / "curves" / "quickstart.parquet"


def first_rung_spearman() -> tuple[float, int]:
    """The rank correlation of the metric at the first rung with the metric at the end, and over how many full trials."""
    spec = load_sweep(ROOT / "sweeps" / "quickstart.yaml")
    early, table = spec.early_terminate, pd.read_parquet(CURVES)
    at = {
        steps: table[table["steps"] == steps].set_index("config")[spec.metric.name] for steps in (first_rung(spec), early.max_t)
    }
    both = pd.concat(at, axis=1).dropna()
    return float(spearmanr(both[first_rung(spec)], both[early.max_t])[0]), len(both)


def run(seed: int, folder: Path) -> dict[str, Any]:
    """One quickstart, from the first command to the exported model."""
    run_dir, result = folder / f"seed{seed}", folder / f"seed{seed}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    began = time.monotonic()
    command = ["bash", "scripts/quickstart", str(Path(sys.executable).parent), str(run_dir), "--set", f"search.seed={seed}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    seconds = time.monotonic() - began
    record = read_record(run_dir)
    best = rank(record)[0]
    [promoted] = run_dir.glob("promoted/*/provenance.json")
    assert best.trial.judged is not None  # it is ranked
    found = {
        "seed": seed,
        "trials": len(record.trials),
        "stopped": sum(trial.state is State.PRUNED for trial in record.trials.values()),
        "best": best.trial.name,
        "config": {name: best.trial.config[name] for name in ("model_size", "unfreezing", "learning_rate")},
        "eval_loss": best.metric,
        "validation_accuracy": best.trial.judged.metrics["eval_accuracy"],
        "test_accuracy": json.loads(promoted.read_text())["test"]["eval_accuracy"],
        "seconds": seconds,
    }
    result.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone to stdout")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "quickstart-seeds")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [run(seed, folder) for seed in range(asked.seeds)]
    baseline = tune(prepared_of(folder / "seed0")).validation_accuracy
    correlation, trials = first_rung_spearman()
    if not asked.json:
        shown = pd.DataFrame(rows)
        shown["config"] = [f"{c['model_size']} {c['unfreezing']} {c['learning_rate']:.1e}" for c in shown["config"]]
        print(shown.round(4).to_string(index=False))
        print(f"\nTF-IDF + logistic regression: validation accuracy {baseline:.4f}")
        print(f"first rung against the end: Spearman {correlation:.2f} over {trials} full trials\n")
    print(
        json.dumps(
            {
                "test_accuracy": [row["test_accuracy"] for row in rows],
                "best_validation_accuracy": [row["validation_accuracy"] for row in rows],
                "baseline_validation_accuracy": baseline,
                "first_rung_spearman": round(correlation, 4),
                "full_trials": trials,
                "stopped_share": [round(row["stopped"] / row["trials"], 3) for row in rows],
                "seconds": [round(row["seconds"], 1) for row in rows],
            }
        )
    )


if __name__ == "__main__":
    main()
