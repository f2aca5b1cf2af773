"""The length of a final run: the sweep's `max_t`, or longer if its trials were short and still improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scalesweep.record.ranking import rank
from scalesweep.record.schema import Record, Trial

EPOCHS = 3.0  # of a final run after short trials, as transformers' `num_train_epochs`
LONGER = (2.0, 10.0)  # least and most multiple of `max_t` of such a run: its cost stays in sight of a trial's
LAST_PART = 2 / 3  # share of a trial after which its loss is compared
LARGE_GAIN = 0.1  # share of a trial's whole gain; more in its last part means that it was still improving
SMALL_GAIN = 0.01  # share of the loss; less is noise


@dataclass(frozen=True)
class FinalLength:
    """The fidelity at which a final run ends, its epochs if they are known, and the reason in words."""

    max_t: float
    epochs: float | None
    reason: str
    short: bool = False  # the trials were short, so the final run is longer


def final_length(record: Record, trial: Trial, train_on: Sequence[str]) -> FinalLength:
    """Return the default length of the final run of `trial`.

    The witness is the trial itself, or the best one that reached `max_t`. If its loss was still falling or no better than
    guessing, the final run lasts EPOCHS, but at least and at most LONGER times `max_t`.
    """
    max_t, attr = record.manifest.max_t, record.manifest.time_attr
    candidates = [trial, *(row.trial for row in rank(record))]
    witness = next((one for one in candidates if one.last is not None and one.last.fidelity >= max_t), None)
    if witness is None or witness.last is None:
        return FinalLength(max_t, None, "the sweep's max_t, which no trial reached")
    epochs = float(witness.last.metrics.get("epoch", 0.0))
    found = still_improving(witness, _guess(record))
    growth = (_examples(record, train_on) / _examples(record, ("train",))) if _examples(record, ("train",)) else 1.0
    per_epoch = witness.last.fidelity / epochs * growth if epochs > 0 else math.inf
    ran = f"{witness.name} ran {epochs:.2g} epochs" if epochs > 0 else f"{witness.name} reached it"
    if not found:
        return FinalLength(max_t, max_t / per_epoch or None, f"the sweep's max_t: {ran} and had stopped improving")
    least, most = (max_t * multiple for multiple in LONGER)
    length = min(max(EPOCHS * per_epoch, least), most)
    length = math.ceil(length) if attr in ("steps", "tokens") else float(f"{length:.3g}")
    reason = f"{ran}, the sweep's max_t of {max_t:,g} {attr}, and {found}"
    return FinalLength(length, length / per_epoch or None, reason, short=True)


def still_improving(trial: Trial, guess: float | None) -> str:
    """Return in words why a trial's loss at the end is not its last; empty if the trial had stopped improving."""
    curve = [(report.fidelity, report.metrics["eval_loss"]) for report in trial.reports if "eval_loss" in report.metrics]
    if not curve or not math.isfinite(curve[-1][1]):
        return ""
    (end, final), first = curve[-1], curve[0][1]
    if guess is not None and final > (1 - SMALL_GAIN) * guess:
        return f"was no better than guessing (eval_loss {final:.4g})"
    before = [loss for fidelity, loss in curve[:-1] if fidelity <= LAST_PART * end]
    if not before:
        return "was judged at its end alone"
    gain = before[-1] - final
    if gain > max(LARGE_GAIN * (first - final), SMALL_GAIN * abs(final)):
        return f"was still improving (eval_loss {before[-1]:.4g} → {final:.4g})"
    return ""


def _guess(record: Record) -> float | None:
    metrics = (record.manifest.baseline or {}).get("metrics", {})
    return metrics.get("eval_loss")


def _examples(record: Record, splits: Sequence[str]) -> int:
    """Return the rows of these splits; 0 if the manifest does not state them."""
    stated = record.manifest.data.get("splits", {})
    return sum(int(stated[name].get("rows", 0)) for name in splits if isinstance(stated.get(name), dict))
