"""The protocol of a recipe's format, and what the formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from scalesweep.promotion.recipes.winner import Winner
from scalesweep.spec import TrialConfig

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}  # `training.optimizer` → transformers' name


@dataclass(frozen=True)
class Settings:
    """The keys of a trainer's file, remarks on what it can't express, and further files, by path."""

    values: Mapping[str, Any]
    lost: list[str]
    files: Mapping[str, str] = field(default_factory=dict)


class Format(Protocol):
    """A module of this folder: the file of one trainer."""

    TITLE: str

    def command(self, winner: Winner) -> str: ...

    def settings(self, winner: Winner, template: str) -> Settings: ...


def base_dtype(config: TrialConfig) -> str:
    """The type of the weights that don't train."""
    return "float32" if config.adapter == "none" else str(config.base_dtype)


def targets(written: str) -> list[str]:
    """The names of linear layers in `lora_target_modules`."""
    return [name.strip() for name in written.split(",")]
