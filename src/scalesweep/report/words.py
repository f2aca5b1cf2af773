"""Texts for numbers and configurations in the terminal: short, with their unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from scalesweep.errors import counted, first_line
from scalesweep.record import Record, Row, State, Trial
from scalesweep.record.final_length import FinalLength
from scalesweep.record.ranking import By
from scalesweep.spec.space import ALL_LINEAR, CADENCES, THAWING_MODES

MISSING = "–"
ERRORS_SHOWN = 3
WIDEST = 32  # letters of a name
ERROR_LETTERS = 300  # of the first line of an error
LISTED = 6  # of a list in a sentence
TRIALS_NAMED = 3  # of those that ended with one error
UNFINISHED = "unfinished"
ACTIVITIES = ("running", "waiting", "paused", UNFINISHED)  # of trials that have not ended
UNITS = {"gpu_seconds": "GPU seconds"}  # where the fidelity's name does not read as its unit
STATES = {
    State.RUNNING: "running",
    State.COMPLETE: "complete",
    State.PRUNED: "pruned",
    State.FAIL: "failed",
    State.INFEASIBLE: "infeasible",
}


def order(by: By, record: Record) -> str:
    """The order of the leaderboard."""
    return {
        "forecast": f"by the {record.metric} expected at the end, made worse by a quarter of its standard deviation",
        "rung": f"by rung, then {record.metric} there",
        "metric": f"by the best {record.metric} at any report",
    }[by]


def count(number: float) -> str:
    """18,873,216 → '18.9M', 0.4512 → '0.451', and '1.2e+15' where no letter is in use."""
    if number >= 1e15 or (number < 100 and number != int(number)):
        return f"{number:.3g}"
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= scale:
            return f"{number / (scale if suffix != 'k' else 1e3):.3g}{suffix}"
    return f"{number:,.0f}"


def score(value: float | None) -> str:
    """A metric's value with four decimals, or four digits where it is large."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def value(number: float) -> str:
    """A setting or a counter in few digits: '3', '0.1', '0.0123', '1.2e-04', '18.9M'."""
    if abs(number) >= 1e4:
        return count(number)
    if number == int(number):
        return str(int(number))
    return f"{number:.1e}" if abs(number) < 1e-3 else f"{number:.3g}"


def seconds(number: float) -> str:
    """Seconds of work: '1,550', '4.2', '0.043'. What is not 0 never reads as 0."""
    return f"{number:,.0f}" if number >= 10 or number == 0 else f"{number:.2g}"


def money(dollars: float) -> str:
    """Dollars: '12.30', '0.0043'. What is not 0 never reads as 0."""
    return f"{dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"{dollars:.2g}"


def width(text: str) -> int:
    """The columns that a text takes in a terminal."""
    return len(text) if text.isascii() else cell_len(text)


def plain(text: str) -> str:
    """One line of text in which control characters, which would move the cursor or change colours, stand as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, most: int = WIDEST) -> str:
    """A name as a cell or in a sentence, in one line: a user's may be long, and hold anything."""
    if len(text) <= most and text.isprintable():
        return text
    shown = plain(text[: 2 * most])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def clock(seconds: float) -> str:
    """Seconds → '1:05', '2:03:09' or '3d 04:10'."""
    whole = max(0, int(seconds))
    if whole >= 86400:
        return f"{whole // 86400}d {whole % 86400 // 3600:02}:{whole % 3600 // 60:02}"
    minutes = f"{whole % 3600 // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes:0>5}" if whole >= 3600 else minutes


def amount(fidelity: float, time_attr: str) -> str:
    """A fidelity with its unit: '120 steps', '1.2M tokens'."""
    return f"{count(fidelity)} {unit(time_attr)}"


def not_ended(row: Row, record: Record) -> str:
    """' after 30 of 90 steps, 0.4911 ± 0.0394 expected at the end' for a row whose forecast ranks it; empty for one at the end."""
    if row.expected is None or row.fidelity is None or not row.expected[1] or row.trial.state is State.COMPLETE:
        return ""
    value, deviation = row.expected
    whole = amount(row.trial.config["max_t"], record.manifest.time_attr)
    return f" after {count(row.fidelity)} of {whole}, {score(value)} ± {score(deviation)} expected at the end"


def later(trial: Trial, record: Record) -> str:
    """'0.5512 at 60 steps', the last report of a trial that came further than the rung by which it is ranked; else empty."""
    last = trial.last
    if last is None or last is trial.judged or not math.isfinite(last.metrics[record.metric]):
        return ""
    return f"{score(last.metrics[record.metric])} at {amount(last.fidelity, record.manifest.time_attr)}"


def final_length(length: FinalLength, record: Record) -> str:
    """'142 steps (3 epochs)', the latter if the trials' epochs are known."""
    epochs = f" ({length.epochs:.2g} epochs)" if length.epochs else ""
    return f"{level(length.max_t)} {unit(record.manifest.time_attr)}{epochs}"


def unit(time_attr: str) -> str:
    """The unit of a fidelity: 'steps', 'GPU seconds'."""
    return UNITS.get(time_attr, time_attr)


def level(fidelity: float) -> str:
    """A fidelity in full where it is short: '6,750', '0.45', '9e+14'."""
    return f"{fidelity:.4g}" if fidelity >= 1e10 or fidelity != int(fidelity) else f"{fidelity:,.0f}"


def rung(number: int, record: Record) -> str:
    return f"rung {number}/{record.manifest.rung_count}" if number else "no rung"


def unfreezing(config: Mapping[str, Any]) -> str:
    """'full', 'head', or a mode with its time between two thaws: 'gradual/40' (steps), 'lp_ft/0.1' (share of the run),
    'gradual/epoch', 'chain_thaw/plateau 2'; and an adapter with its rank: 'full, lora 8'."""
    mode = config.get("unfreezing", MISSING)
    adapter = config.get("adapter", "none")
    beside = "" if adapter == "none" else f", {adapter} {config['lora_rank']}"
    if mode not in THAWING_MODES:
        return f"{mode}{beside}"
    return f"{mode}/{CADENCES[config.get('unfreeze_cadence', 'steps')].short.format(**config)}{beside}"


def layers(config: Mapping[str, Any]) -> str:
    """The layers that get an adapter: 'all-linear', 'q_proj,v_proj'; empty without an adapter."""
    targets = str(config.get("lora_target_modules", ALL_LINEAR)).replace(" ", "")
    return "" if config.get("adapter", "none") == "none" else targets


def rslora(config: Mapping[str, Any]) -> str:
    return "rslora" if config.get("use_rslora") and config.get("adapter", "none") != "none" else ""


def rate(config: Mapping[str, Any]) -> str:
    value = config.get("learning_rate")
    return MISSING if value is None else f"{value:.1e}"


def gpus(config: Mapping[str, Any]) -> str:
    number = config.get("num_gpus")
    return MISSING if number is None else f"{number} GPU" if number < 1 else counted(number, "GPU")


def brief(trial: Trial) -> str:
    """A trial's configuration in one short line: 'L4 · 2 GPUs · gradual/40 · lr 3.2e-04 cosine'.

    Of an adapter, it names the layers where not all get one, and rslora: 'L4 · 1 GPU · full, lora 8 · q_proj,v_proj · lr …'.
    """
    return summary(trial.config)


def summary(config: Mapping[str, Any]) -> str:
    """A configuration in one short line, as `brief`."""
    schedule = config.get("lr_scheduler_type", "")
    of_adapter = [word for word in (layers(config), rslora(config)) if word not in ("", ALL_LINEAR)]
    parts = [config.get("model_size", MISSING), gpus(config), unfreezing(config), *of_adapter]
    return " · ".join([*(short(str(part)) for part in parts), f"lr {rate(config)} {short(str(schedule))}".rstrip()])


def ladder_size(config: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
    """The ladder's row that a configuration chose; empty where the manifest has none."""
    return next((size.json for size in record.manifest.ladder if size.name == config.get("model_size")), {})


def several(items: Sequence[object], most: int = LISTED) -> str:
    """'L4, L6', and 'L1, L2 and 3 more' of a longer list."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def activity(trial: Trial, over: bool) -> str:
    """The state of a trial in one word. A trial that has not ended is running, waiting for workers or paused at a rung; it is
    unfinished where the session is `over`, so that nothing runs."""
    if trial.state.ended:
        return STATES[trial.state]
    return UNFINISHED if over else "paused" if trial.paused else STATES[trial.state] if trial.placed else "waiting"


def state(trial: Trial) -> str:
    """'running', or how the trial ended and why: 'pruned · rung'."""
    word = STATES[trial.state]
    return word if trial.state is State.RUNNING or not trial.stop_reason else f"{word} · {trial.stop_reason}"


def traceback(trial: Trial, record: Record) -> str:
    """' (traceback: runs/x/errors/t0007-1.txt)', the file of the last failed attempt; empty without one."""
    return f" (traceback: {record.folder / trial.traceback if record.folder else trial.traceback})" if trial.traceback else ""


def failures(record: Record) -> list[str]:
    """A line for each of the first errors that ended trials: the trials, the error's first line, and a traceback's file."""
    by_error: dict[str, list[Trial]] = {}
    for trial in record.by_number():
        if trial.error:
            by_error.setdefault(first_line(trial.error), []).append(trial)
    lines = []
    for error, trials in list(by_error.items())[:ERRORS_SHOWN]:
        more = f" and {len(trials) - TRIALS_NAMED} more" if len(trials) > TRIALS_NAMED else ""
        named = ", ".join(trial.name for trial in trials[:TRIALS_NAMED])
        lines.append(f"{named}{more} {STATES[trials[0].state]}: {short(error, ERROR_LETTERS)}{traceback(trials[0], record)}")
    if len(by_error) > ERRORS_SHOWN:
        lines.append(f"… and {counted(len(by_error) - ERRORS_SHOWN, 'more error')}")
    return lines


def guess(record: Record) -> str:
    """The score that a trial must beat: 'eval_loss 0.6811, eval_accuracy 0.5783 (guessing from class shares in train)';
    empty where the record has none."""
    baseline = record.manifest.baseline
    if baseline is None:
        return ""
    shown = ", ".join(
        f"{name} {score(baseline['metrics'][name])}" for name in guessed_metrics(baseline["metrics"], record.metric)
    )
    return f"{shown} (guessing from {baseline['guess']})" if shown else ""


def guessed_metrics(metrics: Mapping[str, float], metric: str) -> list[str]:
    """The metrics of a baseline that are worth a reader's time: the sweep's own, and accuracy where there is one."""
    return list(dict.fromkeys(name for name in (metric, "eval_accuracy") if name in metrics))
