"""Export of a finished run folder to one table for `scalesweep simulate --curves`.

    scalesweep launch benchmarks/curves/quickstart-random.yaml --num-gpus 2
    python benchmarks/curves/export.py runs/quickstart-random benchmarks/curves/quickstart.parquet

The cost is the FLOPs of training without a cache (`model_flops`), because seconds depend on the load of the machine. The GPU
count is left out, because it does not change results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from scalesweep.record import State, read_record


def table(run_dir: Path) -> pd.DataFrame:
    """One row per report of the trials that ran to the end."""
    record = read_record(run_dir)
    n_params = {size["name"]: size["n_params"] for size in record.manifest["ladder"]}
    rows = []
    for trial in record.by_number():
        if trial.state is State.COMPLETE:
            params = {name: value for name, value in trial.params.items() if name != "num_gpus"}
            fixed = {"config": trial.name, "n_params": n_params[trial.params["model_size"]], **params}
            for report in trial.reports:
                values = {record.metric: report.metrics[record.metric], "eval_accuracy": report.metrics["eval_accuracy"]}
                rows.append({**fixed, "steps": report.step, "flops": report.model_flops, **values})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    table(source).to_parquet(target, index=False)
