"""Processes that start with heavy imports done: forked, each, from one that has run nothing but those imports."""

from __future__ import annotations

import multiprocessing

READY = multiprocessing.get_context("forkserver")
READY.set_forkserver_preload(
    [
        "pytest",
        "scalesweep.models.base",
        "scalesweep.data.tokens",
        "scalesweep.training.loop",
        "transformers.models.bert.modeling_bert",
    ]
)
