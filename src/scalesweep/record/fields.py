"""Names, types and meanings of the events and keys that a run folder holds.

`docs/reference/record.md` is generated from these tables. Tests compare them with what is written.
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """One key: its JSON type and its meaning."""

    type: str
    help: str


class Event(NamedTuple):
    """One kind of event: what it records, and its fields beside `event` and `time`."""

    help: str
    fields: dict[str, Field]


_TRIAL = Field("text", "name of the trial")
_TRACEBACK = Field("text", "file of the attempt's traceback, relative to the run folder; absent without one")
_WALL = Field("number", "seconds that the trial has held its workers, over all attempts")
_GPU = Field("number", "the same seconds × workers")
_COUNTS = Field("list of numbers", "GPU counts that were possible at that moment; absent where all were")

REPORT: dict[str, Field] = {
    "trial": _TRIAL,
    "fidelity": Field("number", "progress, in the sweep's `time_attr`"),
    "step": Field("number", "optimizer steps"),
    "tokens": Field("number", "tokens trained on, without padding"),
    "model_flops": Field("number", "FLOPs that the training steps so far take without a cache"),
    "flops": Field("number", "FLOPs computed so far: evaluation included, activations read from the cache left out"),
    "total_steps": Field("number", "steps of the whole run; an estimate where the fidelity counts neither steps nor tokens"),
    "train_seconds": Field("number", "seconds in training steps alone"),
    "wall_seconds": Field("number", f"{_WALL.help}, loading and evaluation included"),
    "gpu_seconds": _GPU,
    "dollars": Field("number or null", "GPU seconds at the price of the size; null without a price"),
    "first_step_at": Field("number", "unix seconds on the worker at the first step of this attempt"),
    "reported_at": Field("number", "unix seconds on the worker at this report"),
    "device": Field("text", "name of the first worker's GPU, or `cpu`. Older records have none."),
    "metrics": Field(
        "mapping",
        "the task's metrics (`eval_…`); `train_loss` (mean objective since the last report), `learning_rate` (the highest of all "
        "groups), `epoch`, `trainable_groups`, `unfreezing_stage` (from 0)",
    ),
    "rungs": Field("list of numbers", "rungs at which this report was judged, ascending; mostly one or none. 1 is the first."),
    "marks": Field(
        "list",
        "for each of these rungs `rung`, `fidelity` (the rung's own), `value` and `gpu_seconds` there. Where the report lies "
        "beyond the rung, they are interpolated between this report and the one before. Older records have none.",
    ),
    "action": Field(
        "text",
        "`continue`, `stop`, `complete`, or `pause`: the trial waits at the rung without workers, until its next `start`",
    ),
    "reason": Field("text or null", "why the trial stopped or is complete: `rung`, `max_t`, `diverged`, or `budget: …`"),
    "cutoff": Field(
        "number or null",
        "metric that the rung required. null for the first trial at the rung, with `variant: promotion`, and with "
        "`survival: pareto`.",
    ),
    "examples": Field(
        "mapping",
        "where the numbers of the validation rows are: `rows` (those kept), `of` (those of the split), and two blocks: `found` of "
        "this evaluation, `data` of the data alone. A block has a `file`, its `start` and `bytes` in there, a `crc32`, and "
        "`columns`: the numpy type of each. Absent in older records, and where the record holds 128 MiB of them already.",
    ),
}

EVENTS: dict[str, Event] = {
    "session": Event("A driver begins.", {"resumed": Field("boolean", "whether the record had trials already")}),
    "settings": Event(
        "Someone changed budgets or limits (`resume --set`). From here on the sweep has the new values.",
        {
            "changed": Field("mapping", "for each key, such as `budget.run_cap`, a list of its old and its new value"),
            "by": Field("text", "user and host: `ada@login1`"),
        },
    ),
    "confirm": Event(
        "The leaders of an ended sweep are compared on new seeds before one is promoted (`promote --confirm`). Until the next "
        "`sweep_ended`, the sweep has no other trials than these repeats.",
        {
            "trials": Field("list of texts", "trials that are trained again, the best first"),
            "seeds": Field("number", "new seeds of each, at most"),
        },
    ),
    "trial": Event(
        "A trial is proposed.",
        {
            "trial": Field("text", "name of the trial: `t0000`, `t0001`, …"),
            "number": Field("number", "place among all trials, from 0"),
            "params": Field("mapping", "parameters that were drawn; those that do not exist in this trial are absent"),
            "config": Field("mapping", "every setting of the trial, defaults filled in"),
            "repeat_of": Field(
                "text",
                "trial whose parameters this one trains again, with another seed (`search.repeats`, `promote --confirm`): it is "
                "judged at no rung, and no sampler learns from it. Absent in all others.",
            ),
            "bracket": Field(
                "number", "bracket, from 0. The trial is judged from rung `bracket` + 1 on. Older records have none."
            ),
            "counts": _COUNTS,
            "left_gpu_seconds": Field(
                "number", "GPU seconds that the trial could take; absent where no budget and no `trial_gpu_hours` limits it"
            ),
        },
    ),
    "worker": Event(
        "A worker is ready. Its start counts in the budget and belongs to no trial.",
        {"gpu_seconds": Field("number", "seconds that the worker took to get ready")},
    ),
    "promoted": Event(
        "A trial that waited at a rung may continue (`variant: promotion`).",
        {"trial": _TRIAL, "rung": Field("number", "rung at which it waited"), "counts": _COUNTS},
    ),
    "start": Event(
        "A trial has its workers.",
        {
            "trial": _TRIAL,
            "attempt": Field("number", "1, 2, …, over all sessions"),
            "workers": Field("list of texts", "names of the workers, in order of rank"),
            "wall_seconds": _WALL,
            "gpu_seconds": _GPU,
        },
    ),
    "report": Event("A trial was evaluated, and the search decided.", REPORT),
    "untrained": Event(
        "The first trial of a size was evaluated before its first step. Older records have no such event.",
        {
            "trial": _TRIAL,
            "model_size": Field("text", "size of the model"),
            "metrics": Field("mapping", "the task's metrics (`eval_…`) of the untrained model on the validation split"),
            "examples": Field("mapping", "as in `report`"),
        },
    ),
    "died": Event(
        "A process of the trial is gone or hangs. The trial continues from its checkpoint on other workers, with another `start`.",
        {"trial": _TRIAL, "traceback": _TRACEBACK, "wall_seconds": _WALL, "gpu_seconds": _GPU},
    ),
    "repeated": Event(
        "An attempt repeated a report that an earlier attempt had delivered. It is not judged again; the work between the first "
        "such event and the trial's last report is done twice.",
        {
            "trial": _TRIAL,
            "fidelity": Field("number", "fidelity of the repeated report"),
            "first_step_at": Field("number", "as in `report`; 0 for the report of the checkpoint that the attempt began from"),
        },
    ),
    "yielded": Event(
        "A trial gave its workers back at a report. It continues from its checkpoint later, with another `start`.",
        {
            "trial": _TRIAL,
            "to": Field("text or null", "trial that had waited longer; null where the node is about to be taken away"),
            "wall_seconds": _WALL,
            "gpu_seconds": _GPU,
        },
    ),
    "end": Event(
        "A trial is over.",
        {
            "trial": _TRIAL,
            "state": Field("text", "`COMPLETE`, `PRUNED`, `FAIL` or `INFEASIBLE`"),
            "reason": Field("text", "see the table of states"),
            "error": Field("text or null", "the error that training raised, or a sentence about deaths of its process"),
            "traceback": _TRACEBACK,
            "wall_seconds": _WALL,
            "gpu_seconds": _GPU,
        },
    ),
    "sweep_ended": Event(
        "The sweep is over. An interrupted sweep has no such event.",
        {
            "reason": Field(
                "text",
                "`budget: run_cap`, `budget: time`, `budget: gpu_hours`, `budget: dollars`, `nothing that fits is left to try`, "
                "`nothing that fits the budget is left to try`, or `every configuration of the search space was tried`",
            ),
            "hypervolume": Field(
                "number or null",
                "area between the front and the point of the worst metric and the highest GPU seconds among the ranked trials, "
                "in metric × GPU seconds; null where no trial is ranked. It compares states of one sweep, not sweeps.",
            ),
            "pareto": Field(
                "list",
                "trials that no other one beats in both metric and GPU seconds, the cheapest first, each with `trial`, `metric`, "
                "`gpu_seconds`, `dollars` (or null) and `wall_seconds`",
            ),
        },
    ),
    "note": Event(
        "A remark. The cache, a changed package version, a drained node and a sweep that waits are examples.",
        {"text": Field("text", "the remark")},
    ),
}

MANIFEST: dict[str, Field] = {
    "schema_version": Field("number", "2. Readers refuse other versions."),
    "id": Field("text", "random id of the sweep; the ids of its W&B runs begin with it"),
    "name": Field("text", "name of the sweep"),
    "created": Field("number", "unix seconds"),
    "spec": Field(
        "mapping",
        "the whole sweep file with the search space in place and all defaults, as launched. Events `settings` change budgets "
        "and limits.",
    ),
    "metric": Field(
        "mapping",
        "`name`, `goal`, and `function` (of the user's, with the absolute path of its file; null without one, absent in older "
        "records)",
    ),
    "time_attr": Field("text", "fidelity that rungs count"),
    "max_t": Field("number", "fidelity of a finished trial"),
    "rungs": Field("list of numbers", "fidelity of each rung of the halving sequence"),
    "rung_count": Field("number", "rungs, the end included"),
    "ladder": Field(
        "list",
        "per size: `name`, `model`, `layers`, `n_layers`, `model_type`, `hidden_size`, `n_params`, `n_params_embedding`, "
        "`group_params`, `group_names`, `head_parameters`, `head_groups` (groups, from the top, that train as the head; older records "
        "have neither), `linears` (the linear layers of the "
        "blocks, added up by name: inputs plus outputs, outputs, and the highest rank of one of them; older records lack it or the "
        "last), `linear_params` (those of them that can have 4 bits), `recomputes` (whether it has gradient checkpointing), "
        "`vocab_size`, `max_positions`, "
        "`min_gpus`, `accelerator_type`, `tokenizer_fingerprint`; "
        "`flops` (the measured profile: `forwards`, `recomputed`, `gradients`, `estimated`); `entry` (the size as the user wrote "
        "it, local paths absolute); `data_key` (its tokenized data in a node's cache)",
    ),
    "data": Field(
        "mapping",
        "`source` (the data keys, local paths absolute), `fingerprint` (SHA-256 of all texts, labels and classes), `classes`, "
        "`columns` (those that are read, each with its key of `data`), `rows`, "
        "`splits` (per split `rows`, its own `fingerprint`, `classes` with their rows, `examples`, `tokens`), `dropped`, `unused`, `ungrouped` "
        "(rows without a value in the group column), `notes` (the remarks of `plan`). Older records lack `columns`, `examples`, "
        "`tokens`, `ungrouped`, `notes` and the fingerprints of splits.",
    ),
    "functions": Field(
        "mapping",
        "SHA-256 of the file that holds each function of the user's, by `module:function`; null for a module without a file. Older "
        "records have none.",
    ),
    "adapts": Field(
        "mapping",
        "the promoted model that the sweep adapts: `model` (its folder), `size` (that of the ladder which is the whole model), "
        "`provenance` (parts of its provenance.json). Null without `adapt` in the sweep. Older records have none.",
    ),
    "hopeless": Field(
        "list",
        "pairs of size and method (an unfreezing mode, `full`, or one beside an adapter, `full with lora`) that are never proposed, "
        "because their weights, gradients and moments alone exceed "
        "`resources.gpu_memory_gib`; with a third value, that holds from this `lora_rank` on (0: on all); with a fourth, on this "
        "share of a GPU and smaller ones",
    ),
    "baseline": Field(
        "mapping",
        "the score of guessing on the validation split: `guess` (from what it guesses), `metrics` (every metric of the task). "
        "Older records have none.",
    ),
    "past": Field(
        "list",
        "trials of earlier sweeps that `search.warm_start` names: `name` (run folder and trial: `bert-small/t0003`), `params`, "
        "`reports` (a list of fidelity, metric and GPU seconds), `state`. Only the search uses them. Older records have none.",
    ),
    "seeds": Field("mapping", "`search`, `training`, `split`"),
    "versions": Field("mapping", "versions of Python and the main packages"),
    "git": Field("text or null", "revision of the working folder's repository"),
}
