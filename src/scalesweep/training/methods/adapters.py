"""Adapters: small matrices beside the linear layers of the blocks, which train in place of the weights (through peft).

A new adapter changes nothing, because one of its two matrices is zero. Below the cut the adapters are switched off, so the
groups there compute exactly what the base model computes, and share its cached states with trials of any method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from scalesweep.costs import FlopProfile
from scalesweep.models.groups import LayerGroup
from scalesweep.models.linear import linear_layers
from scalesweep.models.low_bits import WeightTypes, widen
from scalesweep.spec.adapters import check_targets, is_target
from scalesweep.spec.space import ADAPTERS
from scalesweep.spec.tasks import TASKS
from scalesweep.tasks import task_of
from scalesweep.training.job import ADAPTER_FOLDER, TrialJob
from scalesweep.training.methods.adapter_costs import adapted_profile
from scalesweep.training.methods.method import Method

NAME = "default"  # of the one adapter, in peft's words
# peft's word for a task, by the class of the model. Without one, peft loads the adapter without extras.
TASK_TYPES = {"AutoModelForSequenceClassification": "SEQ_CLS", "AutoModelForCausalLM": "CAUSAL_LM"}


class Adapters(Method):
    """Training of adapters, group by group as `unfreezing` says. A classifier's head has no base to adapt and trains in full.

    A language model's head is pretrained, and nothing trains there but the adapters of the highest block.
    """

    @classmethod
    def weight_types(cls, job: TrialJob, groups: Sequence[LayerGroup]) -> WeightTypes:
        head = groups[-1].parameter_names if TASKS[job.task].draws_head else ()
        return WeightTypes(job.config.base_dtype, ADAPTERS[job.config.adapter].four_bits, frozenset(head))

    def _place(self, groups: Sequence[LayerGroup]) -> tuple[Sequence[LayerGroup], Sequence[LayerGroup], int]:
        self._layers = _inject(self.job, self.model)
        groups = injected_groups(self.model, groups)
        learnt = [
            replace(group, parameter_names=tuple(name for name in group.parameter_names if ".lora_" in name))
            for group in groups
        ]
        if TASKS[self.job.task].draws_head:
            learnt[-1] = groups[-1]
            for name in groups[-1].module_names if self.config.base_dtype == "bf16" else ():
                self.model.get_submodule(name).register_forward_pre_hook(_in_float32)
        self._costs = adapted_profile(
            self.job, self.model, groups, {name for group in learnt for name in group.parameter_names}
        )
        heads = next(n for n in range(1, len(groups)) if learnt[-n].parameter_names)
        return groups, learnt, heads

    def apply(self) -> None:
        self._switch()
        super().apply()

    def _switch(self) -> None:
        """Switch on the adapters from the cut upwards."""
        group_of = {name: index for index, group in enumerate(self.groups) for name in group.module_names}
        for name, layer in self._layers.items():
            layer.enable_adapters(group_of[name] >= self.untouched)

    @property
    def learning_rate(self) -> float:
        return float(self.config.learning_rate * self.config.adapter_lr_ratio)

    @property
    def costs(self) -> FlopProfile:
        below, above = self.job.flops.forwards[: self.untouched], self._costs.forwards[self.untouched :]
        return replace(self._costs, forwards=below + above)

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._switch()  # a run may be exported without a further step

    def own(self) -> dict[str, torch.Tensor]:
        head = [name for name in self.learnt[-1].parameter_names if ".lora_" not in name]
        names = [*head, *(name for group in self.learnt for name in group.parameter_names if ".lora_" in name)]
        return {f"base_model.model.{name.replace(f'.{NAME}', '')}": self.parameters[name].detach() for name in names}

    def widen(self) -> None:
        if not self.weight_types(self.job, self.groups).plain:
            widen(self.model)

    @torch.no_grad()
    def merge(self) -> None:
        for name, layer in self._layers.items():
            if not layer.disable_adapters:
                layer.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(self.model.get_submodule(parent), attribute, layer.get_base_layer())

    def _head_modules(self) -> list[str]:
        """The outermost modules of a head that trains in full. peft saves such modules whole."""
        names = [name for name in self.learnt[-1].parameter_names if ".lora_" not in name]
        inside = set(self.learnt[-1].module_names)
        outermost = [name for name in inside if name.rpartition(".")[0] not in inside]
        return sorted(module for module in outermost if any(name.startswith(f"{module}.") for name in names))

    def write(self, folder: Path, own: Mapping[str, torch.Tensor]) -> None:
        """Write the adapter, and a classifier's head with it, to `folder/adapter` in peft's format."""
        folder = folder / ADAPTER_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        config = _lora_config(self.job, {name: layer.get_base_layer() for name, layer in self._layers.items()})
        config.modules_to_save = self._head_modules() or None
        config.inference_mode = True
        size = self.job.size
        config.base_model_name_or_path = Path(size.model).name if Path(size.model).is_absolute() else size.model
        config.revision = size.revision
        config.save_pretrained(str(folder))
        tensors = {name: tensor.cpu().contiguous() for name, tensor in own.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


METHOD = Adapters


def _in_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a head, whose weights are float32, take the hidden states of a base in bf16."""
    if next(module.parameters(recurse=False), None) is None:
        return inputs
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x for x in inputs)


def _lora_config(job: TrialJob, targets: Mapping[str, nn.Module]) -> LoraConfig:
    """The adapter in peft's words. `targets` are the layers without an adapter, by name."""
    config = job.config
    return LoraConfig(
        task_type=TASK_TYPES.get(task_of(job.task).auto_class().__name__),
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        use_dora=ADAPTERS[config.adapter].magnitudes,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
    )


def _inject(job: TrialJob, model: nn.Module) -> dict[str, Any]:
    """Attach new adapters to the model. Returns the layers that have one, by name. The first matrices are drawn from the seed.

    Raises:
        UserError: `lora_target_modules` names a layer that the model lacks.
    """
    layers, wanted = linear_layers(model), job.config.lora_target_modules
    check_targets((shape[0] for shape in layers.values()), wanted)
    targets = {full: model.get_submodule(full) for full, (name, *_) in layers.items() if is_target(name, wanted)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.config.seed)
        inject_adapter_in_model(_lora_config(job, targets), model)
    del model.peft_config  # it would mark the model as peft's own
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # peft makes them in the type of their layer
            parameter.data = parameter.data.float()
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def injected_groups(model: nn.Module, groups: Sequence[LayerGroup]) -> list[LayerGroup]:
    """The groups of a model with adapters, from those of its base: a new part belongs to the layer that it is inside of."""
    parameter_group = {name: index for index, group in enumerate(groups) for name in group.parameter_names}
    module_group = {name: index for index, group in enumerate(groups) for name in group.module_names}

    def of_module(name: str) -> int:
        while name not in module_group:
            name = name.rpartition(".")[0]
        return module_group[name]

    parameters: list[list[str]] = [[] for _ in groups]
    modules: list[list[str]] = [[] for _ in groups]
    for name, _ in model.named_parameters():
        base = name.replace(".base_layer.", ".")
        parameters[parameter_group[base] if base in parameter_group else of_module(name.rpartition(".")[0])].append(name)
    for name, _ in model.named_modules():
        modules[of_module(name)].append(name)
    return [LayerGroup(group.name, tuple(p), tuple(m)) for group, p, m in zip(groups, parameters, modules, strict=True)]
