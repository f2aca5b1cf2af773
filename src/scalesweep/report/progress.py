"""Progress of a running sweep: a live display on a terminal, one plain line per event anywhere else."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scalesweep.errors import counted, first_line
from scalesweep.record import Record, Report, Row, Sink, State, Trial
from scalesweep.record.prices import paid_in_all
from scalesweep.report import words
from scalesweep.report.findings import beats_guessing
from scalesweep.report.standing import Standing
from scalesweep.report.terminal import console

RUNNING_SHOWN = 12  # lines for running trials; more would not fit on one screen
REFRESH_PER_SECOND = 2
STARTING = "workers are starting; the first trial follows within a minute or so"
STATUS_SECONDS = 15.0  # between two lines that say how the whole sweep stands


@dataclass(frozen=True)
class Use:
    """The used share of one limit of the budget. `left` and `used` are texts with their units."""

    limit: str  # the key under `budget:` in the sweep file
    share: float
    used: str
    left: str


def budget_uses(
    budget: dict[str, Any], ended: int, elapsed: float, gpu_seconds: float, paid: float, begun: int | None = None
) -> list[Use]:
    """Each limit of `budget` that is set. `elapsed` and `gpu_seconds` in seconds, `paid` in dollars.

    With the number of trials that have `begun`, those that are left are the ones to start: a running one is not among them.
    """
    limits: list[tuple[str, float, Callable[[float], str], str]] = [
        ("run_cap", ended, lambda value: f"{value:.0f}", " trials"),
        ("time", elapsed, words.clock, ""),
        ("gpu_hours", gpu_seconds / 3600, lambda value: f"{value:.2f}", " GPU h"),
        ("dollars", paid, lambda value: f"${value:,.2f}", ""),
    ]
    uses = []
    for key, used, say, unit in limits:
        if (cap := budget.get(key)) is None:
            continue
        to_start = key == "run_cap" and begun is not None
        left = say(max(0.0, cap - (begun if begun is not None and to_start else used)))
        left += unit.removesuffix("s") if left == "1" else unit
        uses.append(Use(key, used / cap, f"{say(used)} of {say(cap)}{unit}", left + " to start" * to_start))
    return uses


Watch = Callable[[dict[str, Any], Record], object]


class Listener:
    """A sink that calls a function with each event and the record after it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def handle(self, event: dict[str, Any], record: Record) -> None:
        self._watch(event, record)

    def close(self, record: Record) -> None: ...


def displays(progress: bool | Watch) -> list[Sink]:
    """The sinks that show a sweep: the display on stderr for True, none for False, or a function's."""
    if callable(progress):
        return [Listener(progress)]
    return [ProgressSink()] if progress else []


class ProgressSink:
    """Shows the sweep on `stream` (stderr by default).

    Each event costs the same however many trials there are: counts, cost and the leader are kept, not recomputed.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._console = console(file=self._stream)
        self._on_terminal = self._stream.isatty() and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._view: _View | None = None
        self._lock = threading.Lock()  # the display redraws from a thread of its own

    def handle(self, event: dict[str, Any], record: Record) -> None:
        with self._lock:
            if self._view is None:
                self._view = _View(record)  # the record holds this event already
            else:
                self._view.take(event)
            self._view.seen_at = float(event["time"])
            # On a terminal, ends, notes and the opening stay above the display; starts and reports are visible in it.
            shown = not self._on_terminal or event["event"] in ("session", "end", "note", "sweep_ended")
            lines = _lines(event, self._view) if shown else []
        if not self._on_terminal:
            for line in lines:
                print(line, file=self._stream, flush=True)
            return
        if self._live is None and event["event"] != "sweep_ended":
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
                redirect_stdout=False,  # stdout is for data
            )
            self._live.start()
        for line in lines:
            self._console.print(Text(line))
        if event["event"] == "sweep_ended":
            self._stop()

    def close(self, record: Record) -> None:
        """Take the display away. If the sweep has not ended, print where it stands."""
        self._stop()
        if self._view is not None and record.status != "ended":
            with self._lock:
                line = f"[{words.clock(record.elapsed_seconds)}] not finished: {_summary(self._view, over=True)}"
            self._console.print(Text(line)) if self._on_terminal else print(line, file=self._stream, flush=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        with self._lock:
            assert self._view is not None  # `handle` makes it before it starts the display
            return _display(self._view, self._clock(), self._console.width)


class _View:
    """The values on display, updated with each event."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.standing = Standing(record)
        self.states: Counter[State] = Counter(trial.state for trial in record.trials.values())
        self.running: dict[str, Trial] = {t.name: t for t in record.trials.values() if t.state is State.RUNNING}
        self.seen_at = 0.0
        self.status_at = -STATUS_SECONDS  # seconds of the sweep at which a status line was last shown
        self.led_by = self.standing.best.trial.name if self.standing.best else None
        self._rung = {trial.name: trial.rung for trial in record.trials.values()}
        self._top_rungs = Counter(self._rung.values())
        self.learnt: set[int] = set()  # rungs at which a trial has beaten guessing
        for trial in record.trials.values():
            for report in trial.reports:
                self._judge(report)

    def _judge(self, report: Report) -> None:
        if beats_guessing(self.record, report.metrics[self.record.metric]) is not False:
            self.learnt.update(report.rungs)

    def take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind not in ("trial", "start", "report", "end"):
            return
        trial = self.record.trials[event["trial"]]
        if kind == "trial":
            self.states[trial.state] += 1
            self.running[trial.name] = trial
        elif kind == "report" and trial.last is not None:
            self._top_rungs[self._rung.get(trial.name, 0)] -= 1
            self._judge(trial.last)
            self._rung[trial.name] = trial.rung
            self._top_rungs[trial.rung] += 1
        elif kind == "end" and self.running.pop(trial.name, None) is not None:
            self.states[State.RUNNING] -= 1
            self.states[trial.state] += 1
        self.standing.update(trial)

    @property
    def time_attr(self) -> str:
        return self.record.manifest.time_attr

    def reached(self) -> list[int]:
        """Return the number of trials that reached each rung."""
        numbers = range(1, len(self.record.manifest.rungs) + 1)
        return [sum(self._top_rungs[top] for top in numbers if top >= number) for number in numbers]

    def uses(self, elapsed: float) -> list[Use]:
        ended = sum(number for state, number in self.states.items() if state.ended)
        record = self.record
        paid = paid_in_all(record) or 0.0
        return budget_uses(record.manifest.budget, ended, elapsed, record.gpu_seconds, paid, len(record.configurations()))

    def at(self, fidelity: float, trial: Trial) -> str:
        """'120/360 steps'."""
        return f"{words.count(fidelity)}/{words.amount(self.end(trial), self.time_attr)}"

    def end(self, trial: Trial) -> float:
        """The fidelity at which a trial ends, which is less than `max_t` on a share of the training data."""
        end: float = trial.config.get("max_t", self.record.manifest.max_t)
        return end

    def best(self, row: Row) -> str:
        """'t0003 eval_loss 0.5120 at rung 2/2 (guessing: 0.6811)'."""
        guess = (self.record.manifest.baseline or {"metrics": {}})["metrics"].get(self.record.metric)
        beside = f" (guessing: {words.score(guess)})" if guess is not None else ""
        return f"{row.trial.name} {self.record.metric} {words.score(row.metric)} at {words.rung(row.rung, self.record)}{beside}"

    def new_best(self, trial: str) -> str:
        """' ← new best' where this trial has taken the lead since the last line that was shown."""
        leader = self.standing.best.trial.name if self.standing.best else None
        changed, self.led_by = leader != self.led_by, leader
        return " ← new best" if changed and leader == trial else ""


def _lines(event: dict[str, Any], view: _View) -> list[str]:
    """The lines that one event is worth: none, one, or one and how the whole sweep stands."""
    record, kind = view.record, event["event"]
    head = f"[{words.clock(record.elapsed_seconds)}]"
    if kind == "session" and not event["resumed"]:
        return [f"{head} sweep {record.manifest.name} starts", *_opening(record)]
    text = _event_words(event, view)
    lines = [f"{head} {text}"] if text else []
    if kind == "end" and record.elapsed_seconds - view.status_at >= STATUS_SECONDS and record.status == "running":
        view.status_at = record.elapsed_seconds
        lines.append(f"{head} {_status(view)}")
    return lines


def _opening(record: Record) -> list[str]:
    """The sweep in a few lines, before its first trial: what is searched, how trials are judged, what they must beat."""
    manifest, budget = record.manifest, record.manifest.budget
    sizes = " · ".join(f"{name} {words.count(count)}" for name, count in manifest.n_params.items())
    space = manifest.parameters
    varied = [name for name, parameter in space.items() if parameter.get("value") is None]
    factor = manifest.spec["early_terminate"]["reduction_factor"]
    unit = words.unit(manifest.time_attr)
    rungs = f"{words.level(manifest.max_t)} {unit} for every trial"
    if levels := ", ".join(words.level(level) for level in manifest.rungs if level < manifest.max_t):
        rungs = f"judged at {levels} {unit}, where about 1 in {factor:g} continues; the end is at {words.level(manifest.max_t)}"
    limits = ", ".join(use.left for use in budget_uses(budget, 0, 0.0, 0.0, 0.0))
    rows = {
        "sizes": f"{sizes} parameters" if sizes else "",
        "search": f"{counted(len(varied), 'setting')}{' together' * (len(varied) > 1)}: {', '.join(varied)}" if varied else "",
        "trials": rungs,
        "to beat": words.guess(record),
        "budget": limits,
        "first": STARTING,
    }
    return [f"       {name:<8} {text}" for name, text in rows.items() if text]


def _event_words(event: dict[str, Any], view: _View) -> str:
    """One event in words; empty for events that mean nothing to a reader on their own."""
    record, kind = view.record, event["event"]
    if kind == "session":
        return f"sweep {record.manifest.name} resumes: {_counts(view)}; {STARTING}"
    if kind == "untrained":
        finite = math.isfinite(event["metrics"][record.metric])
        return "" if finite else f"the untrained model of {event['model_size']} has no finite {record.metric}"
    if kind == "note":
        return str(event["text"])
    if kind == "sweep_ended":
        return f"sweep ended ({event['reason']}): {_summary(view)}"
    if kind == "start":
        trial = record.trials[event["trial"]]
        again = f" again (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        return f"{trial.name} starts{again}: {words.brief(trial)}"
    if kind == "report":
        return _report_words(event, view)
    if kind == "yielded" and event["to"] is None:
        return f"{event['trial']} leaves a node that will be taken away; it continues elsewhere"
    if kind == "yielded":
        return f"{event['trial']} gives its workers to {event['to']}, which has waited longer; it continues later"
    return _end_words(record.trials[event["trial"]], view) if kind == "end" else ""


def _report_words(event: dict[str, Any], view: _View) -> str:
    """A trial's value, and what became of it. A report that ends the trial is left to the line of the end."""
    if event["action"] in ("stop", "complete"):
        return ""
    metric = view.record.metric
    text = f"{event['trial']} at {view.at(event['fidelity'], view.record.trials[event['trial']])}: {metric} {words.score(event['metrics'][metric])}"
    if event["rungs"]:
        verdict = "waits at" if event["action"] == "pause" else "passes"
        text += f", {verdict} {words.rung(max(event['rungs']), view.record)}"
    return text + view.new_best(event["trial"])


def _end_words(trial: Trial, view: _View) -> str:
    cost = f" · {words.seconds(trial.gpu_seconds)} GPU s" if trial.attempts else ""
    if trial.last is None or trial.state not in (State.COMPLETE, State.PRUNED):
        error = f": {first_line(trial.error)}{words.traceback(trial, view.record)}" if trial.error else ""
        return f"{trial.name} {words.state(trial)}{error}{cost}"
    what = "finished" if trial.state is State.COMPLETE else "stopped"
    needed = ""
    if trial.stop_reason == "rung":
        what = f"stopped at {words.rung(trial.rung, view.record)}"
        chance = "" if trial.rung in view.learnt else "; no trial beats guessing there yet"
        needed = f" (needed {words.score(trial.last.cutoff)}{chance})" if trial.last.cutoff is not None else ""
    elif trial.state is State.PRUNED:
        what = f"stopped ({trial.stop_reason})"
    value = f"{view.record.metric} {words.score(trial.last.metrics[view.record.metric])}"
    return f"{trial.name} {what}: {value} at {view.at(trial.last.fidelity, trial)}{needed}{cost}{view.new_best(trial.name)}"


def _status(view: _View) -> str:
    left = ", ".join(use.left for use in view.uses(view.record.elapsed_seconds))
    best = view.standing.best
    parts = [_counts(view), f"best {view.best(best)}" if best else "", f"left: {left}" if left else ""]
    return f"── {' | '.join(part for part in parts if part)}"


def _counts(view: _View, over: bool = False) -> str:
    words_of = ((State.COMPLETE, "done"), (State.PRUNED, "stopped"), (State.FAIL, "failed"), (State.INFEASIBLE, "infeasible"))
    parts = [f"{view.states[state]} {word}" for state, word in words_of if view.states[state] or state is not State.INFEASIBLE]
    doing = Counter(words.activity(trial, over) for trial in view.running.values())
    parts += [f"{doing[word]} {word}" for word in words.ACTIVITIES if doing[word] or (word == "running" and not over)]
    return " · ".join(parts)


def _summary(view: _View, over: bool = False) -> str:
    best = view.standing.best
    cost = f"{words.seconds(view.record.gpu_seconds)} GPU s"
    return f"{_counts(view, over)} · {cost}" + (f" | best: {view.best(best)} ({words.brief(best.trial)})" if best else "")


def _display(view: _View, now: float, width: int) -> RenderableType:
    record = view.record
    elapsed = record.elapsed_seconds + max(0.0, now - view.seen_at)  # the record counts up to its last event
    uses = view.uses(elapsed)
    running = [trial for trial in view.running.values() if not trial.paused][:RUNNING_SHOWN]
    screen = Table.grid(padding=(0, 1))
    # A narrow terminal is to cut the text at the right, not the labels.
    screen.add_column(no_wrap=True, min_width=max(len(label) for label in ("trials", *(trial.name for trial in running))))
    screen.add_column(no_wrap=True, overflow="ellipsis")
    tightest = max(uses, key=lambda use: use.share, default=None)
    used = (
        f"{min(tightest.share, 1):.0%} of {tightest.limit} ({tightest.used})" if tightest else f"{words.clock(elapsed)} elapsed"
    )
    budget_bar = f"{_bar(tightest.share, max(8, min(40, width - 50)))} " if tightest else ""
    screen.add_row("budget", f"{budget_bar}{used}")
    if uses:
        screen.add_row("left", f"{' · '.join(use.left for use in uses)} ({words.clock(elapsed)} elapsed)")
    screen.add_row("trials", _counts(view))
    if record.manifest.rungs:
        levels = zip(record.manifest.rungs, view.reached(), strict=True)
        text = " → ".join(f"{number} at {words.count(level)}" for level, number in levels)
        screen.add_row("rungs", f"{text} {words.unit(view.time_attr)}")
    if best := view.standing.best:
        screen.add_row("best", Text(f"{view.best(best)} · {words.brief(best.trial)}", "green"))
    for trial in running:
        screen.add_row(trial.name, _running_line(trial, view, 20 if width >= 100 else 8))
    more = sum(not trial.paused for trial in view.running.values()) - len(running)
    if more:
        screen.add_row("", f"… and {more} more running")
    return Group(Text(f"sweep {record.manifest.name}", "bold"), screen)


def _running_line(trial: Trial, view: _View, bar_width: int) -> str:
    config = words.brief(trial)
    if trial.last is None:
        return f"{'starting' if trial.attempts else 'waiting'} · {config}"
    share = trial.last.fidelity / view.end(trial)
    value = words.score(trial.last.metrics[view.record.metric])
    return f"{_bar(share, bar_width)} {view.at(trial.last.fidelity, trial)} · {value} · {config}"


def _bar(share: float, width: int) -> str:
    """Drawn by hand: rich's own bar shows its empty part in colour only."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "━" * full + "─" * (width - full)
