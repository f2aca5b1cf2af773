"""The error tree, and the words of errors and notes.

ScalesweepError            exit code 1 (never raised itself)
├── UserError              2: the user's input is wrong
│   └── SpecError             one or more problems in a sweep file or a search space
├── NothingUsableError     3: nothing usable came of a sweep or a training
└── OutsideError           4: a cluster, a disk or a hub failed
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXIT_CODES = {
    0: "The command did what it was asked.",
    1: "The command met a bug of scalesweep. A traceback is shown.",
    2: "The input is at fault: a file, an option, or the state of the run folder.",
    3: "The sweep ended without a usable trial, the training of `run` failed or diverged, `adapt` found nothing better than the "
    "old model, `simulate --replay` or `reproduce` found a difference, `scaling` refused to fit, `choose` can't tell, or "
    "`plan --from` needs another sweep first.",
    4: "Something outside failed: a cluster, a disk or a hub.",
    130: "The command was interrupted. `resume` continues a sweep; `promote`, `reproduce` and `adapt` continue themselves.",
    141: "The reader of the output closed it, as `| head` does.",
}


LISTED = 60  # known words in a hint; more hide the error above them


class ScalesweepError(Exception):
    """Base of every error that the command line prints without a traceback. `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[ScalesweepError], tuple[str, str]]:
        # Ray workers pickle errors; the default would lose the hint.
        return type(self), (self.message, self.hint)


class UserError(ScalesweepError):
    exit_code = 2


class NothingUsableError(ScalesweepError):
    exit_code = 3


class OutsideError(ScalesweepError):
    exit_code = 4


@dataclass(frozen=True)
class Problem:
    """One problem in a file: its place, its description and its remedy."""

    message: str
    key: str = ""
    file: str = ""
    line: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        head = "  ".join(part for part in (where, f"{self.key}: {self.message}" if self.key else self.message) if part)
        return f"{head}\n    hint: {self.hint}" if self.hint else head


class SpecError(UserError):
    """All problems found in a specification, so that one run reports every one."""

    shown = 9  # more would not fit on one screen

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        lines = [str(problem) for problem in self.problems[: self.shown]]
        if len(self.problems) > self.shown:
            lines.append(f"… and {len(self.problems) - self.shown} more")
        super().__init__("\n".join(lines))

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), (self.problems,)


def check_interpreter() -> None:
    """Check that Python keeps docstrings: transformers builds its models from them, and the help texts are such.

    Raises:
        UserError: if Python runs with -OO.
    """
    if sys.flags.optimize > 1:
        raise UserError(
            "Python drops all docstrings (-OO or PYTHONOPTIMIZE=2), and transformers can't build a model without them",
            "run it without -OO, and unset PYTHONOPTIMIZE; -O and PYTHONOPTIMIZE=1 are fine",
        )


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's text, or the name of its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: '1 row', '1,097 rows'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate with the most similar spelling, or None if none is similar."""
    found = difflib.get_close_matches(str(word), [str(c) for c in candidates], n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a hint for an unknown word: the nearest spelling, then the known words."""
    known = sorted(str(c) for c in candidates)
    near = nearest(word, known)
    listed = f"known: {', '.join(known[:LISTED])}" + (f" and {len(known) - LISTED:,} more" if len(known) > LISTED else "")
    return f"did you mean {near!r}? {listed}" if near else listed


def shell(*words: object) -> str:
    """Return a line for the user's shell: the words, quoted where the shell would split or expand them."""
    return shlex.join(map(str, words))


def command(*words: object) -> str:
    """Return the line that runs `scalesweep WORDS`, as `shell`."""
    return shell("scalesweep", *words)
