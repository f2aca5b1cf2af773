"""Reproduces a promotion: trains the same job again from its provenance, and compares the results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from scalesweep.errors import UserError
from scalesweep.promotion.final_run import Progress, from_json, train, weight_hashes
from scalesweep.promotion.unfinished import CHECKPOINT, Unfinished
from scalesweep.record.exports import read_provenance, scores
from scalesweep.record.provenance import package_versions
from scalesweep.spec import functions
from scalesweep.storage import check_cache

ROUNDING = 1e-3  # difference of a metric, absolute or relative, up to which it counts as rounding
Verdict = Literal["bit-equal", "equal up to rounding", "different"]


def reproduce(
    export: Path | str,
    output: Path | str | None = None,
    num_gpus: int | None = None,
    progress: Progress | None = None,
    address: str | None = None,
    say: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Train a promoted model again from its `provenance.json`, and compare weights and test metrics.

    Args:
        export: folder that `promote` wrote.
        output: folder that keeps the new model; by default it is compared and removed.
        num_gpus: workers; by default as many as the first time. With another number the result is equal up to rounding.
        progress: called with (steps done, total steps).
        address: 'auto' or HOST:PORT of a running Ray cluster that trains the model; default: this machine.
        say: called with each difference of versions, workers and functions, before the training.

    Returns:
        `verdict`; `weights`: whether each file of weights is the same; `test`: the two values of each metric, the first run's
        first; `differences`: what differs besides, in words.

    Raises:
        UserError: `export` holds no promoted model, `output` is not empty, or the workers don't fit.
        OutsideError: the data have changed, a worker died, or the export predicts other values than the trained model.
    """
    export = Path(export)
    provenance = read_provenance(export)
    job = from_json(provenance["job"])
    if num_gpus is not None:
        job = replace(job, config=job.config.model_copy(update={"num_gpus": num_gpus}))
    target = Path(output) if output is not None else export.with_name(f"{export.name}-reproduced")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty", "choose another --output, or remove it")
    if address is None:
        check_cache()
    differences = _differences(provenance, job.config.num_gpus)
    settings = {"reproduces": provenance["weights"], "config": job.config.model_dump()}
    with closing(Unfinished(target, settings, discard=False)) as work:
        if say is not None:
            for difference in differences:
                say(difference)
        report = train(replace(job, checkpoint_dir=str((work.folder / CHECKPOINT).resolve())), work, progress, address)
        made = weight_hashes(work.model)
        if output is None:
            work.discard()
        else:
            work.finish()
    weights = {name: made.get(name) == known for name, known in provenance["weights"].items()}
    test = {name: (value, scores(report.metrics).get(name)) for name, value in provenance["test"].items()}
    return {"verdict": _verdict(weights, test), "weights": weights, "test": test, "differences": differences}


def _differences(provenance: dict[str, Any], workers: int) -> list[str]:
    """The differences from the first run that are known before it begins, in words."""
    before, now = provenance["versions"]["final_run"], package_versions()
    changed = [f"{name} {now.get(name)} instead of {before[name]}" for name in before if before[name] != now.get(name)]
    found = [f"other versions: {', '.join(changed)}"] if changed else []
    if workers != (first := provenance["final_run"]["workers"]):
        found.append(f"other workers: {workers} instead of {first}")
    if remark := functions.changed_functions(provenance["functions"]["final_run"]):
        found.append(remark)
    return found


def _verdict(weights: dict[str, bool], test: dict[str, tuple[float, float | None]]) -> Verdict:
    if all(weights.values()) and all(first == second for first, second in test.values()):
        return "bit-equal"
    near = (second is not None and abs(first - second) <= ROUNDING * max(1.0, abs(first)) for first, second in test.values())
    return "equal up to rounding" if all(near) else "different"
