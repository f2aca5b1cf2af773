"""The method by which one trial adapts its model: what trains and when, what is constant, what it costs, what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalesweep.costs import FlopProfile
from scalesweep.data.batches import BatchPlan
from scalesweep.models.groups import LayerGroup
from scalesweep.models.low_bits import FLOAT32, WeightTypes
from scalesweep.models.unfreezing import apply_unfreezing
from scalesweep.training.job import TrialJob
from scalesweep.training.methods.cadence import Cadence
from scalesweep.training.methods.unfreezing import Stage, cuts_of, stages


class Method:
    """Training of the model's own weights, group by group as `unfreezing` says.

    Attributes:
        groups: the model's layer groups, bottom to top.
        learnt: the same groups with the names of those parameters alone that train when the group does.
        heads: groups, from the top, that train as the head.
        parameters: all parameters of the model, by name.
        untouched: the cut. The groups below it have the weights of the checkpoint, so their output is constant.
    """

    def __init__(self, job: TrialJob, model: Any, groups: Sequence[LayerGroup], plan: BatchPlan) -> None:
        self.job, self.config, self.model = job, job.config, model
        self.groups, self.learnt, self.heads = self._place(groups)
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.cadence = Cadence(job.config, self._stages(job.config.unfreezing), plan, job.thaw_at)
        self.untouched = self.cadence.lowest

    @classmethod
    def weight_types(cls, job: TrialJob, groups: Sequence[LayerGroup]) -> WeightTypes:  # noqa: ARG003
        """The types of the base model's weights."""
        return FLOAT32

    def _place(self, groups: Sequence[LayerGroup]) -> tuple[Sequence[LayerGroup], Sequence[LayerGroup], int]:
        """Add parameters to the model where the method has its own. Returns `groups`, `learnt` and `heads`."""
        return groups, groups, self.job.head_groups

    def _stages(self, mode: str) -> list[Stage]:
        idle = [index for index, group in enumerate(self.learnt) if not group.parameter_names]
        return stages(mode, len(self.groups), self.heads, idle)

    # ---- what trains -----------------------------------------------------------------------------------------------------

    @property
    def trainable(self) -> Stage:
        """Whether each group trains now."""
        return self.cadence.trainable

    @property
    def lowest(self) -> int:
        """The index of the lowest group that trains now."""
        return self.cadence.lowest

    def advance(self, step: int, progress: float) -> bool:
        """Move to `step` (from 0) at `progress` (0 … 1) of the run. Returns whether other groups train now."""
        changed = self.cadence.advance(step, progress)
        self.untouched = min(self.untouched, self.lowest)
        return changed

    def apply(self) -> None:
        """Set the model to train the groups that train now. Call it after each change, and after `model.eval()`."""
        self.model.train()
        apply_unfreezing(self.model, self.learnt, self.trainable)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that train now."""
        return [parameter for parameter in self.parameters.values() if parameter.requires_grad]

    @property
    def learning_rate(self) -> float:
        """The peak rate of the head."""
        return float(self.config.learning_rate)

    # ---- what it costs ---------------------------------------------------------------------------------------------------

    @property
    def costs(self) -> FlopProfile:
        """The FLOPs of a pass."""
        return self.job.flops

    def cuts(self, *modes: str) -> list[int]:
        """The cuts that occur in trials of these unfreezing modes; of this trial without any."""
        return sorted({cut for mode in modes or (self.config.unfreezing,) for cut in cuts_of(self._stages(mode))})

    # ---- what is kept ----------------------------------------------------------------------------------------------------

    def kept(self) -> dict[str, nn.Parameter]:
        """The parameters that may differ from the base model's, which a checkpoint holds."""
        return {name: self.parameters[name] for group in self.learnt[self.untouched :] for name in group.parameter_names}

    def state(self) -> dict[str, Any]:
        """The position, as JSON values, for a checkpoint."""
        return {"untouched": self.untouched, "cadence": self.cadence.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from the `state` of a checkpoint."""
        self.untouched = state["untouched"]
        self.cadence.load(state["cadence"])

    def own(self) -> dict[str, torch.Tensor]:
        """The tensors that an export holds beside the model, by the names of their file."""
        return {}

    def widen(self) -> None:
        """Make every weight float32, for an export. Nothing trains afterwards."""

    def merge(self) -> None:
        """Leave the trained model as one of its plain architecture. Nothing trains afterwards."""

    def write(self, folder: Path, own: Mapping[str, torch.Tensor]) -> None:
        """Write the `own` tensors into an export's folder."""


METHOD = Method
