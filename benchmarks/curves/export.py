"""Export of finished run folders to one table for `scalesweep simulate --curves`.

    scalesweep launch benchmarks/curves/quickstart-random.yaml --num-gpus 2
    python benchmarks/curves/export.py runs/quickstart-random benchmarks/curves/quickstart.parquet

The last argument is the table to write; each other one is a run folder or an earlier table, whose rows stay. The cost is the FLOPs
of training without a cache (`model_flops`), because seconds depend on the load of the machine. The GPU count is left out, because
it does not change results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from scalesweep.record import State, read_record

METRICS = ("eval_loss", "eval_accuracy")  # those that the sweep has


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
                values = {name: report.metrics[name] for name in METRICS if name in report.metrics}
                rows.append({**fixed, "steps": report.step, "flops": report.model_flops, **values})
    return pd.DataFrame(rows)


def together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All tables in one. Every configuration gets a number as its name, because two sweeps have trials of one name."""
    rows = pd.concat([frame.assign(config=frame["config"] + f"/{number}") for number, frame in enumerate(tables)])
    rows["config"] = [f"c{number:04d}" for number in pd.factorize(rows["config"])[0]]
    return rows.reset_index(drop=True)


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    found = [pd.read_parquet(source) if source.is_file() else table(source) for source in sources]
    together(found).to_parquet(target, index=False)
