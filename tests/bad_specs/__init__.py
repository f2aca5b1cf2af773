"""A small sweep that is right, and the words to break it in one place at a time. A file per subject has the `CASES`."""

from __future__ import annotations

from dataclasses import dataclass, field

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
