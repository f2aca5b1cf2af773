"""Promotes a trial: trains its configuration to the end, evaluates the test split once, exports the model and checks the export."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from scalesweep.costs import workers_of
from scalesweep.errors import UserError
from scalesweep.promotion.adapted import ancestry, errors_of, judge, kept_judgement, refuse, start_report
from scalesweep.promotion.card import model_card
from scalesweep.promotion.choice import checked_config, choose, length_of
from scalesweep.promotion.chosen import By, chosen
from scalesweep.promotion.final_run import Progress, as_json, train, weight_hashes
from scalesweep.promotion.predicted import predicted
from scalesweep.promotion.spent import spent
from scalesweep.promotion.summary import adapted, confirmation
from scalesweep.promotion.target import read_target
from scalesweep.promotion.unfinished import CHECKPOINT, Unfinished
from scalesweep.record import Record, Trial, read_record
from scalesweep.record.confirmed import confirmed
from scalesweep.record.exports import OLD, PROVENANCE, metrics_of, scores
from scalesweep.record.final_length import FinalLength
from scalesweep.record.provenance import package_versions
from scalesweep.record.seeds import seeds
from scalesweep.record.store import encode
from scalesweep.report import words
from scalesweep.report.wandb.tracker import send_promotion
from scalesweep.search.pick import with_forecasts
from scalesweep.spec import TrialConfig, functions, sweep_from_dict
from scalesweep.spec.adapters import trained_params
from scalesweep.spec.space import CADENCES
from scalesweep.spec.tasks import TASKS
from scalesweep.storage import UrlPath, check_cache, place
from scalesweep.training.job import TrialJob, job_from_manifest

Keep = Literal["last", "best"]


def promote(
    run_dir: Path | UrlPath | str,
    trial_name: str = "best",
    train_on: tuple[str, ...] = ("train", "validation"),
    output: Path | UrlPath | str | None = None,
    num_gpus: int | None = None,
    max_t: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
    say: Callable[[str], object] | None = None,
    target: Path | str | None = None,
    keep: Keep = "last",
    board_watts: float | None = None,
) -> dict[str, Any]:
    """Train a trial's configuration to the end, test it once, export the model and verify the export.

    Args:
        run_dir: run folder of the sweep, a path or a URL.
        trial_name: name of the trial, or `best` for the search's choice.
        train_on: splits that the final run trains on. The test split is read once, at the end, in any case.
        output: folder for the model; default: `promoted/TRIAL` in the run folder.
        num_gpus: workers of the final run; default: those of the trial, each with a whole GPU. Changes the speed, not the result.
        max_t: fidelity of the final run; default: the sweep's `max_t`, or longer if its trials were short and still
            improving (`record.final_length`).
        force: replace an earlier promotion in `output`, and read the test split again.
        progress: called with (steps done, total steps).
        address: 'auto' or HOST:PORT of a running Ray cluster that trains the model; default: this machine.
        say: called once before the training, with the outcome of a confirmation, the length of the final run and remarks.
        target: target file (`plan --from … --write FILE`), which names the trial, the size, the length and other settings.
        keep: the checkpoint that becomes the model: the last one, or the best by the sweep's metric on the validation split, which
            must be held out then (`train_on=("train",)`).
        board_watts: power of one GPU board, or of a CPU worker, for the estimate of the energy; default: its maker's figure.

    Returns:
        The content of the model's `provenance.json`, and `output`, the folder's path.

    A sweep that adapts a promoted model exports only what is better than that one by the margins of its `adapt`.

    Raises:
        NothingUsableError: if the adapted model is not better than the one it started from.
        UserError: if there is no trial to promote, the target file is wrong, `keep` is best and `train_on` has validation, `output`
            already holds files, another process promotes into it, or the cache folder can't be written.
        OutsideError: if a worker died, or the exported model predicts other values than the trained model.
    """
    check_keep(keep, train_on)
    run_dir = place(run_dir)
    record = read_record(run_dir)
    if address is None:
        check_cache()
    aim = None if target is None else read_target(Path(target))
    trial = swept_trial = choose(record, run_dir, aim.trial if aim else trial_name)
    swept = with_forecasts(record)
    if aim is not None:
        record, trial = aim.aimed(record, swept_trial)
    config = checked_config(record, trial, run_dir)
    output = _output(output, run_dir, aim.folder if aim else trial.name, force)
    length = aim.length if aim else length_of(record, trial, config, max_t, train_on)
    final = _final_config(config, num_gpus, length.max_t, _evaluates(swept_trial) if keep == "best" else None)
    settings = {"config": final.model_dump(), "train_on": list(train_on)}
    settings |= {} if keep == "last" else {"keep": keep}
    with closing(Unfinished(output, settings, discard=force)) as work:
        n_params, trained = _counts(record, final)
        work.check_space(n_params, trained, 3 if keep == "best" else 2)
        if say is not None:
            told = f"the final run trains {words.final_length(length, record)}: {length.reason}"
            remark = functions.changed_functions(record.manifest.functions)
            say("\n".join([*confirmation(confirmed(record), trial.name, record.metric), told, *filter(None, [remark])]))
        job = job_from_manifest(
            record.manifest,
            sweep_from_dict(record.manifest.spec),
            trial.name,
            final,
            (work.folder / CHECKPOINT).resolve(),
            train_on=train_on,
            evaluate_on="test",
            heartbeat_steps=5,
            keep=keep,
            thaw_at=thaws(swept_trial, swept) if CADENCES[config.unfreeze_cadence].by_metric else None,
        )
        before = None if record.manifest.adapts is None else start_report(job, record.manifest, address)
        report = train(job, work, progress, address)
        reads = _earlier_reads(output) + 1
        judgement = None if before is None else judge(record.manifest, before, report)
        if judgement is not None and not (judgement.better and judgement.keeps):
            work.discard()
            if say is not None:
                say(adapted(judgement.as_json()))
            raise refuse(output, judgement, trial.name, record.manifest, reads)
        provenance = _provenance(record, trial, job, train_on, length, report, run_dir, work, reads)
        metric, gpu_seconds = record.metric, provenance["final_run"]["wall_seconds"] * final.num_gpus
        reached, error = provenance["test"][metric], provenance["test_standard_errors"].get(metric)
        beside = _unlike(final, swept, train_on, aim is not None)
        by: By = "plan" if aim else "search" if trial_name == "best" else "user"
        provenance |= {
            "chosen": chosen(swept, swept_trial, by),
            "predicted": predicted(swept, swept_trial, reached, error, aim.predicted if aim else None) | {"besides": beside},
            "spent": spent(record, final.model_size, report.device, gpu_seconds, board_watts),
            **({} if aim is None else {"target": aim.as_json()}),
            **({} if judgement is None else {"adapted": ancestry(record.manifest, judgement)}),
        }
        text = json.dumps(encode(provenance), indent=2, ensure_ascii=False) + "\n"
        (work.model / PROVENANCE).write_text(text, encoding="utf-8")
        (work.model / "README.md").write_text(model_card(provenance), encoding="utf-8")
        work.finish()
    kept_judgement(output).unlink(missing_ok=True)
    send_promotion(swept, output)
    return {**provenance, "output": str(output)}


def finished(
    run_dir: Path | UrlPath | str,
    trial_name: str = "best",
    output: Path | UrlPath | str | None = None,
    target: Path | str | None = None,
) -> dict[str, Any] | None:
    """Return what `promote` returned for an earlier promotion into the folder that it would use now; None if there is none.

    Raises:
        UserError: if there is no trial to promote, the target file is wrong, or the folder holds the model of another trial.
    """
    run_dir = place(run_dir)
    record = read_record(run_dir)
    aim = None if target is None else read_target(Path(target))
    trial = choose(record, run_dir, aim.trial if aim else trial_name)
    folder = _folder(output, run_dir, aim.folder if aim else trial.name)
    try:
        found: dict[str, Any] = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        whose = found["sweep"]["id"], found["trial"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whose != (record.manifest.get("id"), trial.name):
        raise UserError(f"{folder} holds {whose[1]} of the sweep {found['sweep']['name']}, not {trial.name} of {run_dir}")
    return {**found, "output": str(folder)}


def check_unused(
    output: Path | UrlPath | str | None, run_dir: Path | UrlPath, names: Iterable[str], force: bool = False
) -> None:
    """Check that each of the named trials could be promoted into its folder, before a confirmation spends anything.

    Raises:
        UserError: if a folder is a URL, or it holds files and is not to be replaced.
    """
    for name in names:
        _output(output, run_dir, name, force)


def _folder(output: Path | UrlPath | str | None, run_dir: Path | UrlPath, name: str) -> Path:
    """Return the folder for the model; `name` is its name by default.

    Raises:
        UserError: if it is a URL.
    """
    if output is None:
        promoted = run_dir / "promoted" if isinstance(run_dir, Path) else Path("promoted") / run_dir.name
        output = promoted / name
    if isinstance(output := place(output), UrlPath):
        raise UserError(
            f"--output {output} is a URL, and a model is exported to a local folder",
            "give a local folder, and copy it afterwards",
        )
    return output


def _output(output: Path | UrlPath | str | None, run_dir: Path | UrlPath, name: str, force: bool) -> Path:
    """Return the folder for the model.

    Raises:
        UserError: if it is a URL, or it holds files and is not to be replaced.
    """
    output = _folder(output, run_dir, name)
    if kept_judgement(output).exists() and not force:
        message = f"the model of {name} has read the test splits and was refused: {kept_judgement(output)} has its values"
        raise UserError(message, "choose another --trial, or train and test it again with --force")
    if output.is_file():
        raise UserError(f"{output} is a file, and a model is exported to a folder", "choose another --output")
    if output.exists() and any(output.iterdir()) and not force:
        done = (output / PROVENANCE).exists()
        what = "already holds a promoted model, which has read the test split" if done else "is not empty"
        raise UserError(f"{output} {what}", "choose another --output, or replace it with --force")
    return output


def check_keep(keep: Keep, train_on: Iterable[str]) -> None:
    """Check that a best checkpoint can be told.

    Raises:
        UserError: the final run trains on the split that would tell.
    """
    if keep == "best" and "validation" in train_on:
        raise UserError(
            "the best checkpoint is told by the validation split, and the final run trains on it: every checkpoint looks good there",
            "hold validation out with --train-on train, or keep the last checkpoint",
        )


def _evaluates(trial: Trial) -> int:
    """Return the steps between two evaluations of a trial."""
    steps = [0, *(report.step for report in trial.reports)]
    return int(trial.config.get("eval_interval") or min(later - step for step, later in pairwise(steps) if later > step))


def _final_config(config: TrialConfig, num_gpus: int | None, max_t: float, eval_interval: int | None) -> TrialConfig:
    """Return the configuration of the final run, which stops at no rung."""
    changes: dict[str, Any] = {"num_gpus": num_gpus or workers_of(config.num_gpus), "max_t": max_t, "rungs": []}
    changes["train_share"] = 1.0
    return config.model_copy(update={**changes, "eval_interval": eval_interval, "checkpoint_interval": None})


def thaws(trial: Trial, record: Record) -> tuple[float, ...]:
    """Return the shares of a full run at which the trial's unfreezing stages began. A final run has no validation to detect them."""
    stage, found = 0, []
    for report in trial.reports:
        share = report.fidelity / trial.config.get("max_t", record.manifest.max_t)
        found += [share] * (int(report.metrics["unfreezing_stage"]) - stage)
        stage = int(report.metrics["unfreezing_stage"])
    return tuple(found)


def _earlier_reads(output: Path) -> int:
    """Return the number of times that the model in `output` has read the test split."""
    reads = 0
    for file in (output / PROVENANCE, kept_judgement(output)):
        with contextlib.suppress(OSError, ValueError, KeyError):
            reads = max(reads, int(json.loads(file.read_text(encoding="utf-8"))["test_reads"]))
    return reads


def _counts(record: Record, config: TrialConfig) -> tuple[int, int]:
    """Return the parameters of the exported model, and those that train."""
    older = {"head_groups": 1, "linears": ()}  # what the records of older versions lack
    size = SimpleNamespace(**{**older, **record.manifest.size(config.model_size).json})
    full_head = TASKS[record.manifest.spec["task"]].draws_head
    method = config.unfreezing, config.adapter, config.lora_rank, config.lora_target_modules
    return size.n_params, trained_params(size, *method, full_head)


def _unlike(final: TrialConfig, swept: Record, train_on: Iterable[str], aimed: bool) -> str:
    """Return how the final run differs from the one that was predicted, as a sentence; empty if it does not."""
    lasts = words.amount(final.max_t, final.time_attr)
    parts = [f"lasted {lasts}"] if not aimed and final.max_t != swept.manifest.max_t else []
    parts += ["learnt from the validation split too"] if "validation" in train_on else []
    return f"The final run {' and '.join(parts)}." if parts else ""


def _kept(job: TrialJob, report: Any) -> dict[str, Any] | None:
    """Return which checkpoint is the model; None for the last one."""
    if job.keep == "last":
        return None
    return {"step": report.step, "of": report.total_steps, "metric": job.metric, "value": report.metrics.get("kept_value")}


def _provenance(
    record: Record,
    trial: Trial,
    job: TrialJob,
    train_on: tuple[str, ...],
    length: FinalLength,
    report: Any,
    run_dir: Path | UrlPath,
    work: Unfinished,
    test_reads: int,
) -> dict[str, Any]:
    manifest, config = record.manifest, job.config
    size = manifest.size(config.model_size)
    judged, earlier = trial.judged, metrics_of(OLD, report.metrics)
    assert judged is not None
    return {
        "sweep": {"name": manifest.name, "id": manifest.id, "git": manifest["git"], "run_dir": run_dir.name},
        "trial": {
            "name": trial.name,
            "state": str(trial.state),
            "rung": trial.rung,
            "rungs": manifest.rung_count,
            "fidelity": judged.fidelity,
            "validation": {name: value for name, value in judged.metrics.items() if name.startswith("eval_")},
            "params": trial.params,
        },
        "confirmation": [one.as_json() for one in confirmed(record)],
        "task": manifest.spec["task"],
        "metric": manifest["metric"],
        "baseline": manifest.baseline,
        "base_model": {"model": size.model, "layers": size.layers, "revision": size.revision},
        "n_params": size.n_params,
        "final_run": {
            "config": config.model_dump(),
            "train_on": list(train_on),
            "length": length.reason,
            "steps": report.step,
            "tokens": report.tokens,
            "flops": report.flops,
            "wall_seconds": work.seconds,
            "sessions": work.sessions,
            "workers": config.num_gpus,
            "device": report.device,
            "kept": _kept(job, report),
        },
        "test": (test := scores(report.metrics)),
        "test_standard_errors": errors_of(report, 0, test),
        **({"earlier_test": earlier, "earlier_test_standard_errors": errors_of(report, 1, earlier)} if earlier else {}),
        "data": {
            key: manifest.data[key] for key in ("source", "fingerprint", "classes", "splits", "notes") if key in manifest.data
        },
        "functions": {"sweep": dict(manifest.functions), "final_run": functions.file_hashes(manifest.functions)},
        "seed_sd": seeds(record).sd,
        "versions": {"sweep": manifest.versions, "final_run": package_versions()},
        "test_reads": test_reads,
        "seeds": manifest["seeds"],
        "weights": weight_hashes(work.model),
        "job": as_json(job),
        "spec": manifest.spec,
    }
