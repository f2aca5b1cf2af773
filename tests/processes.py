"""Processes that start with heavy imports done: forked, each, from one that has run nothing but those imports.

Their environment is the test's own. Without that, all would have the environment of the test that was the first to need one,
and so its cache folder.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any


class _Process(ForkServerProcess):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class _Context(ForkServerContext):
    Process = _Process


READY = _Context()
READY.set_forkserver_preload(
    [
        "peft",
        "pytest",
        "scalesweep.models.base",
        "scalesweep.data.tokens",
        "scalesweep.training.loop",
        "transformers.models.bert.modeling_bert",
    ]
)


def loaded_by_ready() -> set[str]:
    """The names of all modules that such a process starts with."""
    answer = READY.Queue()
    process = READY.Process(target=_loaded, args=(answer,))
    process.start()
    loaded: set[str] = answer.get(timeout=60)
    process.join()
    return loaded


def _loaded(answer: Any) -> None:
    answer.put(set(sys.modules))
