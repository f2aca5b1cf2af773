"""The keys of the section `resources` of a sweep file, and the base of all sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Price = Annotated[float, Field(gt=0)]
Prices = Price | dict[str, Price]


class Strict(BaseModel):
    """A section of the sweep file: unknown keys, other types and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _spot_notice(value: str) -> str:
    if value not in ("aws", "gcp") and not value.startswith("/"):
        raise ValueError(f"{value!r} is not a source of spot notices; write aws, gcp, or the absolute path of a file")
    return value


Placement = Literal["pack", "spread", "strict_pack"]
PLACEMENTS: dict[Placement, str] = {
    "pack": "on the fullest node that has enough free workers, so that empty nodes stay whole for large trials; else on as few "
    "nodes as possible",
    "spread": "on as many nodes as what is free allows: the first of each node, then the second of each",
    "strict_pack": "on one node, never across nodes. The trial waits until one node has enough.",
}


class ResourcesSpec(Strict):
    max_concurrent_trials: int | None = Field(
        None, ge=1, description="trials at once at most, whatever their size. Without it, as many as fit."
    )
    cpus_per_worker: int = Field(
        1,
        ge=1,
        description="CPUs that Ray reserves per worker, and its threads. They come beside its GPU if it has one. Trials that "
        "share a GPU also share these CPUs.",
    )
    placement: Placement = Field("pack", description="nodes on which the workers of a trial run")
    max_gpus: int | None = Field(
        None,
        ge=1,
        description="GPUs that an autoscaling cluster can grow to. Without it, the GPUs that the cluster has. Leave it out on a "
        "fixed cluster: the sweep would wait for nodes that never come.",
    )
    gpu_memory_gib: float | None = Field(
        None,
        gt=0,
        description="memory of the smallest GPU, in GiB. A size is not tried in an unfreezing mode whose weights, gradients and "
        "AdamW moments alone need more, and refused where no mode fits. Activations are not counted.",
    )
    cache_gib: float | None = Field(
        None,
        ge=0,
        description="disk on each node for the activation cache, in GiB. Without it, a quarter of what is free; 0 keeps nothing.",
    )
    dollars_per_gpu_hour: Prices | None = Field(
        None,
        description="price of a GPU hour, or a mapping of `accelerator_type` to price. `default` is the price of all others: "
        "`{A100: 3.2, default: 1.0}`.",
    )
    spot_notice: Annotated[str, AfterValidator(_spot_notice)] | None = Field(
        None,
        description="source of the notice that a node will be taken away: `aws` or `gcp` (the cloud's metadata server), or the "
        "absolute path of a file that then appears on the node",
    )
    max_failures: int = Field(
        2,
        ge=0,
        description="restarts of a trial whose process died, per session. An error that training raises is not retried.",
    )


def price_of(prices: Prices | None, accelerator_type: str | None) -> float | None:
    """Return the dollars per GPU hour of a GPU type: the single price, its row of the table, or the table's `default`."""
    if not isinstance(prices, dict):
        return prices
    return prices.get(accelerator_type or "default", prices.get("default"))
